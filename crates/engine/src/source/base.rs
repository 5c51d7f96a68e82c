//! What an earlier run knows of the source: the values of its pages, and which of them still hold.
//!
//! ```text
//!   base snapshot + its index ─┐
//!                              ├─ delta ─► plan ─► sample and edges are read: all as before?
//!   new snapshot ──────────────┘                     │ yes                     │ no
//!                                                    ▼                         ▼
//!                              only what changed is read        alarm, no more deltas, read all
//! ```
//! Any doubt on the way means that everything is read; it is told, and is no failure.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use lockstep_index::inherit::{Delta, Inheritance, SampleSeed, plan};
use lockstep_index::{Facts, Index, IndexKey, IndexStore, Lineage, Side};
use lockstep_ledger::VolumeKey;
use lockstep_merkle::{
    Cv, EXTENT_SIZE, Geometry, PAGES_PER_EXTENT, PAGES_PER_GROUP, PageIndex, page_cvs,
};
use lockstep_protocol::{Evidence, Purpose};
use lockstep_snapshot::Snapshot;
use lockstep_volume::{IoFailure, Volume};
use rayon::prelude::{ParallelIterator, ParallelSlice};

use super::feed::{Feed, Finish};
use super::frozen::{Frozen, FrozenImage};
use crate::clock::now;
use crate::failures::sentence;
use crate::pages::{PageTable, bytes_of};
use crate::request::{KeepBase, Request};

/// Of what the base may come to pin, this part must be free for it to be kept: one in ten.
const FREE_PART: u64 = 10;
/// Runs of pages that are asked of the disk at once, for each thread that checks them.
const RUNS_AT_ONCE: usize = 64;
/// Folder of the state directory that names the volumes whose deltas are not believed any more.
const DISTRUSTED: &str = "distrusted";

/// Values that need not be measured again.
pub(super) struct Base {
    pub(super) index: Index,
    pub(super) inheritance: Inheritance,
}

/// What was found of an earlier run.
pub(super) enum Found {
    /// Nothing that could be of use.
    Nothing,
    /// Something, but there is a doubt, in one clause.
    Doubt(String),
    /// All that is needed.
    Base(Box<Base>),
}

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

fn usable(
    frozen: &Frozen,
    image: &FrozenImage,
    request: &Request,
    store: &IndexStore,
    key: &IndexKey,
    facts: &Facts,
) -> Result<Base, String> {
    if let Some(why) = distrust(request, frozen.volume()) {
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
    let changed = provider
        .delta(&base, &image.snapshot)
        .map_err(|doubt| doubt.to_string())?;
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|error| format!("no random bytes: {error}"))?;
    let delta = Delta {
        base: index.geometry(),
        now: Geometry::new(image.snapshot.size),
        changed: changed.ranges(),
    };
    let inheritance = plan(delta, SampleSeed(seed)).map_err(|error| error.to_string())?;
    Ok(Base { index, inheritance })
}

impl Base {
    /// Reads the sample and the edges, which have to be as they were.
    ///
    /// # Errors
    /// The first failure of the volume.
    pub(super) fn holds(
        &self,
        volume: &dyn Volume,
        geometry: Geometry,
        pool: &rayon::ThreadPool,
        bytes_read: &AtomicU64,
    ) -> Result<bool, IoFailure> {
        let checks: Vec<Range<u64>> = self.inheritance.checks().iter().flat_map(pieces).collect();
        let holds = AtomicBool::new(true);
        pool.install(|| {
            checks.par_chunks(RUNS_AT_ONCE).try_for_each_init(
                || vec![0; EXTENT_SIZE],
                |buffer, checks| {
                    self.fetch(volume, geometry, checks);
                    for pages in checks {
                        let range = bytes_of(geometry, pages);
                        let bytes = &mut buffer[..(range.end - range.start) as usize];
                        volume.read_at(range.start, bytes)?;
                        bytes_read.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                        if !self.has(geometry, pages, bytes) {
                            holds.store(false, Ordering::Relaxed);
                        }
                    }
                    Ok(())
                },
            )
        })?;
        Ok(holds.load(Ordering::Relaxed))
    }

