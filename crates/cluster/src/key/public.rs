//! A public key as it stands in a cluster file.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::base32::{self, LETTERS, NoKey};
use crate::value::{Unfit, shown};

const PREFIX: &str = "lsk1:";
const TAG: &str = "lockstep public key, written form 1";
/// Bytes of a fingerprint: 80 bits, which nobody makes another key for.
const FINGERPRINT_BYTES: usize = 10;

/// The DER of an Ed25519 SubjectPublicKeyInfo up to the key itself (RFC 8410, section 4).
const SPKI_PREFIX: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];

/// An Ed25519 public key. Its text is `lsk1:` and 56 letters, of which the last few are a check.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// The key with these bytes.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The key's bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The SubjectPublicKeyInfo that TLS carries (RFC 7250).
    #[must_use]
    pub fn to_spki(&self) -> Vec<u8> {
        [SPKI_PREFIX.as_slice(), &self.0].concat()
    }

    /// What two people compare.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint(blake3::derive_key(
            "lockstep fingerprint of a public key",
            &self.0,
        ))
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", base32::encode(&self.0, TAG))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

impl FromStr for PublicKey {
    type Err = Unfit;

    fn from_str(text: &str) -> Result<Self, Unfit> {
        let remedy = "write what `lockstep node show` prints on that machine";
        let Some(letters) = text.strip_prefix(PREFIX) else {
            let what = format!(
                "{} is no key: it does not begin with `{PREFIX}`",
                shown(text)
            );
            return Err(Unfit::new(what, remedy));
        };
        let why = match base32::decode(letters, TAG) {
            Ok(bytes) => return Ok(Self(bytes)),
            Err(NoKey::Length(found)) => {
                format!("it has {found} letters after `{PREFIX}`, not {LETTERS}")
            }
            Err(NoKey::Letter(letter)) => {
                format!("{} is not a letter of keys", shown(&letter.to_string()))
            }
            Err(NoKey::Check) => {
                "it is mistyped: its last letters do not fit the others".to_owned()
            }
        };
        Err(Unfit::new(
            format!("{} is no key: {why}", shown(text)),
            remedy,
        ))
    }
}

impl TryFrom<String> for PublicKey {
    type Error = Unfit;

    fn try_from(text: String) -> Result<Self, Unfit> {
        text.parse()
    }
}

impl From<PublicKey> for String {
    fn from(key: PublicKey) -> Self {
        key.to_string()
    }
}

/// A short form of a public key for people to compare: four times four letters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fingerprint([u8; 32]);

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letters = base32::letters(&self.0[..FINGERPRINT_BYTES]);
        let parts: Vec<&str> = (0..letters.len())
            .step_by(4)
            .map(|at| &letters[at..at + 4])
            .collect();
        f.write_str(&parts.join("-"))
    }
}

#[cfg(test)]
mod tests {
    use super::PublicKey;

    #[test]
    fn a_key_is_written_and_read() {
        let key = PublicKey::from_bytes([0xa5; 32]);
        let text = key.to_string();
        assert_eq!(text.len(), 5 + 56);
        assert_eq!(text.parse(), Ok(key));
        assert_eq!(key.to_spki().len(), 44);
    }

    /// Keys are kept in files for years: this text must be read for ever.
    #[test]
    fn the_written_form_does_not_change() {
        let key = PublicKey::from_bytes([0xa5; 32]);
        assert_eq!(
            key.to_string(),
            "lsk1:uws2ljnfuws2ljnfuws2ljnfuws2ljnfuws2ljnfuws2ljnfuwsvzhxv"
        );
        assert_eq!(key.fingerprint().to_string(), "huy3-olyw-fclc-lx5o");
    }

    #[test]
    fn a_refusal_says_what_is_wrong() {
        let good = PublicKey::from_bytes([1; 32]).to_string();
        let refused = |text: &str| text.parse::<PublicKey>().unwrap_err().what;
        assert!(refused("ssh-ed25519 AAAA").contains("lsk1:"));
        assert!(refused(&good[..40]).contains("35 letters"));
        assert!(refused(&format!("{good} ")).contains("` `"));
        let last = if good.ends_with('a') { "b" } else { "a" };
        assert!(refused(&format!("{}{last}", &good[..good.len() - 1])).contains("mistyped"));
    }
}
