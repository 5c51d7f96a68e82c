//! Roots and shares, exactly.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::value::{Unfit, shown};

/// The BLAKE3 hash of a whole volume.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Root([u8; 32]);

impl Root {
    /// The root with these bytes.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", blake3::Hash::from_bytes(self.0))
    }
}

impl TryFrom<String> for Root {
    type Error = blake3::HexError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        blake3::Hash::from_hex(text).map(|hash| Self(*hash.as_bytes()))
    }
}

impl From<Root> for String {
    fn from(root: Root) -> Self {
        root.to_string()
    }
}

/// A share of a volume, in hundredths of a percent.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ChangeLimit(u32);

const WHOLE: u32 = 10_000;

impl ChangeLimit {
    /// The share that `part` is of `whole`, rounded up.
    #[must_use]
    pub fn of(part: u64, whole: u64) -> Self {
        if part >= whole {
            return Self(if part == 0 { 0 } else { WHOLE });
        }
        let share = (u128::from(part) * u128::from(WHOLE)).div_ceil(u128::from(whole));
        Self(u32::try_from(share).unwrap_or(WHOLE))
    }

    /// Whether `part` is more than this share of `whole`. Exact: nothing is rounded.
    #[must_use]
    pub fn is_exceeded(self, part: u64, whole: u64) -> bool {
        u128::from(part) * u128::from(WHOLE) > u128::from(whole) * u128::from(self.0)
    }
}

impl FromStr for ChangeLimit {
    type Err = Unfit;

    /// A percentage such as `5`, `0.25` or `10%`.
    fn from_str(text: &str) -> Result<Self, Unfit> {
        parse(text).map(Self).ok_or_else(|| {
            let what = format!("{} is no percentage", shown(text));
            Unfit::new(
                what,
                "write a number from 0 to 100 with at most two decimals, such as `5` or `0.25`",
            )
        })
    }
}

fn parse(text: &str) -> Option<u32> {
    let number = text.strip_suffix('%').unwrap_or(text);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let digits = |part: &str, max: usize| {
        (1..=max).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit())
    };
    if !digits(whole, 3) || !digits(fraction, 2) {
        return None;
    }
    let hundredths: u32 = format!("{fraction:0<2}").parse().ok()?;
    let share = whole.parse::<u32>().ok()? * 100 + hundredths;
    (share <= WHOLE).then_some(share)
}

impl fmt::Display for ChangeLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, fraction) = (self.0 / 100, self.0 % 100);
        match fraction {
            0 => write!(f, "{whole} %"),
            _ => write!(f, "{whole}.{fraction:02} %"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::ChangeLimit;
    use proptest::prelude::proptest;

    fn limit(text: &str) -> ChangeLimit {
        text.parse().unwrap()
    }

    #[test]
    fn percentages_are_exact() {
        for (text, shown) in [
            ("5", "5 %"),
            ("0.25", "0.25 %"),
            ("0.5%", "0.50 %"),
            ("100", "100 %"),
            ("0", "0 %"),
        ] {
            assert_eq!(limit(text).to_string(), shown);
        }
        for bad in [
            "", "%", "-1", "101", "100.01", "1.234", ".5", "1.", "5 %", "nan", "9999",
        ] {
            assert!(bad.parse::<ChangeLimit>().is_err(), "{bad}");
        }
        assert!(!limit("50").is_exceeded(50, 100) && limit("50").is_exceeded(51, 100));
        assert!(limit("0").is_exceeded(1, u64::MAX) && !limit("0").is_exceeded(0, 0));
        assert!(!limit("100").is_exceeded(u64::MAX, u64::MAX));
    }

    proptest! {
        #[test]
        fn a_share_never_exceeds_itself(part: u64, whole: u64) {
            let (part, whole) = (part.min(whole), whole);
            assert!(!ChangeLimit::of(part, whole).is_exceeded(part, whole));
        }
    }
}
