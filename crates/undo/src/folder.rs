//! The folder of all undos of a node: names, opening, durable replacing and removing.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::geteuid;

use crate::error::{UndoError, Unusable, What};
use crate::steps::{Step, Steps};

const RECORD: &str = ".undo";
/// Hex digits of a hash in a file name: 128 bits.
const NAME_DIGITS: usize = 32;

/// What a file is opened for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Access {
    Read,
    Write,
}

/// The files of one volume's undo.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    pub(crate) record: PathBuf,
    pub(crate) draft: PathBuf,
    pub(crate) log: PathBuf,
    pub(crate) lock: PathBuf,
}

impl Names {
    /// Those of the volume with that key, as it is kept.
    pub(crate) fn of(folder: &Path, key: &str) -> Self {
        Self::with_prefix(
            folder,
            &blake3::hash(key.as_bytes()).to_hex()[..NAME_DIGITS],
        )
    }

    /// Those beside a record's file.
    pub(crate) fn beside(record: &Path) -> Option<Self> {
        let prefix = record.file_name()?.to_str()?.strip_suffix(RECORD)?;
        Some(Self::with_prefix(record.parent()?, prefix))
    }

    fn with_prefix(folder: &Path, prefix: &str) -> Self {
        let name = |end: &str| folder.join(format!("{prefix}{end}"));
        Self {
            record: name(RECORD),
            draft: name(".undo.new"),
            log: name(".log"),
            lock: name(".lock"),
        }
    }
}

/// Makes the folder, with those above it, for its owner alone.
pub(crate) fn make(folder: &Path) -> Result<(), UndoError> {
    if folder.is_dir() {
        return Ok(());
    }
    let mut builder = DirBuilder::new();
    let made = builder.recursive(true).mode(0o700).create(folder);
    made.and_then(|()| flush_parent(folder))
        .map_err(UndoError::io("make the folder", folder))
}

/// Whether it is a folder, no link to one, that is ours and that nobody else can look into or
/// change. One that is not there yet is made so.
pub(crate) fn check_private(folder: &Path) -> Result<(), Unusable> {
    let is_private = match folder.symlink_metadata() {
        Ok(found) => {
            let owned = found.uid() == geteuid().as_raw();
            found.is_dir() && owned && found.mode() & 0o077 == 0
        }
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    };
    match is_private {
        true => Ok(()),
        false => Err(Unusable::NotOurs(folder.to_owned())),
    }
}

/// Makes the name of a file durable.
pub(crate) fn flush_parent(path: &Path) -> io::Result<()> {
    path.parent()
        .map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

/// A regular file, or `None` if there is none of that name. Neither follows a link nor waits for the
/// other end of a pipe.
pub(crate) fn open_file(path: &Path, what: What, access: Access) -> Result<Option<File>, Unusable> {
    let mode = match access {
        Access::Read => OFlags::RDONLY,
        Access::Write => OFlags::RDWR,
    };
    let flags = mode | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT) => return Ok(None),
        Err(Errno::LOOP | Errno::NXIO | Errno::ISDIR) => return Err(Unusable::NotAFile(what)),
        Err(error) => {
            let cause = error.into();
            return Err(Unusable::Unreadable { what, cause });
        }
    };
    let metadata = file.metadata();
    let metadata = metadata.map_err(|cause| Unusable::Unreadable { what, cause })?;
    if !metadata.is_file() {
        return Err(Unusable::NotAFile(what));
    }
    Ok(Some(file))
}

/// Puts a record in place, so that a crash leaves the old one or the new one, whole.
pub(crate) fn replace(names: &Names, content: &[u8], steps: &Steps) -> Result<(), UndoError> {
    let draft = &names.draft;
    let result = write_draft(draft, content, steps).and_then(|()| {
        steps
            .before(Step::RenameDraft)
            .and_then(|()| fs::rename(draft, &names.record))
            .map_err(UndoError::io("put in place", &names.record))
    });
    if result.is_err() {
        // If that fails too, the next change of the record removes it.
        let _ = fs::remove_file(draft);
    }
    result?;
    steps
        .before(Step::FlushRecordName)
        .and_then(|()| flush_parent(&names.record))
        .map_err(UndoError::io("flush the folder of", &names.record))
}

fn write_draft(draft: &Path, content: &[u8], steps: &Steps) -> Result<(), UndoError> {
    let mut options = OpenOptions::new();
    // Whatever has the name, a link for example, is not written through.
    options.write(true).create_new(true).mode(0o600);
    let mut file = steps
        .before(Step::MakeDraft)
        .and_then(|()| remove_file(draft))
        .and_then(|()| options.open(draft))
        .map_err(UndoError::io("make", draft))?;
    steps
        .before(Step::FillDraft)
        .and_then(|()| file.write_all(content))
        .map_err(UndoError::io("write", draft))?;
    steps
        .before(Step::FlushDraft)
        .and_then(|()| file.sync_all())
        .map_err(UndoError::io("flush", draft))
}

/// Removes a volume's undo, the log first: a record without its log is seen, and released again, but
/// nobody would look for a log without a record.
pub(crate) fn remove(names: &Names, steps: &Steps) -> Result<(), UndoError> {
    let gone = [
        (&names.log, Step::RemoveLog, Step::FlushLogGone),
        (&names.record, Step::RemoveRecord, Step::FlushRecordGone),
    ];
    for (path, removing, flushing) in gone {
        steps
            .before(removing)
            .and_then(|()| remove_file(path))
            .map_err(UndoError::io("remove", path))?;
        steps
            .before(flushing)
            .and_then(|()| flush_parent(path))
            .map_err(UndoError::io("flush the folder of", path))?;
    }
    remove_file(&names.draft).map_err(UndoError::io("remove", &names.draft))
}

fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// All record files in order of their names, at most `limit`; a folder that is not there has none.
pub(crate) fn records(folder: &Path, limit: usize) -> Result<Vec<PathBuf>, UndoError> {
    let failed = || UndoError::io("read the folder", folder);
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed()(error)),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed())?;
        let name = entry.file_name();
        if name.to_str().is_some_and(|name| name.ends_with(RECORD)) {
            paths.push(entry.path());
        }
    }
    paths.sort_unstable();
    paths.truncate(limit);
    Ok(paths)
}
