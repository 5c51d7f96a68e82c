//! The reports that still have to be delivered, on disk.
//!
//! | file | content |
//! | --- | --- |
//! | `TIME-ID-N.json` | one report for one destination; see [`file`] |
//! | `*.new` | being written; removed by the next start |
//! | `*.damaged` | set aside: its bytes are not what was written |
//! | `lock` | flock: one process at a time has the queue |
//!
//! How a file changes, so that a kill at any moment leaves the old one, the new one, or none:
//! 1. write `NAME.new`, 2. flush it, 3. rename it to `NAME`, 4. flush the folder.
//!
//! A file goes once its delivery ended; if a crash brings it back, it is delivered again.

mod file;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tracing::warn;

use crate::backoff::{After, Attempts};
use crate::destination::Destination;
use crate::report::Report;
use file::Item;

/// Most deliveries that wait; the oldest goes for one more.
pub const MAX_FILES: usize = 1000;
/// Most bytes that wait.
pub const MAX_BYTES: u64 = 16 << 20;
/// Most damaged files that are kept.
const MAX_DAMAGED: usize = 16;
const LOCK: &str = "lock";
const DAMAGED: &str = "damaged";

/// Why the queue cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// A file could not be used.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Another process has it.
    #[error("{} is in use by another process", dir.display())]
    Locked {
        /// The queue's folder.
        dir: PathBuf,
    },
}

impl QueueError {
    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }
}

/// Names of files, the oldest first.
pub(crate) type Name = String;

/// Deliveries that wait. Every change is on disk when it returns.
#[derive(Debug)]
pub struct Queue {
    dir: PathBuf,
    items: BTreeMap<Name, Kept>,
    bytes: u64,
    _lock: File,
}

#[derive(Debug)]
struct Kept {
    item: Item,
    bytes: u64,
}

impl Queue {
    /// Opens the queue in this folder, which is made if need be.
    ///
    /// # Errors
    ///
    /// If the folder cannot be used, or another process uses it.
    pub fn open(dir: &Path) -> Result<Self, QueueError> {
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder.create(dir).map_err(QueueError::io("make", dir))?;
        let mut queue = Self {
            dir: dir.to_owned(),
            items: BTreeMap::new(),
            bytes: 0,
            _lock: lock(dir)?,
        };
        queue.load()?;
        queue.keep_bounds();
        Ok(queue)
    }

    /// Deliveries that wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Queues a report for each of these destinations.
    pub(crate) fn put(
        &mut self,
        report: &Report,
        to: &[Destination],
        now_unix_ms: u64,
    ) -> Result<(), QueueError> {
        let report = report.tidy();
        for (number, destination) in to.iter().enumerate() {
            let item = Item {
                destination: destination.clone(),
                attempts: Attempts::new(now_unix_ms),
                report: report.clone(),
            };
            let id = report.id.as_str();
            self.keep(format!("{now_unix_ms:015}-{id}-{number:03}.json"), item)?;
        }
        file::flush_folder(&self.dir)?;
        self.keep_bounds();
        Ok(())
    }

