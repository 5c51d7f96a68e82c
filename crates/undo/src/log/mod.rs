//! The pre-image log: what pages held before a run overwrote them, durable before it did.

mod covered;
mod format;
mod pieces;
mod sealed;
mod survey;
#[cfg(test)]
mod tests;

use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use lockstep_merkle::{ExtentIndex, PAGE_SIZE};

pub(crate) use format::{HEAD_BYTES, LOG_HEADER_BYTES};
pub(crate) use sealed::PreImage;
pub use sealed::SealedLog;

use crate::error::{LogError, UndoError, Unusable};
use crate::folder::{self, Access};
use crate::record::{LogFacts, LogId};
use crate::steps::{Step, Steps};
use covered::bytes_of;
use format::{ALIGNMENT, Head, LogKey, encode_header, is_page_start};
use pieces::{Piece, cut, extents};
use survey::{Reader, Survey, survey};

/// A log that a run appends to, from any number of threads.
///
/// ```text
///   read the pages ─► append ─► commit ─► overwrite them
///                       │         └ blocks until every record up to the ticket is durable
///                       └ only pages that have no pre-image yet; the first one counts
/// ```
///
/// The first pre-image of a page is what it held before the run, or before the first of several runs
/// that were interrupted; later ones would be what the run itself wrote.
#[derive(Debug)]
pub struct PreImageLog {
    file: File,
    path: PathBuf,
    key: LogKey,
    size: u64,
    max_bytes: u64,
    steps: Steps,
    state: Mutex<State>,
    flushed: Condvar,
}

#[derive(Debug)]
struct State {
    records: Survey,
    /// Bytes that a flush has covered.
    durable: u64,
    is_flushing: bool,
    /// Flushes so far.
    flushes: u64,
    /// The first failure after which nothing can be kept.
    broken: Option<String>,
}

/// How far the log has to be durable before what was appended may be overwritten. Of two, the
/// greater one covers both.
#[must_use = "nothing may be overwritten before the ticket is committed"]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Ticket(u64);

impl PreImageLog {
    /// The parts of the range that have no pre-image yet, in order and widened to whole pages; what
    /// lies past the old end of the volume needs none.
    ///
    /// Nothing missing does not mean durable: another thread may have appended it a moment ago. Commit
    /// [`PreImageLog::ticket`] before overwriting then.
    pub fn missing(&self, range: Range<u64>) -> Vec<Range<u64>> {
        let end = range.end.min(self.size);
        if range.start >= end {
            return Vec::new();
        }
        let page = PAGE_SIZE as u64;
        let whole = range.start / page * page..end.next_multiple_of(page).min(self.size);
        let state = self.state();
        let mut parts: Vec<Range<u64>> = Vec::new();
        for (extent, pages) in extents(&whole) {
            for run in state.records.covered.missing(extent, &pages).runs() {
                let bytes = bytes_of(self.size, extent, &run);
                match parts.last_mut() {
                    Some(last) if last.end == bytes.start => last.end = bytes.end,
                    _ => parts.push(bytes),
                }
            }
        }
        parts
    }

    /// Keeps what the volume holds at `offset`, as far as it has no pre-image there yet. Zeros take
    /// no room.
    ///
    /// The range is of whole pages, the last one ending with the volume. When two threads read the
    /// same page, it is the first to append that counts, so neither may overwrite before its own
    /// ticket is committed, even if all was there already.
    ///
    /// # Errors
    /// [`LogError`]; then the range must not be overwritten. All that was kept before is still good.
    pub fn append(&self, offset: u64, bytes: &[u8]) -> Result<Ticket, LogError> {
        let range = self.checked(offset, bytes.len() as u64)?;
        for (extent, pages) in extents(&range) {
            let part = bytes_of(self.size, extent, &pages);
            let part = (part.start - offset) as usize..(part.end - offset) as usize;
            self.append_in(extent, &pages, &bytes[part])?;
        }
        Ok(self.ticket())
    }

    /// Covers everything that was appended so far, by any thread; costs no flush if all is durable.
    pub fn ticket(&self) -> Ticket {
        Ticket(self.state().records.end)
    }

