//! The events of `--json`: one object a line, `docs/events.schema.json` is their contract.

use std::time::Duration;

use jiff::Timestamp;
use lockstep_agent::wire::{HookReport, PastRun};
use lockstep_engine::{
    Consistency, KeptBytes, Level, Notice, Outcome, Paced, TargetOutcome, TargetProgress, Verdict,
};
use lockstep_ledger::ProofLevel;
use lockstep_merkle::Root;
use lockstep_protocol::{Failure, VolumeState};
use serde::Serialize;

use crate::measures::{Bench, Predicted};

/// Version of the format, in every line.
const VERSION: u8 = 1;

/// What one line says.
#[derive(Serialize)]
#[serde(untagged)]
pub(crate) enum Event {
    RunStarted(RunStarted),
    Preflight(Preflight),
    Snapshot(Snapshot),
    Hashed(Hashed),
    Diff(Diff),
    State(State),
    Listed(Listed),
    Plan(Planned),
    Past(Past),
    Finding(Finding),
    Mistake(Mistake),
    Key(Key),
    Notified(Notified),
    Bench(Box<Bench>),
    Prediction(Predicted),
    Progress(Progress),
    Warning(Warning),
    Error(Error),
    Summary(Summary),
}

#[derive(Serialize)]
pub(crate) struct RunStarted {
    pub(crate) run: String,
    pub(crate) source: String,
    pub(crate) targets: Vec<String>,
    pub(crate) size: u64,
    pub(crate) dry_run: bool,
}

#[derive(Serialize)]
pub(crate) struct Preflight {
    pub(crate) target: String,
    pub(crate) transport: &'static str,
    pub(crate) plan: &'static str,
    pub(crate) present_size: Option<u64>,
}

#[derive(Serialize)]
pub(crate) struct Snapshot {
    pub(crate) snapshot: &'static str,
    pub(crate) detail: String,
}

/// A snapshot that is there.
#[derive(Serialize)]
pub(crate) struct Listed {
    pub(crate) volume: String,
    pub(crate) name: String,
    pub(crate) snapshot: String,
    pub(crate) size: u64,
    pub(crate) made: String,
    pub(crate) used: &'static str,
    /// When it is released by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) until: Option<String>,
}

/// What a resync would do, as `plan --out` writes it.
#[derive(Serialize)]
pub(crate) struct Planned {
    pub(crate) plan: serde_json::Value,
}

/// A run that is over, as a node's ledger has it.
#[derive(Serialize)]
pub(crate) struct Past {
    pub(crate) volume: String,
    pub(crate) node: String,
    pub(crate) run: String,
    pub(crate) epoch: u64,
    pub(crate) state: &'static str,
    pub(crate) source: String,
    pub(crate) who: String,
    pub(crate) started: String,
    pub(crate) ended: Option<String>,
    pub(crate) root: Option<String>,
    pub(crate) size: u64,
    pub(crate) bytes_written: u64,
    pub(crate) proof: String,
    pub(crate) why: Option<String>,
}

impl Past {
    pub(crate) fn of(volume: &str, node: &str, record: &PastRun) -> Past {
        Past {
            volume: volume.to_owned(),
            node: node.to_owned(),
            run: record.run.to_string(),
            epoch: record.epoch,
            state: record.state.word(),
            source: record.source.to_string(),
            who: record.who.to_string(),
            started: time(record.started_unix_ms),
            ended: record.ended_unix_ms.map(time),
            root: record.root.as_ref().map(ToString::to_string),
            size: record.size,
            bytes_written: record.bytes_written,
            proof: record.proof.to_string(),
            why: record.why.as_ref().map(ToString::to_string),
        }
    }
}

/// Something to mend, and where.
#[derive(Serialize)]
pub(crate) struct Finding {
    pub(crate) node: String,
    pub(crate) volume: Option<String>,
    pub(crate) peer: Option<String>,
    pub(crate) check: &'static str,
    pub(crate) severity: &'static str,
    pub(crate) message: String,
    pub(crate) fix: String,
}

