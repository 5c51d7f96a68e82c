//! Plans against their slow twin, against real hashes, and against providers that lie.

use std::collections::BTreeSet;
use std::slice::from_ref;

use lockstep_merkle::{Cv, MAX_VOLUME_SIZE, PAGE_SIZE, fold_pages, page_cvs};
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::{collection, prop_assert, prop_assert_eq, proptest};

use super::*;

fn seed(number: u64) -> SampleSeed {
    let mut bytes = [0x5a; 32];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    SampleSeed(bytes)
}

fn delta(base: u64, now: u64, changed: &[Range<u64>]) -> Delta<'_> {
    Delta {
        base: Geometry::new(base),
        now: Geometry::new(now),
        changed,
    }
}

/// Sizes around multiples of a page, and in between.
fn sizes() -> impl Strategy<Value = u64> {
    let near = |pages: u64, off: u64| (pages * PAGE_BYTES + off).saturating_sub(2);
    prop_oneof![
        (0..3000_u64, 0..5_u64).prop_map(move |(pages, off)| near(pages, off)),
        0..3000 * PAGE_BYTES,
    ]
}

fn some_ranges(volume_bytes: u64) -> impl Strategy<Value = Vec<Range<u64>>> {
    let range = (0..volume_bytes, 0..5 * PAGE_BYTES).prop_map(|(start, len)| start..start + len);
    collection::vec(range, 0..12).prop_map(|mut ranges| {
        ranges.sort_by_key(|range| range.start);
        ranges
    })
}

/// Two sizes, often equal, and ranges that may stick out.
fn deltas() -> impl Strategy<Value = (u64, u64, Vec<Range<u64>>)> {
    let base_and_now = (sizes(), sizes(), any::<bool>());
    base_and_now.prop_flat_map(|(base, other, is_resized)| {
        let now = if is_resized { other } else { base };
        (Just(base), Just(now), some_ranges(now + 3 * PAGE_BYTES))
    })
}

/// The slow twin: every page asked by itself.
fn slow_changed(delta: Delta<'_>) -> BTreeSet<u64> {
    let (base, now) = (delta.base, delta.now);
    let is_one = |geometry: Geometry| geometry.page_count() == 1;
    let is_changed = |page: &u64| {
        let range = now.page_range(PageIndex(*page));
        let overlaps = |other: &Range<u64>| other.start.max(range.start) < other.end.min(range.end);
        let had_value = base.page_range(PageIndex(*page)) == range && (is_one(base) == is_one(now));
        !had_value || delta.changed.iter().any(overlaps)
    };
    (0..now.page_count()).filter(is_changed).collect()
}

fn slow_edges(changed: &BTreeSet<u64>, count: u64) -> BTreeSet<u64> {
    let is_edge = |page: &u64| {
        let beside = [page.checked_sub(1), Some(page + 1)];
        let touches = beside.iter().flatten().any(|other| changed.contains(other));
        !changed.contains(page) && (touches || *page == 0 || page + 1 == count)
    };
    (0..count).filter(is_edge).collect()
}

proptest! {
    #[test]
    fn a_plan_is_what_every_page_by_itself_says((base, now, ranges) in deltas(), number: u64) {
        let delta = delta(base, now, &ranges);
        let plan = plan(delta, seed(number)).unwrap();
        let count = delta.now.page_count();
        let changed = slow_changed(delta);
        let edges = slow_edges(&changed, count);
        prop_assert!(plan.changed().iter().flatten().eq(changed.iter().copied()));
        let rest: BTreeSet<u64> = (0..count)
            .filter(|page| !changed.contains(page) && !edges.contains(page))
            .collect();
        let sample: BTreeSet<u64> = plan.sample().iter().map(|page| page.0).collect();
        prop_assert!(sample.is_subset(&rest));
        prop_assert_eq!(sample.len(), plan.sample().len());
        prop_assert_eq!(plan.unchanged(), rest.len() as u64);
        prop_assert_eq!(sample.len(), rest.len().min(1024.max(rest.len().div_ceil(1000))));
        let checked: BTreeSet<u64> = edges.union(&sample).copied().collect();
        let reads: BTreeSet<u64> = checked.union(&changed).copied().collect();
        prop_assert!(plan.reads().iter().flatten().eq(reads.iter().copied()));
        let matching = (0..count + 2).filter(|page| plan.checks().contains(PageIndex(*page)));
        prop_assert!(matching.eq(checked.iter().copied()));
        prop_assert!(plan.inherited().flatten().eq((0..count).filter(|page| !reads.contains(page))));
    }
}

