//! Makes the target's groups what the source promised: pages are put in
//! place in memory first, and written only when the group then has its
//! promised chaining value.

use lockstep_merkle::{
    ExtentIndex, GROUP_SIZE, GroupIndex, GroupSet, PAGES_PER_GROUP, PageSet, group_cv,
};
use lockstep_protocol::limits::DATA_HEAD_LEN;
use lockstep_protocol::{
    Applied, ApplyOrder, DataHead, Encoding, Failure, FailureKind, Plan, WantMode,
};
use lockstep_transport::{Bulk, BulkReceiver};
use lockstep_volume::IoBuffer;

use super::work::Work;
use crate::failures::sentence;
use crate::limits::LINK_POLL;

/// Applies arriving data until the run is over.
pub(super) fn apply(work: &Work<'_>, bulk: &BulkReceiver) {
    let mut applier = match Applier::new(work) {
        Ok(applier) => applier,
        Err(failure) => return work.stop(failure),
    };
    while !work.is_over() {
        match bulk.recv_timeout(LINK_POLL) {
            Ok(Some(frame)) => {
                if let Err(failure) = applier.take(&frame) {
                    return work.stop(failure);
                }
            }
            Ok(None) => {}
            // The thread that listens on the control lane says why.
            Err(_) => return,
        }
    }
}

struct Applier<'a, 'b> {
    work: &'a Work<'b>,
    unpacker: zstd::bulk::Decompressor<'static>,
    packed: Vec<u8>,
    group: Vec<u8>,
}

impl<'a, 'b> Applier<'a, 'b> {
    fn new(work: &'a Work<'b>) -> Result<Applier<'a, 'b>, Failure> {
        let unpacker = zstd::bulk::Decompressor::new()
            .map_err(|error| Failure::new(FailureKind::Internal, error.to_string()))?;
        Ok(Applier {
            work,
            unpacker,
            packed: Vec::new(),
            group: vec![0; GROUP_SIZE],
        })
    }

    fn take(&mut self, frame: &Bulk) -> Result<(), Failure> {
        let head = head(frame)?;
        let order = self
            .work
            .update(|session| session.arrived(&head))
            .map_err(|violation| broke(&sentence(&violation)))?;
        let Some(mut pages) = self.work.buffer() else {
            return Ok(());
        };
        self.unpack(frame, &head, &mut pages)?;
        let applied = if self.fits(&head, order, &pages)? {
            let bytes = self.write(&head, &pages)?;
            Applied::Written { bytes }
        } else {
            Applied::Unfit
        };
        self.work
            .update(|session| session.applied(head.extent, applied))
            .map_err(|error| {
                Failure::new(
                    FailureKind::Mismatch,
                    format!("{error}: the source does not keep to what it hashed"),
                )
            })
    }

    /// The pages of the frame, one after the other, exactly as many as named.
    fn unpack(
        &mut self,
        frame: &Bulk,
        head: &DataHead,
        pages: &mut IoBuffer,
    ) -> Result<(), Failure> {
        let length = self.length(head.extent, head.data);
        pages.set_len(length);
        let body = frame.len() - DATA_HEAD_LEN;
        match head.encoding {
            Encoding::Raw if body == length => {
                frame.copy_to(DATA_HEAD_LEN, pages);
                Ok(())
            }
            Encoding::Raw => Err(broke("pages of another length than named")),
            Encoding::Zstd => {
                self.packed.resize(body, 0);
                frame.copy_to(DATA_HEAD_LEN, &mut self.packed);
                let unpacked = self
                    .unpacker
                    .decompress_to_buffer(&self.packed, &mut pages[..])
                    .map_err(|error| broke(&format!("pages that do not unpack: {error}")))?;
                if unpacked == length {
                    Ok(())
                } else {
                    Err(broke("pages of another length than named"))
                }
            }
        }
    }

    fn length(&self, extent: ExtentIndex, set: PageSet) -> usize {
        set.runs().map(|run| self.bytes(extent, &run).len()).sum()
    }

    /// Where a run of pages lies in its extent.
    fn bytes(&self, extent: ExtentIndex, pages: &std::ops::Range<usize>) -> std::ops::Range<usize> {
        let geometry = self.work.geometry;
        let start = geometry.page_range_in_extent(extent, pages.start).start;
        let end = geometry.page_range_in_extent(extent, pages.end - 1).end;
        start..end
    }

