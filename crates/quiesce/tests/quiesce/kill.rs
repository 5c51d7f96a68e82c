//! SIGKILL at every step, for the freezer, and for its watchdog too.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use lockstep_quiesce::{Outcome, Progress, Step, recover, watchdog_main};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::lab::{AS_WATCHDOG, Lab, entries, eventually, folder, hooks_only, need, shell};

const CHILD: &str = "LOCKSTEP_QUIESCE_TEST_CHILD";
/// Milliseconds that the child may keep anything frozen.
const LIMIT: &str = "LOCKSTEP_QUIESCE_TEST_LIMIT";
/// A step that is never reached: the child freezes and thaws until it is killed.
const NEVER: usize = usize::MAX;
const ROUNDS: u64 = 30;
/// Steps of a run over two mount points, counting the snapshot.
const STEPS: usize = 10;
/// The step at which both are frozen and the snapshot is made.
const SNAPSHOT: usize = 5;

/// The watchdog's life. Does nothing when it runs as an ordinary test.
#[test]
fn watchdog_child() {
    let mut args = std::env::args_os().skip_while(|word| word != AS_WATCHDOG);
    if args.next().is_some() {
        watchdog_main(std::io::stdin(), args);
    }
}

/// The freezer's life: gets as far as a step, says so, and waits to be killed there.
#[test]
fn freezer_child() {
    let Some(orders) = std::env::var_os(CHILD) else {
        return;
    };
    let orders: Vec<OsString> = std::env::split_paths(&orders).map(Into::into).collect();
    let state = PathBuf::from(&orders[0]);
    let stop = Stop {
        at: orders[1].to_str().unwrap().parse().unwrap(),
        count: 0.into(),
        state: state.clone(),
    };
    let mut quiesce = hooks_only(&state);
    let limit = std::env::var(LIMIT).map_or(60_000, |text| text.parse().unwrap());
    quiesce.limit = Duration::from_millis(limit);
    quiesce.before = vec![shell("app", "true")];
    quiesce.watchdog = crate::lab::freezing(&[], &state).watchdog;
    quiesce.freeze = orders[2..].iter().map(PathBuf::from).collect();
    for point in &quiesce.freeze {
        crate::lab::assert_is_loop_mount(point);
    }
    let run = || quiesce.around_watched(&stop, || stop.reach());
    if stop.at == NEVER {
        std::fs::write(state.join("reached"), b"").unwrap();
        while state.exists() {
            // A short limit may well be too short.
            let _ = run();
        }
        return;
    }
    run().unwrap();
}

struct Stop {
    at: usize,
    count: std::cell::Cell<usize>,
    state: PathBuf,
}

impl Stop {
    fn reach(&self) {
        let count = self.count.get();
        self.count.set(count + 1);
        if count == self.at {
            std::fs::write(self.state.join("reached"), b"").unwrap();
            loop {
                std::thread::park();
            }
        }
    }
}

impl Progress for Stop {
    fn step(&self, step: Step<'_>) {
        if let Step::Watched(process) = step {
            std::fs::write(self.state.join("watchdog"), process.to_string()).unwrap();
        }
        if !matches!(step, Step::Hook(_)) {
            self.reach();
        }
    }
}

/// A freezer that waits at a step.
struct Freezer {
    child: Child,
    watchdog: Option<Pid>,
}

impl Freezer {
    fn at(step: usize, state: &Path, points: &[&Path]) -> Freezer {
        Freezer::with_limit("60000", step, state, points)
    }

