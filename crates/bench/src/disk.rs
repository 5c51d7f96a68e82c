//! How fast a volume is read: as scans do, and as targets read back.
//!
//! Only data is read, holes are not, as in a run.

use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use lockstep_engine::{CHECK_THREADS, PREFETCH_EXTENTS};
use lockstep_merkle::EXTENT_SIZE;
use lockstep_protocol::{Failure, FailureKind};
use lockstep_volume::{
    Held, Hold, IoBuffer, IoEngine, IoFailure, Source, Volume, open_source_with,
};
use serde::{Deserialize, Serialize};

use crate::failures::{defect, disk_failed, unopened};
use crate::measured::{Measured, Stopwatch};

/// Bytes that a scan takes through the page cache at once.
const CACHED_PIECE: usize = 256 << 10;
/// Bytes of one transfer from the medium, and of those that a thread has under way: several, so that
/// io_uring has something to do at once.
pub(crate) const DIRECT_PIECE: usize = 256 << 10;
pub(crate) const DIRECT_BATCH: usize = 2 << 20;

/// The way that bytes take.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// Through the page cache, as scans read.
    Cached,
    /// Around it, as targets read back what they wrote.
    Direct,
}

/// How much of what was read through the page cache was in it.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Cached {
    /// Bytes that were in memory already.
    pub bytes: u64,
    /// Whether the measurement went through all data of the volume.
    pub all_data: bool,
}

/// One way measured.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct DiskRead {
    /// What was read.
    pub measured: Measured,
    /// What of it came from memory; nothing is known of this beside the page cache.
    pub cached: Cached,
}

/// A volume to be measured, open for reading and nothing else.
#[derive(Debug)]
pub struct Subject {
    source: Source,
}

impl Subject {
    /// Opens a file or a device. Nobody else is kept from writing it.
    ///
    /// # Errors
    /// There is no volume, it is empty, or it cannot be read.
    pub fn open(path: &Path, engine: IoEngine) -> Result<Subject, Failure> {
        let source =
            open_source_with(path, Hold::None, engine).map_err(|error| unopened(&error))?;
        if source.hold() == Held::Lease {
            // Who opens the file to write it would wait for us.
            source.release_hold();
        }
        match source.size() {
            0 => Err(Failure::new(
                FailureKind::Usage,
                format!("{} is empty: there is nothing to measure", path.display()),
            )),
            _ => Ok(Subject { source }),
        }
    }

    /// Bytes of the volume.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.source.size()
    }

    /// Bytes that it takes on its disk: what has to be read.
    #[must_use]
    pub fn data_bytes(&self) -> u64 {
        self.source.allocated_bytes().min(self.size())
    }

    /// Whether there is a disk below the page cache.
    #[must_use]
    pub fn has_medium(&self) -> bool {
        self.source.has_medium()
    }

    pub(crate) fn volume(&self) -> &dyn Volume {
        &self.source
    }

    /// Reads from the beginning for so long, or to the end. What comes from the medium, and what is
    /// all in memory, begins again at the end.
    ///
    /// # Errors
    /// The first failure of the disk.
    pub fn read(&self, way: Way, threads: usize, limit: Duration) -> Result<DiskRead, Failure> {
        let threads = match way {
            Way::Cached => threads.max(1),
            Way::Direct => CHECK_THREADS,
        };
        let reading = Reading::new(&self.source, way, limit);
        let watch = Stopwatch::start();
        on_threads(threads, &|| reading.work())?;
        let measured = watch.stop(reading.bytes.load(Ordering::Relaxed));
        let cached = Cached {
            bytes: reading.cached.load(Ordering::Relaxed),
            all_data: reading.at_end.load(Ordering::Relaxed),
        };
        Ok(DiskRead { measured, cached })
    }
}

/// Several threads on their way through one volume.
struct Reading<'a> {
    volume: &'a dyn Volume,
    way: Way,
    deadline: Instant,
    place: Mutex<Place>,
    bytes: AtomicU64,
    cached: AtomicU64,
    at_end: AtomicBool,
}

/// Where the next piece begins, and the data that it is in.
#[derive(Default)]
struct Place {
    at: u64,
    data: Range<u64>,
}

