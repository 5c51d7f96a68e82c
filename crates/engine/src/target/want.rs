//! Asks for what differs.

use bytes::Bytes;
use lockstep_merkle::{
    Cv, GROUP_SIZE, GroupIndex, GroupSet, PAGE_SIZE, PAGES_PER_GROUP, PageDigest, PageIndex,
    PageSeed, is_zero, page_cvs, page_digest,
};
use lockstep_protocol::{Failure, Plan, TargetFrame, Want, WantMode, WantOrder};

use super::work::Work;
use crate::failures::link_broke;

/// What the pages of a group are told apart by.
pub(super) enum Digests {
    Seeded(PageSeed),
    Chained,
}

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
        let index = GroupIndex(first + group as u64);
        if let Digests::Chained = work.digests
            && let Some(values) = work.values.of_group(work.geometry, index)
        {
            if values.are_of_zeros() {
                want.blank.insert(group);
            } else {
                want.paged.insert(group);
                let digests = values.cvs().iter().map(|cv| PageDigest::from(*cv));
                want.digests.extend(digests);
            }
            continue;
        }
        let range = work.geometry.group_range(index);
        let bytes = &mut buffer[..work.geometry.group_len(index)];
        work.read(range.start, bytes)?;
        if is_zero(bytes) {
            want.blank.insert(group);
        } else {
            want.paged.insert(group);
            add_digests(work, index, bytes, &mut want.digests);
        }
    }
    Ok(want)
}

fn add_digests(work: &Work<'_>, group: GroupIndex, bytes: &[u8], digests: &mut Vec<PageDigest>) {
    match work.digests {
        Digests::Seeded(seed) => {
            let pages = bytes.chunks(PAGE_SIZE);
            digests.extend(pages.map(|page| page_digest(seed, page)));
        }
        Digests::Chained => {
            let pages = work.geometry.pages_of_group(group);
            let mut cvs = [Cv::from_bytes([0; 32]); PAGES_PER_GROUP];
            let cvs = &mut cvs[..bytes.len().div_ceil(PAGE_SIZE)];
            page_cvs(work.geometry, PageIndex(pages.start), bytes, cvs);
            digests.extend(cvs.iter().map(|cv| PageDigest::from(*cv)));
        }
    }
}
