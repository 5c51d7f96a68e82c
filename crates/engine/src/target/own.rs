//! What a target knows of itself from its last run, so that it need not be read again.
//!
//! ```text
//! a run that proved it:  seal ─► let go ─► snapshot ─► nobody wrote in between? ─► index of the snapshot
//!
//! the next run:  snapshot ─► delta since that one ─► sample, edges and what changed are read ─► compare
//!                   └──── released at once               │ not as the index says
//!                                                        ▼
//!                                       alarm, `inconsistent`, no more deltas, read all
//! ```
//!
//! # Why the index is that of the snapshot
//!
//! Its values are those of [`Values`](super::values::Values), which fold to the root that the run
//! proved: an index that does not is not written.
//! That nobody else changed the target between then and the snapshot is what
//! [`Target::stamp`](lockstep_volume::Target::stamp) proves, from the opening on: without that
//! proof, or if the file is not just as it was let go, the snapshot is released and no index is
//! written. The snapshot cannot be made sooner: as long as the seal holds, nobody can open the file.
//!
//! Once it is written, the index stays true whatever happens to the target, because its snapshot
//! does not change. What happened to the target is in the delta. So all that has to be believed is
//! the provider's word for what did not change between two immutable images, which is tested by the
//! sample and the edges.
//!
//! # When it is used
//!
//! The ledger says `consistent`, of this file, with the index's root; the run compares, does not
//! verify everything, and resizes nothing; deltas are believed; and the last full scan is not too
//! long ago. Otherwise the target is scanned, and if there is an index all the same, the user is
//! told why it is not used.
//!
//! # What is done when, and what a crash leaves
//!
//! | step | what is there | the next run |
//! | --- | --- | --- |
//! | snapshot of now made | index and its snapshot, another one | releases the other one |
//! | it is released | index and its snapshot | uses them |
//! | ledger says `inconsistent` | the same | scans from the medium |
//! | index removed, durably | its snapshot | releases it |
//! | its snapshot released; only now the first byte is written | nothing | scans |
//! | ledger says `consistent` | nothing, or the old ones if nothing was written | scans, or uses them if the roots are equal |
//! | snapshot made | it too | releases it |
//! | index written | both, perhaps the older snapshot | uses them, releases the older one |
//!
//! No snapshot pins anything while the target is written: that costs no space that was not needed
//! without them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use lockstep_index::{Facts, IndexKey, IndexStore, Lineage, Unusable};
use lockstep_merkle::{Geometry, Root};
use lockstep_protocol::{Failure, FailureKind};
use lockstep_snapshot::{
    Atomicity, Chosen, Provider, Registry, Snapshot, SnapshotName, Told, VolumeName, choose,
};

use super::place::Untouched;
use crate::base::{Base, Found};
use crate::clock::now;
use crate::distrust;
use crate::failures::sentence;
use crate::pages::PageTable;
use crate::request::{KeepBase, Reuse};
use crate::snapshots::{release_base, release_leftovers};

/// After the run's name, in the name of the snapshot that shows what a run finds.
const FOUND: &str = ".found";
/// The same for what a run leaves.
const LEFT: &str = ".left";

/// A target file's past and future.
pub(super) struct Own {
    /// Without symbolic links.
    pub(super) path: PathBuf,
    /// Its name in the ledger.
    pub(super) volume: String,
    pub(super) state_dir: PathBuf,
    pub(super) run: String,
    pub(super) reuse: Reuse,
    pub(super) registry: Registry,
    pub(super) past: Past,
    /// Whether it is still to be made.
    pub(super) is_new: bool,
}

