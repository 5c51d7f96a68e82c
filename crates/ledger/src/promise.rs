//! What a node has promised: to let no run write a volume that is older than one which it let in.
//!
//! A promise is a file of its own, so that it outlives a damaged store: forgetting one would let an
//! older run in. One that cannot be read is never taken for none.
//!
//! | file | content |
//! | --- | --- |
//! | `promises/<volume>.promise` | the newest promise for a volume, named by its UUID's 32 hex digits |
//!
//! ```text
//! lockstep-promise 1 <the promise as JSON> <BLAKE3 of all before, 64 hex digits>⏎
//! ```
//!
//! # Recipe
//!
//! 1. Take `ledger.lock` exclusively.
//! 2. Read the promise that is there. Damaged: stop. Newer, or as old and to another run: stop.
//! 3. Write the new one as `….promise.new`, fsync, rename, fsync the directory.
//! 4. Only now say that it is promised, and let go of the lock.
//!
//! A crash before the rename leaves the old promise, one after it the new one; nobody was told yet.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::directory;
use crate::error::LedgerError;
use crate::key::Identity;
use crate::ledger::Ledger;
use crate::lock::StoreLock;
use crate::store::Store;

const PREFIX: &str = "lockstep-promise 1 ";
/// Longest text in a promise, in bytes.
const MAX_TEXT_BYTES: usize = 256;
/// Longest file that is read: the texts, escaped, and what is around them.
const MAX_FILE_BYTES: usize = 16 * 1024;

/// What a node promises a run.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Promise {
    /// The run's epoch: no lower one is let in any more.
    pub epoch: u64,
    /// The run's name: no other is let in with this epoch.
    pub run: String,
    /// The node that the data comes from.
    pub source: String,
    /// The node that promises.
    pub node: String,
    /// The volume's UUID.
    pub volume: [u8; 16],
    /// The file or device that may be written.
    pub identity: Identity,
}

/// Why nothing was promised, or a promise could not be read.
#[derive(Debug, thiserror::Error)]
pub enum PromiseError {
    /// A newer run has a promise, or another of the same epoch.
    #[error("epoch {epoch} is promised to run {run}")]
    Promised {
        /// The promised epoch.
        epoch: u64,
        /// The run that has it.
        run: String,
    },
    /// The promise that is there cannot be read.
    #[error("the promise {} is damaged: nobody knows which runs are too old", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// A text in it is longer than any we write.
    #[error("a text of the promise is longer than {MAX_TEXT_BYTES} bytes")]
    TooLong,
    /// The state directory could not be used.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

impl Ledger {
    /// The newest promise for a volume.
    ///
    /// # Errors
    /// [`PromiseError::Damaged`] if there is one that cannot be read: then no run may be let in.
    pub fn promised(&self, volume: [u8; 16]) -> Result<Option<Promise>, PromiseError> {
        let _lock = StoreLock::shared(&self.store().lock())?;
        read(&self.promise_path(volume), volume)
    }

    /// Makes a promise; it is durable when this returns. Making the same one again is no error.
    ///
    /// # Errors
    /// [`PromiseError::Promised`] if it would break an earlier one. After another error the promise
    /// may have become durable or not; it was given to nobody.
    pub fn promise(&self, promise: &Promise) -> Result<(), PromiseError> {
        let texts = [&promise.run, &promise.source, &promise.node];
        if texts.iter().any(|text| text.len() > MAX_TEXT_BYTES) {
            return Err(PromiseError::TooLong);
        }
        let path = self.promise_path(promise.volume);
        if let Some(folder) = path.parent() {
            directory::make_folder(folder)?;
        }
        let _lock = StoreLock::exclusive(&self.store().lock())?;
        if let Some(earlier) = read(&path, promise.volume)?
            && !earlier.allows(promise)
        {
            return Err(PromiseError::Promised {
                epoch: earlier.epoch,
                run: earlier.run,
            });
        }
        let text = line(promise).map_err(|error| LedgerError::Store {
            path: path.clone(),
            why: error.to_string(),
        })?;
        // The same one again is written again: it may have been seen, but never flushed.
        Ok(directory::replace(&path, text.as_bytes())?)
    }

