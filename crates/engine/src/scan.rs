//! Reading a volume in order and hashing it, holes unread, on several threads.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use lockstep_index::Index;
use lockstep_index::inherit::GroupRuns;
use lockstep_merkle::{
    Cv, EXTENT_SIZE, ExtentIndex, GROUP_SIZE, GROUPS_PER_EXTENT, Geometry, GroupIndex, GroupSet,
    group_cv, zero_group_cv,
};
use lockstep_volume::{BufferPool, IoBuffer, IoFailure, Volume};

use crate::limits::PREFETCH_EXTENTS;

/// Bytes that are read and hashed at once: through the page cache as much as
/// stays in a core's own cache between the two, from the medium as much as
/// keeps a disk busy.
const CACHED_PIECE: usize = 256 << 10;
const MEDIUM_PIECE: usize = EXTENT_SIZE;

/// Where the bytes of a scan come from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ScanFrom {
    /// Through the page cache.
    Cache,
    /// From the medium: what is in memory may never have reached it.
    Medium,
}

/// One scan of one volume.
pub(crate) struct Scan<'a> {
    pub(crate) volume: &'a dyn Volume,
    pub(crate) geometry: Geometry,
    pub(crate) from: ScanFrom,
    /// Counts bytes that were read; holes are not.
    pub(crate) bytes_read: &'a AtomicU64,
    /// Values that need not be measured.
    pub(crate) known: Option<Known<'a>>,
}

/// Values of an earlier scan, and the groups of which they hold no longer.
#[derive(Clone, Copy)]
pub(crate) struct Known<'a> {
    pub(crate) index: &'a Index,
    pub(crate) changed: &'a GroupRuns,
    /// Counts bytes whose values were taken over.
    pub(crate) bytes_inherited: &'a AtomicU64,
}

impl Scan<'_> {
    /// Hashes every extent on the threads of `pool`, calling `each` from them,
    /// nearly in order, until `stop` says so.
    ///
    /// # Errors
    /// The first failure of the volume; the other threads stop soon after.
    pub(crate) fn run(
        &self,
        pool: &rayon::ThreadPool,
        stop: &(dyn Fn() -> bool + Sync),
        each: &(dyn Fn(ExtentIndex, &[Cv]) + Sync),
    ) -> Result<(), IoFailure> {
        if self.known.is_none() {
            self.volume.advise_sequential();
        }
        let next = AtomicU64::new(0);
        let failed = AtomicU64::new(0);
        let buffers = BufferPool::new(EXTENT_SIZE, pool.current_num_threads());
        let results = pool.broadcast(|_| {
            let result = self.worker(&next, &buffers, each, &|| {
                stop() || failed.load(Ordering::Relaxed) != 0
            });
            if result.is_err() {
                failed.store(1, Ordering::Relaxed);
            }
            result
        });
        results.into_iter().collect()
    }

    fn worker(
        &self,
        next: &AtomicU64,
        buffers: &BufferPool,
        each: &(dyn Fn(ExtentIndex, &[Cv]) + Sync),
        stop: &dyn Fn() -> bool,
    ) -> Result<(), IoFailure> {
        let mut reader = PieceReader::new(self);
        let mut buffer = buffers.take();
        let piece = match self.from {
            ScanFrom::Cache => CACHED_PIECE,
            ScanFrom::Medium => MEDIUM_PIECE,
        };
        let mut cvs = [Cv::from_bytes([0; 32]); GROUPS_PER_EXTENT];
        loop {
            let extent = ExtentIndex(next.fetch_add(1, Ordering::Relaxed));
            if extent.0 >= self.geometry.extent_count() || stop() {
                return Ok(());
            }
            let cvs = &mut cvs[..self.geometry.groups_in(extent)];
            for run in self.to_measure(extent, cvs) {
                let first = self.geometry.groups_of(extent).start + run.start as u64;
                let step = piece / GROUP_SIZE;
                for (index, cvs) in cvs[run].chunks_mut(step).enumerate() {
                    let group = GroupIndex(first + (index * step) as u64);
                    self.hash(&mut reader, group, cvs, &mut buffer)?;
                }
            }
            each(extent, cvs);
        }
    }

    /// The groups of the extent that have to be measured; the values of the others are put in place.
    fn to_measure(&self, extent: ExtentIndex, cvs: &mut [Cv]) -> Vec<Range<usize>> {
        let Some(known) = self.known else {
            return std::iter::once(0..cvs.len()).collect();
        };
        let groups = self.geometry.groups_of(extent);
        let mut changed = GroupSet::EMPTY;
        for (bit, (group, cv)) in groups.map(GroupIndex).zip(cvs).enumerate() {
            if known.changed.contains(group) {
                changed.insert(bit);
                continue;
            }
            *cv = known.index.cv(group);
            let length = self.geometry.group_len(group) as u64;
            known.bytes_inherited.fetch_add(length, Ordering::Relaxed);
        }
        changed.runs().collect()
    }

    /// The chaining values of the groups from `first` on.
    fn hash(
        &self,
        reader: &mut PieceReader<'_>,
        first: GroupIndex,
        cvs: &mut [Cv],
        buffer: &mut IoBuffer,
    ) -> Result<(), IoFailure> {
        let last = GroupIndex(first.0 + cvs.len() as u64 - 1);
        let range = self.geometry.group_range(first).start..self.geometry.group_range(last).end;
        buffer.set_len(usize::try_from(range.end - range.start).unwrap_or(usize::MAX));
        let content = reader.read(&range, buffer)?;
        for ((group, cv), bytes) in (first.0..).zip(cvs).zip(buffer.chunks(GROUP_SIZE)) {
            *cv = match content {
                Content::Hole => zero_group_cv(self.geometry, GroupIndex(group)),
                Content::Data => group_cv(self.geometry, GroupIndex(group), bytes),
            };
        }
        Ok(())
    }
}

