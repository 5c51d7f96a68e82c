//! Opening a ledger, and what it says of a volume.

use std::path::{Path, PathBuf};

use crate::claim::{Claim, RunFacts};
use crate::error::LedgerError;
use crate::image::Damage;
use crate::key::{Identity, VolumeKey};
use crate::record::{self, Record, State};
use crate::rows::{MAX_RECORDS_PER_VOLUME, Row};
use crate::store::{Look, Store};

/// A state directory that was proven writable.
///
/// Nothing in it is held open: any number of processes use one directory at once, each locking it
/// for the milliseconds of one look or change.
#[derive(Debug)]
pub struct Ledger {
    store: Store,
    damaged: Option<PathBuf>,
}

impl Ledger {
    /// Opens the ledger in `dir`, which is made (mode 0700) if it is missing.
    ///
    /// A damaged store is set aside and a new one begun, so that everything reads as `unknown`.
    ///
    /// # Errors
    /// [`LedgerError::Io`] if the directory cannot be made, written or read,
    /// [`LedgerError::Locked`] if another process keeps it locked.
    pub fn open(dir: &Path) -> Result<Self, LedgerError> {
        let dir = std::path::absolute(dir).map_err(LedgerError::io("find", dir))?;
        let store = Store::at(&dir);
        let damaged = store.prepare()?;
        Ok(Self { store, damaged })
    }

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    /// Where the store was set aside, if opening found it damaged.
    pub fn was_damaged(&self) -> Option<&Path> {
        self.damaged.as_deref()
    }

    /// What is known of a volume, as it is identified now.
    ///
    /// # Errors
    /// If the store cannot be read; a damaged one reads as [`Standing::Unknown`].
    pub fn standing(&self, key: &VolumeKey, identity: &Identity) -> Result<Standing, LedgerError> {
        standing(&self.store, key, identity)
    }

    /// Takes a volume for a run, for as long as the claim or what follows from it lives. The kernel
    /// lets it go if the process dies.
    ///
    /// # Errors
    /// [`LedgerError::Busy`] at once if another run has it.
    pub fn claim(&self, key: &VolumeKey, run: RunFacts) -> Result<Claim, LedgerError> {
        Claim::take(&self.store, key, run)
    }

    /// The last 64 runs on a volume, the newest first, whatever its identity was. Records that this
    /// version cannot read are left out.
    ///
    /// # Errors
    /// If the store cannot be read; a damaged one has no history.
    pub fn history(&self, key: &VolumeKey) -> Result<Vec<Record>, LedgerError> {
        let Look::Whole(_, rows) = self.store.rows(key, MAX_RECORDS_PER_VOLUME)? else {
            return Ok(Vec::new());
        };
        let read = |row: Row| match record::decode(key, row.entry, &row.bytes) {
            Ok(record) => Some(record),
            Err(why) => {
                tracing::warn!(volume = %key, entry = row.entry, %why, "left out of the history");
                None
            }
        };
        Ok(rows.into_iter().filter_map(read).collect())
    }

    /// The newest row of every volume; none of a store that cannot be believed.
    pub(crate) fn newest_rows(&self) -> Result<Vec<(VolumeKey, Row)>, LedgerError> {
        Ok(match self.store.newest_rows()? {
            Look::Whole(_, rows) => rows,
            Look::Blank | Look::Damaged(_) => Vec::new(),
        })
    }
}

/// What is known of a volume in the state directory `dir`, for one who only asks.
///
/// Makes and changes nothing, and may be asked by a user who cannot write there. Whatever cannot be
/// read is [`Standing::Unknown`] with the reason.
pub fn peek(dir: &Path, key: &VolumeKey, identity: &Identity) -> Standing {
    standing(&Store::at(dir), key, identity).unwrap_or_else(|error| {
        let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
        let why = format!("{error}{}", cause.unwrap_or_default());
        Standing::Unknown { why }
    })
}

/// What the ledger says of a volume.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Standing {
    /// Nothing that can be relied on.
    Unknown {
        /// Why, as a lowercase fragment.
        why: String,
    },
    /// It was proven equal to its source.
    Consistent(Record),
    /// It is being overwritten, or that ended half way.
    Inconsistent(Record),
    /// Its medium failed.
    Failed(Record),
}

impl Standing {
    /// The state's name, as in every summary.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Unknown { .. } => "unknown",
            Self::Consistent(_) => "consistent",
            Self::Inconsistent(_) => "inconsistent",
            Self::Failed(_) => "failed",
        }
    }

    fn unknown(why: impl Into<String>) -> Self {
        Self::Unknown { why: why.into() }
    }

    fn of(record: Record, identity: &Identity) -> Self {
        let replaced = record
            .identity
            .as_ref()
            .is_some_and(|then| then != identity);
        if replaced {
            return Self::unknown("it is not the file or device that the last run recorded");
        }
        match record.state {
            State::Consistent if record.identity.is_some() => Self::Consistent(record),
            State::Consistent => Self::unknown("its record names no file or device"),
            State::Inconsistent => Self::Inconsistent(record),
            State::Failed => Self::Failed(record),
        }
    }
}

fn standing(store: &Store, key: &VolumeKey, identity: &Identity) -> Result<Standing, LedgerError> {
    let rows = match store.rows(key, 1)? {
        Look::Blank => return Ok(Standing::unknown("no run was ever recorded here")),
        Look::Damaged(Damage(why)) => return Ok(Standing::unknown(why)),
        Look::Whole(_, rows) => rows,
    };
    // The newest row alone counts: an older one says nothing about now.
    let Some(row) = rows.first() else {
        return Ok(Standing::unknown("no run on it was recorded"));
    };
    Ok(match record::decode(key, row.entry, &row.bytes) {
        Ok(record) => Standing::of(record, identity),
        Err(why) => Standing::unknown(why.to_string()),
    })
}
