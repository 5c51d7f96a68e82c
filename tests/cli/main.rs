//! End to end: arguments, output, bad input, ends by signal, and the whole of a run, as a user sees them.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod arguments;
mod bad_input;
mod config;
mod demo;
mod devices;
mod gate;
mod hash;
mod node;
mod remote;
mod signals;
mod stand;
mod sync;
mod terminal;
