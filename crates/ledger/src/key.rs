//! What a record is about: a volume by its path, and what was found there.

use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::LedgerError;

/// Longest key in bytes: Linux's `PATH_MAX`.
const MAX_KEY_BYTES: usize = 4096;
/// Longest identity in bytes; a longer one is replaced by its hash.
const MAX_IDENTITY_BYTES: usize = 256;

/// Canonical absolute path of a volume as lossless text of at most 4096 bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct VolumeKey(String);

impl VolumeKey {
    /// The key of the volume at `path`, which need not exist yet if its folder does.
    ///
    /// Links are followed, so that every path to a volume has one key. Bytes that are not UTF-8,
    /// control characters and the backslash are written as `\xNN`.
    ///
    /// # Errors
    /// [`LedgerError::BadPath`] if the path has no file name or its text is too long,
    /// [`LedgerError::Io`] if its folder cannot be found.
    pub fn from_path(path: &Path) -> Result<Self, LedgerError> {
        let canonical = canonical(path)?;
        let text = lossless(canonical.as_os_str().as_bytes());
        if text.len() > MAX_KEY_BYTES {
            return Err(bad_path(path, "its text is longer than 4096 bytes"));
        }
        Ok(Self(text))
    }

    /// The key of a row of a store that was found whole.
    pub(crate) fn of_row(text: String) -> Self {
        Self(text)
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for VolumeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What tells one file or device from another at the same path, as opaque text.
///
/// A record counts only for the identity that it was made for, so a replaced file or device reads
/// as `unknown`.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct Identity(String);

impl Identity {
    /// An identity such as `file ino=12 btime=… size=…`. Text of more than 256 bytes is replaced by
    /// its BLAKE3 hash, which tells things apart as well.
    pub fn new(text: impl Into<String>) -> Self {
        let text = text.into();
        if text.len() <= MAX_IDENTITY_BYTES {
            return Self(text);
        }
        Self(format!("blake3:{}", blake3::hash(text.as_bytes())))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<String> for Identity {
    fn from(text: String) -> Self {
        Self::new(text)
    }
}

impl From<Identity> for String {
    fn from(identity: Identity) -> Self {
        identity.0
    }
}

fn canonical(path: &Path) -> Result<PathBuf, LedgerError> {
    let error = match path.canonicalize() {
        Ok(canonical) => return Ok(canonical),
        Err(error) => error,
    };
    if error.kind() != std::io::ErrorKind::NotFound {
        return Err(LedgerError::io("find", path)(error));
    }
    let absolute = std::path::absolute(path).map_err(LedgerError::io("find", path))?;
    let (Some(folder), Some(name)) = (absolute.parent(), absolute.file_name()) else {
        return Err(bad_path(path, "it has no file name"));
    };
    let folder = folder
        .canonicalize()
        .map_err(LedgerError::io("find the folder of", path))?;
    Ok(folder.join(name))
}

fn lossless(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for letter in chunk.valid().chars() {
            if letter == '\\' || letter.is_control() {
                let mut utf8 = [0; 4];
                push_escaped(&mut text, letter.encode_utf8(&mut utf8).as_bytes());
            } else {
                text.push(letter);
            }
        }
        push_escaped(&mut text, chunk.invalid());
    }
    text
}

fn push_escaped(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        text.push_str(&format!("\\x{byte:02x}"));
    }
}

fn bad_path(path: &Path, why: &'static str) -> LedgerError {
    LedgerError::BadPath {
        path: path.to_owned(),
        why,
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    #[test]
    fn every_path_to_a_volume_has_one_key() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("v.img"), dir.path().join("link"));
        let before = VolumeKey::from_path(&file).unwrap();
        std::fs::write(&file, b"").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert_eq!(VolumeKey::from_path(&file).unwrap(), before);
        assert_eq!(VolumeKey::from_path(&link).unwrap(), before);
        let roundabout = dir.path().join(".").join("v.img");
        assert_eq!(VolumeKey::from_path(&roundabout).unwrap(), before);
    }

    #[test]
    fn two_names_never_share_a_text() {
        let names: [&[u8]; 6] = [
            b"a\xff",
            b"a\xfe",
            b"a\\xff",
            b"a\\",
            b"a\n",
            "a\u{fffd}".as_bytes(),
        ];
        let dir = tempfile::tempdir().unwrap();
        let keys: std::collections::BTreeSet<VolumeKey> = names
            .iter()
            .map(|name| VolumeKey::from_path(&dir.path().join(OsStr::from_bytes(name))).unwrap())
            .collect();
        assert_eq!(keys.len(), names.len());
        assert!(keys.iter().all(|key| !key.as_str().contains('\n')));
    }

    #[test]
    fn paths_that_name_nothing_say_why() {
        let missing = VolumeKey::from_path(Path::new("/nowhere/at/all"));
        assert!(
            matches!(missing, Err(LedgerError::Io { .. })),
            "{missing:?}"
        );
        let empty = VolumeKey::from_path(Path::new(""));
        assert!(empty.is_err(), "{empty:?}");
        let dir = tempfile::tempdir().unwrap();
        let control = "\u{1}".repeat(250);
        let mut deep = dir.path().to_owned();
        for _ in 0..6 {
            deep.push(&control);
        }
        std::fs::create_dir_all(&deep).unwrap();
        let long = VolumeKey::from_path(&deep);
        assert!(matches!(long, Err(LedgerError::BadPath { .. })), "{long:?}");
    }

    #[test]
    fn a_long_identity_is_bounded_and_still_tells_things_apart() {
        let (one, other) = (
            Identity::new("x".repeat(257)),
            Identity::new("x".repeat(258)),
        );
        assert_ne!(one, other);
        assert!(one.as_str().len() <= MAX_IDENTITY_BYTES);
        assert_eq!(Identity::new("x".repeat(256)).as_str().len(), 256);
    }
}
