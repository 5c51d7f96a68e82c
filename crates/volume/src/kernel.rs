//! Leases, OFD locks, watches, block-device ioctls and sync_file_range: rustix has no safe form of these.
#![expect(
    unsafe_code,
    reason = "each call is one libc or ioctl invocation, made safe by the wrapper around it"
)]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::Errno;
use rustix::ioctl::{Getter, Opcode, Setter, ioctl, opcode};

// From <linux/fcntl.h>; the libc crate names them for some targets only.
const F_SETSIG: libc::c_int = 10;
const F_GETLEASE: libc::c_int = 1025;
const F_OFD_GETLK: libc::c_int = 36;

// From <linux/fs.h> and <linux/loop.h>.
const BLKROGET: Opcode = opcode::none(0x12, 94);
const BLKGETSIZE64: Opcode = opcode::read::<usize>(0x12, 114);
const BLKZEROOUT: Opcode = opcode::none(0x12, 127);
const LOOP_GET_STATUS64: Opcode = 0x4C05;
/// `struct loop_info64` is 232 bytes, its first fields are `lo_device` and `lo_inode`.
const LOOP_INFO_WORDS: usize = 29;

/// A lease (fcntl(2)): the kernel holds up whoever wants to open the file in a way that conflicts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Lease {
    /// Nobody has the file open for writing; its descriptor must be read-only.
    Read,
    /// Nobody else has the file open at all.
    Write,
}

/// Takes a lease, and lets its breaking arrive as `SIGURG`.
///
/// The default signal, `SIGIO`, would end the process. `SIGURG` is ignored unless somebody asked for
/// it, so that no process-wide disposition has to be changed here; the holder asks
/// [`lease_is_held`] instead of listening.
///
/// `EAGAIN`: somebody has the file open. `EINVAL`: the filesystem has no leases. `EACCES`: the file
/// is another user's.
pub(crate) fn take_lease(fd: BorrowedFd<'_>, lease: Lease) -> rustix::io::Result<()> {
    fcntl_int(fd, F_SETSIG, libc::SIGURG)?;
    fcntl_int(fd, libc::F_SETLEASE, lease_code(lease)).map(drop)
}

/// Gives a lease up; whoever waited goes on at once.
pub(crate) fn release_lease(fd: BorrowedFd<'_>) -> rustix::io::Result<()> {
    fcntl_int(fd, libc::F_SETLEASE, libc::F_UNLCK).map(drop)
}

/// Whether the lease is held and nobody waits for it to be given up.
pub(crate) fn lease_is_held(fd: BorrowedFd<'_>, lease: Lease) -> bool {
    // While a break is pending the kernel names the lease that it wants there, not the one held.
    fcntl_int(fd, F_GETLEASE, 0).is_ok_and(|held| held == lease_code(lease))
}

fn lease_code(lease: Lease) -> libc::c_int {
    match lease {
        Lease::Read => libc::F_RDLCK,
        Lease::Write => libc::F_WRLCK,
    }
}

fn fcntl_int(
    fd: BorrowedFd<'_>,
    command: libc::c_int,
    argument: libc::c_int,
) -> rustix::io::Result<libc::c_int> {
    // SAFETY: the descriptor is open while it is borrowed, and these commands take an integer.
    let result = unsafe { libc::fcntl(fd.as_raw_fd(), command, argument) };
    if result < 0 {
        return Err(last_error());
    }
    Ok(result)
}

fn last_error() -> Errno {
    Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// A queue of what happens to the file: changes, and closings of descriptors that could write
/// (fanotify(7)). Reading it never waits.
///
/// It names files by handles and opens none, so that it is no obstacle to a lease, and needs no
/// right beyond having the file open.
pub(crate) fn watch_writers(file: &File) -> rustix::io::Result<OwnedFd> {
    let flags =
        libc::FAN_CLASS_NOTIF | libc::FAN_CLOEXEC | libc::FAN_NONBLOCK | libc::FAN_REPORT_FID;
    // SAFETY: both arguments are integers.
    let queue = unsafe { libc::fanotify_init(flags, libc::O_RDONLY as libc::c_uint) };
    if queue < 0 {
        return Err(last_error());
    }
    // SAFETY: the call above has just made this descriptor, and nobody else has it.
    let queue = unsafe { OwnedFd::from_raw_fd(queue) };
    let wanted = libc::FAN_MODIFY | libc::FAN_CLOSE_WRITE;
    // SAFETY: both descriptors are open, and without a path the file's own stands for the object.
    let marked = unsafe {
        libc::fanotify_mark(
            queue.as_raw_fd(),
            libc::FAN_MARK_ADD,
            wanted,
            file.as_raw_fd(),
            std::ptr::null(),
        )
    };
    if marked < 0 {
        return Err(last_error());
    }
    Ok(queue)
}

/// The clock that files' times are taken from, in nanoseconds since 1970; it moves in steps. A
/// change that is made later gets no earlier time.
pub(crate) fn file_clock_ns() -> Option<i128> {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `now` outlives the call, which writes one timespec.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_REALTIME_COARSE, &raw mut now) };
    (result == 0).then(|| i128::from(now.tv_sec) * 1_000_000_000 + i128::from(now.tv_nsec))
}

