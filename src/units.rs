//! Sizes, rates and times: how users write them and how they are shown.

use std::time::Duration;

use thiserror::Error;

/// Text that is not a size, a rate or a time.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub(crate) enum UnitError {
    #[error("nothing is written there")]
    Empty,
    #[error("`{0}` does not begin with a number, such as 5 or 1.5")]
    NoNumber(String),
    #[error(
        "`{0}` is not a unit of size: use B, K, M, G or T (also KiB, MiB, … for powers of 1024, KB, MB, … of 1000)"
    )]
    SizeUnit(String),
    #[error("`{0}` is not a unit of time: use s, m, h or d")]
    TimeUnit(String),
    #[error("`{0}` is too large")]
    TooLarge(String),
    #[error("`{0}` is too small: at least 1 is needed")]
    TooSmall(String),
}

/// Names of units and their bytes. A letter alone counts as rsync's and dd's: powers of 1024.
const SIZE_UNITS: [(&str, u64); 14] = [
    ("", 1),
    ("b", 1),
    ("k", 1 << 10),
    ("kib", 1 << 10),
    ("kb", 1_000),
    ("m", 1 << 20),
    ("mib", 1 << 20),
    ("mb", 1_000_000),
    ("g", 1 << 30),
    ("gib", 1 << 30),
    ("gb", 1_000_000_000),
    ("t", 1 << 40),
    ("tib", 1 << 40),
    ("tb", 1_000_000_000_000),
];

const TIME_UNITS: [(&str, u64); 5] = [
    ("", 1),
    ("s", 1),
    ("m", 60),
    ("h", 60 * 60),
    ("d", 24 * 60 * 60),
];

/// Digits that are taken after a decimal point; more would not change a byte of a terabyte.
const MAX_FRACTION_DIGITS: usize = 12;

/// A size in bytes, at least 1, such as `4096`, `64K`, `1.5 GiB` or `5MB`; capitals do not matter.
pub(crate) fn parse_size(text: &str) -> Result<u64, UnitError> {
    let (number, unit) = split_number(text.trim())?;
    let scale =
        unit_scale(&SIZE_UNITS, unit).ok_or_else(|| UnitError::SizeUnit(unit.to_owned()))?;
    let bytes = scaled(number, scale).ok_or_else(|| UnitError::TooLarge(text.to_owned()))?;
    at_least_one(bytes, text)
}

/// Bytes a second, at least 1: a size, with or without `/s` at its end.
pub(crate) fn parse_rate(text: &str) -> Result<u64, UnitError> {
    let text = text.trim();
    let size = text
        .strip_suffix("/s")
        .or_else(|| text.strip_suffix("/S"))
        .unwrap_or(text);
    parse_size(size)
}

/// A time, at least one second: seconds, or numbers with units, such as `90`, `15m` or `1h30m`.
pub(crate) fn parse_time(text: &str) -> Result<Duration, UnitError> {
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(UnitError::Empty);
    }
    let too_large = || UnitError::TooLarge(text.to_owned());
    let mut seconds = 0u64;
    while !rest.is_empty() {
        let (number, after) = split_number(rest)?;
        let end = after
            .find(|c: char| !c.is_ascii_alphabetic())
            .unwrap_or(after.len());
        let (unit, next) = after.split_at(end);
        let scale =
            unit_scale(&TIME_UNITS, unit).ok_or_else(|| UnitError::TimeUnit(unit.to_owned()))?;
        let part = scaled(number, scale).ok_or_else(too_large)?;
        seconds = seconds.checked_add(part).ok_or_else(too_large)?;
        rest = next.trim_start();
    }
    at_least_one(seconds, text).map(Duration::from_secs)
}

/// A volume's size in powers of 1024, as `4.0 GiB`.
pub(crate) fn volume_size(bytes: u64) -> String {
    shown(bytes, 1024, ["B", "KiB", "MiB", "GiB", "TiB"])
}

/// An amount of data in powers of 1000, as `480 MB`.
pub(crate) fn amount(bytes: u64) -> String {
    shown(bytes, 1000, ["B", "kB", "MB", "GB", "TB"])
}

/// A time span, as `2.1 s` or `3 min 20 s`.
pub(crate) fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..60 => format!("{:.1} s", time.as_secs_f64()),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

/// A number's text, whole part and fraction.
#[derive(Clone, Copy)]
struct Number<'a> {
    whole: &'a str,
    fraction: &'a str,
}

fn split_number(text: &str) -> Result<(Number<'_>, &str), UnitError> {
    if text.is_empty() {
        return Err(UnitError::Empty);
    }
    let (whole, rest) = split_digits(text);
    if whole.is_empty() {
        return Err(UnitError::NoNumber(text.to_owned()));
    }
    let (fraction, rest) = match rest.strip_prefix('.') {
        Some(after) => split_digits(after),
        None => ("", rest),
    };
    Ok((Number { whole, fraction }, rest.trim_start()))
}

fn split_digits(text: &str) -> (&str, &str) {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    text.split_at(end)
}

