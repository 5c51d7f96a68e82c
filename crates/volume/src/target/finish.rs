//! Before the first byte and after the last.

use std::fs::File;
use std::path::Path;

use rustix::fs::{
    AtFlags, FlockOperation, Mode, OFlags, RenameFlags, fchmod, flock, fsync, linkat, openat,
    renameat_with, statat, unlinkat,
};
use rustix::io::Errno;

use super::claim::prove_alone;
use super::{Partial, Progress, Target, TargetPlan};
use crate::failure::{IoFailure, Operation};
use crate::identity::Identity;
use crate::medium::{Access, Medium, MediumParts};
use crate::open_error::OpenError;
use crate::source::{device_is_written, stat_of};
use crate::volume::VolumeKind;
use crate::watch::Watch;

/// Taken off the permissions of a created file if the process's own umask cannot be read.
const USUAL_UMASK: u32 = 0o022;

impl Target {
    /// Makes the target fit for writing: creates the partial file, or gives a file its new length.
    ///
    /// To be called before the first write, which fails otherwise; once it succeeded, more calls do
    /// nothing. Devices are left as they are.
    ///
    /// # Errors
    /// [`IoFailure::NoSpace`], or [`IoFailure::Failed`] if another run created the partial file
    /// meanwhile; [`IoFailure::NotWritable`] if the target was opened to be compared only.
    pub fn begin_overwrite(&self) -> Result<(), IoFailure> {
        self.begin(&mut self.progress())
    }

    fn begin(&self, progress: &mut Progress) -> Result<(), IoFailure> {
        if progress.begun {
            return Ok(());
        }
        if self.access == Access::Read {
            return Err(self.call(Operation::Create, 0, self.size)?.not_writable());
        }
        if let (None, Some(partial)) = (self.medium.get(), &self.partial) {
            let medium = self.create_partial(partial)?;
            progress.created_partial = true;
            // Nobody else sets it: the lock on `progress` is held.
            let _ = self.medium.set(medium);
        }
        if let (VolumeKind::File, Some(medium)) = (self.kind, self.medium.get()) {
            medium.resize()?;
        }
        progress.begun = true;
        Ok(())
    }

