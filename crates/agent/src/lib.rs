//! The daemon of a node: lets runs in, carries them out, and answers.
//!
//! Promise: a volume of this node is overwritten only by the one run that was promised it; services
//! that were stopped are started again, and never on data that is not consistent; whoever asks is
//! known by a key, and may do only what the cluster file and the node's own file let them.
//!
//! ```text
//!   command line ──ask──► primary's agent ──host──► agent of each secondary
//!                           run: engine      data    serve: engine
//! ```
//!
//! | module | what it does |
//! | --- | --- |
//! | `config` | the files that count now |
//! | `talk`, `wire` | a call, and what is said over it |
//! | `net`, `lines` | calls over the network, and the connections that they share |
//! | `hook` | a volume's hooks and its probe |
//! | `align` | configuration files that are to be the primary's |
//! | `once`, `gate` | what costs something: shared, and so much of it at once |
//! | `checkup`, `echo` | whether a node is fit for its part, and reaches the others |
//! | `crash` | points at which a test ends the process |
//! | `host` | the secondary's part of a run: claim, stop, serve, mark, configure, start |
#![forbid(unsafe_code)]
#![cfg_attr(
    test,
    expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")
)]

pub mod align;
mod answer;
mod checkup;
pub mod config;
pub mod crash;
pub mod daemon;
mod echo;
mod gate;
pub mod hook;
pub mod host;
mod lines;
pub mod net;
mod once;
pub mod primary;
pub mod reach;
pub mod talk;
pub mod wire;
