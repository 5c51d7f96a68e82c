//! Keeps what a run overwrites, durably before it does.
//!
//! ```text
//!   open      offer: an image (a clone, a thin snapshot), a log, or nothing and why
//!   begin     continue the undo of the runs that were interrupted; else release the older one and
//!             begin another: its record is durable before the first byte changes
//!   overwrite image: nothing to do       log: append ─► commit ─► write
//!   finish    consistent: kept for its time       anything else: left to be continued
//! ```
//! With `--undo auto` it is given up, durably, where it stands in the way: no room for the log, or no
//! room on a disk whose blocks the image holds back. An image that cannot be made after all makes way
//! for a log before anything is overwritten.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use bytes::Bytes;
use lockstep_ledger::{Ledger, State, VolumeKey};
use lockstep_merkle::{Cv, EXTENT_SIZE, ExtentIndex, Fold, Geometry, PAGE_SIZE, Root};
use lockstep_protocol::{Failure, FailureKind, TargetFrame, Text, UndoKind, UndoNote, UndoStage};
use lockstep_transport::LinkSender;
use lockstep_undo::{Begin, Keeping, Kept as KeptIn, Resume, Ticket, UndoError, UndoStore};
use lockstep_volume::identify;

use super::place::Place;
use crate::clock::now;
use crate::failures::{ledger_failed, sentence, volume_failed};
use crate::undo::{
    Offer, Stores, UndoMode, UndoPolicy, kind_of, lasting, make_image, offer, offer_log,
    release_image, release_strays, undo_failed,
};

/// What a run keeps of its target.
pub(super) struct Keep {
    subject: Option<Subject>,
    offer: Offer,
    kept: RwLock<Option<Keeping>>,
    /// Why nothing may be overwritten any more: the undo is neither kept nor durably given up, or it
    /// could not be begun.
    /// Written only under the lock of `kept`.
    broken: Mutex<Option<Failure>>,
    kind: Mutex<Option<UndoKind>>,
    /// Why nothing is kept.
    why: Mutex<String>,
    until: AtomicU64,
    begun: AtomicBool,
    gave_way: AtomicBool,
    root: Mutex<RootFold>,
}

/// A volume that existed before the run.
pub(super) struct Subject {
    pub(super) policy: UndoPolicy,
    pub(super) path: PathBuf,
    pub(super) key: VolumeKey,
    /// As the undo's record has it: without its size.
    pub(super) identity: String,
    pub(super) is_file: bool,
    /// Bytes before the run, as far as the run may touch them.
    pub(super) size: u64,
    /// Bytes that the run gives it.
    pub(super) new_size: u64,
    pub(super) run: String,
    /// The runs, the newest first, that were interrupted since the volume was last whole.
    pub(super) interrupted: Vec<String>,
    pub(super) stores: Stores,
}

impl Subject {
    /// The runs that left a volume as it is, by the ledger's word.
    pub(super) fn interrupted(ledger: &Ledger, key: &VolumeKey) -> Result<Vec<String>, Failure> {
        let history = ledger.history(key).map_err(|error| ledger_failed(&error))?;
        let broken = |state| matches!(state, State::Inconsistent | State::Failed);
        let runs = history
            .into_iter()
            .take_while(|record| broken(record.state));
        Ok(runs.map(|record| record.run).collect())
    }
}

impl Keep {
    /// For a target that has nothing to be kept.
    pub(super) fn nothing() -> Keep {
        Keep::with(None, Offer::Nothing { why: String::new() })
    }

    /// What can be kept of this one.
    ///
    /// # Errors
    /// If something has to be kept, and nothing can.
    pub(super) fn of(subject: Subject) -> Result<Keep, Failure> {
        let mode = subject.policy.mode;
        let offer = match mode {
            UndoMode::Off => Offer::Nothing { why: String::new() },
            UndoMode::Auto | UndoMode::Require => {
                let Subject { path, size, .. } = &subject;
                offer(path, subject.is_file, *size, &subject.stores, mode)
            }
        };
        if let (UndoMode::Require, Offer::Nothing { why }) = (mode, &offer) {
            return Err(required(why));
        }
        Ok(Keep::with(Some(subject), offer))
    }

