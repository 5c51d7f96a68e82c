//! A delta that is caught at a lie, and everybody who was proved on its word.
//!
//! 1. It is written down that this source's deltas are not believed, and its indexes go.
//! 2. The runs since the last full scan, and their targets, are written down as doubted.
//! 3. The targets of this run are told, before anything else that they hear; each answers once its
//!    record is taken back.
//! 4. Volumes in the ledger of this state directory are taken back at once.
//! 5. Who else is concerned is named, in this run and in each later one until it was reached.
//!
//! A kill after 1 is made good by the next run, which finds the source's deltas not believed and
//! doubts whoever rests on them.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use lockstep_ledger::{Downgrades, Ledger, RunFacts, VolumeKey};
use lockstep_protocol::{Failure, FailureKind, Purpose};

use super::reliance::{Document, Place, Reliance, RunName, Unknown};
use super::target::Target;
use super::{Run, base};
use crate::clock::now;
use crate::distrust;
use crate::doubt::{doubt_about, run_name};
use crate::failures::sentence;
use crate::request::{Request, TargetSpec};

const ALARM: &str = "ALARM: what the snapshot's delta calls unchanged is not. What was proved on its word since the last full scan is taken back; everything is read now, and from now on";

/// Who rests on the deltas of a source, and who takes part in this run.
pub(super) struct Reliants {
    /// `None` if the source's name cannot be written down; then no index of it is kept either.
    reliance: Option<Reliance>,
    /// One for each target of the run.
    places: Vec<Place>,
    keys: Vec<VolumeKey>,
    is_caught: AtomicBool,
}

impl Reliants {
    pub(super) fn of(request: &Request, volume: &Path) -> Reliants {
        let volume = base::volume_text(volume);
        let keys = |spec: &TargetSpec| {
            let path = spec.connect.local_path(&request.state_dir)?;
            VolumeKey::from_path(path).ok()
        };
        let keys: Vec<Option<VolumeKey>> = request.targets.iter().map(keys).collect();
        let places = request.targets.iter().zip(&keys);
        Reliants {
            reliance: volume.map(|volume| Reliance::of(&request.state_dir, &volume)),
            places: places
                .map(|(spec, key)| Place {
                    name: spec.name.clone(),
                    volume: key.as_ref().map(|key| key.as_str().to_owned()),
                })
                .collect(),
            keys: keys.into_iter().flatten().collect(),
            is_caught: AtomicBool::new(false),
        }
    }

    fn change(&self, change: impl FnOnce(&mut Document)) -> Option<Result<Document, Unknown>> {
        Some(self.reliance.as_ref()?.change(change))
    }

    fn takes_part(&self, place: &Place) -> bool {
        self.places.iter().any(|own| own.is(place))
    }
}

/// The failure of a run whose base was caught by another one.
pub(super) fn doubted_meanwhile() -> Failure {
    Failure::new(
        FailureKind::Temporary,
        "another run found that the snapshot's delta, on which this one rests, hid changes",
    )
    .hint("run the same command again: it reads everything")
}

