//! Whether root may go by a configuration file: only if nobody else can have written it.
//!
//! The files name programs that an agent runs, and what it overwrites.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::FileError;

const GROUP_WRITES: u32 = 0o020;
const OTHERS_WRITE: u32 = 0o002;
const STICKY: u32 = 0o1000;

/// Who has a file or folder, and who may write it.
#[derive(Clone, Copy, Debug)]
struct Held {
    uid: u32,
    gid: u32,
    mode: u32,
}

impl From<&Metadata> for Held {
    fn from(metadata: &Metadata) -> Self {
        Self {
            uid: metadata.uid(),
            gid: metadata.gid(),
            mode: metadata.mode(),
        }
    }
}

/// Refuses an open file that root cannot rely on; to anybody else nothing is refused.
pub(super) fn check(file: &File, path: &Path) -> Result<(), FileError> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let failed = |source: io::Error| FileError::Io {
        path: path.to_owned(),
        source,
    };
    refuse_file(path, Held::from(&file.metadata().map_err(failed)?))?;
    for folder in folders(path).map_err(failed)? {
        let metadata = std::fs::metadata(&folder).map_err(failed)?;
        refuse_folder(path, &folder, Held::from(&metadata))?;
    }
    Ok(())
}

/// The folder of the name, and that of the file itself if the name is a link.
fn folders(path: &Path) -> io::Result<Vec<PathBuf>> {
    let folder = |path: &Path| match path.parent() {
        Some(folder) if folder.as_os_str().is_empty() => PathBuf::from("."),
        Some(folder) => folder.to_owned(),
        None => PathBuf::from("/"),
    };
    Ok(vec![folder(path), folder(&path.canonicalize()?)])
}

fn refuse_file(path: &Path, held: Held) -> Result<(), FileError> {
    let name = path.display();
    let exposed = |what: String, remedy: String| {
        Err(FileError::Exposed {
            path: path.to_owned(),
            what,
            remedy,
        })
    };
    if held.uid != 0 {
        return exposed(
            format!("it belongs to the user {}, who can change it", held.uid),
            format!("read it, then `chown root {name}`"),
        );
    }
    if held.mode & (GROUP_WRITES | OTHERS_WRITE) != 0 {
        return exposed(
            format!(
                "others can change it, for its mode is {:04o}",
                held.mode & 0o7777
            ),
            format!("read it, then `chmod go-w {name}`"),
        );
    }
    Ok(())
}

fn refuse_folder(path: &Path, folder: &Path, held: Held) -> Result<(), FileError> {
    // The group root has nobody in it who is not to be trusted.
    let by_group = held.mode & GROUP_WRITES != 0 && held.gid != 0;
    let by_others = held.mode & OTHERS_WRITE != 0;
    if held.mode & STICKY != 0 || !(by_group || by_others) {
        return Ok(());
    }
    Err(FileError::Exposed {
        path: path.to_owned(),
        what: format!(
            "others can replace it, for the mode of {} is {:04o}",
            folder.display(),
            held.mode & 0o7777
        ),
        remedy: format!("read the file, then `chmod go-w {}`", folder.display()),
    })
}

#[cfg(test)]
mod tests {
    use super::{Held, refuse_file, refuse_folder};
    use crate::ClusterFile;
    use crate::file::FileError;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    fn held(uid: u32, gid: u32, mode: u32) -> Held {
        Held { uid, gid, mode }
    }

    #[test]
    fn root_relies_on_what_root_alone_writes() {
        let file = |uid, mode: u32| refuse_file(Path::new("/x/a"), held(uid, 7, 0o100_000 | mode));
        for good in [0o644, 0o600, 0o444] {
            assert!(file(0, good).is_ok());
        }
        for (bad, remedy) in [
            (file(1000, 0o644), "chown root /x/a"),
            (file(0, 0o664), "chmod go-w /x/a"),
            (file(0, 0o646), "chmod go-w /x/a"),
        ] {
            let FileError::Exposed { remedy: told, .. } = bad.unwrap_err() else {
                panic!("not exposed")
            };
            assert!(told.contains(remedy), "{told}");
        }
    }

    #[test]
    fn a_folder_in_which_others_replace_files_is_none_for_root() {
        let folder = |gid, mode: u32| {
            let (path, folder) = (Path::new("/x/a"), Path::new("/x"));
            refuse_folder(path, folder, held(0, gid, 0o040_000 | mode)).is_ok()
        };
        assert!(folder(7, 0o755) && folder(7, 0o700) && folder(7, 0o1777) && folder(0, 0o775));
        assert!(!folder(7, 0o775) && !folder(0, 0o757) && !folder(0, 0o777));
    }

    #[test]
    fn the_file_itself_is_looked_at() {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: only root is careful");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("a"), folder.path().join("b"));
        fs::write(&file, include_str!("../../../../docs/cluster.toml")).unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let chmod =
            |path: &Path, mode: u32| fs::set_permissions(path, Permissions::from_mode(mode));
        let exposed =
            |path: &Path| matches!(ClusterFile::read(path), Err(FileError::Exposed { .. }));
        chmod(&file, 0o644).unwrap();
        assert!(ClusterFile::read(&link).is_ok());
        chmod(&file, 0o666).unwrap();
        assert!(exposed(&file) && exposed(&link));
        chmod(&file, 0o644).unwrap();
        chmod(folder.path(), 0o777).unwrap();
        assert!(exposed(&file));
        let elsewhere = tempfile::tempdir().unwrap();
        let link = elsewhere.path().join("c");
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert!(exposed(&link), "a link hides nothing");
    }
}
