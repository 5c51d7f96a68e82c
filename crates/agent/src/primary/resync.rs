//! A resync: every secondary of it is claimed before any is written; what was stopped is concluded.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use lockstep_cluster::claim::Epoch;
use lockstep_cluster::file::{Moment, Volume};
use lockstep_cluster::plan::{ChangeLimit, NodeState, Plan};
use lockstep_cluster::value::NodeName;
use lockstep_engine::FullScanEvery;
use lockstep_engine::{
    Consent, KeepBase, Outcome, PlanLine, Purpose, Request, Reuse, Scope, Stillness, TakenSnapshot,
    TargetOutcome, TargetSpec, Together, UndoMode, UndoPolicy, Verdict, VerifyScope, hash_volume,
    run,
};
use lockstep_merkle::Root;
use lockstep_protocol::{Failure, FailureKind, VolumeState};
use lockstep_volume::{IoEngine, probe_uring};

use super::part::{Opened, Part, Way};
use super::rates::{Measured, rate};
use super::tell::{Seen, Teller};
use super::{Driven, files, terms};
use crate::crash;
use crate::hook::About;
use crate::wire::{
    Aftermath, Ask, RunTerms, Told, UndoWord, VolumeEnded, WireFailure, WireOutcome, WriteAsk,
};

/// What has come of a secondary so far.
struct Slot {
    node: NodeName,
    /// Its calls, in the order of the volumes; none once it is out.
    parts: Vec<Arc<Part>>,
    /// For each volume.
    aftermath: Vec<Aftermath>,
    /// Why it is out, before anything was written there.
    failure: Option<Failure>,
    /// A volume of its group is not good there: no other one is written.
    is_out: bool,
}

/// How the end of a part went, for one volume.
type Concluded = (usize, Aftermath, Result<(), Failure>);

impl Driven {
    /// The whole of it; what came of each volume.
    pub(super) fn resync(&self, epoch: Epoch) -> Result<Vec<VolumeEnded>, Failure> {
        if !self.job.plans.is_empty() {
            self.refuse_stale_plans()?;
        }
        if self.job.volumes.len() > 1 && self.job.ask.max_change.is_some() {
            self.refuse_too_much()?;
        }
        let mut slots = self.claim(epoch)?;
        crash::point("primary.claimed");
        // Claiming may have waited for earlier runs.
        self.job.is_still_primary()?;
        self.prepare(&mut slots);
        crash::point("primary.stopped");
        let result = self.overwrite(&mut slots, epoch);
        if result.is_err() {
            // Nothing was written: what was stopped starts again.
            self.let_go(&mut slots);
        }
        result
    }

    /// Asks every secondary at once to let the run in. One that is fenced ends the run, before
    /// anything was stopped or written; one that cannot be had is left out.
    fn claim(&self, epoch: Epoch) -> Result<Vec<Slot>, Failure> {
        let claimed: Vec<_> = std::thread::scope(|scope| {
            let claims: Vec<_> = (self.job.targets.iter())
                .map(|node| scope.spawn(move || self.claim_on(node, epoch)))
                .collect();
            claims.into_iter().map(|claim| claim.join()).collect()
        });
        let mut slots = Vec::with_capacity(claimed.len());
        let mut fenced = None;
        for (node, claimed) in self.job.targets.iter().zip(claimed) {
            let claimed = claimed.unwrap_or_else(|_| {
                Err((
                    Failure::new(FailureKind::Internal, "a thread panicked"),
                    None,
                ))
            });
            let mut slot = Slot {
                node: node.clone(),
                parts: Vec::new(),
                aftermath: vec![Aftermath::default(); self.job.volumes.len()],
                failure: None,
                is_out: false,
            };
            match claimed {
                Ok(parts) => slot.parts = parts,
                Err((failure, promised)) => {
                    if failure.kind == FailureKind::Fenced {
                        fenced.get_or_insert((failure.clone(), promised));
                    }
                    slot.failure = Some(failure);
                }
            }
            slots.push(slot);
        }
        match fenced {
            // Dropping the calls gives the other claims up.
            Some((failure, promised)) => Err(fenced_by(failure, epoch, promised)),
            None => Ok(slots),
        }
    }