    /// Waits until everything up to the ticket is durable. One flush serves all who wait.
    ///
    /// # Errors
    /// [`LogError::Broken`] or [`LogError::NoSpace`]: the flush failed, and all later ones will.
    pub fn commit(&self, ticket: Ticket) -> Result<(), LogError> {
        let mut state = self.state();
        loop {
            if state.durable >= ticket.0 {
                return Ok(());
            }
            self.refuse_if_broken(&state)?;
            if !state.is_flushing {
                break;
            }
            let woken = self.flushed.wait(state);
            state = woken.unwrap_or_else(PoisonError::into_inner);
        }
        self.flush(state)
    }

    /// Bytes of the log.
    pub fn bytes(&self) -> u64 {
        self.state().records.end
    }

    /// Pre-images so far; 0 means that nothing can have been overwritten.
    pub fn records(&self) -> u64 {
        self.state().records.count
    }

    /// Flushes so far: the price paid for durability.
    pub fn flushes(&self) -> u64 {
        self.state().flushes
    }

    /// A new and empty log, durable with its name.
    pub(crate) fn make(
        path: &Path,
        facts: &LogFacts,
        size: u64,
        steps: &Steps,
    ) -> Result<Self, UndoError> {
        let made = fill_new(path, facts.id, size, steps);
        let file = made.inspect_err(|_| {
            // If that fails too, the next undo of the volume removes it.
            let _ = fs::remove_file(path);
        })?;
        let (path, key) = (path.to_owned(), LogKey::of(facts.id));
        let survey = Survey::of_empty();
        Ok(Self::with(
            (file, path, key),
            size,
            facts.max_bytes,
            survey,
            steps,
        ))
    }

    /// The log that an interrupted run or rollback left, ready to be continued: what its last write
    /// left behind the last whole record is cut off.
    pub(crate) fn reopen(
        path: &Path,
        facts: &LogFacts,
        size: u64,
        steps: &Steps,
    ) -> Result<Self, UndoError> {
        let reader = Reader::open(path, facts.id, size, Access::Write)?;
        reader
            .forget_cache()
            .map_err(UndoError::io("flush", path))?;
        let survey = survey(&reader, facts)?;
        let trim = || {
            steps.before(Step::TrimLog)?;
            reader.file().set_len(survey.end)?;
            reader.file().sync_all()
        };
        trim().map_err(UndoError::io("trim", path))?;
        let parts = reader.into_parts();
        Ok(Self::with(parts, size, facts.max_bytes, survey, steps))
    }

    fn with(
        (file, path, key): (File, PathBuf, LogKey),
        size: u64,
        max_bytes: u64,
        records: Survey,
        steps: &Steps,
    ) -> Self {
        let state = State {
            durable: records.end,
            records,
            is_flushing: false,
            flushes: 0,
            broken: None,
        };
        Self {
            file,
            path,
            key,
            size,
            max_bytes,
            steps: steps.clone(),
            state: Mutex::new(state),
            flushed: Condvar::new(),
        }
    }

    /// Bytes that a power cut leaves as they are.
    #[cfg(test)]
    pub(crate) fn durable_bytes(&self) -> u64 {
        self.state().durable
    }

    #[cfg(test)]
    pub(crate) fn interrupt_with(&mut self, steps: Steps) {
        self.steps = steps;
    }

    /// Makes all of it durable; its final length.
    pub(crate) fn seal(&self) -> Result<u64, LogError> {
        let ticket = self.ticket();
        self.commit(ticket)?;
        Ok(ticket.0)
    }

    fn checked(&self, offset: u64, length: u64) -> Result<Range<u64>, LogError> {
        let size = self.size;
        let inside = offset.checked_add(length).filter(|end| *end <= size);
        let end = inside.ok_or(LogError::Outside {
            offset,
            length,
            size,
        })?;
        if !is_page_start(offset) || !(is_page_start(end) || end == size) {
            return Err(LogError::Misaligned { offset, length });
        }
        Ok(offset..end)
    }

    /// Hashes without the lock and writes with it: the kernel lets only one thread write into a file
    /// at a time anyway.
    fn append_in(
        &self,
        extent: ExtentIndex,
        pages: &Range<usize>,
        bytes: &[u8],
    ) -> Result<(), LogError> {
        let in_bytes = |run: &Range<usize>| {
            let byte = |page: usize| bytes.len().min((page - pages.start) * PAGE_SIZE);
            byte(run.start)..byte(run.end)
        };
        loop {
            let missing = self.state().records.covered.missing(extent, pages);
            let pieces = cut(missing, |run| &bytes[in_bytes(run)]);
            let mut state = self.state();
            if state.records.covered.missing(extent, pages) != missing {
                // Another thread kept some of them meanwhile.
                continue;
            }
            for piece in &pieces {
                let stored = &bytes[in_bytes(&piece.pages)];
                self.write(&mut state, extent, piece, stored)?;
            }
            return Ok(());
        }
    }

