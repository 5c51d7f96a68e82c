//! The one block of a record's file, and its byte map.
//!
//! ```text
//! offset  bytes
//!      0      8  magic, "LSK-UNDO"
//!      8      4  format, 1
//!     12      1  state: 0 keeping, 1 whole, 2 restoring
//!     13      1  kept: 0 log, 1 image
//!     14      1  root before the run: 0 not yet known, 1 known, 2 never known
//!     15      1  zero
//!     16      8  bytes of the volume before the run
//!     24      8  when the undo was begun, ms since the Unix epoch
//!     32      8  when it expires, ms since the Unix epoch
//!     40      8  bytes of the log that count; 0 while it grows, and for an image
//!     48      8  most bytes that the log may have; 0 for an image
//!     56     32  root before the run; zero unless known
//!     88     16  the log's id; zero for an image
//!    104      2  length of the volume's text, at most 512
//!    106      2  length of the identity, at most 256
//!    108      2  length of the run's name, at most 128
//!    110      2  length of the latest run's name, at most 128
//!    112      2  length of the image's description, at most 7008; 0 for a log
//!    114     14  zero
//!    128    512  the volume's text, UTF-8
//!    640    256  the identity, UTF-8
//!    896    128  the run's name, UTF-8
//!   1024    128  the latest run's name, UTF-8
//!   1152   7008  the image's description, opaque
//!   8160     32  BLAKE3 of bytes 0..8160
//! ```
//!
//! Integers are little-endian. Every text is followed by zeros up to the next field, so that one
//! content has one file. A file ends after the checksum.

use lockstep_merkle::{MAX_VOLUME_SIZE, Root};
use lockstep_volume::MAX_DURABLE_TEXT;

use crate::error::{UndoError, Unusable, What};
use crate::log::LOG_HEADER_BYTES;
use crate::record::{
    Kept, LogFacts, LogId, MAX_KEY_BYTES, MAX_RUN_BYTES, PreRunRoot, Record, State,
};

/// Bytes of a record's file.
pub(crate) const RECORD_BYTES: usize = 8192;
/// Longest description of an image, in bytes.
pub const MAX_DESCRIPTION_BYTES: usize = 7008;

const MAGIC: [u8; 8] = *b"LSK-UNDO";
/// Newest format, and the only one so far.
const FORMAT: u32 = 1;
const NO_ROOT: [u8; 32] = [0; 32];
const CHECKSUM_AT: usize = RECORD_BYTES - 32;

pub(crate) type Block = [u8; RECORD_BYTES];

/// A text of varying length in a field of fixed length.
struct Text {
    what: &'static str,
    length_at: usize,
    at: usize,
    limit: usize,
}

const KEY: Text = Text {
    what: "volume's key",
    length_at: 104,
    at: 128,
    limit: MAX_KEY_BYTES,
};
const IDENTITY: Text = Text {
    what: "identity",
    length_at: 106,
    at: KEY.at + KEY.limit,
    limit: MAX_DURABLE_TEXT,
};
const RUN: Text = Text {
    what: "run's name",
    length_at: 108,
    at: IDENTITY.at + IDENTITY.limit,
    limit: MAX_RUN_BYTES,
};
const LATEST_RUN: Text = Text {
    what: "run's name",
    length_at: 110,
    at: RUN.at + RUN.limit,
    limit: MAX_RUN_BYTES,
};
const DESCRIPTION: Text = Text {
    what: "snapshot's description",
    length_at: 112,
    at: LATEST_RUN.at + LATEST_RUN.limit,
    limit: MAX_DESCRIPTION_BYTES,
};
// A bound that another crate changes must not move the fields of files that exist.
const _: () = assert!(IDENTITY.at == 640 && RUN.at == 896 && DESCRIPTION.at == 1152);
const _: () = assert!(DESCRIPTION.at + DESCRIPTION.limit == CHECKSUM_AT);

impl Text {
    fn check(&self, bytes: &[u8]) -> Result<(), UndoError> {
        if bytes.len() <= self.limit {
            return Ok(());
        }
        Err(UndoError::TooLong {
            what: self.what,
            bytes: bytes.len(),
            limit: self.limit,
        })
    }