    fn with(subject: Option<Subject>, offer: Offer) -> Keep {
        let why = match &offer {
            Offer::Nothing { why } => why.clone(),
            _ => String::new(),
        };
        let until = subject.as_ref().map_or(0, |subject| subject.policy.until());
        // A file of another size has another root than the one that the scan folds.
        let geometry = subject
            .as_ref()
            .filter(|subject| subject.size == subject.new_size)
            .map(|subject| Geometry::new(subject.size));
        Keep {
            subject,
            offer,
            kept: RwLock::new(None),
            broken: Mutex::new(None),
            kind: Mutex::new(None),
            why: Mutex::new(why),
            until: AtomicU64::new(until),
            begun: AtomicBool::new(false),
            gave_way: AtomicBool::new(false),
            root: Mutex::new(RootFold::new(geometry)),
        }
    }

    /// What could be kept, for whoever is asked to agree.
    pub(super) fn offered(&self) -> Option<UndoNote> {
        self.subject.as_ref()?;
        let (kept, bytes) = match &self.offer {
            Offer::Image { kind, room } => (Some(*kind), *room),
            Offer::Log { max_bytes, .. } => (Some(UndoKind::Log), *max_bytes),
            Offer::Nothing { .. } => (None, 0),
        };
        Some(self.note(UndoStage::Offered, kept, bytes))
    }

    /// Whether an interrupted run's undo may be continued: the ledger calls the volume unsafe already.
    pub(super) fn continues(&self) -> bool {
        let subject = self.subject.as_ref();
        subject.is_some_and(|subject| !subject.interrupted.is_empty())
    }

    /// This side's own values of an extent, as they were before anything of it was written.
    pub(super) fn scanned(&self, extent: ExtentIndex, cvs: &[Cv]) {
        if self.root().push(extent, cvs) {
            self.record_root();
        }
    }

    /// Before the first byte changes: the undo's record is durable, or nothing is kept and no older
    /// undo is left that would mix two states.
    ///
    /// # Errors
    /// If something has to be kept and cannot, or an older undo cannot be removed.
    pub(super) fn begin(&self, place: &dyn Place, sender: &LinkSender) -> Result<(), Failure> {
        let Some(subject) = &self.subject else {
            return Ok(());
        };
        // Every thread that is about to write comes by here; one failure is enough.
        self.is_unbroken()?;
        let begun = match subject.policy.mode {
            UndoMode::Off => release_older(subject).map(|()| None),
            UndoMode::Auto | UndoMode::Require => self.continued_or_new(subject),
        };
        match begun {
            Ok(keeping) => self.take(keeping),
            Err(failure) if subject.policy.mode != UndoMode::Auto => {
                let _kept = self.kept.write().unwrap_or_else(PoisonError::into_inner);
                *lock(&self.broken) = Some(failure.clone());
                return Err(failure);
            }
            Err(failure) => {
                release_older(subject)?;
                *lock(&self.why) = failure.message;
            }
        }
        self.begun.store(true, Ordering::SeqCst);
        self.keep_what_is_cut_off(subject, place)?;
        self.record_root();
        self.tell_begun(sender);
        Ok(())
    }

    fn take(&self, keeping: Option<Keeping>) {
        let Some(keeping) = keeping else {
            return;
        };
        let record = keeping.record();
        self.until.store(record.expires_unix_ms, Ordering::SeqCst);
        *lock(&self.kind) = Some(kind_of(&record.kept));
        *self.kept.write().unwrap_or_else(PoisonError::into_inner) = Some(keeping);
    }

