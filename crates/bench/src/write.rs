//! How fast a filesystem takes new data, and gives it back: on a file of our own that has no name.

use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use lockstep_engine::{APPLY_THREADS, CHECK_THREADS};
use lockstep_merkle::PAGE_SIZE;
use lockstep_protocol::{Failure, FailureKind};
use lockstep_volume::{IoBuffer, IoEngine, IoFailure, Scratch, Volume, scratch_file};
use serde::{Deserialize, Serialize};

use crate::disk::{DIRECT_BATCH, DIRECT_PIECE, on_threads, read_direct};
use crate::failures::disk_failed;
use crate::measured::{Measured, Stopwatch};

/// Most bytes that are written, and the least that say something.
const MOST: u64 = 1 << 30;
const LEAST: u64 = 8 << 20;
/// The part of a filesystem's free space that is taken for a moment.
const PART_OF_FREE: u64 = 4;

/// What writing and reading back took.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct WriteTest {
    /// New data written around the page cache, and flushed.
    pub written: Measured,
    /// The same read back from the medium, and compared.
    pub read_back: Measured,
}

/// Where a file is made for a write test beside a volume, or in a folder: never a device's folder, and
/// nothing that is there.
///
/// # Errors
/// `Usage` if there is nothing, or a device.
pub fn folder_for_writing(path: &Path) -> Result<PathBuf, Failure> {
    let shown = path.display();
    let usage = |message| Failure::new(FailureKind::Usage, message);
    let unseen = |error| usage(format!("cannot look at {shown}: {error}"));
    let meta = path.metadata().map_err(unseen)?;
    if meta.file_type().is_block_device() {
        return Err(usage(format!(
            "{shown} is a device, and a write test writes to none: it makes a new file"
        ))
        .hint("name a folder on a filesystem of that disk"));
    }
    if meta.is_dir() {
        return Ok(path.to_owned());
    }
    let canonical = path.canonicalize().map_err(unseen)?;
    Ok(canonical.parent().unwrap_or(Path::new("/")).to_owned())
}

/// Writes a new nameless file in this folder for so long, flushes it, reads it back and compares it.
/// The file takes at most 1 GiB and a quarter of what is free, and is gone afterwards, whatever happens.
///
/// # Errors
/// `Usage` where there is no folder, `Preflight` where there is no room or no right to write, `Io`
/// where the disk fails, `Mismatch` where it gives back something else.
pub fn measure_writing(
    folder: &Path,
    engine: IoEngine,
    limit: Duration,
) -> Result<WriteTest, Failure> {
    if !folder.is_dir() {
        let message = format!("{} is no folder to write a file in", folder.display());
        return Err(Failure::new(FailureKind::Usage, message));
    }
    let size = room(folder)?;
    let scratch = scratch_file(folder, size, engine).map_err(|error| {
        let message = format!("cannot make a file in {}: {error}", folder.display());
        Failure::new(FailureKind::Preflight, message)
            .hint("run it as a user who may write there, or name another folder")
    })?;
    if !scratch.has_medium() {
        let message = format!(
            "{} is on a filesystem in memory: there is no disk to write to",
            folder.display()
        );
        return Err(Failure::new(FailureKind::Preflight, message)
            .hint("name a folder on the disk that is to be measured"));
    }
    let content = Content::random()?;

    let (next, done) = (AtomicU64::new(0), AtomicU64::new(0));
    let deadline = Instant::now() + limit;
    let watch = Stopwatch::start();
    on_threads(APPLY_THREADS, &|| {
        let mut batch = content.batch();
        while let Some(offset) = take(&next, size, deadline) {
            content.stamp(offset, &mut batch);
            write_batch(&scratch, offset, &batch)?;
            done.fetch_add(batch.len() as u64, Ordering::Relaxed);
        }
        Ok(())
    })?;
    scratch.flush().map_err(|error| disk_failed(&error))?;
    let written = watch.stop(done.load(Ordering::Relaxed));

    let (next, wrong) = (AtomicU64::new(0), AtomicU64::new(u64::MAX));
    let watch = Stopwatch::start();
    on_threads(CHECK_THREADS, &|| {
        let mut expected = content.batch();
        let mut found = IoBuffer::unpooled(DIRECT_BATCH);
        // Batches are taken in order, so that what was written has no gaps.
        while let Some(offset) = take(&next, written.bytes, deadline + 2 * limit) {
            content.stamp(offset, &mut expected);
            read_direct(&scratch, offset, &mut found)?;
            if found[..] != expected[..] {
                wrong.fetch_min(offset, Ordering::Relaxed);
            }
        }
        Ok(())
    })?;
    let back = (next.load(Ordering::Relaxed)).min(written.bytes);
    let read_back = watch.stop(back);
    match wrong.load(Ordering::Relaxed) {
        u64::MAX => Ok(WriteTest { written, read_back }),
        offset => Err(Failure::new(
            FailureKind::Mismatch,
            format!(
                "what was written to a new file in {} came back changed at {offset}",
                folder.display()
            ),
        )
        .hint("do not keep data there before you know why: test memory, cables and the disk")),
    }
}

