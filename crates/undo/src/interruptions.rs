//! Every recipe interrupted before each of its steps, by a failure and by SIGKILL. Whatever is
//! offered afterwards restores what the volume held before the run, and the next run goes on.

use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use lockstep_merkle::{EXTENT_SIZE, PAGE_SIZE, Root};
use lockstep_volume::faults::MemoryVolume;
use rustix::process::{Signal, getpid, kill_process};

use crate::error::{UndoError, Unusable};
use crate::keeping::Keeping;
use crate::record::{PreRunRoot, Record, State};
use crate::restore::{check, restore};
use crate::steps::Steps;
use crate::store::{Begin, Resume, UndoStore};

/// Two extents and a bit, so that there are several records of each kind.
const SIZE: usize = 2 * EXTENT_SIZE + 5000;
const CHILD: &str = "LOCKSTEP_UNDO_TEST_CHILD";
const KEY: &str = "/srv/pgdata.img";
const IDENTITY: &str = "file inode 12";

/// In memory where there is such a place: a kill takes nothing from the page cache, and flushing
/// some thousand files to a disk is most of the time.
pub(crate) fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap())
}

/// What is interrupted; each begins from what [`Act::prepare`] leaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Act {
    /// Begins where there is nothing.
    Begin,
    /// Begins in place of the undo of an earlier run.
    BeginAnew,
    /// Keeps and overwrites.
    Overwrite,
    /// Records the root.
    RecordRoot,
    /// Ends the run.
    Finish,
    /// Continues the undo of an interrupted run, and overwrites more.
    Resume,
    /// Begins a rollback, and ends it.
    Restore,
    /// Removes the undo.
    Release,
    /// Gives the undo up, then overwrites.
    Abandon,
}

const ACTS: [Act; 9] = [
    Act::Begin,
    Act::BeginAnew,
    Act::Overwrite,
    Act::RecordRoot,
    Act::Finish,
    Act::Resume,
    Act::Restore,
    Act::Release,
    Act::Abandon,
];

fn before() -> Vec<u8> {
    let page = |at: usize| at / PAGE_SIZE;
    let byte = |at: usize| {
        if page(at) % 5 == 3 {
            0
        } else {
            page(at) as u8 | 1
        }
    };
    (0..SIZE).map(byte).collect()
}

fn image(dir: &Path) -> PathBuf {
    dir.join("volume.img")
}

fn begin<'a>() -> Begin<'a> {
    Begin {
        key: KEY,
        identity: IDENTITY,
        size: SIZE as u64,
        run: "run-1",
        created_unix_ms: 1,
        expires_unix_ms: 2,
    }
}

fn resume<'a>(run: &'a str) -> Resume<'a> {
    Resume {
        key: KEY,
        identity: IDENTITY,
        size: SIZE as u64,
        continues: "run-1",
        run,
    }
}

/// Overwrites these bytes as a run does; the volume is a file, which a kill leaves as it is.
fn overwrite(dir: &Path, keeping: &Keeping, offset: usize, length: usize) -> Result<(), UndoError> {
    let path = image(dir);
    let file = fs::OpenOptions::new().read(true).write(true).open(path);
    let file = file.unwrap();
    let log = keeping.log().unwrap();
    let range = offset as u64..(offset + length) as u64;
    for part in log.missing(range) {
        let mut bytes = vec![0; (part.end - part.start) as usize];
        file.read_exact_at(&mut bytes, part.start).unwrap();
        let ticket = log.append(part.start, &bytes)?;
        log.commit(ticket)?;
    }
    file.write_all_at(&vec![0xee; length], offset as u64)
        .unwrap();
    Ok(())
}

impl Act {
    /// What was there before; nothing of it is interrupted.
    fn prepare(self, dir: &Path) {
        fs::write(image(dir), before()).unwrap();
        let store = UndoStore::at(dir);
        if self == Self::Begin {
            return;
        }
        let keeping = store.begin_log(&begin(), 1 << 30).unwrap();
        match self {
            Self::Overwrite | Self::RecordRoot | Self::Abandon => {}
            _ => overwrite(dir, &keeping, EXTENT_SIZE - 8192, 20_000).unwrap(),
        }
        if matches!(self, Self::BeginAnew | Self::Restore | Self::Release) {
            keeping.finish(7).unwrap();
        }
    }

