//! What the target held before a run: read before it is cut, and brought back as a whole.

use std::fs::File;

use rustix::fs::{fsync, ioctl_ficlone};
use rustix::io::pread;

use super::Target;
use crate::failure::{Call, IoFailure, Operation};
use crate::transfer::read_fully;

impl Target {
    /// Reads what is there now, through the page cache, bytes past the size that the run will give it
    /// included: they are gone once [`Target::begin_overwrite`] has cut the file.
    ///
    /// # Errors
    /// [`IoFailure::Truncated`] if it ends inside the range.
    pub fn read_present(&self, offset: u64, buf: &mut [u8]) -> Result<(), IoFailure> {
        let call = Call {
            operation: Operation::Read,
            path: &self.path,
            offset,
            length: buf.len() as u64,
        };
        let Some(medium) = self.medium.get() else {
            return Err(call.truncated(0));
        };
        match read_fully(offset, buf, |at, part| pread(medium.file(), part, at)) {
            Ok(count) if count == buf.len() => Ok(()),
            Ok(count) => Err(call.truncated(offset + count as u64)),
            Err(error) => Err(call.failed(error)),
        }
    }

    /// Makes a file share all its bytes with an image of the same size on the same filesystem
    /// (ioctl_ficlonerange(2)); on the medium when it returns.
    ///
    /// # Errors
    /// [`IoFailure::NotWritable`] before [`Target::begin_overwrite`]; [`IoFailure::NoSpace`] and
    /// [`IoFailure::Failed`] as the kernel says. A part may be shared then.
    pub fn share_all_of(&self, image: &File) -> Result<(), IoFailure> {
        let call = self.call(Operation::Write, 0, self.size)?;
        let medium = self.begun_medium(Operation::Write, 0, self.size)?;
        ioctl_ficlone(medium.file(), image)
            .and_then(|()| fsync(medium.file()))
            .map_err(|error| call.failed(error))
    }
}