    fn continued_or_new(&self, subject: &Subject) -> Result<Option<Keeping>, Failure> {
        if let Some(keeping) = continued(subject)? {
            return Ok(Some(keeping));
        }
        release_older(subject)?;
        let Offer::Image { .. } = self.offer else {
            return begin_as_offered(subject, &self.offer);
        };
        match make_image(&subject.path, &subject.run) {
            Ok(image) => begin_with_image(subject, &image).map(Some),
            Err(error) => {
                let why = sentence(&error);
                tracing::warn!("undo: {why}; a log is tried");
                // What is half made is in the way of the next one.
                release_strays(&subject.path, None);
                self.log_instead(subject, &why)
            }
        }
    }

    /// Whoever has agreed was told of an image; a log does the same.
    fn log_instead(&self, subject: &Subject, why: &str) -> Result<Option<Keeping>, Failure> {
        let mode = subject.policy.mode;
        let offer = offer_log(subject.size, &subject.stores, mode);
        if let Offer::Nothing { why: no_log } = &offer {
            return Err(Failure::new(
                FailureKind::Preflight,
                format!("undo: {why}; nor is there room for a log: {no_log}"),
            ));
        }
        begin_as_offered(subject, &offer)
    }

    /// What lies past the new end is kept before the file is cut.
    fn keep_what_is_cut_off(&self, subject: &Subject, place: &dyn Place) -> Result<(), Failure> {
        let page = PAGE_SIZE as u64;
        let mut at = subject.new_size / page * page;
        let mut last = None;
        let mut bytes = vec![0; EXTENT_SIZE];
        while at < subject.size && self.is_logging() {
            let end = (at / EXTENT_SIZE as u64 + 1) * EXTENT_SIZE as u64;
            let range = at..end.min(subject.size);
            for part in self.missing(range.clone()) {
                let bytes = &mut bytes[..(part.end - part.start) as usize];
                place
                    .read_present(part.start, bytes)
                    .map_err(|error| volume_failed(&error))?;
                last = self.append(&[(part.start, bytes)])?.max(last);
            }
            at = range.end;
        }
        last.map_or(Ok(()), |ticket| self.commit(ticket))
    }

    /// Whether pages have to be kept one by one, as far as is known now.
    pub(super) fn may_log(&self) -> bool {
        match self.begun.load(Ordering::SeqCst) {
            true => self.is_logging(),
            false => self.continues() || matches!(self.offer, Offer::Log { .. }),
        }
    }

    /// Whether what is overwritten now has to be appended and committed before.
    pub(super) fn is_logging(&self) -> bool {
        let keeping = self.keeping();
        let log = keeping.as_ref().and_then(Keeping::log);
        log.is_some() || self.is_unbroken().is_err()
    }

    /// The parts of the range of which nothing is kept yet.
    pub(super) fn missing(&self, range: Range<u64>) -> Vec<Range<u64>> {
        let keeping = self.keeping();
        if self.is_unbroken().is_err() {
            return vec![range];
        }
        let log = keeping.as_ref().and_then(Keeping::log);
        log.map_or_else(Vec::new, |log| log.missing(range))
    }

    /// Keeps what these ranges hold; nothing is returned if the undo was given up.
    ///
    /// # Errors
    /// If it has to be kept and cannot.
    pub(super) fn append(&self, ranges: &[(u64, &[u8])]) -> Result<Option<Ticket>, Failure> {
        let appended = {
            let keeping = self.keeping();
            match keeping.as_ref().and_then(Keeping::log) {
                None => return self.is_unbroken().map(|()| None),
                Some(log) => log.append_all(ranges),
            }
        };
        match appended {
            Ok(ticket) => Ok(Some(ticket)),
            Err(error) => self.give_up_for(UndoError::from(error)).map(|()| None),
        }
    }

    /// Everything up to the ticket can be overwritten once this returns well.
    ///
    /// # Errors
    /// If it has to be kept and cannot.
    pub(super) fn commit(&self, ticket: Ticket) -> Result<(), Failure> {
        let committed = {
            let keeping = self.keeping();
            match keeping.as_ref().and_then(Keeping::log) {
                None => return self.is_unbroken(),
                Some(log) => log.commit(ticket),
            }
        };
        committed.or_else(|error| self.give_up_for(UndoError::from(error)))
    }

