//! Plans against their slow twin, against real hashes, and against providers that lie.

use std::collections::BTreeSet;
use std::slice::from_ref;

use lockstep_merkle::{Cv, GROUP_SIZE, MAX_VOLUME_SIZE, fold, group_cv};
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

/// Sizes around multiples of a group, and in between.
fn sizes() -> impl Strategy<Value = u64> {
    let near = |groups: u64, off: u64| (groups * GROUP_BYTES + off).saturating_sub(2);
    prop_oneof![
        (0..400_u64, 0..5_u64).prop_map(move |(groups, off)| near(groups, off)),
        0..400 * GROUP_BYTES,
    ]
}

fn some_ranges(volume_bytes: u64) -> impl Strategy<Value = Vec<Range<u64>>> {
    let range = (0..volume_bytes, 0..5 * GROUP_BYTES).prop_map(|(start, len)| start..start + len);
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
        (Just(base), Just(now), some_ranges(now + 3 * GROUP_BYTES))
    })
}

/// The slow twin: every group asked by itself.
fn slow_changed(delta: Delta<'_>) -> BTreeSet<u64> {
    let (base, now) = (delta.base, delta.now);
    let is_one = |geometry: Geometry| geometry.group_count() == 1;
    let is_changed = |group: &u64| {
        let range = now.group_range(GroupIndex(*group));
        let overlaps = |other: &Range<u64>| other.start.max(range.start) < other.end.min(range.end);
        let had_value =
            base.group_range(GroupIndex(*group)) == range && (is_one(base) == is_one(now));
        !had_value || delta.changed.iter().any(overlaps)
    };
    (0..now.group_count()).filter(is_changed).collect()
}

fn slow_edges(changed: &BTreeSet<u64>, count: u64) -> BTreeSet<u64> {
    let is_edge = |group: &u64| {
        let beside = [group.checked_sub(1), Some(group + 1)];
        let touches = beside.iter().flatten().any(|other| changed.contains(other));
        !changed.contains(group) && (touches || *group == 0 || group + 1 == count)
    };
    (0..count).filter(is_edge).collect()
}

proptest! {
    #[test]
    fn a_plan_is_what_every_group_by_itself_says((base, now, ranges) in deltas(), number: u64) {
        let delta = delta(base, now, &ranges);
        let plan = plan(delta, seed(number)).unwrap();
        let count = delta.now.group_count();
        let changed = slow_changed(delta);
        let edges = slow_edges(&changed, count);
        prop_assert!(plan.changed().iter().flatten().eq(changed.iter().copied()));
        let rest: BTreeSet<u64> = (0..count)
            .filter(|group| !changed.contains(group) && !edges.contains(group))
            .collect();
        let sample: BTreeSet<u64> = plan.sample().iter().map(|group| group.0).collect();
        prop_assert!(sample.is_subset(&rest));
        prop_assert_eq!(sample.len(), plan.sample().len());
        prop_assert_eq!(plan.unchanged(), rest.len() as u64);
        prop_assert_eq!(sample.len(), rest.len().min(64.max(rest.len().div_ceil(1000))));
        let checked: BTreeSet<u64> = edges.union(&sample).copied().collect();
        let reads: BTreeSet<u64> = checked.union(&changed).copied().collect();
        prop_assert!(plan.reads().iter().flatten().eq(reads.iter().copied()));
        let matching = (0..count + 2).filter(|group| plan.must_match(GroupIndex(*group)));
        prop_assert!(matching.eq(checked.iter().copied()));
        prop_assert!(plan.inherited().flatten().eq((0..count).filter(|group| !reads.contains(group))));
    }
}

fn cvs(bytes: &[u8]) -> Vec<Cv> {
    let geometry = Geometry::new(bytes.len() as u64);
    let groups = bytes.chunks(GROUP_SIZE).zip(0..);
    groups
        .map(|(bytes, group)| group_cv(geometry, GroupIndex(group), bytes))
        .collect()
}

/// The new volume's values by the plan: read where it says so, else inherited. None if a value that
/// must match does not.
fn inherit(plan: &Inheritance, base: &[Cv], now: &[u8]) -> Option<Vec<Cv>> {
    let geometry = Geometry::new(now.len() as u64);
    let value = |group| {
        let index = GroupIndex(group);
        if !plan.reads().contains(index) {
            return Some(base[group as usize]);
        }
        let range = geometry.group_range(index);
        let cv = group_cv(
            geometry,
            index,
            &now[range.start as usize..range.end as usize],
        );
        let lied = plan.must_match(index) && base[group as usize] != cv;
        (!lied).then_some(cv)
    };
    (0..geometry.group_count()).map(value).collect()
}

