//! All undos of a node: beginning, resuming, restoring, releasing, listing.

use std::path::{Path, PathBuf};

use crate::error::{UndoError, Unusable};
use crate::folder::{self, Names};
use crate::keeping::{Held, Keeping};
use crate::lock::{MAX_WAIT, UndoLock};
use crate::log::{PreImageLog, SealedLog};
use crate::record::{Kept, LogFacts, LogId, PreRunRoot, Record, State, bounded_key};
use crate::record_block;
use crate::restoring::Restoring;
use crate::room::{self, Room};
use crate::standing::{check_replaceable, check_subject, continuable, read, read_record, resumed};
use crate::steps::Steps;

/// Most undos that are listed.
pub const MAX_LISTED: usize = 4096;

const FOLDER: &str = "undo";

/// The undos in a state directory, at most one of each volume.
#[derive(Clone, Debug)]
pub struct UndoStore {
    folder: PathBuf,
    /// A folder that others could have made or could change, and that is above this one.
    doubtful: Option<PathBuf>,
    steps: Steps,
}

/// What a run knows when it begins an undo. Times are in milliseconds since the Unix epoch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Begin<'a> {
    /// The volume's key, such as its canonical path. A key of more than 512 bytes is kept as its hash.
    pub key: &'a str,
    /// The file or device, as text that survives a reboot and that a change of size leaves alone; at
    /// most [`MAX_DURABLE_TEXT`](lockstep_volume::MAX_DURABLE_TEXT) bytes.
    pub identity: &'a str,
    /// Bytes of the volume before the run.
    pub size: u64,
    /// The run's name, at most [`MAX_RUN_BYTES`](crate::MAX_RUN_BYTES).
    pub run: &'a str,
    /// Now.
    pub created_unix_ms: u64,
    /// When the undo expires, until the run ends and says so again.
    pub expires_unix_ms: u64,
}

/// What a run knows when it continues the undo of one that was interrupted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Resume<'a> {
    /// As in [`Begin`].
    pub key: &'a str,
    /// As in [`Begin`].
    pub identity: &'a str,
    /// Bytes of the volume now.
    pub size: u64,
    /// The run or rollback that left the volume as it is, by the word of the ledger. It is what says
    /// that nobody else wrote to the volume since.
    pub continues: &'a str,
    /// The name of the run that begins now.
    pub run: &'a str,
}

/// An undo as a list shows it: its record was checked, and that its log is there.
#[derive(Debug)]
pub struct Listed {
    /// The record's file.
    pub path: PathBuf,
    /// What it says, or why it cannot be believed.
    pub record: Result<Record, Unusable>,
}

/// An undo that is being removed: nobody else has it meanwhile.
#[derive(Debug)]
pub struct Releasing {
    held: Held,
    record: Result<Record, Unusable>,
}

impl Releasing {
    /// What is recorded, or why it cannot be believed.
    pub fn record(&self) -> Result<&Record, &Unusable> {
        self.record.as_ref()
    }

    /// Removes it, durably. A snapshot that the record names has to be released before.
    ///
    /// # Errors
    /// As [`UndoStore::release`].
    pub fn remove(self) -> Result<(), UndoError> {
        self.held.remove()
    }
}

impl UndoStore {
    /// The undos in the state directory `state_dir`, which need not exist before the first one.
    pub fn at(state_dir: &Path) -> Self {
        Self {
            folder: state_dir.join(FOLDER),
            doubtful: None,
            steps: Steps::default(),
        }
    }

    /// The undos in a folder whose place others can write to, such as the one beside a volume. It is
    /// looked at again before each use, and what is not its owner's alone is not used.
    ///
    /// # Errors
    /// [`Unusable::NotOurs`] if it is there already and is somebody else's.
    pub fn beside(folder: &Path) -> Result<Self, Unusable> {
        let store = Self {
            doubtful: Some(folder.to_owned()),
            ..Self::at(folder)
        };
        store.check_folders()?;
        Ok(store)
    }

    fn check_folders(&self) -> Result<(), Unusable> {
        let Some(above) = &self.doubtful else {
            return Ok(());
        };
        folder::check_private(above)?;
        folder::check_private(&self.folder)
    }

    #[cfg(test)]
    pub(crate) fn with_steps(state_dir: &Path, steps: Steps) -> Self {
        Self {
            steps,
            ..Self::at(state_dir)
        }
    }

