//! How the source is kept, or proved, unchanged while it is read.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use lockstep_merkle::GroupIndex;
use lockstep_protocol::{Evidence, Failure, FailureKind, Purpose};
use lockstep_volume::{Held, Hold, HoldLost, Source, VolumeKind, open_source_with};

use super::feed::{Feed, Finish};
use crate::failures::{sentence, source_unopened, volume_failed};
use crate::hash::fold_table;
use crate::monitor::{Monitor, Notice};
use crate::request::{Request, SnapshotChoice};
use crate::scan::{Scan, ScanFrom};

/// Opens the source the way the request wants it held.
pub(super) fn open(request: &Request) -> Result<Source, Failure> {
    let hold = match request.snapshot {
        SnapshotChoice::Auto | SnapshotChoice::Exclusive => Hold::Exclusive,
        SnapshotChoice::None => Hold::None,
    };
    open_source_with(&request.source, hold, request.io).map_err(|error| {
        let failure = source_unopened(&error);
        if failure.kind == FailureKind::Preflight && failure.hint.is_empty() {
            return failure.hint("stop the writer, or take what is there with --snapshot none");
        }
        failure
    })
}

/// Says how the source is held.
pub(super) fn announce(source: &Source, monitor: &dyn Monitor) {
    let (provider, detail) = match source.hold() {
        Held::Lease => ("exclusive", "read lease held: nobody writes it".to_owned()),
        Held::ExclusiveDevice => ("exclusive", "device opened exclusively".to_owned()),
        Held::Nothing { why } => ("none", why.clone()),
    };
    monitor.notice(Notice::Snapshot { provider, detail });
}

/// Whether the source is held so that nobody can write it unnoticed.
pub(super) fn is_held(source: &Source) -> bool {
    !matches!(source.hold(), Held::Nothing { .. })
}

/// Whether the hold still stands; always so where none was to be had.
pub(super) fn check(source: &Source, request: &Request) -> Result<(), HoldLost> {
    if is_held(source) && request.snapshot != SnapshotChoice::None {
        source.still_held()
    } else {
        Ok(())
    }
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

/// Scans the source into the feed; `None` when the run was ended meanwhile.
pub(super) fn scan(
    request: &Request,
    source: &Source,
    feed: &Feed,
    pool: &rayon::ThreadPool,
) -> Result<Option<Finish>, Failure> {
    let scan = Scan {
        volume: source,
        geometry: feed.geometry(),
        from: ScanFrom::Cache,
        bytes_read: &feed.bytes_read,
    };
    scan.run(pool, &|| feed.is_over(), &|extent, cvs| {
        feed.scanned(extent, cvs);
    })
    .map_err(|error| volume_failed(&error))?;
    if feed.is_over() {
        return Ok(None);
    }
    let root = fold_table(feed.geometry(), feed.tree())?;
    let evidence = match prove(request, source, feed, pool)? {
        true => Evidence::Full,
        false => Evidence::None,
    };
    Ok(Some(Finish { root, evidence }))
}

/// Whether the bytes that were hashed are those of one instant.
fn prove(
    request: &Request,
    source: &Source,
    feed: &Feed,
    pool: &rayon::ThreadPool,
) -> Result<bool, Failure> {
    if is_held(source) {
        return match (source.still_held(), request.snapshot) {
            (Ok(()), _) => Ok(true),
            (Err(_), SnapshotChoice::None) => Ok(false),
            (Err(error), _) => Err(lost(error, false)),
        };
    }
    // A device that somebody has mounted is written behind the page cache that
    // a second reading would see; only a file's second reading proves anything.
    if source.kind() != VolumeKind::File || request.purpose == Purpose::Compare {
        return Ok(false);
    }
    reads_the_same(source, feed, pool)
}

/// Reads everything again: what is equal both times was so in between, at the
/// instant when the first reading ended.
fn reads_the_same(source: &Source, feed: &Feed, pool: &rayon::ThreadPool) -> Result<bool, Failure> {
    let same = AtomicBool::new(true);
    let again = AtomicU64::new(0);
    let scan = Scan {
        volume: source,
        geometry: feed.geometry(),
        from: ScanFrom::Cache,
        bytes_read: &again,
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
    feed.bytes_read
        .fetch_add(again.load(Ordering::Relaxed), Ordering::Relaxed);
    Ok(same.load(Ordering::Relaxed) && !feed.is_over() && source.is_unchanged())
}
