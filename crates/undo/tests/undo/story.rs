//! What runs and rollbacks do with undos, from the first to the last.

use std::fs;

use lockstep_merkle::Root;
use lockstep_undo::{
    Kept, MAX_DESCRIPTION_BYTES, PreRunRoot, RestoreError, State, UndoError, UndoStore, Unusable,
    check, restore,
};
use lockstep_volume::Volume;
use lockstep_volume::faults::MemoryVolume;

use crate::scene::{IDENTITY, KEY, PAGES, Scene};

fn root(byte: u8) -> Root {
    Root::from_bytes([byte; 32])
}

fn put_back(scene: &Scene) {
    let restoring = scene.store.restore(KEY, IDENTITY, "rollback").unwrap();
    restore(restoring.log().unwrap(), &scene.volume).unwrap();
    check(restoring.log().unwrap(), &scene.volume).unwrap();
    assert!(scene.volume.medium_content() == scene.before);
    restoring.finish().unwrap();
}

#[test]
fn a_run_is_undone_and_the_undo_is_gone() {
    let scene = Scene::new();
    let keeping = scene.begin();
    assert_eq!(scene.store.look(KEY).unwrap().state, State::Keeping);
    assert_eq!(scene.store.look(KEY).unwrap().root, PreRunRoot::NotYet);
    scene.overwrite(&keeping, 10, 20);
    let recorded = keeping.record_root(root(4)).unwrap();
    assert_eq!(recorded, PreRunRoot::Known(root(4)));
    scene.overwrite(&keeping, 15, PAGES - 15);
    let record = keeping.finish(77).unwrap();
    assert_eq!(scene.store.look(KEY).unwrap(), record);
    assert_eq!((record.state, record.expires_unix_ms), (State::Whole, 77));
    assert_eq!(record.root, PreRunRoot::Known(root(4)));
    assert!(scene.volume.content() != scene.before);
    put_back(&scene);
    assert!(matches!(scene.store.look(KEY), Err(Unusable::Missing)));
    assert!(scene.store.list().unwrap().is_empty());
}

/// Holes come back as holes.
#[test]
fn what_was_sparse_is_sparse_again() {
    let scene = Scene::new();
    let size = scene.volume.size();
    scene.volume.zero(0..size).unwrap();
    scene.volume.flush().unwrap();
    let keeping = scene.begin();
    scene.overwrite(&keeping, 0, PAGES);
    keeping.finish(1).unwrap();
    let restoring = scene.store.restore(KEY, IDENTITY, "rollback").unwrap();
    let restored = restore(restoring.log().unwrap(), &scene.volume).unwrap();
    assert_eq!((restored.bytes_written, restored.bytes_zeroed), (0, size));
    assert_eq!(scene.volume.allocated_bytes(), 0);
}

#[test]
fn an_interrupted_run_is_continued_and_undone_to_before_the_first() {
    let scene = Scene::new();
    let first = scene.begin();
    scene.overwrite(&first, 0, 20);
    drop(first);
    assert!(scene.resume("another run").is_none());
    let second = scene.resume("run-1").unwrap();
    assert_eq!(
        second.record().root,
        PreRunRoot::Never,
        "its scan is too late"
    );
    assert_eq!(second.record_root(root(9)).unwrap(), PreRunRoot::Never);
    assert_eq!(
        (second.record().run, second.record().latest_run),
        ("run-1".into(), "run-2".into())
    );
    let bytes = second.log().unwrap().bytes();
    scene.overwrite(&second, 0, 20);
    assert_eq!(
        second.log().unwrap().bytes(),
        bytes,
        "nothing is kept twice"
    );
    scene.overwrite(&second, 10, 60);
    drop(second);
    put_back(&scene);
}

#[test]
fn a_root_that_is_known_survives_an_interruption_and_one_that_can_still_be_known_too() {
    let scene = Scene::new();
    let first = scene.begin();
    drop(first);
    let second = scene.resume("run-1").unwrap();
    assert_eq!(
        second.record().root,
        PreRunRoot::NotYet,
        "nothing was overwritten"
    );
    second.record_root(root(5)).unwrap();
    scene.overwrite(&second, 0, 5);
    drop(second);
    let third = scene.resume("run-2").unwrap();
    assert_eq!(
        third.record_root(root(6)).unwrap(),
        PreRunRoot::Known(root(5))
    );
}

#[test]
fn a_run_may_follow_a_rollback_that_was_killed() {
    let scene = Scene::new();
    scene.finished();
    drop(scene.store.restore(KEY, IDENTITY, "rollback").unwrap());
    assert_eq!(scene.store.look(KEY).unwrap().state, State::Restoring);
    let keeping = scene.resume("rollback").unwrap();
    scene.overwrite(&keeping, 0, PAGES);
    keeping.finish(1).unwrap();
    put_back(&scene);
}

