//! Reading a log from its first record to the last one that counts.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use lockstep_merkle::EXTENT_SIZE;
use rustix::fs::{Advice, fadvise};

use super::covered::Covered;
use super::format::{
    ALIGNMENT, Block, Content, HEAD_BYTES, Head, LOG_HEADER_BYTES, LogKey, check_header,
};
use crate::error::{Unusable, What};
use crate::folder::{Access, open_file};
use crate::record::{LogFacts, LogId};

/// Bytes that are looked through at once for a later record.
const SEARCH_BYTES: usize = 1 << 20;

/// A log whose records are read; which of them count is for [`survey`] to say.
pub(super) struct Reader {
    file: File,
    path: PathBuf,
    key: LogKey,
    size: u64,
}

/// What a log holds: all its whole records up to `end`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Survey {
    /// Where the next record would begin.
    pub(super) end: u64,
    /// Where the last record begins; 0 if there is none.
    pub(super) last: u64,
    /// Number of records.
    pub(super) count: u64,
    pub(super) covered: Covered,
}

impl Survey {
    pub(super) fn of_empty() -> Self {
        Self {
            end: LOG_HEADER_BYTES,
            last: 0,
            count: 0,
            covered: Covered::default(),
        }
    }

    /// Whether a head is that of the record that comes next.
    fn continues_with(&self, head: &Head) -> bool {
        (head.number, head.previous) == (self.count, self.last)
    }

    pub(super) fn advance(&mut self, head: &Head, size: u64) -> bool {
        let Some((extent, pages)) = head.pages(size) else {
            return false;
        };
        let is_first = self.covered.missing(extent, &pages).count() == pages.len();
        self.covered.insert(extent, pages);
        self.last = self.end;
        self.end += head.record_bytes();
        self.count += 1;
        is_first
    }
}

impl Reader {
    /// The log at `path`, if its header is that of the log with this id.
    pub(super) fn open(
        path: &Path,
        id: LogId,
        size: u64,
        access: Access,
    ) -> Result<Self, Unusable> {
        let file = open_file(path, What::Log, access)?.ok_or(Unusable::NoLog)?;
        let mut block = [0; HEAD_BYTES];
        let bytes = length(&file)?;
        if bytes < LOG_HEADER_BYTES {
            return Err(Unusable::Length {
                what: What::Log,
                bytes,
                expected: LOG_HEADER_BYTES,
            });
        }
        file.read_exact_at(&mut block, 0).map_err(unreadable)?;
        check_header(&block, id, size)?;
        Ok(Self {
            file,
            path: path.to_owned(),
            key: LogKey::of(id),
            size,
        })
    }

    pub(super) fn into_parts(self) -> (File, PathBuf, LogKey) {
        (self.file, self.path, self.key)
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    pub(super) fn length(&self) -> Result<u64, Unusable> {
        length(&self.file)
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Lets the next reads come from the medium: what a run that died, or whose flush failed, left in
    /// memory need not be there after a power cut.
    pub(super) fn forget_cache(&self) -> io::Result<()> {
        self.file.sync_data()?;
        // A hint, and without a meaning on a filesystem in memory.
        let _ = fadvise(&self.file, 0, None, Advice::DontNeed);
        Ok(())
    }

    /// The record at `at`, and its pre-image in `buffer`; `None` if not all of it is there before
    /// `limit` and as it was written.
    pub(super) fn record(
        &self,
        at: u64,
        limit: u64,
        buffer: &mut Vec<u8>,
    ) -> Result<Option<Head>, Unusable> {
        let Some(head) = self.head(at)? else {
            return Ok(None);
        };
        let is_of_volume = head.pages(self.size).is_some();
        if !is_of_volume || limit.saturating_sub(at) < head.record_bytes() {
            return Ok(None);
        }
        let Content::Bytes { hash } = head.content else {
            buffer.clear();
            return Ok(Some(head));
        };
        // An extent at most: `pages` said so.
        buffer.resize(head.stored_bytes() as usize, 0);
        let is_there = self.read(at + HEAD_BYTES as u64, buffer)?;
        let is_whole = is_there && *blake3::hash(buffer).as_bytes() == hash;
        Ok(is_whole.then_some(head))
    }

    fn head(&self, at: u64) -> Result<Option<Head>, Unusable> {
        let mut block: Block = [0; HEAD_BYTES];
        if !self.read(at, &mut block)? {
            return Ok(None);
        }
        Ok(Head::decode(&block, &self.key, at))
    }

    /// Fills the buffer; `false` if the log ends before.
    fn read(&self, at: u64, buffer: &mut [u8]) -> Result<bool, Unusable> {
        match self.file.read_exact_at(buffer, at) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            Err(error) => Err(unreadable(error)),
        }
    }

    /// Whether a later record knows that byte `at` was durable: then what is wrong there is damage,
    /// and not a write that a crash cut off.
    fn was_durable(&self, at: u64, end: u64) -> Result<bool, Unusable> {
        let mut buffer = vec![0; SEARCH_BYTES];
        let mut from = at + ALIGNMENT;
        while from < end {
            let count = (end - from).min(SEARCH_BYTES as u64) as usize;
            if !self.read(from, &mut buffer[..count])? {
                return Ok(false);
            }
            let blocks = buffer[..count].as_chunks::<HEAD_BYTES>().0;
            let heads = (from..).step_by(HEAD_BYTES).zip(blocks);
            for (place, block) in heads {
                let head = Head::decode(block, &self.key, place);
                if head.is_some_and(|head| head.durable > at) {
                    return Ok(true);
                }
            }
            from += count as u64;
        }
        Ok(false)
    }
}

/// Reads every record that counts: exactly as many bytes as are sealed, or, of a log that still grew
/// when its run ended, all up to the first record that is not whole.
pub(super) fn survey(reader: &Reader, facts: &LogFacts) -> Result<Survey, Unusable> {
    let bytes = reader.length()?;
    let limit = facts.sealed_bytes.unwrap_or(bytes);
    if bytes < limit {
        return Err(Unusable::Length {
            what: What::Log,
            bytes,
            expected: limit,
        });
    }
    let mut survey = Survey::of_empty();
    let mut buffer = Vec::with_capacity(EXTENT_SIZE);
    while survey.end < limit {
        let Some(head) = reader.record(survey.end, limit, &mut buffer)? else {
            break;
        };
        if !survey.continues_with(&head) || !survey.advance(&head, reader.size()) {
            return Err(wrong("its records do not follow one another"));
        }
    }
    let at = survey.end;
    let is_damaged = match facts.sealed_bytes {
        Some(sealed) => at != sealed,
        None => reader.was_durable(at, bytes)?,
    };
    if is_damaged {
        return Err(Unusable::DamagedPreImage { at });
    }
    Ok(survey)
}

fn length(file: &File) -> Result<u64, Unusable> {
    Ok(file.metadata().map_err(unreadable)?.len())
}

pub(super) fn unreadable(cause: io::Error) -> Unusable {
    let what = What::Log;
    Unusable::Unreadable { what, cause }
}

fn wrong(why: &'static str) -> Unusable {
    let what = What::Log;
    Unusable::Contradiction { what, why }
}
