//! Chaining values of pages: the subtrees of four chunks that a group's value is folded from.
//!
//! ```text
//!   group's value        ┌────── fold ──────┐        no page of it needs to be read again to get
//!                   ┌────┴────┐        ┌────┴────┐   it, as long as its value is known
//!   pages' values   p0   p1   p2  …   p13  p14  p15
//! ```
//!
//! What a volume of a single group is to [`group_cv`](crate::group_cv), a volume of a single page is
//! here: it has no inner node, and its only "chaining value" is its root.

//! BLAKE3's public functions hash one subtree at a time, and a page is too small for them to fill the
//! processor's vectors: 16 calls for a group take 3.6 times as long as one call for all of it. So the
//! chunks of up to 16 pages go through BLAKE3's kernel together, which makes a group's pages cost what
//! the group does. That entry is public and undocumented: the tests hold every value against the
//! documented ones.

use blake3::hazmat::{HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};
use blake3::platform::Platform;
use blake3::{Hasher, IncrementCounter};

use crate::cv::Cv;
use crate::geometry::{
    ExtentIndex, Geometry, GroupIndex, PAGE_SIZE, PAGES_PER_EXTENT, PAGES_PER_GROUP, PageIndex,
};
use crate::set::PageSet;

const CHUNK: usize = 1024;
const CHUNKS_PER_PAGE: usize = PAGE_SIZE / CHUNK;
/// Chunks that the kernel is given at once: those of a group, four full vectors of the widest kind.
const BATCH: usize = PAGES_PER_GROUP * CHUNKS_PER_PAGE;
/// Pages whose chunks fill the widest vector, 16 lanes.
const PAGES_PER_VECTOR: usize = 16 / CHUNKS_PER_PAGE;
const CV: usize = 32;
const PARENT: usize = 2 * CV;

/// Table 3 and the key words of section 2.2 of the BLAKE3 paper.
const CHUNK_START: u8 = 1;
const CHUNK_END: u8 = 2;
const PARENT_NODE: u8 = 4;
const IV: [u32; 8] = [
    0x6A09_E667,
    0xBB67_AE85,
    0x3C6E_F372,
    0xA54F_F53A,
    0x510E_527F,
    0x9B05_688C,
    0x1F83_D9AB,
    0x5BE0_CD19,
];

static ZEROS: [u8; BATCH * CHUNK] = [0; BATCH * CHUNK];

/// Chaining values of neighbouring pages from `first` on, one for each of `cvs`; `bytes` is exactly
/// those pages, the volume's last at its true length.
///
/// # Panics
/// If a page lies outside the volume or `bytes` has another length than the pages.
pub fn page_cvs(geometry: Geometry, first: PageIndex, bytes: &[u8], cvs: &mut [Cv]) {
    assert_eq!(
        bytes.len().div_ceil(PAGE_SIZE),
        cvs.len(),
        "pages from {first}"
    );
    let batches = cvs.chunks_mut(PAGES_PER_GROUP);
    for (batch, (cvs, bytes)) in (0..).zip(batches.zip(bytes.chunks(BATCH * CHUNK))) {
        let first = PageIndex(first.0 + batch * PAGES_PER_GROUP as u64);
        batch_cvs(geometry, first, bytes, cvs);
    }
}

/// [`page_cvs`] of some pages of an extent: `extent_bytes` is the extent as long as it is, of which only
/// these pages matter, and only their places in `cvs`, which has one for each page, are set.
///
/// Neighbours are measured together, four that share a vector at the least: scattered pages cost less
/// than so many calls of [`page_cvs`].
///
/// # Panics
/// If `extent_bytes` or `cvs` has another length than the extent, or a page lies outside of it.
pub fn page_cvs_in_extent(
    geometry: Geometry,
    extent: ExtentIndex,
    pages: PageSet,
    extent_bytes: &[u8],
    cvs: &mut [Cv],
) {
    let count = geometry.pages_in(extent);
    assert_eq!(cvs.len(), count, "pages of extent {extent}");
    assert_eq!(
        extent_bytes.len(),
        geometry.extent_len(extent),
        "bytes of extent {extent}"
    );
    let first = geometry.pages_of_extent(extent).start;
    let mut values = [Cv::from_bytes([0; CV]); PAGES_PER_EXTENT];
    for run in by_vectors(pages, count).runs() {
        let start = geometry.page_range_in_extent(extent, run.start).start;
        let end = geometry.page_range_in_extent(extent, run.end - 1).end;
        page_cvs(
            geometry,
            PageIndex(first + run.start as u64),
            &extent_bytes[start..end],
            &mut values[run],
        );
    }
    for page in pages.iter() {
        cvs[page] = values[page];
    }
}

/// The pages that share a vector with one of `pages`, of the `count` that there are.
fn by_vectors(pages: PageSet, count: usize) -> PageSet {
    let mut together = PageSet::EMPTY;
    for page in pages.iter() {
        let start = page / PAGES_PER_VECTOR * PAGES_PER_VECTOR;
        together.insert_range(start..(start + PAGES_PER_VECTOR).min(count));
    }
    together
}

