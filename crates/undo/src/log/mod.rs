//! The pre-image log: what pages held before a run overwrote them, durable before it did.

mod covered;
mod format;
mod pieces;
mod sealed;
mod survey;
#[cfg(test)]
mod tests;

use std::fs::{self, File, OpenOptions};
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use lockstep_merkle::{PAGE_SIZE, PageSet};
use rustix::fs::{Advice, fadvise};

pub(crate) use format::{HEAD_BYTES, LOG_HEADER_BYTES};
pub(crate) use sealed::PreImage;
pub use sealed::SealedLog;

use crate::error::{LogError, UndoError, Unusable};
use crate::folder::{self, Access};
use crate::record::{LogFacts, LogId};
use crate::steps::{Step, Steps};
use covered::bytes_of;
use format::{Head, LogKey, encode_header, is_page_start};
use pieces::{Piece, Stretch, cut, extents};
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
        self.append_all(&[(offset, bytes)])
    }

    /// [`PreImageLog::append`] of several ranges in rising order, none of which touches another's
    /// bytes, as one write. The ticket covers them and everything before.
    ///
    /// # Errors
    /// As [`PreImageLog::append`]; nothing of any range is kept then that was not before.
    pub fn append_all(&self, ranges: &[(u64, &[u8])]) -> Result<Ticket, LogError> {
        let stretches = self.stretches(ranges)?;
        loop {
            // Hashed without the lock and written with it: the kernel lets only one thread write into
            // a file at a time anyway.
            let missing = Self::missing_of(&self.state(), &stretches);
            let pieces: Vec<Vec<Piece>> = stretches
                .iter()
                .zip(&missing)
                .map(|(stretch, missing)| cut(*missing, |run| &stretch.bytes[stretch.place(run)]))
                .collect();
            let mut state = self.state();
            if Self::missing_of(&state, &stretches) != missing {
                // Another thread kept some of them meanwhile.
                continue;
            }
            self.write(&mut state, &stretches, &pieces)?;
            return Ok(Ticket(state.records.end));
        }
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

    /// The ranges extent by extent.
    fn stretches<'a>(&self, ranges: &[(u64, &'a [u8])]) -> Result<Vec<Stretch<'a>>, LogError> {
        let mut stretches = Vec::new();
        let mut free_from = 0;
        for (offset, bytes) in ranges {
            let (offset, length) = (*offset, bytes.len() as u64);
            let range = self.checked(offset, length)?;
            if offset < free_from {
                return Err(LogError::Misaligned { offset, length });
            }
            free_from = range.end.next_multiple_of(PAGE_SIZE as u64);
            for (extent, pages) in extents(&range) {
                let part = bytes_of(self.size, extent, &pages);
                let part = (part.start - offset) as usize..(part.end - offset) as usize;
                let bytes = &bytes[part];
                stretches.push(Stretch {
                    extent,
                    pages,
                    bytes,
                });
            }
        }
        Ok(stretches)
    }

    fn missing_of(state: &State, stretches: &[Stretch<'_>]) -> Vec<PageSet> {
        let covered = &state.records.covered;
        let missing = |stretch: &Stretch<'_>| covered.missing(stretch.extent, &stretch.pages);
        stretches.iter().map(missing).collect()
    }

    fn write(
        &self,
        state: &mut State,
        stretches: &[Stretch<'_>],
        pieces: &[Vec<Piece>],
    ) -> Result<(), LogError> {
        self.refuse_if_broken(state)?;
        let (heads, records) = self.encoded(state, stretches, pieces)?;
        if heads.is_empty() {
            return Ok(());
        }
        let written = self
            .steps
            .before(Step::Append)
            .and_then(|()| self.file.write_all_at(&records, state.records.end));
        if let Err(error) = written {
            self.take_back(state);
            return Err(LogError::io("write", &self.path)(error));
        }
        for head in &heads {
            let is_first = state.records.advance(head, self.size);
            debug_assert!(is_first, "a page has one pre-image");
        }
        Ok(())
    }

    /// The records that come next, and their bytes.
    fn encoded(
        &self,
        state: &State,
        stretches: &[Stretch<'_>],
        pieces: &[Vec<Piece>],
    ) -> Result<(Vec<Head>, Vec<u8>), LogError> {
        let (mut heads, mut records) = (Vec::new(), Vec::new());
        let (mut at, mut previous) = (state.records.end, state.records.last);
        for (stretch, piece) in stretches
            .iter()
            .zip(pieces)
            .flat_map(|(stretch, pieces)| pieces.iter().map(move |piece| (stretch, piece)))
        {
            let bytes = &stretch.bytes[stretch.place(&piece.pages)];
            let head = Head {
                content: piece.content,
                number: state.records.count + heads.len() as u64,
                at,
                previous,
                durable: state.durable,
                offset: bytes_of(self.size, stretch.extent, &piece.pages).start,
                length: bytes.len() as u32,
            };
            (previous, at) = (at, at + head.record_bytes());
            if at > self.max_bytes {
                let limit = self.max_bytes;
                return Err(LogError::Limit { limit });
            }
            records.extend_from_slice(&head.encode(&self.key));
            records.extend_from_slice(&bytes[..head.stored_bytes() as usize]);
            records.resize((at - state.records.end) as usize, 0);
            heads.push(head);
        }
        Ok((heads, records))
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
            Ok(()) => {
                self.forget_cache(state.durable..end);
                state.durable = end;
            }
            // The kernel marks the lost pages clean: a second flush would succeed and prove nothing.
            Err(error) => {
                state.broken.get_or_insert(error.to_string());
            }
        }
        drop(state);
        self.flushed.notify_all();
        result.map_err(LogError::io("flush", &self.path))
    }

    /// Nobody reads it soon; a hint, which may fail.
    fn forget_cache(&self, range: Range<u64>) {
        let length = NonZeroU64::new(range.end.saturating_sub(range.start));
        let _ = fadvise(&self.file, range.start, length, Advice::DontNeed);
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
