//! The byte maps. Integers are little-endian; a frame is one type byte and
//! its fields in the order written here, and nothing after them.
//!
//! ```text
//! source → target
//!   1 hello      u16 oldest, u16 newest, 16 B run, u64 size, flag compare,
//!                flag everything, flag verify all, flag hold, flag larger,
//!                u16 mode, flag chained digests, flag full scan, u64 seed, u16 window,
//!                identity, text source, text who
//!   2 digests    u64 first group, 1 to 1024 × 32 B chaining value
//!   3 counted    u64 extent
//!   4 proceed
//!   5 done       32 B root, u8 evidence: none, full, delta,
//!                u8 level: none, crash-, filesystem-, application-consistent
//!   6 abort      failure
//!   7 doubt      1 to 256 × 16 B run
//!
//! target → source
//!   1 welcome    u16 version, u16 window, u8 plan, flag exists,
//!                u64 size (0 if it does not), state, flag medium, identity
//!   2 refused    failure, identity
//!   3 want       u64 extent, u16 whole, u16 blank, u16 paged groups,
//!                up to 256 × 16 B page digest
//!   4 state      state
//!   5 compared   stats
//!   6 progress   stats
//!   7 verified   32 B root, state, stats
//!   8 failed     failure, state, stats
//!   9 warning    text
//!  10 undo       u8 stage: offered, begun, ended; u8 kept: nothing, reflink, log;
//!                u64 until, u64 bytes, text why
//!  11 doubted    flag downgraded
//!
//! flag           u8, 0 or 1
//! text, identity u16 length, bytes
//! failure        u8 exit code, text message, text hint
//! state          u8: unknown, consistent, inconsistent, failed
//! stats          u64 extents compared, u64 bytes written, u64 bytes verified,
//!                u64 bytes read, u64 bytes inherited
//!
//! data head      u8 encoding, u64 extent, 32 B data pages, 32 B zero pages, u16 0
//! ```
//!
//! A peer of another version must be able to read the hello and the refusal:
//! those two keep their layout in every version.

mod read;
mod write;

use lockstep_merkle::{PageSet, Root};
use thiserror::Error;

use crate::limits::DATA_HEAD_LEN;
use crate::message::{DataHead, Doubted, Encoding, SourceFrame, TargetFrame};

use read::Reader;
use write::Writer;

/// Bytes from a peer that are not a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum Malformed {
    /// The frame ends inside a field.
    #[error("a frame from the peer is cut short in its {0}")]
    Short(&'static str),
    /// Bytes are left after the last field.
    #[error("a frame from the peer has {0} bytes too many")]
    Long(usize),
    /// No such frame.
    #[error("the peer sent a frame of unknown type {0}")]
    UnknownType(u8),
    /// A field is outside its range.
    #[error("a frame from the peer has an impossible {0}")]
    OutOfRange(&'static str),
}

impl SourceFrame {
    /// The frame's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer(Vec::with_capacity(64));
        match self {
            SourceFrame::Hello(hello) => out.hello(hello),
            SourceFrame::Digests { first, cvs } => out.digests(*first, cvs),
            SourceFrame::Counted { extent } => out.u8(3).u64(extent.0).end(),
            SourceFrame::Proceed => out.u8(4).end(),
            SourceFrame::Done(word) => out.u8(5).last_word(word).end(),
            SourceFrame::Abort(failure) => out.u8(6).failure(failure).end(),
            SourceFrame::Doubt { runs } => out.doubt(runs),
        }
        out.0
    }

    /// Reads a frame from a peer.
    ///
    /// # Errors
    /// [`Malformed`] for anything but exactly one frame within its limits.
    pub fn decode(bytes: &[u8]) -> Result<SourceFrame, Malformed> {
        let mut input = Reader(bytes);
        let frame = match input.u8("type")? {
            1 => SourceFrame::Hello(input.hello()?),
            2 => input.digests()?,
            3 => SourceFrame::Counted {
                extent: input.extent()?,
            },
            4 => SourceFrame::Proceed,
            5 => SourceFrame::Done(input.last_word()?),
            6 => SourceFrame::Abort(input.failure()?),
            7 => input.doubt()?,
            other => return Err(Malformed::UnknownType(other)),
        };
        input.end()?;
        Ok(frame)
    }
}

