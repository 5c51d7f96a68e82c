//! Writes what fits; where a log keeps what is overwritten, only once that is
//! durable.
//!
//! ```text
//!   apply × n ─── staged ───► commit ─── ready ───► write × n
//!     append to the log         one flush for all that wait
//! ```
//! A flush takes a disk as long for one extent as for thirty, so whatever was
//! appended while the last one went on shares the next.

use std::thread::Scope;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use lockstep_merkle::{ExtentIndex, PageSet};
use lockstep_protocol::limits::MAX_WINDOW;
use lockstep_protocol::{Applied, DataHead, Failure, FailureKind};
use lockstep_undo::Ticket;
use lockstep_volume::{IoBuffer, IoFailure, IoFailureKind};

use super::work::Work;
use super::written::{Written, bytes_of};
use crate::limits::{APPLY_THREADS, FULL_DISK_PAUSE, FULL_DISK_TRIES, LINK_POLL};

/// An extent whose groups have their promised values, in memory.
pub(super) struct Staged {
    pub(super) head: DataHead,
    /// Pages whose bytes are written, own ones between them included.
    pub(super) data: PageSet,
    pub(super) written: Written,
    pub(super) image: IoBuffer,
    /// What has to be durable before.
    pub(super) ticket: Option<Ticket>,
}

/// Starts the threads that commit and write; they end when nobody can stage
/// anything more, or the run is over.
pub(super) fn start<'scope>(
    scope: &'scope Scope<'scope, '_>,
    work: &'scope Work<'_>,
) -> Sender<Staged> {
    // There are never more unanswered wants than this.
    let (stage, staged) = bounded(usize::from(MAX_WINDOW));
    let (readied, ready) = bounded(usize::from(MAX_WINDOW));
    scope.spawn(move || work.guard(|| commit(work, &staged, &readied)));
    for _ in 0..APPLY_THREADS {
        let ready = ready.clone();
        scope.spawn(move || work.guard(|| write_all(work, &ready)));
    }
    stage
}

fn commit(work: &Work<'_>, staged: &Receiver<Staged>, ready: &Sender<Staged>) {
    while let Some(first) = next(work, staged) {
        let batch: Vec<Staged> = std::iter::once(first).chain(staged.try_iter()).collect();
        let last = batch.iter().filter_map(|staged| staged.ticket).max();
        if let Some(Err(failure)) = last.map(|ticket| work.keep.commit(ticket)) {
            return work.stop(failure);
        }
        for staged in batch {
            if ready.send(staged).is_err() {
                return;
            }
        }
    }
}

fn write_all(work: &Work<'_>, ready: &Receiver<Staged>) {
    while let Some(staged) = next(work, ready) {
        if let Err(failure) = write(work, staged) {
            return work.stop(failure);
        }
    }
}

fn next(work: &Work<'_>, from: &Receiver<Staged>) -> Option<Staged> {
    while !work.is_over() {
        match from.recv_timeout(LINK_POLL) {
            Ok(staged) => return Some(staged),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return None,
        }
    }
    None
}

/// Writes and zeroes, and tells the session.
pub(super) fn write(work: &Work<'_>, staged: Staged) -> Result<(), Failure> {
    overwrite(work, &staged)?;
    let Staged { head, written, .. } = staged;
    work.volume
        .start_writeback(work.geometry.extent_range(head.extent));
    work.unproved.insert(head.extent, written);
    let made_equal = head.data.union(head.zero).runs();
    let bytes = made_equal
        .map(|run| bytes_of(work.geometry, head.extent, &run).len() as u64)
        .sum();
    applied(work, head.extent, Applied::Written { bytes })
}

/// An image that holds back the disk's last space is given up, and what failed is tried again.
fn overwrite(work: &Work<'_>, staged: &Staged) -> Result<(), Failure> {
    let mut tries = 0;
    loop {
        let error = match try_overwrite(work, staged) {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        let is_full = error.kind() == IoFailureKind::NoSpace;
        if !is_full || tries == FULL_DISK_TRIES || !work.keep.gives_way()? {
            return Err(work.disk_failed(&error));
        }
        tries += 1;
        // Some filesystems give space back a moment later.
        std::thread::sleep(FULL_DISK_PAUSE);
    }
}

fn try_overwrite(work: &Work<'_>, staged: &Staged) -> Result<(), IoFailure> {
    let Staged {
        head, data, image, ..
    } = staged;
    let start = work.geometry.extent_range(head.extent).start;
    let writes: Vec<(u64, &[u8])> = data
        .runs()
        .map(|run| bytes_of(work.geometry, head.extent, &run))
        .map(|range| (start + range.start as u64, &image[range]))
        .collect();
    work.volume.write_many(&writes)?;
    for run in head.zero.runs() {
        let range = bytes_of(work.geometry, head.extent, &run);
        let start = start + range.start as u64;
        work.volume.zero(start..start + range.len() as u64)?;
    }
    Ok(())
}

pub(super) fn applied(
    work: &Work<'_>,
    extent: ExtentIndex,
    applied: Applied,
) -> Result<(), Failure> {
    work.update(|session| session.applied(extent, applied))
        .map_err(|error| {
            Failure::new(
                FailureKind::Mismatch,
                format!("{error}: the source does not keep to what it hashed"),
            )
        })
}
