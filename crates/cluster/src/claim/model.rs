//! Two primaries that compete for two targets, over a network that loses, repeats and reorders, with
//! targets killed at any moment: at most one run writes, and never an older one after a newer.

use std::collections::BTreeSet;

use proptest::bool::weighted;
use proptest::collection::vec;
use proptest::prelude::{ProptestConfig, Strategy, any, prop_oneof};
use proptest::test_runner::{TestCaseError, TestRunner};
use proptest::{prop_assert, prop_assert_eq};

use super::*;

const TARGETS: usize = 2;
const DEVICE: &str = "file inode 12";

/// What can happen next; the numbers choose among what is there.
#[derive(Clone, Debug)]
enum Event {
    /// A primary begins a run, this far above the newest epoch that it knows.
    Begin { primary: usize, step: u64 },
    /// A message arrives; it may arrive again later.
    Deliver { index: usize, again: bool },
    /// A message is lost.
    Lose { index: usize },
    /// A target ends what it was doing: well or not.
    Work { target: usize, well: bool },
    /// A primary sends a write, if it may.
    Write { primary: usize, target: usize },
    /// A write that is in flight reaches the medium.
    Land { target: usize, index: usize },
    /// A run ends by itself on a target.
    End { target: usize },
    /// A target is killed and starts again. A promise that was being written is there, or is not.
    Restart { target: usize, persisted: bool },
    /// A target becomes primary, or is it no longer.
    Role { target: usize, primary: bool },
}

fn event() -> impl Strategy<Value = Event> {
    let target = 0..TARGETS;
    prop_oneof![
        1 => (0..2_usize, 0..3_u64).prop_map(|(primary, step)| Event::Begin { primary, step }),
        14 => (any::<usize>(), weighted(0.2)).prop_map(|(index, again)| Event::Deliver { index, again }),
        1 => any::<usize>().prop_map(|index| Event::Lose { index }),
        14 => (target.clone(), weighted(0.93)).prop_map(|(target, well)| Event::Work { target, well }),
        10 => (0..2_usize, target.clone()).prop_map(|(primary, target)| Event::Write { primary, target }),
        8 => (target.clone(), any::<usize>()).prop_map(|(target, index)| Event::Land { target, index }),
        1 => target.clone().prop_map(|target| Event::End { target }),
        1 => (target.clone(), any::<bool>()).prop_map(|(target, persisted)| Event::Restart { target, persisted }),
        1 => (target, weighted(0.15)).prop_map(|(target, primary)| Event::Role { target, primary }),
    ]
}

#[derive(Clone, Debug)]
enum Message {
    Claim(usize, Claim),
    Answer(usize, Claim, Answer),
    Write(usize, Claim),
}

/// What a target was told to do and has not reported yet.
#[derive(Clone, Debug)]
enum Work {
    Stop(Claim),
    Flush,
    Persist(Promise),
}

struct Target {
    keeper: Gatekeeper,
    work: Vec<Work>,
    disk: Option<Promise>,
    /// Writes that were permitted and have not reached the medium.
    in_flight: Vec<Claim>,
    /// Writes that landed and were not flushed yet.
    dirty: Vec<Claim>,
    /// Runs that were told to stop, or ended.
    ended: BTreeSet<(u64, String)>,
    newest_granted: Option<(Epoch, RunName)>,
    granted: BTreeSet<(u64, String)>,
    role: Role,
}

struct World {
    table: &'static [Row],
    targets: Vec<Target>,
    rounds: Vec<Option<Round>>,
    known: [u64; 2],
    bag: Vec<Message>,
    runs: usize,
    landed: usize,
}

fn volume() -> VolumeId {
    super::tests::claim(1, "a").volume
}

fn name(target: usize) -> NodeName {
    format!("target{target}").parse().unwrap()
}

fn id(claim: &Claim) -> (u64, String) {
    (claim.epoch.get(), claim.run.to_string())
}

impl Target {
    fn start(table: &'static [Row], role: Role, disk: Option<Promise>) -> Self {
        let (mut keeper, effects) = Gatekeeper::restore(volume(), role, disk.clone());
        keeper.table = table;
        Self {
            keeper,
            work: effects.iter().map(|_| Work::Flush).collect(),
            disk,
            in_flight: Vec::new(),
            dirty: Vec::new(),
            ended: BTreeSet::new(),
            newest_granted: None,
            granted: BTreeSet::new(),
            role,
        }
    }
}

impl World {
    fn new(table: &'static [Row]) -> Self {
        Self {
            table,
            targets: (0..TARGETS)
                .map(|_| Target::start(table, Role::Replica, None))
                .collect(),
            rounds: vec![None, None],
            known: [0; 2],
            bag: Vec::new(),
            runs: 0,
            landed: 0,
        }
    }

