//! One call of a run, from its grant to its end.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use lockstep_cluster::file::Moment;
use lockstep_cluster::plan::{FileDifference, FileState, NodeState, differences};
use lockstep_cluster::value::AbsolutePath;
use lockstep_engine::{FullScanEvery, Reuse, ServeOptions, UndoMode, UndoPolicy};
use lockstep_protocol::{Failure, FailureKind};

use super::fate::Fate;
use super::note::{Found, Note};
use super::permit::{guard, may_write};
use super::seat::Held;
use super::serve::Serving;
use super::settle::{Services, Settled};
use super::turn::{Bid, Turn};
use super::{Host, group_of};
use crate::align::{self, Incoming, Staged};
use crate::crash;
use crate::hook::refuse_beside_another;
use crate::talk::{Talk, TalkError, hear, say};
use crate::wire::{FileBytes, HostBid, HostTell, ServeTerms, UndoWord, WireFailure, WriteAsk};

/// Longest that a call may be without a word of its turn: any other node's hooks take at most a day.
const BID_LIMIT: Duration = Duration::from_secs(26 * 60 * 60);
/// Longest between two frames of one file.
const FRAME_LIMIT: Duration = Duration::from_secs(30);
/// Longest that one file may take.
const FILE_LIMIT: Duration = Duration::from_secs(120);
/// How often is looked whether a newer run waits.
const GLANCE: Duration = Duration::from_millis(100);

/// Why a call ends before its end.
#[derive(Debug)]
enum Broken {
    /// The other end is gone, or said what was not its turn.
    Lost(String),
    /// A newer run waits for the volume.
    Fenced,
    /// The agent ends.
    Ending,
}

impl From<TalkError> for Broken {
    fn from(error: TalkError) -> Self {
        Self::Lost(error.to_string())
    }
}

pub(super) struct Session<'a> {
    pub(super) host: &'a Host,
    pub(super) services: Services<'a>,
    pub(super) held: Held,
    pub(super) ask: &'a WriteAsk,
    /// What was promised.
    pub(super) device: String,
    pub(super) turn: Turn,
    /// What may be sent, and was not yet.
    pub(super) differing: Vec<FileDifference>,
    pub(super) staged: Vec<Staged>,
    pub(super) unstaged: Option<Failure>,
    pub(super) note: Option<Note>,
}