    fn create_partial(&self, partial: &Partial) -> Result<Medium, IoFailure> {
        let call = self.call(Operation::Create, 0, self.size)?;
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let file = openat(&partial.folder, &partial.name, flags, mode)
            .map_err(|error| call.failed(error))?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive) == Err(Errno::WOULDBLOCK) {
            return Err(call.failed(Errno::BUSY));
        }
        let file = File::from(file);
        if let Some(watch) = Watch::over(&file) {
            // Nobody else sets it: the lock on `progress` is held.
            let _ = self.watch.set(watch);
        }
        Ok(Medium::new(MediumParts {
            path: partial.path(),
            file,
            kind: VolumeKind::File,
            access: Access::ReadWrite,
            engine: self.engine,
            size: self.size,
            present: 0,
        }))
    }

    /// The last step before the target may be called consistent; to be called after the last flush
    /// and the last look at the medium, with no other call under way.
    ///
    /// Proves with a lease that nobody else has the file open now. The lease is kept until the target
    /// is dropped, and whoever opens the file before waits: drop it soon, and open the file by its
    /// path only after that. A partial file gets its permissions and its name, and never takes a name that
    /// exists. What was planned and not begun, as when there was nothing to write, is done first.
    /// Sealing again does nothing.
    ///
    /// # Errors
    /// [`OpenError::InUse`] or [`OpenError::Busy`] if somebody opened it meanwhile,
    /// [`OpenError::Appeared`] if its name was taken, [`OpenError::Io`] if the filesystem failed.
    pub fn seal(&self) -> Result<Identity, OpenError> {
        let mut progress = self.progress();
        if let Some(identity) = &progress.sealed {
            return Ok(identity.clone());
        }
        if self.access == Access::ReadWrite && self.plan != TargetPlan::Keep && !progress.begun {
            self.begin(&mut progress)
                .and_then(|()| self.medium.get().map_or(Ok(()), Medium::flush))
                .map_err(|error| self.seal_failed("creating", std::io::Error::other(error)))?;
        }
        let Some(medium) = self.medium.get() else {
            return Err(OpenError::Missing {
                path: self.path.clone(),
            });
        };
        match self.kind {
            VolumeKind::File => self.seal_file(medium)?,
            VolumeKind::BlockDevice => self.refuse_written_device(medium)?,
        }
        let identity = Identity {
            size: medium.present(),
            ..Identity::of_open(medium.file(), self.kind, &self.path)?
        };
        progress.sealed = Some(identity.clone());
        Ok(identity)
    }

    fn refuse_written_device(&self, medium: &Medium) -> Result<(), OpenError> {
        let rdev = stat_of(medium.file(), medium.path())?.st_rdev;
        match device_is_written(rdev) {
            None => Ok(()),
            Some(holders) => Err(OpenError::InUse {
                path: self.path.clone(),
                holders,
            }),
        }
    }

    fn seal_file(&self, medium: &Medium) -> Result<(), OpenError> {
        medium.close_direct();
        let stat = stat_of(medium.file(), medium.path())?;
        if self.access == Access::ReadWrite && stat.st_size.cast_unsigned() != self.size {
            return Err(OpenError::InUse {
                path: self.path.clone(),
                holders: "another program changed its size during the run".to_owned(),
            });
        }
        prove_alone(medium.file(), medium.path(), &stat)?;
        match (&self.partial, self.access) {
            (Some(partial), Access::ReadWrite) => self.give_name(medium.file(), partial),
            _ => Ok(()),
        }
    }

    /// Recipe: 1. permissions, synced with the file; 2. the name, which fails if it is taken; 3. the
    /// folder synced. A crash before 2 leaves a partial file, which the next run resumes; between 2
    /// and 3 either name may be there, with the same whole content.
    fn give_name(&self, file: &File, partial: &Partial) -> Result<(), OpenError> {
        let bits = (self.mode_bits & 0o777 | 0o200) & !umask();
        fchmod(file, Mode::from_raw_mode(bits))
            .and_then(|()| fsync(file))
            .map_err(|error| self.seal_failed("setting the mode of", error))?;
        rename_to_free_name(partial).map_err(|error| match error {
            Errno::EXIST => OpenError::Appeared {
                path: self.path.clone(),
                partial: partial.path(),
            },
            error => self.seal_failed("naming", error),
        })?;
        fsync(&partial.folder).map_err(|error| self.seal_failed("syncing the folder of", error))
    }

    fn seal_failed(&self, doing: &'static str, error: impl Into<std::io::Error>) -> OpenError {
        OpenError::Io {
            doing,
            path: self.path.clone(),
            cause: error.into(),
        }
    }

    /// Removes the partial file that [`Target::begin_overwrite`] created, as when the disk is full.
    /// One that an earlier run left, and one that has its name, stay.
    pub fn discard_partial(&self) {
        let mut progress = self.progress();
        let (Some(partial), Some(medium)) = (&self.partial, self.medium.get()) else {
            return;
        };
        if progress.created_partial && progress.sealed.is_none() && is_ours(partial, medium) {
            progress.created_partial = false;
            if let Err(error) = unlinkat(&partial.folder, &partial.name, AtFlags::empty()) {
                let path = partial.path();
                tracing::warn!(path = %path.display(), %error, "a partial file could not be removed");
            }
        }
    }
}

/// Whether the partial file's name still leads to the file that is open.
fn is_ours(partial: &Partial, medium: &Medium) -> bool {
    let named = statat(&partial.folder, &partial.name, AtFlags::SYMLINK_NOFOLLOW);
    let opened = rustix::fs::fstat(medium.file());
    matches!((named, opened), (Ok(named), Ok(opened))
        if (named.st_dev, named.st_ino) == (opened.st_dev, opened.st_ino))
}

/// Filesystems that cannot rename without clobbering can link without clobbering.
fn rename_to_free_name(partial: &Partial) -> rustix::io::Result<()> {
    let Partial {
        folder,
        name,
        final_name,
        ..
    } = partial;
    match renameat_with(folder, name, folder, final_name, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
            linkat(folder, name, folder, final_name, AtFlags::empty())?;
            unlinkat(folder, name, AtFlags::empty())
        }
        result => result,
    }
}

/// This process's umask; read rather than set and reset, which would race with other threads
/// (proc_pid_status(5)).
fn umask() -> u32 {
    umask_in(Path::new("/proc/self/status")).unwrap_or(USUAL_UMASK)
}

fn umask_in(status: &Path) -> Option<u32> {
    let status = std::fs::read_to_string(status).ok()?;
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("Umask:"))?;
    u32::from_str_radix(mask.trim(), 8).ok()
}
