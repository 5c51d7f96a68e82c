//! Ed25519 keys as raw public keys (RFC 7250, RFC 8410).

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use rustls::crypto::aws_lc_rs::sign::any_eddsa_type;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;

/// The DER of an Ed25519 SubjectPublicKeyInfo up to the key itself (RFC 8410, section 4).
const SPKI_PREFIX: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];

/// An Ed25519 public key, 32 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PublicKey(pub [u8; 32]);

impl PublicKey {
    /// The SubjectPublicKeyInfo that TLS carries.
    pub(super) fn spki(&self) -> Vec<u8> {
        [SPKI_PREFIX.as_slice(), self.0.as_slice()].concat()
    }

    /// The key of a SubjectPublicKeyInfo, if that is one of an Ed25519 key.
    pub(super) fn from_spki(spki: &[u8]) -> Option<Self> {
        let key = spki.strip_prefix(SPKI_PREFIX.as_slice())?;
        key.try_into().ok().map(Self)
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("PublicKey(")?;
        self.0
            .iter()
            .try_for_each(|byte| write!(out, "{byte:02x}"))?;
        out.write_str(")")
    }
}

/// The system's source of randomness failed, or what was given is no Ed25519 private key.
#[derive(Debug, thiserror::Error)]
#[error("no key: not an Ed25519 private key, or no randomness to make one")]
pub struct KeyError;

/// A key pair as TLS presents it. The private half stays inside the TLS library.
#[derive(Clone)]
pub(crate) struct Identity {
    certified: Arc<CertifiedKey>,
    public: PublicKey,
}

impl Identity {
    /// The pair of a PKCS #8 private key, with or without its public half.
    pub(crate) fn from_pkcs8(der: &[u8]) -> Result<Self, KeyError> {
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der).map_err(|_| KeyError)?;
        let public = pair.public_key().as_ref();
        let public = PublicKey(public.try_into().map_err(|_| KeyError)?);
        let signing = any_eddsa_type(&PrivatePkcs8KeyDer::from(der)).map_err(|_| KeyError)?;
        let spki = CertificateDer::from(public.spki());
        let certified = Arc::new(CertifiedKey::new(vec![spki], signing));
        Ok(Self { certified, public })
    }

    pub(crate) fn public(&self) -> PublicKey {
        self.public
    }

    pub(super) fn certified(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.certified)
    }
}

#[cfg(test)]
impl Identity {
    /// What a thief has: somebody's public key, and a private key that does not belong to it.
    pub(crate) fn claiming(&self, stolen: PublicKey) -> Self {
        let spki = CertificateDer::from(stolen.spki());
        let certified = CertifiedKey::new(vec![spki], Arc::clone(&self.certified.key));
        Self {
            certified: Arc::new(certified),
            public: stolen,
        }
    }
}

/// A private key for one link; never written anywhere.
#[derive(Clone)]
pub struct OneTimeKey(pub(crate) Identity);

impl OneTimeKey {
    /// A fresh random key.
    ///
    /// # Errors
    /// If the system's source of randomness fails.
    pub fn generate() -> Result<Self, KeyError> {
        let pair = Ed25519KeyPair::generate().map_err(|_| KeyError)?;
        let pkcs8 = pair.to_pkcs8().map_err(|_| KeyError)?;
        Identity::from_pkcs8(pkcs8.as_ref()).map(Self)
    }

    /// The public half, for the other end to pin.
    pub fn public_key(&self) -> PublicKey {
        self.0.public()
    }

    pub(super) fn identity(&self) -> &Identity {
        &self.0
    }
}

impl fmt::Debug for OneTimeKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("OneTimeKey")
            .field("public", &self.0.public())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::{Identity, OneTimeKey, PublicKey};

    /// RFC 8032, section 7.1, test 1.
    const SEED: [u8; 32] = [
        0x9d, 0x61, 0xb1, 0x9d, 0xef, 0xfd, 0x5a, 0x60, 0xba, 0x84, 0x4a, 0xf4, 0x92, 0xec, 0x2c,
        0xc4, 0x44, 0x49, 0xc5, 0x69, 0x7b, 0x32, 0x69, 0x19, 0x70, 0x3b, 0xac, 0x03, 0x1c, 0xae,
        0x7f, 0x60,
    ];
    const PUBLIC: [u8; 32] = [
        0xd7, 0x5a, 0x98, 0x01, 0x82, 0xb1, 0x0a, 0xb7, 0xd5, 0x4b, 0xfe, 0xd3, 0xc9, 0x64, 0x07,
        0x3a, 0x0e, 0xe1, 0x72, 0xf3, 0xda, 0xa6, 0x23, 0x25, 0xaf, 0x02, 0x1a, 0x68, 0xf7, 0x07,
        0x51, 0x1a,
    ];
    /// An Ed25519 PKCS #8 key up to its seed (RFC 8410, section 7).
    const PKCS8_PREFIX: [u8; 16] = [
        0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04,
        0x20,
    ];

    #[test]
    fn a_private_key_alone_is_enough() {
        let der = [PKCS8_PREFIX.as_slice(), &SEED].concat();
        let identity = Identity::from_pkcs8(&der).unwrap();
        assert_eq!(identity.public(), PublicKey(PUBLIC));
        for bad in [&der[..47], &SEED, &[]] {
            assert!(Identity::from_pkcs8(bad).is_err(), "{bad:02x?}");
        }
    }

    #[test]
    fn a_public_key_is_read_from_exactly_what_tls_carries() {
        let key = OneTimeKey::generate().unwrap().public_key();
        let spki = key.spki();
        assert_eq!(PublicKey::from_spki(&spki), Some(key));
        assert_eq!(PublicKey::from_spki(&spki[..43]), None);
        assert_eq!(
            PublicKey::from_spki(&[spki.as_slice(), &[0]].concat()),
            None
        );
        let mut other_algorithm = spki;
        other_algorithm[8] ^= 1;
        assert_eq!(PublicKey::from_spki(&other_algorithm), None);
    }
}
