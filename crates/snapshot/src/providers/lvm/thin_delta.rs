//! What `thin_delta` writes, which is XML of one form, and whether its pool is ready for it: pure.
//!
//! ```text
//! <superblock … data_block_size="128" …>          blocks are 128 sectors long
//!   <diff left="2" right="3">
//!     <same begin="0" length="4"/>                counted in blocks
//!     <different begin="4" length="1"/>
//!     <left_only begin="20" length="3"/>
//!     <right_only begin="30" length="2"/>
//!   </diff>
//! </superblock>                                   without this it is cut off
//! ```

use std::ops::Range;

const SECTOR_BYTES: u64 = 512;

/// Whether a pool holds a metadata snapshot, by what `dmsetup status` says of it.
///
/// ```text
/// 0 131072 thin-pool 3 16/1024 64/1024 - rw discard_passdown …
///                                      └ block of the held root, or none
/// ```
pub(super) fn metadata_snap_is_held(status: &str) -> Result<bool, String> {
    let mut words = status.split_ascii_whitespace().skip(2);
    let held = match words.next() {
        Some("thin-pool") => words.nth(3),
        _ => None,
    };
    match held {
        Some("-") => Ok(false),
        Some(block) if block.parse::<u64>().is_ok() => Ok(true),
        _ => Err(format!("the pool's status is {:?}", status.trim())),
    }
}

/// The ranges of bytes that differ between two thin volumes.
pub(super) fn differing(output: &str, left: u64, right: u64) -> Result<Vec<Range<u64>>, String> {
    let mut elements = output
        .split('<')
        .skip(1)
        .map(|element| element.split('>').next().unwrap_or_default().trim());
    let superblock = elements.next().unwrap_or_default();
    let block = attribute(superblock, "superblock", "data_block_size")?;
    let block = block
        .checked_mul(SECTOR_BYTES)
        .filter(|bytes| *bytes > 0)
        .ok_or("its blocks have no size")?;
    let diff = elements.next().unwrap_or_default();
    let sides = (
        attribute(diff, "diff", "left")?,
        attribute(diff, "diff", "right")?,
    );
    if sides != (left, right) {
        return Err(format!("it compared {sides:?}"));
    }
    let mut ranges = Vec::new();
    for element in elements.by_ref() {
        let name = element.split_ascii_whitespace().next().unwrap_or_default();
        match name {
            "same" => {}
            "different" | "left_only" | "right_only" => ranges.push(range(element, name, block)?),
            "/diff" => break,
            _ => return Err(format!("it wrote <{element}>")),
        }
    }
    match (elements.next(), elements.next()) {
        (Some("/superblock"), None) => Ok(ranges),
        _ => Err("its output is cut off".to_owned()),
    }
}

fn range(element: &str, name: &str, block: u64) -> Result<Range<u64>, String> {
    let bytes = |attribute_name| {
        let blocks = attribute(element, name, attribute_name)?;
        blocks
            .checked_mul(block)
            .ok_or_else(|| format!("it wrote <{element}>"))
    };
    let (begin, length) = (bytes("begin")?, bytes("length")?);
    let end = begin.checked_add(length);
    Ok(begin..end.ok_or_else(|| format!("it wrote <{element}>"))?)
}

fn attribute(element: &str, name: &str, wanted: &str) -> Result<u64, String> {
    let bad = || format!("<{name}> has no {wanted}");
    let mut words = element.trim_end_matches('/').split_ascii_whitespace();
    if words.next() != Some(name) {
        return Err(format!("there is no <{name}>"));
    }
    let value = words.find_map(|word| word.strip_prefix(wanted)?.strip_prefix("=\""));
    let digits = value.and_then(|value| value.strip_suffix('"'));
    digits
        .and_then(|digits| digits.parse().ok())
        .ok_or_else(bad)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Written by thin_delta 0.9.0.
    pub(in super::super) const RECORDED: &str = r#"<superblock uuid="" time="2" transaction="3" data_block_size="128" nr_data_blocks="512">
  <diff left="2" right="3">
    <same begin="0" length="4"/>
    <different begin="4" length="1"/>
    <same begin="5" length="5"/>
    <left_only begin="20" length="3"/>
    <right_only begin="30" length="2"/>
  </diff>
</superblock>
"#;

    #[test]
    fn what_differs_or_is_on_one_side_only_has_changed() {
        let block = 65_536;
        let expected = [
            4 * block..5 * block,
            20 * block..23 * block,
            30 * block..32 * block,
        ];
        assert_eq!(differing(RECORDED, 2, 3).unwrap(), expected);
    }

    /// Printed by dmsetup 1.02.
    pub(in super::super) const HELD: &str =
        "0 131072 thin-pool 3 114/1024 65/1024 37 rw discard_passdown queue_if_no_space - 256 \n";
    pub(in super::super) const NOT_HELD: &str =
        "0 131072 thin-pool 3 113/1024 65/1024 - rw discard_passdown queue_if_no_space - 256 \n";

    #[test]
    fn a_held_metadata_snapshot_is_told_from_none_and_from_no_answer() {
        assert_eq!(metadata_snap_is_held(HELD), Ok(true));
        assert_eq!(metadata_snap_is_held(NOT_HELD), Ok(false));
        for status in [
            "",
            "0 131072 thin-pool Fail",
            "0 65536 thin 33536 65535",
            "0 131072 thin-pool 3 114/1024 65/1024",
        ] {
            assert!(metadata_snap_is_held(status).is_err(), "{status}");
        }
    }

    #[test]
    fn whatever_is_cut_or_of_other_volumes_is_refused() {
        let whole = RECORDED.trim_end();
        for cut in 0..whole.len() {
            // All but the very last bracket can be missed.
            if cut + 1 < whole.len() {
                assert!(differing(&whole[..cut], 2, 3).is_err(), "{cut}");
            }
        }
        assert!(differing(RECORDED, 3, 2).is_err());
        let strange = RECORDED.replace("left_only", "unknown");
        assert!(differing(&strange, 2, 3).is_err());
        let huge = RECORDED.replace("begin=\"20\"", "begin=\"18446744073709551615\"");
        assert!(differing(&huge, 2, 3).is_err());
        let twice = format!("{RECORDED}{RECORDED}");
        assert!(differing(&twice, 2, 3).is_err());
    }
}
