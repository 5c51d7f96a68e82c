//! Measurements of this machine, told as they are made.

use std::path::Path;
use std::time::Duration;

use lockstep_bench::{
    DiskRead, HashKind, Measured, PackLevel, Packed, Sample, Subject, Way, WriteTest,
    measure_hashing, measure_packing, measure_writing,
};
use lockstep_protocol::Failure;
use lockstep_volume::IoEngine;

use super::sheet::Sheet;
use crate::measures::{Bench, HERE, Stage};

/// Hashing, or looking at bytes in another way.
pub(super) fn hash(kind: HashKind, threads: usize, limit: Duration, sheet: &mut Sheet) -> Measured {
    let measured = measure_hashing(kind, threads, limit);
    sheet.add(Bench {
        threads: Some(threads),
        method: method_of(kind),
        ..Bench::of(stage_of(kind), HERE, measured)
    });
    measured
}

pub(super) fn method_of(kind: HashKind) -> Option<&'static str> {
    match kind {
        HashKind::Groups => Some("groups"),
        HashKind::Pages => Some("pages"),
        HashKind::Digests | HashKind::Zeros => None,
    }
}

fn stage_of(kind: HashKind) -> Stage {
    match kind {
        HashKind::Groups | HashKind::Pages => Stage::Hash,
        HashKind::Digests => Stage::Digest,
        HashKind::Zeros => Stage::ZeroTest,
    }
}

/// The way that a scan reads, whatever the engine.
pub(super) fn scan(
    subject: &Subject,
    path: &Path,
    threads: usize,
    limit: Duration,
    sheet: &mut Sheet,
) -> Result<DiskRead, Failure> {
    let read = subject.read(Way::Cached, threads, limit)?;
    sheet.add(Bench {
        path: Some(path.display().to_string()),
        method: Some("page cache"),
        threads: Some(threads),
        chosen: Some(true),
        bytes_cached: Some(read.cached.bytes),
        ..Bench::of(Stage::Read, HERE, read.measured)
    });
    Ok(read)
}

/// The way that a target reads back what it wrote.
pub(super) fn direct(
    subject: &Subject,
    path: &Path,
    engine: IoEngine,
    chosen: bool,
    limit: Duration,
    sheet: &mut Sheet,
) -> Result<DiskRead, Failure> {
    // How many threads matters not: they only keep the disk's queue filled.
    let read = subject.read(Way::Direct, 0, limit)?;
    sheet.add(Bench {
        path: Some(path.display().to_string()),
        method: Some("direct"),
        engine: Some(engine_word(engine)),
        chosen: Some(chosen),
        ..Bench::of(Stage::Read, HERE, read.measured)
    });
    Ok(read)
}

/// A write test in a folder.
pub(super) fn write(
    folder: &Path,
    engine: IoEngine,
    limit: Duration,
    sheet: &mut Sheet,
) -> Result<WriteTest, Failure> {
    let test = measure_writing(folder, engine, limit)?;
    add_write_test(HERE, folder, Some(engine), &test, sheet);
    Ok(test)
}

/// Tells both halves of a write test; which engine another machine took is not known.
pub(super) fn add_write_test(
    place: &str,
    folder: &Path,
    engine: Option<IoEngine>,
    test: &WriteTest,
    sheet: &mut Sheet,
) {
    for (stage, measured, method) in [
        (Stage::Write, test.written, "direct, flushed"),
        (Stage::ReadBack, test.read_back, "direct"),
    ] {
        sheet.add(Bench {
            path: Some(folder.display().to_string()),
            method: Some(method),
            engine: engine.map(engine_word),
            ..Bench::of(stage, place, measured)
        });
    }
}

/// Packing a sample of a volume, at the two levels of runs.
pub(super) fn pack(
    subject: &Subject,
    path: &Path,
    threads: usize,
    limit: Duration,
    sheet: &mut Sheet,
) -> Result<(Sample, Packed), Failure> {
    let sample = Sample::of(subject)?;
    let mut fast = None;
    for level in PackLevel::ALL {
        let packed = measure_packing(&sample, level, threads, limit)?;
        sheet.add(Bench {
            path: Some(path.display().to_string()),
            threads: Some(threads),
            level: Some(level.number()),
            share: Some(packed.share),
            ..Bench::of(Stage::Pack, HERE, packed.measured)
        });
        fast = fast.or(Some(packed));
    }
    let fast = fast.unwrap_or(Packed {
        measured: Measured::default(),
        share: 1.0,
    });
    Ok((sample, fast))
}

pub(super) fn engine_word(engine: IoEngine) -> &'static str {
    match engine {
        IoEngine::Threads => "threads",
        IoEngine::Uring => "uring",
    }
}
