//! SIGKILL at any moment of a promise.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use lockstep_ledger::{Ledger, Promise};

use crate::kill::{child_dir, spawn_child};
use crate::scene::{Scene, identity};

const ROUNDS: u64 = 60;
const VOLUME: [u8; 16] = [3; 16];
const RECORD_BYTES: usize = 32;

fn promise(epoch: u64) -> Promise {
    Promise {
        epoch,
        run: format!("run {epoch}"),
        source: "db1".to_owned(),
        node: "db2".to_owned(),
        volume: VOLUME,
        identity: identity("a"),
    }
}

/// One write call of fixed length: SIGKILL does not tear it.
fn say(diary: &fs::File, word: &str, epoch: u64) {
    let line = format!(
        "{word} {epoch:<width$}",
        width = RECORD_BYTES - 1 - word.len()
    );
    diary.write_all_at(line.as_bytes(), 0).unwrap();
}

fn said(diary: &Path) -> Option<(bool, u64)> {
    let text = fs::read_to_string(diary).ok()?;
    let (word, epoch) = text.trim_end().split_once(' ')?;
    Some((word == "promised", epoch.trim().parse().unwrap()))
}

/// The child's life. Does nothing when it runs as an ordinary test.
#[test]
fn child_promises_until_it_is_killed() {
    let Some(dir) = child_dir() else {
        return;
    };
    let path = dir.with_file_name("diary");
    let first = said(&path).map_or(1, |(_, epoch)| epoch + 1);
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false);
    let diary = options.open(&path).unwrap();
    let ledger = Ledger::open(&dir).unwrap();
    for epoch in first.. {
        say(&diary, "promises", epoch);
        ledger.promise(&promise(epoch)).unwrap();
        say(&diary, "promised", epoch);
    }
}

#[test]
fn a_promise_that_was_told_survives_a_kill() {
    let scene = Scene::new();
    let diary = scene.dir.with_file_name("diary");
    let mut first = 1;
    let mut at_the_kill = None;
    let mut seen = [0, 0];
    for round in 0..ROUNDS {
        let mut child = spawn_child(&scene, "promise::child_promises_until_it_is_killed");
        let deadline = Instant::now() + Duration::from_secs(30);
        while said(&diary).is_none_or(|(_, epoch)| epoch < first) {
            assert!(
                child.try_wait().unwrap().is_none(),
                "the child ended by itself"
            );
            assert!(Instant::now() < deadline, "the child does not begin");
            std::thread::sleep(Duration::from_micros(200));
        }
        // Steps of a prime, so that the kills spread over a promise's whole length.
        std::thread::sleep(Duration::from_micros(round * 1709 % 40_000));
        child.kill().unwrap();
        child.wait().unwrap();
        let (told, epoch) = said(&diary).unwrap();
        let found = scene.open().promised(VOLUME).unwrap();
        let earlier = match epoch == first {
            true => at_the_kill,
            false => Some(promise(epoch - 1)),
        };
        let truthful = found == Some(promise(epoch)) || (!told && found == earlier);
        assert!(truthful, "told {told}, epoch {epoch}, but {found:?}");
        at_the_kill = found;
        seen[usize::from(told)] += 1;
        first = epoch + 1;
    }
    assert!(seen[0] > 0, "the kills never hit a promise: {seen:?}");
}
