//! The whole of it: hooks, freeze, snapshot, thaw, hooks.

use std::cell::Cell;
use std::ffi::OsString;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::check::{self, Keep};
use crate::error::{Needed, QuiesceError, Refusal};
use crate::freezer::{Freezer, stop_if_cancelled};
use crate::hook::{Hook, HookEnd, HookFailure};
use crate::journal::{Entry, Journal};
use crate::leftover::HookLog;
use crate::level::Level;
use crate::point::MountPoint;
use crate::progress::{Progress, Step, Unattended};
use crate::watchdog::Watchdog;
use crate::{MAX_LIMIT, MAX_MOUNT_POINTS};

/// What is to be still while snapshots are made.
#[derive(Clone, Debug)]
pub struct Quiesce {
    /// Mount points whose filesystems are frozen, in this order, and thawed in reverse. One that is
    /// stored on another comes before it. At most [`MAX_MOUNT_POINTS`].
    pub freeze: Vec<PathBuf>,
    /// Hooks that run before the first freeze, in order; the first that fails ends it.
    pub before: Vec<Hook>,
    /// Hooks that run after the last thaw, in order, whatever happened: each whose name is that of a
    /// `before` hook that was begun, and each whose name no `before` hook has. All are run, even if one
    /// fails.
    pub after: Vec<Hook>,
    /// Longest that anything may be frozen, counted from the beginning of the first freeze; then the
    /// watchdog thaws. At most [`MAX_LIMIT`].
    pub limit: Duration,
    /// Where it is written down what is frozen, for [`crate::recover()`].
    pub state_dir: PathBuf,
    /// What is written to while filesystems are frozen: the images that are cloned, say. A filesystem
    /// that holds one of them is not frozen.
    pub images: Vec<PathBuf>,
    /// How to start a program that calls [`crate::watchdog_main`], such as `/proc/self/exe` and a verb.
    pub watchdog: Vec<OsString>,
}

impl Quiesce {
    /// Whether everything that is known before the first freeze allows it. Changes nothing.
    ///
    /// # Errors
    /// [`Refusal`], one sentence that says what, where, and what to do.
    pub fn check(&self) -> Result<(), Refusal> {
        self.open().map(drop)
    }

    /// Runs the `before` hooks, freezes, calls `snapshot`, thaws, runs the `after` hooks.
    ///
    /// Several volumes are of one instant if `snapshot` makes the snapshots of all of them. It must not
    /// write to what is frozen, nor wait for anybody who does. If it panics, the panic goes on when
    /// everything is thawed and the hooks have run.
    ///
    /// # Errors
    /// [`QuiesceError`]; what `snapshot` made, if it was called at all, is then not to be trusted, and
    /// is dropped. Who has to release it keeps a handle outside the closure. A failed `after` hook is
    /// an error too: it may be what completes a backup.
    pub fn around<T>(&self, snapshot: impl FnOnce() -> T) -> Result<(T, Level), QuiesceError> {
        self.around_watched(&Unattended, snapshot)
    }

    /// The same, with somebody who looks on and can stop it.
    ///
    /// # Errors
    /// As [`Quiesce::around`], and [`QuiesceError::Cancelled`].
    pub fn around_watched<T>(
        &self,
        progress: &dyn Progress,
        snapshot: impl FnOnce() -> T,
    ) -> Result<(T, Level), QuiesceError> {
        let points = self.open()?;
        let mut journal = self.write_journal(&points)?;
        let mut begun = Vec::new();
        let is_stuck = Cell::new(false);
        let made = catch_unwind(AssertUnwindSafe(|| {
            self.run_before(&mut begun, progress)?;
            self.frozen(&points, &is_stuck, progress, snapshot)
        }));
        let undone = self.run_after_watched(&begun, progress);
        if let Some(journal) = journal.as_mut().filter(|_| is_stuck.get()) {
            journal.keep();
        }
        match made {
            Ok(made) => Ok((join(made, undone)?, self.level())),
            Err(panic) => {
                if let Err(error) = undone {
                    tracing::error!("{error}");
                }
                resume_unwind(panic)
            }
        }
    }

    /// Runs the `after` hooks that an interrupted run owes: those of the `before` hooks named `begun`,
    /// as [`crate::recover()`] tells, and those that belong to none.
    ///
    /// # Errors
    /// The first failure; all of them are run.
    pub fn run_after(&self, begun: &[String]) -> Result<(), HookFailure> {
        self.run_after_watched(begun, &Unattended)
    }

    /// What a snapshot is worth if everything succeeds.
    ///
    /// A `before` hook holds its application until the `after` hook of its name. One without such a hook
    /// lets go by itself, nobody knows when, and says nothing of the moment of the snapshot.
    #[must_use]
    pub fn level(&self) -> Level {
        let holds = |before: &Hook| self.after.iter().any(|after| after.name == before.name);
        match (self.before.as_slice(), self.freeze.is_empty()) {
            ([_, ..], _) if self.before.iter().all(holds) => Level::ApplicationConsistent,
            (_, false) => Level::FilesystemConsistent,
            (_, true) => Level::CrashConsistent,
        }
    }

