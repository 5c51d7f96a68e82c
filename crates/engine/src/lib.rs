//! One run: scan, compare, ship, apply, verify, mark.
//!
//! The promise: a target is marked consistent only after what was written to
//! it was read back from the medium and its own root equals the source's; a
//! slow or dead target delays no other; memory is bounded by the request.
//!
//! ```text
//! source                                         each target
//! scan ─► tree ─► feed (digests) ─────────────►  session ◄─ scan
//!                 ship (pages)   ◄── wants ────  want
//!                                ──── data ───►  apply ─► flush ─► check ─► mark
//! ```
//! Threads belong to this crate; sessions decide, threads do.
#![cfg_attr(
    test,
    expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")
)]

mod base;
mod cancel;
mod clock;
mod distrust;
mod doubt;
mod durable;
mod failures;
mod guard;
mod hash;
mod level;
mod limits;
mod local;
mod monitor;
mod outcome;
mod pace;
mod pages;
mod priority;
mod request;
mod scan;
mod snapshots;
mod source;
mod target;
mod together;
mod undo;

pub use cancel::{Cancel, Cause};
pub use failures::sentence;
pub use hash::hash_volume;
pub use limits::{APPLY_THREADS, CHECK_THREADS, DEFAULT_MEMORY, MIN_MEMORY, PREFETCH_EXTENTS};
pub use local::LocalTarget;
pub use lockstep_index::FullScanEvery;
pub use lockstep_protocol::{Purpose, Scope, VerifyScope};
pub use lockstep_quiesce::{Level, watchdog_main};
pub use lockstep_volume::Priority;
pub use monitor::{Monitor, Notice, Phase, TargetProgress};
pub use outcome::{Consistency, KeptBytes, Outcome, SourceCounts, TargetOutcome, Verdict};
pub use pace::{FLOOR as PACE_FLOOR, Limits, Pace, Paced};
pub use request::{
    Compression, Connect, Connected, Consent, KeepBase, PlanLine, PlannedUndo, Question, Request,
    Reuse, SnapshotChoice, StillHook, Stillness, TargetSpec,
};
pub use snapshots::{
    ListedSnapshot, SnapshotUse, list_snapshots, release_snapshot, volumes_with_bases,
};
#[doc(hidden)]
pub use source::MeasuredPacker;
pub use source::{FAST_LEVEL, SMALL_LEVEL, run};
pub use target::{ServeOptions, Served, serve};
pub use together::{TakenSnapshot, TakenTogether, Together};
pub use undo::{
    Asked, KeptUndo, LocalRollback, Rollback, RollbackMonitor, RollbackOptions, RolledBack,
    UNDO_OF, UndoMode, UndoPolicy, Wish, ask_rollback, list_undos, release_expired_undos,
    serve_rollback,
};
