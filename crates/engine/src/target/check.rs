//! Makes writes durable, then reads them back from the medium.

use lockstep_merkle::{Cv, ExtentIndex, GroupIndex, PAGES_PER_EXTENT, PageSet, page_cvs_in_extent};
use lockstep_protocol::{CheckOrder, Failure, FailureKind};
use lockstep_volume::IoBuffer;

use super::work::Work;
use super::written::{Written, bytes_of, group_value, hash_values, pages_of};

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
    let mut cvs = [Cv::from_bytes([0; 32]); PAGES_PER_EXTENT];
    let cvs = &mut cvs[..work.geometry.pages_in(order.extent)];
    if let Some(written) = written.filter(suffices) {
        measure(work, order.extent, written.pages, buffer, cvs)?;
        if hash_values(written.pages, cvs) == written.hash {
            work.learn(order.extent, written.pages, cvs);
            return Ok(values(work, order, |index, _| work.expected.cv(index)));
        }
        tracing::warn!(
            extent = order.extent.0,
            "the medium did not give back what was written"
        );
    }
    let all = pages_of(order.groups, buffer.len());
    measure(work, order.extent, all, buffer, cvs)?;
    work.learn(order.extent, all, cvs);
    Ok(values(work, order, |_, group| {
        group_value(work.geometry, order.extent, group, cvs)
    }))
}

/// A value for each group of the order.
fn values(
    work: &Work<'_>,
    order: CheckOrder,
    value: impl Fn(GroupIndex, usize) -> Cv,
) -> Vec<(GroupIndex, Cv)> {
    let first = work.geometry.groups_of(order.extent).start;
    let of_group = |group: usize| {
        let index = GroupIndex(first + group as u64);
        (index, value(index, group))
    };
    order.groups.iter().map(of_group).collect()
}

/// Reads pages of the extent from the medium, and measures them.
fn measure(
    work: &Work<'_>,
    extent: ExtentIndex,
    pages: PageSet,
    buffer: &mut IoBuffer,
    cvs: &mut [Cv],
) -> Result<(), Failure> {
    read_pages(work, extent, pages, buffer)?;
    page_cvs_in_extent(work.geometry, extent, pages, buffer, cvs);
    Ok(())
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
