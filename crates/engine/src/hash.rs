//! The root of one volume.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use lockstep_merkle::{CvTable, Geometry, GroupIndex, Root, fold};
use lockstep_protocol::{Failure, FailureKind};
use lockstep_volume::{Hold, IoEngine, MappedCvs, Volume, open_source_with};

use crate::failures::{sentence, unopened, volume_failed};
use crate::scan::{Scan, ScanFrom};

/// Hashes a file or block device; the root is what `b3sum` prints. `progress`
/// is told how many bytes are hashed, from several threads.
///
/// # Errors
/// `Usage` when there is no volume at the path, `Io` when it cannot be read.
pub fn hash_volume(
    path: &Path,
    threads: usize,
    io: IoEngine,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<(Root, u64), Failure> {
    let volume = open_source_with(path, Hold::None, io).map_err(|error| unopened(&error))?;
    let geometry = Geometry::new(volume.size());
    let table = MappedCvs::new(geometry.group_count(), &std::env::temp_dir())
        .map_err(|error| Failure::new(FailureKind::Io, sentence(&error)))?;
    let pool = hashing_pool(threads)?;
    let hashed = AtomicU64::new(0);
    let scan = Scan {
        volume: &volume,
        geometry,
        from: ScanFrom::Cache,
        bytes_read: &AtomicU64::new(0),
        pages: None,
        known: None,
        gate: None,
    };
    scan.run(&pool, &|| false, &|extent, cvs| {
        let groups = geometry.groups_of(extent);
        for (group, cv) in groups.zip(cvs.iter()) {
            table.set(GroupIndex(group), *cv);
        }
        let length = geometry.extent_len(extent) as u64;
        progress(hashed.fetch_add(length, Ordering::Relaxed) + length);
    })
    .map_err(|error| volume_failed(&error))?;
    if !volume.is_unchanged() {
        let message = format!("{} changed while it was read", path.display());
        return Err(Failure::new(FailureKind::Io, message));
    }
    let root = fold_table(geometry, &table)?;
    Ok((root, geometry.size()))
}

/// The root of a full table.
pub(crate) fn fold_table(geometry: Geometry, table: &dyn CvTable) -> Result<Root, Failure> {
    let cvs = (0..geometry.group_count()).map(|group| table.cv(GroupIndex(group)));
    fold(geometry, cvs).map_err(|error| Failure::new(FailureKind::Internal, sentence(&error)))
}

/// A pool of threads that read and hash.
pub(crate) fn hashing_pool(threads: usize) -> Result<rayon::ThreadPool, Failure> {
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads.clamp(1, crate::limits::MAX_THREADS))
        .thread_name(|index| format!("scan-{index}"))
        .build()
        .map_err(|error| Failure::new(FailureKind::Internal, sentence(&error)))
}
