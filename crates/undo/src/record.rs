//! What is known of an undo.

use lockstep_merkle::Root;

/// Longest volume text that is kept as it is, in bytes.
pub(crate) const MAX_KEY_BYTES: usize = 512;
/// Longest name of a run, in bytes.
pub const MAX_RUN_BYTES: usize = 128;

/// What one undo is of, and how far it has come. Times are in milliseconds since the Unix epoch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// The volume's key; its hash if it has more than 512 bytes.
    pub key: String,
    /// The file or device, as text that survives a reboot and that a change of size leaves alone.
    pub identity: String,
    /// Bytes of the volume before the run.
    pub size: u64,
    /// The run before which the volume was what the undo restores.
    pub run: String,
    /// The run or rollback that had it last: who would have to continue it.
    pub latest_run: String,
    /// When it was begun.
    pub created_unix_ms: u64,
    /// From when on nobody needs it, once the run has ended.
    pub expires_unix_ms: u64,
    /// Root of the volume before the run.
    pub root: PreRunRoot,
    /// How far it has come.
    pub state: State,
    /// What it restores from.
    pub kept: Kept,
}

/// The root that a rollback has to bring back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PreRunRoot {
    /// The run's scan has not ended yet.
    NotYet,
    /// Measured before anything was overwritten, or by a scan that came before the overwriting.
    Known(Root),
    /// The run ended, or was interrupted, before anybody knew.
    Never,
}

/// How far an undo has come.
///
/// ```text
///   begin ─► Keeping ── finish ─► Whole ── restore ─► Restoring ── finish ─► gone
///              │ ▲                                     ▲ │ │ ▲
///      killed: │ └───────────────── resume ────────────│─┘ └─┘ restore again
///              └────────────────── restore ────────────┘
/// ```
///
/// `release` and `abandon` lead from everywhere to gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// A run keeps what it overwrites, or was interrupted while it did.
    Keeping,
    /// The run ended; everything that it overwrote is here.
    Whole,
    /// A rollback was begun; until it ends the volume is neither what it was nor what the run made.
    Restoring,
}

/// What an undo restores from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Kept {
    /// A snapshot of the target: whatever its provider needs to find it again, opaque here, returned
    /// as it was given, at most [`MAX_DESCRIPTION_BYTES`](crate::MAX_DESCRIPTION_BYTES).
    Image(Vec<u8>),
    /// A pre-image log.
    Log(LogFacts),
}

/// Which log belongs to a record, and how much of it counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogFacts {
    /// Random, and in the log's header too, so that no other log is taken for this one.
    pub id: LogId,
    /// Bytes that count, exactly; not known while the log grows.
    pub sealed_bytes: Option<u64>,
    /// Most bytes that it may have.
    pub max_bytes: u64,
}

/// What tells one log from another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogId(pub [u8; 16]);

impl Record {
    /// Whether nobody needs it any more. What a run or a rollback was interrupted in has no other way
    /// back, and never expires.
    pub fn has_expired(&self, now_unix_ms: u64) -> bool {
        self.state == State::Whole && self.expires_unix_ms <= now_unix_ms
    }

    pub(crate) fn log(&self) -> Option<&LogFacts> {
        match &self.kept {
            Kept::Log(log) => Some(log),
            Kept::Image(_) => None,
        }
    }

    /// With another number of bytes of its log that count.
    pub(crate) fn with_seal(mut self, bytes: Option<u64>) -> Self {
        if let Kept::Log(log) = &mut self.kept {
            log.sealed_bytes = bytes;
        }
        self
    }
}

/// A key as it is kept: text that is too long is replaced by its hash, which tells volumes apart as
/// well.
pub(crate) fn bounded_key(key: &str) -> String {
    if key.len() <= MAX_KEY_BYTES {
        return key.to_owned();
    }
    format!("blake3:{}", blake3::hash(key.as_bytes()))
}