/// A volume of distinct groups, cheap to make.
fn some_volume(size: usize) -> Vec<u8> {
    (0..size).map(|at| (at / 4096) as u8 ^ at as u8).collect()
}

#[test]
fn inherited_values_fold_to_the_root_of_the_bytes() {
    const G: usize = GROUP_SIZE;
    let sizes = [
        0,
        1,
        G - 1,
        G,
        G + 1,
        2 * G,
        100 * G - 1,
        100 * G,
        100 * G + 1,
        130 * G + 5,
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
            let root = fold(Geometry::new(now_size as u64), values).unwrap();
            assert_eq!(
                root.as_bytes(),
                blake3::hash(&now).as_bytes(),
                "{base_size} to {now_size}"
            );
        }
    }
}

/// A provider that cuts a change short by a group, on either side, or leaves one at an end out.
#[test]
fn a_lie_at_an_edge_is_always_caught() {
    let size = 3000 * GROUP_SIZE;
    let base_cvs = cvs(&some_volume(size));
    for hidden in [99_usize, 110, 0, 2999] {
        let mut now = some_volume(size);
        now[100 * GROUP_SIZE..110 * GROUP_SIZE].fill(1);
        now[hidden * GROUP_SIZE + 5] ^= 1;
        let told = 100 * GROUP_BYTES..110 * GROUP_BYTES;
        let plan = plan(delta(size as u64, size as u64, from_ref(&told)), seed(2)).unwrap();
        assert!(inherit(&plan, &base_cvs, &now).is_none(), "group {hidden}");
    }
}

/// How often a provider that hides `hidden` groups is caught, over `runs` runs; the seeds are fixed,
/// so that this comes out the same each time.
fn caught(groups: u64, hidden: u64, runs: u64) -> (f64, f64) {
    let told = [
        50 * GROUP_BYTES..60 * GROUP_BYTES,
        400 * GROUP_BYTES..400 * GROUP_BYTES + 1,
    ];
    let size = groups * GROUP_BYTES;
    let lie = delta(size, size, &told);
    let honest = plan(lie, seed(0)).unwrap();
    let population = with_edges(honest.changed(), groups);
    let (mut hits, mut expected) = (0, 0.0);
    for run in 0..runs {
        // What is hidden is drawn apart from what is sampled.
        let ranks = sample::ranks(seed(run + (1 << 32)), honest.unchanged(), hidden);
        let hidden_groups = runs::nth_of_each(population.gaps(groups), &ranks);
        let plan = plan(lie, seed(run)).unwrap();
        let is_hit = hidden_groups.iter().any(|group| plan.must_match(*group));
        hits += u64::from(is_hit);
        expected = plan.chance_of_catching(hidden);
    }
    (hits as f64 / runs as f64, expected)
}

#[test]
fn a_lying_delta_is_caught_as_often_as_documented() {
    let cases = [
        (1000, 1, 20_000),
        (3000, 10, 5000),
        (3000, 45, 5000),
        (3000, 200, 2000),
        (200_000, 100, 2000),
        (200_000, 700, 1000),
    ];
    for (groups, hidden, runs) in cases {
        let (found, expected) = caught(groups, hidden, runs);
        let deviation = (expected * (1.0 - expected) / runs as f64).sqrt();
        assert!(
            (found - expected).abs() <= 4.0 * deviation,
            "{hidden} of {groups}: caught {found}, documented {expected} ± {deviation}"
        );
    }
}

#[test]
fn a_few_changed_groups_are_less_than_the_sample_and_so_always_caught() {
    let (found, expected) = caught(130, 60, 50);
    assert_eq!((found, expected), (1.0, 1.0));
}

/// 64 TiB with three changed ranges: the sample is the most of it.
#[test]
fn a_plan_costs_its_ranges_and_its_sample() {
    let size = 1 << 46;
    let ranges = [7..9, 1 << 30..1 << 31, size - 1..size];
    let plan = plan(delta(size, size, &ranges), seed(3)).unwrap();
    assert_eq!(plan.changed().iter().count(), 3);
    assert_eq!(plan.changed().count(), 1 + (1 << 14) + 1);
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
