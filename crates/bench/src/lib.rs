//! Measures each stage of a run alone, with the code and the settings that runs use, and predicts a
//! resync from that.
//!
//! Promise: nothing that exists is written. What is measured is bounded in time and in memory, also
//! where another machine asks for it, and says what it was measured on.
//!
//! ```text
//!   hash ── group values, page values, digests, zero test ─┐
//!   disk ── reading a volume: page cache, medium           ├─► Rates ─► predict ─► seconds, bottleneck
//!   write ─ a nameless file: written, flushed, read back   │            (pure)
//!   pack ── a sample of the volume's own pages             │
//!   net ─── a link as runs use it, both directions ────────┘
//! ```
//!
//! `predict` and `plot` are pure. A measurement verifies nothing that a run would prove: it never
//! marks a target, and no run goes by its results.
#![forbid(unsafe_code)]
#![cfg_attr(
    test,
    expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")
)]

mod disk;
mod failures;
mod hash;
mod measured;
mod net;
mod pack;
mod plot;
mod predict;
mod write;

pub use disk::{Cached, DiskRead, Subject, Way};
pub use hash::{HashKind, measure_hashing, thread_counts};
pub use measured::Measured;
pub use net::{Direction, Far, FarHash, FarRead, Flow, serve};
pub use pack::{PackLevel, Packed, Sample, measure_packing};
pub use plot::{Bar, svg};
pub use predict::{
    Job, Kind, LinkRates, Load, PackRates, Part, Prediction, Rates, Side, WriteRate, predict,
};
pub use write::{WriteTest, folder_for_writing, measure_writing};
