//! The guards, in their order. Nothing is changed here.

use std::ffi::OsString;
use std::fs::File;
use std::path::Path;
use std::sync::{Mutex, OnceLock};

use rustix::fs::{
    Access as Permission, AtFlags, CWD, Mode, OFlags, Stat, accessat, open, openat, statat,
};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::claim::{claim_device, claim_file};
use super::{Partial, Progress, Target, TargetPlan, TargetRequest};
use crate::identity::{Identity, identify};
use crate::kernel;
use crate::medium::{Access, Medium, MediumParts};
use crate::open_error::OpenError;
use crate::place::{self, canonical_target};
use crate::source::stat_of;
use crate::volume::VolumeKind;
use crate::watch::Watch;

/// Longest file name that Linux filesystems take, in bytes.
const MAX_NAME_BYTES: usize = 255;

/// Opens the volume that is to become right, if nothing speaks against it. Changes nothing.
///
/// # Errors
/// Every kind of [`OpenError`] but [`OpenError::Missing`] and [`OpenError::NoExclusive`].
pub fn open_target(request: &TargetRequest<'_>) -> Result<Target, OpenError> {
    let path = canonical_target(request.path)?;
    let found = place::look(&path)?;
    if found.is_some() {
        refuse_the_source(&path, request)?;
    }
    match found {
        None => open_missing(request, &path),
        Some((VolumeKind::File, _)) => open_existing(request, &path),
        Some((VolumeKind::BlockDevice, stat)) => open_device(request, &path, stat.st_rdev),
    }
}

/// Before anything is opened: opening the source for writing would break its lease.
fn refuse_the_source(path: &Path, request: &TargetRequest<'_>) -> Result<(), OpenError> {
    let Some(source) = request.source else {
        return Ok(());
    };
    if identify(path)?.same_place(source) {
        return Err(OpenError::SameVolume {
            path: request.path.to_path_buf(),
        });
    }
    Ok(())
}

fn open_existing(request: &TargetRequest<'_>, path: &Path) -> Result<Target, OpenError> {
    let (file, watch) = claim_file(path, request.access(), |flags| {
        open(path, flags, Mode::empty())
    })?;
    let present = stat_of(&file, path)?.st_size.cast_unsigned();
    let plan = if present == request.size {
        TargetPlan::Keep
    } else {
        TargetPlan::Resize {
            from: present,
            to: request.size,
        }
    };
    Opened {
        file,
        kind: VolumeKind::File,
        plan,
        present,
        partial: None,
        watch,
    }
    .into_target(request, path)
}

fn open_device(request: &TargetRequest<'_>, path: &Path, rdev: u64) -> Result<Target, OpenError> {
    let file = claim_device(path, request.access(), rdev)?;
    let present =
        kernel::device_size(&file).map_err(|error| OpenError::from_io("measuring", path, error))?;
    let fits = present == request.size || (present > request.size && request.allow_larger);
    if !fits {
        return Err(OpenError::WrongSize {
            path: path.to_path_buf(),
            present,
            wanted: request.size,
        });
    }
    Opened {
        file,
        kind: VolumeKind::BlockDevice,
        plan: TargetPlan::Keep,
        present,
        partial: None,
        watch: None,
    }
    .into_target(request, path)
}

fn open_missing(request: &TargetRequest<'_>, path: &Path) -> Result<Target, OpenError> {
    let partial = partial_of(path)?;
    let access = request.access();
    if access == Access::ReadWrite {
        refuse_unwritable_folder(&partial)?;
    }
    match statat(&partial.folder, &partial.name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => Ok(Target::unopened(request, path, partial)),
        Err(error) => Err(OpenError::from_io("looking up", &partial.path(), error)),
        Ok(stat) => {
            refuse_strange_partial(&partial, &stat)?;
            refuse_the_source(&partial.path(), request)?;
            let (file, watch) = claim_file(&partial.path(), access, |flags| {
                openat(&partial.folder, &partial.name, flags, Mode::empty())
            })?;
            let present = stat_of(&file, path)?.st_size.cast_unsigned();
            Opened {
                file,
                kind: VolumeKind::File,
                plan: TargetPlan::ResumePartial,
                present,
                partial: Some(partial),
                watch,
            }
            .into_target(request, path)
        }
    }
}

