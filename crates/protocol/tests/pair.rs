//! Whole runs between two sessions, without a disk, a network or a clock.
//!
//! One seed gives one run: a scheduler takes any step that is possible next, in random order, and
//! every message goes through its bytes. `LOCKSTEP_SEEDS=n` multiplies the number of seeds.
//!
//! | part    | fault                                             | what must hold                   |
//! |---------|---------------------------------------------------|----------------------------------|
//! | lanes   | bulk overtakes bulk and control                   | nothing changes                  |
//! | lanes   | digests cut anywhere, both scans at any pace      | nothing changes                  |
//! | link    | lost for good after any message                   | not settled; the next run ships  |
//! |         |                                                   | only what is missing             |
//! | program | stops with the link; the page cache stays         | as above                         |
//! | machine | stops; unflushed writes kept, lost or torn        | as above                         |
//! | medium  | a flushed write lost, torn, or with a bit flipped | repaired at most twice, else     |
//! |         |                                                   | exhausted, never settled         |
//! | source  | a byte changes, for a moment or for good          | repaired or exhausted; a settled |
//! |         |                                                   | target is what was hashed        |
//! | source  | hostile: valid frames out of turn, repeated,      | violation or settled rightly     |
//! |         | about other extents, with other pages or hashes   |                                  |
//! | target  | hostile: wants of any shape and number, early     | violation or verified rightly    |
//! |         | or foreign roots, repeated frames                 |                                  |
//!
//! Not modelled: a medium that changes what was read back already, and a target that lies about
//! itself; no peer can see either.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "pair/disk.rs"]
mod disk;
#[path = "pair/hostile.rs"]
mod hostile;
#[path = "pair/random.rs"]
mod random;
#[path = "pair/run.rs"]
mod run;
#[path = "pair/source_end.rs"]
mod source_end;
#[path = "pair/target_end.rs"]
mod target_end;
#[path = "pair/volumes.rs"]
mod volumes;

use disk::DiskFaults;
use lockstep_merkle::{EXTENT_SIZE, Root};
use lockstep_protocol::limits::{MAX_REPAIRS, MAX_WANTS_PER_EXTENT};
use lockstep_protocol::{Hold, Plan, Purpose, Scope, VerifyScope, VolumeState};
use random::Random;
use run::{Change, Hostile, Outcome, Setup, run};
use source_end::SourceEnding;
use target_end::TargetEnding;
use volumes::{
    DIFFERENCES, Difference, Volumes, differing, differing_extents, differing_groups, some_size,
    volumes,
};

/// Calls `story` for every seed, and names the one that fails.
fn for_seeds(count: u64, story: impl Fn(Random) + std::panic::RefUnwindSafe) {
    let factor = std::env::var("LOCKSTEP_SEEDS").map_or(1, |factor| factor.parse().unwrap());
    for seed in 0..count * factor {
        let result = std::panic::catch_unwind(|| story(Random::new(seed)));
        assert!(result.is_ok(), "seed {seed} failed, see above");
    }
}

fn root_of(bytes: &[u8]) -> Root {
    Root::from_bytes(*blake3::hash(bytes).as_bytes())
}

fn some_volumes(random: &mut Random) -> Volumes {
    let size = some_size(random);
    let difference = random.of(&DIFFERENCES);
    volumes(random, size, difference)
}

/// The run was proved, and both ends mean the same bytes.
fn assert_equal(outcome: &Outcome, source: &[u8]) {
    assert_eq!(
        outcome.verified(),
        Some(root_of(source)),
        "{:?} {:?}",
        outcome.source,
        outcome.target
    );
    assert!(outcome.medium == source, "proved, but not equal");
    assert_eq!(outcome.state, VolumeState::Consistent);
}

