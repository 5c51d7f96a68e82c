//! Without the rights that only root has: images still, and doubt where it is due.

use std::path::PathBuf;
use std::process::Command;

use lockstep_snapshot::{Provider, Reflink, SnapshotName, VolumeName};

use crate::lab::{Mounted, need, run, skip};
use crate::stage::{Stage, write};

const VOLUME: &str = "LOCKSTEP_SNAPSHOT_TEST_WEAK_VOLUME";
const EXPECTED: &str = "LOCKSTEP_SNAPSHOT_TEST_WEAK_EXPECTED";

/// The child's life. Does nothing when it runs as an ordinary test.
#[test]
fn child_without_rights() {
    let Some(volume) = std::env::var_os(VOLUME).map(PathBuf::from) else {
        return;
    };
    let expected = std::env::var(EXPECTED).unwrap();
    let reflink = Reflink::new();
    let volume_name = VolumeName::of_path(&volume);
    let freeze = |run: &str| {
        let name = SnapshotName::new(&volume_name, run).unwrap();
        reflink.create(&volume, &name).unwrap()
    };
    let base = freeze("base");
    let options = std::fs::File::options().write(true).open(&volume).unwrap();
    write(&options, 0..5000, 9);
    let now = freeze("now");
    let told = match reflink.delta(&base, &now) {
        Ok(changed) => format!("{} bytes", changed.bytes()),
        Err(doubt) => doubt.word().to_owned(),
    };
    assert_eq!(told, expected);
    let found = reflink.recover(&volume, &volume_name).unwrap();
    assert_eq!(found.whole.len(), 2);
    for snapshot in &found.whole {
        reflink.open(snapshot).unwrap();
        reflink.release(snapshot).unwrap();
    }
    assert_eq!(reflink.recover(&volume, &volume_name).unwrap().whole, []);
}

fn runs_without(mounted: Mounted, rights: &str, expected: &str) {
    let stage = Stage::on(mounted, Reflink::new());
    let bounds = rights.split(',').map(|right| format!("-{right}"));
    let bounds: Vec<String> = bounds.collect();
    if run("setpriv", &["--bounding-set", &bounds.join(","), "true"]).is_none() {
        return skip("no setpriv");
    }
    let output = Command::new("setpriv")
        .args(["--bounding-set", &bounds.join(",")])
        .arg(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "without_rights::child_without_rights",
            "--nocapture",
        ])
        .env(VOLUME, &stage.volume)
        .env(EXPECTED, expected)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    stage.assert_nothing_is_left();
}

#[test]
fn without_the_right_to_make_files_immutable_nothing_is_believed_unchanged() {
    let mounted = need!(Mounted::xfs(), "no root, loop device or XFS");
    runs_without(mounted, "linux_immutable", "not-immutable");
}

#[test]
fn without_the_right_to_read_trees_maps_are_compared() {
    let mounted = need!(Mounted::btrfs(), "no root, loop device or btrfs");
    runs_without(mounted, "sys_admin", "8192 bytes");
}