impl Session<'_> {
    /// Carries the call to its end. The volume is let go, and looked at anew, before the last word is
    /// said: whoever hears that the run is over, and asks how the node is, hears of the end.
    pub(super) fn run(mut self, talk: &mut dyn Talk, state: NodeState, look_anew: &dyn Fn()) {
        let granted = HostTell::Granted {
            state,
            device: crate::wire::Words::new(&self.device),
        };
        crash::point("host.granted");
        let ended = match say(talk, &granted) {
            Ok(()) => self.attend(talk),
            Err(error) => Err(error.into()),
        };
        let volume = &self.services.volume.name;
        let usable = match ended {
            Ok(usable) => usable,
            Err(Broken::Lost(why)) => {
                let why = crate::wire::Words::new(&why);
                tracing::warn!(%volume, "the call of run {} is over: {why}", self.ask.run);
                false
            }
            Err(Broken::Fenced) => {
                tracing::warn!(%volume, "run {} makes way for a newer one", self.ask.run);
                false
            }
            Err(Broken::Ending) => {
                tracing::warn!(%volume, "run {} ends with the agent", self.ask.run);
                false
            }
        };
        let concluded = self.conclude(usable);
        drop(self.held);
        crash::point("host.concluded");
        look_anew();
        // Whoever is gone finds the state in the ledger.
        let _ = say(talk, &concluded);
    }

    /// Does what is asked until the end is; whether services may run.
    fn attend(&mut self, talk: &mut dyn Talk) -> Result<bool, Broken> {
        loop {
            let bid = self.next(talk)?;
            if !self.turn.admits(Bid::of(&bid)) {
                let why = format!("{:?} was said out of turn", Bid::of(&bid));
                return Err(Broken::Lost(why));
            }
            match bid {
                HostBid::Files { states } => {
                    let tell = self.compare_files(&states);
                    say(talk, &tell)?;
                }
                HostBid::File(bytes) => self.take_file(talk, &bytes)?,
                HostBid::FilesEnd => {
                    self.turn = Turn::Staged;
                    crash::point("host.staged");
                    let failure = self.unstaged.as_ref().map(WireFailure::from);
                    say(talk, &HostTell::Staged { failure })?;
                }
                HostBid::Stop => {
                    let tell = self.stop();
                    say(talk, &tell)?;
                }
                HostBid::Serve(terms) => self.serve(talk, &terms)?,
                HostBid::Conclude { usable } => return Ok(usable),
            }
        }
    }

    fn next(&self, talk: &mut dyn Talk) -> Result<HostBid, Broken> {
        let deadline = Instant::now() + BID_LIMIT;
        loop {
            self.goes_on()?;
            match hear(talk, GLANCE) {
                Err(TalkError::Silent(_)) if Instant::now() < deadline => {}
                heard => return Ok(heard?),
            }
        }
    }

    fn goes_on(&self) -> Result<(), Broken> {
        let fence = &self.held.fence;
        match (fence.is_up(), fence.is_abandoned()) {
            (true, _) => Err(Broken::Fenced),
            (false, true) => Err(Broken::Ending),
            (false, false) => Ok(()),
        }
    }

    /// Whether the run may still do here what it was let in for, by the files and the probe of now.
    fn still_may(&self, asks_probe: bool) -> Result<(), Failure> {
        let config = self.host.current().get();
        let (volume, path) = may_write(
            &config,
            &self.held.claim.source,
            &self.ask.volume,
            self.ask.id,
        )?;
        if path != self.services.path {
            let why = format!("`{}` lies somewhere else now", self.ask.volume);
            return Err(guard(why, "run the same command again"));
        }
        match asks_probe {
            true => self
                .host
                .refuse_a_primary(&config, volume, path, self.services.ground),
            false => Ok(()),
        }
    }

    fn compare_files(&mut self, states: &BTreeMap<AbsolutePath, FileState>) -> HostTell {
        self.turn = Turn::Differing;
        if states.len() > align::MAX_FILES {
            let why = format!("the primary has more than {} files", align::MAX_FILES);
            self.unstaged = Some(guard(why, "name fewer folders in `files`"));
            return HostTell::differing(Vec::new());
        }
        match align::states(&self.services.volume.files) {
            Ok(own) => self.differing = differences(states, &own),
            // Nothing can be sent then; it is said with `Staged`, and in the end.
            Err(failure) => self.unstaged = Some(failure),
        }
        let tell = HostTell::differing(self.differing.iter().map(|it| it.path.clone()).collect());
        if let HostTell::Differing { left_out: 1.., .. } = tell {
            let why = "more configuration files differ than can be told";
            self.unstaged = Some(guard(why.to_owned(), "name fewer folders in `files`"));
        }
        tell
    }

    /// Only what was said to differ, as it was said, and once.
    fn take_file(&mut self, talk: &mut dyn Talk, announced: &FileBytes) -> Result<(), Broken> {
        let wanted =
            |it: &FileDifference| it.path == announced.path && it.wanted == announced.state;
        let Some(at) = self.differing.iter().position(wanted) else {
            let why = format!("{} was sent, and nobody asked for it", announced.path);
            return Err(Broken::Lost(why));
        };
        self.differing.swap_remove(at);
        if announced.bytes > align::MAX_BYTES {
            return Err(Broken::Lost(format!("{} is too large", announced.path)));
        }
        let places = &self.services.volume.files;
        let mut incoming = Incoming::begin(places, announced);
        let mut left = announced.bytes;
        let deadline = Instant::now() + FILE_LIMIT;
        while left > 0 {
            self.goes_on()?;
            if Instant::now() > deadline {
                return Err(Broken::Lost(format!("{} came too slowly", announced.path)));
            }
            let frame = talk.recv(FRAME_LIMIT)?;
            let length = frame.len() as u64;
            if length == 0 || length > left || frame.len() > align::MAX_FRAME_BYTES {
                let why = format!("a frame of {length} bytes where {left} were due");
                return Err(Broken::Lost(why));
            }
            left -= length;
            incoming = incoming.and_then(|mut into| into.push(&frame).map(|()| into));
        }
        match incoming.and_then(|incoming| incoming.finish(places)) {
            Ok(staged) => self.staged.push(staged),
            Err(failure) => self.unstaged = Some(failure),
        }
        Ok(())
    }

    fn stop(&mut self) -> HostTell {
        self.turn = Turn::Stopped;
        let mut hooks = Vec::new();
        let failure = match self.stopped(&mut hooks) {
            Ok(()) => None,
            Err(failure) => {
                self.turn = Turn::Over;
                Some(WireFailure::from(&failure))
            }
        };
        HostTell::Stopped { hooks, failure }
    }

    fn stopped(&mut self, hooks: &mut Vec<crate::wire::HookReport>) -> Result<(), Failure> {
        // The grant may be old: the run waited for an earlier one, or for the others.
        self.still_may(true)?;
        if !self.ask.hooks || !self.services.has_hooks() {
            return Ok(());
        }
        let note = self.new_note()?;
        self.services.keep(&note)?;
        self.note = Some(note);
        crash::point("host.noted");
        let fence = &self.held.fence;
        let primary = &self.held.claim.source;
        let run = (&self.ask.run, self.ask.epoch);
        let report = self.services.hook(Moment::Stop, primary, run, &|| {
            fence.is_up() || fence.is_abandoned()
        });
        crash::point("host.stopped");
        let error = report.as_ref().and_then(|report| report.error.clone());
        hooks.extend(report);
        match error {
            None => Ok(()),
            Some(error) => Err(Failure::new(FailureKind::Temporary, error.as_str())
                .hint("nothing was overwritten; correct what the hook ran into, then try again")),
        }
    }

    /// What is known before anything is stopped. Services that an earlier run left down come back by
    /// this one only if it makes the data consistent, or if that one had not touched the data either.
    fn new_note(&self) -> Result<Note, Failure> {
        let services = &self.services;
        let (was_down, stopped_unix_ms) = match services.notes().read(self.ask.id) {
            Found::Nothing => (false, crate::primary::now()),
            Found::Damaged => (true, crate::primary::now()),
            Found::Whole(earlier) => {
                let fate = services.fate(&earlier, false);
                (!matches!(fate, Ok(Fate::Restart)), earlier.stopped_unix_ms)
            }
        };
        Ok(Note {
            id: self.ask.id,
            volume: self.ask.volume.clone(),
            run: self.ask.run.clone(),
            epoch: self.ask.epoch,
            primary: self.held.claim.source.clone(),
            stopped_unix_ms,
            group: self.ask.group,
            was_down,
            serving: false,
            configured: false,
            files: match self.unstaged {
                None => self.staged.clone(),
                Some(_) => Vec::new(),
            },
            set_aside: services.ground.set_aside(),
            before: services.before(self.ask.group)?,
        })
    }

    fn serve(&mut self, talk: &mut dyn Talk, terms: &ServeTerms) -> Result<(), Broken> {
        self.turn = Turn::Over;
        let (serving, at) = match self.open(terms) {
            Ok(open) => open,
            Err(failure) => {
                let tell = self.served(Some(&failure));
                return Ok(say(talk, &tell)?);
            }
        };
        self.held.fence.guards(serving.cancel());
        crash::point("host.listening");
        // Dropping it ends and awaits the run.
        say(talk, &HostTell::Serving(at))?;
        let ended = serving.wait(talk);
        crash::point("host.served");
        let tell = self.served(ended.result.as_ref().err());
        match ended.lost {
            Some(error) => Err(error.into()),
            None => Ok(say(talk, &tell)?),
        }
    }

    fn served(&self, failure: Option<&Failure>) -> HostTell {
        HostTell::Served {
            state: self.state(),
            root: None,
            failure: failure.map(WireFailure::from),
        }
    }

    fn state(&self) -> NodeState {
        let look = self.services.ground.look();
        look.map_or(NodeState::Unknown, |look| look.state)
    }

    fn open(&mut self, terms: &ServeTerms) -> Result<(Serving, crate::wire::ServingAt), Failure> {
        // The service that a probe asks is down by now.
        self.still_may(false)?;
        // The hooks of a group go by the name of one of its volumes.
        let (config, own) = (self.services.config, &self.services.volume.name);
        let group = group_of(config, own).map(|group| &group.volumes[..]);
        let names = group.unwrap_or(std::slice::from_ref(own));
        refuse_beside_another(&config.state_dir, names)?;
        let device = self.services.ground.look()?.device;
        if device != self.device {
            let why = format!("it is {device}, and {} was promised", self.device);
            return Err(guard(why, "run the same command again"));
        }
        if let Some(note) = &mut self.note {
            note.serving = true;
            self.services.keep(note)?;
        }
        let options = self.options(terms);
        Serving::open(self.services.config, terms.key, options)
    }

    fn options(&self, terms: &ServeTerms) -> ServeOptions {
        let who = match &self.ask.reason {
            Some(reason) => format!("{}: {reason}", self.ask.who),
            None => self.ask.who.to_string(),
        };
        ServeOptions {
            reuse: Reuse {
                delta: terms.delta,
                full_scan_every: FullScanEvery {
                    runs: terms.full_scan_runs,
                    age: Duration::from_secs(terms.full_scan_seconds),
                },
                ..Reuse::default()
            },
            undo: UndoPolicy {
                mode: match terms.undo {
                    UndoWord::Auto => UndoMode::Auto,
                    UndoWord::Require => UndoMode::Require,
                    UndoWord::Off => UndoMode::Off,
                },
                keep: Duration::from_secs(terms.keep_undo_seconds),
            },
            priority: terms.priority.into(),
            epoch: self.ask.epoch.get(),
            device: Some(self.device.clone()),
            ..super::serve_options(self.services.config, self.services.ground, who)
        }
    }

    /// Brings back what may run, by what the ledger says; `usable` is the primary's word.
    fn conclude(&mut self, usable: bool) -> HostTell {
        let mut settled = match self.held.fence.is_up() {
            true => Settled {
                failure: Some(Failure::new(
                    FailureKind::Fenced,
                    "a newer run took the volume over",
                )),
                ..Settled::default()
            },
            false => self.settled(usable),
        };
        if settled.failure.is_none() {
            settled.failure = self.unstaged.take();
        }
        HostTell::concluded(
            self.state(),
            settled.files,
            settled.hooks,
            settled.downtime_seconds,
            settled.failure.as_ref().map(WireFailure::from),
        )
    }

    fn settled(&mut self, usable: bool) -> Settled {
        let seat = &self.held.seat;
        let _hands = seat.hands();
        let fence = &self.held.fence;
        let is_fenced = || fence.is_up();
        if let Some(note) = self.note.take() {
            crash::point("host.usable");
            // The ledger's word counts, of all volumes of the group; the primary's is not needed.
            return self.services.settle(note, true, &is_fenced);
        }
        if self.ask.hooks
            && let Found::Whole(earlier) = self.services.notes().read(self.ask.id)
        {
            // An earlier run that made way for this one, which stopped nothing.
            self.services.settle(*earlier, false, &is_fenced);
        }
        self.place_files(usable)
    }

    /// The files of a volume whose services are another volume's affair, or nobody's.
    fn place_files(&self, usable: bool) -> Settled {
        let mut settled = Settled::default();
        let places = &self.services.volume.files;
        let look = self.services.ground.look();
        let is_ours = look.is_ok_and(|look| {
            let record = look.record.filter(|_| look.state == NodeState::Consistent);
            record.is_some_and(|record| record.epoch == self.ask.epoch.get())
        });
        for staged in &self.staged {
            if !usable || !is_ours || self.unstaged.is_some() {
                staged.discard(places);
                continue;
            }
            match staged.apply(places) {
                Ok(true) => settled.files.push(staged.path.clone()),
                Ok(false) => {}
                Err(failure) => settled.failure = Some(failure),
            }
        }
        settled
    }
}
