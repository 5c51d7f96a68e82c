//! The promise of claims, case by case.

use super::*;

const DEVICE: &str = "file inode 12";

pub(crate) fn claim(epoch: u64, run: &str) -> Claim {
    Claim {
        epoch: Epoch::new(epoch).unwrap(),
        run: run.parse().unwrap(),
        source: "db1".parse().unwrap(),
        volume: "0198f3b2-8c7e-7d11-9a51-2f6c0a1b9e77".parse().unwrap(),
    }
}

fn promise(epoch: u64, run: &str) -> Promise {
    Promise {
        claim: claim(epoch, run),
        device: DEVICE.to_owned(),
    }
}

fn fresh() -> Gatekeeper {
    Gatekeeper::restore(claim(1, "a").volume, Role::Replica, None).0
}

/// One that has let `a` in with epoch 5.
fn writing() -> Gatekeeper {
    let mut keeper = fresh();
    assert_eq!(
        keeper.claim(claim(5, "a"), DEVICE),
        [Effect::Persist(promise(5, "a"))]
    );
    assert!(
        !keeper.permits(&claim(5, "a")),
        "not before its promise is durable"
    );
    assert_eq!(
        keeper.report(Outcome::Persisted),
        [Effect::Grant(claim(5, "a"))]
    );
    assert!(keeper.permits(&claim(5, "a")));
    keeper
}

