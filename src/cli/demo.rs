//! `demo`: a primary and two drifted secondaries, brought back in lockstep before your eyes.
//!
//! ```text
//! this process ── sync ──┬─ demo-shell 127.0.0.1 ─ remote-target   secondary-1.img   pages changed
//!                        └─ demo-shell 127.0.0.2 ─ remote-target   secondary-2.img   half is missing
//! ```
//! `demo-shell` plays the part of ssh: it starts its command on this machine, so the data goes from
//! process to process over QUIC on the loopback.

mod children;
mod volumes;

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use clap::Args;
use lockstep_engine::{Cancel, Cause};
use lockstep_protocol::{Failure, FailureKind};
use serde_json::Value;

use self::children::{Children, Ended};
use self::volumes::Drift;
use super::Context;
use crate::failure::usage;
use crate::output::Output;
use crate::signals::{self, Reaction};
use crate::units;

/// Build a primary and two drifted secondaries in a temporary folder, resync them, show it.
///
/// Takes under a minute and removes what it made. The exit code tells whether all was as it should be.
#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// Size of each volume
    #[arg(long, value_name = "SIZE", default_value = "256M", value_parser = size)]
    size: u64,
    /// Leave the temporary folder behind
    #[arg(long)]
    keep: bool,
}

#[derive(Args, Debug)]
pub(super) struct ShellArguments {
    /// What ssh would reach
    host: String,
    /// What it would start there
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

/// Smaller volumes are shipped before one can be caught half way.
const MIN_SIZE: u64 = 32 << 20;
/// Sizes are whole stretches of one kind of data.
const SIZE_STEP: u64 = 1 << 20;
/// Where each far side leaves its process id, for the demo to kill one.
const PIDS_VARIABLE: &str = "LOCKSTEP_DEMO_PIDS";
/// The secondaries' hosts: two names of this machine, so that their far sides can be told apart.
const HOSTS: [&str; 2] = ["127.0.0.1", "127.0.0.2"];
const PRIMARY: &str = "primary.img";
const SECONDARIES: [&str; 2] = ["secondary-1.img", "secondary-2.img"];
const STATE: &str = "state";
/// Seconds that shipping takes while the rate is limited: time enough to interrupt it.
const SHIPPING_SECONDS: u64 = 6;

/// Everything the story needs.
struct Demo<'a> {
    children: Children<'a>,
    output: &'a Output,
    folder: &'a Path,
    size: u64,
}

pub(super) fn run(arguments: &Arguments, context: &Context) -> Result<u8, Failure> {
    let output = &context.output;
    let cancel = Arc::new(Cancel::new());
    signals::watch(
        Reaction::Cancel(Arc::clone(&cancel)),
        Arc::clone(output),
        || {},
    )?;
    let program = std::env::current_exe().map_err(|error| disk("this program", &error))?;
    let mut folder = tempfile::Builder::new()
        .prefix("lockstep-demo-")
        .tempdir()
        .map_err(|error| disk("a temporary folder", &error))?;
    folder.disable_cleanup(arguments.keep);
    let demo = Demo {
        children: Children {
            program: &program,
            folder: folder.path(),
            output,
            cancel: &cancel,
        },
        output,
        folder: folder.path(),
        size: arguments.size,
    };
    let told = demo.tell();
    if arguments.keep {
        output.say(&format!("{} is kept", folder.path().display()));
    } else if let Err(error) = folder.close() {
        output.warn(&format!(
            "the temporary folder could not be removed: {error}"
        ));
    }
    match cancel.cause() {
        Some(Cause::Signal(number)) => Err(signals::by_signal(number)),
        _ => told.map(|last| {
            output.summary_line(&last);
            0
        }),
    }
}