/// `.NAME.lockstep-partial` beside the file to be.
fn partial_of(path: &Path) -> Result<Partial, OpenError> {
    let missing_folder = || OpenError::MissingFolder {
        folder: path.to_path_buf(),
    };
    let folder_path = path.parent().ok_or_else(missing_folder)?;
    let final_name = path.file_name().ok_or_else(missing_folder)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = open(folder_path, flags, Mode::empty())
        .map_err(|error| OpenError::from_io("opening the folder", folder_path, error))?;
    let mut name = OsString::from(".");
    name.push(final_name);
    name.push(".lockstep-partial");
    if name.len() > MAX_NAME_BYTES {
        return Err(OpenError::Io {
            doing: "no room for a partial file's name beside",
            path: path.to_path_buf(),
            cause: Errno::NAMETOOLONG.into(),
        });
    }
    Ok(Partial {
        folder,
        folder_path: folder_path.to_path_buf(),
        name,
        final_name: final_name.to_os_string(),
    })
}

fn refuse_unwritable_folder(partial: &Partial) -> Result<(), OpenError> {
    let wanted = Permission::WRITE_OK | Permission::EXEC_OK;
    accessat(CWD, &partial.folder_path, wanted, AtFlags::EACCESS)
        .map_err(|error| OpenError::from_io("creating a file in", &partial.folder_path, error))
}

/// Only a plain file of this user's, with this one name, can be what an earlier run left.
fn refuse_strange_partial(partial: &Partial, stat: &Stat) -> Result<(), OpenError> {
    let what = if place::kind_of(&partial.path(), stat).ok() != Some(VolumeKind::File) {
        "it is not a regular file"
    } else if stat.st_uid != geteuid().as_raw() {
        "it belongs to another user"
    } else if stat.st_nlink != 1 {
        "it has another name too"
    } else {
        return Ok(());
    };
    Err(OpenError::PartialInTheWay {
        path: partial.path(),
        what,
    })
}

impl TargetRequest<'_> {
    fn access(&self) -> Access {
        if self.read_only {
            Access::Read
        } else {
            Access::ReadWrite
        }
    }
}

/// A file or device that passed the guards.
struct Opened {
    file: File,
    kind: VolumeKind,
    plan: TargetPlan,
    present: u64,
    partial: Option<Partial>,
    watch: Option<Watch>,
}

impl Opened {
    fn into_target(self, request: &TargetRequest<'_>, path: &Path) -> Result<Target, OpenError> {
        let identity = Identity {
            size: self.present,
            ..Identity::of_open(&self.file, self.kind, path)?
        };
        let io_path = match &self.partial {
            Some(partial) => partial.path(),
            None => path.to_path_buf(),
        };
        let medium = Medium::new(MediumParts {
            path: io_path,
            file: self.file,
            kind: self.kind,
            access: request.access(),
            engine: request.engine,
            size: request.size,
            present: self.present,
        });
        Ok(Target {
            kind: self.kind,
            plan: self.plan,
            present_size: Some(self.present),
            identity: Some(identity),
            partial: self.partial,
            medium: OnceLock::from(medium),
            watch: self.watch.map_or_else(OnceLock::new, OnceLock::from),
            ..Target::bare(request, path)
        })
    }
}

impl Target {
    fn unopened(request: &TargetRequest<'_>, path: &Path, partial: Partial) -> Target {
        Target {
            partial: Some(partial),
            ..Target::bare(request, path)
        }
    }

    fn bare(request: &TargetRequest<'_>, path: &Path) -> Target {
        Target {
            path: path.to_path_buf(),
            size: request.size,
            mode_bits: request.mode_bits,
            access: request.access(),
            engine: request.engine,
            kind: VolumeKind::File,
            plan: TargetPlan::Create,
            present_size: None,
            identity: None,
            partial: None,
            medium: OnceLock::new(),
            watch: OnceLock::new(),
            progress: Mutex::new(Progress::default()),
        }
    }
}
