//! SIGKILL at any moment of a run.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use lockstep_ledger::{Ledger, Standing, VolumeKey};

use crate::scene::{Scene, identity, proof, run};

const ROUNDS: u64 = 80;
const CHILD: &str = "LOCKSTEP_LEDGER_TEST_CHILD";
const RECORD_BYTES: usize = 32;

/// What the child says of itself, outside of the ledger, before and after each of its steps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    /// About to call `overwrite`: the previous run is whole, or this one has begun.
    Beginning,
    /// `overwrite` returned: bytes are being written.
    Writing,
    /// About to call `consistent`: the bytes are good.
    Finishing,
    /// `consistent` returned.
    Done,
}

const STEPS: [Step; 4] = [Step::Beginning, Step::Writing, Step::Finishing, Step::Done];

/// One write call of fixed length: SIGKILL does not tear it.
fn say(diary: &fs::File, step: Step, n: u64) {
    let at = STEPS.iter().position(|known| *known == step).unwrap();
    let line = format!("{at} {n:<width$}", width = RECORD_BYTES - 2);
    diary.write_all_at(line.as_bytes(), 0).unwrap();
}

fn said(diary: &Path) -> Option<(Step, u64)> {
    let text = fs::read_to_string(diary).ok()?;
    let (step, n) = text.trim_end().split_once(' ')?;
    Some((
        STEPS[step.parse::<usize>().unwrap()],
        n.trim().parse().unwrap(),
    ))
}

/// The child's life. Does nothing when it runs as an ordinary test.
#[test]
fn child_cycles_through_runs_until_it_is_killed() {
    let Some(dir) = std::env::var_os(CHILD).map(PathBuf::from) else {
        return;
    };
    let key = VolumeKey::from_path(&dir.with_file_name("volume.img")).unwrap();
    let path = dir.with_file_name("diary");
    let first = said(&path).map_or(0, |(_, n)| n + 1);
    let mut options = OpenOptions::new();
    let diary = options
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .unwrap();
    for n in first.. {
        let claim = Ledger::open(&dir)
            .unwrap()
            .claim(&key, run(&n.to_string()))
            .unwrap();
        say(&diary, Step::Beginning, n);
        let overwriting = claim.overwrite(Some(identity("a"))).unwrap();
        say(&diary, Step::Writing, n);
        say(&diary, Step::Finishing, n);
        overwriting
            .consistent(identity("a"), proof(1), n, 2)
            .unwrap();
        say(&diary, Step::Done, n);
    }
}

pub(crate) fn spawn_child(scene: &Scene, test: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(CHILD, &scene.dir)
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

pub(crate) fn child_dir() -> Option<PathBuf> {
    std::env::var_os(CHILD).map(PathBuf::from)
}

/// State and run of the newest record.
type Told = (&'static str, Option<u64>);

fn told(scene: &Scene) -> Told {
    let standing = scene.standing();
    let word = standing.word();
    let run = match standing {
        Standing::Unknown { why } => panic!("a kill damaged the store: {why}"),
        Standing::Consistent(record)
        | Standing::Inconsistent(record)
        | Standing::Failed(record) => record.run.parse().ok(),
    };
    (word, run)
}

/// `before` is what the ledger said before the run that was killed.
fn assert_truthful(told: Told, before: Told, (step, n): (Step, u64)) {
    let this = |word| told == (word, Some(n));
    let truthful = match step {
        Step::Beginning => this("inconsistent") || told == before,
        Step::Writing => this("inconsistent"),
        Step::Finishing => this("inconsistent") || this("consistent"),
        Step::Done => this("consistent"),
    };
    assert!(
        truthful,
        "{step:?} of run {n}, but the ledger says {told:?}"
    );
}

#[test]
fn a_killed_run_is_never_consistent_and_never_damages_the_store() {
    let scene = Scene::new();
    scene.sync("before the first");
    let diary = scene.dir.with_file_name("diary");
    let mut seen = [0; STEPS.len()];
    let mut first = 0;
    let mut at_the_kill = told(&scene);
    for round in 0..ROUNDS {
        let mut child = spawn_child(&scene, "kill::child_cycles_through_runs_until_it_is_killed");
        let deadline = Instant::now() + Duration::from_secs(30);
        while said(&diary).is_none_or(|(_, n)| n < first) {
            assert!(
                child.try_wait().unwrap().is_none(),
                "the child ended by itself"
            );
            assert!(Instant::now() < deadline, "the child does not begin");
            std::thread::sleep(Duration::from_micros(200));
        }
        // Steps of a prime, so that the kills spread over a run's whole length.
        std::thread::sleep(Duration::from_micros(round * 1709 % 60_000));
        child.kill().unwrap();
        child.wait().unwrap();
        let (step, n) = said(&diary).unwrap();
        let earlier = if n == first {
            at_the_kill
        } else {
            ("consistent", Some(n - 1))
        };
        at_the_kill = told(&scene);
        assert_truthful(at_the_kill, earlier, (step, n));
        seen[STEPS.iter().position(|known| *known == step).unwrap()] += 1;
        first = n + 1;
        scene.open().claim(&scene.key, run("r")).unwrap().release();
    }
    assert!(seen[0] > 0 && seen[2] > 0, "the kills hit only {seen:?}");
    assert!(scene.open().was_damaged().is_none());
    assert!(!scene.dir.join("ledger.redb.damaged-1").exists());
}
