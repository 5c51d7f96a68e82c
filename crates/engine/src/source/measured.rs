//! Packing as the benchmarks measure it; no run comes here.

use std::time::Duration;

use lockstep_merkle::{ExtentIndex, GROUPS_PER_EXTENT, GroupSet, PAGES_PER_EXTENT, PageSet};
use lockstep_protocol::Want;
use lockstep_transport::{Bulk, Via};
use lockstep_volume::IoBuffer;

use super::ship::{Lacking, Packer, Shipment};
use crate::request::Compression;

/// Times told to a packer until it believes that the link is slow.
const ROUNDS: u32 = 64;

/// What packs the extents for one target over a wire, by the default choice.
pub struct MeasuredPacker(Packer);

impl MeasuredPacker {
    /// One that has seen nothing yet.
    ///
    /// # Errors
    /// If there is no memory for the compressor.
    pub fn new() -> std::io::Result<MeasuredPacker> {
        Packer::new(Compression::Auto, Via::Quic).map(MeasuredPacker)
    }

    /// All of its time so far went into waiting for the link.
    pub fn waited_for_the_link(&mut self) {
        let time = Duration::from_millis(1);
        (0..ROUNDS).for_each(|_| self.0.waited(time, time));
    }

    /// A frame of a whole extent of pages that differ.
    pub fn difference(&mut self, pages: IoBuffer) -> Bulk {
        self.pack(pages, Shipment::Difference)
    }

    /// A frame of an extent of a target that has nothing.
    pub fn full_copy(&mut self, pages: IoBuffer) -> Bulk {
        self.pack(pages, Shipment::FullCopy)
    }

    fn pack(&mut self, pages: IoBuffer, shipment: Shipment) -> Bulk {
        let want = Want {
            extent: ExtentIndex(0),
            whole: GroupSet::all(GROUPS_PER_EXTENT),
            blank: GroupSet::EMPTY,
            paged: GroupSet::EMPTY,
            digests: Vec::new(),
        };
        let lacking = Lacking {
            data: PageSet::all(PAGES_PER_EXTENT),
            zero: PageSet::EMPTY,
        };
        self.0.pack(&want, pages, lacking, shipment)
    }
}