#[test]
fn a_run_that_ended_is_not_continued_but_replaced() {
    let mut scene = Scene::new();
    scene.finished();
    assert!(scene.resume("run-1").is_none());
    scene.before = scene.volume.content();
    let keeping = scene.begin();
    scene.overwrite(&keeping, 0, PAGES);
    keeping.finish(1).unwrap();
    put_back(&scene);
}

#[test]
fn the_volume_must_be_the_same_and_as_large() {
    let scene = Scene::new();
    scene.finished();
    let refused = scene.store.restore(KEY, "file inode 13", "rollback");
    let refused = refused.unwrap_err();
    assert!(
        matches!(refused, UndoError::Unusable(Unusable::OtherIdentity { .. })),
        "{refused}"
    );
    let restoring = scene.store.restore(KEY, IDENTITY, "rollback").unwrap();
    let larger = MemoryVolume::new(scene.volume.size() + 1);
    let refused = restore(restoring.log().unwrap(), &larger).unwrap_err();
    assert!(matches!(refused, RestoreError::Size { .. }), "{refused}");
    assert!(check(restoring.log().unwrap(), &larger).is_err());
    let wrong = MemoryVolume::new(scene.volume.size());
    let differs = check(restoring.log().unwrap(), &wrong).unwrap_err();
    assert!(matches!(differs, RestoreError::Differs { .. }), "{differs}");
}

#[test]
fn a_snapshot_is_found_again_and_not_forgotten() {
    let scene = Scene::new();
    let description = br#"{"provider":"reflink"}"#;
    let keeping = scene.store.begin_image(&scene.facts(), description);
    let keeping = keeping.unwrap();
    assert!(keeping.log().is_none());
    drop(keeping);
    let keeping = scene.resume("run-1").unwrap();
    keeping.finish(8).unwrap();
    for refused in [
        scene.store.begin_log(&scene.facts(), 1),
        scene.store.begin_image(&scene.facts(), b"other"),
    ] {
        assert!(
            matches!(refused, Err(UndoError::HoldsSnapshot)),
            "{refused:?}"
        );
    }
    let restoring = scene.store.restore(KEY, IDENTITY, "rollback").unwrap();
    assert!(restoring.log().is_none());
    assert_eq!(restoring.record().kept, Kept::Image(description.to_vec()));
    restoring.finish().unwrap();
    scene.begin();
}

#[test]
fn undos_expire_and_are_released() {
    let scene = Scene::new();
    scene.finished();
    let other = lockstep_undo::Begin {
        key: "other",
        expires_unix_ms: 9_000,
        ..scene.facts()
    };
    let kept = scene.store.begin_log(&other, 1 << 20).unwrap();
    kept.finish(9_000).unwrap();
    let expired = |now| {
        let records = scene.store.expired(now).unwrap();
        records
            .into_iter()
            .map(|record| record.key)
            .collect::<Vec<_>>()
    };
    assert!(expired(4_999).is_empty());
    assert_eq!(expired(5_000), [KEY]);
    assert_eq!(expired(9_000).len(), 2);
    scene.store.release(KEY).unwrap();
    scene.store.release(KEY).unwrap();
    assert_eq!(expired(9_000), ["other"]);
}

/// It is the only way back to bytes that are whole.
#[test]
fn the_undo_of_an_interrupted_run_or_rollback_never_expires() {
    let scene = Scene::new();
    let expired = || scene.store.expired(u64::MAX).unwrap().len();
    drop(scene.begin());
    assert_eq!(expired(), 0);
    let resumed = scene.resume("run-1").unwrap();
    resumed.finish(1).unwrap();
    assert_eq!(expired(), 1);
    drop(scene.store.restore(KEY, IDENTITY, "rollback").unwrap());
    assert_eq!(expired(), 0);
    put_back(&scene);
}

#[test]
fn nobody_touches_the_undo_of_a_run_or_rollback_at_work() {
    let scene = Scene::new();
    let keeping = scene.begin();
    let busy = |error: UndoError| assert!(matches!(error, UndoError::Busy { .. }), "{error}");
    busy(scene.store.release(KEY).unwrap_err());
    busy(
        scene
            .store
            .restore(KEY, IDENTITY, "r")
            .map(drop)
            .unwrap_err(),
    );
    keeping.finish(1).unwrap();
    let restoring = scene.store.restore(KEY, IDENTITY, "r").unwrap();
    busy(
        scene
            .store
            .begin_log(&scene.facts(), 1)
            .map(drop)
            .unwrap_err(),
    );
    drop(restoring);
    scene.store.release(KEY).unwrap();
}

