//! `gate`: whether a volume's last run ended consistent.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use lockstep_engine::UNDO_OF;
use lockstep_ledger::{Identity, ProofLevel, Record, SourceLevel, Standing, VolumeKey, peek};
use lockstep_protocol::{Failure, VolumeState};
use lockstep_volume::identify;

use super::Context;
use super::request::state_dir;
use crate::events::{ErrorInfo, Event, State, Summary, TargetSummary, proof_word, time};
use crate::failure::{chain, usage};

/// Exit 0 if the volume's last run ended consistent, else 10 (for ExecCondition=, init containers).
///
/// Nothing is created or changed. What cannot be known is not usable.
#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// The volume, as its path on this machine
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// Accept only a run that read every byte of both sides; without it, one that took over hashes
    /// of what a snapshot called unchanged is accepted too
    #[arg(
        long,
        value_enum,
        value_name = "LEVEL",
        default_value = "delta",
        env = "LOCKSTEP_PROOF"
    )]
    proof: Wanted,
}

/// `--proof`: the least that is accepted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Wanted {
    Full,
    Delta,
}

/// Not usable.
const EXIT_NOT_USABLE: u8 = 10;

/// What is known of the volume, and what to do about it.
struct Answer {
    state: VolumeState,
    usable: bool,
    proof: ProofLevel,
    level: Option<SourceLevel>,
    sentence: String,
    hint: &'static str,
}

pub(super) fn run(arguments: &Arguments, context: &Context) -> Result<u8, Failure> {
    let path = &arguments.path;
    if path.as_os_str().is_empty() {
        return Err(usage("the PATH is empty"));
    }
    let answer = ask(path, arguments.proof, context);
    let name = path.display().to_string();
    let output = &context.output;
    output.event(&Event::State(State {
        target: name.clone(),
        state: answer.state.word(),
    }));
    let usable = answer.usable;
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
fn ask(path: &Path, wanted: Wanted, context: &Context) -> Answer {
    let looked = || -> Result<Standing, String> {
        let dir = state_dir(context.state_dir.as_deref()).map_err(|failure| failure.message)?;
        let identity = identify(path).map_err(|error| chain(&error))?;
        let key = VolumeKey::from_path(path).map_err(|error| chain(&error))?;
        let identity = Identity::new(identity.durable_text());
        Ok(peek(&dir, &key, &identity))
    };
    match looked() {
        Ok(Standing::Consistent(record))
            if wanted == Wanted::Full && record.proof == ProofLevel::Delta =>
        {
            Answer::too_weak(&record)
        }
        Ok(standing) => Answer::from(standing),
        Err(why) => Answer::unknown(&why),
    }
}

impl Answer {
    fn unknown(why: &str) -> Answer {
        Answer {
            state: VolumeState::Unknown,
            usable: false,
            proof: ProofLevel::Full,
            level: None,
            sentence: format!("unknown: {why}"),
            hint: "run `lockstep sync SOURCE TARGET` to make it equal to its source",
        }
    }

    /// Consistent, but by a proof that is not enough here.
    fn too_weak(record: &Record) -> Answer {
        Answer {
            state: VolumeState::Consistent,
            usable: false,
            proof: ProofLevel::Delta,
            level: record.level,
            sentence: format!(
                "consistent since {}, by a proof that took over hashes of what a snapshot called unchanged",
                time(ended(record))
            ),
            hint: "run `lockstep sync --no-delta --verify full SOURCE TARGET` to read every byte",
        }
    }

    fn summary(self, name: String) -> Summary {
        let usable = self.usable;
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
        let blank = Summary {
            proof: proof_word(self.proof),
            level: self.level.map(SourceLevel::word),
            ..Summary::blank()
        };
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
                usable: true,
                proof: record.proof,
                level: record.level,
                sentence: format!(
                    "consistent since {}{}",
                    time(ended(&record)),
                    worth(&record)
                ),
                hint: "",
            },
            Standing::Inconsistent(record) => Answer {
                state: VolumeState::Inconsistent,
                usable: false,
                proof: record.proof,
                level: None,
                sentence: match (&record.reason, record.source.strip_prefix(UNDO_OF)) {
                    (Some(reason), _) => format!(
                        "inconsistent since {}: {reason}",
                        time(record.started_unix_ms)
                    ),
                    (None, None) => format!(
                        "inconsistent since {}: the run from {} did not finish",
                        time(record.started_unix_ms),
                        record.source
                    ),
                    (None, Some(run)) => format!(
                        "inconsistent since {}: run {run} was undone, or that was cut short, and nobody had proved what was there before",
                        time(record.started_unix_ms)
                    ),
                },
                hint: "run `lockstep sync` again: it ships only what is missing",
            },
            Standing::Failed(record) => Answer {
                state: VolumeState::Failed,
                usable: false,
                proof: record.proof,
                level: None,
                sentence: format!(
                    "failed since {}: {}",
                    time(ended(&record)),
                    record.reason.as_deref().unwrap_or("its disk failed")
                ),
                hint: "look after its disk, then run `lockstep sync` again",
            },
        }
    }
}

/// What of a proof and of its source is worth telling, after a comma.
fn worth(record: &Record) -> String {
    let mut worth = String::new();
    if record.proof == ProofLevel::Delta {
        worth.push_str(", proof: delta");
    }
    if let Some(level) = record.level {
        worth.push_str(", source ");
        worth.push_str(level.word());
    }
    worth
}

fn ended(record: &Record) -> u64 {
    record.ended_unix_ms.unwrap_or(record.started_unix_ms)
}