/// A mistake in a configuration file.
#[derive(Serialize)]
pub(crate) struct Mistake {
    pub(crate) file: String,
    pub(crate) line: usize,
    pub(crate) column: usize,
    pub(crate) message: String,
    pub(crate) hint: String,
}

/// The public keys of a state directory.
#[derive(Serialize)]
pub(crate) struct Key {
    pub(crate) key: String,
    pub(crate) fingerprint: String,
    /// The key that will be used, while rotating.
    pub(crate) next: Option<String>,
}

/// A destination of notifications was tried.
#[derive(Serialize)]
pub(crate) struct Notified {
    pub(crate) destination: String,
    pub(crate) result: &'static str,
    pub(crate) error: Option<ErrorInfo>,
}

#[derive(Serialize)]
pub(crate) struct Hashed {
    /// The volume; only `hash` can have several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) path: Option<String>,
    pub(crate) root: String,
    pub(crate) size: u64,
    pub(crate) seconds: f64,
}

#[derive(Serialize)]
pub(crate) struct Diff {
    pub(crate) target: String,
    pub(crate) bytes_differing: u64,
    pub(crate) ranges: Vec<Range>,
}

/// Differing bytes: `length` of them from `offset`.
#[derive(Serialize)]
pub(crate) struct Range {
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

#[derive(Serialize)]
pub(crate) struct State {
    pub(crate) target: String,
    pub(crate) state: &'static str,
}

#[derive(Serialize)]
pub(crate) struct Progress {
    pub(crate) bytes_scanned: u64,
    pub(crate) size: u64,
    pub(crate) seconds: f64,
    pub(crate) targets: Vec<TargetLine>,
}

#[derive(Serialize)]
pub(crate) struct TargetLine {
    pub(crate) target: String,
    pub(crate) phase: &'static str,
    pub(crate) bytes_compared: u64,
    pub(crate) bytes_differing: u64,
    pub(crate) bytes_written: u64,
    pub(crate) bytes_verified: u64,
    pub(crate) bytes_sent: u64,
    pub(crate) bytes_received: u64,
}

#[derive(Serialize)]
pub(crate) struct Warning {
    pub(crate) target: Option<String>,
    pub(crate) message: String,
}

#[derive(Serialize)]
pub(crate) struct Error {
    pub(crate) target: Option<String>,
    pub(crate) error: ErrorInfo,
}

/// A failure, as the summary and `error` events show it.
#[derive(Clone, Serialize)]
pub(crate) struct ErrorInfo {
    pub(crate) code: &'static str,
    pub(crate) exit_code: u8,
    pub(crate) retriable: bool,
    pub(crate) message: String,
    pub(crate) hint: String,
}

/// The last line of every `--json` output.
#[derive(Serialize)]
pub(crate) struct Summary {
    pub(crate) run: String,
    /// The cluster's epoch; absent for ad hoc runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) epoch: Option<u64>,
    pub(crate) result: &'static str,
    pub(crate) exit_code: u8,
    pub(crate) changed: bool,
    pub(crate) dry_run: bool,
    pub(crate) root: Option<String>,
    pub(crate) size: u64,
    pub(crate) seconds: f64,
    /// How the source was held still; null where nothing was read.
    pub(crate) snapshot: Option<&'static str>,
    pub(crate) consistency: Option<&'static str>,
    pub(crate) level: Option<&'static str>,
    pub(crate) proof: &'static str,
    pub(crate) source: SourceCounts,
    /// How far it yielded; absent where the run did not watch others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) paced: Option<PacedInfo>,
    pub(crate) targets: Vec<TargetSummary>,
    /// A failure of the run itself; those of targets are theirs.
    pub(crate) error: Option<ErrorInfo>,
}

#[derive(Default, Serialize)]
pub(crate) struct SourceCounts {
    pub(crate) bytes_read: u64,
    pub(crate) bytes_hashed: u64,
}

/// How far a run yielded to others.
#[derive(Serialize)]
pub(crate) struct PacedInfo {
    pub(crate) seconds_held: f64,
    pub(crate) lowest_rate: Option<u64>,
}

impl From<Paced> for PacedInfo {
    fn from(paced: Paced) -> PacedInfo {
        PacedInfo {
            seconds_held: paced.held.as_secs_f64(),
            lowest_rate: paced.lowest_rate,
        }
    }
}

#[derive(Serialize)]
pub(crate) struct TargetSummary {
    pub(crate) target: String,
    pub(crate) result: &'static str,
    pub(crate) state: &'static str,
    pub(crate) bytes_differing: u64,
    pub(crate) bytes_written: u64,
    pub(crate) bytes_read: u64,
    pub(crate) bytes_inherited: u64,
    pub(crate) bytes_sent: u64,
    pub(crate) bytes_received: u64,
    pub(crate) bytes_reused: u64,
    pub(crate) bytes_resumed: u64,
    pub(crate) seconds: f64,
    pub(crate) transport: Option<&'static str>,
    pub(crate) undo: Option<UndoInfo>,
    /// How long its services were down; absent where none were stopped and started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) downtime_seconds: Option<f64>,
    /// Configuration files that were put in place.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) files: Vec<String>,
    /// Hooks that ran there, in their order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) hooks: Vec<HookInfo>,
    pub(crate) error: Option<ErrorInfo>,
}

/// How a hook ended.
#[derive(Serialize)]
pub(crate) struct HookInfo {
    pub(crate) hook: String,
    pub(crate) seconds: f64,
    /// None if it was killed, or did not run.
    pub(crate) exit: Option<i32>,
}

impl From<&HookReport> for HookInfo {
    fn from(report: &HookReport) -> HookInfo {
        HookInfo {
            hook: report.moment.to_string(),
            seconds: report.seconds,
            exit: report.exit,
        }
    }
}

/// What can be brought back of a target.
#[derive(Serialize)]
pub(crate) struct UndoInfo {
    pub(crate) kind: &'static str,
    pub(crate) until: String,
    pub(crate) bytes: u64,
}

impl From<&KeptBytes> for UndoInfo {
    fn from(kept: &KeptBytes) -> UndoInfo {
        UndoInfo {
            kind: kept.kind.word(),
            until: time(kept.until_unix_ms),
            bytes: kept.bytes,
        }
    }
}

impl Event {
    /// The event as one line, without its end.
    pub(crate) fn line(&self) -> String {
        #[derive(Serialize)]
        struct Line<'a> {
            v: u8,
            r#type: &'static str,
            ts: String,
            #[serde(flatten)]
            event: &'a Event,
        }
        let line = Line {
            v: VERSION,
            r#type: self.word(),
            ts: format!("{:.3}", Timestamp::now()),
            event: self,
        };
        // Strings and numbers alone: there is nothing in an event that JSON cannot hold.
        serde_json::to_string(&line).unwrap_or_default()
    }