    fn claim_on(
        &self,
        node: &NodeName,
        epoch: Epoch,
    ) -> Result<Vec<Arc<Part>>, (Failure, Option<Epoch>)> {
        let mut parts = Vec::new();
        for (number, volume) in self.job.volumes.iter().enumerate() {
            let ask = Ask::Write(WriteAsk {
                volume: volume.name.clone(),
                id: volume.id,
                epoch,
                run: self.live.run.clone(),
                who: crate::wire::Words::new(&self.job.who),
                reason: self.job.ask.reason.clone(),
                adopt: self.job.ask.adopt.contains(node),
                hooks: self.runs_hooks(number),
                group: self.job.volumes.len() > 1,
            });
            let reached = self
                .reach()
                .call_in(&self.live.run, node, &ask)
                .map_err(|failure| (failure, None))?;
            match Part::opened(node, reached, &self.live.cancel)
                .map_err(|failure| (failure, None))?
            {
                Opened::Granted(part) => parts.push(Arc::new(part)),
                Opened::Refused(failure, promised) => return Err((failure, promised)),
            }
        }
        Ok(parts)
    }

    /// Of volumes with the same hooks, the first one's are run.
    fn runs_hooks(&self, number: usize) -> bool {
        let volumes = &self.job.volumes;
        !(volumes[..number].iter()).any(|other| other.hooks == volumes[number].hooks)
    }

    /// Files are sent and services stopped on every secondary; one where that fails is out.
    fn prepare(&self, slots: &mut [Slot]) {
        let own: Vec<_> = (self.job.volumes.iter())
            .map(|volume| files::own(&volume.files))
            .collect();
        std::thread::scope(|scope| {
            for slot in slots.iter_mut().filter(|slot| slot.failure.is_none()) {
                let own = &own;
                scope.spawn(move || {
                    let prepared = self.prepare_one(slot, own);
                    if let Err(failure) = prepared {
                        slot.failure = Some(failure);
                    }
                });
            }
        });
        // Untouched: whatever was stopped there starts again.
        self.conclude_where(slots, |slot| slot.failure.is_some());
    }

    /// Ends the parts of some nodes at once, without anything usable.
    fn conclude_where(&self, slots: &mut [Slot], wanted: impl Fn(&Slot) -> bool) {
        std::thread::scope(|scope| {
            for slot in slots.iter_mut().filter(|slot| wanted(slot)) {
                scope.spawn(move || {
                    if let Some(failure) = self.conclude_slot(slot, false) {
                        tracing::warn!(node = %slot.node, "{failure}");
                    }
                });
            }
        });
    }

    fn prepare_one(
        &self,
        slot: &mut Slot,
        own: &[Result<
            BTreeMap<lockstep_cluster::value::AbsolutePath, lockstep_cluster::plan::FileState>,
            Failure,
        >],
    ) -> Result<(), Failure> {
        for ((volume, part), own) in self.job.volumes.iter().zip(&slot.parts).zip(own) {
            let own = own.as_ref().map_err(Clone::clone)?;
            files::send(part, &volume.files, own, &self.live.cancel)?;
        }
        crash::point("primary.files");
        let volumes = self.job.volumes.iter().enumerate();
        for ((number, volume), part) in volumes.zip(&slot.parts) {
            if let Some(cause) = self.live.cancel.cause() {
                tracing::info!(?cause, "ended before anything was stopped");
                return Err(Failure::new(
                    FailureKind::Temporary,
                    "the run was cancelled",
                ));
            }
            part.stop(&volume.limits, &mut slot.aftermath[number])?;
        }
        Ok(())
    }