    /// What there is of a volume; takes no lock and changes nothing.
    ///
    /// The pre-images themselves are read when they are restored.
    ///
    /// # Errors
    /// [`Unusable`] says what is in doubt, or that there is nothing.
    pub fn look(&self, key: &str) -> Result<Record, Unusable> {
        let key = bounded_key(key);
        self.check_folders()?;
        let names = Names::of(&self.folder, &key);
        let record = read(&names)?;
        if record.key != key {
            return Err(Unusable::OtherKey(record.key));
        }
        Ok(record)
    }

    /// Whether there is room for the pre-images of that many bytes.
    ///
    /// # Errors
    /// [`UndoError::Io`] if the filesystem does not say.
    pub fn preflight(&self, overwritten_bytes: u64) -> Result<Room, UndoError> {
        room::room(&self.folder, overwritten_bytes)
    }

    /// Begins an undo that restores from a log of at most `max_bytes`, in place of an older log.
    ///
    /// # Errors
    /// [`UndoError`]; the older undo may be gone by then. [`UndoError::HoldsSnapshot`] if it restores
    /// from a snapshot: then it is untouched, and to be released first.
    pub fn begin_log(&self, begin: &Begin<'_>, max_bytes: u64) -> Result<Keeping, UndoError> {
        let mut id = LogId([0; 16]);
        getrandom::fill(&mut id.0).map_err(UndoError::NoRandomness)?;
        let sealed_bytes = None;
        self.begin(
            begin,
            Kept::Log(LogFacts {
                id,
                sealed_bytes,
                max_bytes,
            }),
        )
    }

    /// Begins an undo that restores from a snapshot that was made already, described as its provider
    /// needs it.
    ///
    /// # Errors
    /// As [`UndoStore::begin_log`].
    pub fn begin_image(&self, begin: &Begin<'_>, description: &[u8]) -> Result<Keeping, UndoError> {
        self.begin(begin, Kept::Image(description.to_vec()))
    }

    pub(crate) fn begin(&self, begin: &Begin<'_>, kept: Kept) -> Result<Keeping, UndoError> {
        let record = new_record(begin, kept);
        // Nothing is removed for a record that could not be written.
        record_block::encode(&record)?;
        self.check_folders()?;
        folder::make(&self.folder)?;
        let held = self.hold(&record.key)?;
        check_replaceable(&held.names)?;
        folder::remove(&held.names, &held.steps)?;
        let log = record
            .log()
            .map(|facts| PreImageLog::make(&held.names.log, facts, record.size, &held.steps))
            .transpose()?;
        held.put(&record)?;
        Ok(Keeping::new(held, record, log))
    }

    /// Continues the undo of an interrupted run or rollback, so that it restores what was there before
    /// the first of them; `None` if there is none that can be continued, and another has to be begun.
    ///
    /// # Errors
    /// [`UndoError`]; the undo is then as it was.
    pub fn resume(&self, resume: &Resume<'_>) -> Result<Option<Keeping>, UndoError> {
        let key = bounded_key(resume.key);
        if !self.folder.is_dir() {
            return Ok(None);
        }
        let held = self.hold(&key)?;
        let Some(old) = continuable(&held.names, &key, resume)? else {
            return Ok(None);
        };
        let log = match old.log() {
            None => None,
            Some(facts) => {
                match PreImageLog::reopen(&held.names.log, facts, old.size, &held.steps) {
                    Ok(log) => Some(log),
                    Err(UndoError::Unusable(why)) if why.is_damage() => {
                        tracing::warn!(%why, "the undo of the interrupted run cannot be continued");
                        return Ok(None);
                    }
                    Err(error) => return Err(error),
                }
            }
        };
        let record = resumed(old, resume, log.as_ref());
        held.put(&record)?;
        Ok(Some(Keeping::new(held, record, log)))
    }