    /// Has the disk bring what is read next, all at once, and a short changed run together with the
    /// edges around it: it is read right after.
    fn fetch(&self, volume: &dyn Volume, geometry: Geometry, checks: &[Range<u64>]) {
        let [first, .., last] = checks else {
            return;
        };
        for run in self.inheritance.reads().within(first.start..last.end) {
            if run.end - run.start <= PAGES_PER_GROUP as u64 {
                volume.will_need(bytes_of(geometry, &run));
            }
        }
    }

    /// Whether the pages are as they were.
    fn has(&self, geometry: Geometry, pages: &Range<u64>, bytes: &[u8]) -> bool {
        let mut cvs = [Cv::from_bytes([0; 32]); PAGES_PER_EXTENT];
        let cvs = &mut cvs[..(pages.end - pages.start) as usize];
        page_cvs(geometry, PageIndex(pages.start), bytes, cvs);
        let mut pairs = pages.clone().map(PageIndex).zip(cvs);
        pairs.all(|(page, cv)| self.index.cv(page) == *cv)
    }
}

/// A run of pages in parts that a buffer of one extent holds.
fn pieces(run: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let starts = run.clone().step_by(PAGES_PER_EXTENT);
    starts.map(move |start| start..run.end.min(start + PAGES_PER_EXTENT as u64))
}

/// Stops believing deltas of this volume until somebody has looked; returns what was not possible.
pub(super) fn distrust_from_now_on(frozen: &Frozen, request: &Request) -> Option<String> {
    let failed = |error: &dyn std::error::Error| {
        Some(format!(
            "that could not be written down: {}",
            sentence(error)
        ))
    };
    let path = distrusted(request, frozen.volume())?;
    let text = format!(
        "a snapshot's delta of {} hid changes; remove this file to have deltas believed again\n",
        frozen.volume().display()
    );
    let made = path.parent().map_or(Ok(()), std::fs::create_dir_all);
    if let Err(error) = made.and_then(|()| std::fs::write(&path, text)) {
        return failed(&error);
    }
    let store = IndexStore::at(&request.state_dir);
    let volume = volume_text(frozen.volume())?;
    for (key, _) in of_source(&store, &volume) {
        if let Err(error) = store.remove(&key) {
            return failed(&error);
        }
    }
    None
}

fn distrust(request: &Request, volume: &Path) -> Option<String> {
    let path = distrusted(request, volume)?;
    path.exists().then(|| {
        format!(
            "an earlier delta of this volume hid changes (remove {} to have deltas believed again)",
            path.display()
        )
    })
}

fn distrusted(request: &Request, volume: &Path) -> Option<PathBuf> {
    let name = blake3::hash(volume_text(volume)?.as_bytes()).to_hex();
    Some(request.state_dir.join(DISTRUSTED).join(&name[..32]))
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
    let space = image.space;
    let wanted = match request.reuse.keep_base {
        KeepBase::Never => false,
        KeepBase::AtMost(bytes) => space.at_risk <= bytes,
        KeepBase::WhileThereIsRoom => space.free >= space.at_risk / FREE_PART,
    };
    wanted && request.purpose == Purpose::Sync
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
        retire(image, &store, &key, &facts);
    }
    Ok(true)
}

/// The index goes after its snapshot, so that what is interrupted here is found by the next run.
fn retire(image: &FrozenImage, store: &IndexStore, key: &IndexKey, facts: &Facts) {
    if let Ok(snapshot) = serde_json::from_slice::<Snapshot>(&facts.snapshot)
        && let Err(error) = image.release(&snapshot)
    {
        tracing::warn!("{} stays: {}", snapshot.name, sentence(&error));
        return;
    }
    if let Err(error) = store.remove(key) {
        tracing::warn!("an old index stays: {}", sentence(&error));
    }
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
