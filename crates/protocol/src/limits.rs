//! Every bound of the protocol in one place.

/// The oldest protocol version that this build speaks.
pub const OLDEST_VERSION: u16 = 1;
/// The newest protocol version that this build speaks.
pub const NEWEST_VERSION: u16 = 1;

/// Chaining values in one digests frame: 32 KiB, or 64 MiB of volume.
pub const MAX_CVS_PER_FRAME: usize = 1024;
/// Runs that one doubt names.
pub const MAX_DOUBTED_RUNS: usize = 256;
/// Wants that may be unanswered at once; a target may only ask for less.
pub const MAX_WINDOW: u16 = 64;
/// Times that an extent is asked for again in a run, whether its data did not
/// fit its chaining values or the medium did not keep it.
pub const MAX_REPAIRS: u8 = 2;
/// Times that one extent may be asked for in a run: once to count what
/// differs, once to ship it, and the repairs.
pub const MAX_WANTS_PER_EXTENT: u8 = 2 + MAX_REPAIRS;

/// Warnings that a target may send in a session.
pub const MAX_WARNINGS: u8 = 16;
/// Words on what can be brought back that a target may send in a session: one
/// for each of three stages, and as many again for threads that run into each
/// other.
pub const MAX_UNDO_NOTES: u8 = 6;
/// Changes of a target's durable state that it may tell in a session before
/// the last one, which ends it; it makes one.
pub const MAX_STATE_CHANGES: u8 = 4;

/// Bytes of a peer's one-line text: names and messages.
pub const MAX_TEXT: usize = 1024;
/// Bytes of an encoded volume identity.
pub const MAX_IDENTITY: usize = 256;
/// Bytes of the head of a data frame.
pub const DATA_HEAD_LEN: usize = 75;
/// Extents written, or to be read back, that wait for one flush.
pub const MAX_UNFLUSHED_EXTENTS: usize = 512;
/// Extents written that wait to be read back, past which nothing more is asked
/// for: a medium that is slower to read than to write holds the run back.
pub const MAX_UNCHECKED_EXTENTS: usize = 4096;
