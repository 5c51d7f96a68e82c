//! A volume's undo as it is found, and what speaks against laying it over the volume.

use std::path::{Path, PathBuf};

use lockstep_ledger::{
    Identity as LedgerIdentity, Ledger, Record as LedgerRecord, Standing, State, VolumeKey, peek,
};
use lockstep_protocol::{Failure, FailureKind};
use lockstep_undo::{PreRunRoot, Record, State as UndoState, UndoStore, Unusable};
use lockstep_volume::{
    Target, TargetPlan, TargetRequest, VolumeKind, canonical_target, identify, open_target,
};

use super::{RollbackOptions, UNDO_OF};
use crate::clock::now;
use crate::failures::{ledger_failed, sentence, target_unopened};
use crate::undo::changed::{Suspicion, suspicion};
use crate::undo::words::Rollback;
use crate::undo::{Stores, image, kind_of, lasting, undo_failed};

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Look,
    Restore,
}

/// A volume's undo, and where it is.
pub(super) struct Found {
    pub(super) path: PathBuf,
    pub(super) key: VolumeKey,
    pub(super) store: UndoStore,
    pub(super) record: Record,
}

impl Found {
    pub(super) fn of(options: &RollbackOptions) -> Result<Found, Failure> {
        let (path, key, stores) = places(options)?;
        let (store, record) = stores
            .look(key.as_str())
            .map_err(|why| no_undo(&path, &why))?;
        let store = store.clone();
        Ok(Found {
            path,
            key,
            store,
            record,
        })
    }

    pub(super) fn unexpired(self) -> Result<Found, Failure> {
        match self.record.has_expired(now()) {
            true => Err(expired(&self.path)),
            false => Ok(self),
        }
    }

    /// Whether the rollback that the undo names put everything back, by the ledger's word, and was
    /// killed before it let go of the undo.
    pub(super) fn is_spent(&self, history: &[LedgerRecord]) -> bool {
        let of_it = format!("{UNDO_OF}{}", self.record.run);
        self.record.state == UndoState::Restoring
            && (history.iter()).any(|record| {
                record.run == self.record.latest_run
                    && record.source == of_it
                    && record.state == State::Consistent
            })
    }

    /// To be called by whoever holds the claim.
    pub(super) fn release(&self, options: &RollbackOptions) -> Result<(), Failure> {
        let (_, key, stores) = places(options)?;
        stores
            .release(key.as_str())
            .map_err(|error| undo_failed(&error))
    }

    /// A rollback lets go of its image only when all is back; killed right then, it leaves a record
    /// of which nothing can come any more. To be called by whoever holds the claim.
    pub(super) fn forget_if_spent(&self, description: &[u8]) {
        let was_begun = self.record.state == UndoState::Restoring;
        if was_begun
            && image::is_gone(&self.path, description)
            && let Err(error) = self.store.release(self.key.as_str())
        {
            tracing::warn!("the record of an undo stays: {}", sentence(&error));
        }
    }

    /// For a rollback, which may tidy up; a look may not.
    pub(super) fn to_restore(options: &RollbackOptions) -> Result<Found, Failure> {
        Found::of(options)?.unexpired().inspect_err(|_| {
            if let Ok((_, _, stores)) = places(options) {
                stores.release_expired();
            }
        })
    }

    /// Before the claim a run may have ended here, and put another undo in the place of the one that
    /// was found.
    pub(super) fn is_still_there(&self, options: &RollbackOptions) -> Result<(), Failure> {
        match Found::of(options)?.record == self.record {
            true => Ok(()),
            false => Err(Failure::new(
                FailureKind::Busy,
                format!("{}: a run has just ended on it", self.path.display()),
            )
            .hint("run the same command again: what can be brought back is another state now")),
        }
    }

    /// The target with every guard of a run, if it is still the one that the undo is of.
    pub(super) fn open(
        &self,
        options: &RollbackOptions,
        purpose: Purpose,
    ) -> Result<Target, Failure> {
        let target = self.open_of_its_size(options, purpose)?;
        let identity = target.identity().map(|identity| identity.durable_text());
        if identity.as_deref().map(lasting).as_deref() != Some(&self.record.identity) {
            let (then, now) = (self.record.identity.clone(), identity.unwrap_or_default());
            return Err(no_undo(&self.path, &Unusable::OtherIdentity { then, now }));
        }
        Ok(target)
    }

    fn open_of_its_size(
        &self,
        options: &RollbackOptions,
        purpose: Purpose,
    ) -> Result<Target, Failure> {
        let target = open_target(&TargetRequest {
            path: &self.path,
            size: self.record.size,
            source: None,
            allow_larger: true,
            read_only: purpose == Purpose::Look,
            mode_bits: 0o600,
            engine: options.io,
        })
        .map_err(|error| target_unopened(&error))?;
        match target.plan() {
            TargetPlan::Keep | TargetPlan::Resize { .. } => Ok(target),
            TargetPlan::Create | TargetPlan::ResumePartial => Err(Failure::new(
                FailureKind::Guard,
                format!("{} is not there any more", self.path.display()),
            )
            .hint("put the same file back at its place, then run the same command again")),
        }
    }

