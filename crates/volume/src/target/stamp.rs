//! Telling later that nobody wrote a target since a run let go of it.
//!
//! Three proofs follow one another without a gap:
//!
//! | from | to | nobody else wrote because |
//! | --- | --- | --- |
//! | the opening | the seal | [`Watch`] saw nobody, and the lease taken then says that nobody who could write is left |
//! | the seal | letting go | the lease is held: nobody can open the file |
//! | letting go | a later look | the file has the same time of change |
//!
//! The last one holds because every way of writing sets that time before it changes a byte (a
//! mapping made meanwhile does at its first store), and nobody can set it back. But the kernel's
//! clock for it moves in steps of up to 10 ms, so a write right after letting go might leave the
//! time as it was: the file is not let go before that clock has moved on.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, CWD, Statx, StatxFlags, StatxTimestamp, makedev, statx};

use super::Target;
use crate::kernel::{self, Lease};
use crate::volume::VolumeKind;
use crate::watch::{OtherWriters, Watch};

/// How long the clock of files may take to move on; one that was set back takes longer, and then
/// nothing is proved.
const MAX_WAIT: Duration = Duration::from_millis(200);
const PAUSE: Duration = Duration::from_millis(2);

/// A file as it was at one moment: which one, how long, and when it changed last.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stamp {
    dev: u64,
    ino: u64,
    size: u64,
    modified_ns: i128,
    changed_ns: i128,
}

impl Stamp {
    /// The file that a path without symbolic links leads to, now.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn of_path(path: &Path) -> io::Result<Stamp> {
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        Ok(Stamp::from(&statx(
            CWD,
            path,
            flags,
            StatxFlags::BASIC_STATS,
        )?))
    }

    fn of_file(file: &File) -> io::Result<Stamp> {
        let flags = AtFlags::EMPTY_PATH;
        Ok(Stamp::from(&statx(
            file,
            "",
            flags,
            StatxFlags::BASIC_STATS,
        )?))
    }
}

impl From<&Statx> for Stamp {
    fn from(stat: &Statx) -> Stamp {
        let time = |time: StatxTimestamp| {
            i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec)
        };
        Stamp {
            dev: makedev(stat.stx_dev_major, stat.stx_dev_minor),
            ino: stat.stx_ino,
            size: stat.stx_size,
            modified_ns: time(stat.stx_mtime),
            changed_ns: time(stat.stx_ctime),
        }
    }
}

impl Target {
    /// Who else wrote the file since it was opened. For the whole of a run it is to be asked once it
    /// is sealed: a mapping, or a loop device, is seen when it is let go of.
    #[must_use]
    pub fn other_writers(&self) -> OtherWriters {
        self.watch
            .get()
            .map_or(OtherWriters::Perhaps, Watch::other_writers)
    }

    /// Whether nobody can have opened the file since it was sealed. The kernel makes whoever tries
    /// wait, but not for ever.
    #[must_use]
    pub fn is_still_sealed(&self) -> bool {
        let medium = self
            .medium
            .get()
            .filter(|_| self.progress().sealed.is_some());
        medium.is_some_and(|medium| kernel::lease_is_held(medium.file().as_fd(), Lease::Write))
    }

    /// What tells after it was dropped whether anybody wrote it: a [`Stamp::of_path`] that differs.
    /// To be called once it is sealed.
    ///
    /// `None` if somebody else wrote the file since it was opened, or where that cannot be told: for
    /// devices, and where there are no leases or no watches for this user.
    #[must_use]
    pub fn stamp(&self) -> Option<Stamp> {
        if self.kind != VolumeKind::File || self.progress().sealed.is_none() {
            return None;
        }
        let file = self.medium.get()?.file();
        let is_alone = || self.is_still_sealed() && self.other_writers() == OtherWriters::Nobody;
        if !is_alone() {
            return None;
        }
        let stamp = settled(file)?;
        is_alone().then_some(stamp)
    }
}

/// The stamp, once the clock of files has moved past it.
fn settled(file: &File) -> Option<Stamp> {
    let deadline = Instant::now() + MAX_WAIT;
    loop {
        let stamp = Stamp::of_file(file).ok()?;
        if kernel::file_clock_ns()? > stamp.changed_ns {
            return Some(stamp);
        }
        if Instant::now() > deadline {
            return None;
        }
        std::thread::sleep(PAUSE);
    }
}
