//! Tells people and programs how a resync ended.
//!
//! Promise: what was queued is delivered at least once, always with the same id, until a receiver
//! refuses it for good or three days are over; and nothing here delays or changes a result:
//! whoever reports waits for the queue's flush, never for a network.
//!
//! ```text
//! Report ─► Sender::enqueue ─► Queue: one durable file a report and destination
//!                                │ due now?  (backoff: pure, told the time)
//!                                ▼
//!            Sender's thread ─► send: mail over SMTP, webhook over HTTP
//!                                │ taken: the file goes      │ refused for good: the file goes,
//!                                │                           │ the log says why
//!                                └ not now: the file keeps when to try again
//! ```
//!
//! A kill between a delivery and the end of its file repeats the delivery; receivers drop what
//! bears an id that they know.
#![forbid(unsafe_code)]
#![cfg_attr(
    test,
    expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")
)]

mod backoff;
mod destination;
mod queue;
mod report;
mod send;
mod sender;

pub use destination::{Destination, all_destinations};
pub use queue::{MAX_BYTES, MAX_FILES, Queue, QueueError};
pub use report::{Line, MAX_LINE_BYTES, MAX_NODES, NodeReport, NodeResult, Report, ReportId};
pub use send::{Refusal, Sent, send_now};
pub use sender::Sender;

use std::time::{SystemTime, UNIX_EPOCH};

/// The time of this machine's clock.
fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}