    /// What a run has said, with the targets' names in place of their numbers.
    pub(crate) fn from_notice(notice: &Notice, run: &RunNames) -> Event {
        match notice {
            Notice::Started { run: name, size } => Event::RunStarted(RunStarted {
                run: name.clone(),
                source: run.source.clone(),
                targets: run.targets.clone(),
                size: *size,
                dry_run: run.dry_run,
            }),
            Notice::Preflight {
                target,
                transport,
                plan,
                present_size,
            } => Event::Preflight(Preflight {
                target: run.target(*target),
                transport,
                plan,
                present_size: *present_size,
            }),
            Notice::Snapshot { provider, detail } => Event::Snapshot(Snapshot {
                snapshot: provider,
                detail: detail.clone(),
            }),
            Notice::Hashed {
                root,
                size,
                elapsed,
            } => Event::Hashed(Hashed {
                path: None,
                root: root.to_string(),
                size: *size,
                seconds: elapsed.as_secs_f64(),
            }),
            Notice::Diff {
                target,
                bytes_differing,
                ranges,
            } => Event::Diff(Diff {
                target: run.target(*target),
                bytes_differing: *bytes_differing,
                ranges: ranges.iter().map(Range::from).collect(),
            }),
            Notice::State { target, state } => Event::State(State {
                target: run.target(*target),
                state: state.word(),
            }),
            Notice::Progress {
                bytes_scanned,
                size,
                elapsed,
                targets,
            } => Event::Progress(Progress {
                bytes_scanned: *bytes_scanned,
                size: *size,
                seconds: elapsed.as_secs_f64(),
                targets: targets.iter().map(|line| target_line(line, run)).collect(),
            }),
            Notice::Warning { target, message } => Event::Warning(Warning {
                target: target.map(|target| run.target(target)),
                message: message.clone(),
            }),
            Notice::Error { target, failure } => Event::Error(Error {
                target: target.map(|target| run.target(target)),
                error: failure.into(),
            }),
        }
    }

