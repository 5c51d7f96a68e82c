//! Having a file or a device for oneself.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{FlockOperation, Mode, OFlags, Stat, flock, open};
use rustix::io::Errno;

use crate::holders;
use crate::kernel::{self, Lease};
use crate::medium::Access;
use crate::open_error::OpenError;
use crate::patience::{MOMENT, patiently};
use crate::place;
use crate::source::{busy_or_in_use, device_is_written, stat_of};
use crate::volume::VolumeKind;
use crate::watch::Watch;

/// QEMU locks single bytes from 100 on for what it does, and from 200 on for what it forbids others
/// (block/file-posix.c); each set has room for 64.
const QEMU_LOCKS: (i64, i64) = (100, 164);

/// Opens a regular file that nobody else has open, and keeps other runs away from it.
///
/// First for reading only: opening for writing would break the lease of a run that reads the file as
/// its source, and ruin that run. A file that is to be written is watched from before the proof that
/// nobody else has it open.
pub(super) fn claim_file(
    path: &Path,
    access: Access,
    open_with: impl Fn(OFlags) -> rustix::io::Result<OwnedFd>,
) -> Result<(File, Option<Watch>), OpenError> {
    let flags = OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let reader = patiently(MOMENT, Errno::WOULDBLOCK, || {
        open_with(flags | OFlags::RDONLY)
    });
    let reader = reader.map_err(|error| match error {
        Errno::WOULDBLOCK => in_use(path, "another program holds a lease on it"),
        error => OpenError::from_io("opening", path, error),
    })?;
    let reader = File::from(reader);
    let stat = stat_of(&reader, path)?;
    if place::kind_of(path, &stat)? != VolumeKind::File {
        return Err(in_use(path, "it was replaced while it was opened"));
    }
    lock(&reader, path, &stat)?;
    let watch = match access {
        Access::Read => None,
        Access::ReadWrite => Watch::over(&reader),
    };
    refuse_if_open_elsewhere(&reader, path, &stat)?;
    if let Some(watch) = &watch {
        // Those who were waited for.
        watch.forget();
    }
    match access {
        Access::Read => Ok((reader, None)),
        Access::ReadWrite => Ok((reopen_for_writing(reader, path, &stat)?, watch)),
    }
}

/// The lock moves over to the new descriptor, as the old one has to go: it would stand in the way of
/// the lease that proves at the end that this one is alone.
fn reopen_for_writing(reader: File, path: &Path, stat: &Stat) -> Result<File, OpenError> {
    if stat.st_mode & 0o222 == 0 {
        return Err(read_only(path, "its mode lets nobody write it"));
    }
    let same = format!("/proc/self/fd/{}", reader.as_raw_fd());
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let writer = open(same, flags, Mode::empty()).map_err(|error| match error {
        Errno::PERM => read_only(path, "it is marked immutable or append-only (see lsattr)"),
        Errno::TXTBSY => in_use(path, "it is a running program or swap space"),
        error => OpenError::from_io("opening for writing", path, error),
    })?;
    // Said rather than left to the closing: a child process of ours may keep it open until its exec.
    let _ = flock(&reader, FlockOperation::Unlock);
    drop(reader);
    let writer = File::from(writer);
    lock(&writer, path, stat)?;
    Ok(writer)
}

/// Our own lock, which tells runs of lockstep from other users of the file.
pub(super) fn lock(file: &File, path: &Path, stat: &Stat) -> Result<(), OpenError> {
    let locked = patiently(MOMENT, Errno::WOULDBLOCK, || {
        flock(file, FlockOperation::NonBlockingLockExclusive)
    });
    match locked {
        Err(Errno::WOULDBLOCK) => Err(busy_or_in_use(path, holders::of_file(file, stat))),
        // Filesystems without locks have only the guards below.
        _ => Ok(()),
    }
}

/// Proves with a lease that this descriptor is the only one, and gives the lease back.
fn refuse_if_open_elsewhere(file: &File, path: &Path, stat: &Stat) -> Result<(), OpenError> {
    if kernel::is_ofd_locked(file.as_fd(), QEMU_LOCKS.0, QEMU_LOCKS.1).unwrap_or(false) {
        let holders = holders::of_file(file, stat).sentence("another program has it open");
        return Err(in_use(
            path,
            &format!("{holders}, and locks it as QEMU does"),
        ));
    }
    prove_alone(file, path, stat)?;
    // Our own second descriptor would wait for it.
    let _ = kernel::release_lease(file.as_fd());
    Ok(())
}

/// Takes the lease that nobody can have who is not alone. Where there are no leases, or not for this
/// user, looks through `/proc` and `/sys` instead.
pub(super) fn prove_alone(file: &File, path: &Path, stat: &Stat) -> Result<(), OpenError> {
    let alone = patiently(MOMENT, Errno::WOULDBLOCK, || {
        kernel::take_lease(file.as_fd(), Lease::Write)
    });
    match alone {
        Ok(()) => Ok(()),
        Err(Errno::WOULDBLOCK) => {
            let holders = holders::of_file(file, stat);
            match holders.lockstep() {
                Some(process) => Err(OpenError::Busy {
                    path: path.to_path_buf(),
                    holder: Some(process.to_string()),
                }),
                None => Err(in_use(
                    path,
                    &holders.sentence("another process has it open"),
                )),
            }
        }
        Err(_) => {
            let holders = holders::of_file(file, stat);
            if holders.is_empty() {
                return Ok(());
            }
            Err(busy_or_in_use(path, holders))
        }
    }
}

/// Opens a block device for exclusive use: nothing mounted, no swap, no holder, no claimed partition.
pub(super) fn claim_device(path: &Path, access: Access, rdev: u64) -> Result<File, OpenError> {
    let flags = access.flags() | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let device = patiently(MOMENT, Errno::BUSY, || open(path, flags, Mode::empty()));
    let device = device.map_err(|error| match error {
        Errno::BUSY => device_in_use(path, rdev),
        Errno::ACCESS | Errno::PERM if device_is_marked_read_only(rdev) => {
            read_only(path, "the device is read-only")
        }
        error => OpenError::from_io("opening", path, error),
    })?;
    let device = File::from(device);
    let stat = stat_of(&device, path)?;
    if place::kind_of(path, &stat)? != VolumeKind::BlockDevice || stat.st_rdev != rdev {
        return Err(in_use(path, "it was replaced while it was opened"));
    }
    if let Some(writers) = device_is_written(rdev) {
        return Err(in_use(path, &writers));
    }
    let is_read_only = kernel::device_is_read_only(&device).unwrap_or(false);
    if access == Access::ReadWrite && is_read_only {
        return Err(read_only(path, "the device is read-only"));
    }
    Ok(device)
}

fn device_in_use(path: &Path, rdev: u64) -> OpenError {
    let holders = holders::explain_device(path, rdev);
    match holders.lockstep() {
        Some(process) => OpenError::Busy {
            path: path.to_path_buf(),
            holder: Some(process.to_string()),
        },
        None => in_use(
            path,
            &holders.sentence("another program uses it exclusively"),
        ),
    }
}

fn device_is_marked_read_only(rdev: u64) -> bool {
    let flag = std::fs::read_to_string(holders::sys_folder(rdev).join("ro"));
    flag.is_ok_and(|flag| flag.trim() == "1")
}

fn in_use(path: &Path, holders: &str) -> OpenError {
    OpenError::InUse {
        path: path.to_path_buf(),
        holders: holders.to_owned(),
    }
}

fn read_only(path: &Path, why: &'static str) -> OpenError {
    OpenError::ReadOnly {
        path: path.to_path_buf(),
        why,
    }
}