    /// Snapshot, scan, ship, verify, mark; and the end of every part.
    fn overwrite(&self, slots: &mut [Slot], epoch: Epoch) -> Result<Vec<VolumeEnded>, Failure> {
        if slots.iter().all(|slot| slot.failure.is_some()) {
            return Ok(self.nothing_reached(slots));
        }
        let is_group = self.job.volumes.len() > 1;
        let mut taken: Vec<Option<TakenSnapshot>> = match is_group {
            true => self
                .snapshot_together(epoch)?
                .into_iter()
                .map(Some)
                .collect(),
            false => vec![None],
        };
        let mut outcomes = Vec::new();
        if is_group && let Err(failure) = self.refuse_other_images(&taken) {
            for snapshot in taken.iter().flatten() {
                // The next run releases what stays.
                let _ = snapshot.release();
            }
            return Err(failure);
        }
        for (number, volume) in self.job.volumes.iter().enumerate() {
            let snapshot = taken.get_mut(number).and_then(Option::take);
            let done = self.overwrite_volume(number, volume, snapshot, slots, epoch);
            for (slot, target) in slots.iter_mut().zip(&done.outcome.targets) {
                // No later volume is written where this one is not good.
                slot.is_out |= !is_good(target);
            }
            outcomes.push(done);
        }
        if is_group {
            self.conclude_group(slots, &mut outcomes);
        }
        self.remember(&outcomes, slots);
        Ok(outcomes
            .into_iter()
            .enumerate()
            .map(|(number, done)| VolumeEnded {
                volume: self.job.volumes[number].name.clone(),
                outcome: WireOutcome::from(&done.outcome),
                plan: None,
                aftermath: slots
                    .iter()
                    .map(|slot| slot.aftermath[number].clone())
                    .collect(),
            })
            .collect())
    }

    /// The outcome where no secondary let the run in.
    fn nothing_reached(&self, slots: &[Slot]) -> Vec<VolumeEnded> {
        let ended = |(number, volume): (usize, &Volume)| {
            let mut outcome = blank_outcome(self.live.run.as_str());
            outcome.targets = slots.iter().map(left_out).collect();
            outcome.verdict = verdict(&outcome);
            VolumeEnded {
                volume: volume.name.clone(),
                outcome: WireOutcome::from(&outcome),
                plan: None,
                aftermath: slots
                    .iter()
                    .map(|slot| slot.aftermath[number].clone())
                    .collect(),
            }
        };
        self.job.volumes.iter().enumerate().map(ended).collect()
    }

    /// A plan is of these very bytes, of all volumes, before any of them is shipped.
    fn refuse_other_images(&self, taken: &[Option<TakenSnapshot>]) -> Result<(), Failure> {
        for (volume, taken) in self.job.volumes.iter().zip(taken) {
            let plan = self.job.plans.iter().find(|plan| plan.id == volume.id);
            let (Some(plan), Some(taken)) = (plan, taken) else {
                continue;
            };
            let image = taken.open()?;
            let threads = std::thread::available_parallelism().map_or(1, usize::from);
            let (root, _) = hash_volume(&image.path, threads, IoEngine::Threads, &|_| {})?;
            if lockstep_cluster::plan::Root::from_bytes(*root.as_bytes()) != plan.root {
                let what = format!("the data of `{}` changed since", volume.name);
                return Err(stale_plan(&what));
            }
        }
        Ok(())
    }

    fn snapshot_together(&self, epoch: Epoch) -> Result<Vec<TakenSnapshot>, Failure> {
        let config = &self.job.config;
        let volumes = self.job.volumes.iter().filter_map(|volume| {
            let path = volume.paths.get(&config.node)?;
            Some((
                path.as_path().to_path_buf(),
                terms::snapshot_choice(&volume.snapshot),
            ))
        });
        let together = Together {
            volumes: volumes.collect(),
            stillness: terms::stillness(&self.job.volumes, |volume| {
                self.environment(volume, epoch)
            }),
            state_dir: config.state_dir.clone(),
            run: self.live.run.to_string(),
            watchdog: Together::own_watchdog(),
        };
        let taken = together.take()?;
        for message in taken.warnings {
            self.warn(0, None, &message);
        }
        Ok(taken.snapshots)
    }

