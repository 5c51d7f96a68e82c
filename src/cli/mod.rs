//! The verbs: one file each. A new one is its file, a variant and a line in [`Verb::run`].

mod agent;
mod bench;
mod cancel;
mod config;
mod demo;
mod diff;
mod doctor;
mod gate;
mod hash;
mod init;
mod limit;
mod node;
mod notifications;
mod notify;
mod on_cluster;
mod options;
mod plan;
mod remote_bench;
mod remote_target;
mod request;
mod resync;
mod snapshot;
mod status;
mod sync;
mod throttle;
mod undo;
mod undo_on_cluster;
mod verify;
mod watchdog;

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::panic::{self, AssertUnwindSafe};
use std::path::PathBuf;
use std::sync::Arc;

use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand};
use lockstep_protocol::{Failure, FailureKind};

use crate::events::{self, Event, Summary};
use crate::failure::usage;
use crate::logging::{self, LogFormat};
use crate::output::{Color, Format, Loudness, Output};

/// Makes replicas of a volume byte-equal to it, and proves it.
#[derive(Parser, Debug)]
#[command(name = "lockstep", version, max_term_width = 100)]
pub(crate) struct Command {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Args, Debug)]
struct Global {
    /// Print events as JSON, one object a line, the summary last; text for people goes to stderr
    #[arg(long, global = true)]
    json: bool,
    /// Where this machine keeps its ledger [default: /var/lib/lockstep for root, else
    /// $XDG_STATE_HOME/lockstep]; remote targets use the same path on their machine
    #[arg(long, global = true, value_name = "DIR", env = "LOCKSTEP_STATE_DIR")]
    state_dir: Option<PathBuf>,
    /// The cluster file [default: the first of ./cluster.toml,
    /// $XDG_CONFIG_HOME/lockstep/cluster.toml and /etc/lockstep/cluster.toml]
    #[arg(
        short,
        long,
        global = true,
        value_name = "FILE",
        env = "LOCKSTEP_CLUSTER"
    )]
    cluster: Option<PathBuf>,
    /// Which node of the cluster file this machine is
    #[arg(long, global = true, value_name = "NAME", env = "LOCKSTEP_NODE")]
    node: Option<String>,
    /// Say only what went wrong
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
    /// Say more; twice for even more
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    /// Colour text on stderr
    #[arg(
        long,
        global = true,
        value_enum,
        value_name = "WHEN",
        default_value = "auto",
        env = "LOCKSTEP_COLOR"
    )]
    color: Color,
    /// How log lines on stderr are written
    #[arg(
        long,
        global = true,
        value_enum,
        value_name = "FORMAT",
        default_value = "text",
        env = "LOCKSTEP_LOG_FORMAT"
    )]
    log_format: LogFormat,
}

#[derive(Subcommand, Debug)]
enum Verb {
    Sync(sync::Arguments),
    Diff(diff::Arguments),
    Hash(hash::Arguments),
    Gate(gate::Arguments),
    Bench(bench::Arguments),
    Demo(demo::Arguments),
    Snapshot(snapshot::Arguments),
    Undo(undo::Arguments),
    Agent(agent::Arguments),
    Plan(plan::Arguments),
    Resync(resync::Arguments),
    Verify(verify::Arguments),
    Status(status::Arguments),
    History(status::HistoryArguments),
    Cancel(cancel::Arguments),
    Limit(limit::Arguments),
    Doctor(doctor::Arguments),
    Init(init::Arguments),
    Config(config::Arguments),
    Node(node::Arguments),
    Notify(notify::Arguments),
    #[command(hide = true)]
    RemoteTarget,
    #[command(hide = true)]
    RemoteBench,
    #[command(hide = true)]
    ThawWatchdog(watchdog::Arguments),
    #[command(hide = true)]
    DemoShell(demo::ShellArguments),
}

/// What every verb is given.
struct Context {
    output: Arc<Output>,
    state_dir: Option<PathBuf>,
    cluster: Option<PathBuf>,
    node: Option<String>,
    quiet: bool,
    json: bool,
}

impl Verb {
    /// Runs the verb to its exit code; a failure is still to be told.
    fn run(self, context: &Context) -> Result<u8, Failure> {
        match self {
            Verb::Sync(arguments) => sync::run(&arguments, context),
            Verb::Diff(arguments) => diff::run(&arguments, context),
            Verb::Hash(arguments) => hash::run(&arguments, context),
            Verb::Gate(arguments) => gate::run(&arguments, context),
            Verb::Bench(arguments) => bench::run(&arguments, context),
            Verb::Demo(arguments) => demo::run(&arguments, context),
            Verb::Snapshot(arguments) => snapshot::run(&arguments, context),
            Verb::Undo(arguments) => undo::run(&arguments, context),
            Verb::Agent(arguments) => agent::run(&arguments, context),
            Verb::Plan(arguments) => plan::run(&arguments, context),
            Verb::Resync(arguments) => resync::run(&arguments, context),
            Verb::Verify(arguments) => verify::run(&arguments, context),
            Verb::Status(arguments) => status::run(&arguments, context),
            Verb::History(arguments) => status::history(&arguments, context),
            Verb::Cancel(arguments) => cancel::run(&arguments, context),
            Verb::Limit(arguments) => limit::run(&arguments, context),
            Verb::Doctor(arguments) => doctor::run(&arguments, context),
            Verb::Init(arguments) => init::run(&arguments, context),
            Verb::Config(arguments) => config::run(&arguments, context),
            Verb::Node(arguments) => node::run(&arguments, context),
            Verb::Notify(arguments) => notify::run(&arguments, context),
            Verb::RemoteTarget => remote_target::run(context),
            Verb::RemoteBench => remote_bench::run(),
            Verb::ThawWatchdog(arguments) => watchdog::run(arguments),
            Verb::DemoShell(arguments) => demo::shell(&arguments),
        }
    }
}

