//! Puts every replica of a volume back in lockstep with its primary, and proves it.
//!
//! Promise: whatever the arguments and however a run ends, the exit code is that of the command
//! line's contract, and with `--json` the last line of stdout is the summary.
#![cfg_attr(
    test,
    expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")
)]

mod agents;
mod cli;
mod cluster_file;
mod consent;
mod events;
mod failure;
mod findings;
mod install;
mod listener;
mod logging;
mod measures;
mod output;
mod overview;
mod place;
mod plan_table;
mod progress;
mod remote;
mod report;
mod rsh;
mod signals;
mod target;
mod units;

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().collect();
    match cli::parse(&arguments) {
        Ok(command) => ExitCode::from(cli::run(command)),
        Err(refusal) => ExitCode::from(refusal.explain()),
    }
}