    /// What `freeze` and `thaw` are told: as every other hook, the moment apart.
    fn environment(&self, volume: &Volume, epoch: Epoch) -> Vec<(String, std::ffi::OsString)> {
        let config = &self.job.config;
        let Some(path) = volume.paths.get(&config.node) else {
            return Vec::new();
        };
        let about = About {
            volume,
            path,
            node: &config.node,
            primary: Some(&config.node),
            run: Some((&self.live.run, epoch)),
            state: NodeState::Unknown,
            state_dir: &config.state_dir,
        };
        about.environment(Moment::Freeze.word())
    }

    fn warn(&self, volume: usize, target: Option<usize>, message: &str) {
        if let Some(volume) = self.job.volumes.get(volume) {
            let message = crate::wire::Words::new(message);
            self.live
                .say(&volume.name, Told::Warning { target, message });
        }
    }

    fn overwrite_volume(
        &self,
        number: usize,
        volume: &Volume,
        taken: Option<TakenSnapshot>,
        slots: &mut [Slot],
        epoch: Epoch,
    ) -> Done {
        let numbers: Vec<usize> = (0..slots.len())
            .filter(|index| slots[*index].failure.is_none() && !slots[*index].is_out)
            .collect();
        let parts: Vec<Arc<Part>> = (numbers.iter())
            .map(|index| Arc::clone(&slots[*index].parts[number]))
            .collect();
        // A secondary alone with its volume goes on as soon as it is good, whatever the others do.
        let conclusions: Arc<Mutex<Vec<JoinHandle<Concluded>>>> = Arc::default();
        let hook =
            (self.job.volumes.len() == 1).then(|| conclude_early(&parts, volume, &conclusions));
        let teller = Arc::new(Teller::new(&self.live, &volume.name, numbers.clone(), hook));
        let objection: Arc<Mutex<Option<Failure>>> = Arc::default();
        let request = self.request(volume, &parts, taken, &teller, &objection, epoch);
        let mut outcome = match request {
            Ok(request) => run(
                request,
                Arc::clone(&teller) as Arc<dyn lockstep_engine::Monitor>,
                Arc::clone(&self.live.cancel),
            ),
            Err(failure) => {
                let mut outcome = blank_outcome(self.live.run.as_str());
                outcome.error = Some(failure);
                outcome
            }
        };
        crash::point("primary.shipped");
        if let Some(objection) = objection
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
        {
            object(&mut outcome, &objection);
        }
        let seen = teller.seen();
        for (target, part) in outcome.targets.iter_mut().zip(&parts) {
            settle(target, part);
        }
        if self.job.volumes.len() == 1 {
            self.conclude_rest(
                number,
                volume,
                &parts,
                &numbers,
                slots,
                &mut outcome,
                &conclusions,
            );
        }
        let outcome = whole(outcome, &numbers, slots);
        Done { outcome, seen }
    }

    fn request(
        &self,
        volume: &Volume,
        parts: &[Arc<Part>],
        taken: Option<TakenSnapshot>,
        teller: &Arc<Teller>,
        objection: &Arc<Mutex<Option<Failure>>>,
        epoch: Epoch,
    ) -> Result<Request, Failure> {
        let ask = &self.job.ask;
        let mut request = self.base_request(volume, parts, Purpose::Sync)?;
        request.taken = taken;
        request.stillness = terms::stillness([volume], |volume| self.environment(volume, epoch));
        request.scope = match ask.terms.full {
            true => Scope::Everything,
            false => Scope::Differences,
        };
        request.verify = match ask.terms.verify_full {
            true => VerifyScope::Full,
            false => VerifyScope::Written,
        };
        let plan = self
            .job
            .plans
            .iter()
            .find(|plan| plan.id == volume.id)
            .cloned();
        // A group was judged as a whole before.
        if self.job.volumes.len() == 1 && (ask.max_change.is_some() || plan.is_some()) {
            let teller = Arc::clone(teller);
            let (objection, limit) = (Arc::clone(objection), ask.max_change);
            request.consent = Consent::Ask(Box::new(move |lines| {
                match objection_to(lines, limit, plan.as_ref(), teller.seen().root) {
                    None => true,
                    Some(failure) => {
                        *objection.lock().unwrap_or_else(PoisonError::into_inner) = Some(failure);
                        false
                    }
                }
            }));
        }
        Ok(request)
    }

