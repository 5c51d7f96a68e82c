//! Several processes and threads on one state directory.

use std::fs;
use std::time::{Duration, Instant};

use lockstep_ledger::{Ledger, LedgerError, VolumeKey};

use crate::kill::{child_dir, spawn_child};
use crate::scene::{Scene, identity, proof, run};

/// Holds the volume until it is killed. Does nothing when it runs as an ordinary test.
#[test]
fn child_holds_the_volume() {
    let Some(dir) = child_dir() else {
        return;
    };
    let key = VolumeKey::from_path(&dir.with_file_name("volume.img")).unwrap();
    let claim = Ledger::open(&dir)
        .unwrap()
        .claim(&key, run("of the child"))
        .unwrap();
    fs::write(dir.with_file_name("held"), b"").unwrap();
    std::thread::sleep(Duration::from_secs(60));
    claim.release();
}

#[test]
fn a_volume_held_by_another_process_is_free_the_moment_it_dies() {
    let scene = Scene::new();
    let mut child = spawn_child(&scene, "contention::child_holds_the_volume");
    let deadline = Instant::now() + Duration::from_secs(30);
    while !scene.dir.with_file_name("held").exists() {
        assert!(Instant::now() < deadline, "the child does not begin");
        std::thread::sleep(Duration::from_millis(1));
    }
    let Err(LedgerError::Busy { holder }) = scene.open().claim(&scene.key, run("ours")) else {
        panic!("two processes hold one volume");
    };
    assert_eq!(holder, format!("run of the child, process {}", child.id()));

    child.kill().unwrap();
    child.wait().unwrap();
    scene
        .open()
        .claim(&scene.key, run("ours"))
        .unwrap()
        .release();
    scene.sync("afterwards");
}

#[test]
fn many_runs_on_many_volumes_share_one_directory() {
    let scene = Scene::new();
    let key = |n: usize| VolumeKey::from_path(&scene.dir.with_file_name(format!("v{n}"))).unwrap();
    std::thread::scope(|scope| {
        for n in 0..8 {
            let (scene, key) = (&scene, key(n));
            scope.spawn(move || {
                for _ in 0..4 {
                    let claim = scene.open().claim(&key, run("r")).unwrap();
                    let overwriting = claim.overwrite(Some(identity("a"))).unwrap();
                    overwriting
                        .consistent(identity("a"), proof(1), 1, 2)
                        .unwrap();
                }
            });
        }
    });
    let ledger = scene.open();
    for n in 0..8 {
        assert_eq!(
            ledger.standing(&key(n), &identity("a")).unwrap().word(),
            "consistent"
        );
        assert_eq!(ledger.history(&key(n)).unwrap().len(), 4);
    }
}

#[test]
fn one_of_many_gets_the_volume() {
    let scene = Scene::new();
    let ledger = scene.open();
    let claims: Vec<_> = std::thread::scope(|scope| {
        let one = || ledger.claim(&scene.key, run("r"));
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(one)).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    assert_eq!(claims.iter().filter(|claim| claim.is_ok()).count(), 1);
    let busy = |claim: &Result<_, LedgerError>| matches!(claim, Err(LedgerError::Busy { .. }));
    assert_eq!(claims.iter().filter(|claim| busy(claim)).count(), 7);
}

#[test]
fn a_store_that_stays_locked_is_named_after_a_bounded_wait() {
    let scene = Scene::new();
    scene.sync("first");
    let lock = fs::File::open(scene.dir.join("ledger.lock")).unwrap();
    lock.lock().unwrap();
    let begun = Instant::now();
    let error = Ledger::open(&scene.dir).unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(20));
    assert!(matches!(error, LedgerError::Locked { .. }), "{error:?}");
    assert!(error.to_string().contains("ledger.lock"), "{error}");
    lock.unlock().unwrap();
    assert_eq!(scene.word(), "consistent");
}