    fn word(&self) -> &'static str {
        match self {
            Event::RunStarted(_) => "run_started",
            Event::Preflight(_) => "preflight",
            Event::Snapshot(_) => "snapshot",
            Event::Hashed(_) => "hashed",
            Event::Diff(_) => "diff",
            Event::State(_) => "state",
            Event::Listed(_) => "listed",
            Event::Plan(_) => "plan",
            Event::Past(_) => "past",
            Event::Finding(_) => "finding",
            Event::Mistake(_) => "mistake",
            Event::Key(_) => "key",
            Event::Notified(_) => "notified",
            Event::Bench(_) => "bench",
            Event::Prediction(_) => "prediction",
            Event::Progress(_) => "progress",
            Event::Warning(_) => "warning",
            Event::Error(_) => "error",
            Event::Summary(_) => "summary",
        }
    }
}

/// What the numbers in notices stand for.
pub(crate) struct RunNames {
    pub(crate) source: String,
    pub(crate) targets: Vec<String>,
    pub(crate) dry_run: bool,
}

impl RunNames {
    /// The target with this number, as the user named it.
    pub(crate) fn target(&self, number: usize) -> String {
        self.targets.get(number).cloned().unwrap_or_default()
    }
}

fn target_line(line: &TargetProgress, run: &RunNames) -> TargetLine {
    TargetLine {
        target: run.target(line.target),
        phase: line.phase.word(),
        bytes_compared: line.bytes_compared,
        bytes_differing: line.bytes_differing,
        bytes_written: line.bytes_written,
        bytes_verified: line.bytes_verified,
        bytes_sent: line.bytes_sent,
        bytes_received: line.bytes_received,
    }
}

impl From<&std::ops::Range<u64>> for Range {
    fn from(range: &std::ops::Range<u64>) -> Range {
        Range {
            offset: range.start,
            length: range.end.saturating_sub(range.start),
        }
    }
}

impl From<&Failure> for ErrorInfo {
    fn from(failure: &Failure) -> ErrorInfo {
        ErrorInfo {
            code: failure.kind.word(),
            exit_code: failure.kind.exit_code(),
            retriable: failure.kind.retriable(),
            message: failure.message.clone(),
            hint: failure.hint.clone(),
        }
    }
}

impl Summary {
    /// A summary in which nothing was read and nothing happened.
    pub(crate) fn blank() -> Summary {
        Summary {
            run: run_name(),
            epoch: None,
            result: "ok",
            exit_code: 0,
            changed: false,
            dry_run: false,
            root: None,
            size: 0,
            seconds: 0.0,
            snapshot: None,
            consistency: None,
            level: None,
            proof: "full",
            source: SourceCounts::default(),
            paced: None,
            targets: Vec::new(),
            error: None,
        }
    }

    /// The summary of something that ended before there was a run.
    pub(crate) fn failed(failure: &Failure) -> Summary {
        Summary {
            result: "failed",
            exit_code: failure.kind.exit_code(),
            error: Some(failure.into()),
            ..Summary::blank()
        }
    }