    /// What every run of the engine has in common.
    pub(super) fn base_request(
        &self,
        volume: &Volume,
        parts: &[Arc<Part>],
        purpose: Purpose,
    ) -> Result<Request, Failure> {
        let (config, ask) = (&self.job.config, &self.job.ask);
        let path = volume.paths.get(&config.node).ok_or_else(|| {
            Failure::new(
                FailureKind::Usage,
                format!("`{}` has no path here", volume.name),
            )
        })?;
        Ok(Request {
            source: path.as_path().to_path_buf(),
            targets: (parts.iter())
                .map(|part| TargetSpec {
                    name: part.node().to_string(),
                    connect: Box::new(Way {
                        part: Arc::clone(part),
                        terms: ask.terms.clone(),
                    }),
                })
                .collect(),
            purpose,
            snapshot: terms::snapshot_choice(&volume.snapshot),
            taken: None,
            run: Some(self.name),
            stillness: Stillness::default(),
            scope: Scope::Differences,
            verify: VerifyScope::Written,
            compression: ask.terms.compression(),
            io: match probe_uring() {
                Ok(()) => IoEngine::Uring,
                Err(_) => IoEngine::Threads,
            },
            limits: Arc::clone(&self.live.limits),
            priority: ask.terms.priority.into(),
            memory: config.own.memory.0,
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            consent: Consent::Given,
            allow_larger_target: ask.terms.allow_larger,
            max_duration: ask.terms.max_duration(),
            scratch: config.state_dir.clone(),
            state_dir: config.state_dir.clone(),
            reuse: reuse(&ask.terms),
            undo: undo(&ask.terms),
            who: self.job.who.clone(),
        })
    }

