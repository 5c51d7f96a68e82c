//! A comparison that reads a frozen image in place of the volume.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lockstep_engine::{
    Cancel, Compression, Consent, LocalTarget, MIN_MEMORY, Monitor, Notice, Outcome, Purpose,
    Request, Reuse, Scope, ServeOptions, SnapshotChoice, Stillness, TargetSpec, UndoPolicy,
    VerifyScope, run,
};
use lockstep_volume::{IoEngine, Priority};

struct Deaf;

impl Monitor for Deaf {
    fn notice(&self, _notice: Notice) {}
}

fn compare(folder: &Path, target: PathBuf, image: Option<PathBuf>, purpose: Purpose) -> Outcome {
    let target = ServeOptions {
        device: None,
        path: target,
        state_dir: folder.join("state"),
        who: "test".to_owned(),
        memory: MIN_MEMORY,
        threads: 1,
        priority: Priority::Normal,
        io: IoEngine::Threads,
        reuse: Reuse::default(),
        undo: UndoPolicy::default(),
        epoch: 0,
        only_compare: true,
        image,
    };
    let request = Request {
        taken: None,
        run: None,
        source: folder.join("source"),
        targets: vec![TargetSpec {
            name: "target".to_owned(),
            connect: Box::new(LocalTarget(target)),
        }],
        purpose,
        snapshot: SnapshotChoice::None,
        stillness: Stillness::default(),
        scope: Scope::Differences,
        verify: VerifyScope::Written,
        compression: Compression::Off,
        io: IoEngine::Threads,
        limits: Arc::default(),
        priority: Priority::Normal,
        memory: MIN_MEMORY,
        threads: 1,
        consent: Consent::Given,
        allow_larger_target: false,
        max_duration: None,
        scratch: folder.to_path_buf(),
        state_dir: folder.join("state"),
        reuse: Reuse::default(),
        undo: UndoPolicy::default(),
        who: "test".to_owned(),
    };
    run(request, Arc::new(Deaf), Arc::new(Cancel::new()))
}

#[test]
fn the_image_is_compared_and_the_volume_stays_who_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let bytes = vec![5; 1 << 20];
    fs::write(at("source"), &bytes).unwrap();
    fs::write(at("image"), &bytes).unwrap();
    fs::write(at("target"), vec![6; 1 << 20]).unwrap();
    // Somebody uses the volume, which would keep a comparison of itself out.
    let used = fs::File::open(at("target")).unwrap();
    let mut user = std::process::Command::new("sleep")
        .arg("600")
        .stdin(used)
        .spawn()
        .unwrap();
    let busy = compare(folder.path(), at("target"), None, Purpose::Compare);
    assert_eq!(busy.exit_code(), 7, "{busy:?}");
    let same = compare(
        folder.path(),
        at("target"),
        Some(at("image")),
        Purpose::Compare,
    );
    assert_eq!(same.exit_code(), 0, "{same:?}");
    fs::write(at("image"), vec![5; 1 << 19]).unwrap();
    let shorter = compare(
        folder.path(),
        at("target"),
        Some(at("image")),
        Purpose::Compare,
    );
    assert_eq!(shorter.exit_code(), 10, "{shorter:?}");
    let itself = compare(
        folder.path(),
        at("source"),
        Some(at("image")),
        Purpose::Compare,
    );
    assert_eq!(itself.exit_code(), 7, "{itself:?}");
    let write = compare(
        folder.path(),
        at("target"),
        Some(at("image")),
        Purpose::Sync,
    );
    assert_eq!(write.exit_code(), 5, "{write:?}");
    assert_eq!(fs::read(at("target")).unwrap(), vec![6; 1 << 20]);
    assert_eq!(fs::read(at("image")).unwrap().len(), 1 << 19);
    user.kill().unwrap();
    user.wait().unwrap();
    assert!(!at("state/ledger.redb").exists(), "nothing was recorded");
}
