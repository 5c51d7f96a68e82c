//! Runs whose word turned out to be false take `consistent` back from what rests on it, and from
//! nothing else.

use lockstep_ledger::{Doubt, Doubted, Standing, State, VolumeKey, peek};

use crate::scene::{Scene, identity, proof, run};

fn doubt(runs: &[&str]) -> Doubt {
    Doubt {
        runs: runs.iter().map(|&name| name.to_owned()).collect(),
        reason: "its delta lied".to_owned(),
    }
}

#[test]
fn a_record_of_a_doubted_run_is_inconsistent_at_once_and_says_why() {
    let scene = Scene::new();
    scene.sync("second");
    let claim = scene.open().claim(&scene.key, run("third")).unwrap();
    let Doubted::Downgraded(overwriting) = claim.doubt(&doubt(&["first", "second"])).unwrap()
    else {
        panic!("it rests on the second run");
    };
    let Standing::Inconsistent(record) = scene.standing() else {
        panic!("{:?}", scene.standing());
    };
    assert_eq!(record.reason.as_deref(), Some("its delta lied"));
    assert_eq!(record.run, "third");
    // Whatever is there: a size that is about to change does not make it unknown.
    let other = peek(&scene.dir, &scene.key, &identity("b"));
    assert_eq!(other.word(), "inconsistent");

    overwriting
        .consistent(identity("a"), proof(9), 0, 3000)
        .unwrap();
    let Standing::Consistent(record) = scene.standing() else {
        panic!("{:?}", scene.standing());
    };
    assert_eq!((record.reason, record.root), (None, Some([9; 32])));
    let states: Vec<State> = scene
        .open()
        .history(&scene.key)
        .unwrap()
        .iter()
        .map(|record| record.state)
        .collect();
    assert_eq!(states, [State::Consistent, State::Consistent]);
}

#[test]
fn a_run_that_ends_after_a_downgrade_leaves_it() {
    let scene = Scene::new();
    scene.sync("second");
    let claim = scene.open().claim(&scene.key, run("third")).unwrap();
    drop(claim.doubt(&doubt(&["second"])).unwrap());
    assert_eq!(scene.word(), "inconsistent");
    assert_eq!(scene.open().history(&scene.key).unwrap().len(), 2);
}

#[test]
fn records_of_other_runs_and_older_records_stand() {
    let scene = Scene::new();
    let stands = |doubted: &[&str], word: &str| {
        let claim = scene.open().claim(&scene.key, run("later")).unwrap();
        let Doubted::Stands(claim) = claim.doubt(&doubt(doubted)).unwrap() else {
            panic!("{doubted:?} are not what it rests on");
        };
        claim.release();
        assert_eq!(scene.word(), word);
    };
    stands(&["first"], "unknown");
    scene.sync("first");
    scene.sync("second");
    stands(&[], "consistent");
    stands(&["first", "third"], "consistent");
    let claim = scene.open().claim(&scene.key, run("third")).unwrap();
    let failed = claim.overwrite(Some(identity("a"))).unwrap();
    failed.failed("fdatasync: EIO", 5000).unwrap();
    stands(&["third"], "failed");
}

#[test]
fn every_volume_of_a_ledger_is_looked_at_and_those_in_use_are_named() {
    let scene = Scene::new();
    let ledger = scene.open();
    let key = |name: &str| VolumeKey::from_path(&scene.dir.join(name)).unwrap();
    let marked = |name: &str, by: &str| {
        let claim = ledger.claim(&key(name), run(by)).unwrap();
        claim.confirm(identity(name), proof(1), 1).unwrap();
    };
    marked("a", "lying");
    marked("b", "honest");
    marked("c", "lying");
    marked("d", "lying");
    marked("d", "honest");
    let held = ledger.claim(&key("c"), run("another")).unwrap();

    let lying = || ledger.doubt(&doubt(&["lying"]), &run("now"), &[]).unwrap();
    let but_a = ledger.doubt(&doubt(&["lying"]), &run("now"), &[key("a")]);
    assert_eq!(but_a.unwrap().downgraded, []);
    let found = lying();
    assert_eq!(found.downgraded, [key("a")]);
    assert_eq!(found.busy, [key("c")]);
    let word = |name: &str| peek(&scene.dir, &key(name), &identity(name)).word();
    assert_eq!(
        ["a", "b", "c", "d"].map(word),
        ["inconsistent", "consistent", "consistent", "consistent"]
    );

    held.release();
    let found = lying();
    assert_eq!((found.downgraded, found.busy), (vec![key("c")], vec![]));
    assert_eq!(word("c"), "inconsistent");
    let found = lying();
    assert_eq!(found, lockstep_ledger::Downgrades::default());
}