    /// The ends that have not come early.
    #[expect(
        clippy::too_many_arguments,
        reason = "they belong to one volume of one run"
    )]
    fn conclude_rest(
        &self,
        number: usize,
        volume: &Volume,
        parts: &[Arc<Part>],
        numbers: &[usize],
        slots: &mut [Slot],
        outcome: &mut Outcome,
        conclusions: &Mutex<Vec<JoinHandle<Concluded>>>,
    ) {
        let early =
            std::mem::take(&mut *conclusions.lock().unwrap_or_else(PoisonError::into_inner));
        let mut ended: Vec<Concluded> = early
            .into_iter()
            .filter_map(|end| end.join().ok())
            .collect();
        let missing: Vec<usize> = (0..parts.len())
            .filter(|index| !ended.iter().any(|(done, ..)| done == index))
            .collect();
        let targets = &outcome.targets;
        std::thread::scope(|scope| {
            let ends: Vec<_> = missing
                .iter()
                .map(|&index| {
                    let usable = targets.get(index).is_some_and(is_good);
                    scope.spawn(move || conclude(index, &parts[index], volume, usable))
                })
                .collect();
            ended.extend(ends.into_iter().filter_map(|end| end.join().ok()));
        });
        for (index, aftermath, result) in ended {
            let Some(slot) = numbers.get(index).and_then(|at| slots.get_mut(*at)) else {
                continue;
            };
            slot.aftermath[number].add(aftermath);
            if let (Err(failure), Some(target)) = (result, outcome.targets.get_mut(index)) {
                services_failed(target, failure);
            }
        }
    }

    /// On each node the volumes without hooks first, then the others; usable only if all are good.
    fn conclude_group(&self, slots: &mut [Slot], outcomes: &mut [Done]) {
        let usable: Vec<bool> = (0..slots.len())
            .map(|at| {
                let good = |done: &Done| done.outcome.targets.get(at).is_some_and(is_good);
                outcomes.iter().all(good)
            })
            .collect();
        let results: Vec<Option<Option<Failure>>> = std::thread::scope(|scope| {
            let ends: Vec<_> = (slots.iter_mut().zip(&usable))
                .map(|(slot, usable)| {
                    let is_in = slot.failure.is_none();
                    is_in.then(|| scope.spawn(move || self.conclude_slot(slot, *usable)))
                })
                .collect();
            ends.into_iter()
                .map(|end| end.map(|thread| thread.join().unwrap_or(None)))
                .collect()
        });
        for (at, result) in results.into_iter().enumerate() {
            let (Some(result), Some(usable)) = (result, usable.get(at).copied()) else {
                continue;
            };
            for done in outcomes.iter_mut() {
                let Some(target) = done.outcome.targets.get_mut(at) else {
                    continue;
                };
                if let Some(failure) = &result {
                    services_failed(target, failure.clone());
                } else if !usable && is_good(target) {
                    services_failed(
                        target,
                        Failure::new(
                            FailureKind::Interrupted,
                            "this volume is good, another one of its group is not",
                        )
                        .hint("run the same command again: it ships only what is missing"),
                    );
                }
            }
        }
        for done in outcomes {
            done.outcome.verdict = verdict(&done.outcome);
        }
    }

    /// Ends all parts of a node; the first thing that did not work.
    fn conclude_slot(&self, slot: &mut Slot, usable: bool) -> Option<Failure> {
        let mut order: Vec<usize> = (0..slot.parts.len()).collect();
        order.sort_by_key(|number| self.runs_hooks(*number));
        let mut first = None;
        for number in order {
            let volume = &self.job.volumes[number];
            let (_, aftermath, result) = conclude(0, &slot.parts[number], volume, usable);
            slot.aftermath[number].add(aftermath);
            if let Err(failure) = result {
                first.get_or_insert(failure);
            }
        }
        first
    }

    fn let_go(&self, slots: &mut [Slot]) {
        self.conclude_where(slots, |slot| slot.failure.is_none());
    }

    /// What was measured, for the next plan.
    fn remember(&self, outcomes: &[Done], slots: &[Slot]) {
        let config = &self.job.config;
        let mut measured = Measured::read(&config.state_dir);
        for (number, (done, volume)) in outcomes.iter().zip(&self.job.volumes).enumerate() {
            let scanned =
                (done.seen.scanned).and_then(|took| rate(done.outcome.source.bytes_hashed, took));
            if let Some(scan) = scanned {
                measured.of(&volume.name, &config.node).scan = scan;
            }
            for (target, slot) in done.outcome.targets.iter().zip(slots) {
                let speeds = measured.of(&volume.name, &slot.node);
                let ended = |bytes| rate(bytes, target.elapsed);
                speeds.link = ended(target.bytes_sent).unwrap_or(speeds.link);
                speeds.write = ended(target.bytes_written).unwrap_or(speeds.write);
                if target.bytes_differing > 0 && target.bytes_sent > 0 {
                    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
                    let packed = target.bytes_sent as f64 / target.bytes_differing as f64;
                    speeds.packed = packed.clamp(0.01, 1.0);
                }
                let hooks = slot.aftermath[number].hooks.iter().map(|hook| hook.seconds);
                speeds.hooks_seconds = hooks.sum();
            }
        }
        measured.write(&config.state_dir);
    }
}

/// What came of one volume.
struct Done {
    outcome: Outcome,
    seen: Seen,
}

fn conclude_early(
    parts: &[Arc<Part>],
    volume: &Volume,
    conclusions: &Arc<Mutex<Vec<JoinHandle<Concluded>>>>,
) -> Box<dyn Fn(usize) + Send + Sync> {
    let (parts, volume) = (parts.to_vec(), volume.clone());
    let conclusions = Arc::clone(conclusions);
    Box::new(move |index| {
        let Some(part) = parts.get(index).cloned() else {
            return;
        };
        let volume = volume.clone();
        let spawned = std::thread::Builder::new()
            .name("conclude".to_owned())
            .spawn(move || {
                let usable = part.served().is_ok_and(|served| {
                    served.state == NodeState::Consistent && served.failure.is_none()
                });
                conclude(index, &part, &volume, usable)
            });
        // Without a thread it is concluded with the others.
        if let Ok(thread) = spawned {
            (conclusions.lock().unwrap_or_else(PoisonError::into_inner)).push(thread);
        }
    })
}

