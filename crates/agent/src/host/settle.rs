//! Bringing services back, or leaving them down.

use lockstep_cluster::claim::{Epoch, RunName};
use lockstep_cluster::file::{Moment, Volume};
use lockstep_cluster::value::{AbsolutePath, NodeName};
use lockstep_protocol::{Failure, FailureKind};

use super::fate::{Fate, Now, fate};
use super::ground::Ground;
use super::note::{Before, Note, Notes};
use crate::config::Config;
use crate::crash;
use crate::hook::About;
use crate::wire::HookReport;

/// What came of it.
#[derive(Debug, Default)]
pub(super) struct Settled {
    pub(super) files: Vec<AbsolutePath>,
    pub(super) hooks: Vec<HookReport>,
    /// How long they were down; none if they are still.
    pub(super) downtime_seconds: Option<f64>,
    pub(super) failure: Option<Failure>,
}

/// A volume of this node with its hooks.
#[derive(Clone, Copy)]
pub(super) struct Services<'a> {
    pub(super) config: &'a Config,
    pub(super) volume: &'a Volume,
    pub(super) path: &'a AbsolutePath,
    pub(super) ground: &'a Ground,
}

impl<'a> Services<'a> {
    pub(super) fn notes(&self) -> Notes {
        Notes::at(&self.config.state_dir)
    }

    /// Whether there is anything to stop or to start.
    pub(super) fn has_hooks(&self) -> bool {
        let moments = [
            Moment::Stop,
            Moment::Configure,
            Moment::Start,
            Moment::Check,
        ];
        moments
            .iter()
            .any(|moment| self.volume.hooks.at(*moment).is_some())
    }

    /// Runs a hook for a run.
    pub(super) fn hook(
        &self,
        moment: Moment,
        primary: &NodeName,
        run: (&RunName, Epoch),
        is_cancelled: &dyn Fn() -> bool,
    ) -> Option<HookReport> {
        self.volume.hooks.at(moment)?;
        let state = self.ground.look().map(|look| look.state);
        let about = About {
            volume: self.volume,
            path: self.path,
            node: &self.config.node,
            primary: Some(primary),
            run: Some(run),
            state: state.unwrap_or(lockstep_cluster::plan::NodeState::Unknown),
            state_dir: &self.config.state_dir,
        };
        about.run(moment, is_cancelled)
    }

    /// What the ledger says of the volume, and of the others of its group, as it is noted.
    pub(super) fn before(&self, group: bool) -> Result<Vec<Before>, Failure> {
        let mut all = Vec::new();
        for (volume, ground) in self.members(group) {
            let now = ground.now()?;
            all.push(Before {
                volume: volume.name.clone(),
                state: now.state,
                newest: now.newest,
            });
        }
        Ok(all)
    }

    /// The volume first, then those of its group that are on this node too.
    fn members(&self, group: bool) -> Vec<(&'a Volume, Ground)> {
        let cluster = &self.config.cluster;
        let mut groups = cluster.groups.iter();
        let mine = groups.find(|it| group && it.volumes.contains(&self.volume.name));
        let others = mine.iter().flat_map(|group| &group.volumes);
        let others = others.filter(|name| **name != self.volume.name);
        let others = others.filter_map(|name| {
            let (volume, path) = self.config.here(name)?;
            Some((volume, super::ground_of(self.config, volume, path)))
        });
        std::iter::once((self.volume, self.ground.clone()))
            .chain(others)
            .collect()
    }

    /// What the ledger says now of the volumes that a note is about.
    fn now(&self, note: &Note) -> Result<Vec<Now>, Failure> {
        let members = self.members(note.group);
        let mut all = Vec::new();
        for before in &note.before {
            let found = members.iter().find(|(it, _)| it.name == before.volume);
            let Some((_, ground)) = found else {
                let why = format!("`{}` is on this node no more", before.volume);
                return Err(Failure::new(FailureKind::Guard, why));
            };
            let now = ground.now()?;
            all.push(Now {
                forgot: now.forgot || ground.set_aside() != note.set_aside,
                ..now
            });
        }
        Ok(all)
    }

    /// What may run.
    pub(super) fn fate(&self, note: &Note, witnessed: bool) -> Result<Fate, Failure> {
        Ok(fate(note, &self.now(note)?, witnessed))
    }

