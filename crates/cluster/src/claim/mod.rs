//! Who may write a volume on a node: one run at a time, never an older one after a newer.
//!
//! ```text
//!            claim admitted                     persisted: grant
//!   Quiet ───────────────────► Persisting ───────────────────────► Writing
//!     ▲                          ▲      │ the promise failed:         │ newer claim, or the node
//!     │                          │      │ refuse, back to Quiet       │ became primary: stop
//!     │            somebody waits│      ▼                             ▼
//!     └─────────────────────── Flushing ◄─────────────────────── Draining
//!        nobody waits, or it failed        no write is in flight any more
//! ```
//!
//! [`TABLE`] is all of it; the code runs that table, and `ARCHITECTURE.md` shows it. Pure: no I/O and
//! no clock. Each [`Effect`] is carried out by the caller, who then reports its [`Outcome`]; a promise
//! is made durable by `lockstep_ledger::Ledger::promise`.

mod durable;
#[cfg(test)]
mod model;
mod round;
mod table;

use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub use round::{Answer, Progress, Round};
pub use table::{Action, Phase, Row, TABLE, Trigger, When};

use crate::roles::Role;
use crate::value::{NodeName, Unfit, VolumeId};

/// Longest name of a run, in bytes: what a ledger keeps of it.
pub const MAX_RUN_BYTES: usize = 128;

/// A number that only grows: the higher run is the newer one. Ad hoc runs have none.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(NonZeroU64);

impl Epoch {
    /// The epoch with this number, which is not 0.
    #[must_use]
    pub fn new(number: u64) -> Option<Self> {
        NonZeroU64::new(number).map(Self)
    }

    /// The number.
    #[must_use]
    pub fn get(self) -> u64 {
        self.0.get()
    }

    /// The next epoch, unless this is the last one that there is.
    #[must_use]
    pub fn next(self) -> Option<Self> {
        self.0.checked_add(1).map(Self)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The name of a run.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RunName(String);

impl RunName {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RunName {
    type Err = Unfit;

    fn from_str(text: &str) -> Result<Self, Unfit> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        match !text.is_empty() && text.len() <= MAX_RUN_BYTES && text.chars().all(plain) {
            true => Ok(Self(text.to_owned())),
            false => Err(Unfit::new(
                "this is no name of a run",
                "use letters, digits, `-`, `_` and `.`",
            )),
        }
    }
}

impl TryFrom<String> for RunName {
    type Error = Unfit;

    fn try_from(text: String) -> Result<Self, Unfit> {
        text.parse()
    }
}

impl From<RunName> for String {
    fn from(run: RunName) -> Self {
        run.0
    }
}

impl fmt::Display for RunName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A run that wants to write a volume on a node.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Claim {
    /// Its epoch.
    pub epoch: Epoch,
    /// Its name.
    pub run: RunName,
    /// Where the data comes from.
    pub source: NodeName,
    /// The volume.
    pub volume: VolumeId,
}

/// A claim with what it may write, as it is made durable.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Promise {
    /// Who may write.
    pub claim: Claim,
    /// The file or device, in words that change when it is replaced.
    pub device: String,
}

/// Why a run is not let in.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// This node's data is the one that counts.
    #[error("this node is the primary of the volume")]
    Primary,
    /// A newer run was let in, or waits.
    #[error("epoch {promised} is promised to a newer run")]
    Fenced {
        /// The newest epoch.
        promised: Epoch,
    },
    /// Another run has the same epoch.
    #[error("epoch {epoch} is promised to run {run}")]
    Taken {
        /// The epoch.
        epoch: Epoch,
        /// Who has it.
        run: RunName,
    },
    /// It is about another volume.
    #[error("the claim is for another volume")]
    OtherVolume,
    /// The file or device was replaced since this run was let in.
    #[error("the volume's file or device was replaced since it was promised")]
    OtherDevice,
    /// The promise could not be made durable, or the earlier run's writes could not be flushed.
    #[error("the node could not get ready: its disk or its ledger failed")]
    NotReady,
}

