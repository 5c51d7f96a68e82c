//! Files on a real filesystem.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use super::*;
use crate::wire::FileBytes;

fn path(at: &Path) -> AbsolutePath {
    at.to_str().unwrap().parse().unwrap()
}

fn state(bytes: &[u8], mode: u32) -> FileState {
    FileState {
        hash: Root::from_bytes(*blake3::hash(bytes).as_bytes()),
        mode,
        uid: rustix::process::getuid().as_raw(),
        gid: rustix::process::getgid().as_raw(),
    }
}

fn announced(at: &Path, bytes: &[u8], mode: u32) -> FileBytes {
    FileBytes {
        path: path(at),
        state: Some(state(bytes, mode)),
        bytes: bytes.len() as u64,
    }
}

fn stage(places: &[AbsolutePath], at: &Path, bytes: &[u8], mode: u32) -> Result<Staged, Failure> {
    let mut incoming = Incoming::begin(places, &announced(at, bytes, mode))?;
    incoming.push(bytes)?;
    incoming.finish(places)
}

#[test]
fn a_file_is_replaced_whole_and_the_previous_one_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let (conf, file) = (folder.path().join("conf"), folder.path().join("conf/a"));
    fs::create_dir(&conf).unwrap();
    fs::write(&file, b"one").unwrap();
    let places = [path(&conf)];
    let staged = stage(&places, &file, b"two", 0o600).unwrap();
    assert_eq!(fs::read(&file).unwrap(), b"one");
    assert_eq!(states(&places).unwrap().len(), 1, "staged files are ours");
    assert!(staged.apply(&places).unwrap());
    assert!(!staged.apply(&places).unwrap(), "again is no change");
    assert_eq!(fs::read(&file).unwrap(), b"two");
    let previous = conf.join(".a.lockstep-previous");
    assert_eq!(fs::read(&previous).unwrap(), b"one");
    assert_eq!(
        fs::metadata(&file).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let found = states(&places).unwrap();
    assert_eq!(found[&path(&file)], state(b"two", 0o600));
    assert_eq!(read(&places, &path(&file)).unwrap().unwrap().1, b"two");
    // The next one takes the previous one's place.
    stage(&places, &file, b"three", 0o600)
        .unwrap()
        .apply(&places)
        .unwrap();
    assert_eq!(fs::read(&previous).unwrap(), b"two");
    let gone = Staged {
        path: path(&file),
        state: None,
    };
    assert!(gone.apply(&places).unwrap());
    assert!(!gone.apply(&places).unwrap());
    assert_eq!(fs::read(&previous).unwrap(), b"three");
    assert!(!file.exists() && states(&places).unwrap().is_empty());
}

#[test]
fn an_interrupted_replacement_is_done_again_and_a_lost_one_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a");
    fs::write(&file, b"one").unwrap();
    let places = [path(&file)];
    let staged = stage(&places, &file, b"two", 0o644).unwrap();
    // A crash after the link, before the rename.
    fs::hard_link(&file, folder.path().join(".a.lockstep-previous")).unwrap();
    assert!(staged.apply(&places).unwrap());
    let lost = stage(&places, &file, b"three", 0o644).unwrap();
    fs::write(folder.path().join(".a.lockstep-staged"), b"torn").unwrap();
    assert!(lost.apply(&places).is_err());
    lost.discard(&places);
    assert!(lost.apply(&places).is_err());
    assert_eq!(fs::read(&file).unwrap(), b"two");
}

#[test]
fn nothing_outside_is_touched_and_no_link_is_followed() {
    let folder = tempfile::tempdir().unwrap();
    let (conf, out) = (folder.path().join("conf"), folder.path().join("out"));
    fs::create_dir(&conf).unwrap();
    fs::create_dir(&out).unwrap();
    fs::write(out.join("secret"), b"s").unwrap();
    symlink(&out, conf.join("link")).unwrap();
    symlink(out.join("secret"), conf.join("secret")).unwrap();
    let places = [path(&conf)];
    assert!(states(&places).unwrap().is_empty(), "links are no files");
    let refused = [
        out.join("a"),
        folder.path().join("confusion"),
        conf.join("link/a"),
        conf.join("link/secret"),
        conf.join(".a.lockstep-staged"),
        conf.join(".a.lockstep-previous"),
    ];
    for at in refused {
        let what = at.display();
        assert!(stage(&places, &at, b"evil", 0o644).is_err(), "{what}");
        assert!(read(&places, &path(&at)).is_err(), "{what}");
        let gone = Staged {
            path: path(&at),
            state: None,
        };
        assert!(gone.apply(&places).is_err(), "{what}");
    }
    assert!(read(&places, &path(&conf.join("secret"))).is_err());
    assert_eq!(fs::read_dir(&out).unwrap().count(), 1);
    // A link in a file's place is replaced, and what it leads to is not.
    stage(&places, &conf.join("secret"), b"mine", 0o644)
        .unwrap()
        .apply(&places)
        .unwrap();
    assert_eq!(fs::read(out.join("secret")).unwrap(), b"s");
    symlink(&conf, folder.path().join("place")).unwrap();
    assert!(states(&[path(&folder.path().join("place"))]).is_err());
}

#[test]
fn wrong_bytes_modes_and_sizes_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a");
    let places = [path(folder.path())];
    assert!(stage(&places, &file, b"x", 0o4755).is_err(), "setuid");
    let mut wrong = announced(&file, b"right", 0o644);
    let mut incoming = Incoming::begin(&places, &wrong).unwrap();
    incoming.push(b"wrong").unwrap();
    assert!(incoming.finish(&places).is_err(), "another hash");
    let mut incoming = Incoming::begin(&places, &wrong).unwrap();
    assert!(incoming.push(b"too many").is_err());
    let mut incoming = Incoming::begin(&places, &wrong).unwrap();
    incoming.push(b"rig").unwrap();
    assert!(incoming.finish(&places).is_err(), "too few");
    wrong.bytes = MAX_BYTES + 1;
    assert!(Incoming::begin(&places, &wrong).is_err(), "too large");
    assert!(!file.exists());
    let large = fs::File::create(&file).unwrap();
    large.set_len(MAX_BYTES + 1).unwrap();
    assert!(states(&places).is_err());
    fs::remove_file(&file).unwrap();
    for number in 0..=MAX_FILES {
        fs::write(folder.path().join(number.to_string()), b"").unwrap();
    }
    assert!(states(&places).is_err(), "too many");
}
