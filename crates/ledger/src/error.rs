//! What can go wrong with the ledger itself.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Why the ledger could not do what it was asked.
///
/// A damaged store is not among these: it is set aside, and reads as `unknown`.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// A file of the state directory could not be used.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The store refused for another reason than damage or I/O.
    #[error("the store {} refused: {why}", path.display())]
    Store {
        /// The store.
        path: PathBuf,
        /// What it said.
        why: String,
    },
    /// Another process kept the store's lock for longer than any honest change takes.
    #[error("{} stayed locked by another process for {} s", path.display(), waited.as_secs())]
    Locked {
        /// The lock file.
        path: PathBuf,
        /// How long we waited.
        waited: Duration,
    },
    /// Another run holds the volume.
    #[error("another run holds this volume: {holder}")]
    Busy {
        /// Run and process of the holder, as far as they are known.
        holder: String,
    },
    /// Nothing says where the ledger lives.
    #[error("no state directory: neither XDG_STATE_HOME nor HOME is an absolute path")]
    NoStateDir,
    /// The path cannot name a volume.
    #[error("{} cannot name a volume: {why}", path.display())]
    BadPath {
        /// The path as given.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
}

impl LedgerError {
    /// For `map_err` on an I/O result.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }
}
