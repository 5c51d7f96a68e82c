//! `sync`: makes each target byte-equal to the source and proves it.

use std::ffi::{OsStr, OsString};
use std::time::Duration;

use clap::{Args, ValueEnum};
use lockstep_engine::{Compression, Purpose, Scope, UndoMode, UndoPolicy, VerifyScope};
use lockstep_protocol::Failure;

use super::Context;
use super::request::{self, Job, Reading, RunOptions};
use crate::consent::{Agreement, consent};
use crate::listener::RangeList;
use crate::report::Place;
use crate::units;

/// Make each TARGET byte-equal to SOURCE and prove it.
///
/// Only what differs is shipped. A target that exists and differs is overwritten after a question, or
/// with --yes. The same command resumes a run that was cut short.
#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// The volume that is right: a block device or an image file on this machine
    #[arg(value_name = "SOURCE")]
    source: OsString,
    // Not a doc comment: rustdoc would take the brackets for a link.
    #[arg(value_name = "TARGET", required = true, num_args = 1..,
          help = "What is to become equal to it: PATH or [USER@]HOST:PATH")]
    targets: Vec<OsString>,
    /// Compare and tell what would be done; write nothing (exit 10 if anything differs)
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Agree beforehand that targets are overwritten
    #[arg(long)]
    yes: bool,
    /// Ship everything, compare nothing
    #[arg(long)]
    full: bool,
    /// Keep what is overwritten, for `lockstep undo`: auto (if there is a way and the room), require
    /// (or overwrite nothing), off
    #[arg(
        long,
        value_enum,
        value_name = "WHETHER",
        default_value = "auto",
        env = "LOCKSTEP_UNDO"
    )]
    undo: UndoChoice,
    /// How long it is kept after the run, such as 90m or 3d
    #[arg(long, value_name = "TIME", default_value = "24h", env = "LOCKSTEP_KEEP_UNDO",
          value_parser = units::parse_time)]
    keep_undo: Duration,
    /// What is re-read from the medium at the end: what was written, or all
    #[arg(
        long,
        value_enum,
        value_name = "WHAT",
        default_value = "written",
        env = "LOCKSTEP_VERIFY"
    )]
    verify: VerifyChoice,
    /// Compression of the data: auto, off, or a zstd level (1 to 19, or -7 to -1 for speed)
    #[arg(long, value_name = "HOW", default_value = "auto", env = "LOCKSTEP_COMPRESS",
          allow_hyphen_values = true, value_parser = compression)]
    compress: Compression,
    #[command(flatten)]
    options: RunOptions,
}

/// `--verify`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum VerifyChoice {
    Written,
    Full,
}

/// `--undo`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum UndoChoice {
    Auto,
    Require,
    Off,
}

pub(super) fn run(arguments: &Arguments, context: &Context) -> Result<u8, Failure> {
    let agreement = match arguments.yes {
        true => Agreement::GivenBeforehand,
        false => Agreement::ToBeAsked,
    };
    let job = Job {
        purpose: match arguments.dry_run {
            true => Purpose::Compare,
            false => Purpose::Sync,
        },
        scope: match arguments.full {
            true => Scope::Everything,
            false => Scope::Differences,
        },
        verify: match arguments.verify {
            VerifyChoice::Written => VerifyScope::Written,
            VerifyChoice::Full => VerifyScope::Full,
        },
        compression: arguments.compress,
        consent: Box::new(move |output, cancel| consent(agreement, output, cancel)),
        ranges: RangeList::Left,
        report: Place::Result,
        reading: Reading::WhatMayHaveChanged,
        undo: UndoPolicy {
            mode: match arguments.undo {
                UndoChoice::Auto => UndoMode::Auto,
                UndoChoice::Require => UndoMode::Require,
                UndoChoice::Off => UndoMode::Off,
            },
            keep: arguments.keep_undo,
        },
    };
    let targets: Vec<&OsStr> = arguments.targets.iter().map(OsString::as_os_str).collect();
    request::run(
        &arguments.source,
        &targets,
        &arguments.options,
        job,
        context,
    )
}

pub(super) fn compression(text: &str) -> Result<Compression, String> {
    match text {
        "auto" => Ok(Compression::Auto),
        "off" => Ok(Compression::Off),
        _ => match text.parse() {
            Ok(level @ (1..=19 | -7..=-1)) => Ok(Compression::Level(level)),
            _ => Err("not auto, off, or a level of 1 to 19 or -7 to -1".to_owned()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::compression;
    use lockstep_engine::Compression;

    #[test]
    fn levels_are_those_of_zstd() {
        assert_eq!(compression("auto"), Ok(Compression::Auto));
        assert_eq!(compression("off"), Ok(Compression::Off));
        assert_eq!(compression("19"), Ok(Compression::Level(19)));
        assert_eq!(compression("-7"), Ok(Compression::Level(-7)));
        for text in ["0", "20", "-8", "", "fast", "1.5"] {
            assert!(compression(text).is_err(), "{text}");
        }
    }
}
