//! One writer for each volume: flock(2), which the kernel lets go of when its holder dies.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::error::IndexError;

/// Longest wait for another writer of the same volume. A run holds its volume alone anyway, so
/// this is about a removal that meets the end of a run.
pub(crate) const MAX_WAIT: Duration = Duration::from_secs(30);
/// Pause between two tries: flock cannot wait with a limit.
const PAUSE: Duration = Duration::from_millis(5);

/// The right to change the indexes of a volume; let go when dropped. Its file is never removed.
#[derive(Debug)]
pub(crate) struct VolumeLock {
    file: File,
}

impl VolumeLock {
    pub(crate) fn take(path: &Path, wait: Duration) -> Result<Self, IndexError> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let file = options.mode(0o600).open(path);
        let file = file.map_err(IndexError::io("open", path))?;
        let deadline = Instant::now() + wait;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Self { file }),
                Err(TryLockError::Error(error)) => return Err(IndexError::io("lock", path)(error)),
                Err(TryLockError::WouldBlock) if Instant::now() >= deadline => {
                    return Err(IndexError::Locked {
                        path: path.to_owned(),
                        waited: wait,
                    });
                }
                Err(TryLockError::WouldBlock) => std::thread::sleep(PAUSE),
            }
        }
    }
}

/// Said aloud, not left to the closing of the file: a child process that was just forked may hold
/// the same open file for a moment longer.
impl Drop for VolumeLock {
    fn drop(&mut self) {
        let _ = self.file.unlock();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_writer_at_a_time_and_the_next_one_does_not_wait_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("v.lock");
        let short = Duration::from_millis(20);
        let first = VolumeLock::take(&path, short).unwrap();
        let refused = VolumeLock::take(&path, short).unwrap_err();
        assert!(matches!(refused, IndexError::Locked { .. }), "{refused}");
        drop(first);
        VolumeLock::take(&path, short).unwrap();
    }
}
