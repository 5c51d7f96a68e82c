//! What a target's run needs of the place that it writes, beyond a volume.

use lockstep_volume::{IoFailure, OpenError, OtherWriters, Stamp, Target, Volume};

/// Tells, once the place was let go, whether nobody has written it since.
pub(super) type Untouched = Box<dyn Fn() -> bool + Send>;

/// A volume that can be overwritten, and sealed when it is right.
pub(super) trait Place: Volume {
    /// What the ledger knows it by; nothing for a file still to be made.
    fn durable_identity(&self) -> Option<String>;

    /// Makes or resizes it; once, before the first write.
    fn begin_overwrite(&self) -> Result<(), IoFailure>;

    /// Reads what is there now, past the size that the run will give it too.
    fn read_present(&self, offset: u64, buf: &mut [u8]) -> Result<(), IoFailure>;

    /// Proves that nobody else opened it, gives it its name; what the ledger
    /// is to know it by.
    fn seal(&self) -> Result<String, OpenError>;

    /// Who else wrote it since it was opened; to be asked after the seal.
    fn other_writers(&self) -> OtherWriters;

    /// Whether nobody can have opened it since the seal.
    fn is_still_sealed(&self) -> bool;

    /// What tells later whether anybody wrote it; nothing if somebody else did
    /// already, or where that cannot be told. Once, after the seal.
    fn untouched(&self) -> Option<Untouched>;

    /// Removes an unfinished file that this run made.
    fn discard_partial(&self);
}

impl Place for Target {
    fn durable_identity(&self) -> Option<String> {
        self.identity().map(|identity| identity.durable_text())
    }

    fn begin_overwrite(&self) -> Result<(), IoFailure> {
        Target::begin_overwrite(self)
    }

    fn read_present(&self, offset: u64, buf: &mut [u8]) -> Result<(), IoFailure> {
        Target::read_present(self, offset, buf)
    }

    fn seal(&self) -> Result<String, OpenError> {
        Target::seal(self).map(|identity| identity.durable_text())
    }

    fn other_writers(&self) -> OtherWriters {
        Target::other_writers(self)
    }

    fn is_still_sealed(&self) -> bool {
        Target::is_still_sealed(self)
    }

    fn untouched(&self) -> Option<Untouched> {
        let stamp = self.stamp()?;
        let path = self.canonical_path().to_path_buf();
        Some(Box::new(move || {
            Stamp::of_path(&path).is_ok_and(|now| now == stamp)
        }))
    }

    fn discard_partial(&self) {
        Target::discard_partial(self);
    }
}
