//! Bringing a target back, on its own machine.
//!
//! # Recipe
//!
//! 1. Find the undo; claim the target in the ledger, and look whether that is still its undo; pass
//!    every guard of a run and hold the target to the end.
//! 2. Offer, and wait for the word to go on.
//! 3. If the ledger calls the target consistent and the undo is a log, hash the target: a log puts
//!    back pages, and over anything else than what the run left that would mix two states. It is done
//!    now, for a user may think for long. Until here nothing is changed.
//! 4. Read the whole log and check it; record `restoring`.
//! 5. `inconsistent`, durably; before 4 if the ledger calls it unsafe already: the undo can be
//!    continued by a run only if the ledger names who had it last.
//! 6. Its old size; its old bytes; flush.
//! 7. Hash all of it from the medium; it must have the root that it had before the run. If nobody knew
//!    that root, every byte that was put back is compared, or the clone is hashed too.
//! 8. Seal; `consistent`, if the ledger's record before the run says so of exactly this root and size,
//!    by a proof that read all of it; otherwise the ledger stays at `inconsistent`, for nobody has
//!    proved what these bytes are.
//! 9. Remove the image, then the undo.
//!
//! Killed at any point, the same command begins again at 1 and ends with the same bytes and the same
//! state. After `consistent` in 8 it finds by the ledger that all is done, and only does 9: what was
//! written since must not be taken back. Where there is no such word, a kill between 8 and 9 leaves an
//! undo that would be laid over the target once more.

mod found;

use std::path::PathBuf;
use std::sync::atomic::AtomicU64;

use lockstep_ledger::{
    Claim, Identity as LedgerIdentity, Ledger, Overwriting, Proof, ProofLevel,
    Record as LedgerRecord, RunFacts, Standing, State,
};
use lockstep_merkle::{Geometry, GroupIndex, Root};
use lockstep_protocol::{Failure, FailureKind, UndoKind, VolumeState};
use lockstep_transport::{Link, LinkSender, memory_pair};
use lockstep_undo::{Kept, PreRunRoot, RestoreError, Restoring, Unusable, check, restore};
use lockstep_volume::{
    Hold, IoEngine, MappedCvs, OtherWriters, Target, TargetPlan, Volume, open_source_with,
};

use self::found::{Found, Purpose, changed, no_undo, places, standing_of, unusable_image};
use super::changed::Present;
use super::words::{Failed, Far, Near, Rollback, RolledBack, Wish, heard, say};
use super::{copying, image, undo_failed};
use crate::clock::now;
use crate::doubt::run_name;
use crate::failures::{ledger_failed, sentence, target_unopened, volume_failed};
use crate::hash::{fold_table, hash_volume, hashing_pool};
use crate::limits::HELLO_TIMEOUT;
use crate::request::{Connect, Connected};
use crate::scan::{Scan, ScanFrom};

/// How the ledger's records of rollbacks begin to name their source.
pub const UNDO_OF: &str = "undo of run ";

const NOT_KEPT: &str = "somebody wrote to it since, or its disk does not keep what is written: it is marked inconsistent";

/// Where and how a target is brought back.
#[derive(Clone, Debug)]
pub struct RollbackOptions {
    /// The volume; named by whoever started this side, never by the link.
    pub path: PathBuf,
    /// Where the ledger and the undos are.
    pub state_dir: PathBuf,
    /// Who asked, for the ledger.
    pub who: String,
    /// Threads that hash.
    pub threads: usize,
    /// How the disk is read and written.
    pub io: IoEngine,
    /// How long each extent takes to be hashed, besides.
    #[cfg(test)]
    pub(crate) delay: std::time::Duration,
}

/// A target on this machine, reached over a link in memory.
pub struct LocalRollback(pub RollbackOptions);

impl Connect for LocalRollback {
    fn connect(self: Box<Self>) -> Result<Connected, Failure> {
        let (near, far) = memory_pair();
        let serving = std::thread::Builder::new()
            .name("rollback".to_owned())
            .spawn(move || {
                // The near side hears of the failure over the link.
                let _ = serve_rollback(far, &self.0);
            })
            .map_err(|error| Failure::new(FailureKind::Internal, error.to_string()))?;
        Ok(Connected {
            link: near,
            warning: None,
            lifeline: Box::new(crate::local::Serving::of(serving)),
        })
    }
}

