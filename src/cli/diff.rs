//! `diff`: lists differing ranges, writes nothing.

use std::ffi::OsString;

use clap::Args;
use lockstep_engine::{Compression, Consent, Purpose, Scope, UndoPolicy, VerifyScope};
use lockstep_protocol::Failure;

use super::Context;
use super::request::{self, Job, Reading, RunOptions};
use crate::listener::RangeList;
use crate::report::Place;

/// List the byte ranges in which B differs from A; write nothing (exit 0 if equal, 10 if different).
///
/// One line per range on stdout: OFFSET LENGTH, in bytes. Ranges are whole 4 KiB pages.
#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// A block device or an image file on this machine
    #[arg(value_name = "A")]
    a: OsString,
    // Not a doc comment: rustdoc would take the brackets for a link.
    #[arg(
        value_name = "B",
        help = "What is compared with it: PATH or [USER@]HOST:PATH"
    )]
    b: OsString,
    #[command(flatten)]
    options: RunOptions,
}

pub(super) fn run(arguments: &Arguments, context: &Context) -> Result<u8, Failure> {
    let job = Job {
        purpose: Purpose::Compare,
        scope: Scope::Differences,
        verify: VerifyScope::Written,
        compression: Compression::Off,
        consent: Box::new(|_, _| Consent::Refused),
        ranges: RangeList::Printed,
        report: Place::Aside,
        reading: Reading::Everything,
        undo: UndoPolicy::default(),
    };
    let b = [arguments.b.as_os_str()];
    request::run(&arguments.a, &b, &arguments.options, job, context)
}