    fn put(&self, block: &mut Block, bytes: &[u8]) -> Result<(), UndoError> {
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
            .ok_or_else(|| wrong("a text is longer than its field"))?;
        if rest.iter().any(|byte| *byte != 0) {
            return Err(wrong("something follows a text"));
        }
        Ok(bytes)
    }

    fn text(&self, block: &Block) -> Result<String, Unusable> {
        let text = std::str::from_utf8(self.bytes(block)?);
        text.map(str::to_owned)
            .map_err(|_| wrong("a text is not UTF-8"))
    }
}

/// The block of a record.
pub(crate) fn encode(record: &Record) -> Result<Block, UndoError> {
    if record.size > MAX_VOLUME_SIZE {
        let bytes = record.size;
        return Err(UndoError::TooLarge { bytes });
    }
    let (known, root) = match record.root {
        PreRunRoot::NotYet => (0, NO_ROOT),
        PreRunRoot::Known(root) => (1, *root.as_bytes()),
        PreRunRoot::Never => (2, NO_ROOT),
    };
    let state = match record.state {
        State::Keeping => 0,
        State::Whole => 1,
        State::Restoring => 2,
    };
    let mut block = [0; RECORD_BYTES];
    put(&mut block, 0, MAGIC);
    put(&mut block, 8, FORMAT.to_le_bytes());
    put(&mut block, 12, [state]);
    put(&mut block, 14, [known]);
    put(&mut block, 16, record.size.to_le_bytes());
    put(&mut block, 24, record.created_unix_ms.to_le_bytes());
    put(&mut block, 32, record.expires_unix_ms.to_le_bytes());
    put(&mut block, 56, root);
    KEY.put(&mut block, record.key.as_bytes())?;
    IDENTITY.put(&mut block, record.identity.as_bytes())?;
    RUN.put(&mut block, record.run.as_bytes())?;
    LATEST_RUN.put(&mut block, record.latest_run.as_bytes())?;
    put_kept(&mut block, &record.kept)?;
    let checksum = checksum(&block);
    put(&mut block, CHECKSUM_AT, checksum);
    Ok(block)
}

fn put_kept(block: &mut Block, kept: &Kept) -> Result<(), UndoError> {
    match kept {
        Kept::Image(description) => {
            put(block, 13, [1]);
            DESCRIPTION.put(block, description)
        }
        Kept::Log(log) => {
            put(block, 40, log.sealed_bytes.unwrap_or(0).to_le_bytes());
            put(block, 48, log.max_bytes.to_le_bytes());
            put(block, 88, log.id.0);
            Ok(())
        }
    }
}

/// The record of a block, if every byte of it is as some record has it.
pub(crate) fn decode(block: &Block) -> Result<Record, Unusable> {
    if take(block, 0) != MAGIC {
        return Err(Unusable::Magic(What::Record));
    }
    // Before the checksum: another format may keep its checksum elsewhere.
    let format = u32::from_le_bytes(take(block, 8));
    if format != FORMAT {
        let what = What::Record;
        return Err(Unusable::Version { what, format });
    }
    if take(block, CHECKSUM_AT) != checksum(block) {
        return Err(Unusable::Checksum(What::Record));
    }
    if take::<1>(block, 15) != [0] || take::<14>(block, 114) != [0; 14] {
        return Err(wrong("something is where nothing should be"));
    }
    let state = state(block)?;
    let size = number(block, 16);
    if size > MAX_VOLUME_SIZE {
        return Err(wrong("its volume is larger than any"));
    }
    Ok(Record {
        key: KEY.text(block)?,
        identity: IDENTITY.text(block)?,
        size,
        run: RUN.text(block)?,
        latest_run: LATEST_RUN.text(block)?,
        created_unix_ms: number(block, 24),
        expires_unix_ms: number(block, 32),
        root: root(block)?,
        state,
        kept: kept(block, state)?,
    })
}

