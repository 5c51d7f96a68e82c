//! What is frozen, for how long, and what that is worth.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use lockstep_quiesce::{Level, Progress, QuiesceError, Step};
use rustix::process::{Pid, Signal, kill_process};

use crate::lab::{BLOCKED, Lab, Mounted, eventually, freezing, need};

#[test]
fn writes_wait_while_the_snapshot_is_made_and_go_on_after_it() {
    let lab = need!(Lab::new());
    let ((mut first, mut second), level) = lab
        .quiesce()
        .around(|| {
            let mut writers = (lab.first.writer(), lab.second.writer());
            assert!(!writers.0.is_done_within(BLOCKED));
            assert!(!writers.1.is_done_within(BLOCKED));
            assert_eq!(lab.entries(), 1);
            writers
        })
        .unwrap();
    assert_eq!(level, Level::FilesystemConsistent);
    assert!(first.is_done_within(Duration::from_secs(10)));
    assert!(second.is_done_within(Duration::from_secs(10)));
    assert_eq!(lab.entries(), 0);
}

#[derive(Default)]
struct Recorder(Mutex<Vec<String>>);

impl Recorder {
    fn steps(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

impl Progress for Recorder {
    fn step(&self, step: Step<'_>) {
        let text = match step {
            Step::Watched(_) => "watched".to_owned(),
            other => format!("{other:?}"),
        };
        self.0.lock().unwrap().push(text);
    }
}

#[test]
fn the_watchdog_is_there_first_and_what_was_frozen_last_is_thawed_first() {
    let lab = need!(Lab::new());
    let recorder = Recorder::default();
    lab.quiesce().around_watched(&recorder, || ()).unwrap();
    let (a, b) = (&lab.first.point, &lab.second.point);
    let expected = [
        "watched".to_owned(),
        format!("{:?}", Step::Freezing(a)),
        format!("{:?}", Step::Frozen(a)),
        format!("{:?}", Step::Freezing(b)),
        format!("{:?}", Step::Frozen(b)),
        format!("{:?}", Step::Thawing(b)),
        format!("{:?}", Step::Thawed(b)),
        format!("{:?}", Step::Thawing(a)),
        format!("{:?}", Step::Thawed(a)),
    ];
    assert_eq!(recorder.steps(), expected);
}

#[test]
fn a_snapshot_that_panics_or_fails_leaves_nothing_frozen() {
    let lab = need!(Lab::new());
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        lab.quiesce().around(|| {
            assert!(lab.first.is_frozen());
            std::panic::resume_unwind(Box::new("as planned"));
        })
    }));
    let panic = panicked.unwrap_err();
    assert_eq!(panic.downcast_ref(), Some(&"as planned"));
    lab.assert_thawed();
    let (made, _) = lab.quiesce().around(|| Err::<(), _>("no space")).unwrap();
    assert_eq!(made, Err("no space"));
    lab.assert_thawed();
    assert_eq!(lab.entries(), 0);
}

#[test]
fn a_snapshot_that_takes_too_long_is_not_consistent_and_holds_nobody_up() {
    let lab = need!(Lab::new());
    let mut quiesce = lab.quiesce();
    quiesce.limit = Duration::from_millis(500);
    let begun = Instant::now();
    let error = quiesce
        .around(|| {
            let mut writers = [lab.first.writer(), lab.second.writer()];
            let is_done =
                |writer: &mut crate::lab::Writer| writer.is_done_within(Duration::from_secs(10));
            assert!(writers.iter_mut().all(is_done), "thawed by the watchdog");
            assert!(begun.elapsed() >= quiesce.limit);
        })
        .unwrap_err();
    assert!(
        matches!(error, QuiesceError::LimitReached { .. }),
        "{error}"
    );
    assert_eq!(lab.entries(), 0);
}

/// The time is over while the kernel is still freezing, and there is nothing to thaw yet.
#[test]
fn a_limit_that_is_over_before_the_freeze_is_leaves_nothing_frozen() {
    let lab = need!(Lab::new());
    let mut quiesce = lab.quiesce();
    quiesce.limit = Duration::from_millis(1);
    for _ in 0..10 {
        let result = quiesce.around(|| {
            std::thread::sleep(Duration::from_millis(20));
            // Not only thawed when the freezer does it.
            assert!(lab.first.thaws() && lab.second.thaws());
        });
        let error = result.unwrap_err();
        assert!(
            matches!(error, QuiesceError::LimitReached { .. }),
            "{error}"
        );
    }
}