    fn give_up_for(&self, error: UndoError) -> Result<(), Failure> {
        let failure = undo_failed(&error);
        match self.subject.as_ref().map(|subject| subject.policy.mode) {
            Some(UndoMode::Require) => Err(failure),
            _ => self.give_up(failure.message),
        }
    }

    /// Whether the undo held back the last space of the target's disk, and is gone now: it is worth
    /// trying again.
    pub(super) fn gives_way(&self) -> Result<bool, Failure> {
        let mode = self.subject.as_ref().map(|subject| subject.policy.mode);
        let kind = *lock(&self.kind);
        let has_image = matches!(kind, Some(UndoKind::Reflink | UndoKind::Thin));
        if mode == Some(UndoMode::Auto) && has_image {
            self.gave_way.store(true, Ordering::SeqCst);
            self.give_up("the target's disk is full, and its image held space back".to_owned())?;
        }
        Ok(self.gave_way.load(Ordering::SeqCst))
    }

    /// From here on nothing is kept, durably.
    fn give_up(&self, why: String) -> Result<(), Failure> {
        let mut kept = self.kept.write().unwrap_or_else(PoisonError::into_inner);
        let Some(keeping) = kept.take() else {
            // Another thread did it, or tried to.
            return self.is_unbroken();
        };
        if let KeptIn::Image(image) = keeping.record().kept
            && let Err(why) = release_image(&image)
        {
            tracing::warn!("the image stays: {why}");
        }
        if let Err(error) = keeping.abandon() {
            let failure = undo_failed(&error);
            *lock(&self.broken) = Some(failure.clone());
            return Err(failure);
        }
        *lock(&self.kind) = None;
        *lock(&self.why) = why;
        Ok(())
    }

    fn is_unbroken(&self) -> Result<(), Failure> {
        lock(&self.broken).clone().map_or(Ok(()), Err)
    }

    /// The run has ended well and overwrites nothing more.
    pub(super) fn finish(&self) {
        let mut kept = self.kept.write().unwrap_or_else(PoisonError::into_inner);
        let (Some(keeping), Some(subject)) = (kept.take(), &self.subject) else {
            return;
        };
        let bytes = keeping.log().map_or(0, |log| log.bytes());
        lock(&self.root).log_bytes = bytes;
        if let Some(log) = keeping.log() {
            let (records, flushes) = (log.records(), log.flushes());
            tracing::info!(bytes, records, flushes, "kept what was overwritten");
        }
        match keeping.finish(subject.policy.until()) {
            Ok(record) => self.until.store(record.expires_unix_ms, Ordering::SeqCst),
            // It is left as a kill would leave it, and can be restored.
            Err(error) => tracing::warn!("undo: {}", sentence(&error)),
        }
    }

    /// What is kept, once the run has begun to write.
    pub(super) fn ended(&self, bytes_written: u64) -> Option<UndoNote> {
        self.subject.as_ref()?;
        if !self.begun.load(Ordering::SeqCst) {
            return None;
        }
        let kind = *lock(&self.kind);
        let bytes = match kind {
            Some(UndoKind::Log) => {
                let keeping = self.keeping();
                let log = keeping.as_ref().and_then(Keeping::log);
                log.map_or_else(|| lock(&self.root).log_bytes, |log| log.bytes())
            }
            Some(UndoKind::Reflink | UndoKind::Thin) => bytes_written,
            None => 0,
        };
        Some(self.note(UndoStage::Ended, kind, bytes))
    }

    fn tell_begun(&self, sender: &LinkSender) {
        let note = self.note(UndoStage::Begun, *lock(&self.kind), 0);
        // A link that is gone is found by the thread that listens to it.
        let _ = sender.control(Bytes::from(TargetFrame::Undo(note).encode()));
    }

    fn note(&self, stage: UndoStage, kept: Option<UndoKind>, bytes: u64) -> UndoNote {
        UndoNote {
            stage,
            kept,
            until_unix_ms: kept.map_or(0, |_| self.until.load(Ordering::SeqCst)),
            bytes,
            why: Text::new(&lock(&self.why)),
        }
    }

