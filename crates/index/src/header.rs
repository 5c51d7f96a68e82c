//! The first block of an index, and the byte map of the whole file.
//!
//! ```text
//! offset  bytes
//!      0      8  magic, "LSKINDEX"
//!      8      4  format, 1
//!     12      1  side: 0 source, 1 target
//!     13      1  proof level: 0 full, 1 delta
//!     14      2  zero
//!     16      8  bytes of the volume
//!     24      8  pages of the volume, n
//!     32      4  bytes of a page, 4096: what one chaining value is of
//!     36      4  delta runs since the last full scan; 0 exactly if the proof level is full
//!     40      8  end of the last full scan, ms since the Unix epoch
//!     48      8  when the index was complete, ms since the Unix epoch
//!     56     32  root of the volume
//!     88     32  BLAKE3 of bytes 4096..4096+32n
//!    120      2  length of the volume's text, at most 512
//!    122      2  length of the snapshot's name, at most 128; 0 on the target side
//!    124      2  length of the identity, at most 256
//!    126      2  length of the snapshot's description, at most 3040
//!    128    512  the volume's text, UTF-8
//!    640    128  the snapshot's name, UTF-8
//!    768    256  the identity, UTF-8
//!   1024   3040  the snapshot's description, opaque
//!   4064     32  BLAKE3 of bytes 0..4064
//!   4096    32n  chaining values of the pages, in order
//! ```
//!
//! Integers are little-endian. Every text is followed by zeros up to the next field, so that one
//! content has one file. A file ends after its last value.

use std::num::NonZeroU32;

use lockstep_merkle::{Geometry, MAX_VOLUME_SIZE, PAGE_SIZE, Root};
use lockstep_volume::MAX_DURABLE_TEXT;

use crate::error::{IndexError, Unusable};
use crate::facts::{Facts, Lineage};
use crate::key::{IndexKey, MAX_SNAPSHOT_BYTES, MAX_VOLUME_BYTES, Side};

/// Bytes before the first chaining value.
pub(crate) const HEADER_BYTES: usize = 4096;
/// Bytes of a chaining value.
pub(crate) const CV_BYTES: u64 = 32;
/// Longest description of a snapshot, in bytes.
pub const MAX_DESCRIPTION_BYTES: usize = 3040;

const MAGIC: [u8; 8] = *b"LSKINDEX";
/// Newest format, and the only one so far.
const FORMAT: u32 = 1;
const CHECKSUM_AT: usize = HEADER_BYTES - 32;

pub(crate) type Block = [u8; HEADER_BYTES];

/// What the first block says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Header {
    pub(crate) key: IndexKey,
    pub(crate) facts: Facts,
    pub(crate) cv_checksum: [u8; 32],
}

/// Bytes of an index of that many pages; more than any file has if it would overflow.
pub(crate) fn file_bytes(page_count: u64) -> u64 {
    page_count
        .saturating_mul(CV_BYTES)
        .saturating_add(HEADER_BYTES as u64)
}

/// A text of varying length in a field of fixed length.
struct Text {
    what: &'static str,
    length_at: usize,
    at: usize,
    limit: usize,
}

const VOLUME: Text = Text {
    what: "name",
    length_at: 120,
    at: 128,
    limit: MAX_VOLUME_BYTES,
};
const SNAPSHOT: Text = Text {
    what: "snapshot's name",
    length_at: 122,
    at: VOLUME.at + VOLUME.limit,
    limit: MAX_SNAPSHOT_BYTES,
};
const IDENTITY: Text = Text {
    what: "identity",
    length_at: 124,
    at: SNAPSHOT.at + SNAPSHOT.limit,
    limit: MAX_DURABLE_TEXT,
};
const DESCRIPTION: Text = Text {
    what: "snapshot's description",
    length_at: 126,
    at: IDENTITY.at + IDENTITY.limit,
    limit: MAX_DESCRIPTION_BYTES,
};
// A bound that another crate changes must not move the fields of files that exist.
const _: () = assert!(IDENTITY.at == 768 && DESCRIPTION.at == 1024);
const _: () = assert!(DESCRIPTION.at + DESCRIPTION.limit == CHECKSUM_AT);

impl Text {
    fn check(&self, bytes: &[u8]) -> Result<(), IndexError> {
        if bytes.len() <= self.limit {
            return Ok(());
        }
        Err(IndexError::TooLong {
            what: self.what,
            bytes: bytes.len(),
            limit: self.limit,
        })
    }

    fn put(&self, block: &mut Block, bytes: &[u8]) -> Result<(), IndexError> {
        self.check(bytes)?;
        put(block, self.length_at, (bytes.len() as u16).to_le_bytes());
        block[self.at..self.at + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn bytes<'a>(&self, block: &'a Block) -> Result<&'a [u8], Unusable> {
        let length = usize::from(u16::from_le_bytes(take(block, self.length_at)));
        let field = &block[self.at..self.at + self.limit];
        let (bytes, rest) = field
            .split_at_checked(length)
            .ok_or(Unusable::Contradiction("a text is longer than its field"))?;
        if rest.iter().any(|byte| *byte != 0) {
            return Err(Unusable::Contradiction("something follows a text"));
        }
        Ok(bytes)
    }

