//! Comparison in runs against a comparison group by group.

use lockstep_merkle::{Cv, Geometry, GroupIndex, Run, RunKind, compare, zero_group_cv};
use proptest::collection::vec;
use proptest::{prop_assert, prop_assert_eq, proptest};

/// Few distinct values, so that runs of every kind come up.
fn cv(value: u8) -> Cv {
    Cv::from_bytes([value; 32])
}

fn runs(left: &[u8], right: &[u8]) -> Vec<Run> {
    let of = |side: &[u8]| -> Vec<Cv> { side.iter().map(|value| cv(*value)).collect() };
    compare(of(left), of(right)).collect()
}

fn run(kind: RunKind, groups: std::ops::Range<u64>) -> Run {
    Run { kind, groups }
}

/// The naive twin.
fn kind_of_group(left: &[u8], right: &[u8], group: usize) -> RunKind {
    match (left.get(group), right.get(group)) {
        (Some(left), Some(right)) if left == right => RunKind::Same,
        (Some(_), Some(_)) => RunKind::Differ,
        (Some(_), None) => RunKind::LeftOnly,
        _ => RunKind::RightOnly,
    }
}

proptest! {
    #[test]
    fn runs_say_of_every_group_what_the_naive_comparison_says(
        left in vec(0..2_u8, 0..200),
        right in vec(0..2_u8, 0..200),
    ) {
        let runs = runs(&left, &right);
        let mut expected_start = 0;
        for run in &runs {
            prop_assert_eq!(run.groups.start, expected_start);
            prop_assert!(!run.groups.is_empty());
            expected_start = run.groups.end;
            for group in run.groups.clone() {
                prop_assert_eq!(run.kind, kind_of_group(&left, &right, group as usize));
            }
        }
        prop_assert_eq!(expected_start as usize, left.len().max(right.len()));
        prop_assert!(runs.windows(2).all(|pair| pair[0].kind != pair[1].kind));
    }
}

#[test]
fn equal_volumes_are_one_run_and_empty_ones_none() {
    assert_eq!(runs(&[1; 9], &[1; 9]), [run(RunKind::Same, 0..9)]);
    assert_eq!(runs(&[], &[]), []);
}

#[test]
fn what_only_one_side_has_comes_last() {
    let expected = [
        run(RunKind::Same, 0..1),
        run(RunKind::Differ, 1..2),
        run(RunKind::LeftOnly, 2..4),
    ];
    assert_eq!(runs(&[1, 1, 1, 1], &[1, 2]), expected);
    assert_eq!(runs(&[], &[1, 2]), [run(RunKind::RightOnly, 0..2)]);
}

/// An iterator may come back to life after its end; a comparison may not.
#[test]
fn a_side_that_ended_stays_ended() {
    let mut calls = 0;
    let flickering = std::iter::from_fn(|| {
        calls += 1;
        (calls != 2).then(|| cv(1))
    });
    let runs: Vec<Run> = compare(flickering, [cv(1); 3]).collect();
    let expected = [run(RunKind::Same, 0..1), run(RunKind::RightOnly, 1..3)];
    assert_eq!(runs, expected);
}

#[test]
fn a_grown_volume_keeps_its_whole_groups_and_differs_in_the_cut_one() {
    let zeros = |size: u64| {
        let geometry = Geometry::new(size);
        (0..geometry.group_count()).map(move |group| zero_group_cv(geometry, GroupIndex(group)))
    };
    let runs: Vec<Run> = compare(zeros(200_000), zeros(300_000)).collect();
    let expected = [
        run(RunKind::Same, 0..3),
        run(RunKind::Differ, 3..4),
        run(RunKind::RightOnly, 4..5),
    ];
    assert_eq!(runs, expected);
}