/// Serves one rollback on a link, to its end.
///
/// # Errors
/// Why nothing was brought back; the near side has been told as far as the link allows.
pub fn serve_rollback(link: Link, options: &RollbackOptions) -> Result<(), Failure> {
    let served = served(&link, options);
    let last = match &served {
        Ok(Some(done)) => Some(Far::Done(done.clone())),
        Ok(None) => None,
        Err(failure) => Some(Far::Failed(Failed::of(failure))),
    };
    if let Some(last) = last {
        // A near side that is gone finds the state in the ledger.
        let _ = say(&link.sender, &last);
    }
    link.sender.finish();
    served.map(drop)
}

fn served(link: &Link, options: &RollbackOptions) -> Result<Option<RolledBack>, Failure> {
    let Near::Ask(wish) = heard(link, Some(HELLO_TIMEOUT))? else {
        return Err(Failure::new(
            FailureKind::Internal,
            "the near side broke the protocol: it agreed before it asked",
        ));
    };
    match wish {
        Wish::Look => {
            let found = Found::of(options)?.unexpired()?;
            let target = found.open(options, Purpose::Look)?;
            if let Standing::Consistent(newest) = standing_of(options, &found.key, &target)
                && found.is_spent(&[newest])
            {
                return Err(no_undo(&found.path, &Unusable::Missing));
            }
            offered(link, found.offer(options, &target))?;
            Ok(None)
        }
        Wish::Restore => brought_back(link, options).map(Some),
        Wish::Release => released(options).map(Some),
    }
}

/// Lets go of what is kept, whatever is in doubt about it or about the target.
fn released(options: &RollbackOptions) -> Result<RolledBack, Failure> {
    let (path, key, stores) = places(options)?;
    let size = match stores.look(key.as_str()) {
        Ok((_, record)) => record.size,
        Err(Unusable::Missing) => return Err(no_undo(&path, &Unusable::Missing)),
        Err(_) => 0,
    };
    stores
        .release(key.as_str())
        .map_err(|error| undo_failed(&error))?;
    Ok(RolledBack {
        root: None,
        size,
        state: VolumeState::Unknown.word().to_owned(),
        bytes_written: 0,
    })
}

fn offered(link: &Link, offer: Rollback) -> Result<(), Failure> {
    say(&link.sender, &Far::Offer(offer))
        .map_err(|error| crate::failures::link_broke(&error, false))
}

/// However long the user thinks.
fn agreed(link: &Link) -> Result<(), Failure> {
    match heard(link, None)? {
        Near::Go => Ok(()),
        Near::Ask(_) => Err(Failure::new(
            FailureKind::Internal,
            "the near side broke the protocol: it asked twice",
        )),
    }
}

