//! What may be frozen right now, written down for the case that freezer and watchdog are both killed.
//!
//! | file of the state directory | content |
//! | --- | --- |
//! | `frozen/P-N.json` | one [`Entry`]; flock'd by the freezer, process P, for as long as it lives |
//! | `frozen/P-N.json.new` | an entry being written; removed by the next who writes or recovers |
//! | `frozen/lock` | flock: held while entries are made and drafts removed; never removed |
//!
//! # Recipe
//!
//! 1. Under the folder's lock make `P-N.json.new`, which must not exist, and lock it.
//! 2. Write it and flush it.
//! 3. Rename it, flush the folder, let go of the folder's lock. Only now may a hook run or a filesystem
//!    be frozen.
//! 4. When everything is thawed and every `after` hook has run, remove it. That need not be durable: an
//!    entry too many makes the next start ask for a thaw of what is not frozen, or find another boot.
//!
//! A freeze does not outlive the machine, so an entry of an earlier boot is empty talk.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::error::QuiesceError;
use crate::point::{FilesystemId, MountPoint};

/// Most entries that one look at the folder takes in.
pub(crate) const MAX_ENTRIES: usize = 1024;
/// Longest entry: mount points are at most 4096 bytes each.
const MAX_ENTRY_BYTES: u64 = 1 << 20;
const MAX_WAIT: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(5);

const FOLDER: &str = "frozen";
const FORMAT: u32 = 1;

/// What a freezer is about to do.
#[derive(PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Entry {
    v: u32,
    pub(crate) boot: String,
    /// Names of the `before` hooks, in their order.
    pub(crate) hooks: Vec<String>,
    pub(crate) mount_points: Vec<Freezable>,
}

#[derive(PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Freezable {
    pub(crate) path: PathBuf,
    pub(crate) filesystem: FilesystemId,
}

/// An entry of our own; removed when dropped, unless it is kept.
pub(crate) struct Journal {
    path: PathBuf,
    /// Holds the lock.
    _file: File,
    is_kept: bool,
}

impl Entry {
    pub(crate) fn new(hooks: Vec<String>, points: &[MountPoint]) -> Result<Entry, QuiesceError> {
        let freezable = |point: &MountPoint| -> Result<Freezable, QuiesceError> {
            let filesystem = point.id().map_err(failed("identify", &point.path))?;
            Ok(Freezable {
                path: point.path.clone(),
                filesystem,
            })
        };
        Ok(Entry {
            v: FORMAT,
            boot: boot_id().map_err(failed("read", Path::new(BOOT_ID)))?,
            hooks,
            mount_points: points.iter().map(freezable).collect::<Result<_, _>>()?,
        })
    }

    /// What a file holds, or why it holds nothing.
    pub(crate) fn read(file: &File) -> Result<Entry, String> {
        let mut bytes = Vec::new();
        let read = file.take(MAX_ENTRY_BYTES).read_to_end(&mut bytes);
        read.map_err(|error| error.to_string())?;
        let entry: Entry = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
        if entry.v != FORMAT {
            return Err(format!(
                "its format is {}, which is not known here",
                entry.v
            ));
        }
        Ok(entry)
    }
}

impl Journal {
    pub(crate) fn write(state_dir: &Path, entry: &Entry) -> Result<Journal, QuiesceError> {
        let folder = state_dir.join(FOLDER);
        let mut builder = DirBuilder::new();
        let made = builder.recursive(true).mode(0o700).create(&folder);
        made.map_err(failed("make", &folder))?;
        let _lock = lock_folder(&folder)?;
        remove_drafts(&folder)?;
        let path = free_name(&folder);
        let draft = draft_of(&path);
        let file = write_locked(&draft, entry).map_err(failed("write", &draft))?;
        fs::rename(&draft, &path).map_err(failed("put in place", &path))?;
        flush(&folder).map_err(failed("flush", &folder))?;
        Ok(Journal {
            path,
            _file: file,
            is_kept: false,
        })
    }

