//! The end of a target's run: proved and marked, or given up safely.

use std::time::Instant;

use bytes::Bytes;
use lockstep_ledger::Proof;
use lockstep_merkle::Root;
use lockstep_protocol::{
    Evidence, Failure, FailureKind, LastWord, Plan, Stats, TargetFrame, TargetSession, VolumeState,
};

use lockstep_volume::{OpenError, OpenErrorKind};

use super::work::Work;
use crate::cancel::{Cancel, Cause};
use crate::failures::{sentence, target_unopened};
use crate::level;
use crate::limits::STATS_EVERY;

/// A good end.
pub(super) enum Finished {
    /// Compared only; nothing to mark. Its own root, if all of it was measured.
    Compared(Option<Root>),
    /// Equal to the source, with the ledger's word.
    Proved {
        root: Root,
        identity: String,
        state: VolumeState,
    },
}

/// Tells progress until every extent is settled, or the run is over.
pub(super) fn wait(work: &Work<'_>, cancel: &Cancel) -> Result<(), Failure> {
    let mut told = Instant::now();
    let mut last = Stats::default();
    loop {
        let (compared, settled, stats) = work.wait_for_turn(look);
        let stats = work.counts.added_to(stats);
        if let Some(failure) = work.failure() {
            return Err(failure);
        }
        if work.is_over() {
            return Ok(());
        }
        if let Some(cause) = cancel.cause() {
            return Err(cancelled(cause));
        }
        // A broken link is found by the thread that listens to it.
        if compared {
            if !work.is_writing()
                && let Some(note) = work.keep.offered()
            {
                let _ = work
                    .sender
                    .control(Bytes::from(TargetFrame::Undo(note).encode()));
            }
            let _ = work
                .sender
                .control(Bytes::from(TargetFrame::Compared(stats).encode()));
        }
        if settled {
            return Ok(());
        }
        if told.elapsed() >= STATS_EVERY && stats != last {
            told = Instant::now();
            last = stats;
            let _ = work
                .sender
                .control(Bytes::from(TargetFrame::Progress(stats).encode()));
        }
    }
}

fn look(session: &mut TargetSession) -> (bool, bool, Stats) {
    let compared = session.announce_compared();
    (compared, session.settled().is_some(), session.stats())
}

pub(super) fn cancelled(cause: Cause) -> Failure {
    match cause {
        Cause::Signal(number) => Failure::new(
            FailureKind::Signal(number),
            format!("the target's side was ended by signal {number}"),
        ),
        Cause::Deadline => Failure::new(FailureKind::Deadline, "the time allowed is over"),
        Cause::Fenced => Failure::new(FailureKind::Fenced, "a newer run took the volume over"),
        Cause::Abandoned => Failure::new(
            FailureKind::Interrupted,
            "whoever had ordered the run is gone",
        )
        .hint("run the same command again: it ships only what is missing"),
    }
}

/// Proves the whole and marks it; every thread but this one has ended.
pub(super) fn mark(work: &Work<'_>, pool: &rayon::ThreadPool) -> Result<Finished, Failure> {
    if work.compares() {
        return Ok(Finished::Compared(work.session().own_root().ok()));
    }
    let LastWord {
        root,
        evidence,
        level: source_level,
    } = work.session().settled().ok_or_else(|| {
        Failure::new(
            FailureKind::Internal,
            "ended before every extent was proved",
        )
    })?;
    let proof = || {
        let proof = proof(work, root, evidence)?;
        Ok(proof.of_source(source_level.map(level::recorded)))
    };
    let mut proved: Proof = proof()?;
    if work.plan != Plan::Keep {
        // Its size, or its name, changes even if none of its bytes do.
        work.begin_overwrite()?;
    }
    work.volume
        .flush()
        .map_err(|error| work.disk_failed(&error))?;
    let identity = work.volume.seal().map_err(|error| unsealed(work, &error))?;
    if evidence == Evidence::None {
        return Err(unproved());
    }
    if work.is_outdated() {
        // What the ledger said before does not hold either, even if this run wrote nothing.
        work.marks().disown(work.volume.durable_identity())?;
        // Whatever was written meanwhile is on the medium before it is read, and read from there.
        work.volume
            .flush()
            .map_err(|error| work.disk_failed(&error))?;
        work.measure_again(pool)?;
        proved = match proof() {
            Ok(proof) if work.volume.is_still_sealed() => proof,
            _ => return Err(written_meanwhile()),
        };
    }
    let written = work.stats().bytes_written;
    work.marks().consistent(&identity, proved, written)?;
    Ok(Finished::Proved {
        root,
        identity,
        state: VolumeState::Consistent,
    })
}

/// The proof that the fold of what the target was measured to hold is the source's root.
fn proof(work: &Work<'_>, root: Root, evidence: Evidence) -> Result<Proof, Failure> {
    let own = work
        .session()
        .own_root()
        .map_err(|error| Failure::new(FailureKind::Internal, sentence(&error)))?;
    let (size, level) = (work.geometry.size(), work.proof_level(evidence));
    Proof::new(*own.as_bytes(), *root.as_bytes(), size, level)
        .map_err(|error| Failure::new(FailureKind::Mismatch, sentence(&error)))
}

fn written_meanwhile() -> Failure {
    Failure::new(
        FailureKind::Interrupted,
        "another program wrote the target during the run",
    )
    .hint("stop that program and run the same command again")
}

/// A seal that fails on the disk is a disk's failure; the other reasons are
/// guards'.
fn unsealed(work: &Work<'_>, error: &OpenError) -> Failure {
    let failure = target_unopened(error);
    if error.kind() == OpenErrorKind::Io {
        work.disk_broke();
        return Failure {
            kind: FailureKind::Io,
            ..failure
        };
    }
    failure
}

fn unproved() -> Failure {
    Failure::new(
        FailureKind::Mismatch,
        "the source may have changed while it was read: the target holds what was read, which nobody can call one instant",
    )
    .hint("stop the writer and run the same command without --snapshot none")
}

/// Gives up: what may have changed stays `inconsistent`, or becomes `failed`
/// when the disk did. Returns the failure as the source is to hear it.
pub(super) fn give_up(work: &Work<'_>, failure: Failure) -> (Failure, VolumeState) {
    let mut failure = failure;
    if work.is_writing() && !work.disk_has_failed() {
        // Resuming is cheaper when what was written has reached the medium.
        if let Err(error) = work.volume.flush() {
            failure = work.disk_failed(&error);
        }
    }
    if work.disk_is_full() && work.plan == Plan::Create {
        work.volume.discard_partial();
        work.marks().give_up(None);
        failure.kind = FailureKind::Temporary;
        failure.hint =
            "make room, then run the same command again; the unfinished file was removed"
                .to_owned();
        return (failure, VolumeState::Unknown);
    }
    let broken = work.disk_has_failed() && !work.disk_is_full();
    let reason = broken.then_some(failure.message.as_str());
    let state = work.marks().give_up(reason).unwrap_or(work.standing);
    (failure, state)
}