/// Plays the part of ssh: the command takes this process's place.
pub(super) fn shell(arguments: &ShellArguments) -> Result<u8, Failure> {
    if let Some(folder) = std::env::var_os(PIDS_VARIABLE) {
        let file = pid_file(Path::new(&folder), &arguments.host);
        std::fs::write(&file, std::process::id().to_string())
            .map_err(|error| disk(&file.display().to_string(), &error))?;
    }
    let Some((program, rest)) = arguments.command.split_first() else {
        return Err(usage("demo-shell has no command"));
    };
    let error = Command::new(program).args(rest).exec();
    Err(usage(format!("{}: {error}", program.to_string_lossy())))
}

impl Demo<'_> {
    /// The story, with every claim checked; returns the last run's summary.
    fn tell(&self) -> Result<String, Failure> {
        self.build()?;
        let missing = self.compare_before()?;
        self.interrupt()?;
        self.ask_gates([0, 10])?;
        let last = self.resume(missing)?;
        self.compare_after()?;
        self.ask_gates([0, 0])?;
        self.ask_b3sum(&last)?;
        self.say("Both secondaries are in lockstep with the primary, and proved to be.");
        Ok(last.summary_line)
    }

    fn build(&self) -> Result<(), Failure> {
        self.say(&format!(
            "In {}: a primary of {}, one secondary with pages that drifted, one without its later half",
            self.folder.display(),
            units::volume_size(self.size)
        ));
        let primary = self.folder.join(PRIMARY);
        volumes::primary(&primary, self.size).map_err(|error| disk("the primary", &error))?;
        let drifts = [Drift::ScatteredPages, Drift::LaterHalfMissing];
        for (name, drift) in SECONDARIES.into_iter().zip(drifts) {
            volumes::secondary(&primary, &self.folder.join(name), drift)
                .map_err(|error| disk("a secondary", &error))?;
        }
        Ok(())
    }

    /// Shows the drift; returns the bytes that the second secondary lacks.
    fn compare_before(&self) -> Result<u64, Failure> {
        self.say("What differs, before anything is written:");
        let mut missing = 0;
        for number in 0..HOSTS.len() {
            let ended = self.diff(number)?;
            expect(ended.code == 10, "the secondary differs from the primary")?;
            missing = count(&ended.summary, 0, "bytes_differing");
            self.say(&format!(
                "  {} in {} ranges",
                units::amount(missing),
                ended.ranges()
            ));
        }
        Ok(missing)
    }

    /// Runs `sync` slowly and kills the second far side half way.
    fn interrupt(&self) -> Result<(), Failure> {
        self.say("Both at once, slowly, so that the second far side can be killed half way:");
        let half = self.size / 2;
        let rate = half / SHIPPING_SECONDS;
        let limit = rate.to_string();
        // Uncompressed, what is sent is what is written, and the moment is certain.
        let arguments = self.sync(&["--limit-rate", &limit, "--compress", "off"]);
        let victim = pid_file(self.folder, HOSTS[1]);
        let ended = self.children.run_and_kill(&arguments, &victim, |event| {
            let line = &event["targets"][1];
            let written = line["bytes_written"].as_u64().unwrap_or(0);
            event["type"] == "progress" && written >= half / 3
        })?;
        expect(ended.killed, "the second far side was caught half way")?;
        expect(
            ended.code == 8,
            "one target is good and one is not (exit 8)",
        )?;
        expect(
            state(&ended.summary, 0) == "consistent",
            "the first one is consistent all the same",
        )
    }

    fn resume(&self, missing: u64) -> Result<Ended, Failure> {
        self.say("The same command again resumes, at full speed:");
        let ended = self.children.run(&self.sync(&[]))?;
        expect(ended.code == 0, "every target is good (exit 0)")?;
        let good = count(&ended.summary, 0, "bytes_written");
        expect(good == 0, "what was good is not written again")?;
        let left = count(&ended.summary, 1, "bytes_written");
        expect(
            left < missing,
            "what arrived before the kill is not shipped again",
        )?;
        self.say(&format!(
            "  of {} that were missing, {} were still to be written: {} crossed the link",
            units::amount(missing),
            units::amount(left),
            units::amount(count(&ended.summary, 1, "bytes_sent"))
        ));
        let over_quic = |target: usize| ended.summary["targets"][target]["transport"] == "quic";
        if !(0..HOSTS.len()).all(over_quic) {
            self.output
                .warn("QUIC did not get through on the loopback: the pipe carried the data");
        }
        Ok(ended)
    }

    fn compare_after(&self) -> Result<(), Failure> {
        for number in 0..HOSTS.len() {
            let ended = self.diff(number)?;
            expect(
                ended.code == 0 && ended.ranges() == 0,
                "the secondary equals the primary",
            )?;
        }
        Ok(())
    }

    fn ask_gates(&self, codes: [u8; 2]) -> Result<(), Failure> {
        for (number, code) in codes.into_iter().enumerate() {
            let arguments = words(&["gate", SECONDARIES[number], "--json", "--state-dir", STATE]);
            let ended = self.children.run(&arguments)?;
            self.say(&format!("  exit {}", ended.code));
            expect(ended.code == code, "the gate tells what may be used")?;
        }
        Ok(())
    }

    fn ask_b3sum(&self, last: &Ended) -> Result<(), Failure> {
        let files = [PRIMARY, SECONDARIES[0], SECONDARIES[1]];
        let Some(printed) = self.children.b3sum(&files)? else {
            self.say("(b3sum is not installed: it would print the same root)");
            return Ok(());
        };
        let root = last.summary["root"].as_str().unwrap_or_default();
        let roots = printed.lines().filter(|line| line.starts_with(root));
        let agree = !root.is_empty() && roots.count() == files.len();
        expect(agree, "b3sum agrees with the root")
    }

    fn sync(&self, more: &[&str]) -> Vec<OsString> {
        let [one, two] = [target(0), target(1)];
        let mut arguments = words(&["sync", PRIMARY, &one, &two]);
        arguments.extend(words(&["--yes", "--json", "--state-dir", STATE]));
        arguments.extend(words(more));
        arguments
    }

    fn diff(&self, number: usize) -> Result<Ended, Failure> {
        let b = target(number);
        let arguments = words(&["diff", PRIMARY, &b, "--json", "--state-dir", STATE]);
        self.children.run(&arguments)
    }

    fn say(&self, line: &str) {
        self.output.say(line);
    }
}

