//! Bringing volumes back to what they held before their last run.
//!
//! The volumes of a group go together: all are stopped, all are brought back, and services start only
//! if all are consistent then. No run is let in meanwhile.

use std::path::Path;

use lockstep_cluster::claim::{Epoch, RunName};
use lockstep_cluster::file::{Moment, Volume};
use lockstep_cluster::plan::NodeState;
use lockstep_cluster::value::{AbsolutePath, VolumeName};
use lockstep_engine::{
    Asked, LocalRollback, Rollback, RollbackMonitor, RollbackOptions, Wish, ask_rollback,
};
use lockstep_protocol::{Failure, FailureKind};

use super::ground::Ground;
use super::note::{Found, Note};
use super::permit::guard;
use super::seat::Reserved;
use super::settle::{Services, Settled};
use super::{Host, ground_of, group_of, serve_options};
use crate::config::Config;
use crate::hook::refuse_beside_another;
use crate::wire::{Answer, WireFailure, Words};

/// Agrees to what was asked for by whoever may.
struct Agreed;

impl RollbackMonitor for Agreed {
    fn offered(&self, _: &Rollback, _: &'static str) -> Result<(), Failure> {
        Ok(())
    }

    fn state(&self, state: &str) {
        tracing::info!(state, "undo");
    }

    fn warning(&self, message: &str) {
        tracing::warn!("undo: {message}");
    }
}

/// A volume that is to be brought back.
struct Member<'a> {
    volume: &'a Volume,
    path: &'a AbsolutePath,
    ground: Ground,
    offered: Rollback,
}

impl Host {
    /// Brings volumes back, or says what there is to bring back. Services are stopped before, and
    /// started again where all the data is consistent then.
    ///
    /// # Errors
    /// If this node is the primary or its own file forbids it, a run is on, nothing is kept, a service
    /// does not stop, or the data cannot be restored.
    pub fn undo(&self, names: &[VolumeName], who: &str, dry_run: bool) -> Result<Answer, Failure> {
        let config = self.current().get();
        let members = self.members(&config, names, who)?;
        let what = members.iter().map(Member::what).collect();
        if dry_run {
            return Ok(Answer::undone(worst(&members)?, 0, Vec::new(), what, None));
        }
        let _reserved = self.reserve(&config, &members)?;
        let volumes = members.iter().map(|member| &member.volume.name);
        refuse_beside_another(&config.state_dir, volumes)?;
        let mut settled = Settled::default();
        let notes = self.stop(&config, &members, &mut settled)?;
        let mut bytes = 0;
        for (number, member) in members.iter().enumerate() {
            match ask_rollback(
                rollback(&config, &member.ground, who),
                Wish::Restore,
                &Agreed,
            ) {
                Ok(Asked::Done(done)) => bytes += done.bytes_written,
                Ok(Asked::Looked(_)) => return Err(defect()),
                Err(failure) if number == 0 => {
                    // If nothing was changed, everything goes on as before.
                    resume(&config, &members, &notes);
                    return Err(failure);
                }
                Err(failure) => {
                    return Err(Failure {
                        message: format!(
                            "{} was not brought back, others of its group were, and services stay down: {}",
                            member.volume.name, failure.message
                        ),
                        ..failure
                    });
                }
            }
        }
        let state = worst(&members)?;
        let failure = match state {
            NodeState::Consistent => start(&config, &members, &notes, &mut settled).err(),
            _ => (!notes.is_empty()).then(|| {
                Failure::new(
                    FailureKind::Interrupted,
                    "services stay down: no run's proof of what was brought back holds",
                )
                .hint("a resync makes it consistent and starts them")
            }),
        };
        self.refresh();
        let failure = failure.as_ref().map(WireFailure::from);
        Ok(Answer::undone(state, bytes, settled.hooks, what, failure))
    }