    fn play(&mut self, event: &Event) -> Result<(), TestCaseError> {
        match *event {
            Event::Begin { primary, step } => self.begin(primary, step),
            Event::Deliver { index, again } => return self.deliver(index, again),
            Event::Lose { index } => {
                if !self.bag.is_empty() {
                    self.bag.swap_remove(index % self.bag.len());
                }
            }
            Event::Work { target, well } => return self.work(target, well),
            Event::Write { primary, target } => {
                let round = self.rounds[primary].as_ref();
                if let Some(round) = round.filter(|round| round.progress() == Progress::MayWrite) {
                    self.bag.push(Message::Write(target, round.claim().clone()));
                }
            }
            Event::Land { target, index } => return self.land(target, index),
            Event::End { target } => self.end(target),
            Event::Restart { target, persisted } => self.restart(target, persisted),
            Event::Role { target, primary } => {
                let role = if primary {
                    Role::Primary
                } else {
                    Role::Replica
                };
                self.targets[target].role = role;
                let effects = self.targets[target].keeper.set_role(role);
                return self.carry_out(target, effects);
            }
        }
        Ok(())
    }

    fn begin(&mut self, primary: usize, step: u64) {
        self.runs += 1;
        let epoch = (self.known[primary] + step).max(1);
        self.known[primary] = epoch;
        let claim = Claim {
            epoch: Epoch::new(epoch).unwrap(),
            run: format!("run{}", self.runs).parse().unwrap(),
            source: format!("primary{primary}").parse().unwrap(),
            volume: volume(),
        };
        self.bag
            .extend((0..TARGETS).map(|target| Message::Claim(target, claim.clone())));
        self.rounds[primary] = Some(Round::new(claim, (0..TARGETS).map(name)));
    }

    fn deliver(&mut self, index: usize, again: bool) -> Result<(), TestCaseError> {
        if self.bag.is_empty() {
            return Ok(());
        }
        let at = index % self.bag.len();
        let message = match again {
            true => self.bag[at].clone(),
            false => self.bag.swap_remove(at),
        };
        match message {
            Message::Claim(target, claim) => {
                let effects = self.targets[target].keeper.claim(claim, DEVICE);
                self.carry_out(target, effects)
            }
            Message::Answer(target, claim, answer) => {
                for (primary, round) in self.rounds.iter_mut().enumerate() {
                    if let Answer::Refused(Refusal::Fenced { promised }) = &answer {
                        self.known[primary] = self.known[primary].max(promised.get());
                    }
                    if let Some(round) = round.as_mut().filter(|round| *round.claim() == claim) {
                        round.heard(&name(target), answer.clone());
                    }
                }
                Ok(())
            }
            Message::Write(target, claim) => self.arrive(target, claim),
        }
    }

    /// A write comes in: it is done only if the gatekeeper permits it.
    fn arrive(&mut self, target: usize, claim: Claim) -> Result<(), TestCaseError> {
        if !self.targets[target].keeper.permits(&claim) {
            return Ok(());
        }
        for other in &self.targets {
            prop_assert!(
                other.granted.contains(&id(&claim)),
                "written before every target was claimed"
            );
        }
        let target = &mut self.targets[target];
        prop_assert!(
            target.in_flight.iter().all(|other| *other == claim),
            "two runs write at once"
        );
        target.in_flight.push(claim);
        Ok(())
    }

    fn land(&mut self, target: usize, index: usize) -> Result<(), TestCaseError> {
        let target = &mut self.targets[target];
        if target.in_flight.is_empty() {
            return Ok(());
        }
        let claim = target.in_flight.swap_remove(index % target.in_flight.len());
        let newest = target.newest_granted.as_ref();
        let this = (claim.epoch, claim.run.clone());
        prop_assert!(
            newest.is_none_or(|newest| *newest == this),
            "{this:?} writes after {newest:?} was let in"
        );
        target.dirty.push(claim);
        self.landed += 1;
        Ok(())
    }

    fn end(&mut self, target: usize) {
        let target = &mut self.targets[target];
        if let Some(holder) = target.keeper.holder.clone() {
            // Only a run that is not stopped already ends by itself.
            if target.keeper.permits(&holder) && target.ended.insert(id(&holder)) {
                target.work.push(Work::Stop(holder));
            }
        }
    }

    fn work(&mut self, target: usize, well: bool) -> Result<(), TestCaseError> {
        let at = &mut self.targets[target];
        let Some(work) = at.work.first().cloned() else {
            return Ok(());
        };
        let outcome = match work {
            Work::Stop(claim) => {
                if at.in_flight.contains(&claim) {
                    return Ok(());
                }
                Outcome::Drained(claim)
            }
            Work::Flush if well => {
                // Also what a killed process left to the kernel has arrived by now.
                self.landed += at.in_flight.len();
                at.in_flight.clear();
                at.dirty.clear();
                Outcome::Flushed
            }
            Work::Flush => {
                at.in_flight.clear();
                // The kernel drops what it could not write.
                at.dirty.clear();
                Outcome::FlushFailed
            }
            Work::Persist(promise) => {
                let lower = at
                    .disk
                    .as_ref()
                    .is_some_and(|disk| disk.claim.epoch > promise.claim.epoch);
                prop_assert!(!lower, "a durable promise is lowered");
                if well {
                    at.disk = Some(promise);
                    Outcome::Persisted
                } else {
                    Outcome::PersistFailed
                }
            }
        };
        at.work.remove(0);
        let effects = at.keeper.report(outcome);
        self.carry_out(target, effects)
    }

