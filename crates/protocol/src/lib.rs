//! What the two ends of a run say to each other, and when: messages, a codec
//! in which every field is bounded, and the source's and the target's session
//! as state machines.
//!
//! The promise: nothing here does I/O, reads a clock or panics on what a peer
//! sends; the same events in the same order give the same answers, so that
//! whole runs can be simulated. Nothing that a peer says is believed beyond
//! the limits in [`limits`].

mod codec;
mod failure;
pub mod limits;
mod message;
mod source;
mod target;
mod terms;

pub use codec::Malformed;
pub use failure::{Failure, FailureKind};
pub use message::{
    DataHead, Doubted, Encoding, Hello, Plan, SourceFrame, Stats, TargetFrame, Text, UndoKind,
    UndoNote, UndoStage, VolumeState, Want, Welcome, disturbs,
};
pub use source::{Served, SourceSession};
pub use target::{
    Applied, ApplyOrder, CheckOrder, Exhausted, FlushTicket, TargetSession, WantMode, WantOrder,
};
pub use terms::{
    DigestKind, Evidence, Hold, LastWord, Purpose, Scope, SourceLevel, Terms, VerifyScope,
    Violation,
};
