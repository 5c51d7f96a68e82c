//! Spans of time, always with their units.

use std::time::Duration;

use super::{Unfit, shown};

const UNITS: [(&str, u64); 5] = [
    ("ms", 1),
    ("s", 1_000),
    ("m", 60_000),
    ("h", 3_600_000),
    ("d", 86_400_000),
];

/// A time such as `500ms`, `90s`, `5m` or `1h30m`.
pub(crate) fn time(text: &str) -> Result<Duration, Unfit> {
    let unfit = |why: String| {
        let what = format!("{} is not a time: {why}", shown(text));
        Unfit::new(
            what,
            "write numbers with units: `500ms`, `30s`, `5m`, `1h30m` or `1d`",
        )
    };
    if text.is_empty() {
        return Err(unfit("it is empty".to_owned()));
    }
    let mut rest = text;
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let (number, after) = split(rest, |c| !c.is_ascii_digit());
        let (unit, next) = split(after, |c| !c.is_ascii_alphabetic());
        let number: u64 = number
            .parse()
            .map_err(|_| unfit("a number is missing or too large".to_owned()))?;
        let scale = UNITS.iter().find(|(name, _)| *name == unit);
        let (_, scale) = scale.ok_or_else(|| {
            unfit(match unit {
                "" => "a unit is missing".to_owned(),
                _ => format!("{} is not a unit", shown(unit)),
            })
        })?;
        let part = number
            .checked_mul(*scale)
            .and_then(|part| total.checked_add(part));
        total = part.ok_or_else(|| unfit("it is too long".to_owned()))?;
        rest = next;
    }
    Ok(Duration::from_millis(total))
}

fn split(text: &str, ends: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(ends).unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use super::time;
    use std::time::Duration;

    #[test]
    fn times_have_units() {
        let millis = |text| time(text).map(|time: Duration| time.as_millis());
        assert_eq!(millis("500ms"), Ok(500));
        assert_eq!(millis("90s"), Ok(90_000));
        assert_eq!(millis("1h30m"), Ok(5_400_000));
        assert_eq!(millis("1d"), Ok(86_400_000));
        assert_eq!(millis("0s"), Ok(0));
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for bad in [
            "",
            "30",
            "s",
            "5 m",
            "-1s",
            "1.5h",
            "1w",
            "1M",
            "99999999999999999999s",
            "999999999999999999d",
            "é",
        ] {
            assert!(time(bad).is_err(), "{bad}");
        }
    }
}