    /// As soon as both the undo and the root are there.
    fn record_root(&self) {
        let Some(root) = lock(&self.root).root else {
            return;
        };
        if let Some(keeping) = self.keeping().as_ref()
            && let Err(error) = keeping.record_root(root)
        {
            tracing::warn!(
                "the root before the run is not recorded: {}",
                sentence(&error)
            );
        }
    }

    fn keeping(&self) -> RwLockReadGuard<'_, Option<Keeping>> {
        self.kept.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn root(&self) -> MutexGuard<'_, RootFold> {
        lock(&self.root)
    }
}

impl Subject {
    /// An image is made by the volume's name, which could lead elsewhere by now.
    fn is_in_its_place(&self) -> Result<(), Failure> {
        let found = identify(&self.path).map(|found| lasting(&found.durable_text()));
        if found.is_ok_and(|identity| identity == self.identity) {
            return Ok(());
        }
        let message = "undo: the target was replaced while an image of it was made";
        Err(Failure::new(FailureKind::Guard, message))
    }

    fn begin(&self) -> Begin<'_> {
        Begin {
            key: self.key.as_str(),
            identity: &self.identity,
            size: self.size,
            run: &self.run,
            created_unix_ms: now(),
            expires_unix_ms: self.policy.until(),
        }
    }
}

fn begin_as_offered(subject: &Subject, offer: &Offer) -> Result<Option<Keeping>, Failure> {
    let Offer::Log { store, max_bytes } = offer else {
        return Ok(None);
    };
    store
        .begin_log(&subject.begin(), *max_bytes)
        .map(Some)
        .map_err(|error| undo_failed(&error))
}

fn begin_with_image(subject: &Subject, image: &[u8]) -> Result<Keeping, Failure> {
    let begun = subject.is_in_its_place().and_then(|()| {
        state_store(subject)
            .begin_image(&subject.begin(), image)
            .map_err(|error| undo_failed(&error))
    });
    if begun.is_err() {
        // The first failure counts; what stays is found by name.
        let _ = release_image(image);
    }
    begun
}

/// The undo of the newest interrupted run that has one, wherever it is.
fn continued(subject: &Subject) -> Result<Option<Keeping>, Failure> {
    for store in subject.stores.iter() {
        for run in &subject.interrupted {
            let resume = Resume {
                key: subject.key.as_str(),
                identity: &subject.identity,
                size: subject.size,
                continues: run,
                run: &subject.run,
            };
            let resumed = store.resume(&resume);
            if let Some(keeping) = resumed.map_err(|error| undo_failed(&error))? {
                return Ok(usable(keeping));
            }
        }
    }
    Ok(None)
}

/// An image that is gone or was touched restores nothing.
fn usable(keeping: Keeping) -> Option<Keeping> {
    if let KeptIn::Image(image) = keeping.record().kept
        && let Err(why) = crate::undo::open_image(&image)
    {
        tracing::warn!("the undo of the interrupted run cannot be continued: {why}");
        return None;
    }
    Some(keeping)
}

fn release_older(subject: &Subject) -> Result<(), Failure> {
    subject
        .stores
        .release(subject.key.as_str())
        .map_err(|error| undo_failed(&error))?;
    release_strays(&subject.path, None);
    Ok(())
}

/// Images are written down in the state directory, whose store is the first.
fn state_store(subject: &Subject) -> &UndoStore {
    subject.stores.state()
}

fn required(why: &str) -> Failure {
    Failure::new(
        FailureKind::Preflight,
        format!("--undo require: nothing of what is overwritten can be kept: {why}"),
    )
    .hint("make room in the state directory or beside the target, or give --undo auto")
}

/// The root of the target before the run, from its scan's values, which come nearly in order.
#[derive(Default)]
struct RootFold {
    fold: Option<Fold>,
    next: u64,
    count: u64,
    waiting: BTreeMap<u64, Vec<Cv>>,
    root: Option<Root>,
    /// Bytes of the log, once it is finished.
    log_bytes: u64,
}

