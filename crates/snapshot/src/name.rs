//! Names of volumes, runs and snapshots that every provider can use as they are.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Before the volume's name; whoever sees a snapshot knows whose it is.
const PREFIX: &str = "lockstep-";
/// Longest volume name: with prefix and run it stays below LVM's 127 bytes for a name.
const MAX_VOLUME_BYTES: usize = 48;
/// Longest run name.
const MAX_RUN_BYTES: usize = 48;
/// Hexadecimal digits of the hash that stands for the rest of a name that is too long.
const HASH_DIGITS: usize = 16;

/// A name that cannot be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{text:?} cannot be {what}: {why}")]
pub struct BadName {
    text: String,
    what: &'static str,
    why: &'static str,
}

/// A volume's name: 1 to 48 bytes of `A-Z a-z 0-9 . _`, not beginning with a dot.
///
/// That is what LVM, ZFS, btrfs and a file name all allow; no hyphen, which separates the parts of a
/// snapshot's name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VolumeName(String);

impl VolumeName {
    /// The name of a volume that has only a path: its file name, other bytes written as `_xx`, and
    /// the end of a long one replaced by its hash, so that two volumes of one folder never share one.
    #[must_use]
    pub fn of_path(path: &Path) -> Self {
        let name = path.file_name().unwrap_or(OsStr::new("volume")).as_bytes();
        let text: String = name.iter().map(|byte| escaped(*byte)).collect();
        if text.len() <= MAX_VOLUME_BYTES {
            return Self(text);
        }
        let hash = blake3::hash(name).to_hex();
        let kept = MAX_VOLUME_BYTES - HASH_DIGITS - 1;
        Self(format!("{}.{}", &text[..kept], &hash[..HASH_DIGITS]))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn escaped(byte: u8) -> String {
    // The dot too: it separates a hash from what it follows.
    if byte.is_ascii_alphanumeric() {
        return char::from(byte).to_string();
    }
    format!("_{byte:02x}")
}

impl FromStr for VolumeName {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        checked(text, "a volume's name", MAX_VOLUME_BYTES)?;
        Ok(Self(text.to_owned()))
    }
}

/// A snapshot's name: `lockstep-<volume>-<run>`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SnapshotName {
    volume: VolumeName,
    run: String,
}

impl SnapshotName {
    /// The name of the snapshot that a run makes of a volume.
    ///
    /// # Errors
    /// [`BadName`] unless the run is 1 to 48 bytes of `A-Z a-z 0-9 . _`.
    pub fn new(volume: &VolumeName, run: &str) -> Result<Self, BadName> {
        checked(run, "a run's name", MAX_RUN_BYTES)?;
        Ok(Self {
            volume: volume.clone(),
            run: run.to_owned(),
        })
    }

    /// The volume.
    #[must_use]
    pub fn volume(&self) -> &VolumeName {
        &self.volume
    }

    /// The run that made it.
    #[must_use]
    pub fn run(&self) -> &str {
        &self.run
    }

    /// The name, if it is one of ours and of this volume.
    #[must_use]
    pub fn of_volume(text: &str, volume: &VolumeName) -> Option<Self> {
        let name: SnapshotName = text.parse().ok()?;
        (name.volume == *volume).then_some(name)
    }
}

impl fmt::Display for SnapshotName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}-{}", self.volume, self.run)
    }
}

impl FromStr for SnapshotName {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let parts = text
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split_once('-'));
        let (volume, run) = parts.ok_or_else(|| BadName {
            text: text.to_owned(),
            what: "a snapshot's name",
            why: "it is not lockstep-<volume>-<run>",
        })?;
        Self::new(&volume.parse()?, run)
    }
}

fn checked(text: &str, what: &'static str, limit: usize) -> Result<(), BadName> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'.' || byte == b'_';
    let why = match text.as_bytes() {
        [] => "it is empty",
        [b'.', ..] => "it begins with a dot",
        bytes if bytes.len() > limit => "it is too long",
        bytes if !bytes.iter().copied().all(is_plain) => {
            "only letters, digits, dots and underscores are allowed"
        }
        _ => return Ok(()),
    };
    Err(BadName {
        text: text.chars().take(2 * limit).collect(),
        what,
        why,
    })
}

impl fmt::Display for VolumeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for VolumeName {
    type Error = BadName;

    fn try_from(text: String) -> Result<Self, BadName> {
        text.parse()
    }
}

impl From<VolumeName> for String {
    fn from(name: VolumeName) -> Self {
        name.0
    }
}

impl TryFrom<String> for SnapshotName {
    type Error = BadName;

    fn try_from(text: String) -> Result<Self, BadName> {
        text.parse()
    }
}

impl From<SnapshotName> for String {
    fn from(name: SnapshotName) -> Self {
        name.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshots_name_tells_volume_and_run() {
        let volume: VolumeName = "pg_data.1".parse().unwrap();
        let name = SnapshotName::new(&volume, "0af3").unwrap();
        assert_eq!(name.to_string(), "lockstep-pg_data.1-0af3");
        assert_eq!(name.to_string().parse(), Ok(name.clone()));
        assert_eq!(
            SnapshotName::of_volume("lockstep-pg_data.1-0af3", &volume),
            Some(name)
        );
        let other = "pg_data".parse().unwrap();
        assert_eq!(
            SnapshotName::of_volume("lockstep-pg_data.1-0af3", &other),
            None
        );
    }

    #[test]
    fn names_that_some_provider_would_refuse_are_refused() {
        for bad in [
            "", ".x", "a-b", "a/b", "a b", "ä", "a@b", "..", "a\n", "-rf",
        ] {
            assert!(bad.parse::<VolumeName>().is_err(), "{bad:?}");
            let volume = "v".parse().unwrap();
            assert!(SnapshotName::new(&volume, bad).is_err(), "{bad:?}");
        }
        for bad in ["lockstep-v", "lockstep--r", "other-v-r", "lockstep-v-r-s"] {
            assert!(bad.parse::<SnapshotName>().is_err(), "{bad}");
        }
        assert!("v".repeat(49).parse::<VolumeName>().is_err());
    }

    #[test]
    fn every_file_of_a_folder_has_a_name_of_its_own() {
        let long = "x".repeat(200);
        let longer = "x".repeat(201);
        let names = [
            "disk.img",
            "disk_img",
            "disk img",
            "disk-img",
            "disk_2eimg",
            &long,
            &longer,
            "ä",
        ];
        let made: std::collections::BTreeSet<VolumeName> = names
            .iter()
            .map(|name| VolumeName::of_path(&Path::new("/srv").join(name)))
            .collect();
        assert_eq!(made.len(), names.len());
        for name in made {
            assert_eq!(name.as_str().parse(), Ok(name.clone()));
        }
        let disk = VolumeName::of_path(Path::new("/srv/disk.img"));
        assert_eq!(disk.as_str(), "disk_2eimg");
    }
}
