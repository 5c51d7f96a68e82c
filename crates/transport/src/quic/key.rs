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
}

#[cfg(test)]
impl PublicKey {
    /// What a thief has: this public key, and a private key that does not belong to it.
    pub(super) fn signed_by(self, other: &OneTimeKey) -> OneTimeKey {
        let spki = CertificateDer::from(self.spki());
        let certified = CertifiedKey::new(vec![spki], Arc::clone(&other.certified.key));
        OneTimeKey {
            certified: Arc::new(certified),
            public: self,
        }
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

/// A private key for one link; never written anywhere.
#[derive(Clone)]
pub struct OneTimeKey {
    certified: Arc<CertifiedKey>,
    public: PublicKey,
}

/// The system's source of randomness failed, or the key was not accepted by the TLS library.
#[derive(Debug, thiserror::Error)]
#[error("cannot make a one-time key")]
pub struct KeyError;

impl OneTimeKey {
    /// A fresh random key.
    ///
    /// # Errors
    /// If the system's source of randomness fails.
    pub fn generate() -> Result<Self, KeyError> {
        let pair = Ed25519KeyPair::generate().map_err(|_| KeyError)?;
        let public: [u8; 32] = pair
            .public_key()
            .as_ref()
            .try_into()
            .map_err(|_| KeyError)?;
        let public = PublicKey(public);
        let pkcs8 = pair.to_pkcs8().map_err(|_| KeyError)?;
        let pkcs8 = PrivatePkcs8KeyDer::from(pkcs8.as_ref());
        let signing = any_eddsa_type(&pkcs8).map_err(|_| KeyError)?;
        let spki = CertificateDer::from(public.spki());
        let certified = Arc::new(CertifiedKey::new(vec![spki], signing));
        Ok(Self { certified, public })
    }

    /// The public half, for the other end to pin.
    pub fn public_key(&self) -> PublicKey {
        self.public
    }

    pub(super) fn certified(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.certified)
    }
}

impl fmt::Debug for OneTimeKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("OneTimeKey")
            .field("public", &self.public)
            .finish_non_exhaustive()
    }
}