    fn restart(&mut self, target: usize, persisted: bool) {
        let old = &mut self.targets[target];
        let writing = old.work.iter().find_map(|work| match work {
            Work::Persist(promise) => Some(promise.clone()),
            _ => None,
        });
        let disk = writing.filter(|_| persisted).or(old.disk.take());
        let new = Target {
            in_flight: std::mem::take(&mut old.in_flight),
            dirty: std::mem::take(&mut old.dirty),
            newest_granted: old.newest_granted.clone(),
            granted: std::mem::take(&mut old.granted),
            ..Target::start(self.table, old.role, disk)
        };
        self.targets[target] = new;
    }

    fn carry_out(&mut self, target: usize, effects: Vec<Effect>) -> Result<(), TestCaseError> {
        for effect in effects {
            let at = &mut self.targets[target];
            match effect {
                Effect::Stop(claim) => {
                    if at.ended.insert(id(&claim)) {
                        at.work.push(Work::Stop(claim));
                    }
                }
                Effect::Flush => at.work.push(Work::Flush),
                Effect::Persist(promise) => at.work.push(Work::Persist(promise)),
                Effect::Refuse(claim, refusal) => {
                    self.bag
                        .push(Message::Answer(target, claim, Answer::Refused(refusal)));
                }
                Effect::Grant(claim) => {
                    let this = (claim.epoch, claim.run.clone());
                    if let Some(newest) = &at.newest_granted {
                        let follows = this.0 > newest.0 || this == *newest;
                        prop_assert!(follows, "{this:?} is let in after {newest:?}");
                    }
                    prop_assert_eq!(at.role, Role::Replica, "a primary lets somebody in");
                    prop_assert_eq!(
                        at.disk.as_ref().map(|disk| &disk.claim),
                        Some(&claim),
                        "not durable"
                    );
                    prop_assert!(
                        at.in_flight.iter().all(|other| *other == claim),
                        "not drained"
                    );
                    prop_assert!(at.dirty.iter().all(|other| *other == claim), "not flushed");
                    // A run that is let in again begins again.
                    if !at.keeper.permits(&claim) {
                        return Err(TestCaseError::fail(
                            "told that it may write, and it may not",
                        ));
                    }
                    at.newest_granted = Some(this);
                    at.granted.insert(id(&claim));
                    if !at
                        .work
                        .iter()
                        .any(|work| matches!(work, Work::Stop(stopped) if *stopped == claim))
                    {
                        at.ended.remove(&id(&claim));
                    }
                    self.bag
                        .push(Message::Answer(target, claim, Answer::Granted));
                }
            }
        }
        Ok(())
    }
}

/// Plays random stories; returns how many writes reached a medium, over all of them.
fn run(table: &'static [Row], cases: u32) -> Result<usize, String> {
    let config = ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let landed = std::cell::Cell::new(0);
    let mut runner = TestRunner::new(config);
    let result = runner.run(&vec(event(), 1..400), |story| {
        let mut world = World::new(table);
        for event in &story {
            world.play(event)?;
        }
        landed.set(landed.get() + world.landed);
        Ok(())
    });
    result
        .map(|()| landed.get())
        .map_err(|error| error.to_string())
}

#[test]
fn at_most_one_run_writes_and_never_an_older_one_after_a_newer() {
    let landed = run(&TABLE, 1000).unwrap();
    assert!(landed > 500, "the stories hardly write anything: {landed}");
}

/// The model finds what it is for: each of these tables leaves out one step.
#[test]
fn a_table_without_one_of_its_steps_is_found_out() {
    const fn without(phase: Phase, trigger: Trigger, next: Phase, action: Action) -> [Row; 12] {
        let mut table = TABLE;
        let mut at = 0;
        while at < table.len() {
            if table[at].phase as u8 == phase as u8 && table[at].trigger as u8 == trigger as u8 {
                table[at].next = next;
                table[at].action = action;
            }
            at += 1;
        }
        table
    }
    static NOT_STOPPED: [Row; 12] = without(
        Phase::Writing,
        Trigger::Admitted,
        Phase::Persisting,
        Action::Persist,
    );
    static NOT_PERSISTED: [Row; 12] = without(
        Phase::Quiet,
        Trigger::Admitted,
        Phase::Writing,
        Action::Grant,
    );
    static NOT_FLUSHED: [Row; 12] = without(
        Phase::Draining,
        Trigger::Drained,
        Phase::Persisting,
        Action::Persist,
    );
    static NOT_DURABLE: [Row; 12] = without(
        Phase::Persisting,
        Trigger::PersistFailed,
        Phase::Writing,
        Action::Grant,
    );
    for (what, table) in [
        ("stop", &NOT_STOPPED),
        ("persist", &NOT_PERSISTED),
        ("durable", &NOT_DURABLE),
        ("flush", &NOT_FLUSHED),
    ] {
        assert!(
            run(table, 3000).is_err(),
            "a table without `{what}` is not found out"
        );
    }
}
