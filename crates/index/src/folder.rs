//! The folder of all indexes of a node: names, flushing, what does not belong there.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::error::IndexError;
use crate::index::open_header;

const NEW: &str = ".new";
const INDEX: &str = ".index";

/// Makes the folder, with those above it, for its owner alone.
pub(crate) fn make(folder: &Path) -> Result<(), IndexError> {
    if folder.is_dir() {
        return Ok(());
    }
    let mut builder = DirBuilder::new();
    let made = builder.recursive(true).mode(0o700).create(folder);
    made.and_then(|()| flush_parent(folder))
        .map_err(IndexError::io("make the folder", folder))
}

/// Makes the name of a file durable.
pub(crate) fn flush_parent(path: &Path) -> io::Result<()> {
    path.parent()
        .map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

/// The name of a file while it is being made.
pub(crate) fn new_name(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(NEW);
    PathBuf::from(name)
}

/// All index files in order of their names, at most `limit`; a folder that is not there has none.
pub(crate) fn indexes(folder: &Path, limit: usize) -> Result<Vec<PathBuf>, IndexError> {
    let mut paths = names(folder, |name| name.ends_with(INDEX))?;
    paths.sort_unstable();
    paths.truncate(limit);
    Ok(paths)
}

/// Removes what is of no use to anybody of the volume whose lock is held: drafts of writers that
/// were interrupted, and indexes whose header is damaged, so that no key leads to them any more.
pub(crate) fn sweep(folder: &Path, volume_prefix: &str) -> Result<(), IndexError> {
    let of_volume = |name: &str| name.starts_with(volume_prefix);
    for path in names(folder, |name| of_volume(name) && name.ends_with(NEW))? {
        remove(&path)?;
    }
    for path in names(folder, |name| of_volume(name) && name.ends_with(INDEX))? {
        match open_header(&path) {
            Err(why) if why.is_damage() => {
                tracing::warn!(index = %path.display(), %why, "removed");
                remove(&path)?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// Removes a file that may be gone already; not yet durably.
pub(crate) fn remove(path: &Path) -> Result<(), IndexError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(IndexError::io("remove", path)(error))
        }
        _ => Ok(()),
    }
}

fn names(folder: &Path, wanted: impl Fn(&str) -> bool) -> Result<Vec<PathBuf>, IndexError> {
    let failed = || IndexError::io("read the folder", folder);
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed()(error)),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed())?;
        if entry.file_name().to_str().is_some_and(&wanted) {
            paths.push(entry.path());
        }
    }
    Ok(paths)
}
