//! A volume's identity in its cluster: a UUID that stays when its name or place changes.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Unfit, shown};

/// A volume's UUID.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VolumeId([u8; 16]);

/// Hex digits before each hyphen, and at the end.
const PARTS: [usize; 5] = [8, 4, 4, 4, 12];

impl VolumeId {
    /// The UUID with these bytes, unless they stand for none.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 16]) -> Option<Self> {
        let none = [[0; 16], [0xff; 16]];
        (!none.contains(&bytes)).then_some(Self(bytes))
    }

    /// The UUID's 16 bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl FromStr for VolumeId {
    type Err = Unfit;

    fn from_str(text: &str) -> Result<Self, Unfit> {
        let bytes = parse(text).ok_or_else(|| {
            Unfit::new(
                format!("{} is not a UUID", shown(text)),
                "write what `uuidgen` prints: 8-4-4-4-12 hexadecimal digits",
            )
        })?;
        Self::from_bytes(bytes).ok_or_else(|| {
            let what = format!("{} stands for no UUID", shown(text));
            Unfit::new(what, "write what `uuidgen` prints")
        })
    }
}

fn parse(text: &str) -> Option<[u8; 16]> {
    let parts: Vec<&str> = text.split('-').collect();
    if parts.iter().map(|part| part.len()).ne(PARTS) {
        return None;
    }
    let digits = parts.concat();
    let mut bytes = [0; 16];
    for (byte, pair) in bytes.iter_mut().zip(digits.as_bytes().chunks_exact(2)) {
        let high = char::from(pair[0]).to_digit(16)?;
        let low = char::from(pair[1]).to_digit(16)?;
        *byte = u8::try_from(high * 16 + low).ok()?;
    }
    Some(bytes)
}

impl fmt::Display for VolumeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            if matches!(at, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl TryFrom<String> for VolumeId {
    type Error = Unfit;

    fn try_from(text: String) -> Result<Self, Unfit> {
        text.parse()
    }
}

impl From<VolumeId> for String {
    fn from(id: VolumeId) -> Self {
        id.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::VolumeId;

    const TEXT: &str = "0198f3b2-8c7e-7d11-9a51-2f6c0a1b9e77";

    #[test]
    fn a_uuid_has_one_form() {
        let id: VolumeId = TEXT.parse().unwrap();
        assert_eq!(id.to_string(), TEXT);
        assert_eq!(TEXT.to_uppercase().parse(), Ok(id));
        assert_eq!(id.as_bytes()[..4], [0x01, 0x98, 0xf3, 0xb2]);
    }

    #[test]
    fn other_texts_are_no_uuid() {
        let nil = "00000000-0000-0000-0000-000000000000";
        let plain = TEXT.replace('-', "");
        let wide = format!("{TEXT}0");
        let moved = "0198f3b28-c7e-7d11-9a51-2f6c0a1b9e77";
        for bad in ["", nil, &plain, &wide, moved, &TEXT.replace('f', "g"), "é"] {
            assert!(bad.parse::<VolumeId>().is_err(), "{bad}");
        }
        assert!(
            TEXT.replace("0198f3b2", "0198f3é")
                .parse::<VolumeId>()
                .is_err()
        );
    }
}