/// Bytes that may be written, whole batches of them.
fn room(folder: &Path) -> Result<u64, Failure> {
    let stat = rustix::fs::statvfs(folder).map_err(|error| {
        let message = format!("cannot see what is free in {}: {error}", folder.display());
        Failure::new(FailureKind::Preflight, message)
    })?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let size = (free / PART_OF_FREE).min(MOST);
    match size - size % DIRECT_BATCH as u64 {
        size if size >= LEAST => Ok(size),
        _ => Err(Failure::new(
            FailureKind::Preflight,
            format!(
                "too little is free in {} for a write test",
                folder.display()
            ),
        )
        .hint("make room for 32 MiB there, or name another folder")),
    }
}

/// The next batch's offset; `None` behind the end, or once the time is over.
fn take(next: &AtomicU64, end: u64, deadline: Instant) -> Option<u64> {
    let batch = DIRECT_BATCH as u64;
    let first = next.load(Ordering::Relaxed) == 0;
    if !first && Instant::now() >= deadline {
        return None;
    }
    next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |at| {
        (at < end).then_some(at + batch)
    })
    .ok()
}

fn write_batch(scratch: &Scratch, offset: u64, batch: &[u8]) -> Result<(), IoFailure> {
    let offsets = (0..).map(|piece: u64| offset + piece * DIRECT_PIECE as u64);
    let writes: Vec<(u64, &[u8])> = offsets.zip(batch.chunks(DIRECT_PIECE)).collect();
    scratch.write_many(&writes)
}

/// Random bytes, the same in every batch but for each page's own offset at its front.
struct Content(Vec<u8>);

impl Content {
    fn random() -> Result<Content, Failure> {
        let mut bytes = vec![0; DIRECT_BATCH];
        getrandom::fill(&mut bytes).map_err(|error| {
            Failure::new(FailureKind::Internal, format!("no randomness: {error}"))
        })?;
        Ok(Content(bytes))
    }

    fn batch(&self) -> IoBuffer {
        let mut batch = IoBuffer::unpooled(DIRECT_BATCH);
        batch.copy_from_slice(&self.0);
        batch
    }

    fn stamp(&self, offset: u64, batch: &mut [u8]) {
        for (page, bytes) in (0..).zip(batch.chunks_mut(PAGE_SIZE)) {
            let at = offset + page * PAGE_SIZE as u64;
            bytes[..8].copy_from_slice(&at.to_le_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Content, measure_writing};
    use crate::disk::DIRECT_BATCH;
    use lockstep_protocol::FailureKind;
    use lockstep_volume::IoEngine;
    use std::time::Duration;

    #[test]
    fn a_test_writes_something_reads_it_back_and_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("mine"), b"mine").unwrap();
        for engine in [IoEngine::Threads, IoEngine::Uring] {
            let test = measure_writing(folder.path(), engine, Duration::from_millis(1)).unwrap();
            assert!(test.written.bytes >= DIRECT_BATCH as u64);
            assert!(test.read_back.bytes >= DIRECT_BATCH as u64);
            assert!(test.read_back.bytes <= test.written.bytes);
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        assert_eq!(std::fs::read(folder.path().join("mine")).unwrap(), b"mine");
    }

    #[test]
    fn a_file_is_no_folder() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, b"x").unwrap();
        let refused = measure_writing(&file, IoEngine::Threads, Duration::ZERO).unwrap_err();
        assert_eq!(refused.kind, FailureKind::Usage);
        assert_eq!(std::fs::read(&file).unwrap(), b"x");
    }

    #[test]
    fn every_page_of_every_batch_is_another() {
        let content = Content::random().unwrap();
        let (mut first, mut second) = (content.batch(), content.batch());
        content.stamp(0, &mut first);
        content.stamp(DIRECT_BATCH as u64, &mut second);
        let mut pages: Vec<&[u8]> = first.chunks(4096).chain(second.chunks(4096)).collect();
        pages.sort_unstable();
        pages.dedup();
        assert_eq!(pages.len(), 2 * DIRECT_BATCH / 4096);
    }
}
