//! The tree against a slow twin, against `blake3::hash`, and against vectors from other programs.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use blake3::Hasher;
use blake3::hazmat::{HasherExt, Mode, left_subtree_len, merge_subtrees_non_root};
use lockstep_merkle::{
    Cv, EXTENT_SIZE, ExtentIndex, GROUP_SIZE, Geometry, GroupIndex, PAGE_SIZE, PageIndex, PageSet,
    Root, extent_cvs, fold, fold_pages, group_cv, group_cv_of_pages, page_cvs, page_cvs_in_extent,
    par_extent_cvs, zero_extent_cvs, zero_group_cv, zero_page_cvs,
};
use proptest::prelude::{ProptestConfig, Strategy, any};
use proptest::{prop_assert_eq, prop_oneof, proptest};

const KI: usize = 1024;
const MI: usize = 1024 * KI;

/// Every length at which the shape of the tree changes, with its neighbours.
const BOUNDARIES: [usize; 22] = [
    0,
    1,
    KI - 1,
    KI,
    KI + 1,
    4 * KI - 1,
    4 * KI,
    4 * KI + 1,
    8 * KI - 1,
    8 * KI,
    8 * KI + 1,
    64 * KI - 1,
    64 * KI,
    64 * KI + 1,
    128 * KI - 1,
    128 * KI,
    128 * KI + 1,
    MI - 1,
    MI,
    MI + 1,
    3 * MI - 1,
    3 * MI + 7,
];

/// The slow twin: section 2.1 of the BLAKE3 paper read aloud, one chunk at a time. The left part of
/// a subtree is the largest power of two of chunks that leaves something to the right.
fn subtree_cv(bytes: &[u8], offset: u64) -> [u8; 32] {
    if bytes.len() <= KI {
        let mut chunk = Hasher::new();
        chunk.set_input_offset(offset).update(bytes);
        return chunk.finalize_non_root();
    }
    let left_len = left_subtree_len(bytes.len() as u64);
    let (left, right) = bytes.split_at(left_len as usize);
    merge_subtrees_non_root(
        &subtree_cv(left, offset),
        &subtree_cv(right, offset + left_len),
        Mode::Hash,
    )
}

fn extents(geometry: Geometry) -> impl Iterator<Item = ExtentIndex> {
    (0..geometry.extent_count()).map(ExtentIndex)
}

fn extent_bytes(geometry: Geometry, extent: ExtentIndex, volume: &[u8]) -> &[u8] {
    let range = geometry.extent_range(extent);
    &volume[range.start as usize..range.end as usize]
}

fn cvs_of(volume: &[u8]) -> Vec<Cv> {
    let geometry = Geometry::new(volume.len() as u64);
    let cvs_of_extent =
        |extent| extent_cvs(geometry, extent, extent_bytes(geometry, extent, volume)).to_vec();
    extents(geometry).flat_map(cvs_of_extent).collect()
}

fn root_of(volume: &[u8]) -> Root {
    fold(Geometry::new(volume.len() as u64), cvs_of(volume)).unwrap()
}

/// Byte `n` is `n % 251`, as in BLAKE3's own vectors.
fn pattern(len: usize) -> Vec<u8> {
    (0..=250).cycle().take(len).collect()
}

fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let key = blake3::hash(&seed.to_le_bytes());
    Hasher::new_keyed(key.as_bytes())
        .finalize_xof()
        .fill(&mut bytes);
    bytes
}

fn page_cvs_of(volume: &[u8]) -> Vec<Cv> {
    let geometry = Geometry::new(volume.len() as u64);
    let mut cvs = vec![Cv::from_bytes([0; 32]); volume.len().div_ceil(PAGE_SIZE)];
    page_cvs(geometry, PageIndex(0), volume, &mut cvs);
    cvs
}

/// Pages against the slow twin, their groups against [`group_cv`], their root against all bytes.
fn assert_pages_agree(volume: &[u8]) {
    let geometry = Geometry::new(volume.len() as u64);
    let cvs = page_cvs_of(volume);
    assert_eq!(cvs.len() as u64, geometry.page_count());
    for (cv, (page, bytes)) in cvs.iter().zip((0..).zip(volume.chunks(PAGE_SIZE))) {
        let mut alone = [Cv::from_bytes([0; 32])];
        page_cvs(geometry, PageIndex(page), bytes, &mut alone);
        assert_eq!(alone, [*cv], "page {page}");
        let twin = match geometry.page_count() {
            1 => *blake3::hash(bytes).as_bytes(),
            _ => subtree_cv(bytes, page * PAGE_SIZE as u64),
        };
        assert_eq!(cv.as_bytes(), &twin, "page {page} of {}", volume.len());
    }
    for (group, bytes) in (0..).map(GroupIndex).zip(volume.chunks(GROUP_SIZE)) {
        let pages = geometry.pages_of_group(group);
        let folded = group_cv_of_pages(
            geometry,
            group,
            &cvs[pages.start as usize..pages.end as usize],
        );
        assert_eq!(folded, group_cv(geometry, group, bytes), "group {group}");
    }
    let root = fold_pages(geometry, cvs).unwrap();
    assert_eq!(root.as_bytes(), blake3::hash(volume).as_bytes());
}