#[test]
fn every_honest_run_ends_equal_and_does_no_more_than_it_must() {
    for_seeds(1500, |mut random| {
        let setup = Setup::any(&mut random);
        let Volumes { source, target } = some_volumes(&mut random);
        let (size, extents) = (
            source.len() as u64,
            source.len().div_ceil(EXTENT_SIZE) as u64,
        );
        let (changed, groups, asked) = match setup.scope {
            Scope::Differences => (
                differing(&source, &target),
                differing_groups(&source, &target),
                differing_extents(&source, &target),
            ),
            Scope::Everything => (size, size, extents),
        };
        let volumes = Volumes {
            source: source.clone(),
            target,
        };
        let outcome = run(random, setup, volumes);

        assert_equal(&outcome, &source);
        assert_eq!(outcome.stats.extents_compared, extents);
        assert_eq!(outcome.stats.bytes_written, changed);
        assert!(outcome.bytes_shipped <= changed);
        assert_eq!(
            outcome.states,
            u64::from(changed > 0),
            "said once, and only if something changed"
        );
        let verified = if setup.verify == VerifyScope::Full {
            size
        } else {
            groups
        };
        assert_eq!(outcome.stats.bytes_verified, verified);
        let counts =
            setup.hold == Hold::UntilProceed && matches!(setup.plan, Plan::Keep | Plan::Resize);
        assert_eq!(outcome.wants, asked * if counts { 2 } else { 1 });
        assert_eq!(outcome.bytes_counted, if counts { changed } else { 0 });
    });
}

#[test]
fn an_identical_target_is_asked_nothing_and_written_nothing() {
    for_seeds(300, |mut random| {
        let setup = Setup {
            scope: Scope::Differences,
            ..Setup::any(&mut random)
        };
        let size = some_size(&mut random);
        let Volumes { source, target } = volumes(&mut random, size, Difference::Identical);
        let outcome = run(
            random,
            setup,
            Volumes {
                source: source.clone(),
                target,
            },
        );
        assert_equal(&outcome, &source);
        assert_eq!((outcome.wants, outcome.writes, outcome.states), (0, 0, 0));
    });
}

#[test]
fn a_blank_target_gets_no_zeros_over_the_link() {
    for_seeds(100, |mut random| {
        let size = some_size(&mut random);
        let Volumes { source, target } = volumes(&mut random, size, Difference::BlankTarget);
        let data = differing(&source, &target);
        let outcome = run(
            random,
            Setup::plain(),
            Volumes {
                source: source.clone(),
                target,
            },
        );
        assert_equal(&outcome, &source);
        assert_eq!(outcome.bytes_shipped, data);
    });
}

#[test]
fn a_comparison_counts_exactly_and_writes_nothing() {
    for_seeds(300, |mut random| {
        let setup = Setup {
            purpose: Purpose::Compare,
            scope: Scope::Differences,
            ..Setup::any(&mut random)
        };
        let Volumes { source, target } = some_volumes(&mut random);
        let before = target.clone();
        let changed = differing(&source, &target);
        let outcome = run(random, setup, Volumes { source, target });
        assert_eq!(
            (outcome.source.clone(), outcome.target.clone()),
            (None, None)
        );
        assert!(outcome.compared && outcome.done.is_some());
        assert_eq!(outcome.bytes_counted, changed);
        assert_eq!((outcome.writes, outcome.bytes_shipped), (0, 0));
        assert!(outcome.medium == before);
    });
}

#[test]
fn without_agreement_nothing_is_touched() {
    for_seeds(200, |mut random| {
        let setup = Setup {
            hold: Hold::UntilProceed,
            plan: random.of(&[Plan::Keep, Plan::Resize]),
            agree: false,
            ..Setup::any(&mut random)
        };
        let Volumes { source, target } = some_volumes(&mut random);
        let before = target.clone();
        let outcome = run(random, setup, Volumes { source, target });
        assert!(outcome.compared);
        assert_eq!((outcome.verified(), outcome.target.clone()), (None, None));
        assert_eq!((outcome.writes, outcome.states), (0, 0));
        assert!(outcome.medium == before && outcome.left == before);
    });
}