    /// Everything that waits, the oldest first.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = (&Name, &Destination, &Attempts)> {
        self.items
            .iter()
            .map(|(name, kept)| (name, &kept.item.destination, &kept.item.attempts))
    }

    pub(crate) fn report(&self, name: &str) -> Option<&Report> {
        self.items.get(name).map(|kept| &kept.item.report)
    }

    /// A delivery ended, for good or bad.
    pub(crate) fn remove(&mut self, name: &str) {
        let Some(kept) = self.items.remove(name) else {
            return;
        };
        self.bytes -= kept.bytes;
        let path = self.dir.join(name);
        let gone = match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(QueueError::io("remove", &path)(error))
            }
            _ => file::flush_folder(&self.dir),
        };
        if let Err(error) = gone {
            warn!(
                "a notification that is done with may be sent again: {}",
                told(&error)
            );
        }
    }

    /// A delivery failed for now; says when it is tried again, if ever.
    pub(crate) fn put_off(
        &mut self,
        name: &str,
        now_unix_ms: u64,
        random: u32,
        asked: Option<Duration>,
    ) -> Option<Attempts> {
        let mut item = self.items.get(name)?.item.clone();
        match item.attempts.after_failure(now_unix_ms, random, asked) {
            After::GiveUp => {
                self.remove(name);
                None
            }
            After::Retry(attempts) => {
                item.attempts = attempts;
                // In memory in any case: a full disk is no reason to hammer a receiver.
                if let Some(kept) = self.items.get_mut(name) {
                    kept.item.attempts = attempts;
                }
                let kept = self.keep(name.to_owned(), item);
                if let Err(error) = kept.and_then(|()| file::flush_folder(&self.dir)) {
                    warn!(
                        "a notification's next attempt is not kept: {}",
                        told(&error)
                    );
                }
                Some(attempts)
            }
        }
    }

    fn keep(&mut self, name: Name, item: Item) -> Result<(), QueueError> {
        let bytes = item.write(&self.dir.join(&name))?;
        if let Some(before) = self.items.insert(name, Kept { item, bytes }) {
            self.bytes -= before.bytes;
        }
        self.bytes += bytes;
        Ok(())
    }

    fn load(&mut self) -> Result<(), QueueError> {
        let dir = self.dir.clone();
        let listed = fs::read_dir(&dir).map_err(QueueError::io("list", &dir))?;
        for entry in listed {
            let path = entry.map_err(QueueError::io("list", &dir))?.path();
            let (Some(name), Some(kind)) = (
                path.file_name().and_then(OsStr::to_str),
                path.extension().and_then(OsStr::to_str),
            ) else {
                continue;
            };
            match kind {
                "json" => match Item::read(&path) {
                    Ok((item, bytes)) => {
                        self.bytes += bytes;
                        self.items.insert(name.to_owned(), Kept { item, bytes });
                    }
                    Err(why) => set_aside(&path, &why),
                },
                // Nobody else writes here, so whoever began it is gone.
                "new" => remove(&path),
                _ => {}
            }
        }
        forget_damaged(&dir);
        Ok(())
    }

    fn keep_bounds(&mut self) {
        while self.items.len() > MAX_FILES || self.bytes > MAX_BYTES {
            let Some((name, kept)) = self.items.first_key_value() else {
                return;
            };
            warn!(
                id = kept.item.report.id.as_str(),
                "too many notifications wait: the oldest, for {}, is dropped",
                kept.item.destination
            );
            let name = name.clone();
            self.remove(&name);
        }
    }
}

fn lock(dir: &Path) -> Result<File, QueueError> {
    let path = dir.join(LOCK);
    let file = file::private()
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(QueueError::io("open", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(QueueError::Locked {
            dir: dir.to_owned(),
        }),
        Err(TryLockError::Error(error)) => Err(QueueError::io("lock", &path)(error)),
    }
}

fn set_aside(path: &Path, why: &str) {
    let aside = path.with_extension(DAMAGED);
    warn!(
        "{} {why}; it is not sent, and kept as {}",
        path.display(),
        aside.display()
    );
    if let Err(error) = fs::rename(path, &aside) {
        warn!("cannot rename {}: {error}", path.display());
    }
}

/// Keeps the newest of the damaged files.
fn forget_damaged(dir: &Path) {
    let Ok(listed) = fs::read_dir(dir) else {
        return;
    };
    let mut damaged: Vec<PathBuf> = listed
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension() == Some(OsStr::new(DAMAGED)))
        .collect();
    damaged.sort();
    for path in damaged.iter().rev().skip(MAX_DAMAGED) {
        remove(path);
    }
}

fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path) {
        warn!("cannot remove {}: {error}", path.display());
    }
}

/// An error with its cause.
pub(crate) fn told(error: &QueueError) -> String {
    match error {
        QueueError::Io { source, .. } => format!("{error}: {source}"),
        QueueError::Locked { .. } => error.to_string(),
    }
}

#[cfg(test)]
mod tests;
