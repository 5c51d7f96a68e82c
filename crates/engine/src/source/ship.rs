//! Answers a want: which pages differ, and their bytes packed for the link.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use lockstep_merkle::{
    EXTENT_SIZE, Geometry, PAGES_PER_GROUP, PageDigest, PageIndex, PageSeed, PageSet, is_zero,
    page_digest,
};
use lockstep_protocol::{DataHead, Encoding, Want};
use lockstep_transport::{Bulk, Via};
use lockstep_volume::{IoBuffer, IoFailure, Volume};

use crate::pace::ReadGate;
use crate::pages::PageTable;
use crate::request::Compression;

/// The level while the link waits for the packing: hardly dearer than copying.
pub const FAST_LEVEL: i32 = -3;
/// The level while the packing waits for the link.
pub const SMALL_LEVEL: i32 = 1;
/// Of the time of the last frames, the part spent waiting for the link, in
/// 1/256: below the first, a full copy is not packed, as sending it as it is
/// costs the processors less; above the second, the link is all
/// that holds the run back, and smaller is better than faster.
const PACKS_WHOLE: u64 = 128;
const PACKS_SMALL: u64 = 208;
/// Packed pages must be this much smaller to be worth unpacking.
const WORTH_NUMERATOR: usize = 15;
const WORTH_DENOMINATOR: usize = 16;
/// Most extents shipped as they are before packing is tried again.
const MAX_SKIPS: u32 = 16;

/// The pages of an extent that a target lacks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Lacking {
    pub(crate) data: PageSet,
    pub(crate) zero: PageSet,
}

impl Lacking {
    /// Bytes of these pages, the volume's last at its true length.
    pub(crate) fn bytes(&self, geometry: Geometry, want: &Want) -> u64 {
        self.data
            .union(self.zero)
            .iter()
            .map(|page| geometry.page_range_in_extent(want.extent, page).len() as u64)
            .sum()
    }
}

/// What the target's page digests are compared with.
#[derive(Clone, Copy)]
pub(crate) enum Digests<'a> {
    /// The pages' own, as they are read.
    Seeded(PageSeed),
    /// The values that the scan kept: what is equal by them is not read at all.
    Kept(&'a PageTable),
}

/// Reads the source for one target.
pub(crate) struct Reader<'a> {
    pub(crate) volume: &'a dyn Volume,
    pub(crate) geometry: Geometry,
    pub(crate) digests: Digests<'a>,
    pub(crate) bytes_read: &'a AtomicU64,
    /// What memory does not answer passes this first, unless `stop` says so.
    pub(crate) gate: ReadGate<'a>,
    pub(crate) stop: &'a dyn Fn() -> bool,
}

impl Reader<'_> {
    /// Which pages of the extent the target lacks; the buffer holds those with data, one after the
    /// other.
    pub(crate) fn lacking(
        &self,
        want: &Want,
        mut buffer: IoBuffer,
    ) -> Result<(IoBuffer, Lacking), IoFailure> {
        buffer.set_len(self.geometry.extent_len(want.extent));
        let mut wanted = self.wanted(want);
        wanted.retain(|(page, how)| !self.is_known_equal(want, *page, *how));
        let mut reads = PageSet::EMPTY;
        wanted.iter().for_each(|(page, _)| reads.insert(*page));
        let mut end = 0;
        for run in reads.runs() {
            end += self.read_pages(want, run, &mut buffer[end..])?;
        }
        let mut lacking = Lacking {
            data: PageSet::default(),
            zero: PageSet::default(),
        };
        let (mut at, mut kept) = (0, 0);
        for (page, how) in wanted {
            let next = at + self.geometry.page_range_in_extent(want.extent, page).len();
            let bytes = &buffer[at..next];
            match (self.is_equal(how, bytes), is_zero(bytes)) {
                (true, _) => {}
                (false, true) => lacking.zero.insert(page),
                (false, false) => {
                    lacking.data.insert(page);
                    if kept < at {
                        buffer.copy_within(at..next, kept);
                    }
                    kept += next - at;
                }
            }
            at = next;
        }
        buffer.set_len(kept);
        Ok((buffer, lacking))
    }

    /// The pages of the wanted groups in order, each with how it is compared.
    fn wanted(&self, want: &Want) -> Vec<(usize, How)> {
        let mut digests = want.digests.iter().copied();
        let pages = 0..self.geometry.pages_in(want.extent);
        let how = |page: usize| {
            let group = page / PAGES_PER_GROUP;
            if want.whole.contains(group) {
                Some((page, How::Whole))
            } else if want.blank.contains(group) {
                Some((page, How::Blank))
            } else if want.paged.contains(group) {
                Some((page, digests.next().map_or(How::Whole, How::Paged)))
            } else {
                None
            }
        };
        pages.filter_map(how).collect()
    }

    /// Whether the target has the page, by what is known without reading it.
    fn is_known_equal(&self, want: &Want, page: usize, how: How) -> bool {
        let (Digests::Kept(table), How::Paged(digest)) = (self.digests, how) else {
            return false;
        };
        let first = self.geometry.pages_of_extent(want.extent).start;
        digest == table.cv(PageIndex(first + page as u64)).into()
    }

    fn is_equal(&self, how: How, bytes: &[u8]) -> bool {
        match (how, self.digests) {
            (How::Blank, _) => is_zero(bytes),
            (How::Paged(digest), Digests::Seeded(seed)) => digest == page_digest(seed, bytes),
            // One that was equal would not have been read.
            (How::Paged(_), Digests::Kept(_)) | (How::Whole, _) => false,
        }
    }

    /// Reads a run of pages to the front of `buffer`; returns their length.
    fn read_pages(
        &self,
        want: &Want,
        pages: std::ops::Range<usize>,
        buffer: &mut [u8],
    ) -> Result<usize, IoFailure> {
        let page = |page| self.geometry.page_range_in_extent(want.extent, page);
        let range = page(pages.start).start..page(pages.end - 1).end;
        let offset = self.geometry.extent_range(want.extent).start + range.start as u64;
        let part = &mut buffer[..range.len()];
        if !self.volume.read_if_cached(offset, part)? {
            self.gate.pass(part.len(), self.stop);
            self.bytes_read
                .fetch_add(part.len() as u64, Ordering::Relaxed);
            self.volume.read_at(offset, part)?;
        }
        Ok(range.len())
    }
}

