//! A target's volume: what programs see, what the medium holds, and what gets lost in between.

use std::ops::Range;

use crate::random::Random;

/// Chances in percent that one write goes wrong on its way to the medium, and how many may.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct DiskFaults {
    pub(crate) lost: usize,
    pub(crate) torn: usize,
    pub(crate) flipped: usize,
    pub(crate) at_most: usize,
}

pub(crate) struct Disk {
    cache: Vec<u8>,
    medium: Vec<u8>,
    dirty: Vec<Range<usize>>,
    faults: DiskFaults,
    pub(crate) faults_done: usize,
    pub(crate) writes: u64,
}

impl Disk {
    pub(crate) fn new(bytes: Vec<u8>, faults: DiskFaults) -> Disk {
        Disk {
            cache: bytes.clone(),
            medium: bytes,
            dirty: Vec::new(),
            faults,
            faults_done: 0,
            writes: 0,
        }
    }

    pub(crate) fn read(&self, range: Range<usize>) -> &[u8] {
        &self.cache[range]
    }

    pub(crate) fn write(&mut self, range: Range<usize>, bytes: &[u8]) {
        self.cache[range.clone()].copy_from_slice(bytes);
        self.dirty.push(range);
        self.writes += 1;
    }

    /// What a flush that begins now will make durable.
    pub(crate) fn begin_flush(&mut self) -> Vec<Range<usize>> {
        std::mem::take(&mut self.dirty)
    }

    pub(crate) fn end_flush(&mut self, random: &mut Random, ranges: Vec<Range<usize>>) {
        for range in ranges {
            self.store(random, range);
        }
    }

    /// From the medium; what the cache held of it is forgotten.
    pub(crate) fn read_back(&mut self, range: Range<usize>) -> &[u8] {
        self.cache[range.clone()].copy_from_slice(&self.medium[range.clone()]);
        &self.medium[range]
    }

    /// The machine stops: of what was not flushed anything may be on the medium, whole or torn.
    pub(crate) fn crash(mut self, random: &mut Random, flushing: Vec<Range<usize>>) -> Vec<u8> {
        for range in self.begin_flush().into_iter().chain(flushing) {
            let kept = random.below(range.len() + 1);
            let kept = if random.percent(50) {
                range.len()
            } else {
                kept
            };
            let part = range.start..range.start + kept;
            self.medium[part.clone()].copy_from_slice(&self.cache[part]);
        }
        self.medium
    }

    /// The program stops, the machine goes on: all that was written is there.
    pub(crate) fn stop(self) -> Vec<u8> {
        self.cache
    }

    pub(crate) fn medium(&self) -> &[u8] {
        &self.medium
    }

    fn store(&mut self, random: &mut Random, range: Range<usize>) {
        let mut range = range;
        if self.faults_done < self.faults.at_most {
            if random.percent(self.faults.lost) {
                self.faults_done += 1;
                return;
            }
            if random.percent(self.faults.torn) {
                self.faults_done += 1;
                range.end = range.start + random.below(range.len());
            }
        }
        self.medium[range.clone()].copy_from_slice(&self.cache[range.clone()]);
        let may_flip = self.faults_done < self.faults.at_most && !range.is_empty();
        if may_flip && random.percent(self.faults.flipped) {
            self.faults_done += 1;
            let at = range.start + random.below(range.len());
            self.medium[at] ^= 1 << random.below(8);
        }
    }
}