impl RootFold {
    fn new(geometry: Option<Geometry>) -> RootFold {
        RootFold {
            fold: geometry.map(Fold::new),
            count: geometry.map_or(0, |geometry| geometry.extent_count()),
            ..RootFold::default()
        }
    }

    /// Whether this was the last value that the root needs.
    fn push(&mut self, extent: ExtentIndex, cvs: &[Cv]) -> bool {
        if self.fold.is_none() {
            return false;
        }
        self.waiting.insert(extent.0, cvs.to_vec());
        while let Some(cvs) = self.waiting.remove(&self.next) {
            self.next += 1;
            let fold = self.fold.as_mut();
            // Values that do not fit the geometry have no root; there are none.
            let pushed = fold.map(|fold| cvs.into_iter().try_for_each(|cv| fold.push(cv)));
            if !matches!(pushed, Some(Ok(()))) {
                self.fold = None;
            }
        }
        if self.next < self.count {
            return false;
        }
        self.root = self.fold.take().and_then(|fold| fold.finish().ok());
        self.root.is_some()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::{Keep, RootFold, Subject};
    use crate::undo::{Stores, UndoMode, UndoPolicy};
    use lockstep_ledger::VolumeKey;
    use lockstep_merkle::{EXTENT_SIZE, ExtentIndex, Geometry, GroupIndex, group_cv};

    fn subject(dir: &Path) -> Subject {
        let path = dir.join("target");
        Subject {
            policy: UndoPolicy {
                mode: UndoMode::Auto,
                ..UndoPolicy::default()
            },
            key: VolumeKey::from_path(&path).unwrap(),
            identity: "a file".to_owned(),
            is_file: true,
            size: 1 << 20,
            new_size: 1 << 20,
            run: "run".to_owned(),
            interrupted: Vec::new(),
            stores: Stores::of(&dir.join("state"), &path, true),
            path,
        }
    }

    /// Another thread must not take it for given up, and overwrite what is not kept.
    #[test]
    fn an_undo_that_cannot_be_given_up_stops_every_thread() {
        let dir = tempfile::tempdir().unwrap();
        let keep = Keep::of(subject(dir.path())).unwrap();
        let subject = keep.subject.as_ref().unwrap();
        let store = subject.stores.state();
        let keeping = store.begin_log(&subject.begin(), 1 << 30).unwrap();
        keep.take(Some(keeping));
        let page = [7; 4096];
        let ticket = keep.append(&[(0, &page)]).unwrap().unwrap();
        for entry in fs::read_dir(dir.path().join("state/undo")).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|end| end == "log") {
                // A folder cannot be removed as a file is.
                fs::remove_file(&path).unwrap();
                fs::create_dir(&path).unwrap();
            }
        }
        keep.give_up("no room".to_owned()).unwrap_err();
        assert!(keep.is_logging());
        assert_eq!(keep.missing(4096..8192).first(), Some(&(4096..8192)));
        keep.append(&[(4096, &page)]).unwrap_err();
        keep.commit(ticket).unwrap_err();
        keep.give_up("no room".to_owned()).unwrap_err();
    }

    #[test]
    fn the_root_before_the_run_comes_from_values_in_any_order() {
        let bytes: Vec<u8> = (0..3 * EXTENT_SIZE + 5)
            .map(|at| (at % 251) as u8)
            .collect();
        let geometry = Geometry::new(bytes.len() as u64);
        let mut fold = RootFold::new(Some(geometry));
        for (number, extent) in [2, 0, 3, 1].into_iter().map(ExtentIndex).enumerate() {
            let groups = geometry.groups_of(extent).map(GroupIndex);
            let cvs: Vec<_> = groups
                .map(|group| {
                    let range = geometry.group_range(group);
                    let range = range.start as usize..range.end as usize;
                    group_cv(geometry, group, &bytes[range])
                })
                .collect();
            assert_eq!(fold.push(extent, &cvs), number == 3);
        }
        let root = fold.root.unwrap();
        assert_eq!(root.to_string(), blake3::hash(&bytes).to_string());
    }
}
