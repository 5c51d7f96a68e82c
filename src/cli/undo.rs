//! `undo`: gives a target back what a run overwrote.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use clap::Args;
use lockstep_engine::{
    Asked, Cancel, Connect, KeptUndo, LocalRollback, Priority, Rollback, RollbackMonitor,
    RollbackOptions, RolledBack, Wish, ask_rollback, list_undos,
};
use lockstep_protocol::{Failure, FailureKind};

use super::Context;
use super::options::{IoOption, ReachOptions, ThreadsOption};
use super::request::{state_dir, who};
use super::undo_on_cluster::{self, Wanted};
use crate::consent::{is_answered_yes, plain, somebody_is_there};
use crate::events::{
    self, ErrorInfo, Event, Listed, Preflight, State, Summary, TargetSummary, UndoInfo, time,
};
use crate::failure::usage;
use crate::output::Output;
use crate::place;
use crate::remote::{Job, OverQuic, RemoteTarget};
use crate::signals::{self, Reaction};
use crate::target::Target;
use crate::units;

/// Give a target back what the last run on it overwrote.
///
/// It is kept by `sync` for --keep-undo after the run. The target is proved by reading it back, against
/// its root before the run. An undo that is cut short can be run again.
#[derive(Args, Debug)]
#[command(arg_required_else_help = true)]
pub(super) struct Arguments {
    // Not a doc comment: rustdoc would take the brackets for a link.
    #[arg(
        value_name = "TARGET",
        required_unless_present = "list",
        help = "What is to become what it was: PATH or [USER@]HOST:PATH; with NODE, a volume or group of the cluster"
    )]
    target: Option<OsString>,
    /// The secondary whose volume is brought back, through its agent
    #[arg(value_name = "NODE", requires = "target", conflicts_with_all = ["release", "list"])]
    node: Option<String>,
    /// Tell what is kept, and change nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Agree beforehand that what the target holds now is overwritten
    #[arg(long)]
    yes: bool,
    /// Let go of what is kept; the target stays as it is
    #[arg(long, conflicts_with = "dry_run")]
    release: bool,
    /// List what is kept of targets on this machine
    #[arg(long, conflicts_with_all = ["target", "release", "dry_run"])]
    list: bool,
    #[command(flatten)]
    reach: ReachOptions,
    #[command(flatten)]
    io: IoOption,
    #[command(flatten)]
    threads: ThreadsOption,
}

pub(super) fn run(arguments: &Arguments, context: &Context) -> Result<u8, Failure> {
    let Some(target) = &arguments.target else {
        return list(context);
    };
    if let Some(node) = &arguments.node {
        let name = target.to_string_lossy();
        let wanted = Wanted {
            name: &name,
            node,
            dry_run: arguments.dry_run,
            yes: arguments.yes,
        };
        return undo_on_cluster::run(&wanted, context);
    }
    let target = place::targets(&[target])?
        .pop()
        .ok_or_else(|| usage("no TARGET is named"))?;
    signals::watch(Reaction::Exit, Arc::clone(&context.output), || {})?;
    let started = Instant::now();
    let name = target.to_string();
    let connect = arguments.connect(target, context)?;
    let listener = Listener {
        name: &name,
        arguments,
        output: &context.output,
        seen: Mutex::new(Seen::default()),
    };
    let asked = ask_rollback(connect, arguments.wish(), &listener);
    let mut summary = listener.summary(asked.as_ref());
    summary.seconds = started.elapsed().as_secs_f64();
    if let Err(failure) = &asked {
        context.output.fail(failure, Some(&name));
        context.output.event(&Event::Error(events::Error {
            target: Some(name.clone()),
            error: failure.into(),
        }));
    }
    let code = summary.exit_code;
    context.output.summary(summary);
    Ok(code)
}

impl Arguments {
    fn wish(&self) -> Wish {
        match (self.dry_run, self.release) {
            (true, _) => Wish::Look,
            (false, true) => Wish::Release,
            (false, false) => Wish::Restore,
        }
    }

