//! Rollbacks of a file from a log, with the ledger and the undo as a kill would leave them.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use lockstep_ledger::{Identity, Ledger, Proof, ProofLevel, RunFacts, State, VolumeKey};
use lockstep_merkle::{PAGE_SIZE, Root};
use lockstep_protocol::{Failure, FailureKind};
use lockstep_undo::{Begin, Keeping, Record, Releasing, UndoStore};
use lockstep_volume::{IoEngine, identify};

use super::{Found, LocalRollback, RollbackOptions, UNDO_OF};
use crate::hash::hash_volume;
use crate::undo::{
    Asked, Rollback, RollbackMonitor, RolledBack, Wish, ask_rollback, ask_within, lasting,
    undo_failed,
};

const FIRST: &str = "00000000000000000000000000000001";
const SECOND: &str = "00000000000000000000000000000002";
const PAGES: usize = 20;
/// The pages that the run overwrites.
const OVERWRITTEN: [usize; 2] = [3, 11];
const LATER: u64 = u64::MAX / 2;

struct Lab {
    folder: tempfile::TempDir,
    before: Vec<u8>,
    after: Vec<u8>,
}

impl Lab {
    fn new() -> Lab {
        let folder = tempfile::tempdir().unwrap();
        let before: Vec<u8> = (0..PAGES * PAGE_SIZE + 9)
            .map(|at| (at / 7 % 251) as u8)
            .collect();
        let mut after = before.clone();
        for page in OVERWRITTEN {
            after[page * PAGE_SIZE..][..PAGE_SIZE].fill(0xa5);
        }
        fs::write(folder.path().join("b"), &before).unwrap();
        Lab {
            folder,
            before,
            after,
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().canonicalize().unwrap().join("b")
    }

    fn options(&self) -> RollbackOptions {
        RollbackOptions {
            path: self.path(),
            state_dir: self.folder.path().join("state"),
            who: "test".to_owned(),
            threads: 1,
            io: IoEngine::Threads,
            delay: Duration::ZERO,
        }
    }

    fn contents(&self) -> Vec<u8> {
        fs::read(self.path()).unwrap()
    }

    fn key(&self) -> VolumeKey {
        VolumeKey::from_path(&self.path()).unwrap()
    }

    fn ledger(&self) -> Ledger {
        Ledger::open(&self.options().state_dir).unwrap()
    }

    fn store(&self) -> UndoStore {
        UndoStore::at(&self.options().state_dir)
    }

    fn record(&self) -> Record {
        self.store().look(self.key().as_str()).unwrap()
    }

    fn root(&self) -> Root {
        hash_volume(&self.path(), 1, IoEngine::Threads, &|_| ())
            .unwrap()
            .0
    }

    fn identity(&self) -> Identity {
        Identity::new(identify(&self.path()).unwrap().durable_text())
    }

    fn overwriting(&self, run: &str) -> lockstep_ledger::Overwriting {
        self.overwriting_from(run, "a")
    }

    fn overwriting_from(&self, run: &str, source: &str) -> lockstep_ledger::Overwriting {
        let facts = RunFacts {
            run: run.to_owned(),
            source: source.to_owned(),
            who: "test".to_owned(),
            started_unix_ms: 1,
            epoch: 0,
        };
        let claim = self.ledger().claim(&self.key(), facts).unwrap();
        claim.overwrite(Some(self.identity())).unwrap()
    }

    /// A run that ended well, by the ledger's word.
    fn consistent(&self, run: &str, level: ProofLevel) {
        let root = *self.root().as_bytes();
        let proof = Proof::new(root, root, self.before.len() as u64, level).unwrap();
        self.overwriting(run)
            .consistent(self.identity(), proof, 0, 2)
            .unwrap();
    }

    /// A run that has kept what it is about to overwrite.
    fn keeping(&self, run: &str) -> Keeping {
        let identity = lasting(&identify(&self.path()).unwrap().durable_text());
        let key = self.key();
        let begin = Begin {
            key: key.as_str(),
            identity: &identity,
            size: self.before.len() as u64,
            run,
            created_unix_ms: 1,
            expires_unix_ms: LATER,
        };
        let keeping = self.store().begin_log(&begin, 1 << 20).unwrap();
        let pages = OVERWRITTEN.map(|page| {
            let at = page * PAGE_SIZE;
            (at as u64, &self.before[at..at + PAGE_SIZE])
        });
        let log = keeping.log().unwrap();
        log.commit(log.append_all(&pages).unwrap()).unwrap();
        keeping
    }

    /// In place: the file stays the same.
    fn write(&self, at: u64, bytes: &[u8]) {
        let file = OpenOptions::new().write(true).open(self.path()).unwrap();
        file.write_all_at(bytes, at).unwrap();
    }

    /// The ledger knows that the second run ended well, and the undo does too if it `finishes`.
    fn second_run(&self, before: ProofLevel, finishes: bool) {
        self.consistent(FIRST, before);
        let root = self.root();
        let keeping = self.keeping(SECOND);
        keeping.record_root(root).unwrap();
        self.write(0, &self.after);
        self.consistent(SECOND, ProofLevel::Full);
        if finishes {
            keeping.finish(LATER).unwrap();
        }
    }

    fn undo(&self) -> Result<RolledBack, Failure> {
        self.undo_while(&|| ())
    }

    /// `thinking` happens between the offer and the agreement.
    fn undo_while(&self, thinking: &(dyn Fn() + Sync)) -> Result<RolledBack, Failure> {
        let connect = Box::new(LocalRollback(self.options()));
        match ask_rollback(connect, Wish::Restore, &Agreeing(thinking))? {
            Asked::Done(done) => Ok(done),
            Asked::Looked(_) => panic!("it was to be restored"),
        }
    }

    #[track_caller]
    fn is_refused_as_changed(&self, undone: Result<RolledBack, Failure>, contents: &[u8]) {
        let failure = undone.unwrap_err();
        assert_eq!(failure.kind, FailureKind::Guard);
        assert!(failure.message.contains("mix two states"), "{failure:?}");
        assert!(self.contents() == contents, "it was written");
    }
}

struct Agreeing<'a>(&'a (dyn Fn() + Sync));

