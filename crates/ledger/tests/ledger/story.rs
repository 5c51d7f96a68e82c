//! What a node remembers of its volumes, told from the outside.

use crate::scene::{Scene, identity, proof, run};
use lockstep_ledger::{
    Identity, Ledger, LedgerError, MAX_RECORDS_PER_VOLUME, MAX_VOLUMES, Proof, ProofLevel,
    SourceLevel, Standing, State, VolumeKey, peek,
};

#[test]
fn a_run_that_writes_goes_from_unknown_through_inconsistent_to_consistent() {
    let scene = Scene::new();
    let ledger = scene.open();
    assert_eq!(scene.word(), "unknown");

    let claim = ledger.claim(&scene.key, run("first")).unwrap();
    assert_eq!(scene.word(), "unknown");

    let overwriting = claim.overwrite(Some(identity("a"))).unwrap();
    assert_eq!(scene.word(), "inconsistent");

    let record = overwriting
        .consistent(identity("a"), proof(7), 4096, 2000)
        .unwrap();
    assert_eq!(scene.standing(), Standing::Consistent(record.clone()));
    assert_eq!((record.size, record.root), (1 << 20, Some([7; 32])));
    assert_eq!(
        (record.bytes_written, record.ended_unix_ms),
        (4096, Some(2000))
    );
    assert_eq!(
        (record.run.as_str(), record.started_unix_ms),
        ("first", 1000)
    );
    assert_eq!((record.proof, record.epoch), (ProofLevel::Delta, 0));
}

#[test]
fn how_still_the_source_was_is_recorded_of_what_is_consistent_only() {
    let scene = Scene::new();
    let claim = scene.open().claim(&scene.key, run("first")).unwrap();
    let level = Some(SourceLevel::ApplicationConsistent);
    let record = claim
        .confirm(identity("a"), proof(7).of_source(level), 2000)
        .unwrap();
    assert_eq!(record.level, level);
    assert_eq!(scene.standing(), Standing::Consistent(record));
    let claim = scene.open().claim(&scene.key, run("second")).unwrap();
    claim.overwrite(Some(identity("a"))).unwrap().abandon();
    let Standing::Inconsistent(record) = scene.standing() else {
        panic!("{:?}", scene.standing());
    };
    assert_eq!(record.level, None);
    let claim = scene.open().claim(&scene.key, run("third")).unwrap();
    let record = claim.confirm(identity("a"), proof(7), 3000).unwrap();
    assert_eq!(record.level, None, "read without a snapshot");
}

#[test]
fn two_different_roots_make_no_proof() {
    let differ = Proof::new([1; 32], [2; 32], 5, ProofLevel::Full).unwrap_err();
    assert_eq!((differ.measured, differ.promised), ([1; 32], [2; 32]));
    assert!(differ.to_string().contains(&"01".repeat(32)), "{differ}");
}

#[test]
fn a_run_that_finds_nothing_to_write_never_says_inconsistent() {
    let scene = Scene::new();
    let claim = scene.open().claim(&scene.key, run("r")).unwrap();
    let record = claim.confirm(identity("a"), proof(7), 2000).unwrap();
    assert_eq!(scene.standing(), Standing::Consistent(record.clone()));
    assert_eq!(record.bytes_written, 0);
    assert_eq!(scene.open().history(&scene.key).unwrap(), [record]);
}

#[test]
fn a_released_claim_leaves_what_was_known() {
    let scene = Scene::new();
    scene.sync("first");
    let before = scene.standing();
    scene
        .open()
        .claim(&scene.key, run("second"))
        .unwrap()
        .release();
    drop(scene.open().claim(&scene.key, run("third")).unwrap());
    assert_eq!(scene.standing(), before);
    assert_eq!(before.word(), "consistent");
}

#[test]
fn an_abandoned_or_failed_run_takes_consistent_away_for_good() {
    let scene = Scene::new();
    let ledger = scene.open();
    scene.sync("first");
    let claim = ledger.claim(&scene.key, run("second")).unwrap();
    claim.overwrite(Some(identity("a"))).unwrap().abandon();
    assert_eq!(scene.word(), "inconsistent");

    scene.sync("third");
    let claim = ledger.claim(&scene.key, run("fourth")).unwrap();
    let overwriting = claim.overwrite(Some(identity("a"))).unwrap();
    overwriting
        .failed("fdatasync: input/output error", 3000)
        .unwrap();
    let Standing::Failed(record) = scene.standing() else {
        panic!("{:?}", scene.standing());
    };
    assert_eq!(
        record.reason.as_deref(),
        Some("fdatasync: input/output error")
    );
    assert_eq!((record.root, record.ended_unix_ms), (None, Some(3000)));
}

#[test]
fn a_replaced_volume_reads_unknown_and_the_old_one_does_not_come_back() {
    let scene = Scene::new();
    scene.sync("first");
    let replaced = scene.open().standing(&scene.key, &identity("b")).unwrap();
    assert_eq!(replaced.word(), "unknown");

    let claim = scene.open().claim(&scene.key, run("second")).unwrap();
    claim.overwrite(Some(identity("b"))).unwrap().abandon();
    assert_eq!(
        scene.word(),
        "unknown",
        "the file of the first run, moved back"
    );
}

