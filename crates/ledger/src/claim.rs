//! A run's hold on a volume, as types that cannot skip a step.

use crate::error::LedgerError;
use crate::key::{Identity, VolumeKey};
use crate::lock::VolumeLock;
use crate::proof::{Proof, ProofLevel};
use crate::record::{Record, State};
use crate::rows::Row;
use crate::store::{Look, Store};

const MAX_RUN_BYTES: usize = 128;
const MAX_SOURCE_BYTES: usize = 4096;
const MAX_WHO_BYTES: usize = 256;
const MAX_REASON_BYTES: usize = 1024;

/// What the ledger keeps of a run's beginning. Longer texts are cut when the volume is claimed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RunFacts {
    /// The run's name, at most 128 bytes.
    pub run: String,
    /// Where the data comes from, at most 4096 bytes.
    pub source: String,
    /// Who started the run, at most 256 bytes.
    pub who: String,
    /// When it started, in milliseconds since the Unix epoch.
    pub started_unix_ms: u64,
    /// The cluster's epoch; 0 for an ad hoc run.
    pub epoch: u64,
}

/// A volume held by one run, nothing written yet. Dropping it lets the volume go.
#[must_use = "dropping a claim lets the volume go"]
#[derive(Debug)]
pub struct Claim {
    store: Store,
    key: VolumeKey,
    run: RunFacts,
    _lock: VolumeLock,
}

impl Claim {
    pub(crate) fn take(store: &Store, key: &VolumeKey, run: RunFacts) -> Result<Self, LedgerError> {
        let run = RunFacts {
            run: cut(run.run, MAX_RUN_BYTES),
            source: cut(run.source, MAX_SOURCE_BYTES),
            who: cut(run.who, MAX_WHO_BYTES),
            ..run
        };
        Ok(Self {
            _lock: VolumeLock::take(&store.volumes(), key, &run)?,
            store: store.clone(),
            key: key.clone(),
            run,
        })
    }

    /// Announces the first overwritten byte: `inconsistent` is durable when this returns.
    ///
    /// `identity` is none if the volume does not exist yet.
    ///
    /// # Errors
    /// If the record could not be made durable. The volume was let go; it must not be written.
    pub fn overwrite(self, identity: Option<Identity>) -> Result<Overwriting, LedgerError> {
        let record = self.record(State::Inconsistent, identity.clone());
        let entry = self.store.put(&self.key, None, &record)?;
        Ok(Overwriting {
            claim: self,
            identity,
            entry,
        })
    }

    /// Records that nothing had to be written, and lets the volume go.
    ///
    /// # Errors
    /// If the record could not be made durable; then the volume reads as before.
    pub fn confirm(
        self,
        identity: Identity,
        proof: Proof,
        now_unix_ms: u64,
    ) -> Result<Record, LedgerError> {
        let record = self.proven(identity, proof, 0, now_unix_ms);
        self.store.put(&self.key, None, &record)?;
        Ok(record)
    }

    /// Lets the volume go; its records stay as they are.
    pub fn release(self) {}

    pub(crate) fn key(&self) -> &VolumeKey {
        &self.key
    }

    /// What the ledger says now; nobody else can change it while this lives.
    pub(crate) fn newest_row(&self) -> Result<Option<Row>, LedgerError> {
        Ok(match self.store.rows(&self.key, 1)? {
            Look::Whole(_, rows) => rows.into_iter().next(),
            Look::Blank | Look::Damaged(_) => None,
        })
    }

    /// `inconsistent`, durably, whatever file or device is there: this run may yet change its size,
    /// and with it the identity.
    pub(crate) fn downgrade(self, reason: &str) -> Result<Overwriting, LedgerError> {
        let record = Record {
            reason: Some(cut(reason.to_owned(), MAX_REASON_BYTES)),
            ..self.record(State::Inconsistent, None)
        };
        let entry = self.store.put(&self.key, None, &record)?;
        Ok(Overwriting {
            claim: self,
            identity: None,
            entry,
        })
    }

    /// The only function that makes a consistent record.
    fn proven(&self, identity: Identity, proof: Proof, written: u64, now_unix_ms: u64) -> Record {
        Record {
            size: proof.size(),
            root: Some(proof.root()),
            proof: proof.level(),
            level: proof.source_level(),
            bytes_written: written,
            ended_unix_ms: Some(now_unix_ms),
            ..self.record(State::Consistent, Some(identity))
        }
    }

    fn record(&self, state: State, identity: Option<Identity>) -> Record {
        Record {
            state,
            identity,
            size: 0,
            root: None,
            run: self.run.run.clone(),
            source: self.run.source.clone(),
            who: self.run.who.clone(),
            started_unix_ms: self.run.started_unix_ms,
            ended_unix_ms: None,
            bytes_written: 0,
            proof: ProofLevel::Full,
            level: None,
            reason: None,
            epoch: self.run.epoch,
        }
    }
}

/// A volume whose record says `inconsistent`. Dropping it leaves it so and lets the volume go.
#[must_use = "dropping this leaves the volume inconsistent"]
#[derive(Debug)]
pub struct Overwriting {
    claim: Claim,
    identity: Option<Identity>,
    entry: u64,
}

impl Overwriting {
    /// Records that the volume is proven equal to its source, and lets it go.
    ///
    /// Everything must be durable on the medium before: this is the last step of a run.
    ///
    /// # Errors
    /// If the record could not be made durable. It may have become so nevertheless, and then it is
    /// true.
    pub fn consistent(
        self,
        identity: Identity,
        proof: Proof,
        bytes_written: u64,
        now_unix_ms: u64,
    ) -> Result<Record, LedgerError> {
        let record = self
            .claim
            .proven(identity, proof, bytes_written, now_unix_ms);
        self.put(&record)?;
        Ok(record)
    }

    /// Records that the volume's medium failed, durably, and lets it go.
    ///
    /// # Errors
    /// If the record could not be made durable; then the volume stays `inconsistent`.
    pub fn failed(self, reason: &str, now_unix_ms: u64) -> Result<(), LedgerError> {
        let record = Record {
            reason: Some(cut(reason.to_owned(), MAX_REASON_BYTES)),
            ended_unix_ms: Some(now_unix_ms),
            ..self.claim.record(State::Failed, self.identity.clone())
        };
        self.put(&record)
    }

    /// Leaves the volume `inconsistent` and lets it go.
    pub fn abandon(self) {}

    fn put(&self, record: &Record) -> Result<(), LedgerError> {
        let claim = &self.claim;
        claim.store.put(&claim.key, Some(self.entry), record)?;
        Ok(())
    }
}

/// Cuts a text to at most `max` bytes between two letters.
fn cut(mut text: String, max: usize) -> String {
    if text.len() > max {
        let ends = text.char_indices().map(|(at, _)| at);
        let end = ends.take_while(|at| *at <= max).last().unwrap_or(0);
        text.truncate(end);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_between_two_letters() {
        assert_eq!(cut("abc".to_owned(), 3), "abc");
        assert_eq!(cut("abcd".to_owned(), 3), "abc");
        assert_eq!(cut("aéé".to_owned(), 4), "aé");
        assert_eq!(cut("é".to_owned(), 1), "");
    }
}
