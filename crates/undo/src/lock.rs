//! One holder for each volume's undo: flock(2), which the kernel lets go of when its holder dies.

use std::fs::{File, TryLockError};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};

use crate::error::UndoError;

/// Longest wait for another holder. A change of a record takes milliseconds; a run or a rollback
/// keeps the lock for all its life, and is not worth waiting for.
pub(crate) const MAX_WAIT: Duration = Duration::from_secs(2);
/// Pause between two tries: flock cannot wait with a limit.
const PAUSE: Duration = Duration::from_millis(5);

/// The right to change a volume's undo; let go when dropped. Its file is never removed.
#[derive(Debug)]
pub(crate) struct UndoLock {
    file: File,
}

impl UndoLock {
    pub(crate) fn take(path: &Path, wait: Duration) -> Result<Self, UndoError> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR);
        let file = File::from(file.map_err(UndoError::io("open", path))?);
        let deadline = Instant::now() + wait;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Self { file }),
                Err(TryLockError::Error(error)) => return Err(UndoError::io("lock", path)(error)),
                Err(TryLockError::WouldBlock) if Instant::now() >= deadline => {
                    return Err(UndoError::Busy {
                        path: path.to_owned(),
                    });
                }
                Err(TryLockError::WouldBlock) => std::thread::sleep(PAUSE),
            }
        }
    }
}

/// Said aloud, not left to the closing of the file: a child process that was just forked may hold
/// the same open file for a moment longer.
impl Drop for UndoLock {
    fn drop(&mut self) {
        let _ = self.file.unlock();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holder_at_a_time_and_the_next_one_does_not_wait_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("v.lock");
        let short = Duration::from_millis(20);
        let first = UndoLock::take(&path, short).unwrap();
        let refused = UndoLock::take(&path, short).unwrap_err();
        assert!(matches!(refused, UndoError::Busy { .. }), "{refused}");
        drop(first);
        UndoLock::take(&path, short).unwrap();
    }

    #[test]
    fn no_file_is_made_where_a_link_leads() {
        let dir = tempfile::tempdir().unwrap();
        let (path, elsewhere) = (dir.path().join("v.lock"), dir.path().join("elsewhere"));
        std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
        UndoLock::take(&path, Duration::ZERO).unwrap_err();
        assert!(!elsewhere.exists());
    }
}