fn cvs(bytes: &[u8]) -> Vec<Cv> {
    let geometry = Geometry::new(bytes.len() as u64);
    let mut cvs = vec![Cv::from_bytes([0; 32]); geometry.page_count() as usize];
    page_cvs(geometry, PageIndex(0), bytes, &mut cvs);
    cvs
}

/// The new volume's values by the plan: read where it says so, else inherited. None if a value that
/// must match does not.
fn inherit(plan: &Inheritance, base: &[Cv], now: &[u8]) -> Option<Vec<Cv>> {
    let geometry = Geometry::new(now.len() as u64);
    let value = |page| {
        let index = PageIndex(page);
        if !plan.reads().contains(index) {
            return Some(base[page as usize]);
        }
        let range = geometry.page_range(index);
        let bytes = &now[range.start as usize..range.end as usize];
        let mut cv = [Cv::from_bytes([0; 32])];
        page_cvs(geometry, index, bytes, &mut cv);
        let [cv] = cv;
        let lied = plan.checks().contains(index) && base[page as usize] != cv;
        (!lied).then_some(cv)
    };
    (0..geometry.page_count()).map(value).collect()
}

/// A volume of distinct pages, cheap to make.
fn some_volume(size: usize) -> Vec<u8> {
    (0..size).map(|at| (at / 4096) as u8 ^ at as u8).collect()
}

#[test]
fn inherited_values_fold_to_the_root_of_the_bytes() {
    const G: usize = PAGE_SIZE;
    let sizes = [
        0,
        1,
        G - 1,
        G,
        G + 1,
        2 * G,
        1200 * G - 1,
        1200 * G,
        1200 * G + 1,
        1300 * G + 5,
    ];
    for base_size in sizes {
        let base = some_volume(base_size);
        let base_cvs = cvs(&base);
        for now_size in sizes {
            let mut now = base.clone();
            now.resize(now_size, 0xee);
            let changed = [
                now_size / 2..now_size / 2 + 1,
                now_size / 3 * 2..now_size / 3 * 2 + 70_000,
            ];
            let changed = changed.map(|range| range.start.min(now_size)..range.end.min(now_size));
            changed
                .iter()
                .for_each(|range| now[range.clone()].fill(0x77));
            let ranges = changed.map(|range| range.start as u64..range.end as u64);
            let plan = plan(delta(base_size as u64, now_size as u64, &ranges), seed(1)).unwrap();
            let values = inherit(&plan, &base_cvs, &now).expect("the delta did not lie");
            let root = fold_pages(Geometry::new(now_size as u64), values).unwrap();
            assert_eq!(
                root.as_bytes(),
                blake3::hash(&now).as_bytes(),
                "{base_size} to {now_size}"
            );
        }
    }
}

/// A provider that cuts a change short by a page, on either side, or leaves one at an end out.
#[test]
fn a_lie_at_an_edge_is_always_caught() {
    let size = 3000 * PAGE_SIZE;
    let base_cvs = cvs(&some_volume(size));
    for hidden in [99_usize, 110, 0, 2999] {
        let mut now = some_volume(size);
        now[100 * PAGE_SIZE..110 * PAGE_SIZE].fill(1);
        now[hidden * PAGE_SIZE + 5] ^= 1;
        let told = 100 * PAGE_BYTES..110 * PAGE_BYTES;
        let plan = plan(delta(size as u64, size as u64, from_ref(&told)), seed(2)).unwrap();
        assert!(inherit(&plan, &base_cvs, &now).is_none(), "page {hidden}");
    }
}