    /// Starts what may run; the note is gone afterwards, or the services are down and it says so.
    pub(super) fn settle(
        &self,
        note: Note,
        witnessed: bool,
        is_cancelled: &dyn Fn() -> bool,
    ) -> Settled {
        let mut settled = Settled::default();
        let done = match self.fate(&note, witnessed) {
            Ok(Fate::Resume) => self.resume(note, is_cancelled, &mut settled),
            Ok(Fate::Restart) => {
                for staged in &note.files {
                    staged.discard(&self.volume.files);
                }
                self.start(&note, is_cancelled, &mut settled)
            }
            Ok(Fate::Down(why)) => Err(Failure::new(
                FailureKind::Interrupted,
                format!("the services stay stopped: {why}"),
            )
            .hint("run the same resync again; it starts them once the data is consistent")),
            Err(failure) => Err(failure),
        };
        settled.failure = done.err();
        // A hook's failure was logged when it ended.
        let is_hooks = settled
            .hooks
            .last()
            .is_some_and(|hook| hook.error.is_some());
        if let Some(failure) = settled.failure.as_ref().filter(|_| !is_hooks) {
            tracing::warn!(volume = %self.volume.name, "{}", failure.message);
        }
        settled
    }

    /// The node was made primary since: what runs there is other people's affair now.
    pub(super) fn leave_to_primary(&self, note: &Note) {
        for staged in &note.files {
            staged.discard(&self.volume.files);
        }
        tracing::warn!(
            volume = %self.volume.name,
            "run {} had stopped its services, and this node is its primary now: they are left as they are",
            note.run
        );
        if let Err(error) = self.notes().remove(note.id) {
            tracing::warn!("what was noted of the services stays: {error}");
        }
    }

    /// Of what is put in place nothing runs before all of it is there, and `configure` has told it
    /// whom to follow.
    fn resume(
        &self,
        mut note: Note,
        is_cancelled: &dyn Fn() -> bool,
        settled: &mut Settled,
    ) -> Result<(), Failure> {
        crash::point("host.aligning");
        for staged in &note.files {
            if staged.apply(&self.volume.files)? {
                settled.files.push(staged.path.clone());
            }
        }
        crash::point("host.aligned");
        if !note.configured {
            let run = (&note.run, note.epoch);
            let report = self.hook(Moment::Configure, &note.primary, run, is_cancelled);
            took(report, settled)?;
            crash::point("host.configured");
            note.configured = true;
            self.keep(&note)?;
        }
        self.start(&note, is_cancelled, settled)
    }

    /// Runs `start` and `check`; the note is gone once `start` ended well.
    pub(super) fn start(
        &self,
        note: &Note,
        is_cancelled: &dyn Fn() -> bool,
        settled: &mut Settled,
    ) -> Result<(), Failure> {
        let run = (&note.run, note.epoch);
        // Begun is begun: a newer run stops them again in its own time.
        let report = self.hook(Moment::Start, &note.primary, run, &|| false);
        let has_run = report.is_some();
        let started = took(report, settled);
        crash::point("host.started");
        // What did not start is down, and the note says so until it does.
        started?;
        let removed = self.notes().remove(note.id);
        if has_run {
            let since = crate::primary::now().saturating_sub(note.stopped_unix_ms);
            settled.downtime_seconds = Some(since as f64 / 1000.0);
        }
        removed.map_err(|error| {
            let message = format!("what was noted of the services stays: {error}");
            Failure::new(FailureKind::Io, message)
        })?;
        let report = self.hook(Moment::Check, &note.primary, run, is_cancelled);
        took(report, settled)?;
        crash::point("host.checked");
        Ok(())
    }

    /// Makes a note durable.
    pub(super) fn keep(&self, note: &Note) -> Result<(), Failure> {
        self.notes().write(note).map_err(|error| {
            let message = format!("the services cannot be noted as stopped: {error}");
            Failure::new(FailureKind::Io, message).hint("make room in the state directory")
        })
    }
}

/// A hook that ran; the failure if it did not end well.
fn took(report: Option<HookReport>, settled: &mut Settled) -> Result<(), Failure> {
    let Some(report) = report else {
        return Ok(());
    };
    let failure = report.error.as_ref().map(|error| {
        Failure::new(FailureKind::Interrupted, error.as_str())
            .hint("correct what the hook ran into, then run the same resync again")
    });
    settled.hooks.push(report);
    failure.map_or(Ok(()), Err)
}