    /// Whether every group would have its promised chaining value.
    fn fits(&mut self, head: &DataHead, order: ApplyOrder, pages: &[u8]) -> Result<bool, Failure> {
        let geometry = self.work.geometry;
        let first = geometry.groups_of(head.extent).start;
        let mut at = 0;
        for group in order.groups.iter() {
            let index = GroupIndex(first + group as u64);
            let length = geometry.group_len(index);
            let sent = pages_of(head.data, group);
            let sent_length = self.length(head.extent, sent);
            let part = &pages[at..at + sent_length];
            at += sent_length;
            let cv = if sent_length == length {
                group_cv(geometry, index, part)
            } else {
                self.assemble(head, order.mode, group, index, part)?;
                group_cv(geometry, index, &self.group[..length])
            };
            if cv != self.work.expected.cv(index) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// What the group will hold: its own pages, overlaid with those sent.
    fn assemble(
        &mut self,
        head: &DataHead,
        mode: WantMode,
        group: usize,
        index: GroupIndex,
        mut sent: &[u8],
    ) -> Result<(), Failure> {
        let geometry = self.work.geometry;
        let length = geometry.group_len(index);
        match mode {
            WantMode::Whole => self.group[..length].fill(0),
            WantMode::Differing if self.work.plan == Plan::Create => {
                self.group[..length].fill(0);
            }
            WantMode::Differing => self
                .work
                .volume
                .read_at(geometry.group_range(index).start, &mut self.group[..length])
                .map_err(|error| self.work.disk_failed(&error))?,
        }
        let base = group * GROUP_SIZE;
        for page in pages_of(head.data, group).iter() {
            let range = geometry.page_range_in_extent(head.extent, page);
            let (bytes, rest) = sent.split_at(range.len());
            self.group[range.start - base..range.end - base].copy_from_slice(bytes);
            sent = rest;
        }
        for page in pages_of(head.zero, group).iter() {
            let range = geometry.page_range_in_extent(head.extent, page);
            self.group[range.start - base..range.end - base].fill(0);
        }
        Ok(())
    }

    /// Writes and zeroes; returns the bytes made equal.
    fn write(&self, head: &DataHead, pages: &[u8]) -> Result<u64, Failure> {
        self.work.begin_overwrite()?;
        let volume = &self.work.volume;
        let extent = self.work.geometry.extent_range(head.extent);
        let mut at = 0;
        let mut written = 0;
        for run in head.data.runs() {
            let range = self.bytes(head.extent, &run);
            let part = &pages[at..at + range.len()];
            at += range.len();
            volume
                .write_at(extent.start + range.start as u64, part)
                .map_err(|error| self.work.disk_failed(&error))?;
            written += range.len() as u64;
        }
        for run in head.zero.runs() {
            let range = self.bytes(head.extent, &run);
            let start = extent.start + range.start as u64;
            volume
                .zero(start..start + range.len() as u64)
                .map_err(|error| self.work.disk_failed(&error))?;
            written += range.len() as u64;
        }
        volume.start_writeback(extent);
        Ok(written)
    }
}

/// The pages of `set` that are in this group of its extent.
fn pages_of(set: PageSet, group: usize) -> PageSet {
    let mut whole = GroupSet::default();
    whole.insert(group);
    let mut pages = PageSet::default();
    let first = group * PAGES_PER_GROUP;
    set.iter()
        .filter(|page| (first..first + PAGES_PER_GROUP).contains(page))
        .for_each(|page| pages.insert(page));
    pages
}

fn head(frame: &Bulk) -> Result<DataHead, Failure> {
    if frame.len() < DATA_HEAD_LEN {
        return Err(broke("a data frame without a head"));
    }
    let mut bytes = [0; DATA_HEAD_LEN];
    frame.copy_to(0, &mut bytes);
    DataHead::decode(&bytes).map_err(|malformed| broke(&sentence(&malformed)))
}

fn broke(what: &str) -> Failure {
    Failure::new(
        FailureKind::Internal,
        format!("the source broke the protocol: {what}"),
    )
}
