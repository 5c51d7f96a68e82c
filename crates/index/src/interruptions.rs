//! One test for each place where the recipe of writing can be interrupted, by a failure and by
//! SIGKILL: the old index or the new one is there afterwards, whole, and the next writer goes on.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use lockstep_merkle::{Cv, Geometry, PAGE_SIZE, fold_pages};
use rustix::process::{Signal, getpid, kill_process};

use crate::error::{IndexError, Unusable};
use crate::facts::{Facts, Lineage};
use crate::key::IndexKey;
use crate::store::IndexStore;
use crate::writer::Step;

/// More than two chunks of values, so that filling has a beginning, a middle and an end.
const PAGES: u64 = 70_000;
const CHILD_DIR: &str = "LOCKSTEP_INDEX_TEST_CHILD";
const CHILD_STEP: &str = "LOCKSTEP_INDEX_TEST_STEP";
const IDENTITY: &str = "file inode 12";

/// Where it stops: the step before which it does, and how many times that step has begun before.
type Place = (Step, usize);

fn key() -> IndexKey {
    IndexKey::source("pgdata", "lockstep-pgdata-1")
}

fn cvs(version: u8) -> impl Iterator<Item = Cv> {
    (0..PAGES).map(move |page| {
        let mut bytes = [version; 32];
        bytes[..8].copy_from_slice(&page.to_le_bytes());
        Cv::from_bytes(bytes)
    })
}

fn facts(version: u8) -> Facts {
    let geometry = Geometry::new(PAGES * PAGE_SIZE as u64 - 1);
    Facts {
        identity: IDENTITY.to_owned(),
        snapshot: vec![version],
        geometry,
        root: fold_pages(geometry, cvs(version)).unwrap(),
        lineage: Lineage::FullScan,
        last_full_scan_unix_ms: 1,
        created_unix_ms: 2,
    }
}

fn save_until(
    dir: &Path,
    version: u8,
    stop: &mut dyn FnMut(Step) -> io::Result<()>,
) -> Result<(), IndexError> {
    IndexStore::at(dir).save_in_steps(&key(), &facts(version), cvs(version), stop)
}

fn save(dir: &Path, version: u8) {
    IndexStore::at(dir)
        .save(&key(), &facts(version), cvs(version))
        .unwrap();
}

/// Calls `then` at a place, and lets everything before it go on.
fn at(
    (step, skip): Place,
    then: impl Fn() -> io::Result<()>,
) -> impl FnMut(Step) -> io::Result<()> {
    let mut begun = 0;
    move |now| {
        begun += usize::from(now == step);
        if now == step && begun == skip + 1 {
            return then();
        }
        Ok(())
    }
}

/// Which version is there, every byte of it checked; 0 if none.
fn version(dir: &Path) -> u8 {
    match IndexStore::at(dir).load(&key(), IDENTITY) {
        Ok(index) => {
            let version = index.facts().snapshot[0];
            assert!(index.cvs().eq(cvs(version)));
            version
        }
        Err(Unusable::Missing) => 0,
        Err(doubt) => panic!("half an index is there: {doubt}"),
    }
}

fn drafts(dir: &Path) -> usize {
    let names = fs::read_dir(dir.join("indexes")).unwrap();
    let is_draft = |name: &fs::DirEntry| name.path().extension().is_some_and(|end| end == "new");
    names.map(Result::unwrap).filter(is_draft).count()
}

/// Fails and kills at the place, with an older index there and without; `after` is whether the new
/// one has its name by then.
fn interrupt(place: Place, after: bool) {
    for old in [0, 1] {
        let expected = if after { 2 } else { old };
        for accident in [fail, kill] {
            let folder = tempfile::tempdir().unwrap();
            let dir = folder.path();
            if old == 1 {
                save(dir, 1);
            }
            accident(dir, place);
            assert_eq!(version(dir), expected, "{place:?}, old {old}");
            save(dir, 3);
            assert_eq!((version(dir), drafts(dir)), (3, 0), "{place:?}, old {old}");
        }
    }
}

fn fail(dir: &Path, place: Place) {
    let mut stop = at(place, || Err(io::Error::other("injected")));
    let error = save_until(dir, 2, &mut stop).unwrap_err();
    assert!(matches!(error, IndexError::Io { .. }), "{error}");
    assert_eq!(drafts(dir), 0, "a failed writer cleans up");
}

fn kill(dir: &Path, (step, skip): Place) {
    let status = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "interruptions::child_dies_at_its_step",
            "--test-threads=1",
        ])
        .env(CHILD_DIR, dir)
        .env(CHILD_STEP, format!("{step:?} {skip}"))
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
    let Some(dir) = std::env::var_os(CHILD_DIR).map(PathBuf::from) else {
        return;
    };
    let told = std::env::var(CHILD_STEP).unwrap();
    let place = PLACES
        .into_iter()
        .find(|(step, skip)| told == format!("{step:?} {skip}"));
    let die = || {
        kill_process(getpid(), Signal::KILL)?;
        unreachable!("SIGKILL is not survived");
    };
    let _ = save_until(&dir, 2, &mut at(place.unwrap(), die));
}

const PLACES: [Place; 9] = [
    (Step::Sweep, 0),
    (Step::Make, 0),
    (Step::Reserve, 0),
    (Step::Fill, 0),
    (Step::Fill, 2),
    (Step::Header, 0),
    (Step::Flush, 0),
    (Step::Rename, 0),
    (Step::FlushFolder, 0),
];

#[test]
fn interrupted_before_the_sweep() {
    interrupt((Step::Sweep, 0), false);
}

#[test]
fn interrupted_before_the_draft_is_made() {
    interrupt((Step::Make, 0), false);
}

#[test]
fn interrupted_before_space_is_reserved() {
    interrupt((Step::Reserve, 0), false);
}

#[test]
fn interrupted_before_the_first_values_are_written() {
    interrupt((Step::Fill, 0), false);
}

#[test]
fn interrupted_before_the_last_values_are_written() {
    interrupt((Step::Fill, 2), false);
}

#[test]
fn interrupted_before_the_header_is_written() {
    interrupt((Step::Header, 0), false);
}

#[test]
fn interrupted_before_the_file_is_flushed() {
    interrupt((Step::Flush, 0), false);
}

#[test]
fn interrupted_before_the_draft_gets_its_name() {
    interrupt((Step::Rename, 0), false);
}

#[test]
fn interrupted_before_the_folder_is_flushed() {
    interrupt((Step::FlushFolder, 0), true);
}

/// A draft of one snapshot is also swept when another snapshot of the volume is indexed: its own key
/// may never come back.
#[test]
fn a_dead_draft_of_another_snapshot_is_swept() {
    let folder = tempfile::tempdir().unwrap();
    kill(folder.path(), (Step::Rename, 0));
    assert_eq!(drafts(folder.path()), 1);
    let other = IndexKey::source("other volume", "s");
    let store = IndexStore::at(folder.path());
    store.save(&other, &facts(1), cvs(1)).unwrap();
    assert_eq!(
        drafts(folder.path()),
        1,
        "another volume's writer may be at work"
    );
    let newer = IndexKey::source("pgdata", "lockstep-pgdata-2");
    store.save(&newer, &facts(1), cvs(1)).unwrap();
    assert_eq!(drafts(folder.path()), 0);
}