    fn text<'a>(&self, block: &'a Block) -> Result<&'a str, Unusable> {
        std::str::from_utf8(self.bytes(block)?)
            .map_err(|_| Unusable::Contradiction("a text is not UTF-8"))
    }
}

impl Header {
    /// Whether these facts fit into a header at all.
    pub(crate) fn check(facts: &Facts) -> Result<(), IndexError> {
        let bytes = facts.geometry.size();
        if bytes > MAX_VOLUME_SIZE {
            return Err(IndexError::TooLarge { bytes });
        }
        IDENTITY.check(facts.identity.as_bytes())?;
        DESCRIPTION.check(&facts.snapshot)
    }

    pub(crate) fn encode(&self) -> Result<Block, IndexError> {
        let facts = &self.facts;
        Self::check(facts)?;
        let (side, snapshot) = match self.key.side() {
            Side::Source { snapshot } => (0, snapshot.as_str()),
            Side::Target => (1, ""),
        };
        let runs = facts.lineage.delta_runs();
        let mut block = [0; HEADER_BYTES];
        put(&mut block, 0, MAGIC);
        put(&mut block, 8, FORMAT.to_le_bytes());
        put(&mut block, 12, [side, u8::from(runs > 0)]);
        put(&mut block, 16, facts.geometry.size().to_le_bytes());
        put(&mut block, 24, facts.geometry.page_count().to_le_bytes());
        put(&mut block, 32, (PAGE_SIZE as u32).to_le_bytes());
        put(&mut block, 36, runs.to_le_bytes());
        put(&mut block, 40, facts.last_full_scan_unix_ms.to_le_bytes());
        put(&mut block, 48, facts.created_unix_ms.to_le_bytes());
        put(&mut block, 56, *facts.root.as_bytes());
        put(&mut block, 88, self.cv_checksum);
        VOLUME.put(&mut block, self.key.volume().as_bytes())?;
        SNAPSHOT.put(&mut block, snapshot.as_bytes())?;
        IDENTITY.put(&mut block, facts.identity.as_bytes())?;
        DESCRIPTION.put(&mut block, &facts.snapshot)?;
        let checksum = checksum(&block);
        put(&mut block, CHECKSUM_AT, checksum);
        Ok(block)
    }

    /// The header of a block, if every byte of it is as some header has it.
    pub(crate) fn decode(block: &Block) -> Result<Self, Unusable> {
        if take(block, 0) != MAGIC {
            return Err(Unusable::Magic);
        }
        // Before the checksum: another format may keep its checksum elsewhere.
        let format = u32::from_le_bytes(take(block, 8));
        if format != FORMAT {
            return Err(Unusable::Version(format));
        }
        if take(block, CHECKSUM_AT) != checksum(block) {
            return Err(Unusable::HeaderChecksum);
        }
        Ok(Self {
            key: key(block)?,
            facts: Facts {
                identity: IDENTITY.text(block)?.to_owned(),
                snapshot: DESCRIPTION.bytes(block)?.to_vec(),
                geometry: geometry(block)?,
                root: Root::from_bytes(take(block, 56)),
                lineage: lineage(block)?,
                last_full_scan_unix_ms: u64::from_le_bytes(take(block, 40)),
                created_unix_ms: u64::from_le_bytes(take(block, 48)),
            },
            cv_checksum: take(block, 88),
        })
    }
}

fn key(block: &Block) -> Result<IndexKey, Unusable> {
    let (volume, snapshot) = (VOLUME.text(block)?, SNAPSHOT.text(block)?);
    match (take(block, 12), snapshot) {
        ([0], snapshot) => Ok(IndexKey::source(volume, snapshot)),
        ([1], "") => Ok(IndexKey::target(volume)),
        ([1], _) => Err(Unusable::Contradiction("a target names a snapshot")),
        _ => Err(Unusable::Contradiction("its side is neither")),
    }
}

fn geometry(block: &Block) -> Result<Geometry, Unusable> {
    let geometry = Geometry::new(u64::from_le_bytes(take(block, 16)));
    let pages = u64::from_le_bytes(take(block, 24));
    let page_bytes = u32::from_le_bytes(take(block, 32));
    if geometry.size() > MAX_VOLUME_SIZE {
        return Err(Unusable::Contradiction("its volume is larger than any"));
    }
    if page_bytes as usize != PAGE_SIZE || pages != geometry.page_count() {
        return Err(Unusable::Contradiction("its pages do not make its volume"));
    }
    Ok(geometry)
}

fn lineage(block: &Block) -> Result<Lineage, Unusable> {
    let [level, zeros @ ..] = take::<3>(block, 13);
    let runs = NonZeroU32::new(u32::from_le_bytes(take(block, 36)));
    match (level, runs, zeros) {
        (0, None, [0, 0]) => Ok(Lineage::FullScan),
        (1, Some(runs), [0, 0]) => Ok(Lineage::Delta { runs }),
        _ => Err(Unusable::Contradiction("its proof level is neither")),
    }
}