    fn connect(&self, target: Target, context: &Context) -> Result<Box<dyn Connect>, Failure> {
        Ok(match target {
            Target::Local(path) => Box::new(LocalRollback(self.local(path, context)?)),
            Target::Remote(remote) => Box::new(RemoteTarget {
                remote,
                reach: self.reach.reach(OverQuic::default())?,
                state_dir: context.state_dir.clone(),
                who: who(),
                memory: lockstep_engine::DEFAULT_MEMORY,
                threads: self.threads.asked(),
                priority: Priority::Normal,
                uring: self.io.uring_elsewhere(),
                job: Job::Rollback,
            }),
        })
    }

    fn local(&self, path: PathBuf, context: &Context) -> Result<RollbackOptions, Failure> {
        Ok(RollbackOptions {
            path,
            state_dir: state_dir(context.state_dir.as_deref())?,
            who: who(),
            threads: self.threads.count(),
            io: self.io.engine(&context.output),
        })
    }
}

/// What was heard so far.
#[derive(Default)]
struct Seen {
    offer: Option<Rollback>,
    transport: Option<&'static str>,
    state: Option<String>,
}

struct Listener<'a> {
    name: &'a str,
    arguments: &'a Arguments,
    output: &'a Output,
    seen: Mutex<Seen>,
}

impl RollbackMonitor for Listener<'_> {
    fn offered(&self, offer: &Rollback, transport: &'static str) -> Result<(), Failure> {
        self.output.event(&Event::Preflight(Preflight {
            target: self.name.to_owned(),
            transport,
            plan: match offer.size == offer.present_size {
                true => "keep",
                false => "resize",
            },
            present_size: Some(offer.present_size),
        }));
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        *seen = Seen {
            offer: Some(offer.clone()),
            transport: Some(transport),
            state: Some(offer.state.clone()),
        };
        drop(seen);
        match self.arguments.wish() {
            Wish::Look => {
                self.output.result(&sentence(self.name, offer));
                Ok(())
            }
            Wish::Release => Ok(()),
            Wish::Restore => self.agreed(offer),
        }
    }

    fn state(&self, state: &str) {
        if let Some(state) = word(state) {
            let target = self.name.to_owned();
            self.output.event(&Event::State(State { target, state }));
        }
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.state = Some(state.to_owned());
    }

    fn warning(&self, message: &str) {
        let name = self.name;
        self.output.event(&Event::Warning(events::Warning {
            target: Some(name.to_owned()),
            message: message.to_owned(),
        }));
        self.output.warn(&format!("{name}: {message}"));
    }
}

