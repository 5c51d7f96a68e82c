//! Reading a volume in order and hashing it, holes unread, on several threads.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use lockstep_index::Index;
use lockstep_index::inherit::PageRuns;
use lockstep_merkle::{
    Cv, EXTENT_SIZE, ExtentIndex, GROUP_SIZE, GROUPS_PER_EXTENT, Geometry, GroupIndex, PAGE_SIZE,
    PAGES_PER_EXTENT, PAGES_PER_GROUP, PageIndex, group_cv, group_cv_of_pages, page_cvs,
    zero_group_cv, zero_page_cvs,
};
use lockstep_volume::{BufferPool, IoBuffer, IoFailure, Volume};

use crate::limits::PREFETCH_EXTENTS;
use crate::pace::ReadGate;
use crate::pages::{PageTable, bytes_of};

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
    /// Where the values of the pages are kept, for whom wants them.
    pub(crate) pages: Option<&'a PageTable>,
    /// Values that need not be measured.
    pub(crate) known: Option<Known<'a>>,
    /// What has to be passed before each read, if anything has.
    pub(crate) gate: Option<ReadGate<'a>>,
}

/// Values of an earlier scan, and the pages of which they hold no longer.
#[derive(Clone, Copy)]
pub(crate) struct Known<'a> {
    pub(crate) index: &'a Index,
    pub(crate) changed: &'a PageRuns,
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
        let mut reader = PieceReader::new(self, stop);
        let mut buffer = buffers.take();
        let mut cvs = [Cv::from_bytes([0; 32]); GROUPS_PER_EXTENT];
        loop {
            let extent = ExtentIndex(next.fetch_add(1, Ordering::Relaxed));
            if extent.0 >= self.geometry.extent_count() || stop() {
                return Ok(());
            }
            let cvs = &mut cvs[..self.geometry.groups_in(extent)];
            if self.pages.is_none() && self.known.is_none() {
                self.hash_groups(&mut reader, extent, cvs, &mut buffer)?;
            } else {
                self.hash_pages(&mut reader, extent, cvs, &mut buffer)?;
            }
            each(extent, cvs);
        }
    }

    /// The values of the extent's groups, each from its bytes at once.
    fn hash_groups(
        &self,
        reader: &mut PieceReader<'_>,
        extent: ExtentIndex,
        cvs: &mut [Cv],
        buffer: &mut IoBuffer,
    ) -> Result<(), IoFailure> {
        let mut groups = self.geometry.groups_of(extent).map(GroupIndex);
        for cvs in cvs.chunks_mut(self.piece() / GROUP_SIZE) {
            let groups: Vec<GroupIndex> = groups.by_ref().take(cvs.len()).collect();
            let range = self.geometry.group_range(groups[0]).start
                ..self.geometry.group_range(groups[groups.len() - 1]).end;
            let content = reader.read(&range, buffer)?;
            for ((group, cv), bytes) in groups.into_iter().zip(cvs).zip(buffer.chunks(GROUP_SIZE)) {
                *cv = match content {
                    Content::Hole => zero_group_cv(self.geometry, group),
                    Content::Data => group_cv(self.geometry, group, bytes),
                };
            }
        }
        Ok(())
    }

    /// The same from the values of their pages, of which only some may have to be measured.
    fn hash_pages(
        &self,
        reader: &mut PieceReader<'_>,
        extent: ExtentIndex,
        cvs: &mut [Cv],
        buffer: &mut IoBuffer,
    ) -> Result<(), IoFailure> {
        let pages = self.geometry.pages_of_extent(extent);
        let mut values = [Cv::from_bytes([0; 32]); PAGES_PER_EXTENT];
        let values = &mut values[..self.geometry.pages_in(extent)];
        for run in self.to_measure(&pages, values) {
            let place = (run.start - pages.start) as usize..(run.end - pages.start) as usize;
            let mut first = run.start;
            for values in values[place].chunks_mut(self.piece() / PAGE_SIZE) {
                let end = first + values.len() as u64;
                let content = reader.read(&bytes_of(self.geometry, &(first..end)), buffer)?;
                match content {
                    Content::Hole => zero_page_cvs(self.geometry, PageIndex(first), values),
                    Content::Data => page_cvs(self.geometry, PageIndex(first), buffer, values),
                }
                first = end;
            }
        }
        if let Some(table) = self.pages {
            let pages = pages.map(PageIndex).zip(values.iter());
            pages.for_each(|(page, cv)| table.set(page, *cv));
        }
        let groups = self.geometry.groups_of(extent).map(GroupIndex);
        for ((group, cv), pages) in groups.zip(cvs).zip(values.chunks(PAGES_PER_GROUP)) {
            *cv = group_cv_of_pages(self.geometry, group, pages);
        }
        Ok(())
    }

    /// Those of `pages` that have to be measured; the values of the others are put in place.
    fn to_measure(&self, pages: &Range<u64>, values: &mut [Cv]) -> Vec<Range<u64>> {
        let Some(known) = self.known else {
            return vec![pages.clone()];
        };
        let changed: Vec<Range<u64>> = known.changed.within(pages.clone()).collect();
        for run in &changed {
            self.volume.will_need(bytes_of(self.geometry, run));
        }
        for run in known.changed.gaps_within(pages.clone()) {
            for page in run.clone() {
                values[(page - pages.start) as usize] = known.index.cv(PageIndex(page));
            }
            let bytes = bytes_of(self.geometry, &run);
            (known.bytes_inherited).fetch_add(bytes.end - bytes.start, Ordering::Relaxed);
        }
        changed
    }

    fn piece(&self) -> usize {
        match self.from {
            ScanFrom::Cache => CACHED_PIECE,
            ScanFrom::Medium => MEDIUM_PIECE,
        }
    }
}

enum Content {
    Hole,
    Data,
}

/// Reads pieces in rising order, remembering where the next data is.
struct PieceReader<'a> {
    scan: &'a Scan<'a>,
    stop: &'a dyn Fn() -> bool,
    data: Range<u64>,
    ended: bool,
}

impl<'a> PieceReader<'a> {
    fn new(scan: &'a Scan<'a>, stop: &'a dyn Fn() -> bool) -> PieceReader<'a> {
        PieceReader {
            scan,
            stop,
            data: 0..0,
            ended: false,
        }
    }

    /// Makes the buffer the bytes of the range, unless all of it is a hole.
    fn read(&mut self, range: &Range<u64>, buffer: &mut IoBuffer) -> Result<Content, IoFailure> {
        buffer.set_len(usize::try_from(range.end - range.start).unwrap_or(usize::MAX));
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
        if let Some(gate) = scan.gate {
            gate.pass(buffer.len(), self.stop);
        }
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