fn assert_every_path_agrees(volume: &[u8]) {
    let geometry = Geometry::new(volume.len() as u64);
    let cvs = cvs_of(volume);
    assert_eq!(cvs.len() as u64, geometry.group_count());
    assert_eq!(
        fold(geometry, cvs.iter().copied()).unwrap().as_bytes(),
        blake3::hash(volume).as_bytes(),
        "{} bytes",
        volume.len()
    );
    for (cv, (index, bytes)) in cvs.iter().zip((0..).zip(volume.chunks(GROUP_SIZE))) {
        assert_eq!(*cv, group_cv(geometry, GroupIndex(index), bytes));
        if geometry.group_count() > 1 {
            let twin = subtree_cv(bytes, index * GROUP_SIZE as u64);
            assert_eq!(cv.as_bytes(), &twin, "group {index}");
        }
    }
    for extent in extents(geometry) {
        let bytes = extent_bytes(geometry, extent, volume);
        let serial = extent_cvs(geometry, extent, bytes);
        assert_eq!(par_extent_cvs(geometry, extent, bytes), serial);
    }
    assert_pages_agree(volume);
}

#[test]
fn every_boundary_folds_to_the_hash_of_the_bytes() {
    for len in BOUNDARIES {
        assert_every_path_agrees(&noise(len, len as u64));
    }
}

#[test]
fn every_count_of_groups_up_to_seventy_folds_to_the_hash_of_the_bytes() {
    let volume = noise(70 * GROUP_SIZE, 70);
    for groups in 1..=70 {
        for len in [groups * GROUP_SIZE - 1, groups * GROUP_SIZE] {
            let root = root_of(&volume[..len]);
            assert_eq!(root.as_bytes(), blake3::hash(&volume[..len]).as_bytes());
        }
    }
}

#[test]
fn every_count_of_pages_of_up_to_three_groups_folds_to_the_hash_of_the_bytes() {
    let volume = noise(48 * PAGE_SIZE + 1, 48);
    for pages in 0..=48 {
        for len in [
            (pages * PAGE_SIZE).saturating_sub(1),
            pages * PAGE_SIZE,
            pages * PAGE_SIZE + 1,
        ] {
            assert_pages_agree(&volume[..len]);
        }
    }
}

#[test]
#[should_panic(expected = "bytes of the pages from 0")]
fn a_padded_last_page_is_refused() {
    let mut cvs = [Cv::from_bytes([0; 32]); 2];
    let geometry = Geometry::new(PAGE_SIZE as u64 + 1);
    page_cvs(geometry, PageIndex(0), &[0; 2 * PAGE_SIZE], &mut cvs);
}

#[test]
#[should_panic(expected = "pages of group 1")]
fn a_group_is_not_folded_from_some_of_its_pages() {
    let geometry = Geometry::new(GROUP_SIZE as u64 + 2 * PAGE_SIZE as u64);
    group_cv_of_pages(geometry, GroupIndex(1), &[Cv::from_bytes([0; 32])]);
}

#[test]
fn a_hole_hashes_like_the_zeros_that_it_stands_for() {
    let volume = vec![0; 2 * EXTENT_SIZE + GROUP_SIZE + 5];
    let geometry = Geometry::new(volume.len() as u64);
    for extent in extents(geometry) {
        let bytes = extent_bytes(geometry, extent, &volume);
        let cvs = extent_cvs(geometry, extent, bytes);
        assert_eq!(zero_extent_cvs(geometry, extent), cvs);
        let by_group = geometry.groups_of(extent).map(GroupIndex);
        let holes: Vec<Cv> = by_group
            .map(|group| zero_group_cv(geometry, group))
            .collect();
        assert_eq!(holes, cvs.to_vec());
    }
    let mut pages = vec![Cv::from_bytes([0; 32]); geometry.page_count() as usize];
    zero_page_cvs(geometry, PageIndex(0), &mut pages);
    assert_eq!(pages, page_cvs_of(&volume));
}

