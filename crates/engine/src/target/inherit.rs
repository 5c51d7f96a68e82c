//! What a run takes over from the target's past, and hands on.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use lockstep_ledger::ProofLevel;
use lockstep_merkle::Root;
use lockstep_protocol::{Evidence, Failure, TargetFrame, Text};
use lockstep_transport::LinkSender;
use lockstep_volume::OtherWriters;

use super::own::{Own, Proved};
use super::work::Work;
use crate::base::{Base, Found};
use crate::scan::ScanFrom;

/// A proved target's word to its next run, still to be left.
pub(super) struct Legacy {
    own: Arc<Own>,
    proved: Proved,
}

impl Work<'_> {
    /// What an earlier run left, once its word was tested.
    pub(super) fn find_base(&self, pool: &rayon::ThreadPool) -> Result<Option<&Base>, Failure> {
        let Some(own) = &self.own else {
            return Ok(None);
        };
        let base = match own.find() {
            Found::Nothing => return Ok(None),
            Found::Doubt(doubt) => {
                warn(
                    self.sender,
                    &format!("everything of the target is read: {doubt}"),
                );
                return Ok(None);
            }
            Found::Base(base) => base,
        };
        let holds = base
            .holds(
                self.volume.as_ref(),
                self.geometry,
                pool,
                &self.counts.bytes_read,
                &|_| {},
            )
            .map_err(|error| self.disk_failed(&error))?;
        if holds {
            return Ok(Some(self.base.get_or_init(|| base)));
        }
        self.alarm(own)?;
        Ok(None)
    }

    /// The ledger's word rests on what has just been found wrong.
    fn alarm(&self, own: &Own) -> Result<(), Failure> {
        self.marks().disown(self.volume.durable_identity())?;
        warn(
            self.sender,
            "ALARM: what the snapshot's delta calls unchanged in the target is not; it may have differed from its source since an earlier run. Everything of it is read now, and from now on",
        );
        if let Some(trouble) = own.distrust_from_now_on() {
            warn(self.sender, &trouble);
        }
        Ok(())
    }

    /// How much both sides have read for the proof.
    pub(super) fn proof_level(&self, evidence: Evidence) -> ProofLevel {
        match evidence {
            Evidence::None | Evidence::Full if !self.has_inherited() => ProofLevel::Full,
            _ => ProofLevel::Delta,
        }
    }

    fn has_inherited(&self) -> bool {
        self.counts.bytes_inherited.load(Ordering::Relaxed) > 0
    }

    /// Whether values that were measured, or taken over, may hold no longer: somebody wrote the
    /// target meanwhile. To be asked once it is sealed.
    ///
    /// Where nobody can tell, what was measured in this run counts, and what was taken over does not:
    /// that it still held was proved for the moment of the snapshot only.
    pub(super) fn is_outdated(&self) -> bool {
        match self.volume.other_writers() {
            OtherWriters::Nobody => false,
            OtherWriters::Perhaps => self.has_inherited(),
            OtherWriters::Somebody => true,
        }
    }

    /// Measures everything once more, from the medium, and takes nothing over.
    pub(super) fn measure_again(&self, pool: &rayon::ThreadPool) -> Result<(), Failure> {
        let why = match self.volume.other_writers() {
            OtherWriters::Somebody => "another program had it open for writing during the run",
            _ => "whether another program wrote it during the run cannot be told",
        };
        let told = format!("everything of the target is read once more: {why}");
        warn(self.sender, &told);
        self.counts.bytes_inherited.store(0, Ordering::Relaxed);
        self.measure(pool, ScanFrom::Medium, None, &|| false, &|_, _| {})
    }

    /// What is left for the next run, if the target can be snapshotted. To be called before the
    /// target is let go.
    pub(super) fn legacy(&self, root: Root, identity: String) -> Option<Legacy> {
        let ancestor = self.base.get().map(|base| {
            let facts = base.index.facts();
            (facts.lineage, facts.last_full_scan_unix_ms)
        });
        Some(Legacy {
            own: Arc::clone(self.own.as_ref()?),
            proved: Proved {
                identity,
                root,
                geometry: self.geometry,
                pages: self.values.0.clone(),
                ancestor,
                untouched: self.volume.untouched(),
            },
        })
    }
}

impl Legacy {
    /// Leaves it, or says what the next run will miss.
    pub(super) fn leave(self, sender: &LinkSender) {
        if let Err(why) = self.own.leave(self.proved) {
            warn(
                sender,
                &format!("the next run will read everything of the target: {why}"),
            );
        }
    }
}

/// Tells the user, at the source's end.
fn warn(sender: &LinkSender, message: &str) {
    tracing::warn!("{message}");
    let frame = TargetFrame::Warning(Text::new(message));
    // A source that is gone needs no warning.
    let _ = sender.control(Bytes::from(frame.encode()));
}
