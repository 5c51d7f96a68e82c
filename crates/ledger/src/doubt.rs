//! Taking `consistent` back: a run's proof turned out to rest on something that is not true.
//!
//! Only the newest record of a volume counts, so only that one can be doubted; and a record of another
//! run than those that are doubted stands, whoever asks.

use crate::claim::{Claim, Overwriting, RunFacts};
use crate::error::LedgerError;
use crate::key::VolumeKey;
use crate::ledger::Ledger;
use crate::record::{self, Record, State};
use crate::rows::Row;

/// Runs whose proofs are not worth anything any more, and why.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Doubt {
    /// Their names, as in [`RunFacts::run`].
    pub runs: Vec<String>,
    /// Why, as a clause of at most 1024 bytes.
    pub reason: String,
}

/// What became of a volume's record that was doubted.
#[must_use = "dropping this lets the volume go"]
#[derive(Debug)]
pub enum Doubted {
    /// One of the runs had made it `consistent`; it is `inconsistent` now, durably.
    Downgraded(Overwriting),
    /// It says nothing that rests on one of the runs; it is as it was.
    Stands(Claim),
}

/// What became of the volumes of a ledger.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Downgrades {
    /// They are `inconsistent` now, durably.
    pub downgraded: Vec<VolumeKey>,
    /// Another run has them, so that they are as they were: to be doubted again.
    pub busy: Vec<VolumeKey>,
}

impl Doubt {
    /// Whether the record says `consistent` on the word of one of the runs.
    fn concerns(&self, record: &Record) -> bool {
        record.state == State::Consistent && self.runs.contains(&record.run)
    }

    fn concerns_row(&self, key: &VolumeKey, row: &Row) -> bool {
        // A row that cannot be read says nothing anyway.
        record::decode(key, row.entry, &row.bytes).is_ok_and(|record| self.concerns(&record))
    }
}

impl Claim {
    /// Takes `consistent` back if one of these runs said so of this volume.
    ///
    /// # Errors
    /// If the record could not be read or made durable. The volume was let go, and its record must
    /// not be relied on.
    pub fn doubt(self, doubt: &Doubt) -> Result<Doubted, LedgerError> {
        let newest = self.newest_row()?;
        let is_concerned = newest.is_some_and(|row| doubt.concerns_row(self.key(), &row));
        Ok(match is_concerned {
            true => Doubted::Downgraded(self.downgrade(&doubt.reason)?),
            false => Doubted::Stands(self),
        })
    }
}

impl Ledger {
    /// Takes `consistent` back from every volume of this ledger of which one of these runs said it,
    /// but for those of `except`; `by` is the run that found out.
    ///
    /// # Errors
    /// At the first volume whose record could not be made durable; the same call goes on from there.
    pub fn doubt(
        &self,
        doubt: &Doubt,
        by: &RunFacts,
        except: &[VolumeKey],
    ) -> Result<Downgrades, LedgerError> {
        let mut downgrades = Downgrades::default();
        for (key, row) in self.newest_rows()? {
            if except.contains(&key) || !doubt.concerns_row(&key, &row) {
                continue;
            }
            let claim = match self.claim(&key, by.clone()) {
                Ok(claim) => claim,
                Err(LedgerError::Busy { .. }) => {
                    downgrades.busy.push(key);
                    continue;
                }
                Err(error) => return Err(error),
            };
            // Another run may have ended between the look and the claim.
            match claim.doubt(doubt)? {
                Doubted::Downgraded(run) => {
                    run.abandon();
                    downgrades.downgraded.push(key);
                }
                Doubted::Stands(claim) => claim.release(),
            }
        }
        Ok(downgrades)
    }
}
