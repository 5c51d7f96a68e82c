//! The state directory: where it is, making it, and proving that it can be written.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::error::LedgerError;

const SYSTEM_DIR: &str = "/var/lib/lockstep";
const PROBE: &str = "ledger.probe.new";

/// Where this node's ledger lives: `explicit` if given, else `/var/lib/lockstep` for the superuser,
/// else `$XDG_STATE_HOME/lockstep`, else `$HOME/.local/state/lockstep`.
///
/// Source: [XDG Base Directory Specification](https://specifications.freedesktop.org/basedir-spec/),
/// which says that a relative `XDG_STATE_HOME` is to be ignored.
///
/// # Errors
/// [`LedgerError::NoStateDir`] if none of these is known.
pub fn state_dir(explicit: Option<PathBuf>) -> Result<PathBuf, LedgerError> {
    if let Some(dir) = explicit {
        return std::path::absolute(&dir).map_err(LedgerError::io("use the state directory", &dir));
    }
    let folder_of = |variable| std::env::var_os(variable).map(PathBuf::from);
    default_dir(
        rustix::process::geteuid().is_root(),
        folder_of("XDG_STATE_HOME"),
        folder_of("HOME"),
    )
    .ok_or(LedgerError::NoStateDir)
}

fn default_dir(superuser: bool, xdg: Option<PathBuf>, home: Option<PathBuf>) -> Option<PathBuf> {
    if superuser {
        return Some(PathBuf::from(SYSTEM_DIR));
    }
    let absolute = |folder: &PathBuf| folder.is_absolute();
    let state_home = xdg.filter(absolute);
    let state_home = state_home.or_else(|| Some(home.filter(absolute)?.join(".local/state")));
    Some(state_home?.join("lockstep"))
}

/// Proves that files made in the directory last; one at a time.
pub(crate) fn prove_writable(dir: &Path) -> Result<(), LedgerError> {
    let probe = dir.join(PROBE);
    write_durably(&probe, b"may this directory be written?\n")
        .and_then(|()| fs::remove_file(&probe))
        .map_err(LedgerError::io("write in the state directory", dir))
}

/// Makes a folder, with those above it, for its owner alone.
pub(crate) fn make_folder(dir: &Path) -> Result<(), LedgerError> {
    if dir.is_dir() {
        return Ok(());
    }
    let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(LedgerError::io("make the state directory", dir))?;
    dir.parent().map_or(Ok(()), sync)
}

/// Makes the names in a folder durable.
pub(crate) fn sync(dir: &Path) -> Result<(), LedgerError> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(LedgerError::io("flush the directory", dir))
}

/// Puts `content` at `path` so that a crash leaves the old file or the new one, whole.
pub(crate) fn replace(path: &Path, content: &[u8]) -> Result<(), LedgerError> {
    let new = new_name(path);
    write_durably(&new, content).map_err(LedgerError::io("write", &new))?;
    put_in_place(&new, path)
}

/// Makes an empty file for its owner alone, in place of what an interrupted attempt left there.
pub(crate) fn start_anew(path: &Path) -> Result<(), LedgerError> {
    write_durably(path, b"").map_err(LedgerError::io("make", path))
}

/// Renames a whole and durable file to its real name, durably.
pub(crate) fn put_in_place(new: &Path, path: &Path) -> Result<(), LedgerError> {
    fs::rename(new, path).map_err(LedgerError::io("put in place", path))?;
    path.parent().map_or(Ok(()), sync)
}

/// The name of a file while it is being made.
pub(crate) fn new_name(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    PathBuf::from(name)
}

fn write_durably(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_first_known_place_wins() {
        let path = |text: &str| Some(PathBuf::from(text));
        let home = || path("/home/u");
        assert_eq!(default_dir(true, path("/x"), home()), path(SYSTEM_DIR));
        assert_eq!(default_dir(false, path("/x"), home()), path("/x/lockstep"));
        let in_home = path("/home/u/.local/state/lockstep");
        assert_eq!(default_dir(false, None, home()), in_home);
        assert_eq!(default_dir(false, path("relative"), home()), in_home);
        assert_eq!(default_dir(false, path(""), path("")), None);
        assert_eq!(state_dir(path("/given")).unwrap(), PathBuf::from("/given"));
    }

    #[test]
    fn a_new_directory_is_for_its_owner_alone() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = temporary.path().join("a/b");
        make_folder(&dir).unwrap();
        make_folder(&dir).unwrap();
        prove_writable(&dir).unwrap();
        let mode = fs::metadata(&dir).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
    }
}