    /// The act itself, with its preparation.
    fn perform(self, dir: &Path, steps: Steps) -> Result<(), UndoError> {
        self.prepare(dir);
        let store = UndoStore::with_steps(dir, steps.clone());
        // Resuming without steps gives the preparation's undo back, with the steps to be interrupted.
        let reopen = || {
            let quiet = UndoStore::at(dir).resume(&resume("run-1")).unwrap();
            let mut keeping = quiet.unwrap();
            keeping.interrupt_with(steps.clone());
            keeping
        };
        match self {
            Self::Begin => store.begin_log(&begin(), 1 << 30).map(drop),
            Self::BeginAnew => {
                // The volume as it is now is what counts from here on.
                let keeping = store.begin_log(&begin(), 1 << 30)?;
                overwrite(dir, &keeping, 0, 4096)
            }
            Self::Overwrite => {
                let keeping = reopen();
                overwrite(dir, &keeping, 0, 30_000)?;
                overwrite(dir, &keeping, EXTENT_SIZE - 5000, SIZE - EXTENT_SIZE + 5000)
            }
            Self::RecordRoot => reopen().record_root(Root::from_bytes([7; 32])).map(drop),
            Self::Finish => reopen().finish(7).map(drop),
            Self::Resume => {
                let keeping = store.resume(&resume("run-2"))?.unwrap();
                overwrite(dir, &keeping, 0, SIZE)?;
                keeping.finish(7).map(drop)
            }
            Self::Restore => put_back(dir, &store),
            Self::Release => store.release(KEY),
            Self::Abandon => {
                reopen().abandon()?;
                fs::write(image(dir), vec![0x11; SIZE]).unwrap();
                Ok(())
            }
        }
    }

    /// What the undo has to restore, if there is one afterwards.
    fn base(self) -> Vec<u8> {
        let mut base = before();
        if self == Self::BeginAnew {
            base[EXTENT_SIZE - 8192..][..20_000].fill(0xee);
        }
        base
    }
}

/// A rollback of the image file.
fn put_back(dir: &Path, store: &UndoStore) -> Result<(), UndoError> {
    let restoring = store.restore(KEY, IDENTITY, "rollback")?;
    let volume = MemoryVolume::with_content(fs::read(image(dir)).unwrap());
    restore(restoring.log().unwrap(), &volume).unwrap();
    check(restoring.log().unwrap(), &volume).unwrap();
    fs::write(image(dir), volume.medium_content()).unwrap();
    restoring.finish()
}

/// Everything that must hold after an interruption.
fn examine(dir: &Path, act: Act, place: &str) {
    let store = UndoStore::at(dir);
    let now = fs::read(image(dir)).unwrap();
    match store.look(KEY) {
        // The older undo was still there and the run had not begun.
        Ok(record) if act == Act::BeginAnew && record.state == State::Whole => {
            put_back(dir, &store).unwrap();
            assert!(fs::read(image(dir)).unwrap() == before(), "{place}");
        }
        Ok(record) => {
            plausible(act, &record, place);
            put_back(dir, &store).unwrap();
            assert!(fs::read(image(dir)).unwrap() == act.base(), "{place}");
        }
        Err(Unusable::Missing | Unusable::NoLog | Unusable::OtherLog) => match act {
            Act::Begin | Act::BeginAnew => assert!(now == act.base(), "{place}: undo lost"),
            Act::Restore => assert!(now == before(), "{place}: undo lost"),
            Act::Release | Act::Abandon => {}
            _ => panic!("{place}: undo lost"),
        },
        Err(doubt) => panic!("{place}: {doubt}"),
    }
    let records = store.list().unwrap().into_iter();
    let ended = records.filter(|listed| listed.record.as_ref().is_ok_and(is_whole));
    let expired = store.expired(u64::MAX).unwrap();
    assert!(expired.iter().all(is_whole), "{place}: its only way back");
    assert!(ended.count() <= expired.len(), "{place}: it never expires");
    goes_on(dir, &store, place);
}

fn is_whole(record: &Record) -> bool {
    record.state == State::Whole
}

fn plausible(act: Act, record: &Record, place: &str) {
    let states: &[State] = match act {
        Act::Finish | Act::Resume => &[State::Keeping, State::Whole],
        Act::Restore => &[State::Whole, State::Restoring],
        Act::Release => &[State::Whole],
        _ => &[State::Keeping],
    };
    assert!(states.contains(&record.state), "{place}: {record:?}");
    let known = PreRunRoot::Known(Root::from_bytes([7; 32]));
    let unknown = [PreRunRoot::NotYet, PreRunRoot::Never].contains(&record.root);
    let may_be_known = act == Act::RecordRoot && record.root == known;
    assert!(unknown || may_be_known, "{place}: {record:?}");
}