/// Whether another open file description has a lock on some of these bytes (`F_OFD_GETLK`).
pub(crate) fn is_ofd_locked(
    fd: BorrowedFd<'_>,
    start: i64,
    length: i64,
) -> rustix::io::Result<bool> {
    // SAFETY: `struct flock` is plain integers, for which all zeros is a value.
    let mut query: libc::flock = unsafe { std::mem::zeroed() };
    query.l_type = libc::F_WRLCK as libc::c_short;
    query.l_whence = libc::SEEK_SET as libc::c_short;
    query.l_start = start;
    query.l_len = length;
    // SAFETY: the descriptor is open while it is borrowed, and `query` outlives the call, which
    // writes nothing beyond it.
    let result = unsafe { libc::fcntl(fd.as_raw_fd(), F_OFD_GETLK, &raw mut query) };
    if result < 0 {
        return Err(last_error());
    }
    Ok(i32::from(query.l_type) != libc::F_UNLCK)
}

/// Closes what a descriptor is of, although others may be about to read through it: from now on
/// they find the end of `/dev/null`.
pub(crate) fn close_shared(fd: BorrowedFd<'_>) -> io::Result<()> {
    let nothing = std::fs::File::open("/dev/null")?;
    // SAFETY: both descriptors are open while they are borrowed. The number stays open and its
    // owner's, so that nobody else's file can come to have it.
    let result = unsafe { libc::dup3(nothing.as_raw_fd(), fd.as_raw_fd(), libc::O_CLOEXEC) };
    match result {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Bytes of a block device.
pub(crate) fn device_size(fd: impl AsFd) -> io::Result<u64> {
    // SAFETY: BLKGETSIZE64 writes one u64.
    Ok(unsafe { ioctl(fd, Getter::<BLKGETSIZE64, u64>::new()) }?)
}

/// Whether a block device refuses writes.
pub(crate) fn device_is_read_only(fd: impl AsFd) -> io::Result<bool> {
    // SAFETY: BLKROGET writes one int.
    let flag = unsafe { ioctl(fd, Getter::<BLKROGET, libc::c_int>::new()) }?;
    Ok(flag != 0)
}

/// Zeroes bytes of a block device; both numbers must be multiples of its logical sector.
pub(crate) fn zero_out(fd: impl AsFd, offset: u64, length: u64) -> rustix::io::Result<()> {
    // SAFETY: BLKZEROOUT reads two u64 through the pointer that Setter hands it.
    unsafe { ioctl(fd, Setter::<BLKZEROOUT, [u64; 2]>::new([offset, length])) }
}

/// Device and inode of the file behind a loop device.
pub(crate) fn loop_backing(fd: impl AsFd) -> io::Result<(u64, u64)> {
    // SAFETY: LOOP_GET_STATUS64 writes one `struct loop_info64`, which is as long as this array and
    // no more aligned.
    let words = unsafe {
        ioctl(
            fd,
            Getter::<LOOP_GET_STATUS64, [u64; LOOP_INFO_WORDS]>::new(),
        )
    }?;
    Ok((words[0], words[1]))
}

/// Begins to write dirty pages out; a hint, so its result is of no use.
pub(crate) fn start_writeback(fd: BorrowedFd<'_>, offset: u64, length: u64) {
    let (Ok(offset), Ok(length)) = (i64::try_from(offset), i64::try_from(length)) else {
        return;
    };
    // SAFETY: the descriptor is open while it is borrowed; the rest are integers.
    unsafe {
        libc::sync_file_range(fd.as_raw_fd(), offset, length, libc::SYNC_FILE_RANGE_WRITE);
    }
}

/// Bytes of a page of memory.
pub(crate) fn page_size() -> u64 {
    // SAFETY: sysconf takes an integer and touches no memory of ours.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(size).unwrap_or(4096)
}
