//! The snapshots of a volume that earlier runs left, on purpose or not.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};

use lockstep_index::{Facts, IndexKey, IndexStore};
use lockstep_protocol::{Failure, FailureKind};
use lockstep_snapshot::{Provider, Registry, Snapshot, VolumeName};
use lockstep_volume::{Hold, VolumeKind, open_source};

use crate::failures::{sentence, unfrozen};

/// What a snapshot is there for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SnapshotUse {
    /// A run reads it now.
    Run,
    /// The next run reads only what changed since.
    Base,
    /// Nothing: a run that was killed left it, and the next run releases it.
    Nothing,
}

impl SnapshotUse {
    /// The use in one word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            SnapshotUse::Run => "run",
            SnapshotUse::Base => "base",
            SnapshotUse::Nothing => "nothing",
        }
    }
}

/// One snapshot of a volume.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListedSnapshot {
    /// What is known of it.
    pub snapshot: Snapshot,
    /// What it is there for.
    pub used: SnapshotUse,
}

/// Volumes of which a base is kept, by the indexes of a state directory.
///
/// # Errors
/// If the indexes cannot be looked at.
pub fn volumes_with_bases(state_dir: &Path) -> Result<Vec<PathBuf>, Failure> {
    let bases = bases(&IndexStore::at(state_dir))?;
    let volumes: BTreeSet<PathBuf> = bases.into_iter().map(|(_, base)| base.volume).collect();
    Ok(volumes.into_iter().collect())
}

/// The snapshots of a volume; what is only half made, and nobody's any more, is removed.
///
/// # Errors
/// If a provider that suits the volume cannot look.
pub fn list_snapshots(
    state_dir: &Path,
    volume: &Path,
    registry: &Registry,
) -> Result<Vec<ListedSnapshot>, Failure> {
    let volume = canonical(volume)?;
    let bases = bases(&IndexStore::at(state_dir))?;
    let mut listed = Vec::new();
    for provider in registry.iter() {
        let Ok(found) = provider.recover(&volume, &VolumeName::of_path(&volume)) else {
            // Most providers do not suit a given volume, and say so like this.
            continue;
        };
        for snapshot in found.whole {
            let used = if is_read(provider, &snapshot) {
                SnapshotUse::Run
            } else if bases.iter().any(|(_, base)| base.name == snapshot.name) {
                SnapshotUse::Base
            } else {
                SnapshotUse::Nothing
            };
            listed.push(ListedSnapshot { snapshot, used });
        }
    }
    Ok(listed)
}

/// Releases a snapshot, and forgets what was known of it.
///
/// # Errors
/// [`FailureKind::Busy`] while a run reads it; whatever its provider says.
pub fn release_snapshot(
    state_dir: &Path,
    listed: &ListedSnapshot,
    registry: &Registry,
) -> Result<(), Failure> {
    let snapshot = &listed.snapshot;
    let Some(provider) = registry.named(&snapshot.provider) else {
        let message = format!("there is no snapshot provider named {}", snapshot.provider);
        return Err(Failure::new(FailureKind::Usage, message));
    };
    if is_read(provider, snapshot) {
        let message = format!("a run reads {} now", snapshot.name);
        return Err(Failure::new(FailureKind::Busy, message).hint("wait for it to end"));
    }
    provider
        .release(snapshot)
        .map_err(|error| unfrozen(&error))?;
    let store = IndexStore::at(state_dir);
    for (key, base) in bases(&store)? {
        if base.name == snapshot.name && base.volume == snapshot.volume {
            store.remove(&key).map_err(|error| {
                Failure::new(FailureKind::Io, format!("index: {}", sentence(&error)))
            })?;
        }
    }
    Ok(())
}

/// The snapshots that indexes are about.
pub(crate) fn bases(store: &IndexStore) -> Result<Vec<(IndexKey, Snapshot)>, Failure> {
    let listed = store
        .list()
        .map_err(|error| Failure::new(FailureKind::Io, format!("indexes: {}", sentence(&error))))?;
    let headers = listed.into_iter().filter_map(|listed| listed.header.ok());
    let base = |(key, facts): (IndexKey, Facts)| {
        let snapshot = serde_json::from_slice(&facts.snapshot).ok()?;
        Some((key, snapshot))
    };
    Ok(headers.filter_map(base).collect())
}

/// Releases what killed runs left of a volume: images that nobody reads and that no index names.
pub(crate) fn release_leftovers(state_dir: &Path, provider: &dyn Provider, volume: &Path) {
    let found = match provider.recover(volume, &VolumeName::of_path(volume)) {
        Ok(found) => found,
        Err(error) => {
            tracing::warn!(
                "earlier snapshots were not looked for: {}",
                sentence(&error)
            );
            return;
        }
    };
    let bases = match bases(&IndexStore::at(state_dir)) {
        Ok(bases) => bases,
        Err(failure) => {
            tracing::warn!("earlier snapshots are left alone: {}", failure.message);
            return;
        }
    };
    for snapshot in found.whole {
        let is_base = bases.iter().any(|(_, base)| base.name == snapshot.name);
        if is_base || is_read(provider, &snapshot) {
            continue;
        }
        match provider.release(&snapshot) {
            Ok(()) => tracing::info!("released {}, which a run left behind", snapshot.name),
            Err(error) => tracing::warn!("{} stays: {}", snapshot.name, sentence(&error)),
        }
    }
}

/// Lets go of an index and its snapshot. The index goes after its snapshot, so that what is
/// interrupted here is found by the next run.
pub(crate) fn retire(registry: &Registry, store: &IndexStore, key: &IndexKey, facts: &Facts) {
    if !release_base(registry, facts) {
        return;
    }
    if let Err(error) = store.remove(key) {
        tracing::warn!("an old index stays: {}", sentence(&error));
    }
}

/// Releases the snapshot that an index is about; whether it is gone.
pub(crate) fn release_base(registry: &Registry, facts: &Facts) -> bool {
    let Ok(snapshot) = serde_json::from_slice::<Snapshot>(&facts.snapshot) else {
        return true;
    };
    let released = match registry.named(&snapshot.provider) {
        Some(provider) => provider.release(&snapshot),
        None => Ok(()),
    };
    if let Err(error) = &released {
        tracing::warn!("{} stays: {}", snapshot.name, sentence(error));
    }
    released.is_ok()
}

/// Whether a run has the image open; in doubt it has.
pub(crate) fn is_read(provider: &dyn Provider, snapshot: &Snapshot) -> bool {
    let Ok(image) = provider.open(snapshot) else {
        return true;
    };
    let is_file = image
        .file
        .metadata()
        .is_ok_and(|metadata| metadata.is_file());
    if is_file {
        // Every run that reads a file has a shared lock on it.
        return File::try_lock(&image.file).is_err();
    }
    drop(image.file);
    let opened = open_source(&image.path, Hold::Exclusive);
    !opened.is_ok_and(|source| source.kind() == VolumeKind::BlockDevice)
}

fn canonical(volume: &Path) -> Result<PathBuf, Failure> {
    volume
        .canonicalize()
        .map_err(|error| Failure::new(FailureKind::Usage, format!("{}: {error}", volume.display())))
}
