//! Makes writes durable, then reads them back from the medium.

use lockstep_merkle::{ExtentIndex, GROUP_SIZE, GroupIndex, GroupSet, group_cv};
use lockstep_protocol::{CheckOrder, Failure, FailureKind};
use lockstep_volume::IoBuffer;

use super::work::Work;

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

fn read_back(
    work: &Work<'_>,
    order: CheckOrder,
    buffer: &mut IoBuffer,
) -> Result<Vec<(GroupIndex, lockstep_merkle::Cv)>, Failure> {
    buffer.set_len(work.geometry.extent_len(order.extent));
    read_groups(work, order.extent, order.groups, buffer)?;
    let first = work.geometry.groups_of(order.extent).start;
    let measure = |group: usize| {
        let index = GroupIndex(first + group as u64);
        let start = group * GROUP_SIZE;
        let bytes = &buffer[start..start + work.geometry.group_len(index)];
        (index, group_cv(work.geometry, index, bytes))
    };
    Ok(order.groups.iter().map(measure).collect())
}

/// Groups between two that are to be read back, up to which one larger read
/// is cheaper for a disk than two.
const BRIDGED_GROUPS: usize = 2;

/// The spans that cover these groups, small gaps included.
fn spans(groups: GroupSet) -> Vec<std::ops::Range<usize>> {
    let mut spans: Vec<std::ops::Range<usize>> = Vec::new();
    for run in groups.runs() {
        match spans.last_mut() {
            Some(span) if run.start - span.end <= BRIDGED_GROUPS => span.end = run.end,
            _ => spans.push(run),
        }
    }
    spans
}

/// All spans of the extent at once, so that the disk sees them together.
fn read_groups(
    work: &Work<'_>,
    extent: ExtentIndex,
    groups: GroupSet,
    buffer: &mut IoBuffer,
) -> Result<(), Failure> {
    let offset = work.geometry.extent_range(extent).start;
    let mut reads: Vec<(u64, &mut [u8])> = Vec::new();
    let mut rest: &mut [u8] = &mut buffer[..];
    let mut at = 0;
    for run in spans(groups) {
        let start = run.start * GROUP_SIZE;
        let end = (run.end * GROUP_SIZE).min(at + rest.len());
        let (_, tail) = std::mem::take(&mut rest).split_at_mut(start - at);
        let (part, tail) = tail.split_at_mut(end - start);
        reads.push((offset + start as u64, part));
        rest = tail;
        at = end;
    }
    work.volume
        .read_back_many(&mut reads)
        .map_err(|error| work.disk_failed(&error))
}

#[cfg(test)]
mod tests {
    use super::spans;
    use lockstep_merkle::GroupSet;

    #[test]
    fn small_gaps_are_read_over_and_large_ones_are_not() {
        let groups = GroupSet::from_bits(0b1000_0000_1001_0011);
        assert_eq!(spans(groups), [0..8, 15..16]);
        assert!(spans(GroupSet::default()).is_empty());
    }
}