    pub(super) fn offer(&self, options: &RollbackOptions, target: &Target) -> Rollback {
        Rollback {
            kind: kind_of(&self.record.kept).word().to_owned(),
            run: self.record.run.clone(),
            size: self.record.size,
            present_size: target.present_size().unwrap_or(0),
            created_unix_ms: self.record.created_unix_ms,
            until_unix_ms: self.record.expires_unix_ms,
            root: match self.record.root {
                PreRunRoot::Known(root) => Some(root.to_string()),
                PreRunRoot::NotYet | PreRunRoot::Never => None,
            },
            state: standing_of(options, &self.key, target).word().to_owned(),
        }
    }

    /// What the ledger says that the target is, if that has to be found true first.
    pub(super) fn suspect(&self, ledger: &Ledger) -> Result<Option<LedgerRecord>, Failure> {
        let identity = identify(&self.path).map_err(|error| Failure {
            kind: FailureKind::Guard,
            ..target_unopened(&error)
        })?;
        let identity = LedgerIdentity::new(identity.durable_text());
        let standing = ledger
            .standing(&self.key, &identity)
            .map_err(|error| ledger_failed(&error))?;
        let left = match standing {
            Standing::Consistent(record) => Some(record),
            _ => None,
        };
        match suspicion(&self.record.kept, self.record.state, left.is_some()) {
            Suspicion::None => Ok(None),
            Suspicion::Written => Ok(left),
            Suspicion::Changed => Err(changed(&self.path)),
        }
    }

    /// What the ledger said of the volume before the first run that the undo takes back.
    pub(super) fn before(&self, history: &[LedgerRecord]) -> Option<LedgerRecord> {
        let run = history
            .iter()
            .position(|record| record.run == self.record.run);
        let earlier = match run {
            Some(run) => run + 1,
            // The run was killed before the ledger heard of it, and whoever tried to take it back since
            // had nothing to restore.
            None => {
                let of_it = format!("{UNDO_OF}{}", self.record.run);
                let tried = history.iter().take_while(|record| record.source == of_it);
                tried.count()
            }
        };
        history.get(earlier).cloned()
    }
}

/// By the ledger's word, without a lock.
pub(super) fn standing_of(options: &RollbackOptions, key: &VolumeKey, target: &Target) -> Standing {
    let Some(identity) = target.identity() else {
        let why = "it has no identity".to_owned();
        return Standing::Unknown { why };
    };
    let identity = LedgerIdentity::new(identity.durable_text());
    peek(&options.state_dir, key, &identity)
}

/// The volume, its key, and where its undo may be.
pub(super) fn places(options: &RollbackOptions) -> Result<(PathBuf, VolumeKey, Stores), Failure> {
    let path = canonical_target(&options.path).map_err(|error| target_unopened(&error))?;
    let key = VolumeKey::from_path(&path)
        .map_err(|error| Failure::new(FailureKind::Usage, sentence(&error)))?;
    let is_device = identify(&path).is_ok_and(|found| found.kind == VolumeKind::BlockDevice);
    let stores = Stores::of(&options.state_dir, &path, !is_device);
    Ok((path, key, stores))
}

pub(super) fn no_undo(path: &Path, why: &Unusable) -> Failure {
    let failure = Failure::new(
        FailureKind::Guard,
        format!(
            "{} cannot be brought back: {}",
            path.display(),
            sentence(why)
        ),
    );
    match why {
        Unusable::Missing => failure.hint(
            "what a run overwrites is kept where `sync --undo auto` found a way, until --keep-undo is over",
        ),
        _ => failure.hint("nothing was changed; sync it from a source that is right"),
    }
}

pub(super) fn unusable_image(found: &Found, why: &str) -> Failure {
    let path = found.path.display();
    let failure = Failure::new(
        FailureKind::Guard,
        format!("{path} cannot be brought back: its image: {why}"),
    );
    match found.record.state {
        UndoState::Restoring => failure.hint(
            "an undo that was cut short may have put everything back before; sync it from a source that is right",
        ),
        UndoState::Keeping | UndoState::Whole => {
            failure.hint("nothing was changed; sync it from a source that is right")
        }
    }
}

fn expired(path: &Path) -> Failure {
    Failure::new(
        FailureKind::Guard,
        format!(
            "{}: the time for which its undo was kept is over",
            path.display()
        ),
    )
    .hint("give the next run a longer --keep-undo")
}

pub(super) fn changed(path: &Path) -> Failure {
    Failure::new(
        FailureKind::Guard,
        format!(
            "{} was written to since the run: its undo would mix two states",
            path.display()
        ),
    )
    .hint("sync it from a source that is right, or release the undo with `lockstep undo --release`")
}
