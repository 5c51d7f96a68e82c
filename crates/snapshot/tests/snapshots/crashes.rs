//! SIGKILL after every step of making and of removing an image.

use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::Command;

use lockstep_snapshot::{Btrfs, Observer, Provider, Recovered, Reflink, Snapshot, Step};
use rustix::process::{Signal, getpid, kill_process};

use crate::lab::{Mounted, need};
use crate::stage::Stage;

const PROVIDER: &str = "LOCKSTEP_SNAPSHOT_TEST_PROVIDER";
const VOLUME: &str = "LOCKSTEP_SNAPSHOT_TEST_VOLUME";
const LAST_STEP: &str = "LOCKSTEP_SNAPSHOT_TEST_STEP";
/// A snapshot to release, as JSON; otherwise one is made.
const SNAPSHOT: &str = "LOCKSTEP_SNAPSHOT_TEST_SNAPSHOT";

fn die_after(step: Step) {
    if std::env::var(LAST_STEP).is_ok_and(|last| last == format!("{step:?}")) {
        kill_process(getpid(), Signal::KILL).unwrap();
    }
}

/// The child's life. Does nothing when it runs as an ordinary test.
#[test]
fn child_is_killed_after_a_step() {
    let Some(volume) = std::env::var_os(VOLUME).map(PathBuf::from) else {
        return;
    };
    let observer = Observer::new(die_after);
    let provider: Box<dyn Provider> = match std::env::var(PROVIDER).unwrap().as_str() {
        "btrfs" => Box::new(Btrfs::observed(observer)),
        _ => Box::new(Reflink::observed(observer)),
    };
    if let Ok(json) = std::env::var(SNAPSHOT) {
        let snapshot: Snapshot = serde_json::from_str(&json).unwrap();
        provider.release(&snapshot).unwrap();
    } else {
        let name = lockstep_snapshot::VolumeName::of_path(&volume);
        let name = lockstep_snapshot::SnapshotName::new(&name, "killed").unwrap();
        provider.create(&volume, &name).unwrap();
    }
}

/// Runs the child until it dies after this step; false if it never gets there.
fn killed_after(stage: &Stage, step: Step, release: Option<&Snapshot>) -> bool {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args([
            "--exact",
            "crashes::child_is_killed_after_a_step",
            "--nocapture",
        ])
        .env(VOLUME, &stage.volume)
        .env(PROVIDER, stage.provider.name())
        .env(LAST_STEP, format!("{step:?}"));
    if let Some(snapshot) = release {
        command.env(SNAPSHOT, serde_json::to_string(snapshot).unwrap());
    }
    let status = command.output().unwrap().status;
    assert!(
        status.success() || status.signal() == Some(9),
        "{step:?}: {status}"
    );
    !status.success()
}

fn every_kill_while_making_is_cleaned(stage: &Stage, steps: &[Step], whole_from: Step) {
    let mut is_whole = false;
    for step in steps {
        is_whole |= *step == whole_from;
        assert!(killed_after(stage, *step, None), "{step:?} never came");
        let found = stage
            .provider
            .recover(&stage.volume, &stage.name())
            .unwrap();
        assert_eq!(
            found.whole.len(),
            usize::from(is_whole),
            "{step:?}: {found:?}"
        );
        for snapshot in &found.whole {
            assert!(stage.bytes(snapshot) == std::fs::read(&stage.volume).unwrap());
            // It is as good as one that was made in peace.
            assert_eq!(
                stage.delta(snapshot, snapshot).unwrap().bytes(),
                0,
                "{step:?}"
            );
            stage.release(&[snapshot]);
        }
        stage.assert_nothing_is_left();
    }
}

/// From the second step on it is no image any more.
fn every_kill_while_removing_is_cleaned(stage: &Stage, steps: &[Step]) {
    let mut is_whole = steps.first() == Some(&Step::Unsealed);
    for step in steps {
        let snapshot = stage.freeze("killed");
        assert!(
            killed_after(stage, *step, Some(&snapshot)),
            "{step:?} never came"
        );
        let found: Recovered = stage
            .provider
            .recover(&stage.volume, &stage.name())
            .unwrap();
        assert_eq!(found.whole.len(), usize::from(is_whole), "{step:?}");
        is_whole = false;
        for snapshot in &found.whole {
            stage.release(&[snapshot]);
        }
        // Whoever still has the first description may release that as well.
        stage.release(&[&snapshot]);
        stage.assert_nothing_is_left();
    }
}

fn reflink_survives(stage: &Stage) {
    use Step::{
        Begun, Cloned, Flushed, FolderMade, NameFlushed, Named, RemovalFlushed, Removed, Sealed,
        SetAside, Unsealed,
    };
    let making = [
        FolderMade,
        Begun,
        Cloned,
        Flushed,
        Named,
        NameFlushed,
        Sealed,
    ];
    every_kill_while_making_is_cleaned(stage, &making, Named);
    every_kill_while_removing_is_cleaned(stage, &[Unsealed, SetAside, Removed, RemovalFlushed]);
}

#[test]
fn reflink_on_xfs_survives_every_kill() {
    let mounted = need!(Mounted::xfs(), "no root, loop device or XFS");
    reflink_survives(&Stage::on(mounted, Reflink::new()));
}

#[test]
fn reflink_on_btrfs_survives_every_kill() {
    let mounted = need!(Mounted::btrfs(), "no root, loop device or btrfs");
    reflink_survives(&Stage::on(mounted, Reflink::new()));
}

#[test]
fn a_btrfs_subvolume_survives_every_kill() {
    let mounted = need!(Mounted::btrfs(), "no root, loop device or btrfs");
    let stage = need!(Stage::in_subvolume(mounted, Btrfs::new()), "no btrfs-progs");
    let making = [Step::FolderMade, Step::Named, Step::Sealed];
    every_kill_while_making_is_cleaned(&stage, &making, Step::Named);
    every_kill_while_removing_is_cleaned(&stage, &[Step::Removed, Step::RemovalFlushed]);
}

#[test]
fn what_somebody_is_making_is_left_alone() {
    let mounted = need!(Mounted::xfs(), "no root, loop device or XFS");
    let stage = Stage::on(mounted, Reflink::new());
    let kept = stage.freeze("kept");
    let folder = stage.volume.with_file_name(lockstep_snapshot::FOLDER);
    let half = format!(".{}.making", stage.snapshot_name("other"));
    let making = std::fs::File::create(folder.join(&half)).unwrap();
    making.lock().unwrap();
    let found = stage
        .provider
        .recover(&stage.volume, &stage.name())
        .unwrap();
    assert_eq!(found.in_the_making, [half.as_str()]);
    assert!(folder.join(&half).exists());
    drop(making);
    let found = stage
        .provider
        .recover(&stage.volume, &stage.name())
        .unwrap();
    assert_eq!(found.removed, [half]);
    stage.release(&[&kept]);
    stage.assert_nothing_is_left();
}
