//! Who is told how a resync ended: the agent's side of mail and webhooks.

use std::path::Path;
use std::sync::Arc;

use lockstep_agent::config::Config;
use lockstep_agent::primary::{EndSink, Job};
use lockstep_agent::wire::Ended;
use lockstep_cluster::file::Ending;
use lockstep_engine::{Outcome, TargetOutcome, Verdict};
use lockstep_notify::{Line, NodeReport, NodeResult, Queue, Report, ReportId, Sender};
use lockstep_protocol::{Failure, FailureKind};

use super::on_cluster::merged;
use crate::failure::chain;

const FOLDER: &str = "notifications";
const EXIT_PARTIAL: u8 = 8;
const EXIT_FENCED: u8 = 6;

/// What is told waits on disk until it is delivered; no result waits for it.
#[derive(Clone)]
pub(super) struct Notifier(Arc<Sender>);

impl Notifier {
    /// # Errors
    /// If the queue in the state directory cannot be used.
    pub(super) fn start(config: &Config, state_dir: &Path) -> Result<Notifier, Failure> {
        let failed = |what: String| {
            Failure::new(FailureKind::Preflight, format!("notifications: {what}"))
                .hint("see that one agent alone uses this state directory")
        };
        let queue = Queue::open(&state_dir.join(FOLDER)).map_err(|error| failed(chain(&error)))?;
        let sender = Sender::start(queue, config.cluster.notify.clone())
            .map_err(|error| failed(error.to_string()))?;
        Ok(Notifier(Arc::new(sender)))
    }

    pub(super) fn reload(&self, config: &Config) {
        self.0.reload(config.cluster.notify.clone());
    }
}

impl EndSink for Notifier {
    fn ended(&self, job: &Job, ended: &Ended, begun_unix_ms: u64, ended_unix_ms: u64) {
        let Ok(id) = ReportId::random() else {
            tracing::error!("nobody is told of run {}: no random numbers", ended.run);
            return;
        };
        let report = report(id, job, ended, begun_unix_ms, ended_unix_ms);
        match self.0.enqueue(&report) {
            Ok(0) => {}
            Ok(count) => tracing::info!(run = %ended.run, count, "those who are to know are told"),
            Err(error) => tracing::error!("nobody is told of run {}: {}", ended.run, chain(&error)),
        }
    }
}

fn report(
    id: ReportId,
    job: &Job,
    ended: &Ended,
    begun_unix_ms: u64,
    ended_unix_ms: u64,
) -> Report {
    let whole = merged(ended);
    let exit_code = whole.exit_code();
    let name = job.ask.name.as_str();
    let mut nodes: Vec<NodeReport> = (whole.targets.iter().enumerate())
        .map(|(number, target)| node(name, target, downtime(ended, number)))
        .collect();
    // A run that ended before any secondary was reached has none to tell of.
    nodes.truncate(lockstep_notify::MAX_NODES);
    Report {
        id,
        test: false,
        cluster: Line::new(job.config.cluster.name.as_str()),
        volume: Line::new(name),
        verdict: verdict(exit_code),
        exit_code,
        run: Line::new(ended.run.as_str()),
        epoch: ended.epoch.map(|epoch| epoch.get()),
        primary: Line::new(job.config.node.as_str()),
        who: Line::new(&job.who),
        reason: job
            .ask
            .reason
            .as_ref()
            .map(|reason| Line::new(reason.as_str())),
        started_unix_ms: begun_unix_ms,
        ended_unix_ms,
        seconds: seconds(begun_unix_ms, ended_unix_ms),
        root: whole.root.as_ref().map(|root| Line::new(&root.to_string())),
        size: whole.size,
        nodes,
        error: whole
            .error
            .as_ref()
            .map(|failure| Line::new(&failure.message)),
        next: next(name, exit_code, &whole),
    }
}

fn verdict(exit_code: u8) -> Ending {
    match exit_code {
        0 => Ending::Ok,
        EXIT_PARTIAL => Ending::Partial,
        EXIT_FENCED => Ending::Fenced,
        _ => Ending::Failed,
    }
}

fn next(name: &str, exit_code: u8, whole: &Outcome) -> Option<Line> {
    let command = match exit_code {
        0 => return None,
        EXIT_FENCED => format!("lockstep status {name}"),
        _ => match whole
            .targets
            .iter()
            .find(|target| target.verdict != Verdict::Ok)
        {
            Some(target) => again(name, target),
            None => format!("lockstep plan {name}"),
        },
    };
    Some(Line::new(&command))
}

fn again(name: &str, target: &TargetOutcome) -> String {
    match target.error.as_ref().map(|failure| failure.kind) {
        Some(FailureKind::Temporary) => "lockstep doctor".to_owned(),
        _ => format!("lockstep plan {name} {}", target.target),
    }
}

fn node(name: &str, target: &TargetOutcome, downtime_seconds: Option<f64>) -> NodeReport {
    let is_good = target.verdict == Verdict::Ok;
    NodeReport {
        node: Line::new(&target.target),
        result: match is_good {
            true => NodeResult::Ok,
            false => NodeResult::Failed,
        },
        state: Line::new(target.state.word()),
        bytes_differing: target.bytes_differing,
        bytes_written: target.bytes_written,
        bytes_sent: target.bytes_sent,
        seconds: target.elapsed.as_secs_f64(),
        downtime_seconds,
        error: target
            .error
            .as_ref()
            .map(|failure| Line::new(&failure.message)),
        next: (!is_good).then(|| Line::new(&again(name, target))),
    }
}

fn downtime(ended: &Ended, number: usize) -> Option<f64> {
    let of_volumes = ended
        .volumes
        .iter()
        .filter_map(|volume| volume.aftermath.get(number)?.downtime_seconds);
    of_volumes.reduce(f64::max)
}

fn seconds(begun_unix_ms: u64, ended_unix_ms: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a duration to be shown")]
    let millis = ended_unix_ms.saturating_sub(begun_unix_ms) as f64;
    millis / 1000.0
}