/// A run like `setup` that loses its link, and the one after it.
fn lose_the_link(seed: u64, setup: Setup, cut_after: u64) -> bool {
    let mut random = Random::new(seed);
    let Volumes { source, target } = {
        let size = 1 + random.below(EXTENT_SIZE * 3);
        let difference = random.of(&DIFFERENCES);
        volumes(&mut random, size, difference)
    };
    let cut = Setup {
        cut_after: Some(cut_after),
        ..setup
    };
    let first = run(
        random,
        cut,
        Volumes {
            source: source.clone(),
            target,
        },
    );
    if first.verified().is_some() {
        return true;
    }
    assert!(!matches!(first.source, Some(SourceEnding::Verified(_))));
    if first.writes > 0 && !matches!(first.target, Some(TargetEnding::Verified(_))) {
        assert_eq!(first.state, VolumeState::Inconsistent);
    }
    let missing = differing(&source, &first.left);
    let again = Setup {
        scope: Scope::Differences,
        ..setup
    };
    let volumes = Volumes {
        source: source.clone(),
        target: first.left,
    };
    let second = run(Random::new(!seed), again, volumes);
    assert_equal(&second, &source);
    assert_eq!(second.stats.bytes_written, missing);
    false
}

#[test]
fn a_link_lost_after_any_message_leaves_nothing_settled_and_little_to_do() {
    for_seeds(25, |mut random| {
        let (setup, seed) = (Setup::any(&mut random), random.next());
        let whole = (0..).find(|cut| lose_the_link(seed, setup, *cut)).unwrap();
        assert!(whole >= 4, "hello, welcome, done and verified at least");
    });
}

#[test]
fn what_the_medium_loses_is_repaired_or_the_run_fails() {
    let (mut repaired, mut exhausted) = (0, 0);
    let tally = std::sync::Mutex::new((&mut repaired, &mut exhausted));
    for_seeds(800, |mut random| {
        let at_most = 1 + random.below(12);
        let faults = DiskFaults {
            lost: 10,
            torn: 10,
            flipped: 10,
            at_most,
        };
        let setup = Setup {
            faults,
            ..Setup::any(&mut random)
        };
        let Volumes { source, target } = some_volumes(&mut random);
        let extents = source.len().div_ceil(EXTENT_SIZE) as u64;
        let outcome = run(
            random,
            setup,
            Volumes {
                source: source.clone(),
                target,
            },
        );
        assert!(outcome.wants <= extents * u64::from(MAX_WANTS_PER_EXTENT));
        let mut tally = tally.lock().unwrap();
        if outcome.target == Some(TargetEnding::Exhausted) {
            assert!(outcome.faults_done > usize::from(MAX_REPAIRS));
            assert_eq!(outcome.source, Some(SourceEnding::TargetFailed));
            assert_eq!(outcome.state, VolumeState::Inconsistent);
            *tally.1 += 1;
        } else {
            assert_equal(&outcome, &source);
            *tally.0 += usize::from(outcome.faults_done > 0);
        }
    });
    assert!(
        repaired > 100 && exhausted > 5,
        "{repaired} repaired, {exhausted} exhausted"
    );
}

#[test]
fn two_faults_are_always_repaired() {
    for_seeds(300, |mut random| {
        let at_most = usize::from(MAX_REPAIRS);
        let faults = DiskFaults {
            lost: 30,
            torn: 20,
            flipped: 50,
            at_most,
        };
        let setup = Setup {
            faults,
            ..Setup::any(&mut random)
        };
        let Volumes { source, target } = some_volumes(&mut random);
        let outcome = run(
            random,
            setup,
            Volumes {
                source: source.clone(),
                target,
            },
        );
        assert_equal(&outcome, &source);
    });
}

#[test]
fn a_medium_that_keeps_nothing_is_never_settled() {
    for_seeds(200, |mut random| {
        let faults = DiskFaults {
            flipped: 100,
            at_most: usize::MAX,
            ..DiskFaults::default()
        };
        let setup = Setup {
            faults,
            ..Setup::any(&mut random)
        };
        let Volumes { source, target } = some_volumes(&mut random);
        let equal = source == target && setup.scope == Scope::Differences || source.is_empty();
        let outcome = run(random, setup, Volumes { source, target });
        assert_eq!(outcome.verified().is_some(), equal);
        assert_eq!(outcome.target == Some(TargetEnding::Exhausted), !equal);
    });
}

