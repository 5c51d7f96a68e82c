//! Volumes that fail on demand, for tests of what stands on them.
//!
//! [`MemoryVolume`] models what a power cut leaves: a page cache above a medium. [`FaultyVolume`]
//! sits before any volume and spoils calls by a plan.
//!
//! | fault | what the caller sees | what is on the volume |
//! | --- | --- | --- |
//! | [`Fault::FailNth`] | an error | unchanged |
//! | [`Fault::ShortRead`], [`Fault::ShortWrite`] | success, after more calls to the volume below | as asked |
//! | [`Fault::FlipBit`], [`Fault::FlipBitAt`] | success | one bit wrong, until it is written again |
//! | [`Fault::LostWrite`] | success | unchanged |
//! | [`Fault::TornWrite`] | success | the beginning of the write |
//! | [`Fault::ReadBackError`] | an error from every read-back over a byte | as asked |
//! | [`Fault::FlushError`] | an error from that flush on, for ever | unknown |
//! | [`Fault::TruncateAfter`] | the volume ends earlier after some reads | unchanged |

mod faulty;
mod memory;

use crate::failure::Operation;

pub use faulty::FaultyVolume;
pub use memory::MemoryVolume;

/// One way in which a [`FaultyVolume`] spoils things. Calls of an operation are counted from 1.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The n-th call of an operation fails with this error number, such as 5 for `EIO`.
    FailNth {
        /// The operation.
        op: Operation,
        /// Which call.
        n: u64,
        /// The error number.
        errno: i32,
    },
    /// Every k-th read is passed on in two halves.
    ShortRead {
        /// 1 is every read; 0 is none.
        every: u64,
    },
    /// Every k-th write is passed on in two halves.
    ShortWrite {
        /// 1 is every write; 0 is none.
        every: u64,
    },
    /// The n-th write has one bit flipped on its way.
    FlipBit {
        /// Which write.
        n: u64,
        /// Which bit of the write, counted from its first byte's lowest; wraps around.
        bit: u64,
    },
    /// The next `times` writes over this byte have its lowest bit flipped on their way.
    FlipBitAt {
        /// The byte.
        offset: u64,
        /// How often.
        times: u64,
    },
    /// The n-th write does not happen, and says that it did.
    LostWrite {
        /// Which write.
        n: u64,
    },
    /// Only the beginning of the n-th write happens, and it says that all of it did.
    TornWrite {
        /// Which write.
        n: u64,
        /// Bytes that are written.
        at: usize,
    },
    /// Every read-back over this byte fails with `EIO`.
    ReadBackError {
        /// The byte.
        offset: u64,
    },
    /// The n-th flush and all later ones fail.
    FlushError {
        /// Which flush.
        n: u64,
    },
    /// After `reads` reads, of all kinds together, the volume ends at this byte.
    TruncateAfter {
        /// Reads that still succeed.
        reads: u64,
        /// Where it ends then.
        end: u64,
    },
}
