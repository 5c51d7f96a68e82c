//! Small files of the state directory, replaced as a whole.
//!
//! Promise: once [`replace`] has returned, the file holds the new bytes, also after a power cut; killed
//! before, it holds the old ones or the new ones, never a part.
//!
//! Recipe: 1. make the folder, flush what it lies in; 2. write beside, anew; 3. flush that; 4. rename it;
//! 5. flush the folder.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Replaces the file, which is its owner's alone.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    replace_with(path, bytes, &mut |_| Ok(()))
}

/// What comes next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    Fill,
    Flush,
    Rename,
    FlushFolder,
}

fn replace_with(
    path: &Path,
    bytes: &[u8],
    before: &mut dyn FnMut(Step) -> io::Result<()>,
) -> io::Result<()> {
    make_folder(path.parent().unwrap_or(Path::new(".")))?;
    let draft = draft_of(path);
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(&draft)?;
    before(Step::Fill)?;
    file.write_all(bytes)?;
    before(Step::Flush)?;
    file.sync_all()?;
    before(Step::Rename)?;
    fs::rename(&draft, path)?;
    before(Step::FlushFolder)?;
    flush_parent(path)
}

/// A folder for its owner alone, as durable as what will be in it.
pub(crate) fn make_folder(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o700).create(folder)?;
    flush_parent(folder)
}

fn flush_parent(path: &Path) -> io::Result<()> {
    path.parent()
        .map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

/// The file's name and `.new`; the next writer replaces it.
fn draft_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::{Step, draft_of, replace, replace_with};
    use std::fs;
    use std::io;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_file_is_flushed_before_it_gets_its_name_and_its_folder_after() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("in/file");
        let mut steps = Vec::new();
        replace_with(&path, b"new", &mut |step| {
            steps.push((step, path.exists()));
            Ok(())
        })
        .unwrap();
        let expected = [
            (Step::Fill, false),
            (Step::Flush, false),
            (Step::Rename, false),
            (Step::FlushFolder, true),
        ];
        assert_eq!(steps, expected);
        let mode = |path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(path.as_path()), 0o600);
        assert_eq!(mode(path.parent().unwrap()), 0o700);
    }

    #[test]
    fn one_that_is_interrupted_is_the_old_or_the_new_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        replace(&path, b"old").unwrap();
        for (step, holds) in [
            (Step::Fill, &b"old"[..]),
            (Step::Flush, b"old"),
            (Step::Rename, b"old"),
            (Step::FlushFolder, b"new"),
        ] {
            replace(&path, b"old").unwrap();
            let interrupted = replace_with(&path, b"new", &mut |next| match next == step {
                true => Err(io::Error::other("killed")),
                false => Ok(()),
            });
            interrupted.unwrap_err();
            assert_eq!(fs::read(&path).unwrap(), holds, "{step:?}");
        }
        replace(&path, b"other").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"other");
        assert!(!draft_of(&path).exists());
    }
}
