//! Bringing a volume back to what it held before its last run.

use lockstep_cluster::claim::{Epoch, RunName};
use lockstep_cluster::file::Moment;
use lockstep_cluster::plan::NodeState;
use lockstep_cluster::value::VolumeName;
use lockstep_engine::{
    Asked, LocalRollback, Rollback, RollbackMonitor, RollbackOptions, Wish, ask_rollback,
};
use lockstep_protocol::{Failure, FailureKind};

use super::note::{Found, Note};
use super::permit::guard;
use super::settle::{Services, Settled};
use super::{Host, ground_of, serve_options};
use crate::wire::{Answer, Words};

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

impl Host {
    /// Brings a volume back, or says what there is to bring back. Services are stopped before, and
    /// started again where the data is consistent then.
    ///
    /// # Errors
    /// If a run is on, nothing is kept, a service does not stop, or the data cannot be restored.
    pub fn undo(&self, name: &VolumeName, who: &str, dry_run: bool) -> Result<Answer, Failure> {
        let config = self.current().get();
        let (volume, path) = config.here(name).ok_or_else(|| {
            let why = format!("`{}` has no volume `{name}`", config.node);
            guard(why, "lay the same cluster file on every node")
        })?;
        let ground = ground_of(&config, volume, path);
        let options = serve_options(&config, &ground, who.to_owned());
        let rollback = || {
            Box::new(LocalRollback(RollbackOptions {
                path: ground.path.clone(),
                state_dir: ground.state_dir.clone(),
                who: who.to_owned(),
                threads: options.threads,
                io: options.io,
            }))
        };
        let offered = match ask_rollback(rollback(), Wish::Look, &Agreed)? {
            Asked::Looked(offer) => offer,
            Asked::Done(_) => return Err(defect()),
        };
        let state = ground.look()?.state;
        let what = Words::new(&format!(
            "{} bytes as before run {}, kept in a {}",
            offered.size, offered.run, offered.kind
        ));
        if dry_run {
            return Ok(Answer::Undone {
                state,
                bytes: 0,
                hooks: Vec::new(),
                what,
            });
        }
        let seat = self.seat(&config, volume, &ground)?;
        if let Some(holder) = seat.holder() {
            return Err(Failure::new(
                FailureKind::Busy,
                format!("run {} writes `{name}` now", holder.run),
            ));
        }
        let _hands = seat.hands();
        let services = Services {
            config: &config,
            volume,
            path,
            ground: &ground,
        };
        let mut settled = Settled::default();
        let note = self.stop(&services, &offered, seat.newest_epoch(), &mut settled)?;
        let done = match ask_rollback(rollback(), Wish::Restore, &Agreed) {
            Ok(Asked::Done(done)) => done,
            Ok(Asked::Looked(_)) => return Err(defect()),
            Err(failure) => {
                // If nothing was changed, everything goes on as before.
                services.settle(note, false, &|| false);
                return Err(failure);
            }
        };
        let state = ground.look()?.state;
        if state == NodeState::Consistent {
            // What was put back is proved, but by no run that pointed it at a primary.
            let _ = services.start(&note, &|| false, &mut settled);
        }
        self.see(&config, name);
        Ok(Answer::Undone {
            state,
            bytes: done.bytes_written,
            hooks: settled.hooks,
            what,
        })
    }
}

impl Host {
    /// Stops what uses the volume, and has noted it before. A service that does not stop is started.
    fn stop(
        &self,
        services: &Services<'_>,
        offered: &Rollback,
        epoch: Option<Epoch>,
        settled: &mut Settled,
    ) -> Result<Note, Failure> {
        let run: RunName = format!("undo-of-{}", offered.run).parse().map_err(|_| {
            Failure::new(FailureKind::Internal, "the undone run has a strange name")
        })?;
        let mut note = Note {
            id: services.volume.id,
            volume: services.volume.name.clone(),
            run,
            epoch: epoch.or(Epoch::new(1)).ok_or_else(defect)?,
            primary: services.config.node.clone(),
            stopped_unix_ms: super::now_unix_ms(),
            group: false,
            was_down: services.notes().read(services.volume.id) != Found::Nothing,
            serving: false,
            usable: false,
            configured: false,
            files: Vec::new(),
            set_aside: services.ground.set_aside(),
            before: services.before(false)?,
        };
        services.keep(&note)?;
        let run = (&note.run, note.epoch);
        let report = services.hook(Moment::Stop, &note.primary, run, &|| false);
        let failed = report.as_ref().and_then(|report| report.error.clone());
        settled.hooks.extend(report);
        if let Some(why) = failed {
            services.settle(note, false, &|| false);
            let message = format!("nothing was changed, for a service does not stop: {why}");
            return Err(Failure::new(FailureKind::Preflight, message));
        }
        note.serving = true;
        services.keep(&note)?;
        Ok(note)
    }
}

fn defect() -> Failure {
    Failure::new(FailureKind::Internal, "the rollback answered out of turn")
}