impl RollbackMonitor for Agreeing<'_> {
    fn offered(&self, _: &Rollback, _: &'static str) -> Result<(), Failure> {
        (self.0)();
        Ok(())
    }
    fn state(&self, _: &str) {}
    fn warning(&self, _: &str) {}
}

#[test]
fn what_inherited_a_part_of_its_proof_is_not_marked_again() {
    for (level, state) in [
        (ProofLevel::Full, "consistent"),
        (ProofLevel::Delta, "inconsistent"),
    ] {
        let lab = Lab::new();
        lab.second_run(level, true);
        let done = lab.undo().unwrap();
        assert_eq!(done.state, state);
        assert!(lab.contents() == lab.before);
        let newest = lab.ledger().history(&lab.key()).unwrap().remove(0);
        let is_consistent = newest.state == State::Consistent;
        assert_eq!(is_consistent, state == "consistent");
    }
}

#[test]
fn a_write_since_the_run_is_found_whatever_the_undo_says_of_the_run() {
    for finishes in [true, false] {
        let lab = Lab::new();
        lab.second_run(ProofLevel::Full, finishes);
        lab.write(17, b"somebody");
        let contents = lab.contents();
        lab.is_refused_as_changed(lab.undo(), &contents);
        // Without it the undo of a run that was killed at its very end is as good as any.
        lab.write(0, &lab.after);
        assert_eq!(lab.undo().unwrap().state, "consistent");
        assert!(lab.contents() == lab.before, "finishes: {finishes}");
    }
}

#[test]
fn a_write_while_the_user_thinks_is_found() {
    let lab = Lab::new();
    lab.second_run(ProofLevel::Full, true);
    let mut contents = lab.contents();
    contents[17..25].copy_from_slice(b"somebody");
    let undone = lab.undo_while(&|| lab.write(17, b"somebody"));
    lab.is_refused_as_changed(undone, &contents);
}

#[test]
fn a_write_to_a_target_that_the_run_gave_another_size_is_found() {
    for writes in [false, true] {
        let lab = Lab::new();
        let keeping = lab.keeping(SECOND);
        lab.write(0, &lab.after);
        lab.write(lab.after.len() as u64, &[7; 5000]);
        let (root, size) = (*lab.root().as_bytes(), lab.after.len() as u64 + 5000);
        let proof = Proof::new(root, root, size, ProofLevel::Full).unwrap();
        let overwriting = lab.overwriting(SECOND);
        overwriting.consistent(lab.identity(), proof, 0, 2).unwrap();
        keeping.finish(LATER).unwrap();
        if writes {
            lab.write(size - 1, &[8]);
            let contents = lab.contents();
            lab.is_refused_as_changed(lab.undo(), &contents);
        } else {
            lab.undo().unwrap();
            assert!(lab.contents() == lab.before);
        }
    }
}

/// Somebody has the undo, so that the rollback cannot record that it is at work.
fn undo_of_a_held_undo(lab: &Lab) {
    let held: Mutex<Option<Releasing>> = Mutex::new(None);
    let undone = lab.undo_while(&|| {
        *held.lock().unwrap() = lab.store().take(lab.key().as_str()).unwrap();
    });
    assert_eq!(undone.unwrap_err().kind, FailureKind::Busy);
}

#[test]
fn the_ledger_names_a_rollback_of_an_interrupted_run_before_the_undo_does() {
    let lab = Lab::new();
    let keeping = lab.keeping(SECOND);
    lab.overwriting(SECOND).abandon();
    lab.write(0, &lab.after[..5 * PAGE_SIZE]);
    drop(keeping);
    undo_of_a_held_undo(&lab);
    let history = lab.ledger().history(&lab.key()).unwrap();
    assert!(history[0].source.starts_with(UNDO_OF), "{history:?}");
    assert_eq!(history[1].run, SECOND);
    assert_eq!(lab.record().latest_run, SECOND, "a run can continue it");
    lab.undo().unwrap();
    assert!(lab.contents() == lab.before);
}