fn conclude(index: usize, part: &Part, volume: &Volume, usable: bool) -> Concluded {
    let mut aftermath = Aftermath::default();
    crash::point("primary.concluding");
    let result = part.conclude(usable, &volume.limits, &mut aftermath);
    (index, aftermath, result)
}

/// What the secondary itself says counts more than what was seen of it from here.
fn settle(target: &mut TargetOutcome, part: &Part) {
    if target.transport.is_none() {
        // It was never served: there is nothing more to hear.
        return;
    }
    match part.served() {
        Ok(served) => {
            target.state = state(served.state);
            if target.verdict == Verdict::Ok && served.state != NodeState::Consistent {
                target.verdict = Verdict::Failed;
                target.error = Some(Failure::new(
                    FailureKind::Io,
                    "the run ended well, and its ledger does not say so",
                ));
            }
            if let Some(failure) = served.failure {
                target.verdict = Verdict::Failed;
                let is_vague = (target.error.as_ref()).is_none_or(|error| error.kind.retriable());
                if is_vague {
                    target.error = Some(failure);
                }
            }
        }
        Err(failure) if target.verdict == Verdict::Ok => services_failed(target, failure),
        Err(_) => {}
    }
}

/// The data is as its state says; the rest of the run there did not work.
fn services_failed(target: &mut TargetOutcome, failure: Failure) {
    if target.verdict != Verdict::Ok {
        return;
    }
    target.verdict = Verdict::Failed;
    target.error = Some(Failure {
        message: format!("{} (the data is {})", failure.message, target.state.word()),
        ..failure
    });
}

fn is_good(target: &TargetOutcome) -> bool {
    target.verdict == Verdict::Ok && target.state == VolumeState::Consistent
}

/// What speaks against overwriting after all, once everything is compared.
fn objection_to(
    lines: &[PlanLine],
    limit: Option<ChangeLimit>,
    plan: Option<&Plan>,
    root: Option<Root>,
) -> Option<Failure> {
    for line in lines {
        if let Some(limit) = limit
            && limit.is_exceeded(line.bytes_differing, line.size)
        {
            let changed = ChangeLimit::of(line.bytes_differing, line.size);
            let message = format!(
                "{changed} of `{}` would change, more than --max-change {limit}",
                line.target
            );
            return Some(
                Failure::new(FailureKind::Guard, message)
                    .hint("see that this is the right volume, then give a higher --max-change"),
            );
        }
    }
    let plan = plan?;
    let is_same = root.is_some_and(|root| {
        lockstep_cluster::plan::Root::from_bytes(*root.as_bytes()) == plan.root
    });
    if !is_same {
        return Some(stale_plan("the primary's data changed since"));
    }
    lines.iter().find_map(|line| {
        let planned = plan
            .nodes
            .iter()
            .find(|node| node.node.as_str() == line.target);
        match planned {
            Some(planned) if planned.bytes_differing == line.bytes_differing => None,
            _ => Some(stale_plan(&format!("`{}` changed since", line.target))),
        }
    })
}

/// The run's own guard, in place of what the engine says of an answer of no.
fn object(outcome: &mut Outcome, objection: &Failure) {
    let replace = |error: &mut Option<Failure>| {
        if let Some(failure) = error
            && failure.kind == FailureKind::NotConfirmed
        {
            *failure = objection.clone();
        }
    };
    replace(&mut outcome.error);
    for target in &mut outcome.targets {
        replace(&mut target.error);
    }
}

