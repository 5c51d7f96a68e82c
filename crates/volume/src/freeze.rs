//! Freezing and thawing a mounted filesystem.
#![expect(
    unsafe_code,
    reason = "each call is one ioctl, made safe by the wrapper around it"
)]

use std::os::fd::AsFd;

use rustix::ioctl::{NoArg, Opcode, ioctl, opcode};

// From <linux/fs.h>: both are declared with an int, which the kernel does not look at.
const FIFREEZE: Opcode = opcode::read_write::<libc::c_int>(b'X', 119);
const FITHAW: Opcode = opcode::read_write::<libc::c_int>(b'X', 120);

/// Makes the filesystem of an open file or folder whole on its medium, and holds up whoever writes to
/// it until [`thaw_filesystem`].
///
/// It stays frozen when the descriptor is closed and when this process dies: who calls this has to
/// provide for the thaw first.
///
/// # Errors
/// `EPERM`: not the superuser. `EOPNOTSUPP`: the filesystem cannot be frozen. `EBUSY`: it is frozen
/// already.
pub fn freeze_filesystem(fd: impl AsFd) -> rustix::io::Result<()> {
    // SAFETY: FIFREEZE reads and writes no memory of ours.
    unsafe { ioctl(fd, NoArg::<FIFREEZE>::new()) }
}

/// Lets the writers of a frozen filesystem go on.
///
/// # Errors
/// `EPERM`: not the superuser. `EINVAL`: it is not frozen, or not yet. Anything else: the filesystem
/// could not write, and is still frozen.
pub fn thaw_filesystem(fd: impl AsFd) -> rustix::io::Result<()> {
    // SAFETY: FITHAW reads and writes no memory of ours.
    unsafe { ioctl(fd, NoArg::<FITHAW>::new()) }
}
