//! SIGKILL while two filesystems are frozen and one of two snapshots is made.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use lockstep_engine::{SnapshotChoice, watchdog_main};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::lab::{AS_WATCHDOG, Lab, eventually, is_possible, text, together};

const CHILD: &str = "LOCKSTEP_TOGETHER_TEST_CHILD";

/// The watchdog's life. Does nothing when it runs as an ordinary test.
#[test]
fn watchdog_child() {
    let mut args = std::env::args_os().skip_while(|word| word != AS_WATCHDOG);
    if args.next().is_some() {
        watchdog_main(std::io::stdin(), args);
    }
}

/// The life of who takes the snapshots: the second one never ends.
#[test]
fn taker_child() {
    let Some(folder) = std::env::var_os(CHILD) else {
        return;
    };
    let folder = PathBuf::from(folder);
    let mut together = together(&folder, "killed", SnapshotChoice::Auto);
    together.volumes[1].1 = SnapshotChoice::Program(folder.join("endless"));
    let taken = together.take();
    panic!("killed before it ends: {taken:?}");
}

/// Who takes snapshots, and the program that makes the second one; both gone when dropped.
struct Taker {
    child: Child,
    program: PathBuf,
}

impl Taker {
    /// Waits until both filesystems are frozen and the first snapshot is made.
    fn start(lab: &Lab) -> Taker {
        let example =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/examples/snapshot-by-clone");
        let program = lab.folder.path().join("program");
        let _ = fs::remove_file(&program);
        let script = format!(
            "if [ \"$1\" = create ]; then echo $$ > {0}.new; mv {0}.new {0}; exec sleep 100; fi\nexec {1} \"$@\"",
            text(&program),
            text(&example)
        );
        lab.script("endless", &script);
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "kill::taker_child", "--test-threads=1"])
            .env(CHILD, lab.folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let taker = Taker { child, program };
        assert!(eventually(|| taker.program.exists()), "it gets that far");
        taker
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Taker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // It is the first of its group, and outlives who started it.
        let pid = fs::read_to_string(&self.program).unwrap_or_default();
        if let Some(pid) = pid.trim().parse().ok().and_then(Pid::from_raw) {
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}

#[test]
fn both_filesystems_thaw_and_the_next_run_releases_what_was_made() {
    if !is_possible() {
        return;
    }
    for outers in [1, 2] {
        let lab = Lab::new(outers);
        let mut taker = Taker::start(&lab);
        let moment = Duration::from_millis(300);
        assert!(!lab.data.is_writable_within(moment), "frozen");
        assert!(!lab.log.is_writable_within(moment), "frozen");
        assert_eq!(lab.images().len(), 1);
        taker.kill();
        lab.assert_thawed();
        let left = lab.images();
        assert_eq!(left.len(), 1, "whole, and nobody's");
        drop(taker);

        let taken = lab.together("next").take().unwrap();
        for point in [&lab.data.point, &lab.log.point] {
            let told = format!("{} was to be frozen", point.display());
            let is_told = |warning: &String| warning.starts_with(&told);
            assert!(taken.warnings.iter().any(is_told), "{:?}", taken.warnings);
        }
        let images = lab.images();
        assert_eq!(images.len(), 2);
        assert!(
            !images.contains(&left[0]),
            "released: {}",
            left[0].display()
        );
        for snapshot in &taken.snapshots {
            snapshot.release().unwrap();
        }
        assert_eq!(lab.images().len(), 0);
    }
}
