//! Asks for what differs.

use bytes::Bytes;
use lockstep_merkle::{
    GROUP_SIZE, GroupIndex, GroupSet, PAGE_SIZE, PageDigest, is_zero, page_digest,
};
use lockstep_protocol::{Failure, Plan, TargetFrame, Want, WantMode, WantOrder};

use super::work::Work;
use crate::failures::link_broke;

/// Sends wants until the run is over.
pub(super) fn want(work: &Work<'_>) {
    let mut group = vec![0; GROUP_SIZE];
    while let Some(order) = work.next_want() {
        if let Err(failure) = ask(work, order, &mut group) {
            return work.stop(failure);
        }
    }
}

fn ask(work: &Work<'_>, order: WantOrder, buffer: &mut [u8]) -> Result<(), Failure> {
    let want = match order.mode {
        WantMode::Whole => Want {
            extent: order.extent,
            whole: order.groups,
            blank: GroupSet::default(),
            paged: GroupSet::default(),
            digests: Vec::new(),
        },
        WantMode::Differing => differing(work, order, buffer)?,
    };
    let frame = TargetFrame::Want(want);
    work.sender
        .control(Bytes::from(frame.encode()))
        .map_err(|error| link_broke(&error, work.is_writing()))
}

/// Groups of zeros are asked for as such, others by their pages' digests.
fn differing(work: &Work<'_>, order: WantOrder, buffer: &mut [u8]) -> Result<Want, Failure> {
    let mut want = Want {
        extent: order.extent,
        whole: GroupSet::default(),
        blank: GroupSet::default(),
        paged: GroupSet::default(),
        digests: Vec::new(),
    };
    let first = work.geometry.groups_of(order.extent).start;
    for group in order.groups.iter() {
        if work.plan == Plan::Create {
            // Nothing is there yet, and reading a hole fills the page cache.
            want.blank.insert(group);
            continue;
        }
        let range = work.geometry.group_range(GroupIndex(first + group as u64));
        let bytes = &mut buffer[..work.geometry.group_len(GroupIndex(first + group as u64))];
        work.read(range.start, bytes)?;
        if is_zero(bytes) {
            want.blank.insert(group);
        } else {
            want.paged.insert(group);
            want.digests.extend(digests(work, bytes));
        }
    }
    Ok(want)
}

fn digests(work: &Work<'_>, group: &[u8]) -> impl Iterator<Item = PageDigest> {
    group
        .chunks(PAGE_SIZE)
        .map(|page| page_digest(work.seed, page))
}
