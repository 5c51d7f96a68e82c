//! The store's files: looking at them whole, changing them by the recipe, setting damage aside.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use redb::Database;

use crate::directory;
use crate::error::LedgerError;
use crate::image::{self, Damage, MAX_STORE_BYTES};
use crate::key::VolumeKey;
use crate::lock::StoreLock;
use crate::record::{self, Record};
use crate::rows::{self, Row};
use crate::sequence;

/// Damaged stores kept for inspection; the next one replaces the last of them.
pub const MAX_SET_ASIDE: usize = 8;

/// A state directory, which need not exist.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    dir: PathBuf,
}

/// What a look at the store found.
pub(crate) enum Look<T> {
    /// No store yet.
    Blank,
    /// A store that cannot be believed.
    Damaged(Damage),
    /// A whole store: the number of its last change, and what was looked for.
    Whole(u64, T),
}

impl Store {
    pub(crate) fn at(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
        }
    }

    /// Where the locks of volumes are.
    pub(crate) fn volumes(&self) -> PathBuf {
        self.dir.join("volumes")
    }

    /// Where promises are.
    pub(crate) fn promises(&self) -> PathBuf {
        self.dir.join("promises")
    }

    /// The newest rows of a volume, the newest first; makes and changes nothing.
    pub(crate) fn rows(
        &self,
        key: &VolumeKey,
        limit: usize,
    ) -> Result<Look<Vec<Row>>, LedgerError> {
        let _lock = StoreLock::shared(&self.lock())?;
        self.look(|database| rows::of_volume(database, key.as_str(), limit))
    }

    /// The newest row of every volume; makes and changes nothing.
    pub(crate) fn newest_rows(&self) -> Result<Look<Vec<(VolumeKey, Row)>>, LedgerError> {
        let _lock = StoreLock::shared(&self.lock())?;
        self.look(|database| {
            let rows = rows::newest_of_all(database)?;
            let keyed = rows
                .into_iter()
                .map(|(volume, row)| (VolumeKey::of_row(volume), row));
            Ok(keyed.collect())
        })
    }

    /// Stores a record, durably, under a new entry or an `entry` returned before. Returns its entry.
    pub(crate) fn put(
        &self,
        key: &VolumeKey,
        entry: Option<u64>,
        record: &Record,
    ) -> Result<u64, LedgerError> {
        let _lock = StoreLock::exclusive(&self.lock())?;
        let last = match self.look(|_| Ok(()))? {
            Look::Whole(last, ()) => last,
            Look::Damaged(damage) => self.make_way(&damage).map(|_| 0)?,
            Look::Blank => 0,
        };
        // A store that was lost or set aside does not give its numbers back.
        let last = last.max(self.durable_sequence()?.unwrap_or(0));
        let sequence = last.saturating_add(1);
        let entry = entry.unwrap_or(sequence);
        let bytes = record::encode(key, entry, record);
        let bytes = bytes.map_err(|error| self.refused(error.to_string()))?;
        self.commit(sequence, key, &Row { entry, bytes })?;
        sequence::write(&self.sequence(), sequence)?;
        Ok(entry)
    }

    /// Makes the directory if it is missing, proves that it can be written, and makes way for a new
    /// store if this one is damaged. Returns where that went.
    pub(crate) fn prepare(&self) -> Result<Option<PathBuf>, LedgerError> {
        directory::make_folder(&self.dir)?;
        directory::make_folder(&self.volumes())?;
        let _lock = StoreLock::exclusive(&self.lock())?;
        directory::prove_writable(&self.dir)?;
        match self.look(|_| Ok(()))? {
            Look::Damaged(damage) => self.make_way(&damage),
            Look::Blank | Look::Whole(..) => Ok(None),
        }
    }

    /// With the lock held. The store goes first: without it nothing is believed anyway, so a crash
    /// in between loses only the number, which a missing store does not need.
    fn make_way(&self, damage: &Damage) -> Result<Option<PathBuf>, LedgerError> {
        let (store, aside) = (self.store(), self.aside());
        let moved = match fs::rename(&store, &aside) {
            Ok(()) => Some(aside),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(LedgerError::io("set aside", &store)(error)),
        };
        directory::sync(&self.dir)?;
        if self.durable_sequence()?.is_err() {
            let path = self.sequence();
            fs::remove_file(&path).map_err(LedgerError::io("remove", &path))?;
            directory::sync(&self.dir)?;
        }
        tracing::warn!(%damage, aside = ?moved, "the ledger was damaged and starts anew");
        Ok(moved)
    }

    /// With the lock held.
    fn look<T>(
        &self,
        see: impl FnOnce(&Database) -> Result<T, redb::Error>,
    ) -> Result<Look<T>, LedgerError> {
        let floor = match self.durable_sequence()? {
            Ok(floor) => floor,
            Err(why) => return Ok(Look::Damaged(Damage(why))),
        };
        let looked = match self.bytes()? {
            None => return Ok(Look::Blank),
            Some(Err(damage)) => Err(damage),
            Some(Ok(bytes)) => image::look(bytes, floor, see),
        };
        Ok(match looked {
            Ok((last, seen)) => Look::Whole(last, seen),
            Err(damage) => Look::Damaged(damage),
        })
    }

    fn bytes(&self) -> Result<Option<Result<Vec<u8>, Damage>>, LedgerError> {
        let path = self.store();
        let read = fs::metadata(&path).and_then(|metadata| {
            if !metadata.is_file() {
                return Ok(Err(Damage("the store is not a file".to_owned())));
            }
            if metadata.len() > MAX_STORE_BYTES {
                return Ok(Err(Damage(
                    "the store is larger than any we write".to_owned(),
                )));
            }
            fs::read(&path).map(Ok)
        });
        match read {
            Ok(read) => Ok(Some(read)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(LedgerError::io("read", &path)(error)),
        }
    }

    /// Step 3 of the recipe.
    fn commit(&self, sequence: u64, key: &VolumeKey, row: &Row) -> Result<(), LedgerError> {
        let path = self.store();
        if path.exists() {
            return self.commit_to(&path, sequence, key, row);
        }
        let new = directory::new_name(&path);
        directory::start_anew(&new)?;
        self.commit_to(&new, sequence, key, row)?;
        directory::put_in_place(&new, &path)
    }

    fn commit_to(
        &self,
        path: &Path,
        sequence: u64,
        key: &VolumeKey,
        row: &Row,
    ) -> Result<(), LedgerError> {
        let committed = image::guarded(|| {
            let database = image::builder().create(path)?;
            rows::put(&database, sequence, key.as_str(), row)?;
            Ok(database.close()?)
        });
        committed.map_err(|error| match error {
            redb::Error::Io(source) => LedgerError::io("write", path)(source),
            other => self.refused(other.to_string()),
        })
    }

    fn durable_sequence(&self) -> Result<Result<u64, String>, LedgerError> {
        sequence::read(&self.sequence())
    }

    fn refused(&self, why: String) -> LedgerError {
        LedgerError::Store {
            path: self.store(),
            why,
        }
    }

    fn aside(&self) -> PathBuf {
        let name = |n| self.dir.join(format!("ledger.redb.damaged-{n}"));
        let free = (1..MAX_SET_ASIDE).map(name).find(|path| !path.exists());
        free.unwrap_or_else(|| name(MAX_SET_ASIDE))
    }

    fn store(&self) -> PathBuf {
        self.dir.join("ledger.redb")
    }

    fn sequence(&self) -> PathBuf {
        self.dir.join("ledger.seq")
    }

    pub(crate) fn lock(&self) -> PathBuf {
        self.dir.join("ledger.lock")
    }
}