fn refused(keeper: &mut Gatekeeper, wanted: Claim) -> Refusal {
    match &keeper.claim(wanted, DEVICE)[..] {
        [Effect::Refuse(_, refusal)] => refusal.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_older_run_is_fenced_and_an_equal_one_is_refused() {
    let mut keeper = writing();
    let promised = Epoch::new(5).unwrap();
    assert_eq!(
        refused(&mut keeper, claim(4, "b")),
        Refusal::Fenced { promised }
    );
    let run = "a".parse().unwrap();
    assert_eq!(
        refused(&mut keeper, claim(5, "b")),
        Refusal::Taken {
            epoch: promised,
            run
        }
    );
    let other_source = Claim {
        source: "db9".parse().unwrap(),
        ..claim(5, "a")
    };
    assert!(matches!(
        refused(&mut keeper, other_source),
        Refusal::Taken { .. }
    ));
    assert!(keeper.permits(&claim(5, "a")));
    assert_eq!(
        keeper.claim(claim(5, "a"), DEVICE),
        [Effect::Grant(claim(5, "a"))],
        "its claim came twice"
    );
}

#[test]
fn a_newer_run_waits_until_the_older_is_stopped_drained_flushed_and_its_promise_is_durable() {
    let mut keeper = writing();
    assert_eq!(
        keeper.claim(claim(6, "b"), DEVICE),
        [Effect::Stop(claim(5, "a"))]
    );
    assert!(!keeper.permits(&claim(5, "a")), "at once");
    assert_eq!(keeper.claim(claim(6, "b"), DEVICE), [], "it will be told");
    assert!(matches!(
        refused(&mut keeper, claim(5, "a")),
        Refusal::Fenced { .. }
    ));
    assert_eq!(
        keeper.report(Outcome::Drained(claim(9, "x"))),
        [],
        "another run's end"
    );
    assert_eq!(
        keeper.report(Outcome::Drained(claim(5, "a"))),
        [Effect::Flush]
    );
    assert_eq!(
        keeper.report(Outcome::Flushed),
        [Effect::Persist(promise(6, "b"))]
    );
    assert!(!keeper.permits(&claim(6, "b")));
    assert_eq!(
        keeper.report(Outcome::Persisted),
        [Effect::Grant(claim(6, "b"))]
    );
    assert!(keeper.permits(&claim(6, "b")) && !keeper.permits(&claim(5, "a")));
}

#[test]
fn of_several_newer_runs_the_newest_gets_in() {
    let mut keeper = writing();
    keeper.claim(claim(6, "b"), DEVICE);
    let effects = keeper.claim(claim(8, "d"), DEVICE);
    let promised = Epoch::new(8).unwrap();
    assert_eq!(
        effects,
        [Effect::Refuse(claim(6, "b"), Refusal::Fenced { promised })]
    );
    keeper.report(Outcome::Drained(claim(5, "a")));
    keeper.report(Outcome::Flushed);
    let effects = keeper.claim(claim(9, "e"), DEVICE);
    assert!(matches!(&effects[..], [Effect::Refuse(..)]), "{effects:?}");
    assert_eq!(
        keeper.report(Outcome::Persisted),
        [Effect::Persist(promise(9, "e"))],
        "the promise to d counts no more"
    );
    assert_eq!(
        keeper.report(Outcome::Persisted),
        [Effect::Grant(claim(9, "e"))]
    );
}

#[test]
fn what_fails_lets_nobody_in() {
    let mut keeper = writing();
    keeper.claim(claim(6, "b"), DEVICE);
    keeper.report(Outcome::Drained(claim(5, "a")));
    assert_eq!(
        keeper.report(Outcome::FlushFailed),
        [Effect::Refuse(claim(6, "b"), Refusal::NotReady)]
    );
    assert!(
        matches!(refused(&mut keeper, claim(5, "a")), Refusal::Fenced { .. }),
        "it stays fenced"
    );
    assert_eq!(
        keeper.claim(claim(6, "b"), DEVICE),
        [Effect::Persist(promise(6, "b"))],
        "it may try again"
    );
    assert_eq!(
        keeper.report(Outcome::PersistFailed),
        [Effect::Refuse(claim(6, "b"), Refusal::NotReady)]
    );
    assert_eq!(keeper.phase(), Phase::Quiet);
}

#[test]
fn a_primary_refuses_everybody_and_stops_who_writes() {
    let mut keeper = writing();
    keeper.claim(claim(6, "b"), DEVICE);
    assert_eq!(
        keeper.set_role(Role::Primary),
        [Effect::Refuse(claim(6, "b"), Refusal::Primary)]
    );
    assert_eq!(refused(&mut keeper, claim(7, "c")), Refusal::Primary);
    let mut keeper = writing();
    assert_eq!(
        keeper.set_role(Role::Primary),
        [Effect::Stop(claim(5, "a"))]
    );
    assert!(!keeper.permits(&claim(5, "a")));
    keeper.report(Outcome::Drained(claim(5, "a")));
    keeper.report(Outcome::Flushed);
    assert_eq!(refused(&mut keeper, claim(7, "c")), Refusal::Primary);
    keeper.set_role(Role::Replica);
    assert_eq!(
        keeper.claim(claim(7, "c"), DEVICE),
        [Effect::Persist(promise(7, "c"))]
    );
}

#[test]
fn a_promise_survives_a_restart() {
    let volume = claim(1, "a").volume;
    let (mut keeper, effects) = Gatekeeper::restore(volume, Role::Replica, Some(promise(5, "a")));
    assert_eq!(
        effects,
        [Effect::Flush],
        "what the earlier process wrote may be in flight"
    );
    assert!(!keeper.permits(&claim(5, "a")));
    assert!(matches!(
        refused(&mut keeper, claim(4, "z")),
        Refusal::Fenced { .. }
    ));
    assert!(matches!(
        refused(&mut keeper, claim(5, "b")),
        Refusal::Taken { .. }
    ));
    assert_eq!(
        keeper.claim(claim(5, "a"), "file inode 13"),
        [Effect::Refuse(claim(5, "a"), Refusal::OtherDevice)]
    );
    assert_eq!(keeper.claim(claim(5, "a"), DEVICE), []);
    assert_eq!(
        keeper.report(Outcome::Flushed),
        [Effect::Persist(promise(5, "a"))]
    );
    assert_eq!(
        keeper.report(Outcome::Persisted),
        [Effect::Grant(claim(5, "a"))]
    );
}

#[test]
fn another_volumes_claim_is_refused() {
    let other = Claim {
        volume: "0198f3b2-8c7e-7d11-9a51-2f6c0a1b9e78".parse().unwrap(),
        ..claim(5, "a")
    };
    assert_eq!(refused(&mut fresh(), other), Refusal::OtherVolume);
}

#[test]
fn epochs_and_runs_are_bounded() {
    assert_eq!(Epoch::new(0), None);
    assert_eq!(Epoch::new(u64::MAX).unwrap().next(), None);
    assert!("".parse::<RunName>().is_err() && "a\n".parse::<RunName>().is_err());
    assert!("r".repeat(MAX_RUN_BYTES + 1).parse::<RunName>().is_err());
    assert!(serde_json::from_str::<Epoch>("0").is_err());
}