#[test]
fn a_thaw_by_another_program_is_noticed() {
    let lab = need!(Lab::new());
    let error = lab
        .quiesce()
        .around(|| assert!(lab.second.fsfreeze("--unfreeze")))
        .unwrap_err();
    match error {
        QuiesceError::ThawedByOthers { path } => assert_eq!(path, lab.second.point),
        other => panic!("{other}"),
    }
    lab.assert_thawed();
}

#[test]
fn what_another_program_froze_is_refused_and_stays_frozen() {
    let lab = need!(Lab::new());
    assert!(lab.second.fsfreeze("--freeze"));
    let error = lab.quiesce().around(|| panic!("called")).unwrap_err();
    assert!(error.to_string().contains("frozen already"), "{error}");
    assert!(lab.first.thaws());
    assert!(lab.second.is_frozen());
    assert!(lab.second.fsfreeze("--unfreeze"));
    lab.assert_thawed();
}

#[test]
fn without_a_watchdog_nothing_is_frozen() {
    let lab = need!(Lab::new());
    for argv in [&["/no/such/program"][..], &["true"], &[]] {
        let mut quiesce = lab.quiesce();
        quiesce.watchdog = argv.iter().map(Into::into).collect();
        let error = quiesce.around(|| panic!("called")).unwrap_err();
        assert!(matches!(error, QuiesceError::NoWatchdog { .. }), "{error}");
        lab.assert_thawed();
        assert_eq!(lab.entries(), 0);
    }
}

/// Ends the watchdog as soon as it is ready.
struct Murderer;

impl Progress for Murderer {
    fn step(&self, step: Step<'_>) {
        if let Step::Watched(process) = step {
            let pid = Pid::from_raw(process.try_into().unwrap()).unwrap();
            kill_process(pid, Signal::KILL).unwrap();
            let stat = format!("/proc/{process}/stat");
            let is_dead = || std::fs::read_to_string(&stat).unwrap().contains(") Z ");
            assert!(eventually(is_dead));
        }
    }
}

#[test]
fn nothing_is_frozen_once_the_watchdog_is_dead() {
    let lab = need!(Lab::new());
    let result = lab.quiesce().around_watched(&Murderer, || panic!("called"));
    let error = result.unwrap_err();
    assert!(
        matches!(error, QuiesceError::WatchdogLost { .. }),
        "{error}"
    );
    lab.assert_thawed();
}

/// Wants to stop when the first filesystem is frozen.
#[derive(Default)]
struct Quitter(Mutex<bool>);

impl Progress for Quitter {
    fn step(&self, step: Step<'_>) {
        if matches!(step, Step::Frozen(_)) {
            *self.0.lock().unwrap() = true;
        }
    }

    fn is_cancelled(&self) -> bool {
        *self.0.lock().unwrap()
    }
}

#[test]
fn a_cancelled_run_thaws_what_it_froze() {
    let lab = need!(Lab::new());
    let quitter = Quitter::default();
    let result = lab.quiesce().around_watched(&quitter, || panic!("called"));
    assert!(matches!(result.unwrap_err(), QuiesceError::Cancelled));
    lab.assert_thawed();
    assert_eq!(lab.entries(), 0);
}

#[test]
fn a_filesystem_stored_on_another_is_frozen_before_it() {
    let lab = need!(Lab::new());
    let inner = need!(Mounted::within(&lab.second.point, "ext4", 16));
    let quiesce = freezing(&[&inner, &lab.second], lab.state.path());
    let ((), level) = quiesce
        .around(|| assert!(inner.is_frozen() && lab.second.is_frozen()))
        .unwrap();
    assert_eq!(level, Level::FilesystemConsistent);
    assert!(inner.thaws() && lab.second.thaws());
    let wrong = freezing(&[&lab.second, &inner], lab.state.path());
    let refusal = wrong.check().unwrap_err().to_string();
    assert!(refusal.contains("is stored on"), "{refusal}");
}