fn words(words: &[&str]) -> Vec<OsString> {
    words.iter().map(OsString::from).collect()
}

/// A secondary as a target: in the folder where its far side starts.
fn target(number: usize) -> String {
    format!("{}:{}", HOSTS[number], SECONDARIES[number])
}

fn state(summary: &Value, target: usize) -> &str {
    summary["targets"][target]["state"]
        .as_str()
        .unwrap_or_default()
}

/// A number of a target; more than any claim allows where there is none.
fn count(summary: &Value, target: usize, name: &str) -> u64 {
    summary["targets"][target][name]
        .as_u64()
        .unwrap_or(u64::MAX)
}

/// A claim of the story; a false one ends the demo.
fn expect(claim: bool, sentence: &str) -> Result<(), Failure> {
    match claim {
        true => Ok(()),
        false => Err(Failure::new(
            FailureKind::Internal,
            format!("the demo did not go as it should; this was to be true: {sentence}"),
        )),
    }
}

fn disk(what: &str, error: &io::Error) -> Failure {
    Failure::new(FailureKind::Io, format!("{what}: {error}"))
        .hint("three volumes of --size must fit into $TMPDIR")
}

fn pid_file(folder: &Path, host: &str) -> PathBuf {
    folder.join(format!("{host}.pid"))
}

fn size(text: &str) -> Result<u64, String> {
    let bytes = units::parse_size(text).map_err(|error| error.to_string())?;
    if bytes < MIN_SIZE {
        return Err(format!(
            "at least {} are needed",
            units::volume_size(MIN_SIZE)
        ));
    }
    Ok(bytes / SIZE_STEP * SIZE_STEP)
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn volumes_are_large_enough_to_be_interrupted() {
        assert_eq!(size("256M"), Ok(256 << 20));
        assert_eq!(size("100MB"), Ok(95 << 20));
        assert!(size("1M").is_err());
    }
}