/// Whether an index can be of use.
pub(super) enum Past {
    /// The ledger says that it is consistent: as this file, with this root.
    Known { identity: String, root: Root },
    /// Not in this run: everything is read, or written, because that was asked for.
    Unwanted,
    /// Not in this run, for this reason, in one clause.
    Doubtful(&'static str),
}

/// What a run proved.
pub(super) struct Proved {
    pub(super) identity: String,
    pub(super) root: Root,
    pub(super) geometry: Geometry,
    /// The values of its pages, or why there are none.
    pub(super) pages: Result<Option<Arc<PageTable>>, String>,
    /// Of the index that values were inherited from.
    pub(super) ancestor: Option<(Lineage, u64)>,
    pub(super) untouched: Option<Untouched>,
}

impl Own {
    /// Looks for what need not be read, and cleans up after runs that were killed.
    pub(super) fn find(&self) -> Found {
        let Some(chosen) = self.chosen() else {
            return Found::Nothing;
        };
        let Some(provider) = self.registry.named(chosen.provider) else {
            return Found::Nothing;
        };
        release_leftovers(&self.state_dir, provider, &self.path);
        match self.usable(provider) {
            Ok(base) => base.map_or(Found::Nothing, |base| Found::Base(Box::new(base))),
            Err(doubt) => Found::Doubt(doubt),
        }
    }

    /// What holds of an index; `None` if there is none, or none is wanted.
    fn usable(&self, provider: &dyn Provider) -> Result<Option<Base>, String> {
        let every = self.reuse.full_scan_every;
        let is_due = |facts: Facts| facts.is_full_scan_due(every, now());
        if !self.reuse.delta || self.saved().is_some_and(is_due) {
            return Ok(None);
        }
        let (identity, root) = match &self.past {
            Past::Unwanted => return Ok(None),
            Past::Doubtful(_) if !self.has_index() => return Ok(None),
            Past::Doubtful(why) => return Err((*why).to_owned()),
            Past::Known { identity, root } => (identity, root),
        };
        let index = match self.store().load(&self.key(), identity) {
            Err(Unusable::Missing) => return Ok(None),
            index => index.map_err(|unusable| sentence(&unusable))?,
        };
        if let Some(why) = distrust::reason(&self.state_dir, &self.path) {
            return Err(why);
        }
        if index.root() != *root {
            return Err("the hash index is not of the run that the ledger speaks of".to_owned());
        }
        let base: Snapshot = serde_json::from_slice(&index.facts().snapshot)
            .map_err(|error| format!("the base snapshot's description cannot be read: {error}"))?;
        let found = self.snapshot(provider, FOUND)?;
        let inherited = Base::by_delta(provider, index, &base, &found);
        release(provider, &found);
        inherited.map(Some)
    }

    /// Where the values of the pages are kept, if an index can come of them: whether the target can
    /// be snapshotted is asked before anything is read.
    pub(super) fn page_table(
        &self,
        geometry: Geometry,
        scratch: &Path,
    ) -> Result<Option<PageTable>, String> {
        let may_leave = self.reuse.keep_base != KeepBase::Never;
        let can_be_snapshotted = || match self.is_new {
            true => (self.registry.iter()).any(|provider| provider.suits_new_file(&self.path)),
            false => self.chosen().is_some(),
        };
        if !may_leave || !can_be_snapshotted() {
            return Ok(None);
        }
        PageTable::new(geometry, scratch)
            .map(Some)
            .map_err(|error| sentence(&error))
    }

    /// Stops believing deltas of this target; returns what was not possible.
    pub(super) fn distrust_from_now_on(&self) -> Option<String> {
        distrust::from_now_on(&self.state_dir, &self.path)
    }

    /// Lets go of the index, durably, then of its snapshot: the target is about to be written.
    ///
    /// # Errors
    /// If the index may still be there after a crash; then the target must not be written.
    pub(super) fn forget(&self) -> Result<(), Failure> {
        let saved = self.saved();
        self.store().remove(&self.key()).map_err(|error| {
            Failure::new(FailureKind::Io, format!("index: {}", sentence(&error)))
                .hint("give a writable folder with --state-dir")
        })?;
        if let Some(facts) = saved {
            release_base(&self.registry, &facts);
        }
        Ok(())
    }

