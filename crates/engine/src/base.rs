//! Values of an earlier run that still hold, by the word of a snapshot's delta: of a source or of a
//! target.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use lockstep_index::Index;
use lockstep_index::inherit::{Delta, Inheritance, SampleSeed, plan};
use lockstep_merkle::{GROUP_SIZE, Geometry, GroupIndex, group_cv};
use lockstep_snapshot::{Provider, Snapshot};
use lockstep_volume::{IoFailure, Volume};
use rayon::prelude::{IntoParallelRefIterator, ParallelIterator};

/// Values that need not be measured again.
pub(crate) struct Base {
    pub(crate) index: Index,
    pub(crate) inheritance: Inheritance,
}

/// What was found of an earlier run.
pub(crate) enum Found {
    /// Nothing that could be of use.
    Nothing,
    /// Something, but there is a doubt, in one clause.
    Doubt(String),
    /// All that is needed.
    Base(Box<Base>),
}

impl Base {
    /// What of an index, which is that of the snapshot `base`, holds in the snapshot `now` too; or
    /// the doubt that stands in the way.
    pub(crate) fn by_delta(
        provider: &dyn Provider,
        index: Index,
        base: &Snapshot,
        now: &Snapshot,
    ) -> Result<Base, String> {
        let changed = provider
            .delta(base, now)
            .map_err(|doubt| doubt.to_string())?;
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(|error| format!("no random bytes: {error}"))?;
        let delta = Delta {
            base: index.geometry(),
            now: Geometry::new(now.size),
            changed: changed.ranges(),
        };
        let inheritance = plan(delta, SampleSeed(seed)).map_err(|error| error.to_string())?;
        Ok(Base { index, inheritance })
    }

    /// Reads the sample and the edges, which have to be as they were.
    ///
    /// # Errors
    /// The first failure of the volume.
    pub(crate) fn holds(
        &self,
        volume: &dyn Volume,
        geometry: Geometry,
        pool: &rayon::ThreadPool,
        bytes_read: &AtomicU64,
    ) -> Result<bool, IoFailure> {
        let groups: Vec<GroupIndex> = self
            .inheritance
            .reads()
            .iter()
            .flatten()
            .map(GroupIndex)
            .filter(|group| self.inheritance.must_match(*group))
            .collect();
        let holds = AtomicBool::new(true);
        pool.install(|| {
            groups.par_iter().try_for_each_init(
                || vec![0; GROUP_SIZE],
                |buffer, group| {
                    let bytes = &mut buffer[..geometry.group_len(*group)];
                    volume.read_at(geometry.group_range(*group).start, bytes)?;
                    bytes_read.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                    if group_cv(geometry, *group, bytes) != self.index.cv(*group) {
                        holds.store(false, Ordering::Relaxed);
                    }
                    Ok(())
                },
            )
        })?;
        Ok(holds.load(Ordering::Relaxed))
    }
}
