//! A rollback that is interrupted at every single write, and run again.

use lockstep_undo::{RestoreError, check, restore};
use lockstep_volume::faults::{Fault, FaultyVolume, MemoryVolume};
use lockstep_volume::{IoFailureKind, Operation, Volume};

use crate::scene::{IDENTITY, KEY, PAGES, Scene};

/// What a crash leaves of the volume.
#[derive(Clone, Copy, Debug)]
enum Crash {
    Kill,
    PowerCut,
    /// Everything so far had reached the medium.
    FlushedThenPowerCut,
}

#[test]
fn killed_at_every_write_and_repeated_it_gives_the_same() {
    let scene = Scene::new();
    let keeping = scene.begin();
    for page in (0..PAGES).step_by(9) {
        scene.overwrite(&keeping, page, 3);
    }
    keeping.finish(1).unwrap();
    let after = scene.volume.content();
    let count = |op| {
        let volume = FaultyVolume::new(MemoryVolume::with_content(after.clone()), Vec::new());
        let restoring = scene.store.restore(KEY, IDENTITY, "rollback").unwrap();
        restore(restoring.log().unwrap(), &volume).unwrap();
        volume.count(op)
    };
    for op in [Operation::Write, Operation::Zero] {
        let writes = count(op);
        assert!(writes > 3, "{op}: {writes}");
        for n in 1..=writes {
            for crash in [Crash::Kill, Crash::PowerCut, Crash::FlushedThenPowerCut] {
                let volume = MemoryVolume::with_content(after.clone());
                let volume = interrupted(&scene, volume, Fault::FailNth { op, n, errno: 5 }, crash);
                again(&scene, &volume, &format!("{op} {n} {crash:?}"));
            }
        }
    }
}

#[test]
fn a_flush_that_fails_is_no_success() {
    let scene = Scene::new();
    scene.finished();
    let volume = MemoryVolume::with_content(scene.volume.content());
    let fault = Fault::FlushError { n: 1 };
    let volume = interrupted(&scene, volume, fault, Crash::PowerCut);
    again(&scene, &volume, "flush");
}

fn interrupted(scene: &Scene, volume: MemoryVolume, fault: Fault, crash: Crash) -> MemoryVolume {
    let faulty = FaultyVolume::new(volume, vec![fault]);
    let restoring = scene.store.restore(KEY, IDENTITY, "rollback").unwrap();
    let failed = restore(restoring.log().unwrap(), &faulty).unwrap_err();
    let RestoreError::Volume(failure) = failed else {
        panic!("{failed}");
    };
    assert!(failure.kind() != IoFailureKind::NoSpace, "{failure}");
    let volume = faulty.into_inner();
    match crash {
        Crash::Kill => {}
        Crash::PowerCut => volume.crash(),
        Crash::FlushedThenPowerCut => {
            volume.flush().unwrap();
            volume.crash();
        }
    }
    volume
}

fn again(scene: &Scene, volume: &MemoryVolume, place: &str) {
    let restoring = scene.store.restore(KEY, IDENTITY, "rollback").unwrap();
    restore(restoring.log().unwrap(), volume).unwrap();
    check(restoring.log().unwrap(), volume).unwrap();
    assert!(volume.medium_content() == scene.before, "{place}");
}

/// A disk that lies about writes is found out by reading back.
#[test]
fn lost_and_flipped_writes_are_found() {
    let scene = Scene::new();
    scene.finished();
    let lies = [Fault::LostWrite { n: 2 }, Fault::FlipBit { n: 1, bit: 77 }];
    for lie in lies {
        let volume = MemoryVolume::with_content(scene.volume.content());
        let volume = FaultyVolume::new(volume, vec![lie]);
        let restoring = scene.store.restore(KEY, IDENTITY, "rollback").unwrap();
        restore(restoring.log().unwrap(), &volume).unwrap();
        let found = check(restoring.log().unwrap(), &volume).unwrap_err();
        assert!(matches!(found, RestoreError::Differs { .. }), "{found}");
    }
}
