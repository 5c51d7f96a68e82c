//! A volume's hooks and its probe: programs with a limit, told in their environment what it is about.
//!
//! | variable | value |
//! | --- | --- |
//! | `LOCKSTEP_VOLUME`, `LOCKSTEP_PATH` | the volume's name, and its place on this node |
//! | `LOCKSTEP_NODE`, `LOCKSTEP_PRIMARY` | this node, and the one that the data comes from; that one is empty for a probe |
//! | `LOCKSTEP_RUN`, `LOCKSTEP_EPOCH` | the run and its epoch; empty outside of a run |
//! | `LOCKSTEP_MOMENT` | `stop`, `configure`, `start`, …, or `probe` |
//! | `LOCKSTEP_STATE` | what the ledger says of the volume now |

use std::ffi::OsString;
use std::time::{Duration, Instant};

use lockstep_cluster::claim::{Epoch, RunName};
use lockstep_cluster::file::{Moment, Volume};
use lockstep_cluster::plan::NodeState;
use lockstep_cluster::roles::{Probed, role_from_output};
use lockstep_cluster::value::{AbsolutePath, Argv, NodeName};
use lockstep_quiesce::{Hook, Progress};

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
}

impl About<'_> {
    fn environment(&self, moment: &str) -> Vec<(String, OsString)> {
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
        let ended = hook.run(&Until(is_cancelled));
        let report = HookReport {
            moment: Words::new(moment.word()),
            seconds: begun.elapsed().as_secs_f64(),
            error: ended.err().map(|failure| Words::new(&failure.to_string())),
        };
        match &report.error {
            None => tracing::info!(volume = %self.volume.name, moment = moment.word(), "hook ran"),
            Some(error) => tracing::warn!(volume = %self.volume.name, "{error}"),
        }
        Some(report)
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

/// Goes on until somebody says no.
struct Until<'a>(&'a dyn Fn() -> bool);

impl Progress for Until<'_> {
    fn is_cancelled(&self) -> bool {
        (self.0)()
    }
}