    fn with_limit(limit: &str, step: usize, state: &Path, points: &[&Path]) -> Freezer {
        let reached = state.join("reached");
        let _ = std::fs::remove_file(&reached);
        let step = PathBuf::from(step.to_string());
        let orders = [state, &step].into_iter().chain(points.iter().copied());
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "kill::freezer_child", "--test-threads=1"])
            .env(CHILD, std::env::join_paths(orders).unwrap())
            .env(LIMIT, limit)
            .process_group(0)
            .stdout(Stdio::null())
            .spawn();
        let mut freezer = Freezer {
            child: child.unwrap(),
            watchdog: None,
        };
        let is_there = eventually(|| {
            let ended = freezer.child.try_wait().unwrap();
            assert!(ended.is_none(), "the freezer ended: {ended:?}");
            reached.exists()
        });
        assert!(is_there, "the freezer does not get to step {step:?}");
        let watchdog = std::fs::read_to_string(state.join("watchdog")).unwrap_or_default();
        // One that freezes again and again may just be writing another.
        freezer.watchdog = watchdog.parse().ok().and_then(Pid::from_raw);
        freezer
    }

    fn in_lab(step: usize, lab: &Lab) -> Freezer {
        Freezer::at(step, lab.state.path(), &points(lab))
    }

    fn watchdog(&self) -> Pid {
        self.watchdog.unwrap()
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

fn points(lab: &Lab) -> [&Path; 2] {
    [&lab.first, &lab.second].map(|mounted| mounted.point.as_path())
}

impl Drop for Freezer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_freezer_that_is_killed_at_any_step_leaves_nothing_frozen() {
    let lab = need!(Lab::new());
    for step in 0..STEPS {
        let mut freezer = Freezer::in_lab(step, &lab);
        if step == SNAPSHOT {
            assert!(lab.first.is_frozen() && lab.second.is_frozen());
        }
        freezer.kill();
        lab.assert_thawed();
        assert_eq!(lab.entries(), 1, "step {step}");
        let recovery = recover(lab.state.path()).unwrap();
        assert_eq!(recovery.hooks, ["app"]);
        for recovered in &recovery.mount_points {
            assert!(
                matches!(recovered.outcome, Outcome::WasNotFrozen),
                "{recovered}"
            );
        }
        assert_eq!(lab.entries(), 0);
    }
}

#[test]
fn a_freezer_that_is_killed_at_any_moment_leaves_nothing_frozen() {
    let lab = need!(Lab::new());
    for round in 0..ROUNDS {
        let mut freezer = Freezer::in_lab(NEVER, &lab);
        // Steps of a prime, so that the kills spread over the whole length of a few runs.
        std::thread::sleep(Duration::from_micros(round * 1709 % 40_000));
        freezer.kill();
        lab.assert_thawed();
        for recovered in recover(lab.state.path()).unwrap().mount_points {
            assert!(
                matches!(recovered.outcome, Outcome::WasNotFrozen),
                "{recovered}"
            );
        }
    }
}

/// Stopped inside the kernel's freeze, and with the time over before that is complete, it says nothing more.
#[test]
fn a_freezer_that_is_stopped_at_any_moment_holds_nobody_up_for_longer_than_the_limit() {
    let lab = need!(Lab::new());
    for round in 0..ROUNDS {
        let freezer = Freezer::with_limit("1", NEVER, lab.state.path(), &points(&lab));
        std::thread::sleep(Duration::from_micros(round * 1709 % 80_000));
        kill_process(Pid::from_child(&freezer.child), Signal::STOP).unwrap();
        lab.assert_thawed();
        drop(freezer);
        recover(lab.state.path()).unwrap();
    }
}

#[test]
fn signals_for_everybody_end_the_freezer_and_not_its_watchdog() {
    let lab = need!(Lab::new());
    let mut freezer = Freezer::in_lab(SNAPSHOT, &lab);
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        kill_process(freezer.watchdog(), signal).unwrap();
    }
    assert!(lab.first.is_frozen() && lab.second.is_frozen());
    let group = Pid::from_child(&freezer.child);
    kill_process_group(group, Signal::INT).unwrap();
    assert!(!freezer.child.wait().unwrap().success());
    lab.assert_thawed();
}