fn brought_back(link: &Link, options: &RollbackOptions) -> Result<RolledBack, Failure> {
    let found = &Found::to_restore(options)?;
    let ledger = Ledger::open(&options.state_dir).map_err(|error| ledger_failed(&error))?;
    let rollback = random_name()?;
    let claim = ledger
        .claim(
            &found.key,
            RunFacts {
                run: rollback.clone(),
                source: format!("{UNDO_OF}{}", found.record.run),
                who: options.who.clone(),
                started_unix_ms: now(),
                epoch: 0,
            },
        )
        .map_err(|error| ledger_failed(&error))?;
    found.is_still_there(options)?;
    let history = ledger
        .history(&found.key)
        .map_err(|error| ledger_failed(&error))?;
    if found.is_spent(&history) {
        return let_go_late(link, options, found, history.first());
    }
    let before = found.before(&history);
    let target = found.open(options, Purpose::Restore)?;
    // At once if it takes no reading: nobody is asked in vain.
    found.suspect(&ledger)?;
    if let Kept::Image(description) = &found.record.kept {
        let image = image::open(description).map_err(|why| {
            found.forget_if_spent(description);
            unusable_image(found, &why)
        })?;
        // A run may touch only the beginning of a device.
        let fits = match image::kind(description) {
            UndoKind::Thin => image.size >= found.record.size,
            UndoKind::Reflink | UndoKind::Log => image.size == found.record.size,
        };
        if !fits {
            return Err(unusable_image(found, "it has another size"));
        }
    }
    offered(link, found.offer(options, &target))?;
    agreed(link)?;

    refuse_if_changed(options, found, &ledger, &target)?;
    let (restoring, overwriting) = begun(found, &history, &target, claim, &rollback)?;
    tell(&link.sender, VolumeState::Inconsistent);
    let restored = put_back(options, &restoring, &target)
        .and_then(|bytes| Ok((proved(options, &restoring, &target)?, bytes)));
    let (root, bytes_written) = match restored {
        Ok(restored) => restored,
        Err(failure) => return Err(left_half_way(overwriting, failure)),
    };
    let identity = target.seal().map_err(|error| target_unopened(&error))?;
    // Who wrote after that part was measured is seen only now; what was proved before counts then
    // for nothing.
    let was_written = target.other_writers() == OtherWriters::Somebody;
    let before = before.filter(|_| !was_written);
    let size = found.record.size;
    let identity = LedgerIdentity::new(identity.durable_text());
    let state = marked(
        overwriting,
        before.as_ref(),
        identity,
        root,
        size,
        bytes_written,
    )?;
    let_go(restoring, state)?;
    tell(&link.sender, state);
    Ok(RolledBack {
        root: Some(root.to_string()),
        size,
        state: state.word().to_owned(),
        bytes_written,
    })
}

/// The last step of a rollback that was killed before it. If nobody has proved anything else since, it
/// ends as that one would have.
fn let_go_late(
    link: &Link,
    options: &RollbackOptions,
    found: &Found,
    newest: Option<&LedgerRecord>,
) -> Result<RolledBack, Failure> {
    let newest = newest.filter(|newest| newest.run == found.record.latest_run);
    let Some(root) = newest.and_then(|newest| newest.root) else {
        found.release(options)?;
        return Err(no_undo(&found.path, &Unusable::Missing));
    };
    let target = found.open(options, Purpose::Look)?;
    offered(link, found.offer(options, &target))?;
    agreed(link)?;
    found.release(options)?;
    tell(&link.sender, VolumeState::Consistent);
    Ok(RolledBack {
        root: Some(Root::from_bytes(root).to_string()),
        size: found.record.size,
        state: VolumeState::Consistent.word().to_owned(),
        bytes_written: 0,
    })
}

/// What stays although the ledger has its last word is found spent by whoever comes next, and removed.
/// Otherwise nothing would tell that it was laid over the target already.
fn let_go(restoring: Restoring, state: VolumeState) -> Result<(), Failure> {
    if let Kept::Image(description) = &restoring.record().kept
        && let Err(why) = image::release(description)
    {
        tracing::warn!("the image stays: {why}");
    }
    match restoring.finish() {
        Err(error) if state == VolumeState::Consistent => {
            tracing::warn!("the record of the undo stays: {}", sentence(&error));
            Ok(())
        }
        finished => finished.map_err(|error| undo_failed(&error)),
    }
}

fn tell(sender: &LinkSender, state: VolumeState) {
    // A near side that is gone finds it in the ledger.
    let _ = say(sender, &Far::State(state.word().to_owned()));
}

