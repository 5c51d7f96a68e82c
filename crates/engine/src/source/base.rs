//! What an earlier run knows of the source: the values of its pages, and which of them still hold.
//!
//! Any doubt on the way means that everything is read; it is told, and is no failure.

use std::path::Path;

use lockstep_index::{Facts, IndexKey, IndexStore, Lineage, Side};
use lockstep_ledger::VolumeKey;
use lockstep_merkle::Geometry;
use lockstep_protocol::{Evidence, Purpose};
use lockstep_snapshot::Snapshot;

use super::feed::{Feed, Finish};
use super::frozen::{Frozen, FrozenImage};
use crate::base::{Base, Found};
use crate::clock::now;
use crate::distrust;
use crate::failures::sentence;
use crate::pages::PageTable;
use crate::request::Request;
use crate::snapshots::retire;

/// Looks for the base of the image that this run reads.
pub(super) fn find(frozen: &Frozen, request: &Request) -> Found {
    let Some(image) = frozen.image() else {
        return Found::Nothing;
    };
    if !request.reuse.delta {
        return Found::Nothing;
    }
    let store = IndexStore::at(&request.state_dir);
    let Some(volume) = volume_text(frozen.volume()) else {
        return Found::Nothing;
    };
    let Some((key, facts)) = newest(&store, &volume) else {
        return Found::Nothing;
    };
    if facts.is_full_scan_due(request.reuse.full_scan_every, now()) {
        return Found::Nothing;
    }
    match usable(frozen, image, request, &store, &key, &facts) {
        Ok(base) => Found::Base(Box::new(base)),
        Err(doubt) => Found::Doubt(doubt),
    }
}

/// Whether this run reads everything although there is a base, because that is due.
pub(super) fn is_full_scan_due(frozen: &Frozen, request: &Request) -> bool {
    let store = IndexStore::at(&request.state_dir);
    let base = volume_text(frozen.volume()).and_then(|volume| newest(&store, &volume));
    let is_due = |facts: Facts| facts.is_full_scan_due(request.reuse.full_scan_every, now());
    frozen.image().is_some() && base.is_some_and(|(_, facts)| is_due(facts))
}

fn usable(
    frozen: &Frozen,
    image: &FrozenImage,
    request: &Request,
    store: &IndexStore,
    key: &IndexKey,
    facts: &Facts,
) -> Result<Base, String> {
    if let Some(why) = distrust::reason(&request.state_dir, frozen.volume()) {
        return Err(why);
    }
    let base: Snapshot = serde_json::from_slice(&facts.snapshot)
        .map_err(|error| format!("the base snapshot's description cannot be read: {error}"))?;
    let provider = image
        .provider()
        .ok_or("the snapshot's provider is not known")?;
    let index = store
        .load(key, &frozen.identity().durable_text())
        .map_err(|unusable| sentence(&unusable))?;
    Base::by_delta(provider, index, &base, &image.snapshot)
}

/// Where a run keeps the values of the pages, if it reads an image: they make the index, and save
/// reading what a target has already. A run that has no room for them works without.
pub(super) fn page_table(
    request: &Request,
    frozen: &Frozen,
    geometry: Geometry,
) -> Result<Option<PageTable>, String> {
    if frozen.image().is_none() {
        return Ok(None);
    }
    PageTable::new(geometry, &request.scratch)
        .map(Some)
        .map_err(|error| sentence(&error))
}

/// What a run knows of its image at its end.
pub(super) struct Measured<'a> {
    pub(super) feed: &'a Feed,
    pub(super) pages: &'a Result<Option<PageTable>, String>,
    pub(super) base: Option<&'a Base>,
}

/// Leaves the image as the base of the next run, in place of older ones, or releases it. What could
/// not be done, in sentences.
pub(super) fn settle(
    frozen: &Frozen,
    request: &Request,
    known: &Measured<'_>,
    is_wanted: bool,
) -> Vec<String> {
    let Some(image) = frozen.image() else {
        return Vec::new();
    };
    let finish = (known.feed.finished()).filter(|finish| finish.evidence != Evidence::None);
    let kept = match finish {
        Some(finish) if is_wanted && keeps(request, image) => {
            save(frozen, image, request, finish, known)
        }
        _ => Ok(false),
    };
    let mut warnings = Vec::new();
    let kept = kept.unwrap_or_else(|why| {
        warnings.push(format!("the next run will read everything: {why}"));
        false
    });
    if !kept && let Err(error) = frozen.release() {
        warnings.push(format!("the snapshot stays: {}", sentence(&error)));
    }
    warnings
}

fn keeps(request: &Request, image: &FrozenImage) -> bool {
    request.reuse.keep_base.has_room(image.space) && request.purpose == Purpose::Sync
}

/// Writes the index, then lets go of older bases: a crash between leaves one too many, which the
/// next run lets go.
fn save(
    frozen: &Frozen,
    image: &FrozenImage,
    request: &Request,
    finish: Finish,
    known: &Measured<'_>,
) -> Result<bool, String> {
    let Some(pages) = known.pages.as_ref().map_err(Clone::clone)? else {
        return Ok(false);
    };
    let volume = volume_text(frozen.volume()).ok_or("its path cannot be written down")?;
    let store = IndexStore::at(&request.state_dir);
    let key = IndexKey::source(&volume, &image.snapshot.name.to_string());
    let older = of_source(&store, &volume);
    let (lineage, last_full_scan_unix_ms) = match known.base {
        Some(base) => {
            let facts = base.index.facts();
            (facts.lineage.inherited(), facts.last_full_scan_unix_ms)
        }
        None => (Lineage::FullScan, now()),
    };
    let facts = Facts {
        identity: frozen.identity().durable_text(),
        snapshot: serde_json::to_vec(&image.snapshot).map_err(|error| error.to_string())?,
        geometry: known.feed.geometry(),
        root: finish.root,
        lineage,
        last_full_scan_unix_ms,
        created_unix_ms: now(),
    };
    store
        .save(&key, &facts, pages.cvs())
        .map_err(|error| sentence(&error))?;
    for (key, facts) in older {
        retire(image.registry(), &store, &key, &facts);
    }
    Ok(true)
}

fn newest(store: &IndexStore, volume: &str) -> Option<(IndexKey, Facts)> {
    let all = of_source(store, volume);
    all.into_iter()
        .max_by_key(|(_, facts)| facts.created_unix_ms)
}

fn of_source(store: &IndexStore, volume: &str) -> Vec<(IndexKey, Facts)> {
    let volume = IndexKey::target(volume);
    let listed = store.list().unwrap_or_default();
    listed
        .into_iter()
        .filter_map(|listed| listed.header.ok())
        .filter(|(key, _)| {
            key.volume() == volume.volume() && matches!(key.side(), Side::Source { .. })
        })
        .collect()
}

fn volume_text(volume: &Path) -> Option<String> {
    VolumeKey::from_path(volume)
        .ok()
        .map(|key| key.as_str().to_owned())
}