#[test]
fn roots_are_those_that_b3sum_printed() {
    let vectors = vectors(include_str!("vectors/roots.txt"));
    for fields in &vectors {
        let [size, root] = fields.as_slice() else {
            panic!("{fields:?} is not a size and a root");
        };
        let volume = pattern(size.parse().unwrap());
        assert_eq!(root_of(&volume).to_string(), *root, "{size} bytes");
    }
    assert_eq!(vectors.len(), 25);
}

#[test]
fn chaining_values_are_those_of_another_implementation() {
    let vectors = vectors(include_str!("vectors/cvs.txt"));
    for fields in &vectors {
        let [size, group, cv] = fields.as_slice() else {
            panic!("{fields:?} is not a size, a group and a chaining value");
        };
        let cvs = cvs_of(&pattern(size.parse().unwrap()));
        let cv: Root = cv.parse().unwrap();
        let ours = cvs[group.parse::<usize>().unwrap()];
        assert_eq!(ours.as_bytes(), cv.as_bytes(), "group {group} of {size}");
    }
    assert_eq!(vectors.len(), 13);
}

#[test]
fn values_of_pages_are_those_of_another_implementation() {
    let vectors = vectors(include_str!("vectors/page-cvs.txt"));
    for fields in &vectors {
        let [size, page, cv] = fields.as_slice() else {
            panic!("{fields:?} is not a size, a page and a chaining value");
        };
        let cvs = page_cvs_of(&pattern(size.parse().unwrap()));
        let cv: Root = cv.parse().unwrap();
        let ours = cvs[page.parse::<usize>().unwrap()];
        assert_eq!(ours.as_bytes(), cv.as_bytes(), "page {page} of {size}");
    }
    assert_eq!(vectors.len(), 15);
}

fn vectors(text: &str) -> Vec<Vec<&str>> {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.split_whitespace().collect())
        .collect()
}

/// Lengths near a multiple of a chunk, a group or an extent, and any others.
fn lengths() -> impl Strategy<Value = usize> {
    let near = |unit: usize, max: usize| {
        (0..=max, 0..=2_usize).prop_map(move |(n, around)| (n * unit + around).saturating_sub(1))
    };
    prop_oneof![near(KI, 300), near(GROUP_SIZE, 70), near(MI, 4), 0..3 * MI]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_length_agrees_with_the_slow_twin(len in lengths(), seed: u64) {
        assert_every_path_agrees(&noise(len, seed));
    }

    #[test]
    fn some_pages_of_an_extent_have_the_values_that_they_have_among_all(
        len in lengths().prop_filter("needs a page", |len| *len > 0),
        at in any::<proptest::sample::Index>(),
        chosen: [u8; 32],
        density in 1..5_u32,
    ) {
        let volume = noise(len, 2);
        let geometry = Geometry::new(len as u64);
        let all = page_cvs_of(&volume);
        let extent = ExtentIndex(at.index(geometry.extent_count() as usize) as u64);
        let first = geometry.pages_of_extent(extent).start as usize;
        let count = geometry.pages_in(extent);
        let mut pages = PageSet::EMPTY;
        let chosen = PageSet::from_bytes(chosen);
        (0..count).filter(|page| chosen.contains(*page) && page.trailing_zeros() < density)
            .for_each(|page| pages.insert(page));
        // What the other pages hold does not matter, nor are their places touched.
        let mut bytes = extent_bytes(geometry, extent, &volume).to_vec();
        for page in (0..count).filter(|page| !pages.contains(*page)) {
            bytes[geometry.page_range_in_extent(extent, page)].fill(0xA5);
        }
        let untouched = Cv::from_bytes([7; 32]);
        let mut cvs = vec![untouched; count];
        page_cvs_in_extent(geometry, extent, pages, &bytes, &mut cvs);
        for (page, cv) in cvs.iter().enumerate() {
            let expected = if pages.contains(page) { all[first + page] } else { untouched };
            prop_assert_eq!(*cv, expected, "page {} of extent {}", page, extent);
        }
    }

    #[test]
    fn one_flipped_bit_changes_one_chaining_value_and_the_root(
        len in lengths().prop_filter("needs a byte", |len| *len > 0),
        at in any::<proptest::sample::Index>(),
        bit in 0..8_u32,
    ) {
        let mut volume = noise(len, 1);
        let (cvs, root) = (cvs_of(&volume), root_of(&volume));
        let at = at.index(len);
        volume[at] ^= 1_u8 << bit;
        let changed = cvs_of(&volume);
        let differing: Vec<usize> = (0..cvs.len()).filter(|i| cvs[*i] != changed[*i]).collect();
        prop_assert_eq!(differing, [at / GROUP_SIZE]);
        assert_ne!(root_of(&volume), root);
    }
}
