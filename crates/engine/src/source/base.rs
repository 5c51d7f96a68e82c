//! What an earlier run knows of the source: the values of its pages, and which of them still hold.
//!
//! Any doubt on the way means that everything is read; it is told, and is no failure.

use std::path::Path;

use lockstep_index::{Facts, IndexKey, IndexStore, Lineage, Side};
use lockstep_ledger::VolumeKey;
use lockstep_merkle::{ExtentIndex, Geometry, PageIndex};
use lockstep_protocol::{Evidence, LastWord, Purpose};
use lockstep_snapshot::Snapshot;

use super::feed::Feed;
use super::frozen::{Frozen, FrozenImage};
use super::reliance::{Document, Reliance};
use crate::base::Base;
use crate::clock::now;
use crate::distrust;
use crate::failures::sentence;
use crate::pages::PageTable;
use crate::request::Request;
use crate::snapshots::retire;

/// A full scan as the judge of what an earlier run left: what is measured now is compared with what
/// would have been taken over.
pub(super) struct Audit<'a> {
    pub(super) base: &'a Base,
    pub(super) pages: &'a PageTable,
    /// Called by whoever finds a difference, before the extent is told to any target.
    pub(super) caught: &'a (dyn Fn() + Sync),
}

impl Audit<'_> {
    /// Looks at an extent that was just measured.
    pub(super) fn look(&self, geometry: Geometry, extent: ExtentIndex) {
        let changed = self.base.inheritance.changed();
        let mut unchanged = changed
            .gaps_within(geometry.pages_of_extent(extent))
            .flatten()
            .map(PageIndex);
        if unchanged.any(|page| self.pages.cv(page) != self.base.index.cv(page)) {
            (self.caught)();
        }
    }
}

/// What was found of an earlier run.
pub(super) enum Found {
    /// Nothing that could be of use.
    Nothing,
    /// Something, but there is a doubt, in one clause.
    Doubt(String),
    /// All that is needed.
    Base(Box<Base>),
    /// The same, but everything is to be read: it is only compared with what comes of that.
    Audit(Box<Base>),
}

/// Looks for the base of the image that this run reads.
pub(super) fn find(frozen: &Frozen, request: &Request) -> Found {
    let Some(image) = frozen.image() else {
        return Found::Nothing;
    };
    let store = IndexStore::at(&request.state_dir);
    let Some((key, facts)) = newest_base(frozen, &store) else {
        return Found::Nothing;
    };
    let reads_everything = !request.reuse.delta || is_due(&facts, request);
    let usable = usable(frozen, image, request, &store, &key, &facts);
    match (usable.map(Box::new), reads_everything) {
        (Ok(base), false) => Found::Base(base),
        (Ok(base), true) => Found::Audit(base),
        (Err(doubt), false) => Found::Doubt(doubt),
        (Err(doubt), true) => {
            tracing::debug!(doubt, "the full scan judges no earlier run");
            Found::Nothing
        }
    }
}

/// Whether this run reads everything although there is a base, because that is due.
pub(super) fn is_full_scan_due(frozen: &Frozen, request: &Request) -> bool {
    // Without an image no index is of use, and none is looked for.
    frozen.image().is_some()
        && newest_base(frozen, &IndexStore::at(&request.state_dir))
            .is_some_and(|(_, facts)| is_due(&facts, request))
}

fn is_due(facts: &Facts, request: &Request) -> bool {
    facts.is_full_scan_due(request.reuse.full_scan_every, now())
}

fn newest_base(frozen: &Frozen, store: &IndexStore) -> Option<(IndexKey, Facts)> {
    newest(store, &volume_text(frozen.volume())?)
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

/// Where a run keeps the values of the pages: they make the index of an image, and save reading what a
/// target has already. A run that has no room for them works without.
pub(super) fn page_table(
    request: &Request,
    frozen: &Frozen,
    geometry: Geometry,
) -> Result<Option<PageTable>, String> {
    if frozen.image().is_none() {
        return Ok(PageTable::if_small(geometry, &request.scratch));
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
        Some(finish) if is_wanted && image.can_be_a_base() && keeps(request, image) => {
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
    finish: LastWord,
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
    if known.base.is_none() {
        let reliance = Reliance::of(&request.state_dir, &volume);
        let ended = reliance.change(Document::chain_ended);
        ended.map_err(|error| sentence(&error))?;
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

pub(super) fn volume_text(volume: &Path) -> Option<String> {
    VolumeKey::from_path(volume)
        .ok()
        .map(|key| key.as_str().to_owned())
}