    /// Begins a rollback, or begins again with one that was killed: reads every pre-image, so that what
    /// is damaged is known before the volume is touched, and records durably that it is no longer what
    /// the run made of it. `rollback` is what the ledger will know it by.
    ///
    /// # Errors
    /// [`UndoError::Unusable`] if it cannot be restored; nothing is changed then.
    pub fn restore(
        &self,
        key: &str,
        identity: &str,
        rollback: &str,
    ) -> Result<Restoring, UndoError> {
        let old = self.look(key)?;
        let held = self.hold(&old.key)?;
        let old = read(&held.names).and_then(|record| check_subject(record, &old.key, identity))?;
        let log = old
            .log()
            .map(|facts| SealedLog::open(&held.names.log, facts, old.size))
            .transpose()?;
        let mut record = old.with_seal(log.as_ref().map(SealedLog::bytes));
        record.state = State::Restoring;
        rollback.clone_into(&mut record.latest_run);
        if record.root == PreRunRoot::NotYet {
            record.root = PreRunRoot::Never;
        }
        held.put(&record)?;
        Ok(Restoring::new(held, record, log))
    }

    /// Removes the undo of a volume, if there is one, whatever is in doubt about it; durable when it
    /// returns. A snapshot that its record names has to be released before.
    ///
    /// A run that keeps no undo does this before its first write: afterwards an older undo would mix
    /// two states.
    ///
    /// # Errors
    /// [`UndoError`] if it may still be there after a crash; then the volume must not be written.
    pub fn release(&self, key: &str) -> Result<(), UndoError> {
        let there = self.folder.try_exists();
        if !there.map_err(UndoError::io("find", &self.folder))? {
            return Ok(());
        }
        self.hold(&bounded_key(key))?.remove()
    }

    /// Takes the undo of a volume to remove it: what its record names is there for whoever has to
    /// release a snapshot first. `None` if there is nothing.
    ///
    /// # Errors
    /// [`UndoError::Busy`] if a run or a rollback has it.
    pub fn take(&self, key: &str) -> Result<Option<Releasing>, UndoError> {
        self.check_folders()?;
        let names = Names::of(&self.folder, &bounded_key(key));
        if !names.record.exists() && !names.log.exists() {
            return Ok(None);
        }
        let held = self.lock(names)?;
        let record = read_record(&held.names.record);
        Ok(Some(Releasing { held, record }))
    }

    /// Removes an undo by its file: one whose record is damaged has no key to release it by.
    ///
    /// # Errors
    /// As [`UndoStore::release`].
    pub fn discard(&self, listed: &Listed) -> Result<(), UndoError> {
        match Names::beside(&listed.path) {
            Some(names) if listed.path.parent() == Some(&self.folder) => self.lock(names)?.remove(),
            _ => Ok(()),
        }
    }

    /// The undos that are there, at most [`MAX_LISTED`], by the names of their files.
    ///
    /// # Errors
    /// [`UndoError`] if the folder cannot be read, or is not ours.
    pub fn list(&self) -> Result<Vec<Listed>, UndoError> {
        self.check_folders()?;
        let paths = folder::records(&self.folder, MAX_LISTED)?;
        let look = |path: PathBuf| {
            let names = Names::beside(&path);
            let record = names
                .ok_or(Unusable::Missing)
                .and_then(|names| read(&names));
            Listed { path, record }
        };
        Ok(paths.into_iter().map(look).collect())
    }

    /// The undos of ended runs that are past their time.
    ///
    /// # Errors
    /// As [`UndoStore::list`].
    pub fn expired(&self, now_unix_ms: u64) -> Result<Vec<Record>, UndoError> {
        let listed = self.list()?.into_iter();
        let records = listed.filter_map(|listed| read_record(&listed.path).ok());
        Ok(records
            .filter(|record| record.has_expired(now_unix_ms))
            .collect())
    }

    fn hold(&self, key: &str) -> Result<Held, UndoError> {
        self.lock(Names::of(&self.folder, key))
    }

    fn lock(&self, names: Names) -> Result<Held, UndoError> {
        self.check_folders()?;
        let lock = UndoLock::take(&names.lock, MAX_WAIT)?;
        Ok(Held {
            names,
            steps: self.steps.clone(),
            _lock: lock,
        })
    }
}

fn new_record(begin: &Begin<'_>, kept: Kept) -> Record {
    Record {
        key: bounded_key(begin.key),
        identity: begin.identity.to_owned(),
        size: begin.size,
        run: begin.run.to_owned(),
        latest_run: begin.run.to_owned(),
        created_unix_ms: begin.created_unix_ms,
        expires_unix_ms: begin.expires_unix_ms,
        root: PreRunRoot::NotYet,
        state: State::Keeping,
        kept,
    }
}
