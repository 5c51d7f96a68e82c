//! What a file's extents say of its bytes, and which bytes two such layouts leave in doubt: pure.
//!
//! ```text
//! base   │ plain 100…      │ zeros │ plain 300… │ opaque │          ends here
//! now    │ plain 100… │ 900│ zeros │ zeros      │ opaque │ plain 500…  │
//! changed             ├────┤       ├────────────┴────────┴─────────────┤
//! ```
//!
//! Two stretches hold the same bytes if both read as zeros, or if both are the same bytes of the
//! same extent while both files are alive: an extent that two files share is not overwritten. What
//! cannot be placed so is opaque, and never equal to anything, itself included.

use std::ops::Range;

use crate::changed::Changed;

/// Most stretches of one layout: 80 MiB of memory, and three layouts are held at once.
pub(crate) const MAX_STRETCHES: usize = 2 << 20;
const _: () = assert!(size_of::<Stretch>() == 40);

/// Where the bytes of a stretch come from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Content {
    /// They are zeros: a hole, or allocated and never written.
    Zeros,
    /// Consecutive bytes of the filesystem's space, from this address on.
    Plain {
        /// Address of the first byte.
        address: u64,
    },
    /// Consecutive bytes of what a compressed extent decompresses to.
    Compressed {
        /// Address of the extent.
        extent: u64,
        /// The first byte within it.
        within: u64,
    },
    /// Nobody knows.
    Opaque,
}

impl Content {
    /// What the stretch holds from its byte `by` on.
    fn skip(self, by: u64) -> Self {
        match self {
            // Wrapping: an address is only compared, and nonsense must not panic.
            Self::Plain { address } => Self::Plain {
                address: address.wrapping_add(by),
            },
            Self::Compressed { extent, within } => Self::Compressed {
                extent,
                within: within.wrapping_add(by),
            },
            Self::Zeros | Self::Opaque => self,
        }
    }

    /// Whether two stretches that begin with these hold the same bytes, as far as both go.
    fn is_same_as(self, other: Self) -> bool {
        self != Self::Opaque && self == other
    }
}

/// A stretch of a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Stretch {
    pub(crate) range: Range<u64>,
    pub(crate) content: Content,
}

impl Stretch {
    /// Whether what begins at `start` is only more of it.
    fn goes_on_as(&self, start: u64, content: Content) -> bool {
        let length = self.range.end - self.range.start;
        self.range.end == start && self.content.skip(length) == content
    }
}

/// A file's stretches, in order and inside it; what lies between them is zeros.
///
/// Two files with the same bytes in the same places have the same layout, however a filesystem cuts
/// its extents: XFS cuts them anew wherever another file begins or ceases to share them.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    size: u64,
    stretches: Vec<Stretch>,
    /// Where the last extent ended, zeros too.
    end: u64,
}

impl PartialEq for Layout {
    /// Where allocated zeros end is no difference.
    fn eq(&self, other: &Self) -> bool {
        self.size == other.size && self.stretches == other.stretches
    }
}

/// Why something is no layout.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum BadLayout {
    /// A stretch is empty, wraps around, or begins before the end of the one before it.
    Disordered,
    /// There are more than [`MAX_STRETCHES`].
    TooMany,
}

impl Layout {
    /// A file of `size` bytes that is one hole.
    pub(crate) fn new(size: u64) -> Self {
        Self {
            size,
            stretches: Vec::new(),
            end: 0,
        }
    }

    /// Adds the next stretch. What lies beyond the file's end is left out: filesystems allocate ahead.
    pub(crate) fn push(
        &mut self,
        start: u64,
        length: u64,
        content: Content,
    ) -> Result<(), BadLayout> {
        let end = start.checked_add(length).filter(|end| *end > start);
        let end = end.ok_or(BadLayout::Disordered)?;
        if start < self.end {
            return Err(BadLayout::Disordered);
        }
        self.end = end.min(self.size).max(self.end);
        if start >= self.size || content == Content::Zeros {
            return Ok(());
        }
        let range = start..end.min(self.size);
        if let Some(last) = self.stretches.last_mut()
            && last.goes_on_as(start, content)
        {
            last.range.end = range.end;
            return Ok(());
        }
        if self.stretches.len() == MAX_STRETCHES {
            return Err(BadLayout::TooMany);
        }
        self.stretches.push(Stretch { range, content });
        Ok(())
    }

