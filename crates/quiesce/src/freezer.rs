//! What is frozen right now, and its thaw in reverse order, whatever happens.

use std::cell::Cell;
use std::thread;
use std::time::Duration;

use crate::error::QuiesceError;
use crate::point::{MountPoint, Thaw};
use crate::progress::{Progress, Step};
use crate::watchdog::Watchdog;
use crate::words::Word;

/// Tries to thaw a filesystem before it is left to the watchdog.
const THAW_TRIES: usize = 5;
const PAUSE: Duration = Duration::from_millis(50);

/// Frozen filesystems; thawed when dropped.
pub(crate) struct Freezer<'a> {
    points: &'a [MountPoint],
    watchdog: Watchdog,
    limit: Duration,
    /// The first so many points are frozen.
    frozen: usize,
    /// One of them does not thaw, so the watchdog must not be told that all is done, and the journal
    /// is kept.
    is_stuck: &'a Cell<bool>,
}

impl<'a> Freezer<'a> {
    /// Nothing is frozen yet.
    pub(crate) fn new(
        points: &'a [MountPoint],
        watchdog: Watchdog,
        limit: Duration,
        is_stuck: &'a Cell<bool>,
    ) -> Self {
        Self {
            points,
            watchdog,
            limit,
            frozen: 0,
            is_stuck,
        }
    }

    /// Freezes the points in order, up to the first that cannot be frozen.
    pub(crate) fn freeze(&mut self, progress: &dyn Progress) -> Result<(), QuiesceError> {
        for (index, point) in self.points.iter().enumerate() {
            progress.step(Step::Freezing(&point.path));
            stop_if_cancelled(progress)?;
            self.freeze_one(index, point)?;
            progress.step(Step::Frozen(&point.path));
        }
        stop_if_cancelled(progress)
    }

    fn freeze_one(&mut self, index: usize, point: &MountPoint) -> Result<(), QuiesceError> {
        let lost = || QuiesceError::WatchdogLost {
            path: point.path.clone(),
        };
        if !self.watchdog.tell(Word::Freezing(index)) {
            return Err(lost());
        }
        if let Err(error) = point.freeze() {
            self.watchdog.tell(Word::NotFrozen(index));
            return Err(error);
        }
        self.frozen = index + 1;
        if !self.watchdog.tell(Word::Frozen(index)) {
            return Err(lost());
        }
        Ok(())
    }

    /// Thaws everything, and says whether it was frozen until now.
    pub(crate) fn thaw(mut self, progress: &dyn Progress) -> Result<(), QuiesceError> {
        // The watchdog says so before it thaws; what it thaws from now on does no harm.
        let mut result = match self.watchdog.is_expired() {
            true => Err(self.limit_reached()),
            false => Ok(()),
        };
        while let Some(point) = self.last() {
            progress.step(Step::Thawing(&point.path));
            let thawed = self.thaw_last(point);
            if thawed.is_ok() {
                progress.step(Step::Thawed(&point.path));
            }
            result = worst(result, thawed);
        }
        result
    }

    fn last(&self) -> Option<&'a MountPoint> {
        self.points.get(self.frozen.checked_sub(1)?)
    }

    fn thaw_last(&mut self, point: &MountPoint) -> Result<(), QuiesceError> {
        let mut thawed = point.thaw();
        for _ in 1..THAW_TRIES {
            if thawed.is_ok() {
                break;
            }
            thread::sleep(PAUSE);
            thawed = point.thaw();
        }
        self.frozen -= 1;
        if thawed.is_ok() {
            self.watchdog.tell(Word::NotFrozen(self.frozen));
        }
        match thawed {
            Ok(Thaw::Done) => Ok(()),
            Ok(Thaw::WasNotFrozen) if self.watchdog.is_expired() => Err(self.limit_reached()),
            Ok(Thaw::WasNotFrozen) => Err(QuiesceError::ThawedByOthers {
                path: point.path.clone(),
            }),
            Err(error) => {
                self.is_stuck.set(true);
                Err(QuiesceError::StillFrozen {
                    path: point.path.clone(),
                    source: error.into(),
                })
            }
        }
    }

    fn limit_reached(&self) -> QuiesceError {
        let limit = self.limit;
        QuiesceError::LimitReached { limit }
    }
}

/// Thaws what is left after an error or a panic, and lets the watchdog go; what cannot be thawed is
/// left to it.
impl Drop for Freezer<'_> {
    fn drop(&mut self) {
        let mut errors = Vec::new();
        while let Some(point) = self.last() {
            errors.extend(self.thaw_last(point).err());
        }
        // Not before: the log may lie on what was frozen.
        for error in errors {
            tracing::error!("{error}");
        }
        if !self.is_stuck.get() {
            self.watchdog.tell(Word::Done);
        }
    }
}

pub(crate) fn stop_if_cancelled(progress: &dyn Progress) -> Result<(), QuiesceError> {
    match progress.is_cancelled() {
        true => Err(QuiesceError::Cancelled),
        false => Ok(()),
    }
}

/// That something is still frozen is told before everything else; then what came first.
fn worst(
    first: Result<(), QuiesceError>,
    then: Result<(), QuiesceError>,
) -> Result<(), QuiesceError> {
    match (&first, &then) {
        (Ok(()), _) => then,
        (Err(QuiesceError::StillFrozen { .. }), _) => first,
        (_, Err(QuiesceError::StillFrozen { .. })) => then,
        _ => first,
    }
}
