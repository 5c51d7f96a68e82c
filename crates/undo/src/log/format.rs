//! The bytes of a pre-image log, and their map.
//!
//! ```text
//! offset  bytes  header, once
//!      0      8  magic, "LSKPREIM"
//!      8      4  format, 1
//!     12      4  zero
//!     16     16  id of the log
//!     32      8  bytes of the volume before the run
//!     40     56  zero
//!     96     32  BLAKE3 of bytes 0..96
//!
//! offset  bytes  record, from byte 128 of the file on, one after the other
//!      0      8  magic, "PREIMAGE"
//!      8      1  content: 0 bytes, 1 zeros
//!      9      7  zero
//!     16      8  number of the record, from 0
//!     24      8  byte of the log at which it begins
//!     32      8  byte of the log at which the record before it begins; 0 for the first
//!     40      8  bytes of the log that were known to be durable when it was appended
//!     48      8  byte of the volume at which its pre-image begins: a page's first
//!     56      4  bytes of the pre-image, all in one extent, to the end of a page or of the volume
//!     60      4  zero
//!     64     32  BLAKE3 of the pre-image; zero if it is zeros
//!     96     32  BLAKE3 of bytes 0..96, keyed with the log's key
//!    128      …  the pre-image, unless it is zeros; then zeros up to a multiple of 128
//! ```
//!
//! Integers are little-endian. The log's key is BLAKE3's `derive_key` of the log's id with the context
//! `lockstep 1 pre-image log`. A volume may hold bytes that look like records: a copy of a log, say.
//! Key and position tell them from records of this log.

use std::ops::Range;

use lockstep_merkle::{EXTENT_SIZE, ExtentIndex, PAGE_SIZE};

use crate::error::{Unusable, What};
use crate::record::LogId;

/// Bytes before the first record.
pub(crate) const LOG_HEADER_BYTES: u64 = 128;
/// Bytes of a record before its pre-image.
pub(crate) const HEAD_BYTES: usize = 128;
/// Records begin at multiples of this.
pub(super) const ALIGNMENT: u64 = 128;

const MAGIC: [u8; 8] = *b"LSKPREIM";
/// Newest format, and the only one so far.
const FORMAT: u32 = 1;
const RECORD_MAGIC: [u8; 8] = *b"PREIMAGE";
const CONTEXT: &str = "lockstep 1 pre-image log";
const CHECKSUM_AT: usize = HEAD_BYTES - 32;

pub(super) type Block = [u8; HEAD_BYTES];

/// The first bytes of a log.
pub(super) fn encode_header(id: LogId, size: u64) -> Block {
    let mut block = [0; HEAD_BYTES];
    put(&mut block, 0, MAGIC);
    put(&mut block, 8, FORMAT.to_le_bytes());
    put(&mut block, 16, id.0);
    put(&mut block, 32, size.to_le_bytes());
    let checksum = *blake3::hash(&block[..CHECKSUM_AT]).as_bytes();
    put(&mut block, CHECKSUM_AT, checksum);
    block
}

/// Whether these are the first bytes of that log.
pub(super) fn check_header(block: &Block, id: LogId, size: u64) -> Result<(), Unusable> {
    if take(block, 0) != MAGIC {
        return Err(Unusable::Magic(What::Log));
    }
    let format = u32::from_le_bytes(take(block, 8));
    if format != FORMAT {
        let what = What::Log;
        return Err(Unusable::Version { what, format });
    }
    if take(block, CHECKSUM_AT) != *blake3::hash(&block[..CHECKSUM_AT]).as_bytes() {
        return Err(Unusable::Checksum(What::Log));
    }
    if *block != encode_header(id, size) {
        return Err(Unusable::OtherLog);
    }
    Ok(())
}

/// What the heads of one log's records are hashed with.
#[derive(Clone, Debug)]
pub(super) struct LogKey([u8; 32]);

impl LogKey {
    pub(super) fn of(id: LogId) -> Self {
        Self(blake3::derive_key(CONTEXT, &id.0))
    }
}

/// What a record says before its pre-image.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Head {
    pub(super) content: Content,
    pub(super) number: u64,
    pub(super) at: u64,
    pub(super) previous: u64,
    pub(super) durable: u64,
    pub(super) offset: u64,
    pub(super) length: u32,
}

/// A pre-image, or that there is none to store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Content {
    Bytes { hash: [u8; 32] },
    Zeros,
}

impl Head {
    pub(super) fn encode(&self, key: &LogKey) -> Block {
        let (content, hash) = match self.content {
            Content::Bytes { hash } => (0, hash),
            Content::Zeros => (1, [0; 32]),
        };
        let mut block = [0; HEAD_BYTES];
        put(&mut block, 0, RECORD_MAGIC);
        put(&mut block, 8, [content]);
        put(&mut block, 16, self.number.to_le_bytes());
        put(&mut block, 24, self.at.to_le_bytes());
        put(&mut block, 32, self.previous.to_le_bytes());
        put(&mut block, 40, self.durable.to_le_bytes());
        put(&mut block, 48, self.offset.to_le_bytes());
        put(&mut block, 56, self.length.to_le_bytes());
        put(&mut block, 64, hash);
        let checksum = keyed(&block, key);
        put(&mut block, CHECKSUM_AT, checksum);
        block
    }