/// Both records say that a rollback is at work, durably.
fn begun(
    found: &Found,
    history: &[LedgerRecord],
    target: &Target,
    claim: Claim,
    rollback: &str,
) -> Result<(Restoring, Overwriting), Failure> {
    let identity = match target.plan() {
        TargetPlan::Keep => target.identity(),
        // Its size is a part of it, and about to change.
        _ => None,
    };
    let overwrite = || {
        let identity = identity.map(|identity| LedgerIdentity::new(identity.durable_text()));
        claim
            .overwrite(identity)
            .map_err(|error| ledger_failed(&error))
    };
    let restore = || {
        found
            .store
            .restore(found.key.as_str(), &found.record.identity, rollback)
            .map_err(|error| match error {
                lockstep_undo::UndoError::Unusable(why) => no_undo(&found.path, &why),
                error => undo_failed(&error),
            })
    };
    // The next run continues the undo of whoever the ledger names among those that were interrupted.
    // An undo that cannot be used leaves no trace in the ledger of a target that is whole.
    if history.first().is_some_and(is_unsafe) {
        let overwriting = overwrite()?;
        return Ok((restore()?, overwriting));
    }
    let restoring = restore()?;
    Ok((restoring, overwrite()?))
}

fn is_unsafe(newest: &LedgerRecord) -> bool {
    matches!(newest.state, State::Inconsistent | State::Failed)
}

/// A log over anything else than what the run left would mix two states.
fn refuse_if_changed(
    options: &RollbackOptions,
    found: &Found,
    ledger: &Ledger,
    target: &Target,
) -> Result<(), Failure> {
    let Some(left) = found.suspect(ledger)? else {
        return Ok(());
    };
    let root = match left.size == target.size() {
        true => measured(options, target, ScanFrom::Cache)?,
        false => {
            let size = left.size;
            measured(options, &Present::of(target, size), ScanFrom::Cache)?
        }
    };
    match left.root == Some(*root.as_bytes()) {
        true => Ok(()),
        false => Err(changed(&found.path)),
    }
}

fn put_back(
    options: &RollbackOptions,
    restoring: &Restoring,
    target: &Target,
) -> Result<u64, Failure> {
    target
        .begin_overwrite()
        .map_err(|error| volume_failed(&error))?;
    if let Some(log) = restoring.log() {
        let restored = restore(log, target).map_err(|error| unrestored(&error))?;
        return Ok(restored.bytes_written + restored.bytes_zeroed);
    }
    if let Kept::Image(description) = &restoring.record().kept {
        match image::kind(description) {
            UndoKind::Thin => {
                let snapshot = opened_snapshot(description, options)?;
                return copying::copy(&snapshot, target).map_err(|error| volume_failed(&error));
            }
            UndoKind::Reflink | UndoKind::Log => {
                let image = image::open(description).map_err(|why| unreadable_image(&why))?;
                target
                    .share_all_of(&image.file)
                    .map_err(|error| volume_failed(&error))?;
            }
        }
    }
    target.flush().map_err(|error| volume_failed(&error))?;
    Ok(target.size())
}

/// The root that the medium has now, which is the one from before the run.
fn proved(
    options: &RollbackOptions,
    restoring: &Restoring,
    target: &Target,
) -> Result<Root, Failure> {
    let root = measured(options, target, ScanFrom::Medium)?;
    let before = match (restoring.record().root, &restoring.record().kept) {
        (PreRunRoot::Known(before), _) => before,
        (_, Kept::Image(description)) if image::kind(description) == UndoKind::Thin => {
            let snapshot = opened_snapshot(description, options)?;
            let is_equal = copying::is_equal(&snapshot, target);
            return match is_equal.map_err(|error| volume_failed(&error))? {
                true => Ok(root),
                false => Err(Failure::new(
                    FailureKind::Mismatch,
                    "everything was put back, and it is not what its snapshot holds",
                )
                .hint(NOT_KEPT)),
            };
        }
        (_, Kept::Image(description)) => {
            let image = image::open(description).map_err(|why| unreadable_image(&why))?;
            hash_volume(&image.path, options.threads, options.io, &|_| ())?.0
        }
        (_, Kept::Log(_)) => {
            if let Some(log) = restoring.log() {
                check(log, target).map_err(|error| unrestored(&error))?;
            }
            return Ok(root);
        }
    };
    if root == before {
        return Ok(root);
    }
    Err(Failure::new(
        FailureKind::Mismatch,
        format!("everything was put back, and its root is {root}, not {before} as before the run"),
    )
    .hint(NOT_KEPT))
}