/// How often a provider that hides `hidden` pages is caught, over `runs` runs; the seeds are fixed,
/// so that this comes out the same each time.
fn caught(pages: u64, hidden: u64, runs: u64) -> (f64, f64) {
    let told = [
        50 * PAGE_BYTES..60 * PAGE_BYTES,
        400 * PAGE_BYTES..400 * PAGE_BYTES + 1,
    ];
    let size = pages * PAGE_BYTES;
    let lie = delta(size, size, &told);
    let honest = plan(lie, seed(0)).unwrap();
    let population = with_edges(honest.changed(), pages);
    let (mut hits, mut expected) = (0, 0.0);
    for run in 0..runs {
        // What is hidden is drawn apart from what is sampled.
        let ranks = sample::ranks(seed(run + (1 << 32)), honest.unchanged(), hidden);
        let hidden_pages = runs::nth_of_each(population.gaps(pages), &ranks);
        let plan = plan(lie, seed(run)).unwrap();
        let is_hit = hidden_pages
            .iter()
            .any(|page| plan.checks().contains(*page));
        hits += u64::from(is_hit);
        expected = plan.chance_of_catching(hidden);
    }
    (hits as f64 / runs as f64, expected)
}

#[test]
fn a_lying_delta_is_caught_as_often_as_documented() {
    let cases = [
        (20_000, 1, 4000),
        (20_000, 10, 2000),
        (50_000, 45, 2000),
        (50_000, 200, 1000),
        (2_000_000, 100, 500),
        (2_000_000, 700, 300),
    ];
    for (pages, hidden, runs) in cases {
        let (found, expected) = caught(pages, hidden, runs);
        let deviation = (expected * (1.0 - expected) / runs as f64).sqrt();
        assert!(
            (found - expected).abs() <= 4.0 * deviation,
            "{hidden} of {pages}: caught {found}, documented {expected} ± {deviation}"
        );
    }
}

#[test]
fn a_few_changed_pages_are_less_than_the_sample_and_so_always_caught() {
    let (found, expected) = caught(130, 60, 50);
    assert_eq!((found, expected), (1.0, 1.0));
}

/// 4 TiB with three changed ranges: the sample is the most of it.
#[test]
fn a_plan_costs_its_ranges_and_its_sample() {
    let size = 1 << 42;
    let ranges = [7..9, 1 << 30..1 << 31, size - 1..size];
    let plan = plan(delta(size, size, &ranges), seed(3)).unwrap();
    assert_eq!(plan.changed().iter().count(), 3);
    assert_eq!(plan.changed().count(), 1 + (1 << 18) + 1);
    let sample = plan.sample().len() as u64;
    assert_eq!(sample, plan.unchanged().div_ceil(1000));
    assert!(plan.reads().iter().count() as u64 <= 3 + sample);
    let none = super::plan(delta(MAX_VOLUME_SIZE, 5, &[]), seed(3)).unwrap();
    assert_eq!(none.changed().count(), 1);
}

#[test]
fn what_is_no_delta_is_refused_by_name() {
    let refused = |ranges: &[Range<u64>]| plan(delta(9, 9, ranges), seed(0)).unwrap_err();
    #[expect(clippy::reversed_empty_ranges, reason = "this is what is refused")]
    let reversed = refused(&[0..1, 3..2]);
    assert_eq!(
        reversed.to_string(),
        "range 1 of the delta ends at 2, before its start at 3"
    );
    let unsorted = refused(&[4..5, 3..6]);
    assert_eq!(
        unsorted.to_string(),
        "range 1 of the delta starts at 3, before the one in front of it"
    );
    let huge = plan(delta(9, 9, &[0..u64::MAX, u64::MAX..u64::MAX]), seed(0)).unwrap();
    assert_eq!(huge.changed().count(), 1);
}
