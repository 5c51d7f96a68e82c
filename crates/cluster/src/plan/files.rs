//! Configuration files of a secondary that are not as the primary's.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Root;
use crate::value::AbsolutePath;

/// What counts of a file: its bytes, mode and owner.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileState {
    /// BLAKE3 of its bytes.
    pub hash: Root,
    /// Its permissions.
    pub mode: u32,
    /// The number of its owner.
    pub uid: u32,
    /// The number of its group.
    pub gid: u32,
}

/// A file that would be replaced, made or removed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileDifference {
    /// Where.
    pub path: AbsolutePath,
    /// What is there on the secondary; none if it is missing.
    pub present: Option<FileState>,
    /// What the primary has; none if it has no such file.
    pub wanted: Option<FileState>,
}

impl FileDifference {
    /// What would be done, in a word or two.
    #[must_use]
    pub fn what(&self) -> &'static str {
        match (&self.present, &self.wanted) {
            (None, _) => "missing",
            (_, None) => "not on the primary",
            (Some(present), Some(wanted)) if present.hash != wanted.hash => "differs",
            _ => "mode or owner differs",
        }
    }
}

/// Every difference between the files of a primary and those of a secondary, by path.
#[must_use]
pub fn differences(
    primary: &BTreeMap<AbsolutePath, FileState>,
    secondary: &BTreeMap<AbsolutePath, FileState>,
) -> Vec<FileDifference> {
    let mut paths: Vec<&AbsolutePath> = primary.keys().chain(secondary.keys()).collect();
    paths.sort();
    paths.dedup();
    let difference = |path: &AbsolutePath| {
        let (wanted, present) = (primary.get(path).copied(), secondary.get(path).copied());
        (wanted != present).then(|| FileDifference {
            path: path.clone(),
            present,
            wanted,
        })
    };
    paths.into_iter().filter_map(difference).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(byte: u8, mode: u32) -> FileState {
        FileState {
            hash: Root::from_bytes([byte; 32]),
            mode,
            uid: 1,
            gid: 1,
        }
    }

    #[test]
    fn bytes_modes_and_names_are_compared() {
        let files = |list: &[(&str, FileState)]| -> BTreeMap<AbsolutePath, FileState> {
            list.iter()
                .map(|(path, state)| (path.parse().unwrap(), *state))
                .collect()
        };
        let primary = files(&[
            ("/a", state(1, 0o644)),
            ("/b", state(1, 0o644)),
            ("/c", state(1, 0o600)),
            ("/d", state(1, 0o644)),
        ]);
        let secondary = files(&[
            ("/a", state(1, 0o644)),
            ("/b", state(2, 0o644)),
            ("/c", state(1, 0o644)),
            ("/e", state(1, 0o644)),
        ]);
        let found = differences(&primary, &secondary);
        let shown: Vec<_> = found
            .iter()
            .map(|one| (one.path.as_str(), one.what()))
            .collect();
        let expected = [
            ("/b", "differs"),
            ("/c", "mode or owner differs"),
            ("/d", "missing"),
            ("/e", "not on the primary"),
        ];
        assert_eq!(shown, expected);
        assert!(differences(&primary, &primary).is_empty());
    }
}
