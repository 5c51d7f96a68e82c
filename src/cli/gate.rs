//! `gate`: whether a volume's last run ended consistent.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use jiff::Timestamp;
use lockstep_ledger::{Identity, Record, Standing, VolumeKey, peek};
use lockstep_protocol::{Failure, VolumeState};
use lockstep_volume::identify;

use super::Context;
use super::request::state_dir;
use crate::events::{ErrorInfo, Event, State, Summary, TargetSummary};
use crate::failure::{chain, usage};

/// Exit 0 if the volume's last run ended consistent, else 10 (for ExecCondition=, init containers).
///
/// Nothing is created or changed. What cannot be known is not usable.
#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// The volume, as its path on this machine
    #[arg(value_name = "PATH")]
    path: PathBuf,
}

/// Not usable.
const EXIT_NOT_USABLE: u8 = 10;

/// What is known of the volume, and what to do about it.
struct Answer {
    state: VolumeState,
    sentence: String,
    hint: &'static str,
}

pub(super) fn run(arguments: &Arguments, context: &Context) -> Result<u8, Failure> {
    let path = &arguments.path;
    if path.as_os_str().is_empty() {
        return Err(usage("the PATH is empty"));
    }
    let answer = ask(path, context);
    let name = path.display().to_string();
    let output = &context.output;
    output.event(&Event::State(State {
        target: name.clone(),
        state: answer.state.word(),
    }));
    let usable = answer.state == VolumeState::Consistent;
    match usable {
        true => output.say(&format!("{name}: {}", answer.sentence)),
        false => output.insist(&format!("{name}: {}; {}", answer.sentence, answer.hint)),
    }
    let summary = answer.summary(name);
    let code = summary.exit_code;
    output.summary(summary);
    Ok(code)
}

/// Looks into the ledger; whatever stands in the way makes the answer `unknown`.
fn ask(path: &Path, context: &Context) -> Answer {
    let looked = || -> Result<Standing, String> {
        let dir = state_dir(context.state_dir.as_deref()).map_err(|failure| failure.message)?;
        let identity = identify(path).map_err(|error| chain(&error))?;
        let key = VolumeKey::from_path(path).map_err(|error| chain(&error))?;
        let identity = Identity::new(identity.durable_text());
        Ok(peek(&dir, &key, &identity))
    };
    match looked() {
        Ok(standing) => Answer::from(standing),
        Err(why) => Answer::unknown(&why),
    }
}

impl Answer {
    fn unknown(why: &str) -> Answer {
        Answer {
            state: VolumeState::Unknown,
            sentence: format!("unknown: {why}"),
            hint: "run `lockstep sync SOURCE TARGET` to make it equal to its source",
        }
    }

    fn summary(self, name: String) -> Summary {
        let usable = self.state == VolumeState::Consistent;
        let error = (!usable).then(|| ErrorInfo {
            code: "not-usable",
            exit_code: EXIT_NOT_USABLE,
            retriable: false,
            message: self.sentence,
            hint: self.hint.to_owned(),
        });
        let target = TargetSummary {
            error,
            ..TargetSummary::standing(name, self.state)
        };
        let blank = Summary::blank();
        match usable {
            true => Summary {
                targets: vec![target],
                ..blank
            },
            false => Summary {
                result: "failed",
                exit_code: EXIT_NOT_USABLE,
                targets: vec![target],
                ..blank
            },
        }
    }
}

impl From<Standing> for Answer {
    fn from(standing: Standing) -> Answer {
        match standing {
            Standing::Unknown { why } => Answer::unknown(&why),
            Standing::Consistent(record) => Answer {
                state: VolumeState::Consistent,
                sentence: format!("consistent since {}", when(ended(&record))),
                hint: "",
            },
            Standing::Inconsistent(record) => Answer {
                state: VolumeState::Inconsistent,
                sentence: format!(
                    "inconsistent since {}: the run from {} did not finish",
                    when(record.started_unix_ms),
                    record.source
                ),
                hint: "run the same `lockstep sync` again: it ships only what is missing",
            },
            Standing::Failed(record) => Answer {
                state: VolumeState::Failed,
                sentence: format!(
                    "failed since {}: {}",
                    when(ended(&record)),
                    record.reason.as_deref().unwrap_or("its disk failed")
                ),
                hint: "look after its disk, then run `lockstep sync` again",
            },
        }
    }
}

fn ended(record: &Record) -> u64 {
    record.ended_unix_ms.unwrap_or(record.started_unix_ms)
}

/// A time of the ledger as RFC 3339, to the second.
fn when(unix_ms: u64) -> String {
    let since_epoch = Duration::from_millis(unix_ms);
    match jiff::SignedDuration::try_from(since_epoch).and_then(Timestamp::from_duration) {
        Ok(time) => format!("{time:.0}"),
        Err(_) => "an unknown time".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::when;

    #[test]
    fn times_are_shown_to_the_second() {
        assert_eq!(when(1_700_000_000_123), "2023-11-14T22:13:20Z");
        assert_eq!(when(u64::MAX), "an unknown time");
    }
}