#[test]
fn a_source_that_changes_under_the_run_never_yields_a_mixture() {
    let tally = std::sync::Mutex::new((0, 0));
    for_seeds(800, |mut random| {
        let change = random.of(&[Change::Passing, Change::Lasting]);
        let setup = Setup {
            change,
            ..Setup::any(&mut random)
        };
        let outcome = {
            let volumes = some_volumes(&mut random);
            run(random, setup, volumes)
        };
        let mut tally = tally.lock().unwrap();
        match &outcome.target {
            Some(TargetEnding::Verified(root)) => {
                assert_eq!(outcome.done, Some(*root));
                assert_eq!(root_of(&outcome.medium), *root);
                tally.0 += usize::from(outcome.medium != outcome.source_volume);
            }
            ending => {
                assert_eq!(ending, &Some(TargetEnding::Exhausted));
                assert_eq!(outcome.source, Some(SourceEnding::TargetFailed));
                tally.1 += 1;
            }
        }
    });
    let (overtaken, exhausted) = *tally.lock().unwrap();
    assert!(
        overtaken > 20 && exhausted > 20,
        "{overtaken} overtaken, {exhausted} exhausted"
    );
}

#[test]
fn a_hostile_source_is_caught_or_proves_what_it_promised() {
    let tally = std::sync::Mutex::new((0, 0));
    for_seeds(1500, |mut random| {
        let setup = Setup {
            hostile: Hostile::Source,
            ..Setup::any(&mut random)
        };
        let purpose = random.of(&[Purpose::Sync, Purpose::Sync, Purpose::Compare]);
        let volumes = some_volumes(&mut random);
        let before = volumes.target.clone();
        let outcome = run(random, Setup { purpose, ..setup }, volumes);
        let mut tally = tally.lock().unwrap();
        if let Some(TargetEnding::Verified(root)) = outcome.target {
            assert_eq!(root_of(&outcome.medium), root);
            tally.0 += 1;
        }
        tally.1 += usize::from(matches!(outcome.target, Some(TargetEnding::Violation(_))));
        if purpose == Purpose::Compare {
            assert_eq!(outcome.verified(), None);
            assert!(outcome.medium == before, "a comparison wrote");
        }
    });
    let (proved, caught) = *tally.lock().unwrap();
    assert!(
        proved > 300 && caught > 300,
        "{proved} proved, {caught} caught"
    );
}

#[test]
fn a_hostile_target_is_caught_or_told_the_truth() {
    let tally = std::sync::Mutex::new((0, 0));
    for_seeds(1500, |mut random| {
        let setup = Setup {
            hostile: Hostile::Target,
            ..Setup::any(&mut random)
        };
        let volumes = some_volumes(&mut random);
        let extents = volumes.source.len().div_ceil(EXTENT_SIZE) as u64;
        let source = volumes.source.clone();
        let outcome = run(random, setup, volumes);
        assert!(outcome.wants <= extents * u64::from(MAX_WANTS_PER_EXTENT));
        let mut tally = tally.lock().unwrap();
        match outcome.source {
            Some(SourceEnding::Verified(root)) => {
                assert_eq!((outcome.done, root), (Some(root), root_of(&source)));
                tally.0 += 1;
            }
            Some(SourceEnding::Violation(_)) => tally.1 += 1,
            _ => {}
        }
    });
    let (proved, caught) = *tally.lock().unwrap();
    assert!(
        proved > 300 && caught > 300,
        "{proved} proved, {caught} caught"
    );
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let once = || {
        let mut random = Random::new(7);
        let volumes = volumes(
            &mut random,
            3 * EXTENT_SIZE + 77,
            Difference::ScatteredPages,
        );
        let setup = Setup {
            change: Change::Passing,
            ..Setup::plain()
        };
        let outcome = run(random, setup, volumes);
        (
            outcome.delivered,
            outcome.wants,
            outcome.source,
            outcome.medium,
        )
    };
    assert!(once() == once());
}
