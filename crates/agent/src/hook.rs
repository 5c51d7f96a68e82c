//! A volume's hooks and its probe: programs with a limit, told in their environment what it is about.
//!
//! | variable | value |
//! | --- | --- |
//! | `LOCKSTEP_VOLUME`, `LOCKSTEP_PATH` | the volume's name, and its place on this node |
//! | `LOCKSTEP_NODE`, `LOCKSTEP_PRIMARY` | this node, and the one that the data comes from; that one is empty for a probe |
//! | `LOCKSTEP_RUN`, `LOCKSTEP_EPOCH` | the run and its epoch; empty outside of a run |
//! | `LOCKSTEP_MOMENT` | `stop`, `configure`, `start`, `freeze`, …, or `probe` |
//! | `LOCKSTEP_STATE` | what the ledger says of the volume now; `unknown` on a primary, and for a probe |
//!
//! `freeze` and `thaw` have `LOCKSTEP_SNAPSHOT` besides: the names of the snapshots, a line each.
//! Volumes of a group with the same hooks have them run once, for the first of them.

use std::ffi::OsString;
use std::path::Path;
use std::time::{Duration, Instant};

use lockstep_cluster::claim::{Epoch, RunName};
use lockstep_cluster::file::{Moment, Volume};
use lockstep_cluster::plan::NodeState;
use lockstep_cluster::roles::{Probed, role_from_output};
use lockstep_cluster::value::{AbsolutePath, Argv, NodeName, VolumeName};
use lockstep_protocol::{Failure, FailureKind};
use lockstep_quiesce::{Hook, HookLog, Progress};

use crate::crash;
use crate::wire::{HookReport, Words};

/// What a hook is told.
#[derive(Clone, Copy, Debug)]
pub struct About<'a> {
    /// The volume that it belongs to.
    pub volume: &'a Volume,
    /// The volume's place on this node.
    pub path: &'a AbsolutePath,
    /// This node.
    pub node: &'a NodeName,
    /// The node that the data comes from, where that is known.
    pub primary: Option<&'a NodeName>,
    /// The run and its epoch, if there is one.
    pub run: Option<(&'a RunName, Epoch)>,
    /// What the ledger says of the volume.
    pub state: NodeState,
    /// Where it is written down which hooks run.
    pub state_dir: &'a Path,
}

impl About<'_> {
    pub(crate) fn environment(&self, moment: &str) -> Vec<(String, OsString)> {
        let text = |value: Option<String>| OsString::from(value.unwrap_or_default());
        [
            ("VOLUME", self.volume.name.to_string().into()),
            ("PATH", self.path.as_str().into()),
            ("NODE", self.node.to_string().into()),
            ("PRIMARY", text(self.primary.map(ToString::to_string))),
            ("RUN", text(self.run.map(|(run, _)| run.to_string()))),
            ("EPOCH", text(self.run.map(|(_, epoch)| epoch.to_string()))),
            ("MOMENT", moment.into()),
            ("STATE", self.state.word().into()),
        ]
        .map(|(name, value): (&str, OsString)| (format!("LOCKSTEP_{name}"), value))
        .to_vec()
    }

    fn hook(&self, moment: &str, argv: &Argv, limit: Duration) -> Hook {
        Hook {
            name: moment.to_owned(),
            argv: argv.words().iter().map(OsString::from).collect(),
            environment: self.environment(moment),
            limit,
        }
    }

    /// Runs the volume's hook of a moment, if it has one, until it ends, its limit is over, or
    /// `is_cancelled` says so.
    #[must_use]
    pub fn run(&self, moment: Moment, is_cancelled: &dyn Fn() -> bool) -> Option<HookReport> {
        let argv = self.volume.hooks.at(moment)?;
        let hook = self.hook(moment.word(), argv, self.volume.limits.at(moment));
        let begun = Instant::now();
        let until = || {
            if moment == Moment::Stop {
                crash::point("host.stopping");
            }
            is_cancelled()
        };
        let (exit, error) = match refuse_beside_another(self.state_dir, [&self.volume.name]) {
            Ok(()) => match hook.run_noted(self.log(), &Until(&until)) {
                Ok(()) => (Some(0), None),
                Err(failure) => (failure.exit_code(), Some(failure.to_string())),
            },
            Err(why) => {
                let why = format!("hook {} is not run: {}", hook.name, why.message);
                (None, Some(why))
            }
        };
        let report = HookReport {
            moment: Words::new(moment.word()),
            seconds: begun.elapsed().as_secs_f64(),
            exit,
            error: error.map(|why| Words::new(&why)),
        };
        match &report.error {
            None => tracing::info!(volume = %self.volume.name, moment = moment.word(), "hook ran"),
            Some(error) => tracing::warn!(volume = %self.volume.name, "{error}"),
        }
        Some(report)
    }

    fn log(&self) -> HookLog<'_> {
        HookLog {
            state_dir: self.state_dir,
            of: self.volume.name.as_str(),
        }
    }

    /// Asks the volume's probe for this node's role.
    ///
    /// # Errors
    /// Why there is no answer, as a lowercase fragment.
    pub fn probe(&self, argv: &Argv) -> Probed {
        let hook = self.hook("probe", argv, self.volume.limits.probe);
        let output = hook
            .answer(&Until(&|| false))
            .map_err(|failure| failure.to_string())?;
        role_from_output(&output)
    }
}

/// Kills what hooks of a killed agent are still at work; before anything else is done.
pub(crate) fn end_leftovers(state_dir: &Path) {
    match lockstep_quiesce::end_leftovers(state_dir) {
        Ok(ended) => {
            for hook in ended {
                let (name, volume, process) = (hook.name, hook.of, hook.process);
                match hook.is_gone {
                    true => {
                        tracing::warn!(%volume, process, "hook {name} of a killed agent was killed")
                    }
                    false => {
                        tracing::error!(%volume, process, "hook {name} of a killed agent cannot be killed")
                    }
                }
            }
        }
        Err(error) => tracing::error!("whether hooks of a killed agent still run: {error}"),
    }
}

/// Whether hooks and data of these volumes are let alone by an agent that was killed.
///
/// # Errors
/// `Temporary` while a hook of such a one cannot be killed.
pub(crate) fn refuse_beside_another<'a>(
    state_dir: &Path,
    volumes: impl IntoIterator<Item = &'a VolumeName>,
) -> Result<(), Failure> {
    let names: Vec<&str> = volumes.into_iter().map(VolumeName::as_str).collect();
    let found = lockstep_quiesce::leftover_of(state_dir, &names)
        .map_err(|error| Failure::new(FailureKind::Io, error.to_string()))?;
    match found {
        None => Ok(()),
        Some(hook) => Err(Failure::new(
            FailureKind::Temporary,
            format!(
                "hook {} of an agent that was killed still runs, as process {}, and cannot be killed",
                hook.name, hook.process
            ),
        )
        .hint("see what it waits for; a dead disk, perhaps")),
    }
}

/// Goes on until somebody says no.
struct Until<'a>(&'a dyn Fn() -> bool);

impl Progress for Until<'_> {
    fn is_cancelled(&self) -> bool {
        (self.0)()
    }
}
