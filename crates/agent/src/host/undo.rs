//! Bringing a volume back to what it held before its last run.

use lockstep_cluster::file::Moment;
use lockstep_cluster::plan::NodeState;
use lockstep_cluster::value::VolumeName;
use lockstep_engine::{
    Asked, LocalRollback, Rollback, RollbackMonitor, RollbackOptions, Wish, ask_rollback,
};
use lockstep_protocol::{Failure, FailureKind};

use super::permit::guard;
use super::{Host, ground_of, serve_options};
use crate::hook::About;
use crate::wire::{Answer, HookReport, Words};

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
        let mut hooks = Vec::new();
        let mut run = |moment, state| {
            let about = About {
                volume,
                path,
                node: &config.node,
                primary: None,
                run: None,
                state,
            };
            let report = about.run(moment, &|| false);
            let failed = report.as_ref().and_then(|report| report.error.clone());
            hooks.extend(report);
            failed
        };
        if let Some(why) = run(Moment::Stop, state) {
            return Err(Failure::new(
                FailureKind::Preflight,
                format!("the services of `{name}` do not stop: {why}"),
            ));
        }
        let done = match ask_rollback(rollback(), Wish::Restore, &Agreed)? {
            Asked::Done(done) => done,
            Asked::Looked(_) => return Err(defect()),
        };
        let state = ground.look()?.state;
        if state == NodeState::Consistent {
            run(Moment::Start, state);
            run(Moment::Check, state);
        }
        self.see(&config, name);
        Ok(Answer::Undone {
            state,
            bytes: done.bytes_written,
            hooks: hooks as Vec<HookReport>,
            what,
        })
    }
}

fn defect() -> Failure {
    Failure::new(FailureKind::Internal, "the rollback answered out of turn")
}
