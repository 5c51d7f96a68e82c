//! The volume that is right: opened for reading, and held still where that can be had.
//!
//! A lease or an exclusive open is what can prove that nothing changed: stores through a mapping and
//! writes of a mounted filesystem leave no trace in time for anybody else to see.

use std::fs::File;
use std::ops::Range;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::fs::{FlockOperation, Mode, OFlags, Stat, flock, fstat, open};
use rustix::io::Errno;

use crate::failure::{IoFailure, Operation};
use crate::holders::{self, Holders};
use crate::identity::Identity;
use crate::kernel::{self, Lease};
use crate::medium::{Access, Medium, MediumParts};
use crate::open_error::OpenError;
use crate::patience::{MOMENT, patiently};
use crate::place;
use crate::volume::{IoEngine, Volume, VolumeKind};

/// How long a lease of another program (a file server's, usually) is waited for.
const LEASE_PATIENCE: Duration = Duration::from_secs(2);
/// Permission bits of a file made from a device, which has none to pass on.
const DEVICE_MODE: u32 = 0o600;

/// Whether the source must be held still.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hold {
    /// Fail if it cannot be.
    Exclusive,
    /// Hold it if that can be had, and say why not.
    None,
}

/// What keeps the source from changing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Held {
    /// A read lease: nobody has the file open for writing, and whoever wants to has to wait.
    Lease,
    /// An exclusive open: no mount, no swap, nobody who asks for exclusive use.
    ExclusiveDevice,
    /// Nothing does.
    Nothing {
        /// Who writes it, or what is missing.
        why: String,
    },
}

/// The source was not held still to the end.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum HoldLost {
    /// Somebody wants to write the file; the kernel holds him up until the lease is given back.
    #[error("another program wants to write {}", path.display())]
    Broken {
        /// The source.
        path: PathBuf,
    },
    /// Its size or its time of modification is not what it was.
    #[error("{} was changed while it was read", path.display())]
    Changed {
        /// The source.
        path: PathBuf,
    },
    /// It was never held, or was let go.
    #[error("{} was not held still: {why}", path.display())]
    NotHeld {
        /// The source.
        path: PathBuf,
        /// Why not.
        why: String,
    },
}

/// Opens the volume that is right, with [`IoEngine::Threads`].
///
/// # Errors
/// [`OpenError::Missing`], [`OpenError::NotAVolume`], [`OpenError::Permission`];
/// [`OpenError::NoExclusive`] if it cannot be held although `hold` demands it; [`OpenError::Busy`]
/// while another run writes it.
pub fn open_source(path: &Path, hold: Hold) -> Result<Source, OpenError> {
    open_source_with(path, hold, IoEngine::Threads)
}

/// Opens the volume that is right.
///
/// # Errors
/// As [`open_source`].
pub fn open_source_with(path: &Path, hold: Hold, engine: IoEngine) -> Result<Source, OpenError> {
    let canonical = path
        .canonicalize()
        .map_err(|error| OpenError::from_io("looking up", path, error))?;
    let Some((kind, stat)) = place::look(&canonical)? else {
        return Err(OpenError::Missing {
            path: path.to_path_buf(),
        });
    };
    let (file, held) = match kind {
        VolumeKind::File => open_file(&canonical)?,
        VolumeKind::BlockDevice => open_device(&canonical, stat.st_rdev)?,
    };
    if let (Hold::Exclusive, Held::Nothing { why }) = (hold, &held) {
        return Err(OpenError::NoExclusive {
            path: canonical,
            why: why.clone(),
        });
    }
    Source::new(canonical, file, kind, held, engine)
}

fn open_file(path: &Path) -> Result<(File, Held), OpenError> {
    let file = open_past_leases(path)?;
    let stat = stat_of(&file, path)?;
    if place::kind_of(path, &stat)? != VolumeKind::File {
        return Err(OpenError::NotAVolume {
            path: path.to_path_buf(),
            what: "something that was replaced while it was opened",
        });
    }
    let lock = patiently(MOMENT, Errno::WOULDBLOCK, || {
        flock(&file, FlockOperation::NonBlockingLockShared)
    });
    if lock == Err(Errno::WOULDBLOCK) {
        return Err(busy_or_in_use(path, holders::of_file(&file, &stat)));
    }
    let lease = patiently(MOMENT, Errno::WOULDBLOCK, || {
        kernel::take_lease(file.as_fd(), Lease::Read)
    });
    let held = match lease {
        Ok(()) => Held::Lease,
        Err(error) => Held::Nothing {
            why: why_no_lease(error, &file, &stat),
        },
    };
    Ok((file, held))
}

