//! Hooks need neither root nor a filesystem of their own.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use lockstep_quiesce::{HookEnd, HookFailure, Level, MAX_OUTPUT, Progress, Quiesce, QuiesceError};

use crate::lab::{entries, eventually, folder, hooks_only, shell};

/// Hooks that write their names into a file.
fn scene(state: &Path) -> Quiesce {
    let note = |name: &str| {
        let mut hook = shell(name, "echo $0 $LOCKSTEP_WORD >> $LOCKSTEP_FILE");
        hook.argv.push(name.into());
        hook.environment = vec![
            ("LOCKSTEP_WORD".to_owned(), format!("word-{name}").into()),
            ("LOCKSTEP_FILE".to_owned(), state.join("notes").into()),
        ];
        hook
    };
    let mut quiesce = hooks_only(state);
    quiesce.before = vec![note("app"), note("db")];
    quiesce.after = vec![note("db"), note("app"), note("always")];
    quiesce
}

fn notes(state: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(state.join("notes")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

fn failure(error: QuiesceError) -> HookFailure {
    match error {
        QuiesceError::Hook(failure) => failure,
        other => panic!("{other}"),
    }
}

fn fails_at_once(script: &str) -> HookFailure {
    let state = folder();
    let mut quiesce = hooks_only(state.path());
    quiesce.before = vec![shell("bad", script)];
    quiesce.before[0].limit = Duration::from_millis(500);
    failure(quiesce.around(|| panic!("called")).unwrap_err())
}

#[test]
fn hooks_run_in_order_around_the_snapshot() {
    let state = folder();
    let (seen, level) = scene(state.path()).around(|| notes(state.path())).unwrap();
    assert_eq!(seen, ["app word-app", "db word-db"]);
    let after = ["db word-db", "app word-app", "always word-always"];
    assert_eq!(notes(state.path())[2..], after);
    assert_eq!(level, Level::ApplicationConsistent);
    assert_eq!(entries(state.path()), 0);
}

/// Nobody knows when an application goes on that nobody tells to.
#[test]
fn a_hook_that_is_not_undone_says_nothing_of_the_moment_of_the_snapshot() {
    let state = folder();
    let mut quiesce = hooks_only(state.path());
    quiesce.before = vec![shell("held", "true"), shell("told", "true")];
    quiesce.after = vec![shell("held", "true"), shell("always", "true")];
    let ((), level) = quiesce.around(|| ()).unwrap();
    assert_eq!(level, Level::CrashConsistent);
    quiesce.freeze = vec!["/x".into()];
    assert_eq!(quiesce.level(), Level::FilesystemConsistent);
    quiesce.after.push(shell("told", "true"));
    assert_eq!(quiesce.level(), Level::ApplicationConsistent);
}

#[test]
fn nothing_to_do_is_crash_consistent() {
    let state = folder();
    let (made, level) = hooks_only(state.path()).around(|| 7).unwrap();
    assert_eq!((made, level), (7, Level::CrashConsistent));
}

#[test]
fn a_failed_before_hook_ends_it_and_what_was_begun_is_undone() {
    let state = folder();
    let mut quiesce = scene(state.path());
    quiesce
        .before
        .insert(1, shell("middle", "echo no; echo why >&2; exit 3"));
    quiesce.after.insert(0, shell("middle", "exit 4"));
    let error = quiesce.around(|| panic!("called")).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, QuiesceError::Twice { .. }));
    assert!(
        text.contains("hook middle failed, exit status: 3: why"),
        "{text}"
    );
    assert!(text.contains("exit status: 4"), "{text}");
    // The hook of "db" never began.
    let ran = ["app word-app", "app word-app", "always word-always"];
    assert_eq!(notes(state.path()), ran);
}

#[test]
fn a_failed_after_hook_is_an_error_and_does_not_keep_the_others_from_running() {
    let state = folder();
    let mut quiesce = scene(state.path());
    quiesce.after.insert(0, shell("always", "exit 1"));
    let failed = failure(quiesce.around(|| ()).unwrap_err());
    assert_eq!(failed.name, "always");
    assert_eq!(notes(state.path()).len(), 5);
}