/// The next run and its rollback work, and nothing is left over.
fn goes_on(dir: &Path, store: &UndoStore, place: &str) {
    fs::write(image(dir), before()).unwrap();
    let keeping = store.begin_log(&begin(), 1 << 30).unwrap();
    overwrite(dir, &keeping, 0, SIZE).unwrap();
    keeping.finish(7).unwrap();
    put_back(dir, store).unwrap();
    assert!(fs::read(image(dir)).unwrap() == before(), "{place}");
    let names = fs::read_dir(dir.join("undo")).unwrap();
    let names: Vec<_> = names.map(|name| name.unwrap().file_name()).collect();
    assert_eq!(
        names.len(),
        1,
        "{place}: only the lock file stays: {names:?}"
    );
}

/// Calls `then` before step number `number`, and counts all.
fn at(
    number: usize,
    then: impl Fn() -> io::Result<()> + Send + Sync + 'static,
) -> (Steps, Arc<AtomicUsize>) {
    let begun = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&begun);
    let steps = Steps::calling(move |_| {
        if begun.fetch_add(1, Ordering::SeqCst) == number {
            return then();
        }
        Ok(())
    });
    (steps, count)
}

fn interrupt_everywhere(act: Act) {
    let total = {
        let folder = folder();
        let (steps, count) = at(usize::MAX, || Ok(()));
        act.perform(folder.path(), steps).unwrap();
        count.load(Ordering::SeqCst)
    };
    assert!(total >= 4, "{act:?} has {total} steps");
    for number in 0..total {
        for accident in [fail, kill] {
            let folder = folder();
            accident(folder.path(), act, number);
            examine(folder.path(), act, &format!("{act:?} before step {number}"));
        }
    }
}

fn fail(dir: &Path, act: Act, number: usize) {
    let (steps, _) = at(number, || Err(io::Error::other("injected")));
    let error = act.perform(dir, steps).unwrap_err();
    assert!(
        matches!(error, UndoError::Io { .. } | UndoError::Log(_)),
        "{error}"
    );
    let drafts = fs::read_dir(dir.join("undo")).map_or(0, |names| {
        let is_draft =
            |name: &fs::DirEntry| name.path().extension().is_some_and(|end| end == "new");
        names.map(Result::unwrap).filter(is_draft).count()
    });
    assert_eq!(drafts, 0, "a failure cleans up");
}

fn kill(dir: &Path, act: Act, number: usize) {
    let status = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "interruptions::child_dies_at_its_step",
            "--test-threads=1",
        ])
        .env(CHILD, format!("{act:?} {number} {}", dir.display()))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    let signal = std::os::unix::process::ExitStatusExt::signal(&status);
    assert_eq!(signal, Some(9), "the child ended by itself");
}

/// The child's life. Does nothing when it runs as an ordinary test.
#[test]
fn child_dies_at_its_step() {
    let Ok(told) = std::env::var(CHILD) else {
        return;
    };
    let mut words = told.splitn(3, ' ');
    let mut word = || words.next().unwrap();
    let name = word();
    let act = ACTS.into_iter().find(|act| format!("{act:?}") == name);
    let number = word().parse().unwrap();
    let (steps, _) = at(number, || {
        kill_process(getpid(), Signal::KILL)?;
        unreachable!("SIGKILL is not survived");
    });
    let _ = act.unwrap().perform(Path::new(word()), steps);
}

#[test]
fn beginning_is_interrupted() {
    interrupt_everywhere(Act::Begin);
}

#[test]
fn beginning_in_place_of_an_older_undo_is_interrupted() {
    interrupt_everywhere(Act::BeginAnew);
}

#[test]
fn keeping_and_overwriting_are_interrupted() {
    interrupt_everywhere(Act::Overwrite);
}

#[test]
fn recording_the_root_is_interrupted() {
    interrupt_everywhere(Act::RecordRoot);
}

#[test]
fn finishing_is_interrupted() {
    interrupt_everywhere(Act::Finish);
}

#[test]
fn resuming_is_interrupted() {
    interrupt_everywhere(Act::Resume);
}

#[test]
fn restoring_is_interrupted() {
    interrupt_everywhere(Act::Restore);
}

#[test]
fn releasing_is_interrupted() {
    interrupt_everywhere(Act::Release);
}

#[test]
fn abandoning_is_interrupted() {
    interrupt_everywhere(Act::Abandon);
}
