//! Which bytes may have changed between two images.

use std::ops::Range;

/// Ranges of bytes that may have changed; all others have not.
///
/// The ranges are sorted, not empty, do not touch, and end inside the newer image.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Changed {
    ranges: Vec<Range<u64>>,
    size: u64,
}

impl Changed {
    /// The union of `ranges`, in whatever order and however they overlap, cut to an image of `size`
    /// bytes.
    #[must_use]
    pub fn new(ranges: impl IntoIterator<Item = Range<u64>>, size: u64) -> Self {
        let mut all: Vec<Range<u64>> = ranges
            .into_iter()
            .map(|range| range.start..range.end.min(size))
            .filter(|range| !range.is_empty())
            .collect();
        all.sort_unstable_by_key(|range| range.start);
        let mut changed = Self::none(size);
        for range in all {
            changed.push(range);
        }
        changed
    }

    /// Nothing changed in an image of `size` bytes.
    #[must_use]
    pub fn none(size: u64) -> Self {
        let ranges = Vec::new();
        Self { ranges, size }
    }

    /// Adds a range which begins at or after the start of the last one.
    pub(crate) fn push(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        match self.ranges.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => self.ranges.push(range),
        }
    }

    /// The ranges, ascending.
    #[must_use]
    pub fn ranges(&self) -> &[Range<u64>] {
        &self.ranges
    }

    /// Bytes of the newer image.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Bytes that may have changed.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.ranges
            .iter()
            .map(|range| range.end - range.start)
            .sum()
    }

    /// Whether some byte of `range` may have changed.
    #[must_use]
    pub fn touches(&self, range: Range<u64>) -> bool {
        let after = self
            .ranges
            .partition_point(|known| known.end <= range.start);
        let next = self.ranges.get(after);
        !range.is_empty() && next.is_some_and(|known| known.start < range.end)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ranges_are_merged_sorted_and_cut() {
        let changed = Changed::new([30..40, 0..10, 10..12, 35..90, 5..5, 60..70], 50);
        assert_eq!(changed.ranges(), [0..12, 30..50]);
        assert_eq!(changed.bytes(), 32);
        assert_eq!(changed.size(), 50);
        assert_eq!(Changed::new([60..70], 50), Changed::none(50));
    }

    proptest! {
        #[test]
        fn it_says_of_every_byte_what_a_bitmap_says(
            ranges in prop::collection::vec((0u64..80, 0u64..20), 0..10),
            size in 0u64..80,
        ) {
            let ranges: Vec<Range<u64>> = ranges.iter().map(|(at, len)| *at..at + len).collect();
            let changed = Changed::new(ranges.clone(), size);
            for byte in 0..100 {
                let expected = byte < size && ranges.iter().any(|range| range.contains(&byte));
                prop_assert_eq!(changed.touches(byte..byte + 1), expected);
            }
            for (at, length) in [(0, 7), (13, 30), (50, 50), (9, 0)] {
                let any = (at..at + length).any(|byte| changed.touches(byte..byte + 1));
                prop_assert_eq!(changed.touches(at..at + length), any);
            }
        }
    }
}