enum Content {
    Hole,
    Data,
}

/// Reads pieces in rising order, remembering where the next data is.
struct PieceReader<'a> {
    scan: &'a Scan<'a>,
    data: Range<u64>,
    ended: bool,
}

impl<'a> PieceReader<'a> {
    fn new(scan: &'a Scan<'a>) -> PieceReader<'a> {
        PieceReader {
            scan,
            data: 0..0,
            ended: false,
        }
    }

    fn read(&mut self, range: &Range<u64>, buffer: &mut [u8]) -> Result<Content, IoFailure> {
        let mut data = self.next_data(range.start)?;
        if data.start >= range.end {
            return Ok(Content::Hole);
        }
        if data.start > range.start || data.end < range.end {
            buffer.fill(0);
        }
        while data.start < range.end {
            let part = data.start.max(range.start)..data.end.min(range.end);
            self.read_part(&part, within(buffer, range, &part))?;
            if part.end == range.end {
                break;
            }
            data = self.next_data(part.end)?;
        }
        Ok(Content::Data)
    }

    /// The data range that holds `from`, or the next one; past every volume
    /// when only a hole is left.
    fn next_data(&mut self, from: u64) -> Result<Range<u64>, IoFailure> {
        if !self.ended && self.data.end <= from {
            match self.scan.volume.next_data(from)? {
                Some(range) => self.data = range,
                None => self.ended = true,
            }
        }
        if self.ended {
            return Ok(u64::MAX..u64::MAX);
        }
        Ok(self.data.start.max(from)..self.data.end)
    }

    fn read_part(&self, part: &Range<u64>, buffer: &mut [u8]) -> Result<(), IoFailure> {
        let scan = self.scan;
        scan.bytes_read
            .fetch_add(part.end - part.start, Ordering::Relaxed);
        match scan.from {
            ScanFrom::Medium => scan.volume.read_back(part.start, buffer),
            ScanFrom::Cache => {
                if scan.volume.read_if_cached(part.start, buffer)? {
                    return Ok(());
                }
                self.prefetch(part.start);
                scan.volume.read_at(part.start, buffer)
            }
        }
    }

    /// Each piece has the one a few extents on fetched.
    fn prefetch(&self, from: u64) {
        if self.scan.known.is_some() {
            return;
        }
        let ahead = from + PREFETCH_EXTENTS * EXTENT_SIZE as u64;
        let end = (ahead + CACHED_PIECE as u64).min(self.scan.geometry.size());
        self.scan.volume.will_need(ahead.min(end)..end);
    }
}

/// The part of `buffer`, which holds `range`, that holds `part`.
fn within<'b>(buffer: &'b mut [u8], range: &Range<u64>, part: &Range<u64>) -> &'b mut [u8] {
    let start = usize::try_from(part.start - range.start).unwrap_or(usize::MAX);
    let end = usize::try_from(part.end - range.start).unwrap_or(usize::MAX);
    &mut buffer[start..end]
}