    fn write(
        &self,
        state: &mut State,
        extent: ExtentIndex,
        piece: &Piece,
        bytes: &[u8],
    ) -> Result<(), LogError> {
        self.refuse_if_broken(state)?;
        let head = Head {
            content: piece.content,
            number: state.records.count,
            at: state.records.end,
            previous: state.records.last,
            durable: state.durable,
            offset: bytes_of(self.size, extent, &piece.pages).start,
            length: bytes.len() as u32,
        };
        if head.at + head.record_bytes() > self.max_bytes {
            let limit = self.max_bytes;
            return Err(LogError::Limit { limit });
        }
        let written = self
            .steps
            .before(Step::Append)
            .and_then(|()| self.write_record(&head, bytes));
        if let Err(error) = written {
            self.take_back(state);
            return Err(LogError::io("write", &self.path)(error));
        }
        let is_first = state.records.advance(&head, self.size);
        debug_assert!(is_first, "a page has one pre-image");
        Ok(())
    }

    fn write_record(&self, head: &Head, bytes: &[u8]) -> io::Result<()> {
        let stored = &bytes[..head.stored_bytes() as usize];
        let pre_image_at = head.at + HEAD_BYTES as u64;
        let padding_at = pre_image_at + stored.len() as u64;
        let padding = (head.at + head.record_bytes() - padding_at) as usize;
        self.file.write_all_at(&head.encode(&self.key), head.at)?;
        self.file.write_all_at(stored, pre_image_at)?;
        let zeros = [0; ALIGNMENT as usize];
        self.file.write_all_at(&zeros[..padding], padding_at)
    }

    /// Removes what a failed write left: its room is needed, and nothing may follow it.
    fn take_back(&self, state: &mut State) {
        if let Err(error) = self.file.set_len(state.records.end) {
            state.broken.get_or_insert(error.to_string());
        }
    }

    /// Flushes for all who wait; the lock is let go of meanwhile, so that others can append.
    fn flush(&self, mut state: MutexGuard<'_, State>) -> Result<(), LogError> {
        let end = state.records.end;
        state.is_flushing = true;
        drop(state);
        let result = self
            .steps
            .before(Step::Commit)
            .and_then(|()| self.file.sync_data());
        let mut state = self.state();
        state.is_flushing = false;
        state.flushes += 1;
        match &result {
            Ok(()) => state.durable = end,
            // The kernel marks the lost pages clean: a second flush would succeed and prove nothing.
            Err(error) => {
                state.broken.get_or_insert(error.to_string());
            }
        }
        drop(state);
        self.flushed.notify_all();
        result.map_err(LogError::io("flush", &self.path))
    }

    fn refuse_if_broken(&self, state: &State) -> Result<(), LogError> {
        match &state.broken {
            None => Ok(()),
            Some(cause) => Err(LogError::Broken {
                path: self.path.clone(),
                cause: cause.clone(),
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the log that a record speaks of is there, by its header and its length alone.
pub(crate) fn look(path: &Path, facts: &LogFacts, size: u64) -> Result<(), Unusable> {
    let reader = Reader::open(path, facts.id, size, Access::Read)?;
    let (bytes, expected) = (reader.length()?, facts.sealed_bytes.unwrap_or(0));
    if bytes < expected {
        let what = crate::error::What::Log;
        return Err(Unusable::Length {
            what,
            bytes,
            expected,
        });
    }
    Ok(())
}

fn fill_new(path: &Path, id: LogId, size: u64, steps: &Steps) -> Result<File, UndoError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true).mode(0o600);
    let file = steps
        .before(Step::MakeLog)
        .and_then(|()| options.open(path))
        .map_err(UndoError::io("make", path))?;
    steps
        .before(Step::FillLog)
        .and_then(|()| file.write_all_at(&encode_header(id, size), 0))
        .map_err(UndoError::io("write", path))?;
    steps
        .before(Step::FlushLog)
        .and_then(|()| file.sync_all())
        .map_err(UndoError::io("flush", path))?;
    steps
        .before(Step::FlushLogName)
        .and_then(|()| folder::flush_parent(path))
        .map_err(UndoError::io("flush the folder of", path))?;
    Ok(file)
}
