//! Locks that the kernel lets go of when their holder dies: flock(2).

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::claim::RunFacts;
use crate::error::LedgerError;
use crate::key::VolumeKey;

/// Longest wait for the store's lock; a change takes milliseconds.
const MAX_WAIT: Duration = Duration::from_secs(10);
/// Pause between two tries: flock cannot wait with a limit.
const PAUSE: Duration = Duration::from_millis(5);
/// Longest text that we read of a lock's holder.
const MAX_HOLDER_BYTES: u64 = 512;
/// Tries to get a lock file that others keep removing.
const MAX_REMOVALS: usize = 16;

/// The lock of a store; let go when dropped.
#[derive(Debug)]
pub(crate) struct StoreLock {
    file: File,
}

impl StoreLock {
    /// For a change: alone, making the lock file if it is missing.
    pub(crate) fn exclusive(path: &Path) -> Result<Self, LedgerError> {
        let file = open_or_make(path)?;
        wait_for(path, || file.try_lock())?;
        Ok(Self { file })
    }

    /// For a look: together with other looks. `None` if there is no lock file, so that nobody can
    /// have changed anything yet; makes nothing.
    pub(crate) fn shared(path: &Path) -> Result<Option<Self>, LedgerError> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(LedgerError::io("open", path)(error)),
        };
        wait_for(path, || file.try_lock_shared())?;
        Ok(Some(Self { file }))
    }
}

/// Said aloud, not left to the closing of the file: a child process that was just forked may hold
/// the same open file for a moment longer.
impl Drop for StoreLock {
    fn drop(&mut self) {
        let _ = self.file.unlock();
    }
}

/// The lock of a volume, held for a whole run; let go when dropped or when the process dies.
#[derive(Debug)]
pub(crate) struct VolumeLock {
    file: File,
}

impl VolumeLock {
    /// Takes the volume's lock in `folder` at once or says who has it.
    pub(crate) fn take(
        folder: &Path,
        key: &VolumeKey,
        run: &RunFacts,
    ) -> Result<Self, LedgerError> {
        let name = blake3::hash(key.as_str().as_bytes()).to_hex();
        let path = folder.join(format!("{}.lock", &name[..32]));
        for _ in 0..MAX_REMOVALS {
            let mut file = open_or_make(&path)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    let holder = holder(&file);
                    return Err(LedgerError::Busy { holder });
                }
                Err(TryLockError::Error(error)) => {
                    return Err(LedgerError::io("lock", &path)(error));
                }
            }
            if still_at(&file, &path) {
                sign(&mut file, run).map_err(LedgerError::io("write", &path))?;
                return Ok(Self { file });
            }
        }
        let holder = "its lock file is being removed again and again".to_owned();
        Err(LedgerError::Busy { holder })
    }
}

impl Drop for VolumeLock {
    fn drop(&mut self) {
        let _ = self.file.unlock();
    }
}

fn open_or_make(path: &Path) -> Result<File, LedgerError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    let file = options.mode(0o600).open(path);
    file.map_err(LedgerError::io("open", path))
}

fn wait_for(
    path: &Path,
    try_lock: impl Fn() -> Result<(), TryLockError>,
) -> Result<(), LedgerError> {
    let deadline = Instant::now() + MAX_WAIT;
    loop {
        match try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::Error(error)) => return Err(LedgerError::io("lock", path)(error)),
            Err(TryLockError::WouldBlock) if Instant::now() >= deadline => {
                return Err(LedgerError::Locked {
                    path: path.to_owned(),
                    waited: MAX_WAIT,
                });
            }
            Err(TryLockError::WouldBlock) => std::thread::sleep(PAUSE),
        }
    }
}

/// A lock on a file that somebody removed meanwhile excludes nobody.
fn still_at(file: &File, path: &Path) -> bool {
    let same = |there: std::fs::Metadata| {
        let ours = file.metadata();
        ours.is_ok_and(|ours| (ours.dev(), ours.ino()) == (there.dev(), there.ino()))
    };
    std::fs::metadata(path).is_ok_and(same)
}

/// For people only: nothing is decided by this text, so it need not be durable.
fn sign(file: &mut File, run: &RunFacts) -> std::io::Result<()> {
    file.set_len(0)?;
    write!(file, "run {}, process {}", run.run, std::process::id())
}

fn holder(file: &File) -> String {
    let mut bytes = Vec::new();
    let read = file.take(MAX_HOLDER_BYTES).read_to_end(&mut bytes);
    let text = String::from_utf8_lossy(&bytes);
    if read.is_err() || text.is_empty() {
        return "a run that has only just begun".to_owned();
    }
    text.replace(char::is_control, " ")
}