    /// Leaves it to the next start: not everything could be thawed.
    pub(crate) fn keep(&mut self) {
        self.is_kept = true;
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        if self.is_kept {
            return;
        }
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "an entry of what was frozen stays behind");
        }
    }
}

/// The entries of freezers that are gone, their files locked by us.
pub(crate) fn orphans(state_dir: &Path) -> Result<Vec<(PathBuf, File)>, QuiesceError> {
    let folder = state_dir.join(FOLDER);
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let _lock = lock_folder(&folder)?;
    remove_drafts(&folder)?;
    let mut found = Vec::new();
    for path in files(&folder, "json")? {
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(failed("open", &path)(error)),
        };
        match file.try_lock() {
            // Else another start has just dealt with it.
            Ok(()) if path.exists() => found.push((path, file)),
            Ok(()) => {}
            // Its freezer lives, and so does its watchdog.
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => return Err(failed("lock", &path)(error)),
        }
    }
    Ok(found)
}

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// What tells this boot of the machine from every other.
pub(crate) fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string(BOOT_ID)?.trim().to_owned())
}

pub(crate) fn lock_folder(folder: &Path) -> Result<File, QuiesceError> {
    let path = folder.join("lock");
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600);
    let file = options.open(&path).map_err(failed("open", &path))?;
    let deadline = Instant::now() + MAX_WAIT;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                std::thread::sleep(PAUSE);
            }
            Err(error) => return Err(failed("lock", &path)(error.into())),
        }
    }
}

/// Under the folder's lock nobody is writing one.
fn remove_drafts(folder: &Path) -> Result<(), QuiesceError> {
    for path in files(folder, "new")? {
        fs::remove_file(&path).map_err(failed("remove", &path))?;
    }
    Ok(())
}

pub(crate) fn files(folder: &Path, extension: &str) -> Result<Vec<PathBuf>, QuiesceError> {
    let entries = fs::read_dir(folder).map_err(failed("read", folder))?;
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let wanted = paths.filter(|path| path.extension().is_some_and(|found| found == extension));
    Ok(wanted.take(MAX_ENTRIES).collect())
}

/// A process may freeze several times at once, and its number may have been an earlier one's.
fn free_name(folder: &Path) -> PathBuf {
    let process = std::process::id();
    let mut number: u64 = 0;
    loop {
        let path = folder.join(format!("{process}-{number}.json"));
        if !path.exists() {
            return path;
        }
        number += 1;
    }
}

fn draft_of(path: &Path) -> PathBuf {
    path.with_extension("json.new")
}

fn write_locked(draft: &Path, entry: &Entry) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(draft)?;
    file.try_lock()?;
    file.write_all(&serde_json::to_vec(entry)?)?;
    file.sync_all()?;
    Ok(file)
}

fn flush(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// For `map_err` on an I/O result.
pub(crate) fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> QuiesceError {
    let path = path.to_owned();
    move |source| QuiesceError::Journal {
        action,
        path,
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> Entry {
        Entry::new(vec!["pg".to_owned()], &[]).unwrap()
    }

    #[test]
    fn an_entry_belongs_to_its_freezer_until_that_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let ours = Journal::write(dir.path(), &entry()).unwrap();
        let mut kept = Journal::write(dir.path(), &entry()).unwrap();
        assert_eq!(orphans(dir.path()).unwrap().len(), 0);
        kept.keep();
        drop((ours, kept));
        let found = orphans(dir.path()).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(Entry::read(&found[0].1).unwrap(), entry());
    }

    #[test]
    fn drafts_and_foreign_files_are_no_entries() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(orphans(dir.path()).unwrap().len(), 0);
        let folder = dir.path().join(FOLDER);
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("1-0.json.new"), b"{").unwrap();
        fs::write(folder.join("notes"), b"").unwrap();
        assert_eq!(orphans(dir.path()).unwrap().len(), 0);
        assert!(!folder.join("1-0.json.new").exists());
        fs::write(folder.join("1-0.json"), b"{\"v\":1").unwrap();
        let found = orphans(dir.path()).unwrap();
        assert!(Entry::read(&found[0].1).is_err());
    }
}
