//! At a start: thawing what a killed freezer and its killed watchdog left frozen.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::error::QuiesceError;
use crate::journal::{Entry, Freezable, boot_id, failed, orphans};
use crate::leftover::end_leftovers;
use crate::mounts::Mounts;
use crate::point::{MountPoint, Thaw};

/// What [`recover()`] found.
#[derive(Debug, Default)]
pub struct Recovery {
    /// Mount points that an interrupted run may have left frozen, and what became of them.
    pub mount_points: Vec<Recovered>,
    /// Names of `before` hooks that an interrupted run may have begun, so that the `after` hooks of
    /// these names are owed: see [`crate::Quiesce::run_after`].
    pub hooks: Vec<String>,
}

/// A mount point that an interrupted run may have left frozen; prints as one sentence.
#[derive(Debug)]
pub struct Recovered {
    /// The mount point, or the entry if that is what cannot be read.
    pub path: PathBuf,
    /// What became of it.
    pub outcome: Outcome,
}

/// What became of a mount point.
#[derive(Debug)]
pub enum Outcome {
    /// It was frozen, and is not any more.
    Thawed,
    /// Its watchdog had thawed it, or it was never frozen.
    WasNotFrozen,
    /// Its filesystem is mounted nowhere, so it cannot be reached; the next start tries again.
    NotMounted,
    /// The kernel refused; the next start tries again.
    Failed(io::Error),
    /// The entry is damaged; it stays where it is.
    Damaged(String),
}

impl fmt::Display for Recovered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        match &self.outcome {
            Outcome::Thawed => write!(
                f,
                "{path} was left frozen by an interrupted run, and is thawed now"
            ),
            Outcome::WasNotFrozen => write!(
                f,
                "{path} was to be frozen by an interrupted run, and is not frozen"
            ),
            Outcome::NotMounted => write!(
                f,
                "{path} may have been left frozen by an interrupted run, but its filesystem is not mounted now; mount it and start again"
            ),
            Outcome::Failed(cause) => write!(
                f,
                "{path} may have been left frozen by an interrupted run, and cannot be thawed: {cause}; try `fsfreeze --unfreeze {path}`"
            ),
            Outcome::Damaged(cause) => write!(
                f,
                "{path} tells what an interrupted run left frozen, but cannot be read: {cause}; thaw by hand what is frozen, then remove it"
            ),
        }
    }
}

/// Kills the hooks of dead freezers, thaws what their entries name, if it is still the same filesystem, and removes the
/// entries that are dealt with. What belongs to a freezer that lives is left alone.
///
/// # Errors
/// [`QuiesceError::Journal`] if the entries cannot be listed. Trouble with one of them is in the
/// [`Recovery`], and does not keep the others from being thawed.
pub fn recover(state_dir: &Path) -> Result<Recovery, QuiesceError> {
    let mut recovery = Recovery::default();
    // One that still holds an application would do so after the hook that lets it go on.
    for hook in end_leftovers(state_dir)? {
        match hook.is_gone {
            true => tracing::warn!(
                process = hook.process,
                "hook {} of an interrupted run was killed",
                hook.name
            ),
            false => tracing::error!(
                process = hook.process,
                "hook {} of an interrupted run cannot be killed",
                hook.name
            ),
        }
    }
    let entries = orphans(state_dir)?;
    if entries.is_empty() {
        return Ok(recovery);
    }
    let boot = boot_id().map_err(failed("read the boot id for", state_dir))?;
    let mounts = Mounts::read().map_err(failed("read the mounts for", state_dir))?;
    for (path, file) in entries {
        match Entry::read(&file) {
            Ok(entry) => {
                if recovery.take(entry, &boot, &mounts) {
                    fs::remove_file(&path).map_err(failed("remove", &path))?;
                }
            }
            Err(cause) => recovery.mount_points.push(Recovered {
                path,
                outcome: Outcome::Damaged(cause),
            }),
        }
    }
    Ok(recovery)
}

impl Recovery {
    /// Whether the entry is dealt with.
    fn take(&mut self, entry: Entry, boot: &str, mounts: &Mounts) -> bool {
        // The application may still be in the state that a hook put it into, even after a boot.
        self.hooks.extend(entry.hooks);
        if entry.boot != boot {
            return true;
        }
        let mut is_done = true;
        // As when thawing: the last one frozen first.
        for freezable in entry.mount_points.into_iter().rev() {
            let outcome = thaw(&freezable, mounts);
            is_done &= matches!(outcome, Outcome::Thawed | Outcome::WasNotFrozen);
            self.mount_points.push(Recovered {
                path: freezable.path,
                outcome,
            });
        }
        is_done
    }
}

fn thaw(freezable: &Freezable, mounts: &Mounts) -> Outcome {
    let Some(point) = find(freezable, mounts) else {
        return Outcome::NotMounted;
    };
    match point.thaw() {
        Ok(Thaw::Done) => Outcome::Thawed,
        Ok(Thaw::WasNotFrozen) => Outcome::WasNotFrozen,
        Err(error) => Outcome::Failed(error.into()),
    }
}

/// The same filesystem, where it was or wherever it is mounted now.
fn find(freezable: &Freezable, mounts: &Mounts) -> Option<MountPoint> {
    let device = freezable.filesystem.device();
    let elsewhere = mounts.on(device).map(|mount| mount.point.as_path());
    let mut places = std::iter::once(freezable.path.as_path()).chain(elsewhere);
    places.find_map(|path| {
        let point = MountPoint::open(path, mounts).ok()?;
        (point.id().ok()? == freezable.filesystem).then_some(point)
    })
}