#[test]
fn what_a_killed_freezer_and_a_killed_watchdog_left_frozen_is_thawed_at_the_next_start() {
    let lab = need!(Lab::new());
    let mut freezer = Freezer::in_lab(SNAPSHOT, &lab);
    let untouched = recover(lab.state.path()).unwrap();
    assert_eq!(untouched.mount_points.len(), 0, "its freezer lives");
    kill_process(freezer.watchdog(), Signal::KILL).unwrap();
    freezer.kill();
    assert!(lab.first.is_frozen() && lab.second.is_frozen());
    let recovery = recover(lab.state.path()).unwrap();
    let paths: Vec<_> = recovery
        .mount_points
        .iter()
        .map(|found| &found.path)
        .collect();
    assert_eq!(paths, [&lab.second.point, &lab.first.point]);
    for recovered in &recovery.mount_points {
        assert!(matches!(recovered.outcome, Outcome::Thawed), "{recovered}");
        assert!(recovered.to_string().contains("is thawed now"));
    }
    lab.assert_thawed();
    assert_eq!(lab.entries(), 0);
}

#[test]
fn another_filesystem_on_the_same_mount_point_is_not_thawed() {
    let lab = need!(Lab::new());
    let other = need!(Lab::new());
    let mut freezer = Freezer::in_lab(SNAPSHOT, &lab);
    kill_process(freezer.watchdog(), Signal::KILL).unwrap();
    freezer.kill();
    let file = std::fs::read_dir(lab.state.path().join("frozen")).unwrap();
    let file = file
        .flatten()
        .find(|file| file.path().extension().is_some());
    let file = file.unwrap().path();
    // As if the other's filesystems had been mounted in the place of those that were frozen.
    let text = std::fs::read_to_string(&file).unwrap();
    let swap = |text: String, lab: &Lab, other: &Lab| {
        let text = text.replace(
            crate::lab::text(&lab.first.point),
            crate::lab::text(&other.first.point),
        );
        text.replace(
            crate::lab::text(&lab.second.point),
            crate::lab::text(&other.second.point),
        )
    };
    std::fs::write(&file, swap(text, &lab, &other)).unwrap();
    assert!(other.first.fsfreeze("--freeze"));
    let recovery = recover(lab.state.path()).unwrap();
    // Found by their identity, where they are mounted in truth.
    for recovered in &recovery.mount_points {
        assert!(matches!(recovered.outcome, Outcome::Thawed), "{recovered}");
    }
    lab.assert_thawed();
    assert!(other.first.is_frozen());
    assert!(other.first.fsfreeze("--unfreeze"));
}

#[test]
fn what_is_not_mounted_any_more_is_kept_for_the_next_start() {
    let lab = need!(Lab::new());
    let mut freezer = Freezer::in_lab(0, &lab);
    kill_process(freezer.watchdog(), Signal::KILL).unwrap();
    freezer.kill();
    let Lab {
        first,
        second,
        state,
    } = lab;
    drop((first, second));
    let recovery = recover(state.path()).unwrap();
    assert_eq!(recovery.mount_points.len(), 2);
    for recovered in &recovery.mount_points {
        assert!(
            matches!(recovered.outcome, Outcome::NotMounted),
            "{recovered}"
        );
    }
    assert_eq!(entries(state.path()), 1);
}

#[test]
fn hooks_of_a_killed_run_are_known_at_the_next_start() {
    let state = folder();
    let mut freezer = Freezer::at(0, state.path(), &[]);
    freezer.kill();
    let mut quiesce = hooks_only(state.path());
    let note = format!("echo done > {}", state.path().join("note").display());
    quiesce.before = vec![shell("app", "false")];
    quiesce.after = vec![shell("app", &note)];
    let recovery = recover(state.path()).unwrap();
    quiesce.run_after(&recovery.hooks).unwrap();
    assert!(state.path().join("note").exists());
    assert_eq!(recover(state.path()).unwrap().hooks.len(), 0);
}
