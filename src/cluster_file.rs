//! The cluster file of a command: finding it, reading it, telling its mistakes, changing it.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use lockstep_cluster::ClusterFile;
use lockstep_cluster::file::{FileError, Mistakes};
use lockstep_protocol::{Failure, FailureKind};

use crate::events::{Event, Mistake};
use crate::failure::{chain, usage};
use crate::output::Output;

const NAME: &str = "cluster.toml";
const SYSTEM_FOLDER: &str = "/etc/lockstep";

/// The cluster file: the named one, else the first that is there.
pub(crate) fn locate(named: Option<&Path>) -> Result<PathBuf, Failure> {
    if let Some(path) = named {
        return Ok(path.to_owned());
    }
    let folder_of = |variable| std::env::var_os(variable).map(PathBuf::from);
    let places = places(folder_of("XDG_CONFIG_HOME"), folder_of("HOME"));
    // One that cannot be looked at is there too, and reading it says why not.
    let is_there = |path: &&PathBuf| path.try_exists().unwrap_or(true);
    if let Some(found) = places.iter().find(is_there) {
        return Ok(found.clone());
    }
    let looked: Vec<String> = places
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    let message = format!("there is no cluster file: looked for {}", looked.join(", "));
    Err(usage(message)
        .hint("name one with -c FILE; docs/cluster.toml is an example with every key"))
}

fn places(xdg: Option<PathBuf>, home: Option<PathBuf>) -> Vec<PathBuf> {
    let absolute = |folder: &PathBuf| folder.is_absolute();
    let config = xdg.filter(absolute);
    let config = config.or_else(|| Some(home.filter(absolute)?.join(".config")));
    let folders = [
        Some(PathBuf::new()),
        config.map(|config| config.join("lockstep")),
        Some(PathBuf::from(SYSTEM_FOLDER)),
    ];
    folders
        .into_iter()
        .flatten()
        .map(|folder| folder.join(NAME))
        .collect()
}

/// Reads the cluster file; every mistake is told before this returns.
pub(crate) fn read(path: &Path, output: &Output) -> Result<ClusterFile, Failure> {
    ClusterFile::read(path).map_err(|error| failed(error, output))
}

/// A file that cannot be used; its mistakes are told here, one by one.
pub(crate) fn failed(error: FileError, output: &Output) -> Failure {
    match error {
        FileError::Mistakes(mistakes) => tell(&mistakes, output),
        FileError::Exposed { ref remedy, .. } => usage(error.to_string()).hint(remedy),
        error @ FileError::Io { .. } => {
            usage(chain(&error)).hint("name a file that can be read with -c FILE")
        }
    }
}

/// Tells every mistake, and sums them up.
pub(crate) fn tell(mistakes: &Mistakes, output: &Output) -> Failure {
    let file = mistakes.file.display().to_string();
    for mistake in &mistakes.list {
        output.event(&Event::Mistake(Mistake {
            file: file.clone(),
            line: mistake.at.line,
            column: mistake.at.column,
            message: mistake.what.clone(),
            hint: mistake.remedy.clone(),
        }));
    }
    for line in mistakes.to_string().lines() {
        output.insist(line);
    }
    let count = match mistakes.count() {
        1 => "a mistake".to_owned(),
        count => format!("{count} mistakes"),
    };
    usage(format!("{file} has {count}")).hint("each is told above, with its line and what to do")
}

/// Puts a new text in a file's place, whole or not at all, if it still holds `old`.
pub(crate) fn replace(path: &Path, old: &str, new: &str) -> Result<(), Failure> {
    let failed = |error: io::Error| {
        Failure::new(
            FailureKind::Io,
            format!("cannot change {}: {error}", path.display()),
        )
        .hint("run it as a user who may write that folder")
    };
    // A link stays one: what it leads to is replaced.
    let path = path.canonicalize().map_err(failed)?;
    let folder = path.parent().unwrap_or(Path::new("/"));
    let before = fs::metadata(&path).map_err(failed)?;
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
    file.write_all(new.as_bytes()).map_err(failed)?;
    file.as_file()
        .set_permissions(before.permissions())
        .map_err(failed)?;
    let (uid, gid) = (Some(before.uid()), Some(before.gid()));
    std::os::unix::fs::fchown(file.as_file(), uid, gid).map_err(failed)?;
    file.as_file().sync_all().map_err(failed)?;
    if fs::read(&path).map_err(failed)? != old.as_bytes() {
        let message = format!(
            "{} was changed by somebody else at this moment",
            path.display()
        );
        return Err(Failure::new(FailureKind::Busy, message).hint("run the command again"));
    }
    file.persist(&path).map_err(|error| failed(error.error))?;
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::{places, replace};
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    #[test]
    fn the_places_are_looked_at_in_order() {
        let shown = |xdg: Option<&str>, home: Option<&str>| {
            let found = places(xdg.map(PathBuf::from), home.map(PathBuf::from));
            found
                .iter()
                .map(|path| path.display().to_string())
                .collect::<Vec<_>>()
        };
        let all = [
            "cluster.toml",
            "/x/lockstep/cluster.toml",
            "/etc/lockstep/cluster.toml",
        ];
        assert_eq!(shown(Some("/x"), Some("/h")), all);
        assert_eq!(
            shown(Some("x"), Some("/h"))[1],
            "/h/.config/lockstep/cluster.toml"
        );
        assert_eq!(shown(None, None).len(), 2);
    }

    #[test]
    fn a_file_is_replaced_behind_its_link_with_its_mode() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("a"), folder.path().join("b"));
        std::fs::write(&file, "old").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        replace(&link, "old", "new").unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), b"new");
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o640);
        assert!(link.is_symlink());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn what_somebody_else_wrote_meanwhile_stays() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a");
        std::fs::write(&file, "theirs").unwrap();
        assert_eq!(
            replace(&file, "old", "new").unwrap_err().kind.exit_code(),
            22
        );
        assert_eq!(std::fs::read(&file).unwrap(), b"theirs");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