fn state(block: &Block) -> Result<State, Unusable> {
    match take(block, 12) {
        [0] => Ok(State::Keeping),
        [1] => Ok(State::Whole),
        [2] => Ok(State::Restoring),
        _ => Err(wrong("its state is none")),
    }
}

fn root(block: &Block) -> Result<PreRunRoot, Unusable> {
    match (take(block, 14), take(block, 56)) {
        ([1], root) => Ok(PreRunRoot::Known(Root::from_bytes(root))),
        ([0], NO_ROOT) => Ok(PreRunRoot::NotYet),
        ([2], NO_ROOT) => Ok(PreRunRoot::Never),
        _ => Err(wrong("its root is neither known nor unknown")),
    }
}

fn kept(block: &Block, state: State) -> Result<Kept, Unusable> {
    let description = DESCRIPTION.bytes(block)?;
    let (sealed, max_bytes) = (number(block, 40), number(block, 48));
    let id = take(block, 88);
    match take(block, 13) {
        [0] if description.is_empty() => {
            let grows = state == State::Keeping;
            if grows != (sealed == 0) || (!grows && sealed < LOG_HEADER_BYTES) {
                return Err(wrong("its log has another length than its state allows"));
            }
            Ok(Kept::Log(LogFacts {
                id: LogId(id),
                sealed_bytes: (!grows).then_some(sealed),
                max_bytes,
            }))
        }
        [1] if (sealed, max_bytes, id) == (0, 0, [0; 16]) => Ok(Kept::Image(description.to_vec())),
        _ => Err(wrong("it is neither of a log nor of an image")),
    }
}

fn wrong(why: &'static str) -> Unusable {
    let what = What::Record;
    Unusable::Contradiction { what, why }
}

fn checksum(block: &Block) -> [u8; 32] {
    *blake3::hash(&block[..CHECKSUM_AT]).as_bytes()
}

fn number(block: &Block, at: usize) -> u64 {
    u64::from_le_bytes(take(block, at))
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

    fn some_record() -> impl Strategy<Value = Record> {
        let texts = (".{0,128}", "[ -~]{0,256}", "[ -~]{0,128}", "[ -~]{0,128}");
        let numbers = (0..=MAX_VOLUME_SIZE, any::<[u64; 2]>());
        let root = prop_oneof![
            Just(PreRunRoot::NotYet),
            Just(PreRunRoot::Never),
            any::<[u8; 32]>().prop_map(|root| PreRunRoot::Known(Root::from_bytes(root))),
        ];
        let state = prop_oneof![
            Just(State::Keeping),
            Just(State::Whole),
            Just(State::Restoring)
        ];
        let kept = prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..=MAX_DESCRIPTION_BYTES).prop_map(Kept::Image),
            (any::<[u8; 16]>(), LOG_HEADER_BYTES.., any::<u64>()).prop_map(|(id, sealed, max)| {
                Kept::Log(LogFacts {
                    id: LogId(id),
                    sealed_bytes: Some(sealed),
                    max_bytes: max,
                })
            }),
        ];
        (texts, numbers, root, state, kept).prop_map(|(texts, numbers, root, state, kept)| {
            let record = Record {
                key: texts.0,
                identity: texts.1,
                size: numbers.0,
                run: texts.2,
                latest_run: texts.3,
                created_unix_ms: numbers.1[0],
                expires_unix_ms: numbers.1[1],
                root,
                state,
                kept,
            };
            match state {
                State::Keeping => record.with_seal(None),
                _ => record,
            }
        })
    }

    proptest! {
        #[test]
        fn a_record_reads_back_as_it_was_written(record in some_record()) {
            let block = encode(&record).unwrap();
            prop_assert_eq!(decode(&block).unwrap(), record);
        }

        #[test]
        fn no_block_with_a_good_checksum_panics(
            record in some_record(),
            at in 12..CHECKSUM_AT,
            byte: u8,
        ) {
            let mut block = encode(&record).unwrap();
            block[at] = byte;
            let sum = checksum(&block);
            put(&mut block, CHECKSUM_AT, sum);
            if let Ok(record) = decode(&block) {
                prop_assert!(encode(&record).unwrap() == block, "one content has one file");
            }
        }
    }
}