#[test]
fn a_state_directory_without_undos_is_only_looked_at() {
    let scene = Scene::new();
    assert!(matches!(scene.store.look(KEY), Err(Unusable::Missing)));
    assert!(scene.store.restore(KEY, IDENTITY, "r").is_err());
    assert!(scene.resume("run-1").is_none());
    assert!(scene.store.list().unwrap().is_empty());
    assert!(scene.store.expired(u64::MAX).unwrap().is_empty());
    scene.store.release(KEY).unwrap();
    assert!(scene.store.preflight(0).unwrap().available_bytes > 0);
    assert!(!scene.dir.exists());
}

/// What does not fit is refused before an older undo is removed.
#[test]
fn texts_that_do_not_fit_are_refused_and_nothing_is_lost() {
    let scene = Scene::new();
    scene.finished();
    let long = "x".repeat(300);
    for begin in [
        lockstep_undo::Begin {
            run: &long,
            ..scene.facts()
        },
        lockstep_undo::Begin {
            identity: &long,
            ..scene.facts()
        },
    ] {
        let refused = scene.store.begin_log(&begin, 1).unwrap_err();
        assert!(matches!(refused, UndoError::TooLong { .. }), "{refused}");
    }
    let huge = lockstep_undo::Begin {
        size: u64::MAX,
        ..scene.facts()
    };
    assert!(scene.store.begin_log(&huge, 1).is_err());
    let description = vec![b'x'; MAX_DESCRIPTION_BYTES + 1];
    assert!(
        scene
            .store
            .begin_image(&scene.facts(), &description)
            .is_err()
    );
    assert_eq!(scene.store.look(KEY).unwrap().state, State::Whole);
    let long_key = lockstep_undo::Begin {
        key: &long.repeat(9),
        ..scene.facts()
    };
    drop(scene.store.begin_log(&long_key, 1 << 20).unwrap());
    scene.store.look(long_key.key).unwrap();
    scene.store.release(long_key.key).unwrap();
    put_back(&scene);
}

#[test]
fn only_the_owner_may_read_what_is_kept() {
    use std::os::unix::fs::PermissionsExt;
    let scene = Scene::new();
    scene.finished();
    let mode = |path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    for end in ["undo", "log", "lock"] {
        assert_eq!(mode(scene.file(end)), 0o600);
    }
    assert_eq!(mode(scene.folder()), 0o700);
}

#[test]
fn no_undo_is_kept_or_found_where_somebody_else_could_write() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let scene = Scene::new();
    let dir = tempfile::tempdir().unwrap();
    let (beside, elsewhere) = (dir.path().join("beside"), dir.path().join("elsewhere"));
    let not_ours = |result: Result<(), UndoError>| {
        let why = result.unwrap_err();
        assert!(
            matches!(why, UndoError::Unusable(Unusable::NotOurs(_))),
            "{why}"
        );
    };
    let store = UndoStore::beside(&beside).unwrap();
    let begun = || store.begin_log(&scene.facts(), 1 << 20).map(drop);
    begun().unwrap();
    assert_eq!(store.look(KEY).unwrap().state, State::Keeping);
    // A link in its place, to a folder that would do.
    fs::rename(&beside, &elsewhere).unwrap();
    symlink(&elsewhere, &beside).unwrap();
    let refused = |store: &UndoStore| {
        not_ours(store.look(KEY).map(drop).map_err(UndoError::from));
        not_ours(store.take(KEY).map(drop));
        not_ours(store.release(KEY));
        not_ours(store.list().map(drop));
        not_ours(store.restore(KEY, IDENTITY, "r").map(drop));
        not_ours(store.begin_log(&scene.facts(), 1 << 20).map(drop));
    };
    refused(&store);
    assert!(UndoStore::beside(&beside).is_err());
    fs::remove_file(&beside).unwrap();
    fs::rename(&elsewhere, &beside).unwrap();
    begun().unwrap();
    // A link one level below.
    let inner = beside.join("undo");
    fs::rename(&inner, &elsewhere).unwrap();
    symlink(&elsewhere, &inner).unwrap();
    refused(&store);
    fs::remove_file(&inner).unwrap();
    fs::rename(&elsewhere, &inner).unwrap();
    begun().unwrap();
    // A folder that others may write to.
    for folder in [&beside, &inner] {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o770)).unwrap();
        refused(&store);
        fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).unwrap();
    }
    store.release(KEY).unwrap();
}

/// What has the name of a record's draft is removed, not written through.
#[test]
fn no_record_is_written_where_a_link_leads() {
    let scene = Scene::new();
    let keeping = scene.begin();
    let victim = scene.dir.join("victim");
    fs::write(&victim, b"mine").unwrap();
    std::os::unix::fs::symlink(&victim, scene.file("undo").with_extension("undo.new")).unwrap();
    keeping.record_root(root(1)).unwrap();
    assert_eq!(fs::read(&victim).unwrap(), b"mine");
    assert_eq!(
        scene.store.look(KEY).unwrap().root,
        PreRunRoot::Known(root(1))
    );
}