    /// The summary of a run.
    pub(crate) fn of_run(outcome: &Outcome, dry_run: bool) -> Summary {
        Summary {
            run: outcome.run.clone(),
            epoch: None,
            result: verdict_word(outcome.verdict),
            exit_code: outcome.exit_code(),
            changed: outcome.changed(),
            dry_run,
            root: outcome.root.as_ref().map(Root::to_string),
            size: outcome.size,
            seconds: outcome.elapsed.as_secs_f64(),
            snapshot: Some(outcome.snapshot).filter(|snapshot| !snapshot.is_empty()),
            consistency: Some(consistency_word(outcome.consistency)),
            level: outcome.level.map(Level::word),
            proof: proof_word(outcome.proof),
            source: SourceCounts {
                bytes_read: outcome.source.bytes_read,
                bytes_hashed: outcome.source.bytes_hashed,
            },
            paced: outcome.paced.map(PacedInfo::from),
            targets: outcome.targets.iter().map(TargetSummary::from).collect(),
            error: outcome.error.as_ref().map(ErrorInfo::from),
        }
    }
}

impl TargetSummary {
    /// A target of which only the state is known.
    pub(crate) fn standing(target: String, state: VolumeState) -> TargetSummary {
        TargetSummary {
            result: match state {
                VolumeState::Consistent => "ok",
                _ => "failed",
            },
            state: state.word(),
            ..TargetSummary::named(target)
        }
    }

    /// A target to which nothing happened yet.
    pub(crate) fn named(target: String) -> TargetSummary {
        TargetSummary {
            target,
            result: "ok",
            state: "unknown",
            bytes_differing: 0,
            bytes_written: 0,
            bytes_read: 0,
            bytes_inherited: 0,
            bytes_sent: 0,
            bytes_received: 0,
            bytes_reused: 0,
            bytes_resumed: 0,
            seconds: 0.0,
            transport: None,
            undo: None,
            downtime_seconds: None,
            files: Vec::new(),
            hooks: Vec::new(),
            error: None,
        }
    }
}

impl From<&TargetOutcome> for TargetSummary {
    fn from(target: &TargetOutcome) -> TargetSummary {
        TargetSummary {
            target: target.target.clone(),
            result: verdict_word(target.verdict),
            state: target.state.word(),
            bytes_differing: target.bytes_differing,
            bytes_written: target.bytes_written,
            bytes_read: target.bytes_read,
            bytes_inherited: target.bytes_inherited,
            bytes_sent: target.bytes_sent,
            bytes_received: target.bytes_received,
            bytes_reused: 0,
            bytes_resumed: 0,
            seconds: target.elapsed.as_secs_f64(),
            transport: target.transport,
            undo: target.undo.as_ref().map(UndoInfo::from),
            downtime_seconds: None,
            files: Vec::new(),
            hooks: Vec::new(),
            error: target.error.as_ref().map(ErrorInfo::from),
        }
    }
}

fn verdict_word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Ok => "ok",
        Verdict::Partial => "partial",
        Verdict::Failed => "failed",
        Verdict::Different => "different",
    }
}

/// The word for what was read to prove something.
pub(crate) fn proof_word(level: ProofLevel) -> &'static str {
    match level {
        ProofLevel::Full => "full",
        ProofLevel::Delta => "delta",
    }
}

fn consistency_word(consistency: Consistency) -> &'static str {
    match consistency {
        Consistency::PointInTime => "point-in-time",
        Consistency::Fuzzy => "fuzzy",
    }
}

/// A name for what never became a run: as long as a run's, and as unlike any other.
fn run_name() -> String {
    let mut bytes = [0u8; 16];
    // Without randomness the name is all zeros: no reason to fail what is being reported.
    let _ = getrandom::fill(&mut bytes);
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A time of a record as RFC 3339, to the second.
pub(crate) fn time(unix_ms: u64) -> String {
    let since_epoch = Duration::from_millis(unix_ms);
    match jiff::SignedDuration::try_from(since_epoch).and_then(Timestamp::from_duration) {
        Ok(time) => format!("{time:.0}"),
        Err(_) => "an unknown time".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::time;

    #[test]
    fn times_are_shown_to_the_second() {
        assert_eq!(time(1_700_000_000_123), "2023-11-14T22:13:20Z");
        assert_eq!(time(u64::MAX), "an unknown time");
    }
}