    /// Leaves a snapshot and its index for the next run; to be called once the target was let go.
    ///
    /// # Errors
    /// Why the next run has to read everything, in one clause.
    pub(super) fn leave(&self, proved: Proved) -> Result<(), String> {
        let older = self.saved();
        let kept = self.keep(proved);
        if let (Ok(true), Some(older)) = (&kept, older) {
            release_base(&self.registry, &older);
        }
        if !matches!(kept, Ok(true))
            && let Err(failure) = self.forget()
        {
            // It is true of its snapshot still; it only is not wanted any more.
            tracing::warn!("an old index stays: {}", failure.message);
        }
        kept.map(|_| ())
    }

    /// Whether there is an index of the target now.
    fn keep(&self, proved: Proved) -> Result<bool, String> {
        let Some(chosen) = self.chosen() else {
            return Ok(false);
        };
        let Some(provider) = self.registry.named(chosen.provider) else {
            return Ok(false);
        };
        release_leftovers(&self.state_dir, provider, &self.path);
        if !self.reuse.keep_base.has_room(chosen.fitness.space) {
            return Ok(false);
        }
        let Some(pages) = proved.pages.as_ref().map_err(Clone::clone)? else {
            return Ok(false);
        };
        let untouched = proved
            .untouched
            .as_ref()
            .ok_or("it cannot be proved that nobody else wrote it during the run")?;
        let left = self.snapshot(provider, LEFT)?;
        let saved = match untouched() {
            true => self.save(&left, &proved, pages),
            false => Err("somebody wrote it at the end of the run".to_owned()),
        };
        if saved.is_err() {
            release(provider, &left);
        }
        saved.map(|()| true)
    }

    fn save(&self, snapshot: &Snapshot, proved: &Proved, pages: &PageTable) -> Result<(), String> {
        if snapshot.size != proved.geometry.size() {
            return Err("its snapshot has another size".to_owned());
        }
        let (lineage, last_full_scan_unix_ms) = match proved.ancestor {
            Some((lineage, scanned)) => (lineage.inherited(), scanned),
            None => (Lineage::FullScan, now()),
        };
        let facts = Facts {
            identity: proved.identity.clone(),
            snapshot: serde_json::to_vec(snapshot).map_err(|error| error.to_string())?,
            geometry: proved.geometry,
            root: proved.root,
            lineage,
            last_full_scan_unix_ms,
            created_unix_ms: now(),
        };
        self.store()
            .save(&self.key(), &facts, pages.cvs())
            .map_err(|error| sentence(&error))
    }

    /// The best provider, if its images are of one instant and it tells what changed.
    fn chosen(&self) -> Option<Chosen> {
        choose(&self.path, &self.registry).chosen.filter(|chosen| {
            chosen.fitness.atomicity == Atomicity::Instant && chosen.fitness.delta == Told::Changes
        })
    }

    fn snapshot(&self, provider: &dyn Provider, which: &str) -> Result<Snapshot, String> {
        let run = format!("{}{which}", self.run);
        let name = SnapshotName::new(&VolumeName::of_path(&self.path), &run)
            .map_err(|error| error.to_string())?;
        let made = provider.create(&self.path, &name);
        made.map_err(|error| format!("no snapshot of it could be made: {}", sentence(&error)))
    }

    /// What the index that is there says of itself.
    fn saved(&self) -> Option<Facts> {
        let key = self.key();
        let listed = self.store().list().unwrap_or_default();
        let mut headers = listed.into_iter().filter_map(|listed| listed.header.ok());
        headers.find(|(of, _)| *of == key).map(|(_, facts)| facts)
    }

    /// Whether there is one, whatever it is worth.
    fn has_index(&self) -> bool {
        // No file is known by an empty identity: the values are not even looked at.
        !matches!(self.store().load(&self.key(), ""), Err(Unusable::Missing))
    }

    fn store(&self) -> IndexStore {
        IndexStore::at(&self.state_dir)
    }

    fn key(&self) -> IndexKey {
        IndexKey::target(&self.volume)
    }
}

/// The next run finds what stays.
fn release(provider: &dyn Provider, snapshot: &Snapshot) {
    if let Err(error) = provider.release(snapshot) {
        tracing::warn!("{} stays: {}", snapshot.name, sentence(&error));
    }
}
