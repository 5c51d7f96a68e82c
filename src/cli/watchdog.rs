//! `thaw-watchdog`: thaws what a run froze, if the run does not. Started by the run before it freezes.

use std::ffi::OsString;
use std::io;

use clap::Args;
use lockstep_engine::watchdog_main;
use lockstep_protocol::Failure;

#[derive(Args, Debug)]
pub(super) struct Arguments {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<OsString>,
}

pub(super) fn run(arguments: Arguments) -> Result<u8, Failure> {
    let ended = watchdog_main(io::stdin(), arguments.rest);
    Ok(u8::from(ended != std::process::ExitCode::SUCCESS))
}
