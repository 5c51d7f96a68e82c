//! A private key, and the text that is kept of it.

use std::fmt;

use aws_lc_rs::encoding::{AsBigEndian, Curve25519SeedBin};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};

use super::base32;
use super::public::PublicKey;

const PREFIX: &str = "lockstep-private-key-1:";
const TAG: &str = "lockstep private key, written form 1";

/// The DER of an Ed25519 PKCS #8 key up to its 32 bytes (RFC 8410, section 7).
const PKCS8_PREFIX: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

/// An Ed25519 private key. It is shown nowhere but in the file that keeps it.
#[derive(Clone)]
pub struct PrivateKey {
    seed: [u8; 32],
    public: PublicKey,
}

/// The cryptographic library refused to make or take a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the library of cryptography refused the key")]
pub struct KeyRefused;

impl PrivateKey {
    /// A fresh random key.
    ///
    /// # Errors
    /// If the system's source of randomness fails.
    pub fn generate() -> Result<Self, KeyRefused> {
        let pair = Ed25519KeyPair::generate().map_err(|_| KeyRefused)?;
        let seed = pair.seed().map_err(|_| KeyRefused)?;
        let bytes: Curve25519SeedBin<'_> = seed.as_be_bytes().map_err(|_| KeyRefused)?;
        Self::from_seed(bytes.as_ref().try_into().map_err(|_| KeyRefused)?)
    }

    fn from_seed(seed: [u8; 32]) -> Result<Self, KeyRefused> {
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).map_err(|_| KeyRefused)?;
        let public = pair
            .public_key()
            .as_ref()
            .try_into()
            .map_err(|_| KeyRefused)?;
        Ok(Self {
            seed,
            public: PublicKey::from_bytes(public),
        })
    }

    /// The public half.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        self.public
    }

    /// The key as PKCS #8, which TLS libraries take.
    #[must_use]
    pub fn to_pkcs8(&self) -> Vec<u8> {
        [PKCS8_PREFIX.as_slice(), &self.seed].concat()
    }

    /// The whole file that keeps the key.
    pub(super) fn to_file(&self) -> String {
        format!(
            "# The private key of a Lockstep node or operator. Whoever has it can act as that one.\n{PREFIX}{}\n",
            base32::encode(&self.seed, TAG)
        )
    }

    /// The key of a file, if it is one.
    pub(super) fn from_file(text: &str) -> Option<Self> {
        let mut lines = text
            .lines()
            .filter(|line| !line.starts_with('#') && !line.is_empty());
        let letters = lines.next()?.strip_prefix(PREFIX)?;
        if lines.next().is_some() {
            return None;
        }
        Self::from_seed(base32::decode(letters, TAG).ok()?).ok()
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PrivateKey")
            .field("public", &self.public)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::{PREFIX, PrivateKey};

    #[test]
    fn a_key_survives_its_file() {
        let key = PrivateKey::generate().unwrap();
        let read = PrivateKey::from_file(&key.to_file()).unwrap();
        assert_eq!(read.public(), key.public());
        assert_eq!(read.to_pkcs8(), key.to_pkcs8());
        assert_ne!(PrivateKey::generate().unwrap().public(), key.public());
    }

    #[test]
    fn what_is_no_key_file_is_refused() {
        let good = PrivateKey::generate().unwrap().to_file();
        let twice = format!("{good}{good}");
        let cut = &good[..good.len() - 3];
        for bad in [
            "",
            "# nothing\n",
            PREFIX,
            cut,
            &twice,
            &good.replace("key-1:", "key-2:"),
        ] {
            assert!(PrivateKey::from_file(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn debugging_does_not_tell_the_key() {
        let key = PrivateKey::generate().unwrap();
        let letters = key.to_file();
        let secret = letters.lines().nth(1).unwrap().trim_start_matches(PREFIX);
        assert!(!format!("{key:?}").contains(secret));
    }
}