/// The outcome with the secondaries that were left out, in the order of the run.
fn whole(mut outcome: Outcome, numbers: &[usize], slots: &[Slot]) -> Outcome {
    let mut served = numbers
        .iter()
        .copied()
        .zip(std::mem::take(&mut outcome.targets))
        .peekable();
    let mut targets = Vec::with_capacity(slots.len());
    for (number, slot) in slots.iter().enumerate() {
        match served.next_if(|(at, _)| *at == number) {
            Some((_, target)) => targets.push(target),
            None => targets.push(left_out(slot)),
        }
    }
    outcome.targets = targets;
    outcome.verdict = verdict(&outcome);
    outcome
}

pub(super) fn stale_plan(what: &str) -> Failure {
    Failure::new(FailureKind::Guard, format!("the plan is stale: {what}"))
        .hint("make a new plan and look at it again")
}

fn left_out(slot: &Slot) -> TargetOutcome {
    let why = slot.failure.clone().or_else(|| {
        slot.is_out.then(|| {
            let what = format!(
                "{}: left as it was, for another volume of its group is not good",
                slot.node
            );
            Failure::new(FailureKind::Interrupted, what)
        })
    });
    without_part(&slot.node, why)
}

/// The outcome of a secondary that had no part in a run.
pub(super) fn without_part(node: &NodeName, why: Option<Failure>) -> TargetOutcome {
    TargetOutcome {
        target: node.to_string(),
        verdict: Verdict::Failed,
        state: VolumeState::Unknown,
        bytes_differing: 0,
        bytes_written: 0,
        bytes_read: 0,
        bytes_inherited: 0,
        bytes_sent: 0,
        bytes_received: 0,
        elapsed: Duration::ZERO,
        transport: None,
        undo: None,
        error: why,
    }
}

fn verdict(outcome: &Outcome) -> Verdict {
    let good = outcome
        .targets
        .iter()
        .filter(|target| target.verdict == Verdict::Ok);
    match good.count() {
        0 => Verdict::Failed,
        all if all == outcome.targets.len() && outcome.error.is_none() => Verdict::Ok,
        _ => Verdict::Partial,
    }
}

fn blank_outcome(run: &str) -> Outcome {
    Outcome {
        run: run.to_owned(),
        verdict: Verdict::Failed,
        error: None,
        root: None,
        size: 0,
        elapsed: Duration::ZERO,
        snapshot: "",
        level: None,
        proof: lockstep_ledger::ProofLevel::Full,
        consistency: lockstep_engine::Consistency::PointInTime,
        source: lockstep_engine::SourceCounts::default(),
        paced: None,
        targets: Vec::new(),
    }
}

fn fenced_by(failure: Failure, epoch: Epoch, promised: Option<Epoch>) -> Failure {
    let hint = match promised {
        Some(promised) => format!(
            "epoch {epoch} is too old, {promised} is promised: see which run that is with `lockstep status`"
        ),
        None => "another run has the same right: see which with `lockstep status`".to_owned(),
    };
    failure.hint(hint)
}

pub(super) fn state(state: NodeState) -> VolumeState {
    match state {
        NodeState::Unknown => VolumeState::Unknown,
        NodeState::Consistent => VolumeState::Consistent,
        NodeState::Inconsistent => VolumeState::Inconsistent,
        NodeState::Failed => VolumeState::Failed,
    }
}

fn reuse(terms: &RunTerms) -> Reuse {
    Reuse {
        delta: terms.delta,
        full_scan_every: FullScanEvery {
            runs: terms.full_scan_runs,
            age: Duration::from_secs(terms.full_scan_seconds),
        },
        keep_base: KeepBase::WhileThereIsRoom,
    }
}

fn undo(terms: &RunTerms) -> UndoPolicy {
    UndoPolicy {
        mode: match terms.undo {
            UndoWord::Auto => UndoMode::Auto,
            UndoWord::Require => UndoMode::Require,
            UndoWord::Off => UndoMode::Off,
        },
        keep: Duration::from_secs(terms.keep_undo_seconds),
    }
}

/// A failure as it is told.
pub(super) fn told(target: Option<usize>, failure: &Failure) -> Told {
    Told::Error {
        target,
        failure: WireFailure::from(failure),
    }
}
