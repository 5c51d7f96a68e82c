//! Why nothing was frozen, and why a snapshot is not what it should be.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::hook::HookFailure;
use crate::{MAX_LIMIT, MAX_MOUNT_POINTS};

/// What has to stay writable while something is frozen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Needed {
    /// The root filesystem: half of the machine stands still without it.
    Root,
    /// The state directory.
    StateDirectory,
    /// The running program or its watchdog's.
    Program,
    /// What is snapshotted, or whatever else the caller named.
    Image,
}

impl Needed {
    fn word(self) -> &'static str {
        match self {
            Needed::Root => "the root filesystem",
            Needed::StateDirectory => "the state directory",
            Needed::Program => "the running program",
            Needed::Image => "the image",
        }
    }
}

/// Why a filesystem is not frozen; each message is one sentence: what, where, what to do.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// There is no such folder, or it cannot be looked at.
    #[error("cannot look at {}: {cause}; check the name, and who may look there", path.display())]
    Unreachable {
        /// The path.
        path: PathBuf,
        /// The kernel's word.
        cause: io::Error,
    },
    /// A folder inside a filesystem.
    #[error(
        "{} is not a mount point but lies in the filesystem mounted on {}; name that one if all of it may be frozen",
        path.display(), mount.display()
    )]
    NotAMountPoint {
        /// The path.
        path: PathBuf,
        /// The mount point that it lies under.
        mount: PathBuf,
    },
    /// The kernel does not say what is mounted there.
    #[error("cannot tell what is mounted on {}; freezing needs Linux 5.8 and a readable /proc/self/mountinfo", path.display())]
    UnknownMount {
        /// The path.
        path: PathBuf,
    },
    /// A name that cannot be written down.
    #[error("{} is not UTF-8 text; mount the filesystem on a path that is", path.display())]
    NotText {
        /// The path.
        path: PathBuf,
    },
    /// Its freezing would stop ourselves, or the machine.
    #[error(
        "freezing {} would hold up {} ({}); keep that on another filesystem, or do not freeze this one",
        path.display(), needed.word(), holder.display()
    )]
    Needed {
        /// The mount point.
        path: PathBuf,
        /// What needs it.
        needed: Needed,
        /// Where that is.
        holder: PathBuf,
    },
    /// Two names of one filesystem.
    #[error("{} and {} are one filesystem; name only one of them", first.display(), second.display())]
    SameFilesystem {
        /// The first.
        first: PathBuf,
        /// The second.
        second: PathBuf,
    },
    /// The second could not flush to the first any more.
    #[error("{} is stored on {}; name it before that one, so that it is frozen first", second.display(), first.display())]
    WrongOrder {
        /// The filesystem below, named first.
        first: PathBuf,
        /// The filesystem that is stored on it.
        second: PathBuf,
    },
    /// More mount points than a watchdog holds.
    #[error(
        "{count} mount points are too many to freeze together; name at most {MAX_MOUNT_POINTS}"
    )]
    TooMany {
        /// How many were named.
        count: usize,
    },
    /// A limit of nothing, or of longer than anything should stand still.
    #[error("filesystems cannot be frozen for {} s; choose a limit above zero and up to {} s", limit.as_secs_f64(), MAX_LIMIT.as_secs())]
    Limit {
        /// The limit asked for.
        limit: Duration,
    },
    /// The filesystem has no way to be frozen.
    #[error("the filesystem mounted on {} ({kind}) cannot be frozen; leave it out, or use hooks to hold its writers up", path.display())]
    Unsupported {
        /// The mount point.
        path: PathBuf,
        /// Its type.
        kind: String,
    },
    /// Somebody else froze it.
    #[error("the filesystem mounted on {} is frozen already by another program; wait for it, or thaw with `fsfreeze --unfreeze {}`", path.display(), path.display())]
    AlreadyFrozen {
        /// The mount point.
        path: PathBuf,
    },
    /// Only the superuser may freeze.
    #[error("freezing the filesystem mounted on {} is not permitted; run as root (CAP_SYS_ADMIN)", path.display())]
    NotPermitted {
        /// The mount point.
        path: PathBuf,
    },
}

/// Why there is no snapshot to trust. Whatever it is: nothing is left frozen, except where
/// [`QuiesceError::StillFrozen`] says so.
#[derive(Debug, thiserror::Error)]
pub enum QuiesceError {
    /// Nothing was frozen, because it must not be or cannot be.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A hook did not do its work.
    #[error(transparent)]
    Hook(#[from] HookFailure),
    /// The watchdog is not there, so nothing was frozen.
    #[error("nothing was frozen, because its watchdog could not be started: {reason}")]
    NoWatchdog {
        /// What is wrong with it.
        reason: String,
    },
    /// The watchdog died before everything was frozen.
    #[error("the watchdog was killed before {} was frozen; everything is thawed again", path.display())]
    WatchdogLost {
        /// The mount point that was next.
        path: PathBuf,
    },
    /// The kernel did not flush or freeze.
    #[error("cannot {action} the filesystem mounted on {}", path.display())]
    Kernel {
        /// What was tried, as a verb.
        action: &'static str,
        /// The mount point.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The time was over before the snapshot was made.
    #[error("filesystems were thawed after {} s, before the snapshot was complete, so it is not consistent; raise the limit or make the snapshot faster", limit.as_secs_f64())]
    LimitReached {
        /// The longest time for which they may be frozen.
        limit: Duration,
    },
    /// Somebody else thawed.
    #[error("{} was thawed by another program before the snapshot was complete, so it is not consistent; find out which, and try again", path.display())]
    ThawedByOthers {
        /// The mount point.
        path: PathBuf,
    },
    /// The kernel does not thaw; the watchdog goes on trying for a while.
    #[error("the filesystem mounted on {} is still frozen; try `fsfreeze --unfreeze {}`", path.display(), path.display())]
    StillFrozen {
        /// The mount point.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// What is frozen could not be written down, so nothing was.
    #[error("cannot {action} {}", path.display())]
    Journal {
        /// What was tried, as a verb.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The caller wanted it to end.
    #[error("cancelled; everything is thawed")]
    Cancelled,
    /// Something failed, and then a hook that was to undo what had been begun.
    #[error("{first}; and then {then}")]
    Twice {
        /// What failed first.
        first: Box<QuiesceError>,
        /// The hook that failed after it.
        then: HookFailure,
    },
}
