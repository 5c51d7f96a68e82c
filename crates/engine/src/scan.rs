//! Reading a volume in order and hashing it, holes unread, on several threads.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use lockstep_merkle::{
    EXTENT_SIZE, ExtentCvs, ExtentIndex, Geometry, extent_cvs, zero_extent_cvs,
};
use lockstep_volume::{BufferPool, IoFailure, Volume};

use crate::limits::PREFETCH_EXTENTS;

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
        each: &(dyn Fn(ExtentIndex, &ExtentCvs) + Sync),
    ) -> Result<(), IoFailure> {
        self.volume.advise_sequential();
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
        each: &(dyn Fn(ExtentIndex, &ExtentCvs) + Sync),
        stop: &dyn Fn() -> bool,
    ) -> Result<(), IoFailure> {
        let mut reader = ExtentReader::new(self);
        let mut buffer = buffers.take();
        loop {
            let extent = ExtentIndex(next.fetch_add(1, Ordering::Relaxed));
            if extent.0 >= self.geometry.extent_count() || stop() {
                return Ok(());
            }
            buffer.set_len(self.geometry.extent_len(extent));
            let cvs = match reader.read(extent, &mut buffer)? {
                Content::Hole => zero_extent_cvs(self.geometry, extent),
                Content::Data => extent_cvs(self.geometry, extent, &buffer),
            };
            each(extent, &cvs);
        }
    }
}

enum Content {
    Hole,
    Data,
}

/// Reads extents in rising order, remembering where the next data is.
struct ExtentReader<'a> {
    scan: &'a Scan<'a>,
    data: Range<u64>,
    ended: bool,
}

impl<'a> ExtentReader<'a> {
    fn new(scan: &'a Scan<'a>) -> ExtentReader<'a> {
        ExtentReader {
            scan,
            data: 0..0,
            ended: false,
        }
    }

    fn read(&mut self, extent: ExtentIndex, buffer: &mut [u8]) -> Result<Content, IoFailure> {
        let range = self.scan.geometry.extent_range(extent);
        let mut data = self.next_data(range.start)?;
        if data.start >= range.end {
            return Ok(Content::Hole);
        }
        if data.start > range.start || data.end < range.end {
            buffer.fill(0);
        }
        while data.start < range.end {
            let part = data.start.max(range.start)..data.end.min(range.end);
            self.read_part(extent, &part, within(buffer, &range, &part))?;
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

    fn read_part(
        &self,
        extent: ExtentIndex,
        part: &Range<u64>,
        buffer: &mut [u8],
    ) -> Result<(), IoFailure> {
        let scan = self.scan;
        scan.bytes_read
            .fetch_add(part.end - part.start, Ordering::Relaxed);
        match scan.from {
            ScanFrom::Medium => scan.volume.read_back(part.start, buffer),
            ScanFrom::Cache => {
                if scan.volume.read_if_cached(part.start, buffer)? {
                    return Ok(());
                }
                self.prefetch(extent);
                scan.volume.read_at(part.start, buffer)
            }
        }
    }

    fn prefetch(&self, extent: ExtentIndex) {
        let ahead = ExtentIndex(extent.0 + PREFETCH_EXTENTS);
        if ahead.0 < self.scan.geometry.extent_count() {
            self.scan
                .volume
                .will_need(self.scan.geometry.extent_range(ahead));
        }
    }
}

/// The part of `buffer`, which holds `range`, that holds `part`.
fn within<'b>(buffer: &'b mut [u8], range: &Range<u64>, part: &Range<u64>) -> &'b mut [u8] {
    let start = usize::try_from(part.start - range.start).unwrap_or(usize::MAX);
    let end = usize::try_from(part.end - range.start).unwrap_or(usize::MAX);
    &mut buffer[start..end]
}
