//! What the ledger is told, in the only order that is safe:
//!
//! 1. `claim`: the volume's lock, held until the end.
//! 2. `overwrite`: `inconsistent`, durable, before the first byte changes.
//! 3. bytes are written, flushed, read back.
//! 4. `consistent`, durable, with the proof; or `failed`; or nothing, which
//!    leaves `inconsistent`.

use lockstep_ledger::{
    Claim, Doubted as RecordDoubted, Identity, Ledger, Overwriting, Proof, RunFacts, VolumeKey,
};
use lockstep_protocol::{Doubted, Failure, FailureKind, VolumeState};

use crate::clock::now;
use crate::doubt::doubt_about;
use crate::failures::ledger_failed;

enum Step {
    /// A comparison marks nothing.
    Nothing,
    Claimed(Claim),
    Overwriting(Overwriting),
    Spent,
}

/// The marks of one run.
pub(super) struct Marks(Step);

impl Marks {
    pub(super) fn nothing() -> Marks {
        Marks(Step::Nothing)
    }

    pub(super) fn claim(
        ledger: &Ledger,
        key: &VolumeKey,
        facts: &RunFacts,
    ) -> Result<Marks, Failure> {
        let claim = ledger
            .claim(key, facts.clone())
            .map_err(|error| ledger_failed(&error))?;
        Ok(Marks(Step::Claimed(claim)))
    }

    /// Step 2, once; nothing may be written before it returned well.
    pub(super) fn overwrite(&mut self, identity: Option<&str>) -> Result<(), Failure> {
        let identity = identity.map(Identity::new);
        self.0 = match std::mem::replace(&mut self.0, Step::Spent) {
            Step::Claimed(claim) => Step::Overwriting(
                claim
                    .overwrite(identity)
                    .map_err(|error| ledger_failed(&error))?,
            ),
            Step::Overwriting(overwriting) => Step::Overwriting(overwriting),
            Step::Nothing | Step::Spent => {
                return Err(Failure::new(
                    FailureKind::Internal,
                    "a write without a claim in the ledger",
                ));
            }
        };
        Ok(())
    }

    /// What the ledger says is wrong: `inconsistent`, before anything is
    /// written, and for good if nothing will be.
    pub(super) fn disown(&mut self, identity: Option<String>) -> Result<(), Failure> {
        self.overwrite(identity.as_deref())
    }

    /// Between 1 and 4: takes back what one of these runs said of the volume, durably.
    pub(super) fn doubt(&mut self, runs: &[[u8; 16]]) -> Result<Doubted, Failure> {
        let (step, doubted) = match std::mem::replace(&mut self.0, Step::Spent) {
            Step::Claimed(claim) => {
                let doubted = claim.doubt(&doubt_about(runs));
                match doubted.map_err(|error| ledger_failed(&error))? {
                    RecordDoubted::Downgraded(run) => (Step::Overwriting(run), Doubted::Downgraded),
                    RecordDoubted::Stands(claim) => (Step::Claimed(claim), Doubted::Stands),
                }
            }
            // This run has taken it back already.
            Step::Overwriting(run) => (Step::Overwriting(run), Doubted::Stands),
            Step::Nothing | Step::Spent => {
                return Err(Failure::new(
                    FailureKind::Internal,
                    "a doubt without a claim in the ledger",
                ));
            }
        };
        self.0 = step;
        Ok(doubted)
    }

    /// Step 4, the good end.
    pub(super) fn consistent(
        &mut self,
        identity: &str,
        proof: Proof,
        bytes_written: u64,
    ) -> Result<(), Failure> {
        let identity = Identity::new(identity);
        let marked = match std::mem::replace(&mut self.0, Step::Spent) {
            Step::Claimed(claim) => claim.confirm(identity, proof, now()),
            Step::Overwriting(run) => run.consistent(identity, proof, bytes_written, now()),
            Step::Nothing | Step::Spent => {
                return Err(Failure::new(
                    FailureKind::Internal,
                    "a mark without a claim in the ledger",
                ));
            }
        };
        marked.map(drop).map_err(|error| ledger_failed(&error))
    }

    /// Step 4, the bad ends; the state that the ledger holds now, if a byte
    /// may have changed.
    pub(super) fn give_up(&mut self, failed: Option<&str>) -> Option<VolumeState> {
        match std::mem::replace(&mut self.0, Step::Spent) {
            Step::Overwriting(run) => match failed {
                // A ledger that fails too leaves `inconsistent`, as unsafe.
                Some(reason) => Some(match run.failed(reason, now()) {
                    Ok(()) => VolumeState::Failed,
                    Err(_) => VolumeState::Inconsistent,
                }),
                None => {
                    run.abandon();
                    Some(VolumeState::Inconsistent)
                }
            },
            Step::Claimed(claim) => {
                claim.release();
                None
            }
            Step::Nothing | Step::Spent => None,
        }
    }
}