impl<'a> Reading<'a> {
    fn new(volume: &'a dyn Volume, way: Way, limit: Duration) -> Reading<'a> {
        if way == Way::Cached {
            volume.advise_sequential();
        }
        Reading {
            volume,
            way,
            deadline: Instant::now() + limit,
            place: Mutex::default(),
            bytes: AtomicU64::new(0),
            cached: AtomicU64::new(0),
            at_end: AtomicBool::new(false),
        }
    }

    fn work(&self) -> Result<(), IoFailure> {
        let mut buffer = IoBuffer::unpooled(self.most());
        while let Some(piece) = self.next()? {
            let length = usize::try_from(piece.end - piece.start).unwrap_or(usize::MAX);
            buffer.set_len(length);
            match self.way {
                Way::Cached => self.read_cached(piece.start, &mut buffer)?,
                Way::Direct => read_direct(self.volume, piece.start, &mut buffer)?,
            }
            self.bytes
                .fetch_add(piece.end - piece.start, Ordering::Relaxed);
        }
        Ok(())
    }

    fn most(&self) -> usize {
        match self.way {
            Way::Cached => EXTENT_SIZE,
            Way::Direct => DIRECT_BATCH,
        }
    }

    /// The next piece of data; `None` once the time is over or there is no more.
    fn next(&self) -> Result<Option<Range<u64>>, IoFailure> {
        let mut place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        // The first piece is read whatever the time: a measurement of nothing says nothing.
        if Instant::now() >= self.deadline && place.at > 0 {
            return Ok(None);
        }
        if place.at >= place.data.end && !self.find_data(&mut place)? {
            return Ok(None);
        }
        let start = place.at.max(place.data.start);
        place.at = place.data.end.min(start + self.most() as u64);
        Ok(Some(start..place.at))
    }

    /// The next data, from the beginning again where that is of use; whether there is any.
    fn find_data(&self, place: &mut Place) -> Result<bool, IoFailure> {
        let mut found = self.volume.next_data(place.at)?;
        if found.is_none() {
            self.at_end.store(true, Ordering::Relaxed);
            if self.begins_again() {
                found = self.volume.next_data(0)?;
                place.at = 0;
            }
        }
        match found {
            Some(data) => place.data = data,
            None => return Ok(false),
        }
        Ok(true)
    }

    /// What was fetched from the disk into the page cache would be measured as memory.
    fn begins_again(&self) -> bool {
        let read = self.bytes.load(Ordering::Relaxed);
        let cached = self.cached.load(Ordering::Relaxed);
        read > 0 && (self.way == Way::Direct || cached >= read)
    }

    fn read_cached(&self, offset: u64, buffer: &mut [u8]) -> Result<(), IoFailure> {
        for (piece, part) in (0..).zip(buffer.chunks_mut(CACHED_PIECE)) {
            let at = offset + piece * CACHED_PIECE as u64;
            if self.volume.read_if_cached(at, part)? {
                self.cached.fetch_add(part.len() as u64, Ordering::Relaxed);
                continue;
            }
            let ahead = at + PREFETCH_EXTENTS * EXTENT_SIZE as u64;
            let end = (ahead + CACHED_PIECE as u64).min(self.volume.size());
            self.volume.will_need(ahead.min(end)..end);
            self.volume.read_at(at, part)?;
        }
        Ok(())
    }
}

/// Does the same on several threads; the first failure counts.
pub(crate) fn on_threads(
    threads: usize,
    work: &(dyn Fn() -> Result<(), IoFailure> + Sync),
) -> Result<(), Failure> {
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        // All are waited for, whatever the first says.
        let ended: Vec<_> = workers.into_iter().map(|worker| worker.join()).collect();
        ended.into_iter().try_for_each(|ended| match ended {
            Ok(result) => result.map_err(|error| disk_failed(&error)),
            Err(_) => Err(defect()),
        })
    })
}

/// Reads around the page cache, several transfers at once where the engine can do that.
pub(crate) fn read_direct(
    volume: &dyn Volume,
    offset: u64,
    buffer: &mut [u8],
) -> Result<(), IoFailure> {
    let offsets = (0..).map(|piece: u64| offset + piece * DIRECT_PIECE as u64);
    let mut reads: Vec<(u64, &mut [u8])> = offsets.zip(buffer.chunks_mut(DIRECT_PIECE)).collect();
    volume.read_back_many(&mut reads)
}

#[cfg(test)]
mod tests {
    use super::{Subject, Way};
    use lockstep_protocol::FailureKind;
    use lockstep_volume::IoEngine;
    use std::fs::File;
    use std::os::unix::fs::FileExt;
    use std::time::Duration;

    #[test]
    fn only_data_is_read_and_all_of_it_is_in_memory_after_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("volume");
        let file = File::create(&path).unwrap();
        file.set_len(64 << 20).unwrap();
        let bytes = vec![7; 3 << 20];
        file.write_all_at(&bytes, 16 << 20).unwrap();
        for engine in [IoEngine::Threads, IoEngine::Uring] {
            let subject = Subject::open(&path, engine).unwrap();
            assert_eq!(subject.size(), 64 << 20);
            for way in [Way::Cached, Way::Direct] {
                let read = subject.read(way, 2, Duration::from_millis(20)).unwrap();
                // A filesystem without holes has data throughout.
                assert!(read.measured.bytes >= 1 << 20, "{read:?}");
                assert!(read.cached.bytes <= read.measured.bytes);
            }
        }
    }

    #[test]
    fn a_hole_is_no_data_and_takes_no_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hole");
        File::create(&path).unwrap().set_len(1 << 40).unwrap();
        let subject = Subject::open(&path, IoEngine::Threads).unwrap();
        if subject.data_bytes() > 0 || subject.volume().next_data(0).unwrap().is_some() {
            return eprintln!("skipped: this filesystem tells no holes");
        }
        let read = subject
            .read(Way::Cached, 2, Duration::from_secs(60))
            .unwrap();
        assert_eq!(read.measured.bytes, 0);
        assert!(read.cached.all_data);
    }

    #[test]
    fn what_is_no_volume_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let refused = |path: &std::path::Path| Subject::open(path, IoEngine::Threads).unwrap_err();
        let missing = refused(&folder.path().join("missing"));
        assert_eq!(missing.kind, FailureKind::Usage);
        assert_eq!(refused(folder.path()).kind, FailureKind::Usage);
        let empty = folder.path().join("empty");
        File::create(&empty).unwrap();
        assert!(refused(&empty).message.contains("is empty"));
    }
}