#[test]
fn an_undo_that_cannot_be_begun_leaves_no_trace_of_a_whole_target() {
    let lab = Lab::new();
    lab.second_run(ProofLevel::Full, true);
    let history = lab.ledger().history(&lab.key()).unwrap();
    undo_of_a_held_undo(&lab);
    assert_eq!(lab.ledger().history(&lab.key()).unwrap(), history);
    assert!(lab.contents() == lab.after);
}

#[test]
fn an_undo_that_made_way_for_another_is_not_taken_for_it() {
    let lab = Lab::new();
    lab.second_run(ProofLevel::Full, true);
    let found = Found::of(&lab.options()).unwrap();
    found.is_still_there(&lab.options()).unwrap();
    lab.store()
        .release(lab.key().as_str())
        .map_err(|error| undo_failed(&error))
        .unwrap();
    let gone = found.is_still_there(&lab.options()).unwrap_err();
    assert_eq!(gone.kind, FailureKind::Guard);
    lab.keeping(FIRST).finish(LATER).unwrap();
    let other = found.is_still_there(&lab.options()).unwrap_err();
    assert_eq!(other.kind, FailureKind::Busy);
}

/// All is back and proved, and the undo is still there: a kill at the end of a rollback.
#[test]
fn an_undo_that_has_done_its_work_is_not_laid_over_what_came_after() {
    let lab = Lab::new();
    lab.second_run(ProofLevel::Full, true);
    let identity = lasting(&identify(&lab.path()).unwrap().durable_text());
    let restoring = lab
        .store()
        .restore(lab.key().as_str(), &identity, "rollback");
    drop(restoring.unwrap());
    lab.write(0, &lab.before);
    let root = *lab.root().as_bytes();
    let size = lab.before.len() as u64;
    let proof = Proof::new(root, root, size, ProofLevel::Full).unwrap();
    lab.overwriting_from("rollback", &format!("{UNDO_OF}{SECOND}"))
        .consistent(lab.identity(), proof, 0, 2)
        .unwrap();
    lab.write(0, b"somebody uses it");
    let contents = lab.contents();
    let refused = |wish| {
        let connect = Box::new(LocalRollback(lab.options()));
        let failure = ask_rollback(connect, wish, &Agreeing(&|| ())).unwrap_err();
        assert_eq!(failure.kind, FailureKind::Guard);
        assert!(failure.message.contains("cannot be brought back"));
    };
    refused(Wish::Look);
    let done = lab.undo().unwrap();
    assert_eq!((&*done.state, done.bytes_written), ("consistent", 0));
    refused(Wish::Restore);
    assert!(lab.contents() == contents, "it was written");
    let standing = lab.ledger().history(&lab.key()).unwrap();
    assert_eq!(standing[0].run, "rollback");
    lab.store().look(lab.key().as_str()).unwrap_err();
}

#[test]
fn a_run_that_the_ledger_never_heard_of_leaves_what_there_was_proved() {
    for rollbacks in [0, 2] {
        let lab = Lab::new();
        lab.consistent(FIRST, ProofLevel::Full);
        let keeping = lab.keeping(SECOND);
        keeping.record_root(lab.root()).unwrap();
        drop(keeping);
        for rollback in 0..rollbacks {
            // Killed as soon as the ledger knew of it.
            let facts = RunFacts {
                epoch: 0,
                run: format!("{rollback:032x}"),
                source: format!("{UNDO_OF}{SECOND}"),
                who: "test".to_owned(),
                started_unix_ms: 3,
            };
            let claim = lab.ledger().claim(&lab.key(), facts).unwrap();
            claim.overwrite(Some(lab.identity())).unwrap().abandon();
        }
        let done = lab.undo().unwrap();
        assert_eq!(done.state, "consistent", "after {rollbacks} rollbacks");
        assert!(lab.contents() == lab.before);
    }
}

#[test]
fn hashing_may_take_longer_than_any_limit() {
    let lab = Lab::new();
    lab.second_run(ProofLevel::Full, true);
    let patience = Duration::from_millis(400);
    let options = RollbackOptions {
        // A target of one extent is hashed twice: before it is written, and after.
        delay: patience * 3,
        ..lab.options()
    };
    let begun = Instant::now();
    let connect = Box::new(LocalRollback(options));
    let asked = ask_within(connect, Wish::Restore, &Agreeing(&|| ()), patience).unwrap();
    assert!(begun.elapsed() > patience * 6, "it was not slow");
    let Asked::Done(done) = asked else {
        panic!("it was to be restored");
    };
    assert_eq!(done.state, "consistent");
    assert!(lab.contents() == lab.before);
}
