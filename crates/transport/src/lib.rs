//! Links that carry opaque frames between two ends: in order on the control lane, as whole units on the bulk lane,
//! encrypted and pinned, and truthful about when the other end is gone.
//!
//! A [`Link`] is the same thing whatever carries it:
//!
//! ```text
//!            control: Bytes ≤ 64 KiB, in order          ┌── quic    UDP, TLS 1.3, raw public keys pinned both ways
//!  end A ══════════════════════════════════ end B  ◄────┤── pipe    the pipes of a remote shell, or any Read + Write
//!            bulk: Bulk ≤ 1 MiB + 4 KiB, any order      └── memory  two ends in one process
//! ```
//!
//! The calling threads block; the runtime that drives QUIC lives on threads of its own behind the link. The two lanes
//! have separate bounds, but a pipe delivers them over one byte stream: an end must keep receiving on both lanes.
//!
//! An end stops in one of three ways. [`LinkSender::finish`] delivers everything first, [`LinkSender::close`] says why
//! and drops what is queued, and a link that is lost says what was observed. A frame that was received before the end
//! came is still handed out before the error.

#![forbid(unsafe_code)]
#![cfg_attr(
    test,
    expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")
)]

mod bulk;
pub mod control;
mod end;
mod error;
mod link;
mod memory;
mod meter;
mod path;
mod pipe;
pub mod quic;
pub mod remote;
mod wait;

pub use crate::bulk::Bulk;
pub use crate::error::LinkError;
pub use crate::link::{BulkReceiver, ControlReceiver, Link, LinkSender, Via};
pub use crate::memory::memory_pair;
pub use crate::meter::Meter;
pub use crate::path::PathStats;
pub use crate::pipe::pipe_link;

/// Largest control frame, in bytes.
pub const MAX_CONTROL_FRAME: usize = 64 * 1024;

/// Largest bulk frame, in bytes: one extent of 1 MiB and its header.
pub const MAX_BULK_FRAME: usize = (1 << 20) + 4096;