fn unit_scale(units: &[(&str, u64)], name: &str) -> Option<u64> {
    units
        .iter()
        .find(|(unit, _)| unit.eq_ignore_ascii_case(name))
        .map(|(_, scale)| *scale)
}

/// Exact integer arithmetic: `f64` would lose bytes above 8 PiB and round `1.1G` up or down.
fn scaled(number: Number<'_>, scale: u64) -> Option<u64> {
    let whole = number.whole.parse::<u64>().ok()?.checked_mul(scale)?;
    let digits = &number.fraction[..number.fraction.len().min(MAX_FRACTION_DIGITS)];
    if digits.is_empty() {
        return Some(whole);
    }
    let divisor = 10u128.pow(u32::try_from(digits.len()).ok()?);
    let part = digits.parse::<u128>().ok()? * u128::from(scale) / divisor;
    whole.checked_add(u64::try_from(part).ok()?)
}

fn at_least_one(value: u64, text: &str) -> Result<u64, UnitError> {
    match value {
        0 => Err(UnitError::TooSmall(text.to_owned())),
        _ => Ok(value),
    }
}

fn shown(bytes: u64, step: u64, units: [&str; 5]) -> String {
    if bytes < step {
        return format!("{bytes} B");
    }
    #[expect(clippy::cast_precision_loss, reason = "two or three digits are shown")]
    let (mut value, step) = (bytes as f64, step as f64);
    let mut unit = 0;
    // 999.5 would be shown as 1000 of the smaller unit.
    while value >= step - 0.5 && unit + 1 < units.len() {
        value /= step;
        unit += 1;
    }
    let digits = usize::from(value < 9.95);
    format!("{value:.digits$} {}", units[unit])
}

#[cfg(test)]
mod tests {
    use super::{UnitError, amount, parse_rate, parse_size, parse_time, span, volume_size};
    use proptest::prelude::{any, prop_assert_eq, proptest};
    use std::time::Duration;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes) in [
            ("4096", 4096),
            ("5M", 5 << 20),
            ("5MB", 5_000_000),
            ("5 mb", 5_000_000),
            ("1G", 1 << 30),
            ("16MiB", 16 << 20),
            ("1.5GiB", 3 << 29),
            ("0.5k", 512),
            (" 2t ", 2 << 40),
            ("1.1GB", 1_100_000_000),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_size_is_said() {
        assert_eq!(parse_size(""), Err(UnitError::Empty));
        assert_eq!(parse_size("M"), Err(UnitError::NoNumber("M".into())));
        assert_eq!(parse_size("-5M"), Err(UnitError::NoNumber("-5M".into())));
        assert_eq!(parse_size("5X"), Err(UnitError::SizeUnit("X".into())));
        assert_eq!(parse_size("5MB/s"), Err(UnitError::SizeUnit("MB/s".into())));
        assert_eq!(parse_size("0"), Err(UnitError::TooSmall("0".into())));
        assert_eq!(
            parse_size("99999999T"),
            Err(UnitError::TooLarge("99999999T".into()))
        );
    }

    #[test]
    fn rates_may_say_a_second() {
        assert_eq!(parse_rate("5MB/s"), Ok(5_000_000));
        assert_eq!(parse_rate("5M"), Ok(5 << 20));
        assert_eq!(parse_rate("1MiB/s"), Ok(1 << 20));
        assert!(parse_rate("5MB/h").is_err());
    }

    #[test]
    fn times_add_up() {
        assert_eq!(parse_time("90"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_time("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(parse_time("2 d"), Ok(Duration::from_secs(172_800)));
        assert!(parse_time("").is_err());
        assert!(parse_time("0s").is_err());
        assert_eq!(parse_time("3w"), Err(UnitError::TimeUnit("w".into())));
    }

    #[test]
    fn amounts_are_short() {
        assert_eq!(amount(0), "0 B");
        assert_eq!(amount(4096), "4.1 kB");
        assert_eq!(amount(479_612_928), "480 MB");
        assert_eq!(amount(999_700), "1.0 MB");
        assert_eq!(volume_size(4 << 30), "4.0 GiB");
        assert_eq!(volume_size(256 << 20), "256 MiB");
        assert_eq!(volume_size(u64::MAX), "16777216 TiB");
        assert_eq!(span(Duration::from_millis(2_100)), "2.1 s");
        assert_eq!(span(Duration::from_secs(200)), "3 min 20 s");
        assert_eq!(span(Duration::from_secs(7_380)), "2 h 3 min");
    }

    proptest! {
        #[test]
        fn whole_bytes_come_back(bytes in 1u64..) {
            prop_assert_eq!(parse_size(&bytes.to_string()), Ok(bytes));
        }

        #[test]
        fn no_text_breaks_the_parsers(text in any::<String>()) {
            let _ = (parse_size(&text), parse_rate(&text), parse_time(&text));
        }

        #[test]
        fn what_is_shown_is_near(bytes in 1u64..1 << 50) {
            let again = parse_size(&amount(bytes)).expect("shown sizes parse");
            prop_assert_eq!(again.abs_diff(bytes) * 10 <= bytes, true);
        }
    }
}