impl Listener<'_> {
    fn agreed(&self, offer: &Rollback) -> Result<(), Failure> {
        if self.arguments.yes {
            return Ok(());
        }
        let what = format!("{} would be overwritten", self.name);
        let refused = |why: &str| {
            Failure::new(FailureKind::NotConfirmed, format!("{what}{why}"))
                .hint("give --yes to agree beforehand")
        };
        if !somebody_is_there() {
            return Err(refused(", and there is no terminal to ask on"));
        }
        let question = format!(
            "What {} holds now will be overwritten and lost:\n  {}\nType `yes` to go on: ",
            plain(self.name),
            plain(&sentence(self.name, offer)),
        );
        // A signal ends the process while it waits.
        match is_answered_yes(&question, self.output, &Cancel::new()) {
            true => Ok(()),
            false => Err(refused(": not confirmed")),
        }
    }

    fn summary(&self, asked: Result<&Asked, &Failure>) -> Summary {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let state = seen.state.as_deref().and_then(word).unwrap_or("unknown");
        let target = TargetSummary {
            state,
            transport: seen.transport,
            ..TargetSummary::named(self.name.to_owned())
        };
        let blank = Summary {
            dry_run: self.arguments.dry_run,
            size: seen.offer.as_ref().map_or(0, |offer| offer.size),
            ..Summary::blank()
        };
        match asked {
            Ok(Asked::Looked(offer)) => Summary {
                root: offer.root.clone(),
                targets: vec![TargetSummary {
                    undo: kind(&offer.kind).map(|kind| UndoInfo {
                        kind,
                        until: time(offer.until_unix_ms),
                        bytes: 0,
                    }),
                    ..target
                }],
                ..blank
            },
            Ok(Asked::Done(done)) => {
                self.tell(done, seen.offer.as_ref());
                Summary {
                    changed: self.arguments.wish() == Wish::Restore,
                    root: done.root.clone(),
                    targets: vec![TargetSummary {
                        state: word(&done.state).unwrap_or(state),
                        bytes_written: done.bytes_written,
                        ..target
                    }],
                    ..blank
                }
            }
            Err(failure) => Summary {
                result: "failed",
                exit_code: failure.kind.exit_code(),
                // The state is told at the moment before the first byte.
                changed: state == "inconsistent" && self.has_begun(&seen),
                targets: vec![TargetSummary {
                    result: "failed",
                    error: Some(ErrorInfo::from(failure)),
                    ..target
                }],
                ..blank
            },
        }
    }

    fn has_begun(&self, seen: &Seen) -> bool {
        let before = seen.offer.as_ref().map(|offer| offer.state.as_str());
        self.arguments.wish() == Wish::Restore && before != seen.state.as_deref()
    }

    fn tell(&self, done: &RolledBack, offer: Option<&Rollback>) {
        let name = self.name;
        // An image is all of what there was; a log is what the run overwrote of it.
        let is_proved = offer.is_some_and(|offer| offer.root.is_some() || offer.kind != "log");
        self.output.result(&match (&done.root, done.state.as_str()) {
            (None, _) => format!("{name}: what was kept of it is released"),
            (Some(root), "consistent") => {
                format!("{name}: as it was before the run, root {root}, consistent")
            }
            (Some(root), state) if is_proved => format!(
                "{name}: as it was before the run, root {root}; {state}, for no run's proof of that holds any more: sync it to have one"
            ),
            (Some(root), state) => format!(
                "{name}: all that was overwritten is put back, root {root}; {state}, for its root before the run is not known: sync it to have a proof"
            ),
        });
    }
}

/// What would be brought back.
fn sentence(name: &str, offer: &Rollback) -> String {
    let resized = match offer.size == offer.present_size {
        true => String::new(),
        false => format!(" (now {})", units::volume_size(offer.present_size)),
    };
    format!(
        "{name}: {}{resized} as before run {} of {}, kept in a {} until {}",
        units::volume_size(offer.size),
        offer.run,
        time(offer.created_unix_ms),
        match offer.kind.as_str() {
            "reflink" => "clone",
            "thin" => "thin snapshot",
            _ => "log",
        },
        time(offer.until_unix_ms)
    )
}

fn word(state: &str) -> Option<&'static str> {
    ["unknown", "consistent", "inconsistent", "failed"]
        .into_iter()
        .find(|word| *word == state)
}

fn kind(kind: &str) -> Option<&'static str> {
    ["reflink", "thin", "log"]
        .into_iter()
        .find(|word| *word == kind)
}

fn list(context: &Context) -> Result<u8, Failure> {
    let (kept, unusable) = list_undos(&state_dir(context.state_dir.as_deref())?)?;
    for undo in &kept {
        context.output.event(&Event::Listed(listed(undo)));
        context.output.result(&format!(
            "{}  {}  {}  until {}",
            undo.volume,
            undo.kind,
            units::volume_size(undo.size),
            time(undo.until_unix_ms)
        ));
    }
    for why in unusable {
        context.output.event(&Event::Warning(events::Warning {
            target: None,
            message: why.clone(),
        }));
        context.output.warn(&why);
    }
    context.output.summary(Summary::blank());
    Ok(0)
}

fn listed(undo: &KeptUndo) -> Listed {
    Listed {
        volume: undo.volume.clone(),
        name: undo.run.clone(),
        snapshot: undo.kind.to_owned(),
        size: undo.size,
        made: time(undo.created_unix_ms),
        used: "undo",
        until: Some(time(undo.until_unix_ms)),
    }
}
