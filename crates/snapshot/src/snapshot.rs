//! What is written down of a snapshot, and what is read of it.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use lockstep_volume::identify;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::SnapshotError;
use crate::name::SnapshotName;

/// A snapshot that exists, or did: all that its provider needs to find it and to tell whether it is
/// still what it was.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Snapshot {
    /// The provider that made it, by its name in the registry.
    pub provider: String,
    /// Its name.
    pub name: SnapshotName,
    /// The volume, without symbolic links.
    #[serde(with = "path_text")]
    pub volume: PathBuf,
    /// Bytes of the volume when it was made.
    pub size: u64,
    /// When it was made, in milliseconds since the Unix epoch; when it was found, if a crash left it.
    pub made_unix_ms: u64,
    /// What only its provider understands.
    pub detail: serde_json::Value,
}

impl Snapshot {
    /// A snapshot made just now.
    pub(crate) fn made<D: Serialize>(
        provider: &'static str,
        name: &SnapshotName,
        volume: &Path,
        size: u64,
        detail: &D,
    ) -> Result<Self, SnapshotError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let made_unix_ms = now.map_or(0, |since| since.as_millis() as u64);
        let detail = serde_json::to_value(detail);
        Ok(Self {
            provider: provider.to_owned(),
            name: name.clone(),
            volume: volume.to_path_buf(),
            size,
            made_unix_ms,
            detail: detail.map_err(bad_description(name, provider))?,
        })
    }

    /// What this provider wrote down of it.
    pub(crate) fn detail_for<D: DeserializeOwned>(
        &self,
        provider: &'static str,
    ) -> Result<D, SnapshotError> {
        if self.provider != provider {
            let why = format!("it was made by {}", self.provider);
            return Err(bad_description(&self.name, provider)(why));
        }
        serde_json::from_value(self.detail.clone()).map_err(bad_description(&self.name, provider))
    }
}

fn bad_description<E: ToString>(
    name: &SnapshotName,
    provider: &'static str,
) -> impl FnOnce(E) -> SnapshotError {
    let name = name.to_string();
    move |why| SnapshotError::BadDescription {
        name,
        provider,
        why: why.to_string(),
    }
}

/// A snapshot opened for reading: a regular file or a block device that nobody changes.
#[derive(Debug)]
pub struct Image {
    /// Where it can be opened again.
    pub path: PathBuf,
    /// It, open for reading only.
    pub file: File,
    /// Its bytes.
    pub size: u64,
}

impl Image {
    /// Opens what a program says is the image: a file or a device of exactly this size.
    pub(crate) fn open(path: PathBuf, size: u64) -> Result<Self, SnapshotError> {
        let not_ours = |why: String| SnapshotError::NotOurs {
            path: path.clone(),
            why,
        };
        let found = identify(&path).map_err(|error| not_ours(error.to_string()))?;
        if found.size != size {
            let found = found.size;
            return Err(not_ours(format!("it has {found} bytes instead of {size}")));
        }
        let file = File::open(&path).map_err(SnapshotError::io("opening", &path))?;
        Ok(Self { path, file, size })
    }
}

/// A volume's path without symbolic links.
pub(crate) fn canonical(volume: &Path) -> Result<PathBuf, SnapshotError> {
    volume
        .canonicalize()
        .map_err(SnapshotError::io("looking up", volume))
}

/// The same for a volume that may be gone: what was made of it still lies beside its place.
pub(crate) fn canonical_place(volume: &Path) -> Result<PathBuf, SnapshotError> {
    match (canonical(volume), volume.parent(), volume.file_name()) {
        (Err(error), Some(parent), Some(name)) if error.is_missing() => {
            let parent = if parent == Path::new("") {
                Path::new(".")
            } else {
                parent
            };
            Ok(canonical(parent)?.join(name))
        }
        (found, ..) => found,
    }
}

/// What was found of earlier runs.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Recovered {
    /// Snapshots that are whole, by name. Which of them are still wanted is the caller's to know.
    pub whole: Vec<Snapshot>,
    /// Names of what was half made, and has been removed.
    pub removed: Vec<String>,
    /// Names of what is being made by somebody at this moment, and was left alone.
    pub in_the_making: Vec<String>,
}

impl Recovered {
    pub(crate) fn sorted(mut self) -> Self {
        self.whole.sort_by(|one, other| one.name.cmp(&other.name));
        self.removed.sort();
        self.in_the_making.sort();
        self
    }
}

/// Paths are bytes: text where they are UTF-8, a list of numbers where not.
pub(crate) mod path_text {
    use super::{
        Deserialize, Deserializer, OsStrExt, OsString, OsStringExt, Path, PathBuf, Serialize,
        Serializer,
    };

    #[derive(Serialize, Deserialize)]
    #[serde(untagged)]
    enum Form {
        Text(String),
        Bytes(Vec<u8>),
    }

    pub(crate) fn serialize<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
        let form = match path.to_str() {
            Some(text) => Form::Text(text.to_owned()),
            None => Form::Bytes(path.as_os_str().as_bytes().to_vec()),
        };
        form.serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<PathBuf, D::Error> {
        Ok(match Form::deserialize(deserializer)? {
            Form::Text(text) => PathBuf::from(text),
            Form::Bytes(bytes) => PathBuf::from(OsString::from_vec(bytes)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_survives_json_whatever_the_path() {
        for path in [&b"/srv/disk.img"[..], b"/srv/\xff\xfe", "/srv/ä".as_bytes()] {
            let volume = PathBuf::from(OsString::from_vec(path.to_vec()));
            let name = "lockstep-disk-1".parse().unwrap();
            let snapshot = Snapshot::made("reflink", &name, &volume, 7, &("a", 1)).unwrap();
            let json = serde_json::to_string(&snapshot).unwrap();
            let again: Snapshot = serde_json::from_str(&json).unwrap();
            assert_eq!(again, snapshot);
            let detail: (String, u64) = again.detail_for("reflink").unwrap();
            assert_eq!(detail, ("a".to_owned(), 1));
            assert!(again.detail_for::<(String, u64)>("btrfs").is_err());
            assert!(again.detail_for::<u64>("reflink").is_err());
        }
    }
}