impl Run<'_> {
    /// Before any target is reached: who is still doubted from an earlier run.
    pub(super) fn tell_of_earlier_doubts(&self) {
        let Some(reliance) = &self.reliants.reliance else {
            return;
        };
        let is_distrusted =
            distrust::reason(&self.request.state_dir, self.frozen.volume()).is_some();
        let looked = match is_distrusted {
            // The run that found out may have been killed before it could write down more.
            true => reliance.change(Document::caught),
            false => reliance.look(),
        };
        match looked {
            Ok(document) => self.doubt(&document),
            Err(unknown) => self.warn(sentence(&unknown)),
        }
    }

    /// A delta of this source hid changes. Called from any thread; the first call does it all.
    pub(super) fn caught(&self) {
        if self.reliants.is_caught.swap(true, Ordering::SeqCst) {
            return;
        }
        self.warn(ALARM.to_owned());
        if let Some(trouble) = distrust::from_now_on(&self.request.state_dir, self.frozen.volume())
        {
            self.warn(trouble);
        }
        match self.reliants.change(Document::caught) {
            Some(Ok(document)) => self.doubt(&document),
            Some(Err(unknown)) => self.warn(sentence(&unknown)),
            None => {}
        }
    }

    /// Tells the targets, takes back what is in this ledger, names the others.
    fn doubt(&self, document: &Document) {
        let runs = runs_of(document);
        if runs.is_empty() {
            return;
        }
        self.feed.doubt(&runs);
        let settled = self.take_back_here(document, self.claimed());
        let left = document.doubted_targets();
        let is_settled = |place: &Place| settled.iter().any(|settled| settled.is(place));
        for place in left.iter().filter(|place| !is_settled(place)) {
            if !self.is_told(place) {
                self.warn(format!(
                    "{} may differ from the source: it was proved on the word of a delta that hid changes, and this run does not reach it. Sync it; its record is taken back first",
                    place.name
                ));
            }
        }
    }

    /// Volumes whose records a target of this run has claimed, or is about to.
    fn claimed(&self) -> &[VolumeKey] {
        match self.request.purpose {
            Purpose::Sync => &self.reliants.keys,
            Purpose::Compare => &[],
        }
    }

    /// Whether the place hears of the doubt from this run.
    fn is_told(&self, place: &Place) -> bool {
        self.request.purpose == Purpose::Sync && self.reliants.takes_part(place)
    }

    /// Takes back the records that are in the ledger of this state directory, but for those of
    /// `except`. Returns whose records rest on a doubted run no longer.
    fn take_back_here(&self, document: &Document, except: &[VolumeKey]) -> Vec<Place> {
        let is_near = |place: &Place| {
            let text = place.volume.as_deref();
            text.is_some_and(|text| !except.iter().any(|key| key.as_str() == text))
        };
        let mut near = document.doubted_targets();
        near.retain(is_near);
        if near.is_empty() {
            return Vec::new();
        }
        let found = match self.downgrade(document, except) {
            Ok(found) => found,
            Err(why) => {
                self.warn(format!("records were not taken back: {why}"));
                return Vec::new();
            }
        };
        near.retain(|place| !has(&found.busy, place));
        for place in near.iter().filter(|place| has(&found.downgraded, place)) {
            self.warn(format!(
                "{} is `inconsistent` from now on: it was proved on the word of a delta that hid changes. Sync it",
                place.name
            ));
        }
        if let Some(Err(unknown)) = self.reliants.change(|document| document.settled(&near)) {
            self.warn(sentence(&unknown));
        }
        near
    }

    fn downgrade(&self, document: &Document, except: &[VolumeKey]) -> Result<Downgrades, String> {
        let by = RunFacts {
            run: run_name(&self.name),
            source: self.request.source.display().to_string(),
            who: self.request.who.clone(),
            started_unix_ms: now(),
            epoch: 0,
        };
        let doubt = doubt_about(&runs_of(document));
        Ledger::open(&self.request.state_dir)
            .and_then(|ledger| ledger.doubt(&doubt, &by, except))
            .map_err(|error| sentence(&error))
    }

    /// Writes down, durably, that the targets of this run may come to rest on a delta; why not, in
    /// one clause.
    pub(super) fn write_down_who_rests(&self) -> Result<(), String> {
        if self.request.purpose != Purpose::Sync {
            return Ok(());
        }
        let reliance = (self.reliants.reliance.as_ref()).ok_or("the source has no name")?;
        let known = reliance.look().map_err(|unknown| sentence(&unknown))?;
        if known.is_full() {
            return Err("too many runs since the last full scan rest on deltas".to_owned());
        }
        reliance
            .change(|document| document.rests(RunName(self.name), self.reliants.places.clone()))
            .map(drop)
            .map_err(|unknown| sentence(&unknown))
    }

    /// Whether another run has caught what this one takes over.
    pub(super) fn is_doubted_meanwhile(&self) -> bool {
        let Some(reliance) = self.reliants.reliance.as_ref().filter(|_| self.rests()) else {
            return false;
        };
        // Who cannot look has no reason to trust.
        (reliance.look()).map_or(true, |document| document.doubts(RunName(self.name)))
    }

    /// At the end: who may rest on this run, and who rests on a doubted one no longer.
    pub(super) fn settle_doubts(&self) {
        let doubts = self.feed.doubts_beyond(0).len();
        if !self.rests() && doubts == 0 {
            return;
        }
        let name = RunName(self.name);
        let changed = self.reliants.change(|document| {
            if self.rests() {
                document.ended(name, &self.places_of(Target::may_be_marked));
            }
            // A mark by a doubted run is not worth more than what it replaced.
            let is_proved = |target: &Target| target.is_verified() && !document.doubts(name);
            let settled = self.places_of(|target| {
                self.request.purpose == Purpose::Sync
                    && (is_proved(target) || target.has_settled(doubts))
            });
            document.settled(&settled);
        });
        match changed {
            Some(Ok(document)) if doubts > 0 => self.name_who_is_left(&document),
            Some(Err(unknown)) => self.warn(sentence(&unknown)),
            Some(Ok(_)) | None => {}
        }
    }

    /// Targets of this run that did not hear of the doubt: their records can be had now.
    fn name_who_is_left(&self, document: &Document) {
        let settled = self.take_back_here(document, &[]);
        let mut left = document.doubted_targets();
        left.retain(|place| {
            self.is_told(place) && !settled.iter().any(|settled| settled.is(place))
        });
        for place in left {
            self.warn(format!(
                "{} may differ from the source: it was proved on the word of a delta that hid changes, and did not answer. Sync it; its record is taken back first",
                place.name
            ));
        }
    }

    fn rests(&self) -> bool {
        self.base.get().is_some()
    }

    fn places_of(&self, wanted: impl Fn(&Target) -> bool) -> Vec<Place> {
        let targets = self.targets.iter().zip(&self.reliants.places);
        targets
            .filter(|(target, _)| wanted(target))
            .map(|(_, place)| place.clone())
            .collect()
    }
}

fn runs_of(document: &Document) -> Vec<[u8; 16]> {
    let runs = document.doubted_runs().into_iter();
    runs.map(|RunName(bytes)| bytes).collect()
}

fn has(keys: &[VolumeKey], place: &Place) -> bool {
    keys.iter()
        .any(|key| Some(key.as_str()) == place.volume.as_deref())
}