/// Opens for reading; a file server that holds a lease gives it back when it is told to.
fn open_past_leases(path: &Path) -> Result<File, OpenError> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = patiently(LEASE_PATIENCE, Errno::WOULDBLOCK, || {
        open(path, flags, Mode::empty())
    });
    file.map(File::from).map_err(|error| match error {
        Errno::WOULDBLOCK => OpenError::InUse {
            path: path.to_path_buf(),
            holders: "another program holds a lease on it".to_owned(),
        },
        error => OpenError::from_io("opening", path, error),
    })
}

fn why_no_lease(error: Errno, file: &File, stat: &Stat) -> String {
    match error {
        Errno::WOULDBLOCK => {
            let holders = holders::of_file(file, stat);
            holders.sentence("another program has it open for writing")
        }
        Errno::ACCESS | Errno::PERM => "only its owner or root may take a lease on it".to_owned(),
        _ => format!("its filesystem gives no leases ({error})"),
    }
}

fn open_device(path: &Path, rdev: u64) -> Result<(File, Held), OpenError> {
    let open_with = |extra| {
        open(
            path,
            OFlags::RDONLY | OFlags::CLOEXEC | extra,
            Mode::empty(),
        )
    };
    let exclusive = patiently(MOMENT, Errno::BUSY, || open_with(OFlags::EXCL));
    let (file, held) = match exclusive {
        Err(Errno::BUSY) => {
            // Asked before this process opens the device itself and is found there.
            let why =
                holders::explain_device(path, rdev).sentence("another program uses it exclusively");
            (open_with(OFlags::empty()), Held::Nothing { why })
        }
        result => (result, hold_of_device(rdev)),
    };
    let file = File::from(file.map_err(|error| OpenError::from_io("opening", path, error))?);
    if stat_of(&file, path)?.st_rdev != rdev {
        return Err(OpenError::NotAVolume {
            path: path.to_path_buf(),
            what: "something that was replaced while it was opened",
        });
    }
    Ok((file, held))
}

fn hold_of_device(rdev: u64) -> Held {
    match device_is_written(rdev) {
        None => Held::ExclusiveDevice,
        Some(why) => Held::Nothing { why },
    }
}

/// Who writes a device that could be opened exclusively all the same; asked more than once, as
/// programs that look at new devices open them for moments.
pub(crate) fn device_is_written(rdev: u64) -> Option<String> {
    let alone = patiently(MOMENT, Errno::BUSY, || {
        match holders::writers_of_device(rdev) {
            holders if holders.is_empty() => Ok(()),
            _ => Err(Errno::BUSY),
        }
    });
    alone.err().map(|_| {
        holders::writers_of_device(rdev).sentence("another program has it open for writing")
    })
}

/// The error for a lock that somebody else has.
pub(crate) fn busy_or_in_use(path: &Path, holders: Holders) -> OpenError {
    let path = path.to_path_buf();
    match holders.lockstep() {
        Some(process) => OpenError::Busy {
            path,
            holder: Some(process.to_string()),
        },
        // Locks of other users' runs are seen, their descriptors are not.
        None if holders.is_empty() => OpenError::Busy { path, holder: None },
        None => OpenError::InUse {
            path,
            holders: holders.sentence(""),
        },
    }
}

pub(crate) fn stat_of(file: &File, path: &Path) -> Result<Stat, OpenError> {
    fstat(file).map_err(|error| OpenError::from_io("looking at", path, error))
}

/// The volume that is right.
#[derive(Debug)]
pub struct Source {
    medium: Medium,
    identity: Identity,
    held: Held,
    let_go: AtomicBool,
    opened: Stat,
}

impl Source {
    fn new(
        path: PathBuf,
        file: File,
        kind: VolumeKind,
        held: Held,
        engine: IoEngine,
    ) -> Result<Source, OpenError> {
        let failed = |error| OpenError::from_io("measuring", &path, error);
        let opened = stat_of(&file, &path)?;
        let size = match kind {
            VolumeKind::File => opened.st_size.cast_unsigned(),
            VolumeKind::BlockDevice => kernel::device_size(&file).map_err(failed)?,
        };
        let identity = Identity {
            size,
            ..Identity::of_open(&file, kind, &path)?
        };
        let medium = Medium::new(MediumParts {
            path,
            file,
            kind,
            access: Access::Read,
            engine,
            size,
            present: size,
        });
        Ok(Source {
            medium,
            identity,
            held,
            let_go: AtomicBool::new(false),
            opened,
        })
    }