/// Arguments that are no command.
pub(crate) struct Refusal {
    error: clap::Error,
    format: Format,
}

/// Reads the command line.
pub(crate) fn parse(arguments: &[OsString]) -> Result<Command, Refusal> {
    Command::try_parse_from(arguments).map_err(|error| Refusal {
        error,
        format: wanted_format(arguments),
    })
}

impl Refusal {
    /// Prints help, the version, or what is wrong; returns the exit code.
    pub(crate) fn explain(self) -> u8 {
        // A closed stream must not change the exit code.
        let _ = self.error.print();
        if matches!(
            self.error.kind(),
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
        ) {
            return 0;
        }
        let output = Output::new(self.format, Loudness::Quiet, Color::Never);
        end_failed(&usage(first_sentence(&self.error)), &output)
    }
}

/// Runs the command to its exit code; whatever happens, the summary comes last.
pub(crate) fn run(command: Command) -> u8 {
    let Command { global, verb } = command;
    let format = match global.json {
        true => Format::Json,
        false => Format::Text,
    };
    let loudness = match global.quiet {
        true => Loudness::Quiet,
        false => Loudness::Normal,
    };
    let output = Arc::new(Output::new(format, loudness, global.color));
    logging::start(global.level(), global.log_format, global.color, &output);
    let context = Context {
        output: Arc::clone(&output),
        state_dir: global.state_dir,
        cluster: global.cluster,
        node: global.node,
        quiet: global.quiet,
        json: global.json,
    };
    let ended = panic::catch_unwind(AssertUnwindSafe(|| verb.run(&context)));
    match ended.unwrap_or_else(|_| Err(defect())) {
        Ok(code) => code,
        Err(failure) => {
            output.fail(&failure, None);
            end_failed(&failure, &output)
        }
    }
}

impl Global {
    fn level(&self) -> &'static str {
        match (self.quiet, self.verbose) {
            (true, _) => "error",
            (false, 0) => "warn",
            (false, 1) => "info",
            (false, 2) => "debug",
            (false, _) => "trace",
        }
    }
}

/// The two last events of what failed before it could say more.
fn end_failed(failure: &Failure, output: &Output) -> u8 {
    output.event(&Event::Error(events::Error {
        target: None,
        error: failure.into(),
    }));
    output.summary(Summary::failed(failure));
    failure.kind.exit_code()
}

fn defect() -> Failure {
    Failure::new(
        FailureKind::Internal,
        "a defect of lockstep ended this run; the lines above say where",
    )
    .hint("targets say for themselves with `lockstep gate` whether they can be used; please report this")
}

/// Whether `--json` is among arguments that clap refused.
fn wanted_format(arguments: &[OsString]) -> Format {
    let options = arguments.iter().take_while(|argument| *argument != "--");
    let asks = |argument: &OsString| argument.as_bytes().starts_with(b"--json");
    match options.into_iter().any(asks) {
        true => Format::Json,
        false => Format::Text,
    }
}

/// clap's text down to its first blank line, without its mark and its lines' ends.
fn first_sentence(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let first = text.split("\n\n").next().unwrap_or_default();
    let words: Vec<&str> = first.split_whitespace().collect();
    let sentence = words.join(" ");
    sentence
        .strip_prefix("error: ")
        .map(str::to_owned)
        .unwrap_or(sentence)
}

#[cfg(test)]
mod tests {
    use super::{Command, first_sentence, parse, wanted_format};
    use crate::output::Format;
    use clap::CommandFactory;
    use std::ffi::OsString;

    fn words(line: &str) -> Vec<OsString> {
        line.split_whitespace().map(OsString::from).collect()
    }

    #[test]
    fn the_command_line_is_sound() {
        Command::command().debug_assert();
    }

    #[test]
    fn refused_arguments_are_one_sentence() {
        let Err(refusal) = parse(&words("lockstep sync --json a")) else {
            panic!("a target is required");
        };
        let sentence = first_sentence(&refusal.error);
        assert!(sentence.contains("<TARGET>"), "{sentence}");
        assert!(!sentence.contains('\n') && !sentence.starts_with("error"));
        assert_eq!(refusal.format, Format::Json);
    }

    #[test]
    fn json_after_the_last_option_is_a_name() {
        assert_eq!(
            wanted_format(&words("lockstep hash -- --json")),
            Format::Text
        );
        assert_eq!(wanted_format(&words("lockstep --json bogus")), Format::Json);
    }
}
