//! Amounts of bytes, and of bytes a second.

use std::str::FromStr;

use super::{Unfit, shown};

const UNITS: [(&str, u64); 10] = [
    ("", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1_000),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
];

/// A number of bytes, at least 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ByteCount(pub u64);

/// Bytes a second, at least 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ByteRate(pub u64);

impl FromStr for ByteCount {
    type Err = Unfit;

    fn from_str(text: &str) -> Result<Self, Unfit> {
        bytes(text).map(Self).ok_or_else(|| {
            let what = format!("{} is not a number of bytes", shown(text));
            Unfit::new(
                what,
                "write a whole number with a unit: `128MiB`, `2GiB` or `500MB`",
            )
        })
    }
}

impl FromStr for ByteRate {
    type Err = Unfit;

    fn from_str(text: &str) -> Result<Self, Unfit> {
        text.strip_suffix("/s")
            .and_then(bytes)
            .map(Self)
            .ok_or_else(|| {
                let what = format!("{} is not a rate", shown(text));
                Unfit::new(what, "write bytes a second: `100MB/s` or `50MiB/s`")
            })
    }
}

fn bytes(text: &str) -> Option<u64> {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let (_, scale) = UNITS.iter().find(|(name, _)| *name == unit)?;
    number
        .parse::<u64>()
        .ok()?
        .checked_mul(*scale)
        .filter(|bytes| *bytes > 0)
}

#[cfg(test)]
mod tests {
    use super::{ByteCount, ByteRate};

    #[test]
    fn amounts_have_units() {
        assert_eq!("128MiB".parse(), Ok(ByteCount(128 << 20)));
        assert_eq!("4096".parse(), Ok(ByteCount(4096)));
        assert_eq!("100MB/s".parse(), Ok(ByteRate(100_000_000)));
        for bad in [
            "",
            "0",
            "MiB",
            "1.5GiB",
            "-1",
            "1 GiB",
            "99999999TiB",
            "1XB",
            "100MB/s",
        ] {
            assert!(bad.parse::<ByteCount>().is_err(), "{bad}");
        }
        for bad in ["", "/s", "100MB", "100MB/h", "0MB/s"] {
            assert!(bad.parse::<ByteRate>().is_err(), "{bad}");
        }
    }
}