    /// What is at `at`, and where that stretch or hole ends, given that no stretch before `from`
    /// matters. Moves `from` on.
    fn at(&self, at: u64, from: &mut usize) -> (Content, u64) {
        while self
            .stretches
            .get(*from)
            .is_some_and(|next| next.range.end <= at)
        {
            *from += 1;
        }
        match self.stretches.get(*from) {
            None => (Content::Zeros, self.size),
            Some(next) if at < next.range.start => (Content::Zeros, next.range.start),
            Some(next) => (next.content.skip(at - next.range.start), next.range.end),
        }
    }
}

/// The bytes of `now` that may differ from those of `base`.
pub(crate) fn changed(base: &Layout, now: &Layout) -> Changed {
    let mut changed = Changed::none(now.size);
    let common = base.size.min(now.size);
    let (mut in_base, mut in_now) = (0, 0);
    let mut at = 0;
    while at < common {
        let (was, was_until) = base.at(at, &mut in_base);
        let (is, is_until) = now.at(at, &mut in_now);
        let until = was_until.min(is_until).min(common);
        if !was.is_same_as(is) {
            changed.push(at..until);
        }
        at = until;
    }
    changed.push(common..now.size);
    changed
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn layout(size: u64, stretches: &[(u64, u64, Content)]) -> Layout {
        let mut layout = Layout::new(size);
        for (start, length, content) in stretches {
            layout.push(*start, *length, *content).unwrap();
        }
        layout
    }

    const fn plain(address: u64) -> Content {
        Content::Plain { address }
    }

    const fn packed(extent: u64, within: u64) -> Content {
        Content::Compressed { extent, within }
    }

    #[test]
    fn the_picture_at_the_top_is_true() {
        use Content::{Opaque, Zeros};
        let base = [(0, 18, plain(100)), (26, 13, plain(300)), (39, 9, Opaque)];
        let now = [
            (0, 13, plain(100)),
            (13, 5, plain(900)),
            (26, 13, Zeros),
            (39, 9, Opaque),
            (48, 14, plain(500)),
        ];
        let changed = changed(&layout(48, &base), &layout(62, &now));
        assert_eq!(changed.ranges(), [13..18, 26..62]);
    }

    #[test]
    fn the_same_extent_cut_otherwise_is_the_same() {
        let whole = layout(30, &[(0, 30, plain(100))]);
        let cut = layout(30, &[(0, 10, plain(100)), (10, 20, plain(110))]);
        assert_eq!(changed(&whole, &cut), Changed::none(30));
        assert_eq!(whole, cut);
        let with_zeros = layout(40, &[(0, 10, plain(1)), (20, 9, Content::Zeros)]);
        let with_hole = layout(40, &[(0, 4, plain(1)), (4, 6, plain(5))]);
        assert_eq!(changed(&with_zeros, &with_hole), Changed::none(40));
        assert_eq!(with_zeros, with_hole);
        let moved = layout(30, &[(0, 10, plain(100)), (10, 20, plain(111))]);
        assert_eq!(changed(&whole, &moved).ranges(), [10..30]);
    }

    #[test]
    fn a_compressed_extent_is_the_same_only_from_the_same_byte_on() {
        let base = layout(20, &[(0, 20, packed(100, 0))]);
        let same = layout(20, &[(0, 8, packed(100, 0)), (8, 12, packed(100, 8))]);
        assert_eq!(changed(&base, &same), Changed::none(20));
        for other in [packed(100, 4), packed(104, 0), plain(100)] {
            let other = layout(20, &[(0, 20, other)]);
            assert_eq!(changed(&base, &other).ranges(), [0..20]);
        }
    }

    #[test]
    fn a_hole_is_equal_to_zeros_and_to_nothing_else() {
        let hole = layout(20, &[]);
        let unwritten = layout(20, &[(5, 10, Content::Zeros)]);
        assert_eq!(changed(&hole, &unwritten), Changed::none(20));
        assert_eq!(changed(&unwritten, &hole), Changed::none(20));
        // Address 0 is an address, not a hole.
        let data = layout(20, &[(5, 10, plain(0))]);
        assert_eq!(changed(&hole, &data).ranges(), [5..15]);
        assert_eq!(changed(&data, &unwritten).ranges(), [5..15]);
    }

    #[test]
    fn what_is_opaque_is_not_even_equal_to_itself() {
        let opaque = layout(20, &[(5, 10, Content::Opaque)]);
        assert_eq!(changed(&opaque, &opaque).ranges(), [5..15]);
    }

    #[test]
    fn what_is_no_layout_is_refused_and_the_rest_is_cut_at_the_end() {
        let mut layout = Layout::new(100);
        layout.push(10, 20, plain(0)).unwrap();
        for (start, length) in [(29, 5), (0, 5), (40, 0), (40, u64::MAX)] {
            let pushed = layout.push(start, length, plain(0));
            assert_eq!(pushed, Err(BadLayout::Disordered), "{start} {length}");
        }
        layout.push(90, 20, plain(7)).unwrap();
        layout.push(200, 20, plain(8)).unwrap();
        assert_eq!(layout.stretches[1].range, 90..100);
        assert_eq!(layout.stretches.len(), 2);
    }

    /// What a byte is made of, or `None` if it may be anything.
    fn byte_of(layout: &Layout, at: u64) -> Option<(u64, u64, u64)> {
        let holds = |stretch: &&Stretch| stretch.range.contains(&at);
        let Some(stretch) = layout.stretches.iter().find(holds) else {
            return Some((0, 0, 0));
        };
        let by = at - stretch.range.start;
        match stretch.content {
            Content::Zeros => Some((0, 0, 0)),
            Content::Plain { address } => Some((1, address + by, 0)),
            Content::Compressed { extent, within } => Some((2, extent, within + by)),
            Content::Opaque => None,
        }
    }

    fn content() -> impl Strategy<Value = Content> {
        prop_oneof![
            Just(Content::Zeros),
            (0u64..40).prop_map(plain),
            (0u64..3, 0u64..20).prop_map(|(extent, within)| packed(extent, within)),
            Just(Content::Opaque),
        ]
    }

    /// Stretches one after the other, with gaps; few addresses, so that many are equal.
    fn any_layout() -> impl Strategy<Value = Layout> {
        let piece = (0u64..6, 1u64..12, content());
        (0u64..70, prop::collection::vec(piece, 0..10)).prop_map(|(size, pieces)| {
            let mut layout = Layout::new(size);
            let mut at = 0;
            for (gap, length, content) in pieces {
                layout.push(at + gap, length, content).unwrap();
                at += gap + length;
            }
            layout
        })
    }

    proptest! {
        #[test]
        fn exactly_the_bytes_that_a_slow_twin_names_are_changed(
            base in any_layout(),
            now in any_layout(),
        ) {
            let changed = changed(&base, &now);
            for at in 0..now.size {
                let was = (at < base.size).then(|| byte_of(&base, at)).flatten();
                let same = was.is_some() && was == byte_of(&now, at);
                prop_assert_eq!(changed.touches(at..at + 1), !same, "byte {}", at);
            }
            prop_assert_eq!(changed.size(), now.size);
        }

        #[test]
        fn a_layout_changed_nothing_against_itself_but_what_is_opaque(layout in any_layout()) {
            let opaque = layout.stretches.iter().filter(|one| one.content == Content::Opaque);
            let opaque = Changed::new(opaque.map(|one| one.range.clone()), layout.size);
            prop_assert_eq!(changed(&layout, &layout), opaque);
        }
    }
}
