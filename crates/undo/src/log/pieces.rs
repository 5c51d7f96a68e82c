//! Ranges of a volume, cut into what becomes a record each.

use std::ops::Range;

use lockstep_merkle::{EXTENT_SIZE, ExtentIndex, PAGE_SIZE, PageSet, is_zero};

use super::format::Content;

/// Pages of one extent, and what they hold.
pub(super) struct Stretch<'a> {
    pub(super) extent: ExtentIndex,
    pub(super) pages: Range<usize>,
    pub(super) bytes: &'a [u8],
}

impl Stretch<'_> {
    /// Where a run of its pages lies in its bytes.
    pub(super) fn place(&self, run: &Range<usize>) -> Range<usize> {
        let byte = |page: usize| self.bytes.len().min((page - self.pages.start) * PAGE_SIZE);
        byte(run.start)..byte(run.end)
    }
}

/// A record to be written: pages of one extent, all zeros or none of them.
pub(super) struct Piece {
    pub(super) pages: Range<usize>,
    pub(super) content: Content,
}

/// The pages of a range, extent by extent.
pub(super) fn extents(
    range: &Range<u64>,
) -> impl Iterator<Item = (ExtentIndex, Range<usize>)> + use<> {
    let Range { start, end } = *range;
    let size = EXTENT_SIZE as u64;
    (start / size..end.div_ceil(size)).map(move |extent| {
        let first = extent * size;
        let from = start.max(first) - first;
        let to = end.min(first + size) - first;
        let page = PAGE_SIZE as u64;
        let pages = (from / page) as usize..to.div_ceil(page) as usize;
        (ExtentIndex(extent), pages)
    })
}

/// Records for these pages: runs of zeros apart, so that a hole is a hole again.
pub(super) fn cut<'a>(missing: PageSet, bytes: impl Fn(&Range<usize>) -> &'a [u8]) -> Vec<Piece> {
    let (mut zeros, mut data) = (PageSet::EMPTY, PageSet::EMPTY);
    for page in missing.iter() {
        let kind = if is_zero(bytes(&(page..page + 1))) {
            &mut zeros
        } else {
            &mut data
        };
        kind.insert(page);
    }
    let hashed = |pages: Range<usize>| {
        let hash = *blake3::hash(bytes(&pages)).as_bytes();
        let content = Content::Bytes { hash };
        Piece { pages, content }
    };
    let zeroed = |pages| Piece {
        pages,
        content: Content::Zeros,
    };
    let zeros = zeros.runs().map(zeroed);
    data.runs().map(hashed).chain(zeros).collect()
}