    /// The head at byte `at` of the log with that key, if there is one.
    pub(super) fn decode(block: &Block, key: &LogKey, at: u64) -> Option<Self> {
        if take(block, 0) != RECORD_MAGIC || take(block, CHECKSUM_AT) != keyed(block, key) {
            return None;
        }
        let content = match take(block, 8) {
            [0] => Content::Bytes {
                hash: take(block, 64),
            },
            _ => Content::Zeros,
        };
        let number = |at| u64::from_le_bytes(take(block, at));
        let head = Self {
            content,
            number: number(16),
            at: number(24),
            previous: number(32),
            durable: number(40),
            offset: number(48),
            length: u32::from_le_bytes(take(block, 56)),
        };
        // Whatever is not in the fields is wrong too.
        (head.at == at && head.encode(key) == *block).then_some(head)
    }

    /// Bytes of the log from this record's first to the next one's.
    pub(super) fn record_bytes(&self) -> u64 {
        HEAD_BYTES as u64 + self.stored_bytes().next_multiple_of(ALIGNMENT)
    }

    /// Bytes of the pre-image that follow the head.
    pub(super) fn stored_bytes(&self) -> u64 {
        match self.content {
            Content::Bytes { .. } => u64::from(self.length),
            Content::Zeros => 0,
        }
    }

    /// Bytes of the volume.
    pub(super) fn range(&self) -> Range<u64> {
        self.offset..self.offset.saturating_add(u64::from(self.length))
    }

    /// The pages it is of, if it is of whole pages of one extent of a volume of that size.
    pub(super) fn pages(&self, size: u64) -> Option<(ExtentIndex, Range<usize>)> {
        let Range { start, end } = self.range();
        let extent = start / EXTENT_SIZE as u64;
        let first = extent * EXTENT_SIZE as u64;
        let is_whole = is_page_start(start) && (is_page_start(end) || end == size);
        let is_inside = start < end && end <= size && end - first <= EXTENT_SIZE as u64;
        let page = |byte: u64| (byte - first).div_ceil(PAGE_SIZE as u64) as usize;
        (is_whole && is_inside).then(|| (ExtentIndex(extent), page(start)..page(end)))
    }
}

pub(super) fn is_page_start(byte: u64) -> bool {
    byte.is_multiple_of(PAGE_SIZE as u64)
}

fn keyed(block: &Block, key: &LogKey) -> [u8; 32] {
    *blake3::keyed_hash(&key.0, &block[..CHECKSUM_AT]).as_bytes()
}

fn put<const N: usize>(block: &mut Block, at: usize, bytes: [u8; N]) {
    block[at..at + N].copy_from_slice(&bytes);
}

fn take<const N: usize>(block: &Block, at: usize) -> [u8; N] {
    std::array::from_fn(|byte| block[at + byte])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::any;
    use proptest::{prop_assert_eq, proptest};

    use super::*;

    fn a_head() -> Head {
        Head {
            content: Content::Bytes { hash: [3; 32] },
            number: 7,
            at: 4096,
            previous: 128,
            durable: 4096,
            offset: 8192,
            length: 4096,
        }
    }

    proptest! {
        #[test]
        fn a_head_reads_back_as_it_was_written(numbers in any::<[u64; 5]>(), length: u32, zeros: bool) {
            let [number, at, previous, durable, offset] = numbers;
            let content = if zeros { Content::Zeros } else { Content::Bytes { hash: [9; 32] } };
            let head = Head { content, number, at, previous, durable, offset, length };
            let key = LogKey::of(LogId([1; 16]));
            prop_assert_eq!(Head::decode(&head.encode(&key), &key, at), Some(head));
        }
    }

    #[test]
    fn no_flipped_bit_other_log_or_other_place_is_believed() {
        let key = LogKey::of(LogId([1; 16]));
        let block = a_head().encode(&key);
        for bit in 0..HEAD_BYTES * 8 {
            let mut flipped = block;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Head::decode(&flipped, &key, 4096), None, "bit {bit}");
        }
        let other = LogKey::of(LogId([2; 16]));
        assert_eq!(Head::decode(&block, &other, 4096), None);
        assert_eq!(Head::decode(&block, &key, 8192), None);
    }

    #[test]
    fn a_pre_image_is_of_whole_pages_of_one_extent() {
        let extent = EXTENT_SIZE as u64;
        let of = |offset, length, size| {
            let head = Head {
                offset,
                length,
                ..a_head()
            };
            head.pages(size)
        };
        assert_eq!(of(0, 4096, extent), Some((ExtentIndex(0), 0..1)));
        assert_eq!(
            of(extent + 8192, 8192, 2 * extent),
            Some((ExtentIndex(1), 2..4))
        );
        assert_eq!(of(4096, 10, 4106), Some((ExtentIndex(0), 1..2)));
        for (offset, length, size) in [
            (0, 0, extent),
            (1, 4096, extent),
            (0, 10, extent),
            (4096, 4096, 4106),
            (extent - 4096, 8192, 2 * extent),
            ((1 << 56) - 4096, 8192, 1 << 56),
        ] {
            assert_eq!(of(offset, length, size), None, "{offset} {length} {size}");
        }
    }
}