    /// What it is.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Where it is, without symbolic links.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.medium.path()
    }

    /// Bytes that it takes on its filesystem, holes left out; a device's size.
    #[must_use]
    pub fn allocated_bytes(&self) -> u64 {
        match self.kind() {
            VolumeKind::File => self.opened.st_blocks.cast_unsigned().saturating_mul(512),
            VolumeKind::BlockDevice => self.medium.size(),
        }
    }

    /// Permission bits for a file made from it; `0o600` for a device.
    #[must_use]
    pub fn mode_bits(&self) -> u32 {
        match self.kind() {
            VolumeKind::File => self.opened.st_mode & 0o777,
            VolumeKind::BlockDevice => DEVICE_MODE,
        }
    }

    /// File or block device.
    #[must_use]
    pub fn kind(&self) -> VolumeKind {
        self.medium.kind()
    }

    /// What has kept it still since it was opened.
    #[must_use]
    pub fn hold(&self) -> Held {
        self.held.clone()
    }

    /// Whether it is still held, so that everything read so far is of one instant.
    ///
    /// A lease counts as lost from the moment that somebody asks to write. Size and time of
    /// modification must not have moved either, which alone would prove nothing.
    ///
    /// # Errors
    /// [`HoldLost`] says how it was lost; always, if it never was held.
    pub fn still_held(&self) -> Result<(), HoldLost> {
        let path = self.path().to_path_buf();
        let why = match &self.held {
            Held::Nothing { why } => Some(why.clone()),
            _ if self.let_go.load(Ordering::Acquire) => Some("it was let go".to_owned()),
            _ => None,
        };
        if let Some(why) = why {
            return Err(HoldLost::NotHeld { path, why });
        }
        if !self.is_unchanged() {
            return Err(HoldLost::Changed { path });
        }
        let file = self.medium.file().as_fd();
        if self.held == Held::Lease && !kernel::lease_is_held(file, Lease::Read) {
            return Err(HoldLost::Broken { path });
        }
        Ok(())
    }

    /// Whether size and, of a file, time of modification are as at the opening. Necessary for a
    /// volume that did not change, not sufficient.
    pub fn is_unchanged(&self) -> bool {
        match self.kind() {
            VolumeKind::File => fstat(self.medium.file()).is_ok_and(|now| {
                let was = &self.opened;
                (now.st_size, now.st_mtime, now.st_mtime_nsec)
                    == (was.st_size, was.st_mtime, was.st_mtime_nsec)
            }),
            VolumeKind::BlockDevice => {
                kernel::device_size(self.medium.file()).is_ok_and(|size| size == self.medium.size())
            }
        }
    }

    /// Gives a lease back, so that whoever waits to write the file goes on at once. The source can
    /// still be read, and counts as not held from now on. A device stays held until it is dropped.
    pub fn release_hold(&self) {
        if self.held == Held::Lease && !self.let_go.swap(true, Ordering::AcqRel) {
            // It can only fail if the kernel took the lease away already.
            let _ = kernel::release_lease(self.medium.file().as_fd());
        }
    }

    /// Closes a device, which nobody can remove while it is open. Reading it fails from now on, and
    /// it counts as changed. A file that is open can be removed, and stays as it is.
    pub fn close_device(&self) {
        if self.kind() == VolumeKind::BlockDevice {
            self.medium.close_direct();
            // Whoever removes the device is told that it is in use.
            let _ = kernel::close_shared(self.medium.file().as_fd());
        }
    }
}

impl Volume for Source {
    fn size(&self) -> u64 {
        self.medium.size()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), IoFailure> {
        self.medium.read_at(offset, buf)
    }

    fn read_if_cached(&self, offset: u64, buf: &mut [u8]) -> Result<bool, IoFailure> {
        self.medium.read_if_cached(offset, buf)
    }

    fn read_back(&self, offset: u64, buf: &mut [u8]) -> Result<(), IoFailure> {
        self.medium.read_back(offset, buf)
    }

    fn read_back_many(&self, reads: &mut [(u64, &mut [u8])]) -> Result<(), IoFailure> {
        self.medium.read_back_many(reads)
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> Result<(), IoFailure> {
        self.medium.write_at(offset, buf)
    }

    fn zero(&self, range: Range<u64>) -> Result<(), IoFailure> {
        self.medium.zero(range)
    }

    fn start_writeback(&self, _: Range<u64>) {}

    fn flush(&self) -> Result<(), IoFailure> {
        // Nothing of ours is unwritten, and other programs' data is not ours to wait for.
        self.medium.call(Operation::Flush, 0, 0).map(drop)
    }

    fn next_data(&self, from: u64) -> Result<Option<Range<u64>>, IoFailure> {
        self.medium.next_data(from)
    }

    fn advise_sequential(&self) {
        self.medium.advise_sequential();
    }

    fn will_need(&self, range: Range<u64>) {
        self.medium.will_need(range);
    }

    fn has_medium(&self) -> bool {
        self.medium.has_medium()
    }
}