    /// Everything that speaks against it, before anything is touched.
    fn members<'a>(
        &self,
        config: &'a Config,
        names: &[VolumeName],
        who: &str,
    ) -> Result<Vec<Member<'a>>, Failure> {
        if names.is_empty() {
            return Err(guard("no volume is named", "name one"));
        }
        let mut members = Vec::new();
        for name in names {
            let (volume, path) = config.here(name).ok_or_else(|| {
                let why = format!("`{}` has no volume `{name}`", config.node);
                guard(why, "lay the same cluster file on every node")
            })?;
            let others = group_of(config, name).filter(|group| {
                (group.volumes.iter()).any(|it| config.here(it).is_some() && !names.contains(it))
            });
            if let Some(group) = others {
                let why = format!("`{name}` goes together with the others of `{}`", group.name);
                return Err(guard(why, "undo the group by its name"));
            }
            if !volume.replicas.contains(&config.node) || !may_be_overwritten(config, name) {
                let why = format!("`{name}` may not be overwritten on `{}`", config.node);
                return Err(guard(
                    why,
                    "see `replicas` in the cluster file and agent.toml there",
                ));
            }
            let ground = ground_of(config, volume, path);
            self.refuse_a_primary(config, volume, path, &ground)?;
            let offered = match ask_rollback(rollback(config, &ground, who), Wish::Look, &Agreed)? {
                Asked::Looked(offer) => offer,
                Asked::Done(_) => return Err(defect()),
            };
            members.push(Member {
                volume,
                path,
                ground,
                offered,
            });
        }
        Ok(members)
    }

    /// Keeps runs out of all of them.
    fn reserve(&self, config: &Config, members: &[Member<'_>]) -> Result<Vec<Reserved>, Failure> {
        let reserve = |member: &Member<'_>| {
            let seat = self.seat(config, member.volume, &member.ground)?;
            seat.reserve().ok_or_else(|| {
                let why = format!("a run has `{}` now, or waits for it", member.volume.name);
                Failure::new(FailureKind::Busy, why).hint("wait for it to end, or cancel it")
            })
        };
        members.iter().map(reserve).collect()
    }

    /// Stops what uses the volumes, having noted it before. A service that does not stop is started.
    fn stop(
        &self,
        config: &Config,
        members: &[Member<'_>],
        settled: &mut Settled,
    ) -> Result<Vec<Note>, Failure> {
        let mut notes: Vec<Note> = Vec::new();
        for (number, member) in members.iter().enumerate() {
            let services = member.services(config);
            let same = |other: &Member<'_>| other.volume.hooks == member.volume.hooks;
            if !services.has_hooks() || members[..number].iter().any(same) {
                continue;
            }
            let seat = self.seat(config, member.volume, &member.ground)?;
            let mut note = member.note(&services, seat.newest_epoch())?;
            services.keep(&note)?;
            let run = (&note.run, note.epoch);
            let report = services.hook(Moment::Stop, &note.primary, run, &|| false);
            let failed = report.as_ref().and_then(|report| report.error.clone());
            settled.hooks.extend(report);
            let name = &member.volume.name;
            notes.push(note.clone());
            if let Some(why) = failed {
                resume(config, members, &notes);
                let message =
                    format!("nothing was changed: a service of `{name}` does not stop: {why}");
                return Err(Failure::new(FailureKind::Preflight, message));
            }
            note.serving = true;
            services.keep(&note)?;
        }
        Ok(notes)
    }
}

impl Member<'_> {
    fn services<'b>(&'b self, config: &'b Config) -> Services<'b> {
        Services {
            config,
            volume: self.volume,
            path: self.path,
            ground: &self.ground,
        }
    }

    fn what(&self) -> Words {
        Words::new(&format!(
            "{}: {} bytes as before run {}, kept in a {}",
            self.volume.name, self.offered.size, self.offered.run, self.offered.kind
        ))
    }

    fn note(&self, services: &Services<'_>, epoch: Option<Epoch>) -> Result<Note, Failure> {
        let run: RunName = format!("undo-of-{}", self.offered.run)
            .parse()
            .map_err(|_| {
                Failure::new(FailureKind::Internal, "the undone run has a strange name")
            })?;
        let group = group_of(services.config, &self.volume.name).is_some();
        Ok(Note {
            id: self.volume.id,
            volume: self.volume.name.clone(),
            run,
            epoch: epoch.or(Epoch::new(1)).ok_or_else(defect)?,
            primary: services.config.node.clone(),
            stopped_unix_ms: crate::primary::now(),
            group,
            was_down: services.notes().read(self.volume.id) != Found::Nothing,
            serving: false,
            configured: false,
            files: Vec::new(),
            set_aside: services.ground.set_aside(),
            before: services.before(group)?,
        })
    }
}

/// Starts again what was stopped, if nothing happened to the data.
fn resume(config: &Config, members: &[Member<'_>], notes: &[Note]) {
    for note in notes {
        if let Some(member) = members.iter().find(|member| member.volume.id == note.id) {
            member
                .services(config)
                .settle(note.clone(), false, &|| false);
        }
    }
}

/// Starts what was stopped: all the data is proved.
fn start(
    config: &Config,
    members: &[Member<'_>],
    notes: &[Note],
    settled: &mut Settled,
) -> Result<(), Failure> {
    for note in notes {
        if let Some(member) = members.iter().find(|member| member.volume.id == note.id) {
            member.services(config).start(note, &|| false, settled)?;
        }
    }
    Ok(())
}

/// Whether this node's own file lets anybody overwrite it.
fn may_be_overwritten(config: &Config, volume: &VolumeName) -> bool {
    let rules = config.own.volumes.get(volume);
    config.own.allow_overwrite && rules.is_none_or(|rules| rules.allow_overwrite)
}

fn rollback(config: &Config, ground: &Ground, who: &str) -> Box<LocalRollback> {
    let options = serve_options(config, ground, who.to_owned());
    let path: &Path = &ground.path;
    Box::new(LocalRollback(RollbackOptions {
        path: path.to_path_buf(),
        state_dir: ground.state_dir.clone(),
        who: who.to_owned(),
        threads: options.threads,
        io: options.io,
    }))
}

/// The state of the one that is furthest from consistent.
fn worst(members: &[Member<'_>]) -> Result<NodeState, Failure> {
    let rank = |state: &NodeState| match state {
        NodeState::Consistent => 0,
        NodeState::Unknown => 1,
        NodeState::Inconsistent => 2,
        NodeState::Failed => 3,
    };
    let mut states = Vec::new();
    for member in members {
        states.push(member.ground.look()?.state);
    }
    Ok(states
        .into_iter()
        .max_by_key(rank)
        .unwrap_or(NodeState::Unknown))
}

fn defect() -> Failure {
    Failure::new(FailureKind::Internal, "the rollback answered out of turn")
}