/// How a page is compared with what the target has.
#[derive(Clone, Copy)]
enum How {
    /// Not at all: it is sent.
    Whole,
    /// The target has zeros.
    Blank,
    /// By its digest.
    Paged(PageDigest),
}

/// What a target is sent in all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Shipment {
    /// What differs: mostly pages of a database, which shrink well.
    Difference,
    /// All there is.
    FullCopy,
}

/// Packs pages, and learns what packing pays: nothing on a link in memory, a
/// fast level where the processor holds the run back, a better one where the
/// link does, nothing for data that does not shrink.
pub(crate) struct Packer {
    adapts: bool,
    fast: Option<zstd::bulk::Compressor<'static>>,
    small: Option<zstd::bulk::Compressor<'static>>,
    scratch: Vec<u8>,
    skips: u32,
    penalty: u32,
    waits: u64,
}

impl Packer {
    pub(crate) fn new(compression: Compression, via: Via) -> std::io::Result<Packer> {
        let level = zstd::bulk::Compressor::new;
        let (fast, small) = match compression {
            Compression::Off => (None, None),
            Compression::Auto if via == Via::Memory => (None, None),
            Compression::Auto => (Some(level(FAST_LEVEL)?), Some(level(SMALL_LEVEL)?)),
            Compression::Level(chosen) => (Some(level(chosen)?), None),
        };
        Ok(Packer {
            adapts: compression == Compression::Auto,
            fast,
            small,
            scratch: vec![0; EXTENT_SIZE],
            skips: 0,
            penalty: 0,
            waits: 0,
        })
    }

    /// Of the time since the last frame, this much was spent on the link.
    pub(crate) fn waited(&mut self, waiting: Duration, whole: Duration) {
        let part = waiting.as_micros() * 256 / whole.as_micros().max(1);
        let part = u64::try_from(part).unwrap_or(256).min(256);
        self.waits = (self.waits * 7 + part) / 8;
    }

    /// A data frame with the lacking pages, those with data in `buffer`.
    pub(crate) fn pack(
        &mut self,
        want: &Want,
        buffer: IoBuffer,
        lacking: Lacking,
        shipment: Shipment,
    ) -> Bulk {
        let packed = match self.sends_as_it_is(shipment) {
            true => None,
            false => self.compress(&buffer),
        };
        let (encoding, body) = match packed {
            Some(bytes) => (Encoding::Zstd, bytes),
            None => (Encoding::Raw, Bytes::from_owner(buffer)),
        };
        let head = DataHead {
            extent: want.extent,
            data: lacking.data,
            zero: lacking.zero,
            encoding,
        };
        Bulk::new(Bytes::from(head.encode()), body)
    }

    /// A full copy on a link that keeps up.
    fn sends_as_it_is(&self, shipment: Shipment) -> bool {
        shipment == Shipment::FullCopy && self.adapts && self.waits < PACKS_WHOLE
    }

    fn compress(&mut self, pages: &[u8]) -> Option<Bytes> {
        if pages.is_empty() {
            return None;
        }
        let compressor = match self.small.as_mut() {
            Some(small) if self.waits >= PACKS_SMALL => small,
            _ => self.fast.as_mut()?,
        };
        if self.skips > 0 {
            self.skips -= 1;
            return None;
        }
        // Room only for what is worth it: zstd stops when it cannot succeed.
        let room = pages.len() * WORTH_NUMERATOR / WORTH_DENOMINATOR;
        match compressor.compress_to_buffer(pages, &mut self.scratch[..room]) {
            Ok(length) => {
                self.penalty = 0;
                Some(Bytes::copy_from_slice(&self.scratch[..length]))
            }
            Err(_) => {
                self.back_off();
                None
            }
        }
    }

    /// Data that does not shrink mostly comes in stretches.
    fn back_off(&mut self) {
        if self.adapts {
            self.penalty = (self.penalty * 2).clamp(1, MAX_SKIPS);
            self.skips = self.penalty;
        }
    }
}
