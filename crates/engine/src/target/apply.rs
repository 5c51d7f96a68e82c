//! Makes the target's groups what the source promised: pages are put in
//! place in memory first, and written only when the group then has its
//! promised chaining value.

use std::ops::Range;

use crossbeam_channel::Sender;
use lockstep_merkle::{
    Cv, EXTENT_SIZE, ExtentIndex, GROUP_SIZE, GroupIndex, GroupSet, PAGE_SIZE, PAGES_PER_EXTENT,
    PageSet, is_zero, page_cvs_in_extent,
};
use lockstep_protocol::limits::DATA_HEAD_LEN;
use lockstep_protocol::{
    Applied, ApplyOrder, DataHead, Encoding, Failure, FailureKind, Plan, WantMode,
};
use lockstep_transport::{Bulk, BulkReceiver};
use lockstep_undo::Ticket;

use super::stage::{self, Staged, applied};
use super::work::Work;
use super::written::{Written, bytes_of, group_value, hash_values, pages_of, short_gaps};
use crate::failures::sentence;
use crate::limits::LINK_POLL;
use crate::pages::PageTable;

/// Applies arriving data until the run is over.
///
/// Where what is overwritten is kept in a log, writing is left to the threads
/// behind `staged`.
pub(super) fn apply(work: &Work<'_>, bulk: &BulkReceiver, staged: Option<Sender<Staged>>) {
    let mut applier = match Applier::new(work, staged) {
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
    pages: Vec<u8>,
    staged: Option<Sender<Staged>>,
    /// What the pages that were sent held before, each at its place in the extent.
    old: Vec<u8>,
}

impl<'a, 'b> Applier<'a, 'b> {
    fn new(work: &'a Work<'b>, staged: Option<Sender<Staged>>) -> Result<Applier<'a, 'b>, Failure> {
        let unpacker = zstd::bulk::Decompressor::new()
            .map_err(|error| Failure::new(FailureKind::Internal, error.to_string()))?;
        Ok(Applier {
            work,
            unpacker,
            packed: vec![0; EXTENT_SIZE],
            pages: vec![0; EXTENT_SIZE],
            staged,
            old: Vec::new(),
        })
    }

    fn take(&mut self, frame: &Bulk) -> Result<(), Failure> {
        let head = head(frame)?;
        let order = self
            .work
            .update(|session| session.arrived(&head))
            .map_err(|violation| broke(&sentence(&violation)))?;
        let Some(mut image) = self.work.buffer() else {
            return Ok(());
        };
        image.set_len(self.work.geometry.extent_len(head.extent));
        let keeps = self.work.keep.may_log();
        let known = self.known(order);
        // Without the values of the pages, the groups are read as they are anyway.
        let remembers = keeps && known.is_none();
        if known.is_none() {
            self.read_own(&head, order, &mut image, remembers)?;
        }
        let data = head
            .data
            .union(self.bridges(&head, order, known, &mut image)?);
        if remembers {
            self.remember(&head, &image);
        }
        self.put_in_place(frame, &head, &mut image)?;
        let mut cvs = [Cv::from_bytes([0; 32]); PAGES_PER_EXTENT];
        let cvs = &mut cvs[..self.work.geometry.pages_in(head.extent)];
        self.measure(&head, order, known, &image, cvs);
        // Made from the values that the groups are judged by: if memory changes from here on, the
        // medium does not hold what it should.
        let pages = data.union(head.zero);
        let written = Written {
            groups: order.groups,
            pages,
            hash: hash_values(pages, cvs),
        };
        if !self.fits(&head, order, cvs) {
            return applied(self.work, head.extent, Applied::Unfit);
        }
        self.work.begin_overwrite()?;
        let ticket = match self.work.keep.is_logging() {
            true => self.keep_old(&head, remembers)?,
            false => None,
        };
        let staged = Staged {
            head,
            data,
            written,
            image,
            ticket,
        };
        match (&self.staged, ticket) {
            (Some(stage), Some(_)) => {
                // The run is over if nobody takes it.
                let _ = stage.send(staged);
                Ok(())
            }
            (None, Some(ticket)) => {
                self.work.keep.commit(ticket)?;
                stage::write(self.work, staged)
            }
            (_, None) => stage::write(self.work, staged),
        }
    }

    /// Copies what the pages to be written hold, before they are put in place.
    fn remember(&mut self, head: &DataHead, image: &[u8]) {
        self.old.resize(EXTENT_SIZE, 0);
        for run in head.data.union(head.zero).runs() {
            let range = self.bytes(head.extent, &run);
            self.old[range.clone()].copy_from_slice(&image[range]);
        }
    }

    /// Appends what is to be overwritten to the undo's log. What was not
    /// remembered, since nobody knew yet that there would be a log, is read.
    fn keep_old(&mut self, head: &DataHead, remembered: bool) -> Result<Option<Ticket>, Failure> {
        let work = self.work;
        let start = work.geometry.extent_range(head.extent).start;
        let mut missing: Vec<Range<u64>> = Vec::new();
        for run in head.data.union(head.zero).runs() {
            let range = self.bytes(head.extent, &run);
            let range = start + range.start as u64..start + range.end as u64;
            missing.extend(work.keep.missing(range));
        }
        let place = |part: &Range<u64>| (part.start - start) as usize..(part.end - start) as usize;
        if !remembered {
            self.old.resize(EXTENT_SIZE, 0);
            for part in &missing {
                work.volume
                    .read_at(part.start, &mut self.old[place(part)])
                    .map_err(|error| work.disk_failed(&error))?;
            }
        }
        let parts: Vec<(u64, &[u8])> = missing
            .iter()
            .map(|part| (part.start, &self.old[place(part)]))
            .collect();
        work.keep.append(&parts)
    }

    /// The groups as they are here, where the frame does not hold all of them,
    /// or where what it overwrites is to be kept.
    fn read_own(
        &self,
        head: &DataHead,
        order: ApplyOrder,
        image: &mut [u8],
        keeps: bool,
    ) -> Result<(), Failure> {
        let work = self.work;
        let sent = head.data.union(head.zero);
        let extent = work.geometry.extent_range(head.extent);
        for group in order.groups.iter() {
            let pages = group_pages(group, image.len());
            if pages.is_subset(sent) && !keeps {
                continue;
            }
            let range = group_bytes(group, image.len());
            let offset = extent.start + range.start as u64;
            let bytes = &mut image[range];
            if keeps || has_own_bytes(work.plan, order.mode) {
                work.read(offset, bytes)?;
            } else {
                bytes.fill(0);
            }
        }
        Ok(())
    }

    /// The values of the own pages, where those are known and count.
    fn known(&self, order: ApplyOrder) -> Option<&'a PageTable> {
        let counts = has_own_bytes(self.work.plan, order.mode);
        self.work.values.table().filter(|_| counts)
    }

    /// Own pages that are written along, in `image` too: they hold what they should, and more than
    /// zeros, which may be a hole. Nothing is read from the disk for them alone.
    fn bridges(
        &self,
        head: &DataHead,
        order: ApplyOrder,
        known: Option<&PageTable>,
        image: &mut [u8],
    ) -> Result<PageSet, Failure> {
        let mut bridges = PageSet::EMPTY;
        if !has_own_bytes(self.work.plan, order.mode) {
            return Ok(bridges);
        }
        let own = pages_of(order.groups, image.len());
        let extent = self.work.geometry.extent_range(head.extent);
        for gap in short_gaps(head.data) {
            if !gap
                .clone()
                .all(|page| own.contains(page) && !head.zero.contains(page))
            {
                continue;
            }
            let range = self.bytes(head.extent, &gap);
            let offset = extent.start + range.start as u64;
            let bytes = &mut image[range];
            let is_there = known.is_none()
                || (self.work.volume)
                    .read_if_cached(offset, bytes)
                    .map_err(|error| self.work.disk_failed(&error))?;
            if is_there && !bytes.chunks(PAGE_SIZE).any(is_zero) {
                bridges.insert_range(gap);
            }
        }
        Ok(bridges)
    }

    /// The values of the pages of the order's groups, as they are to be.
    fn measure(
        &self,
        head: &DataHead,
        order: ApplyOrder,
        known: Option<&PageTable>,
        image: &[u8],
        cvs: &mut [Cv],
    ) {
        let geometry = self.work.geometry;
        let pages = match known {
            Some(table) => {
                table.extent(geometry, head.extent, cvs);
                head.data.union(head.zero)
            }
            None => pages_of(order.groups, image.len()),
        };
        page_cvs_in_extent(geometry, head.extent, pages, image, cvs);
    }

    /// Overlays the extent's image with what was sent.
    fn put_in_place(
        &mut self,
        frame: &Bulk,
        head: &DataHead,
        image: &mut [u8],
    ) -> Result<(), Failure> {
        let length: usize = head
            .data
            .runs()
            .map(|run| self.bytes(head.extent, &run).len())
            .sum();
        self.unpack(frame, head, length)?;
        let mut at = 0;
        for run in head.data.runs() {
            let place = &mut image[bytes_of(self.work.geometry, head.extent, &run)];
            match head.encoding {
                Encoding::Raw => {
                    frame.copy_to(DATA_HEAD_LEN + at, place);
                }
                Encoding::Zstd => place.copy_from_slice(&self.pages[at..at + place.len()]),
            }
            at += place.len();
        }
        for run in head.zero.runs() {
            image[self.bytes(head.extent, &run)].fill(0);
        }
        Ok(())
    }

    /// The pages of a packed frame, one after the other, exactly as many bytes
    /// as named; pages that are not packed stay where they are.
    fn unpack(&mut self, frame: &Bulk, head: &DataHead, length: usize) -> Result<(), Failure> {
        let body = frame.len() - DATA_HEAD_LEN;
        match head.encoding {
            Encoding::Raw if body == length => Ok(()),
            Encoding::Raw => Err(broke("pages of another length than named")),
            Encoding::Zstd => {
                // A frame that is longer than an extent is not worth packing.
                let packed = self
                    .packed
                    .get_mut(..body)
                    .ok_or_else(|| broke("packed pages that are longer than plain ones"))?;
                frame.copy_to(DATA_HEAD_LEN, packed);
                let unpacked = self
                    .unpacker
                    .decompress_to_buffer(packed, &mut self.pages[..length])
                    .map_err(|error| broke(&format!("pages that do not unpack: {error}")))?;
                if unpacked == length {
                    Ok(())
                } else {
                    Err(broke("pages of another length than named"))
                }
            }
        }
    }

    fn bytes(&self, extent: ExtentIndex, pages: &Range<usize>) -> Range<usize> {
        bytes_of(self.work.geometry, extent, pages)
    }

    /// Whether every group would have its promised chaining value.
    fn fits(&self, head: &DataHead, order: ApplyOrder, cvs: &[Cv]) -> bool {
        let geometry = self.work.geometry;
        let first = geometry.groups_of(head.extent).start;
        order.groups.iter().all(|group| {
            let promised = self.work.expected.cv(GroupIndex(first + group as u64));
            group_value(geometry, head.extent, group, cvs) == promised
        })
    }
}

/// Whether a group that is asked for has bytes of the target's that count.
fn has_own_bytes(plan: Plan, mode: WantMode) -> bool {
    mode == WantMode::Differing && plan != Plan::Create
}

fn group_bytes(group: usize, extent_len: usize) -> Range<usize> {
    group * GROUP_SIZE..((group + 1) * GROUP_SIZE).min(extent_len)
}

fn group_pages(group: usize, extent_len: usize) -> PageSet {
    let mut one = GroupSet::EMPTY;
    one.insert(group);
    pages_of(one, extent_len)
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
