//! How the source is kept, or proved, unchanged while it is read.

use std::sync::atomic::{AtomicBool, Ordering};

use lockstep_merkle::GroupIndex;
use lockstep_protocol::{Evidence, Failure, FailureKind, LastWord, Purpose};
use lockstep_snapshot::Health;
use lockstep_volume::{HoldLost, Source, VolumeKind};

use super::base::Audit;
use super::feed::Feed;
use super::frozen::Frozen;
use crate::base::Base;
use crate::failures::{sentence, volume_failed};
use crate::hash::fold_table;
use crate::level;
use crate::pace::ReadGate;
use crate::pages::PageTable;
use crate::request::{Request, SnapshotChoice};
use crate::scan::{Known, Scan, ScanFrom};

/// Whether the hold still stands; always so where none was to be had.
pub(super) fn check(frozen: &Frozen, request: &Request) -> Result<(), HoldLost> {
    if frozen.is_held() && request.snapshot != SnapshotChoice::None {
        frozen.still_held()
    } else {
        Ok(())
    }
}

/// The failure of a run whose snapshot lost its data.
pub(super) fn image_lost(why: &str) -> Failure {
    let message = format!("source: its snapshot is lost: {why}");
    Failure::new(FailureKind::Preflight, message)
        .hint("give it more space, then run the same command again")
}

/// The failure of a run whose snapshot would fill the disk.
pub(super) fn image_in_the_way(left: u64) -> Failure {
    let message = format!(
        "source: only {left} bytes are left beside its snapshot, which is given up before the volume's writers find the disk full"
    );
    Failure::new(FailureKind::Preflight, message)
        .hint("free space there, then run the same command again: it ships only what is missing")
}

/// The failure of a run whose source somebody is about to change.
pub(super) fn lost(lost: HoldLost, writing: bool) -> Failure {
    let kind = if writing {
        FailureKind::Interrupted
    } else {
        FailureKind::Temporary
    };
    Failure::new(kind, format!("source: {}", sentence(&lost)))
        .hint("stop the writer and run the same command again")
}

/// What an earlier run left, for a scan: to be taken over, or to be judged.
#[derive(Clone, Copy)]
pub(super) struct Earlier<'a> {
    pub(super) base: Option<&'a Base>,
    pub(super) audit: Option<&'a Audit<'a>>,
}

/// Scans the source into the feed; `None` when the run was ended meanwhile.
pub(super) fn scan(
    request: &Request,
    frozen: &Frozen,
    feed: &Feed,
    pages: Option<&PageTable>,
    earlier: Earlier<'_>,
    gate: ReadGate<'_>,
    pool: &rayon::ThreadPool,
) -> Result<Option<LastWord>, Failure> {
    let Earlier { base, audit } = earlier;
    let scan = Scan {
        volume: &frozen.source,
        geometry: feed.geometry(),
        from: ScanFrom::Cache,
        bytes_read: &feed.bytes_read,
        pages,
        known: base.map(|base| Known {
            index: &base.index,
            changed: base.inheritance.changed(),
            bytes_inherited: &feed.bytes_inherited,
        }),
        gate: Some(gate),
    };
    scan.run(pool, &|| feed.is_over(), &|extent, cvs| {
        if let Some(audit) = audit {
            audit.look(feed.geometry(), extent);
        }
        feed.scanned(extent, cvs);
    })
    .map_err(|error| volume_failed(&error))?;
    if feed.is_over() {
        return Ok(None);
    }
    let root = fold_table(feed.geometry(), feed.tree())?;
    let evidence = match (prove(request, frozen, feed, gate, pool)?, base) {
        (false, _) => Evidence::None,
        (true, None) => Evidence::Full,
        (true, Some(_)) => Evidence::Delta,
    };
    Ok(Some(LastWord {
        root,
        evidence,
        level: frozen.level().map(level::told),
    }))
}

/// Whether the bytes that were hashed are those of one instant.
fn prove(
    request: &Request,
    frozen: &Frozen,
    feed: &Feed,
    gate: ReadGate<'_>,
    pool: &rayon::ThreadPool,
) -> Result<bool, Failure> {
    // A snapshot that lost its data while it was read gave anything, without an error.
    if let Some(Health::Lost { why }) = frozen.health() {
        return Err(image_lost(&why));
    }
    if frozen.is_held() {
        return match (frozen.still_held(), &request.snapshot) {
            (Ok(()), _) => Ok(true),
            (Err(_), SnapshotChoice::None) => Ok(false),
            (Err(error), _) => Err(lost(error, false)),
        };
    }
    // A device that somebody has mounted is written behind the page cache that
    // a second reading would see; only a file's second reading proves anything.
    let source = &frozen.source;
    if source.kind() != VolumeKind::File || request.purpose == Purpose::Compare {
        return Ok(false);
    }
    reads_the_same(source, feed, gate, pool)
}

/// Reads everything again: what is equal both times was so in between, at the
/// instant when the first reading ended.
fn reads_the_same(
    source: &Source,
    feed: &Feed,
    gate: ReadGate<'_>,
    pool: &rayon::ThreadPool,
) -> Result<bool, Failure> {
    let same = AtomicBool::new(true);
    let scan = Scan {
        volume: source,
        geometry: feed.geometry(),
        from: ScanFrom::Cache,
        // As it goes: the pace is kept by it.
        bytes_read: &feed.bytes_read,
        pages: None,
        known: None,
        gate: Some(gate),
    };
    let stop = || feed.is_over() || !same.load(Ordering::Relaxed);
    scan.run(pool, &stop, &|extent, cvs| {
        let groups = feed.geometry().groups_of(extent);
        let equal = groups
            .zip(cvs.iter())
            .all(|(group, cv)| feed.cv(GroupIndex(group)) == *cv);
        if !equal {
            same.store(false, Ordering::Relaxed);
        }
    })
    .map_err(|error| volume_failed(&error))?;
    Ok(same.load(Ordering::Relaxed) && !feed.is_over() && source.is_unchanged())
}