/// What the caller has to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Stop this run; report [`Outcome::Drained`] when none of its writes is in flight any more.
    Stop(Claim),
    /// Flush the volume; report [`Outcome::Flushed`] or [`Outcome::FlushFailed`].
    Flush,
    /// Make this durable; report [`Outcome::Persisted`] or [`Outcome::PersistFailed`].
    Persist(Promise),
    /// Tell this run that it may write.
    Grant(Claim),
    /// Tell this run that it may not.
    Refuse(Claim, Refusal),
}

/// How something ended that the caller did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// This run ended, by itself or because it was stopped; none of its writes is in flight.
    Drained(Claim),
    /// Everything that was written is on the medium.
    Flushed,
    /// That is not certain.
    FlushFailed,
    /// The promise is durable.
    Persisted,
    /// The promise may be durable or not.
    PersistFailed,
}

/// One volume on one node: which run may write it.
#[derive(Clone, Debug)]
pub struct Gatekeeper {
    volume: VolumeId,
    role: Role,
    table: &'static [Row],
    phase: Phase,
    /// The newest run that was ever admitted: everything older is refused.
    newest: Option<Promise>,
    /// The run that was let in last, in `Writing` and `Draining`.
    holder: Option<Claim>,
    /// The run that will be let in next.
    waiting: Option<Promise>,
    /// What is being made durable, in `Persisting`.
    persisting: Option<Promise>,
}

impl Gatekeeper {
    /// The state after a start, from the promise that is durable.
    ///
    /// What an earlier process wrote may not be flushed, so that comes first if anything was promised.
    #[must_use]
    pub fn restore(volume: VolumeId, role: Role, promised: Option<Promise>) -> (Self, Vec<Effect>) {
        let (phase, effects) = match promised {
            Some(_) => (Phase::Flushing, vec![Effect::Flush]),
            None => (Phase::Quiet, Vec::new()),
        };
        let gatekeeper = Self {
            volume,
            role,
            table: &TABLE,
            phase,
            newest: promised,
            holder: None,
            waiting: None,
            persisting: None,
        };
        (gatekeeper, effects)
    }

    /// Whether a run may write now. To be asked before every write.
    #[must_use]
    pub fn permits(&self, claim: &Claim) -> bool {
        self.phase == Phase::Writing && self.holder.as_ref() == Some(claim)
    }

    /// Where it stands.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// The newest epoch that was admitted or promised.
    #[must_use]
    pub fn newest_epoch(&self) -> Option<Epoch> {
        self.newest.as_ref().map(|newest| newest.claim.epoch)
    }

    /// A run wants in; `device` is what it would write.
    ///
    /// The newest run is let in again if it asks again, also after it ended: a repeated message is no
    /// reason to refuse it. Whoever grants it over a connection that is gone reports it drained.
    pub fn claim(&mut self, claim: Claim, device: &str) -> Vec<Effect> {
        let wanted = Promise {
            claim,
            device: device.to_owned(),
        };
        match self.judge(&wanted) {
            Err(refusal) => vec![Effect::Refuse(wanted.claim, refusal)],
            // It was told, or will be: its claim came twice.
            Ok(Known::Writing) => vec![Effect::Grant(wanted.claim)],
            Ok(Known::Waiting) => Vec::new(),
            Ok(Known::No) => {
                let mut effects = self.refuse_waiting(&Refusal::Fenced {
                    promised: wanted.claim.epoch,
                });
                self.newest = Some(wanted.clone());
                self.waiting = Some(wanted);
                effects.extend(self.step(Trigger::Admitted));
                effects
            }
        }
    }

    /// The node became primary, or is it no longer.
    pub fn set_role(&mut self, role: Role) -> Vec<Effect> {
        self.role = role;
        if role == Role::Replica {
            return Vec::new();
        }
        let mut effects = self.refuse_waiting(&Refusal::Primary);
        effects.extend(self.step(Trigger::Withdrawn));
        effects
    }