/// A snapshot as a volume to read from. LVM keeps the path for as long as it is active.
fn opened_snapshot(description: &[u8], options: &RollbackOptions) -> Result<impl Volume, Failure> {
    let image = image::open(description).map_err(|why| unreadable_image(&why))?;
    open_source_with(&image.path, Hold::None, options.io)
        .map_err(|error| unreadable_image(&sentence(&error)))
}

fn unreadable_image(why: &str) -> Failure {
    Failure::new(FailureKind::Io, format!("its image: {why}"))
}

/// The root of a volume, all of it read.
fn measured(
    options: &RollbackOptions,
    volume: &dyn Volume,
    from: ScanFrom,
) -> Result<Root, Failure> {
    let geometry = Geometry::new(volume.size());
    let scratch = match options.state_dir.is_dir() {
        true => options.state_dir.clone(),
        false => std::env::temp_dir(),
    };
    let table = MappedCvs::new(geometry.group_count(), &scratch)
        .map_err(|error| Failure::new(FailureKind::Io, format!("tree: {}", sentence(&error))))?;
    let scan = Scan {
        volume,
        geometry,
        from,
        bytes_read: &AtomicU64::new(0),
        pages: None,
        known: None,
        gate: None,
    };
    let pool = hashing_pool(options.threads)?;
    scan.run(&pool, &|| false, &|extent, cvs| {
        use lockstep_merkle::CvTable;
        #[cfg(test)]
        std::thread::sleep(options.delay);
        for (group, cv) in geometry.groups_of(extent).zip(cvs.iter()) {
            table.set(GroupIndex(group), *cv);
        }
    })
    .map_err(|error| volume_failed(&error))?;
    fold_table(geometry, &table)
}

/// `consistent` only by the word of the record before the run, on exactly these bytes. A proof that
/// inherited a part does not count: what it rested on may have been taken back since, and that doubt
/// asks only for the newest record, which was not this one.
fn marked(
    overwriting: Overwriting,
    before: Option<&LedgerRecord>,
    identity: LedgerIdentity,
    root: Root,
    size: u64,
    bytes_written: u64,
) -> Result<VolumeState, Failure> {
    let before = before.filter(|before| {
        let same = before.identity.as_ref() == Some(&identity) && before.size == size;
        let is_full = before.proof == ProofLevel::Full;
        before.state == State::Consistent && is_full && same
    });
    let proof = before.and_then(|before| {
        let promised = before.root?;
        Proof::new(*root.as_bytes(), promised, size, before.proof).ok()
    });
    let Some(proof) = proof else {
        overwriting.abandon();
        return Ok(VolumeState::Inconsistent);
    };
    overwriting
        .consistent(identity, proof, bytes_written, now())
        .map(|_| VolumeState::Consistent)
        .map_err(|error| ledger_failed(&error))
}

/// It stays `inconsistent`, or becomes `failed` if its disk did.
fn left_half_way(overwriting: Overwriting, failure: Failure) -> Failure {
    if failure.kind == FailureKind::Io {
        // A ledger that fails too leaves `inconsistent`, as unsafe.
        let _ = overwriting.failed(&failure.message, now());
    } else {
        overwriting.abandon();
    }
    match failure.hint.is_empty() {
        true => {
            failure.hint("run the same command again: it begins anew, and ends with the same bytes")
        }
        false => failure,
    }
}

fn unrestored(error: &RestoreError) -> Failure {
    let kind = match error {
        RestoreError::Unusable(_) | RestoreError::Volume(_) => FailureKind::Io,
        RestoreError::Differs { .. } => FailureKind::Mismatch,
        RestoreError::Size { .. } => FailureKind::Internal,
    };
    Failure::new(kind, sentence(error))
}

fn random_name() -> Result<String, Failure> {
    let mut bytes = [0_u8; 16];
    getrandom::fill(&mut bytes).map_err(|error| {
        Failure::new(FailureKind::Internal, format!("no random bytes: {error}"))
    })?;
    Ok(run_name(&bytes))
}

#[cfg(test)]
mod tests;
