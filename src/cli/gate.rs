//! `gate`: whether a volume's last run ended consistent.

mod place;

use std::ffi::OsString;
use std::path::Path;

use clap::{Args, ValueEnum};
use lockstep_cluster::value::VolumeId;
use lockstep_engine::UNDO_OF;
use lockstep_ledger::{
    Identity, ProofLevel, Record, SourceLevel, Standing, VolumeKey, peek, peek_promise,
};
use lockstep_protocol::{Failure, VolumeState};
use lockstep_volume::identify;

use self::place::{Place, places};
use super::Context;
use super::request::state_dir;
use crate::events::{ErrorInfo, Event, State, Summary, TargetSummary, proof_word, time};
use crate::failure::{chain, usage};

/// Exit 0 if the volume's last run ended consistent, else 10 (for ExecCondition=, init containers).
///
/// Nothing is created or changed. What cannot be known is not usable.
#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// The volume: its name in the cluster file, a group's, or its path on this machine; what has a
    /// slash, or is here, is a path
    #[arg(value_name = "VOLUME|PATH")]
    volume: OsString,
    /// What it is to be used for: start (the service on it may start), or promote (it may become
    /// primary: it is also of the newest run that this node has heard of)
    #[arg(long = "for", value_enum, value_name = "WHAT", default_value = "start")]
    wanted_for: Use,
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

/// `--for`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Use {
    Start,
    Promote,
}

/// Not usable.
const EXIT_NOT_USABLE: u8 = 10;

/// What is known of the volume, and what to do about it.
struct Answer {
    state: VolumeState,
    usable: bool,
    proof: ProofLevel,
    level: Option<SourceLevel>,
    epoch: u64,
    sentence: String,
    hint: &'static str,
}

pub(super) fn run(arguments: &Arguments, context: &Context) -> Result<u8, Failure> {
    let places = places(&arguments.volume, context)?;
    if arguments.wanted_for == Use::Promote && places.iter().any(|place| place.id.is_none()) {
        return Err(
            usage("--for promote needs a volume of the cluster file, not a path")
                .hint("only agents' runs have epochs; give the volume's name"),
        );
    }
    let answers: Vec<(String, Answer)> = places
        .into_iter()
        .map(|place| {
            let answer = answer(&place, arguments, context);
            (place.name, answer)
        })
        .collect();
    let output = &context.output;
    for (name, answer) in &answers {
        output.event(&Event::State(State {
            target: name.clone(),
            state: answer.state.word(),
        }));
        match answer.usable {
            true => output.say(&format!("{name}: {}", answer.sentence)),
            false => output.insist(&format!("{name}: {}; {}", answer.sentence, answer.hint)),
        }
    }
    let summary = summary(answers);
    let code = summary.exit_code;
    output.summary(summary);
    Ok(code)
}

fn answer(place: &Place, arguments: &Arguments, context: &Context) -> Answer {
    let Some(path) = &place.path else {
        return Answer::unknown("none of its paths is there");
    };
    match (arguments.wanted_for, place.id) {
        (Use::Promote, Some(id)) => {
            // The promise first: a run that is let in meanwhile makes them differ.
            let promised = promised(id, context);
            ask(path, arguments.proof, context).if_newest(promised)
        }
        _ => ask(path, arguments.proof, context),
    }
}

/// The newest epoch that this node was told of.
fn promised(id: VolumeId, context: &Context) -> Result<Option<u64>, String> {
    let dir = state_dir(context.state_dir.as_deref()).map_err(|failure| failure.message)?;
    let promise = peek_promise(&dir, *id.as_bytes()).map_err(|error| chain(&error))?;
    Ok(promise.map(|promise| promise.epoch))
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
            epoch: 0,
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
            epoch: record.epoch,
            sentence: format!(
                "consistent since {}, by a proof that took over hashes of what a snapshot called unchanged",
                time(ended(record))
            ),
            hint: "run `lockstep sync --no-delta --verify full SOURCE TARGET` to read every byte",
        }
    }

    /// The same, if its run is the newest that this node promised anything to; a later one may have
    /// given others data that this node has not.
    fn if_newest(self, promised: Result<Option<u64>, String>) -> Answer {
        let why = match promised {
            _ if !self.usable => return self,
            Ok(Some(epoch)) if epoch == self.epoch => return self,
            Ok(Some(epoch)) => format!(
                "its run had epoch {}, and epoch {epoch} is known",
                self.epoch
            ),
            Ok(None) => "no epoch is known, so nothing says that it is the newest".to_owned(),
            Err(why) => why,
        };
        Answer {
            usable: false,
            sentence: format!("{}, but not to be promoted: {why}", self.sentence),
            hint: "resync it with `lockstep resync`, or promote another node",
            ..self
        }
    }

    fn target(&self, name: String) -> TargetSummary {
        let error = (!self.usable).then(|| ErrorInfo {
            code: "not-usable",
            exit_code: EXIT_NOT_USABLE,
            retriable: false,
            message: self.sentence.clone(),
            hint: self.hint.to_owned(),
        });
        let standing = TargetSummary::standing(name, self.state);
        TargetSummary {
            result: if self.usable { "ok" } else { "failed" },
            error,
            ..standing
        }
    }
}

/// Usable only if each of them is.
fn summary(answers: Vec<(String, Answer)>) -> Summary {
    let is_usable = answers.iter().all(|(_, answer)| answer.usable);
    let is_full = |answer: &Answer| answer.proof == ProofLevel::Full;
    let proof = match answers.iter().all(|(_, answer)| is_full(answer)) {
        true => ProofLevel::Full,
        false => ProofLevel::Delta,
    };
    let level = match answers.as_slice() {
        [(_, only)] => only.level.map(SourceLevel::word),
        _ => None,
    };
    let (result, exit_code) = match is_usable {
        true => ("ok", 0),
        false => ("failed", EXIT_NOT_USABLE),
    };
    Summary {
        result,
        exit_code,
        proof: proof_word(proof),
        level,
        targets: (answers.into_iter())
            .map(|(name, answer)| answer.target(name))
            .collect(),
        ..Summary::blank()
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
                epoch: record.epoch,
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
                epoch: record.epoch,
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
                epoch: record.epoch,
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

#[cfg(test)]
mod tests {
    use super::Answer;
    use lockstep_protocol::VolumeState;

    fn consistent(epoch: u64) -> Answer {
        Answer {
            state: VolumeState::Consistent,
            usable: true,
            epoch,
            ..Answer::unknown("")
        }
    }

    #[test]
    fn only_the_newest_epoch_that_is_known_may_be_promoted() {
        let usable = |epoch, promised| consistent(epoch).if_newest(promised).usable;
        assert!(usable(5, Ok(Some(5))));
        assert!(!usable(5, Ok(Some(6))), "a later run was let in");
        assert!(!usable(5, Ok(Some(4))), "the promise was lost");
        assert!(!usable(0, Ok(None)), "ad hoc: no epoch at all");
        assert!(!usable(5, Ok(None)));
        assert!(!usable(5, Err("damaged".to_owned())));
        assert!(!Answer::unknown("").if_newest(Ok(Some(0))).usable);
        let refused = consistent(5).if_newest(Ok(Some(6)));
        assert_eq!(refused.state, VolumeState::Consistent);
        assert!(refused.sentence.contains("epoch 6"), "{}", refused.sentence);
    }
}