    fn promise_path(&self, volume: [u8; 16]) -> PathBuf {
        path_in(self.store(), volume)
    }
}

/// The newest promise for a volume in the state directory `dir`, for one who only asks; makes and
/// changes nothing.
///
/// # Errors
/// [`PromiseError::Damaged`] if there is one that cannot be read, and if the directory cannot be
/// looked into.
pub fn peek_promise(dir: &Path, volume: [u8; 16]) -> Result<Option<Promise>, PromiseError> {
    let store = Store::at(dir);
    let _lock = StoreLock::shared(&store.lock())?;
    read(&path_in(&store, volume), volume)
}

fn path_in(store: &Store, volume: [u8; 16]) -> PathBuf {
    let name: String = volume.iter().map(|byte| format!("{byte:02x}")).collect();
    store.promises().join(format!("{name}.promise"))
}

impl Promise {
    /// Whether `next` can follow without breaking this one.
    fn allows(&self, next: &Promise) -> bool {
        next.epoch > self.epoch || next == self
    }
}

fn read(path: &Path, volume: [u8; 16]) -> Result<Option<Promise>, PromiseError> {
    let damaged = || PromiseError::Damaged {
        path: path.to_owned(),
    };
    match fs::metadata(path) {
        Ok(metadata) if !metadata.is_file() || metadata.len() > MAX_FILE_BYTES as u64 => {
            return Err(damaged());
        }
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(LedgerError::io("look at", path)(error).into()),
    }
    let bytes = fs::read(path).map_err(LedgerError::io("read", path))?;
    let promise = parse(&bytes).filter(|promise| promise.volume == volume);
    promise.map(Some).ok_or_else(damaged)
}

fn line(promise: &Promise) -> Result<String, serde_json::Error> {
    let body = format!("{PREFIX}{} ", serde_json::to_string(promise)?);
    let checksum = blake3::hash(body.as_bytes());
    Ok(format!("{body}{checksum}\n"))
}

/// Nothing but what [`line`] writes.
fn parse(bytes: &[u8]) -> Option<Promise> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (json, _) = text.strip_prefix(PREFIX)?.rsplit_once(' ')?;
    let promise: Promise = serde_json::from_str(json).ok()?;
    (line(&promise).ok()? == text).then_some(promise)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn promise(epoch: u64, run: &str) -> Promise {
        Promise {
            epoch,
            run: run.to_owned(),
            source: "db1".to_owned(),
            node: "db2".to_owned(),
            volume: [7; 16],
            identity: Identity::new("file inode 12"),
        }
    }

    fn stand() -> (tempfile::TempDir, Ledger) {
        let folder = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(&folder.path().join("state")).unwrap();
        (folder, ledger)
    }

    #[test]
    fn a_promise_is_kept_and_only_followed_by_newer_ones() {
        let (_folder, ledger) = stand();
        assert_eq!(ledger.promised([7; 16]).unwrap(), None);
        ledger.promise(&promise(5, "a")).unwrap();
        ledger.promise(&promise(5, "a")).unwrap();
        for broken in [promise(4, "z"), promise(5, "b"), promise(4, "a")] {
            let error = ledger.promise(&broken).unwrap_err();
            assert!(
                matches!(error, PromiseError::Promised { epoch: 5, .. }),
                "{error}"
            );
        }
        let moved = Promise {
            identity: Identity::new("file inode 13"),
            ..promise(5, "a")
        };
        assert!(ledger.promise(&moved).is_err(), "one run writes one device");
        assert_eq!(ledger.promised([7; 16]).unwrap(), Some(promise(5, "a")));
        ledger.promise(&promise(6, "b")).unwrap();
        assert_eq!(ledger.promised([7; 16]).unwrap(), Some(promise(6, "b")));
        assert_eq!(ledger.promised([8; 16]).unwrap(), None, "another volume");
    }

    #[test]
    fn whoever_only_asks_makes_nothing() {
        let (folder, ledger) = stand();
        let missing = folder.path().join("missing");
        assert_eq!(peek_promise(&missing, [7; 16]).unwrap(), None);
        assert!(!missing.exists());
        let state = folder.path().join("state");
        assert_eq!(peek_promise(&state, [7; 16]).unwrap(), None);
        ledger.promise(&promise(5, "a")).unwrap();
        assert_eq!(
            peek_promise(&state, [7; 16]).unwrap(),
            Some(promise(5, "a"))
        );
        fs::write(ledger.promise_path([7; 16]), b"damaged").unwrap();
        let error = peek_promise(&state, [7; 16]).unwrap_err();
        assert!(matches!(error, PromiseError::Damaged { .. }), "{error}");
    }

