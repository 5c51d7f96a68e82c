//! Makes writes durable, then reads them back from the medium.

use std::ops::Range;

use lockstep_merkle::{Cv, ExtentIndex, GROUP_SIZE, GroupIndex, PageSet, group_cv};
use lockstep_protocol::{CheckOrder, Failure, FailureKind};
use lockstep_volume::IoBuffer;

use super::work::Work;
use super::written::{Written, bytes_of, hash_pages, pages_of};

/// Flushes whenever that is due, until the run is over.
pub(super) fn flush(work: &Work<'_>) {
    while let Some(ticket) = work.next_flush() {
        if let Err(error) = work.volume.flush() {
            return work.stop(work.disk_failed(&error));
        }
        work.update(|session| session.flushed(ticket));
    }
}

/// Reads back until the run is over.
pub(super) fn check(work: &Work<'_>) {
    while let Some(order) = work.next_check() {
        let Some(mut buffer) = work.buffer() else {
            return;
        };
        let checked = read_back(work, order, &mut buffer).and_then(|measured| {
            work.update(|session| session.checked(order.extent, &measured))
                .map_err(|exhausted| {
                    Failure::new(
                        FailureKind::Mismatch,
                        format!("read back from the medium, {exhausted}"),
                    )
                    .hint("the disk does not keep what is written to it: check its cabling, memory and SMART log")
                })
        });
        if let Err(failure) = checked {
            return work.stop(failure);
        }
    }
}

/// What the medium holds of the groups of the order.
fn read_back(
    work: &Work<'_>,
    order: CheckOrder,
    buffer: &mut IoBuffer,
) -> Result<Vec<(GroupIndex, Cv)>, Failure> {
    buffer.set_len(work.geometry.extent_len(order.extent));
    let written = work.unproved.take(order.extent, order.groups);
    let suffices = |written: &Written| {
        !work.trusts_no_cache() && written.touches_every_group(work.geometry, order.extent)
    };
    if let Some(written) = written.filter(suffices) {
        read_pages(work, order.extent, written.pages, buffer)?;
        if hash_pages(work.geometry, order.extent, written.pages, buffer) == written.hash {
            return Ok(measured(work, order, |index, _| work.expected.cv(index)));
        }
        tracing::warn!(
            extent = order.extent.0,
            "the medium did not give back what was written"
        );
    }
    let all = pages_of(order.groups, buffer.len());
    read_pages(work, order.extent, all, buffer)?;
    Ok(measured(work, order, |index, range| {
        group_cv(work.geometry, index, &buffer[range])
    }))
}

/// The chaining value of each group of the order.
fn measured(
    work: &Work<'_>,
    order: CheckOrder,
    measure: impl Fn(GroupIndex, Range<usize>) -> Cv,
) -> Vec<(GroupIndex, Cv)> {
    let first = work.geometry.groups_of(order.extent).start;
    let of_group = |group: usize| {
        let index = GroupIndex(first + group as u64);
        let start = group * GROUP_SIZE;
        let range = start..start + work.geometry.group_len(index);
        (index, measure(index, range))
    };
    order.groups.iter().map(of_group).collect()
}

/// All runs of pages of the extent at once, so that the disk sees them
/// together, each to its place in the extent's buffer.
fn read_pages(
    work: &Work<'_>,
    extent: ExtentIndex,
    pages: PageSet,
    buffer: &mut IoBuffer,
) -> Result<(), Failure> {
    let offset = work.geometry.extent_range(extent).start;
    let mut reads: Vec<(u64, &mut [u8])> = Vec::new();
    let mut rest: &mut [u8] = &mut buffer[..];
    let mut at = 0;
    for run in pages.runs() {
        let range = bytes_of(work.geometry, extent, &run);
        let (_, tail) = std::mem::take(&mut rest).split_at_mut(range.start - at);
        let (part, tail) = tail.split_at_mut(range.len());
        reads.push((offset + range.start as u64, part));
        rest = tail;
        at = range.end;
    }
    work.volume
        .read_back_many(&mut reads)
        .map_err(|error| work.disk_failed(&error))
}