#[test]
fn a_volume_that_did_not_exist_is_inconsistent_under_any_identity() {
    let scene = Scene::new();
    let claim = scene.open().claim(&scene.key, run("first")).unwrap();
    let overwriting = claim.overwrite(None).unwrap();
    assert_eq!(scene.word(), "inconsistent");
    overwriting
        .consistent(identity("new"), proof(1), 1, 2)
        .unwrap();
    assert_eq!(
        peek(&scene.dir, &scene.key, &identity("new")).word(),
        "consistent"
    );
    assert_eq!(scene.word(), "unknown");
}

#[test]
fn volumes_do_not_know_of_each_other() {
    let scene = Scene::new();
    scene.sync("first");
    let sibling = VolumeKey::from_path(&scene.dir.with_file_name("volume.img2")).unwrap();
    assert_eq!(peek(&scene.dir, &sibling, &identity("a")).word(), "unknown");
    let claim = scene.open().claim(&sibling, run("second")).unwrap();
    claim.overwrite(Some(identity("a"))).unwrap().abandon();
    assert_eq!(scene.word(), "consistent");
}

#[test]
fn a_second_run_is_told_who_holds_the_volume_and_gets_it_afterwards() {
    let scene = Scene::new();
    let (one, other) = (scene.open(), scene.open());
    let claim = one.claim(&scene.key, run("first")).unwrap();
    let Err(LedgerError::Busy { holder }) = other.claim(&scene.key, run("second")) else {
        panic!("two runs hold one volume");
    };
    assert_eq!(holder, format!("run first, process {}", std::process::id()));

    let overwriting = claim.overwrite(None).unwrap();
    let busy = other.claim(&scene.key, run("second"));
    assert!(matches!(busy, Err(LedgerError::Busy { .. })), "{busy:?}");
    overwriting.abandon();
    other.claim(&scene.key, run("second")).unwrap().release();
    one.claim(&scene.key, run("third")).unwrap().release();
}

#[test]
fn history_has_one_record_a_run_and_is_bounded() {
    let scene = Scene::new();
    let ledger = scene.open();
    for n in 0..MAX_RECORDS_PER_VOLUME + 3 {
        scene.sync(&n.to_string());
    }
    let claim = ledger.claim(&scene.key, run("last")).unwrap();
    claim.overwrite(None).unwrap().abandon();
    let history = ledger.history(&scene.key).unwrap();
    assert_eq!(history.len(), MAX_RECORDS_PER_VOLUME);
    assert_eq!(
        (history[0].run.as_str(), history[0].state),
        ("last", State::Inconsistent)
    );
    assert_eq!(
        (history[1].run.as_str(), history[1].state),
        ("66", State::Consistent)
    );
    assert_eq!(history[63].run, "4");
}

#[test]
fn the_volume_untouched_for_longest_is_forgotten_first() {
    let scene = Scene::new();
    let ledger = scene.open();
    let key = |n: usize| VolumeKey::from_path(&scene.dir.with_file_name(format!("v{n}"))).unwrap();
    let sync = |n: usize| {
        let claim = ledger.claim(&key(n), run("r")).unwrap();
        claim.confirm(identity("a"), proof(1), 2).unwrap();
    };
    (0..MAX_VOLUMES).for_each(sync);
    sync(0);
    sync(MAX_VOLUMES);
    let word = |n| ledger.standing(&key(n), &identity("a")).unwrap().word();
    assert_eq!(word(1), "unknown");
    assert!(
        [0, 2, MAX_VOLUMES]
            .into_iter()
            .all(|n| word(n) == "consistent")
    );
}

#[test]
fn endless_texts_are_cut() {
    let scene = Scene::new();
    let endless = "\u{1}".repeat(1 << 20);
    let mut facts = run(&endless);
    (facts.source, facts.who) = (endless.clone(), endless.clone());
    let claim = scene.open().claim(&scene.key, facts).unwrap();
    let overwriting = claim
        .overwrite(Some(Identity::new(endless.clone())))
        .unwrap();
    overwriting.failed(&endless, 1).unwrap();
    let history = scene.open().history(&scene.key).unwrap();
    assert_eq!(history[0].run.len(), 128);
    assert_eq!((history[0].source.len(), history[0].who.len()), (4096, 256));
    assert_eq!(history[0].reason.as_ref().unwrap().len(), 1024);
}

#[test]
fn asking_makes_nothing() {
    let scene = Scene::new();
    assert!(matches!(scene.standing(), Standing::Unknown { .. }));
    assert!(!scene.dir.exists());
    std::fs::create_dir(&scene.dir).unwrap();
    assert_eq!(scene.word(), "unknown");
    assert_eq!(std::fs::read_dir(&scene.dir).unwrap().count(), 0);
}

#[test]
fn asking_leaves_a_store_as_it_is_byte_for_byte() {
    let scene = Scene::new();
    scene.sync("first");
    let before = scene.store_bytes();
    assert_eq!(scene.word(), "consistent");
    scene.open().history(&scene.key).unwrap();
    assert_eq!(scene.store_bytes(), before);
}

#[test]
fn a_directory_that_cannot_be_made_or_written_is_named() {
    let scene = Scene::new();
    let file = scene.dir.with_file_name("file");
    std::fs::write(&file, b"").unwrap();
    for dir in [file.join("state"), file.clone(), "/proc/lockstep".into()] {
        let error = Ledger::open(&dir).unwrap_err();
        assert!(matches!(error, LedgerError::Io { .. }), "{error:?}");
        assert!(error.to_string().contains(dir.to_str().unwrap()), "{error}");
        assert_eq!(peek(&dir, &scene.key, &identity("a")).word(), "unknown");
    }
}
