//! Every bound of a run in one place.

use std::time::Duration;

/// The least memory for buffers that a run works with.
pub const MIN_MEMORY: u64 = 16 << 20;
/// Memory for buffers when nobody says otherwise.
pub const DEFAULT_MEMORY: u64 = 128 << 20;
/// Buffers of one extent that each target has at least, at the source.
pub(crate) const MIN_TARGET_BUFFERS: usize = 8;
/// Most threads that hash.
pub(crate) const MAX_THREADS: usize = 256;
/// Most threads that ship to one target.
pub(crate) const MAX_LANE_THREADS: usize = 4;
/// Threads that write to one target: enough to keep several requests in a
/// disk's queue, whatever the number of cores.
pub const APPLY_THREADS: usize = 6;
/// Threads that read back what was written to it, for the same reason.
pub const CHECK_THREADS: usize = 6;
/// Pages between two that are written, up to which they are written along.
pub(crate) const BRIDGED_PAGES: usize = 2;
/// Extents read ahead of the scan when the volume is not in memory.
pub const PREFETCH_EXTENTS: u64 = 8;
/// Written bytes that one flush makes durable, so that reading back overlaps
/// writing. A new file's flush commits its allocations too and is dearer.
pub(crate) const FLUSH_EVERY: u64 = 64 << 20;
pub(crate) const FLUSH_NEW_EVERY: u64 = 256 << 20;
/// How often, and after which pause, a write to a full disk is tried again once
/// what held its space back was given up.
pub(crate) const FULL_DISK_TRIES: u32 = 20;
pub(crate) const FULL_DISK_PAUSE: Duration = Duration::from_millis(100);
/// Wants unanswered at once, per target.
pub(crate) const WINDOW: u16 = 32;
/// How long a target waits for the source's first word.
pub(crate) const HELLO_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the source waits for a target to open its volume.
pub(crate) const WELCOME_TIMEOUT: Duration = Duration::from_secs(60);
/// How long targets that are ready wait for the others before they start.
pub(crate) const BARRIER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an ending run waits for a target's last word.
pub(crate) const LAST_WORD_TIMEOUT: Duration = Duration::from_secs(10);
/// How often waiting threads look whether the run has ended.
pub(crate) const POLL: Duration = Duration::from_millis(100);
/// How often threads that wait for the other end look whether the run has
/// ended: it bounds what a run takes beyond its work.
pub(crate) const LINK_POLL: Duration = Duration::from_millis(10);
/// How often progress is told.
pub(crate) const PROGRESS_EVERY: Duration = Duration::from_secs(1);
/// How often a target tells the source how far it is.
pub(crate) const STATS_EVERY: Duration = Duration::from_millis(500);