fn checksum(block: &Block) -> [u8; 32] {
    *blake3::hash(&block[..CHECKSUM_AT]).as_bytes()
}

fn put<const N: usize>(block: &mut Block, at: usize, bytes: [u8; N]) {
    block[at..at + N].copy_from_slice(&bytes);
}

fn take<const N: usize>(block: &Block, at: usize) -> [u8; N] {
    std::array::from_fn(|byte| block[at + byte])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{Just, Strategy, any, prop_oneof};
    use proptest::{prop_assert, prop_assert_eq, proptest};

    use super::*;

    fn some_header() -> impl Strategy<Value = Header> {
        let key = prop_oneof![
            (".{0,64}", ".{0,16}").prop_map(|(volume, name)| IndexKey::source(&volume, &name)),
            ".{0,64}".prop_map(|volume| IndexKey::target(&volume)),
        ];
        let lineage = prop_oneof![
            Just(Lineage::FullScan),
            any::<NonZeroU32>().prop_map(|runs| Lineage::Delta { runs }),
        ];
        let texts = (
            "[ -~]{0,256}",
            proptest::collection::vec(any::<u8>(), 0..=3040),
        );
        let numbers = (
            0..=MAX_VOLUME_SIZE,
            any::<[u64; 2]>(),
            any::<[[u8; 32]; 2]>(),
        );
        (key, lineage, texts, numbers).prop_map(|(key, lineage, texts, numbers)| Header {
            key,
            facts: Facts {
                identity: texts.0,
                snapshot: texts.1,
                geometry: Geometry::new(numbers.0),
                root: Root::from_bytes(numbers.2[0]),
                lineage,
                last_full_scan_unix_ms: numbers.1[0],
                created_unix_ms: numbers.1[1],
            },
            cv_checksum: numbers.2[1],
        })
    }

    fn a_header() -> Header {
        Header {
            key: IndexKey::source("pgdata", "lockstep-pgdata-1"),
            facts: Facts {
                identity: "file inode 12".to_owned(),
                snapshot: b"{}".to_vec(),
                geometry: Geometry::new(200_000),
                root: Root::from_bytes([7; 32]),
                lineage: Lineage::FullScan,
                last_full_scan_unix_ms: 1,
                created_unix_ms: 2,
            },
            cv_checksum: [9; 32],
        }
    }

    proptest! {
        #[test]
        fn a_header_reads_back_as_it_was_written(header in some_header()) {
            let block = header.encode().unwrap();
            prop_assert_eq!(Header::decode(&block).unwrap(), header);
        }

        #[test]
        fn no_block_with_a_good_checksum_panics(at in 12..CHECKSUM_AT, byte: u8) {
            let mut block = a_header().encode().unwrap();
            block[at] = byte;
            let sum = checksum(&block);
            put(&mut block, CHECKSUM_AT, sum);
            if let Ok(header) = Header::decode(&block) {
                prop_assert!(header.encode().unwrap() == block, "one content has one file");
            }
        }
    }

    #[test]
    fn no_flipped_bit_is_believed() {
        let block = a_header().encode().unwrap();
        for bit in 0..HEADER_BYTES * 8 {
            let mut flipped = block;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Header::decode(&flipped).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn contradictions_are_named_even_under_a_good_checksum() {
        let cases: [(usize, &[u8], &str); 8] = [
            (12, &[2], "its side is neither"),
            (12, &[1], "a target names a snapshot"),
            (13, &[1], "its proof level is neither"),
            (15, &[1], "its proof level is neither"),
            (16, &[0xff; 8], "its volume is larger than any"),
            (24, &[5], "its pages do not make its volume"),
            (120, &[0xff, 0xff], "a text is longer than its field"),
            (767, &[1], "something follows a text"),
        ];
        for (at, bytes, why) in cases {
            let mut block = a_header().encode().unwrap();
            block[at..at + bytes.len()].copy_from_slice(bytes);
            let sum = checksum(&block);
            put(&mut block, CHECKSUM_AT, sum);
            let refused = Header::decode(&block).unwrap_err();
            assert!(
                refused.is_damage() && refused.to_string().ends_with(why),
                "{refused}"
            );
        }
    }

    #[test]
    fn texts_that_do_not_fit_are_refused_and_not_cut() {
        let mut header = a_header();
        header.facts.identity = "x".repeat(257);
        let refused = header.encode().unwrap_err().to_string();
        assert_eq!(
            refused,
            "the identity of the volume has 257 bytes, an index holds at most 256"
        );
        let mut header = a_header();
        header.facts.snapshot = vec![0; MAX_DESCRIPTION_BYTES + 1];
        assert!(header.encode().is_err());
        header.facts.snapshot.pop();
        assert!(header.encode().is_ok());
        header.facts.geometry = Geometry::new(MAX_VOLUME_SIZE + 1);
        assert!(matches!(header.encode(), Err(IndexError::TooLarge { .. })));
    }
}