impl TargetFrame {
    /// The frame's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer(Vec::with_capacity(64));
        match self {
            TargetFrame::Welcome(welcome) => out.welcome(welcome),
            TargetFrame::Refused { failure, identity } => {
                out.u8(2).failure(failure).identity(identity).end();
            }
            TargetFrame::Want(want) => out.want(want),
            TargetFrame::State(state) => out.u8(4).state(*state).end(),
            TargetFrame::Compared(stats) => out.u8(5).stats(stats).end(),
            TargetFrame::Progress(stats) => out.u8(6).stats(stats).end(),
            TargetFrame::Verified { root, state, stats } => {
                out.u8(7)
                    .bytes(root.as_bytes())
                    .state(*state)
                    .stats(stats)
                    .end();
            }
            TargetFrame::Failed {
                failure,
                state,
                stats,
            } => out.u8(8).failure(failure).state(*state).stats(stats).end(),
            TargetFrame::Warning(message) => out.u8(9).text(message.as_str()).end(),
            TargetFrame::Undo(note) => out.undo(note),
            TargetFrame::Doubted(doubted) => {
                out.u8(11).flag(*doubted == Doubted::Downgraded).end();
            }
        }
        out.0
    }

    /// Reads a frame from a peer.
    ///
    /// # Errors
    /// [`Malformed`] for anything but exactly one frame within its limits.
    pub fn decode(bytes: &[u8]) -> Result<TargetFrame, Malformed> {
        let mut input = Reader(bytes);
        let frame = match input.u8("type")? {
            1 => TargetFrame::Welcome(input.welcome()?),
            2 => TargetFrame::Refused {
                failure: input.failure()?,
                identity: input.identity()?,
            },
            3 => TargetFrame::Want(input.want()?),
            4 => TargetFrame::State(input.state()?),
            5 => TargetFrame::Compared(input.stats()?),
            6 => TargetFrame::Progress(input.stats()?),
            7 => TargetFrame::Verified {
                root: Root::from_bytes(input.array("root")?),
                state: input.state()?,
                stats: input.stats()?,
            },
            8 => TargetFrame::Failed {
                failure: input.failure()?,
                state: input.state()?,
                stats: input.stats()?,
            },
            9 => TargetFrame::Warning(input.text()?),
            10 => TargetFrame::Undo(input.undo()?),
            11 => TargetFrame::Doubted(input.doubted()?),
            other => return Err(Malformed::UnknownType(other)),
        };
        input.end()?;
        Ok(frame)
    }
}

impl DataHead {
    /// The head's bytes, always [`DATA_HEAD_LEN`].
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer(Vec::with_capacity(DATA_HEAD_LEN));
        let encoding = match self.encoding {
            Encoding::Raw => 0,
            Encoding::Zstd => 1,
        };
        out.u8(encoding)
            .u64(self.extent.0)
            .bytes(&self.data.to_bytes())
            .bytes(&self.zero.to_bytes())
            .u16(0)
            .end();
        out.0
    }

    /// Reads a head from a peer.
    ///
    /// # Errors
    /// [`Malformed`] for anything but a head whose two sets do not overlap.
    pub fn decode(bytes: &[u8; DATA_HEAD_LEN]) -> Result<DataHead, Malformed> {
        let mut input = Reader(bytes);
        let encoding = match input.u8("encoding")? {
            0 => Encoding::Raw,
            1 => Encoding::Zstd,
            _ => return Err(Malformed::OutOfRange("encoding")),
        };
        let head = DataHead {
            extent: input.extent()?,
            data: PageSet::from_bytes(input.array("pages")?),
            zero: PageSet::from_bytes(input.array("zero pages")?),
            encoding,
        };
        if input.u16("reserved field")? != 0 {
            return Err(Malformed::OutOfRange("reserved field"));
        }
        input.end()?;
        if head.data.intersects(head.zero) {
            return Err(Malformed::OutOfRange("pair of page sets"));
        }
        Ok(head)
    }
}