/// [`page_cvs`] of pages which are all zeros, without reading them.
///
/// # Panics
/// If a page lies outside the volume.
pub fn zero_page_cvs(geometry: Geometry, first: PageIndex, cvs: &mut [Cv]) {
    for (batch, cvs) in (0..).zip(cvs.chunks_mut(PAGES_PER_GROUP)) {
        let first = PageIndex(first.0 + batch * PAGES_PER_GROUP as u64);
        let length = length_of(geometry, first, cvs.len());
        batch_cvs(geometry, first, &ZEROS[..length], cvs);
    }
}

/// Bytes of so many pages inside the volume.
fn length_of(geometry: Geometry, first: PageIndex, pages: usize) -> usize {
    let last = PageIndex((first.0 + pages as u64).saturating_sub(1));
    assert!(
        last.0 < geometry.page_count(),
        "page {last} lies outside the volume"
    );
    (geometry.page_range(last).end - geometry.page_range(first).start) as usize
}

/// The values of at most [`PAGES_PER_GROUP`] pages.
fn batch_cvs(geometry: Geometry, first: PageIndex, bytes: &[u8], cvs: &mut [Cv]) {
    assert_eq!(
        bytes.len(),
        length_of(geometry, first, cvs.len()),
        "bytes of the pages from {first}"
    );
    if geometry.page_count() == 1 {
        cvs[0] = Cv::from_bytes(*blake3::hash(bytes).as_bytes());
        return;
    }
    let whole = bytes.len() / PAGE_SIZE;
    let (bytes, tail) = bytes.split_at(whole * PAGE_SIZE);
    let (cvs, tail_cv) = cvs.split_at_mut(whole);
    let start = geometry.page_range(first).start;
    whole_page_cvs(start, bytes, cvs);
    if let [cv] = tail_cv {
        let mut hasher = Hasher::new();
        hasher
            .set_input_offset(start + bytes.len() as u64)
            .update(tail);
        *cv = Cv::from_bytes(hasher.finalize_non_root());
    }
}

/// Chunks, pairs of chunks, pages: three rounds of the kernel.
fn whole_page_cvs(start: u64, bytes: &[u8], cvs: &mut [Cv]) {
    let (chunks, _) = bytes.as_chunks::<CHUNK>();
    let mut inputs = [&[0; CHUNK]; BATCH];
    for (input, chunk) in inputs.iter_mut().zip(chunks) {
        *input = chunk;
    }
    let mut chunk_cvs = [0; BATCH * CV];
    Platform::detect().hash_many(
        &inputs[..chunks.len()],
        &IV,
        start / CHUNK as u64,
        IncrementCounter::Yes,
        0,
        CHUNK_START,
        CHUNK_END,
        &mut chunk_cvs,
    );
    let (mut pairs, mut pages) = ([0; BATCH / 2 * CV], [0; PAGES_PER_GROUP * CV]);
    parents(&chunk_cvs[..chunks.len() * CV], &mut pairs);
    parents(&pairs[..chunks.len() / 2 * CV], &mut pages);
    for (cv, bytes) in cvs.iter_mut().zip(pages.as_chunks().0) {
        *cv = Cv::from_bytes(*bytes);
    }
}

/// The values above neighbouring pairs of values; an odd last one is left out.
fn parents(children: &[u8], out: &mut [u8]) {
    let (pairs, _) = children.as_chunks::<PARENT>();
    let mut inputs = [&[0; PARENT]; BATCH / 2];
    for (input, pair) in inputs.iter_mut().zip(pairs) {
        *input = pair;
    }
    let (inputs, no) = (&inputs[..pairs.len()], IncrementCounter::No);
    Platform::detect().hash_many(inputs, &IV, 0, no, PARENT_NODE, 0, 0, out);
}

/// Chaining value of a group from those of its pages: what [`group_cv`](crate::group_cv) says of
/// their bytes.
///
/// # Panics
/// If the group lies outside the volume or has another number of pages.
pub fn group_cv_of_pages(geometry: Geometry, group: GroupIndex, pages: &[Cv]) -> Cv {
    let numbers = geometry.pages_of_group(group);
    assert!(!numbers.is_empty(), "group {group} lies outside the volume");
    assert_eq!(
        pages.len() as u64,
        numbers.end - numbers.start,
        "pages of group {group}"
    );
    let mut row = [0; PAGES_PER_GROUP * CV];
    for (bytes, cv) in row.as_chunks_mut().0.iter_mut().zip(pages) {
        *bytes = *cv.as_bytes();
    }
    let mut count = pages.len();
    while count > 2 {
        let mut above = [0; PAGES_PER_GROUP / 2 * CV];
        parents(&row[..count * CV], &mut above);
        let odd = (count % 2) * CV;
        let paired = count / 2 * CV;
        above[paired..paired + odd].copy_from_slice(&row[count * CV - odd..count * CV]);
        count = count.div_ceil(2);
        row[..count * CV].copy_from_slice(&above[..count * CV]);
    }
    match &row.as_chunks().0[..count] {
        [left, right] if geometry.group_count() == 1 => {
            Cv::from_bytes(*merge_subtrees_root(left, right, Mode::Hash).as_bytes())
        }
        [left, right] => Cv::from_bytes(merge_subtrees_non_root(left, right, Mode::Hash)),
        _ => pages[0],
    }
}