    fn open(&self) -> Result<Vec<MountPoint>, Refusal> {
        let count = self.freeze.len();
        if count == 0 {
            return Ok(Vec::new());
        }
        if count > MAX_MOUNT_POINTS {
            return Err(Refusal::TooMany { count });
        }
        let limit = self.limit;
        if limit.as_millis() == 0 || limit > MAX_LIMIT {
            return Err(Refusal::Limit { limit });
        }
        check::open_all(&self.freeze, &self.keep())
    }

    /// What has to stay writable.
    fn keep(&self) -> Vec<Keep<'_>> {
        let mut keep = vec![
            (Needed::Root, Path::new("/")),
            (Needed::StateDirectory, self.state_dir.as_path()),
            (Needed::Program, Path::new("/proc/self/exe")),
        ];
        let program = self.watchdog.first().map(Path::new);
        // A bare name is looked up in PATH when it is started; it is not known here where that leads.
        let program = program.filter(|program| program.exists());
        keep.extend(program.map(|program| (Needed::Program, program)));
        keep.extend(
            self.images
                .iter()
                .map(|image| (Needed::Image, image.as_path())),
        );
        keep
    }

    fn write_journal(&self, points: &[MountPoint]) -> Result<Option<Journal>, QuiesceError> {
        if points.is_empty() && self.before.is_empty() {
            return Ok(None);
        }
        let hooks = self.before.iter().map(|hook| hook.name.clone()).collect();
        let entry = Entry::new(hooks, points)?;
        Journal::write(&self.state_dir, &entry).map(Some)
    }

    fn run_before(
        &self,
        begun: &mut Vec<String>,
        progress: &dyn Progress,
    ) -> Result<(), QuiesceError> {
        for hook in &self.before {
            progress.step(Step::Hook(&hook.name));
            stop_if_cancelled(progress)?;
            begun.push(hook.name.clone());
            (hook.run_noted(self.log(hook), progress)).map_err(|failure| match failure.end {
                HookEnd::Cancelled => QuiesceError::Cancelled,
                _ => failure.into(),
            })?;
        }
        Ok(())
    }

    /// The first failure; all of them are run, and none is cancelled.
    fn run_after_watched(
        &self,
        begun: &[String],
        progress: &dyn Progress,
    ) -> Result<(), HookFailure> {
        let mut result = Ok(());
        for hook in self.after.iter().filter(|hook| self.is_owed(hook, begun)) {
            progress.step(Step::Hook(&hook.name));
            let run = hook.run_noted(self.log(hook), &Unattended);
            match (&result, run) {
                (Ok(()), run) => result = run,
                (Err(_), Err(failure)) => tracing::error!("{failure}"),
                (Err(_), Ok(())) => {}
            }
        }
        result
    }

    fn log<'a>(&'a self, hook: &'a Hook) -> HookLog<'a> {
        HookLog {
            state_dir: &self.state_dir,
            of: &hook.name,
        }
    }

    fn is_owed(&self, after: &Hook, begun: &[String]) -> bool {
        let is_same = |name: &String| *name == after.name;
        begun.iter().any(is_same) || !self.before.iter().map(|hook| &hook.name).any(is_same)
    }

    fn frozen<T>(
        &self,
        points: &[MountPoint],
        is_stuck: &Cell<bool>,
        progress: &dyn Progress,
        snapshot: impl FnOnce() -> T,
    ) -> Result<T, QuiesceError> {
        stop_if_cancelled(progress)?;
        if points.is_empty() {
            return Ok(snapshot());
        }
        points.iter().try_for_each(MountPoint::flush)?;
        let watchdog = Watchdog::start(&self.watchdog, points, self.limit)?;
        progress.step(Step::Watched(watchdog.process()));
        let mut freezer = Freezer::new(points, watchdog, self.limit, is_stuck);
        let made = freezer.freeze(progress).map(|()| snapshot());
        match (made, freezer.thaw(progress)) {
            (Ok(made), thawed) => thawed.map(|()| made),
            (Err(_), Err(still @ QuiesceError::StillFrozen { .. })) => Err(still),
            (Err(first), _) => Err(first),
        }
    }
}

fn join<T>(
    made: Result<T, QuiesceError>,
    undone: Result<(), HookFailure>,
) -> Result<T, QuiesceError> {
    match (made, undone) {
        (made, Ok(())) => made,
        (Ok(_), Err(failure)) => Err(failure.into()),
        (Err(first), Err(then)) => Err(QuiesceError::Twice {
            first: Box::new(first),
            then,
        }),
    }
}