    /// Files of this release must be read for ever.
    #[test]
    fn the_written_form_does_not_change() {
        let json = r#"{"epoch":5,"run":"a","source":"db1","node":"db2","volume":[7,7,7,7,7,7,7,7,7,7,7,7,7,7,7,7],"identity":"file inode 12"}"#;
        let checksum = "bdb6553a9ad45a24d8613f3da635d913396afd09715530ee913ebd9f0451163d";
        let text = format!("lockstep-promise 1 {json} {checksum}\n");
        assert_eq!(line(&promise(5, "a")).unwrap(), text);
        assert_eq!(parse(text.as_bytes()), Some(promise(5, "a")));
    }

    #[test]
    fn a_promise_outlives_a_damaged_store() {
        let (folder, ledger) = stand();
        ledger.promise(&promise(5, "a")).unwrap();
        fs::write(folder.path().join("state/ledger.redb"), b"damaged").unwrap();
        let ledger = Ledger::open(&folder.path().join("state")).unwrap();
        assert!(ledger.was_damaged().is_some());
        assert_eq!(ledger.promised([7; 16]).unwrap(), Some(promise(5, "a")));
    }

    /// Every byte changed, and every length: damaged, never another promise and never none.
    #[test]
    fn a_damaged_promise_lets_nobody_in() {
        let (_folder, ledger) = stand();
        ledger.promise(&promise(5, "a")).unwrap();
        let path = ledger.promise_path([7; 16]);
        let whole = fs::read(&path).unwrap();
        let damages = (0..whole.len()).map(|at| {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            bytes
        });
        let cuts = (0..whole.len()).map(|len| whole[..len].to_vec());
        for bytes in damages.chain(cuts).chain([vec![b' '; 20_000]]) {
            fs::write(&path, &bytes).unwrap();
            assert!(matches!(
                ledger.promised([7; 16]),
                Err(PromiseError::Damaged { .. })
            ));
            let newer = ledger.promise(&promise(9, "z"));
            assert!(matches!(newer, Err(PromiseError::Damaged { .. })));
            assert_eq!(
                fs::read(&path).unwrap(),
                bytes,
                "it is left for a person to look at"
            );
        }
        fs::write(&path, &whole).unwrap();
        fs::copy(&path, ledger.promise_path([8; 16])).unwrap();
        assert!(matches!(
            ledger.promised([8; 16]),
            Err(PromiseError::Damaged { .. })
        ));
    }

    /// Before the rename of step 3.
    #[test]
    fn interrupted_while_a_promise_is_written() {
        let (_folder, ledger) = stand();
        let new = directory::new_name(&ledger.promise_path([7; 16]));
        fs::create_dir_all(new.parent().unwrap()).unwrap();
        for half in [b"".as_slice(), b"lockstep-promise 1 {"] {
            fs::write(&new, half).unwrap();
            assert_eq!(ledger.promised([7; 16]).unwrap(), None);
        }
        ledger.promise(&promise(5, "a")).unwrap();
        fs::write(&new, line(&promise(6, "b")).unwrap()).unwrap();
        assert_eq!(ledger.promised([7; 16]).unwrap(), Some(promise(5, "a")));
        ledger.promise(&promise(7, "c")).unwrap();
        assert!(!new.exists());
    }

    #[test]
    fn the_longest_texts_fit_and_longer_ones_are_refused() {
        let (_folder, ledger) = stand();
        let control = "\u{1}".repeat(MAX_TEXT_BYTES);
        let longest = Promise {
            run: control.clone(),
            source: control.clone(),
            node: control.clone(),
            identity: Identity::new(control.clone()),
            ..promise(u64::MAX, "")
        };
        ledger.promise(&longest).unwrap();
        assert_eq!(ledger.promised([7; 16]).unwrap(), Some(longest));
        let longer = promise(1, &"x".repeat(MAX_TEXT_BYTES + 1));
        assert!(matches!(
            ledger.promise(&longer),
            Err(PromiseError::TooLong)
        ));
    }
}
