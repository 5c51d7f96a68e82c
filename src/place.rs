//! Whether the arguments name sensible places, decided before anything is opened.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use lockstep_protocol::Failure;
use lockstep_volume::{canonical_target, identify};

use crate::failure::usage;
use crate::target::{Remote, Target, TargetError};

/// The SOURCE, which is always on this machine.
///
/// # Errors
/// It is empty or looks like a place on another machine.
pub(crate) fn source(text: &OsStr) -> Result<PathBuf, Failure> {
    if text.is_empty() {
        return Err(usage("the SOURCE is empty").hint("name a block device or an image file"));
    }
    match Target::parse(text) {
        Ok(Target::Local(path)) => Ok(path),
        _ => Err(usage(format!(
            "the SOURCE `{}` looks remote, but the source is always a path on this machine",
            text.to_string_lossy()
        ))
        .hint("run lockstep on the machine that has the source, or write ./a:b for a local name with a colon")),
    }
}

/// The targets, all different.
///
/// # Errors
/// One is not written as a target, or two are the same place.
pub(crate) fn targets<T: AsRef<OsStr>>(texts: &[T]) -> Result<Vec<Target>, Failure> {
    let targets = texts
        .iter()
        .map(|text| Target::parse(text.as_ref()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error: TargetError| usage(error.to_string()).hint(error.hint()))?;
    for (number, target) in targets.iter().enumerate() {
        if let Some(twin) = targets[..number].iter().find(|other| same(other, target)) {
            return Err(usage(format!("{twin} and {target} are the same place"))
                .hint("name each target once"));
        }
    }
    Ok(targets)
}

fn same(a: &Target, b: &Target) -> bool {
    match (a, b) {
        (Target::Local(a), Target::Local(b)) => same_local(a, b),
        (Target::Remote(a), Target::Remote(b)) => same_remote(a, b),
        _ => false,
    }
}

/// By text, by canonical path, or by what the paths lead to: hard links, other names of a device.
fn same_local(a: &Path, b: &Path) -> bool {
    // What cannot be looked at now is refused later, with its own reason.
    let canonical = || Some(canonical_target(a).ok()? == canonical_target(b).ok()?);
    let identity = || Some(identify(a).ok()?.same_place(&identify(b).ok()?));
    a == b || canonical() == Some(true) || identity() == Some(true)
}

/// By text alone: what the names lead to is known only there. A relative path belongs to its login.
fn same_remote(a: &Remote, b: &Remote) -> bool {
    let path = lexical(&a.path) == lexical(&b.path);
    let login = a.path.is_absolute() || a.user == b.user;
    path && login && a.host.eq_ignore_ascii_case(&b.host)
}

/// The path without `.` and doubled slashes; `..` stays, since links may stand before it.
fn lexical(path: &Path) -> Vec<&[u8]> {
    path.components()
        .filter(|part| *part != Component::CurDir)
        .map(|part| part.as_os_str().as_bytes())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{source, targets};
    use lockstep_protocol::FailureKind;
    use std::ffi::OsStr;

    #[test]
    fn the_source_is_local() {
        assert!(source(OsStr::new("/dev/vg0/pg")).is_ok());
        assert!(source(OsStr::new("./a:b")).is_ok());
        for text in ["db1:/dev/vg0/pg", "me@db1:x", "", "[::1]:/x", "db1:", ":x"] {
            let failure = source(OsStr::new(text)).unwrap_err();
            assert_eq!(failure.kind, FailureKind::Usage, "{text}");
        }
    }

    #[test]
    fn one_place_is_named_once() {
        for pair in [
            ["db2:/x", "db2:/x"],
            ["db2:/x", "DB2:/./x"],
            ["root@db2:/x", "db2:/x"],
            ["db2:x", "db2:./x"],
        ] {
            let failure = targets(&pair).unwrap_err();
            assert_eq!(failure.kind, FailureKind::Usage, "{pair:?}");
            assert!(failure.message.contains("same place"), "{pair:?}");
        }
        for pair in [
            ["db2:/x", "db3:/x"],
            ["db2:/x", "db2:/y"],
            ["root@db2:x", "db2:x"],
            ["db2:/a/../x", "db2:/x"],
        ] {
            assert!(targets(&pair).is_ok(), "{pair:?}");
        }
    }

    #[test]
    fn local_names_of_one_file_are_one_place() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a");
        std::fs::write(&file, b"x").unwrap();
        std::os::unix::fs::symlink(&file, folder.path().join("link")).unwrap();
        std::fs::hard_link(&file, folder.path().join("hard")).unwrap();
        let present = [file.clone(), folder.path().join("link")];
        assert!(targets(&present).is_err());
        assert!(targets(&[file.clone(), folder.path().join("hard")]).is_err());
        let missing = [folder.path().join("b"), folder.path().join("./b")];
        assert!(targets(&missing).is_err());
        assert!(targets(&[file, folder.path().join("b")]).is_ok());
    }
}