    /// Something that the caller did has ended.
    pub fn report(&mut self, outcome: Outcome) -> Vec<Effect> {
        match outcome {
            // Late news of a run that is gone already.
            Outcome::Drained(claim) if self.holder.as_ref() != Some(&claim) => Vec::new(),
            Outcome::Drained(_) => self.step(Trigger::Drained),
            Outcome::Flushed => self.step(Trigger::Flushed),
            Outcome::FlushFailed => self.step(Trigger::FlushFailed),
            Outcome::Persisted => self.step(Trigger::Persisted),
            Outcome::PersistFailed => self.step(Trigger::PersistFailed),
        }
    }

    fn judge(&self, wanted: &Promise) -> Result<Known, Refusal> {
        if wanted.claim.volume != self.volume {
            return Err(Refusal::OtherVolume);
        }
        if self.role == Role::Primary {
            return Err(Refusal::Primary);
        }
        let Some(newest) = &self.newest else {
            return Ok(Known::No);
        };
        let (epoch, promised) = (wanted.claim.epoch, newest.claim.epoch);
        if epoch < promised {
            return Err(Refusal::Fenced { promised });
        }
        if epoch > promised {
            return Ok(Known::No);
        }
        if wanted.claim != newest.claim {
            return Err(Refusal::Taken {
                epoch,
                run: newest.claim.run.clone(),
            });
        }
        if wanted.device != newest.device {
            return Err(Refusal::OtherDevice);
        }
        if self.waiting.as_ref() == Some(wanted) {
            return Ok(Known::Waiting);
        }
        match self.permits(&wanted.claim) {
            true => Ok(Known::Writing),
            false => Ok(Known::No),
        }
    }

    /// The only place where the phase changes.
    fn step(&mut self, trigger: Trigger) -> Vec<Effect> {
        let fits =
            |row: &&Row| row.phase == self.phase && row.trigger == trigger && self.holds(row.when);
        let Some(row) = self.table.iter().find(fits) else {
            return Vec::new();
        };
        self.phase = row.next;
        self.act(row.action)
    }

    fn holds(&self, when: When) -> bool {
        match when {
            When::Always => true,
            When::NobodyWaits => self.waiting.is_none(),
            When::SomebodyWaits => self.waiting.is_some(),
            When::ThePersistedWaits => self.waiting.is_some() && self.waiting == self.persisting,
            When::AnotherWaits => self.waiting.is_some() && self.waiting != self.persisting,
        }
    }

    fn act(&mut self, action: Action) -> Vec<Effect> {
        match action {
            Action::Nothing => {
                self.persisting = None;
                Vec::new()
            }
            Action::Stop => self.holder.clone().map(Effect::Stop).into_iter().collect(),
            Action::Flush => {
                self.holder = None;
                vec![Effect::Flush]
            }
            Action::Persist => {
                self.persisting.clone_from(&self.waiting);
                self.persisting
                    .clone()
                    .map(Effect::Persist)
                    .into_iter()
                    .collect()
            }
            Action::Grant => {
                self.persisting = None;
                self.holder = self.waiting.take().map(|promise| promise.claim);
                self.holder.clone().map(Effect::Grant).into_iter().collect()
            }
            Action::Refuse => {
                self.persisting = None;
                self.refuse_waiting(&Refusal::NotReady)
            }
        }
    }

    fn refuse_waiting(&mut self, why: &Refusal) -> Vec<Effect> {
        let waiting = self.waiting.take();
        waiting
            .map(|promise| Effect::Refuse(promise.claim, why.clone()))
            .into_iter()
            .collect()
    }
}

/// What is known of a claim that is not refused.
enum Known {
    /// Nothing: it is the newest.
    No,
    /// It may write already.
    Writing,
    /// It will be told.
    Waiting,
}

#[cfg(test)]
pub(crate) mod tests;
