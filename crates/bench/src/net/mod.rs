//! A link as runs use it, from memory to memory; and what the far end measures of its own machine.
//!
//! ```text
//! near                                        far
//! Echo ───────────────────────────────────►   the same back: the round trip
//! Take { limit } ─────────────────────────►   receives
//! frames ═════════════════════════════════►
//!        ◄──────────────────────────── Ack    bytes so far; the sender keeps few under way
//! Sent ───────────────────────────────────►
//!        ◄─────────────────────────── Taken   bytes, time, processor time
//! Give { limit } ─────────────────────────►   sends, the same the other way round,
//!        ◄──────────────────────────── Done   then what it took there, and the paths as it saw them
//! Hash, Read, Write { limit } ────────────►   measures
//!        ◄─────────── Hashed, Found, Wrote
//! ```
//!
//! The far end bounds the time of everything, the number of things asked, and with them the bytes; it
//! keeps one frame in memory. What it reads and writes is named over the remote shell's own session,
//! by whoever may log in there.

mod far;
mod flow;
mod serve;
mod word;

pub use self::far::{Far, FarHash, FarRead};
pub use self::flow::{Direction, Flow};
pub use self::serve::serve;
