//! The two kinds of hash: a group's chaining value, and the root of a volume.

use std::fmt;
use std::str::FromStr;

/// Chaining value of one group: the inner BLAKE3 node above its bytes.
///
/// It depends on the group's position, so equal bytes at two places have different values.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cv([u8; 32]);

impl Cv {
    /// The chaining value with these bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its bytes, in the order of the BLAKE3 specification.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// The first four bytes in hex: enough to tell values apart in a log.
impl fmt::Debug for Cv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cv(")?;
        write_hex(f, &self.0[..4])?;
        f.write_str("…)")
    }
}

/// BLAKE3 hash of a whole volume, as `b3sum` prints it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Root([u8; 32]);

impl Root {
    /// The root with these bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its bytes, in the order in which `b3sum` prints them.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// 64 lowercase hex digits.
impl fmt::Display for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl fmt::Debug for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Root({self})")
    }
}

/// Why a text is not a root.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ParseRootError {
    /// It is not 64 bytes long.
    #[error("a root has 64 hex digits, this text has {got} bytes")]
    Length {
        /// Bytes of the text.
        got: usize,
    },
    /// It holds something else than a hex digit.
    #[error("byte {at} of the root is not a hex digit")]
    Digit {
        /// Where, counted from 0.
        at: usize,
    },
}

/// Takes exactly 64 hex digits of either case.
impl FromStr for Root {
    type Err = ParseRootError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() != 64 {
            return Err(ParseRootError::Length { got: text.len() });
        }
        let mut bytes = [0; 32];
        for (at, digit) in text.bytes().enumerate() {
            let value = char::from(digit)
                .to_digit(16)
                .ok_or(ParseRootError::Digit { at })?;
            bytes[at / 2] = bytes[at / 2] << 4 | value as u8;
        }
        Ok(Self(bytes))
    }
}

fn write_hex(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `b3sum < /dev/null`.
    const EMPTY: &str = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";

    #[test]
    fn a_root_reads_back_what_it_prints() {
        let root: Root = EMPTY.parse().unwrap();
        assert_eq!(root.to_string(), EMPTY);
        assert_eq!(EMPTY.to_uppercase().parse(), Ok(root));
        assert_eq!(root.as_bytes(), blake3::hash(b"").as_bytes());
        assert_eq!(format!("{root:?}"), format!("Root({EMPTY})"));
    }

    #[test]
    fn a_damaged_root_says_where_it_is_damaged() {
        assert_eq!("".parse::<Root>(), Err(ParseRootError::Length { got: 0 }));
        assert_eq!(
            format!("{EMPTY} ").parse::<Root>(),
            Err(ParseRootError::Length { got: 65 })
        );
        let swapped = EMPTY.replacen('f', "g", 1);
        assert_eq!(
            swapped.parse::<Root>(),
            Err(ParseRootError::Digit { at: 1 })
        );
        let two_byte_letter = format!("é{}", &EMPTY[2..]);
        assert_eq!(
            two_byte_letter.parse::<Root>(),
            Err(ParseRootError::Digit { at: 0 })
        );
    }

    #[test]
    fn a_cv_is_short_in_a_log() {
        assert_eq!(format!("{:?}", Cv::from_bytes([0xab; 32])), "Cv(abababab…)");
    }
}