#[test]
fn a_panic_in_the_snapshot_does_not_keep_the_after_hooks_from_running() {
    let state = folder();
    let quiesce = scene(state.path());
    let panicked = std::panic::catch_unwind(|| {
        let snapshot = || std::panic::resume_unwind(Box::new("as planned"));
        quiesce.around(snapshot).map(|((), _)| ())
    });
    assert!(panicked.is_err());
    assert_eq!(notes(state.path()).len(), 5);
}

#[test]
fn a_hook_that_takes_too_long_is_killed_with_its_children() {
    let state = folder();
    let file = state.path().join("child");
    let begun = Instant::now();
    let script = format!("sleep 60 & echo $! > {}; wait", file.display());
    let failed = fails_at_once(&script);
    assert!(matches!(failed.end, HookEnd::TimedOut(_)), "{failed}");
    assert!(begun.elapsed() < Duration::from_secs(5));
    let child = std::fs::read_to_string(file).unwrap();
    let stat = format!("/proc/{}/stat", child.trim());
    // Whoever adopted it may not have reaped it.
    let is_dead = || std::fs::read_to_string(&stat).map_or(true, |text| text.contains(") Z "));
    assert!(eventually(is_dead));
}

#[test]
fn only_the_end_of_a_hook_s_output_is_kept() {
    let failed =
        fails_at_once("head -c 3000000 /dev/zero | tr '\\0' x; printf '\\033[1mlast\\n'; exit 5");
    assert!(failed.output.len() <= MAX_OUTPUT + 2);
    assert!(failed.output.ends_with("x\u{FFFD}[1mlast\n"));
    assert!(failed.to_string().chars().count() < 300);
}

#[test]
fn whoever_a_hook_leaves_behind_is_not_waited_for() {
    let state = folder();
    let mut quiesce = hooks_only(state.path());
    quiesce.before = vec![shell("daemon", "sleep 5 & exit 0")];
    let begun = Instant::now();
    quiesce.around(|| ()).unwrap();
    assert!(begun.elapsed() < Duration::from_secs(4));
}

#[test]
fn a_hook_that_cannot_be_started_says_so() {
    let state = folder();
    let mut quiesce = hooks_only(state.path());
    quiesce.before = vec![shell("missing", "")];
    quiesce.before[0].argv = vec!["/no/such/program".into()];
    let failed = failure(quiesce.around(|| panic!("called")).unwrap_err());
    assert!(
        failed
            .to_string()
            .contains("could not be run: No such file"),
        "{failed}"
    );
}

/// Wants to stop at the third time of asking.
#[derive(Default)]
struct Impatient(AtomicUsize);

impl Progress for Impatient {
    fn is_cancelled(&self) -> bool {
        self.0.fetch_add(1, Ordering::SeqCst) >= 2
    }
}

#[test]
fn a_cancelled_run_kills_its_hook_and_undoes_it() {
    let state = folder();
    let mut quiesce = scene(state.path());
    quiesce.before[0].argv[2] = "sleep 60".into();
    let begun = Instant::now();
    let result = quiesce.around_watched(&Impatient::default(), || panic!("called"));
    assert!(matches!(result.unwrap_err(), QuiesceError::Cancelled));
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert_eq!(notes(state.path()), ["app word-app", "always word-always"]);
}

struct Patient;

impl Progress for Patient {}

#[test]
fn an_answer_is_what_went_to_the_standard_output_alone() {
    let asked = shell("probe", "echo noise >&2; echo primary");
    assert_eq!(asked.answer(&Patient).unwrap(), b"primary\n");
    let failure = shell("probe", "echo primary; echo why >&2; exit 3")
        .answer(&Patient)
        .unwrap_err();
    assert!(failure.to_string().ends_with(": why"), "{failure}");
    let much = shell("probe", "head -c 100000 /dev/zero | tr '\\0' x");
    assert_eq!(much.answer(&Patient).unwrap().len(), MAX_OUTPUT);
}
