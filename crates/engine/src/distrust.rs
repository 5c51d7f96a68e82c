//! Volumes of which a snapshot's delta once hid changes: none is believed any more, until somebody
//! has looked.
//!
//! Promise: once [`from_now_on`] has returned without trouble, that holds through kills and power cuts;
//! and where nobody can tell whether there is a mark, there is one.

use std::path::{Path, PathBuf};

use lockstep_index::{IndexKey, IndexStore};
use lockstep_ledger::VolumeKey;

use crate::durable;
use crate::failures::sentence;

/// Folder of the state directory that names the volumes, by the hashes of their paths.
const FOLDER: &str = "distrusted";

/// Why no delta of this volume is believed, if so.
pub(crate) fn reason(state_dir: &Path, volume: &Path) -> Option<String> {
    let path = mark_of(state_dir, &VolumeKey::from_path(volume).ok()?);
    match path.try_exists() {
        Ok(false) => None,
        Ok(true) => Some(format!(
            "an earlier delta of this volume hid changes (remove {} to have deltas believed again)",
            path.display()
        )),
        Err(error) => Some(format!(
            "it cannot be told whether an earlier delta of this volume hid changes: {}: {error}",
            path.display()
        )),
    }
}

/// Believes none from now on, and forgets what rests on earlier ones; returns what was not possible.
pub(crate) fn from_now_on(state_dir: &Path, volume: &Path) -> Option<String> {
    let failed = |error: &dyn std::error::Error| {
        Some(format!(
            "that could not be written down: {}",
            sentence(error)
        ))
    };
    let key = VolumeKey::from_path(volume).ok()?;
    let path = mark_of(state_dir, &key);
    let text = format!(
        "a snapshot's delta of {} hid changes; remove this file to have deltas believed again\n",
        volume.display()
    );
    if let Err(error) = durable::replace(&path, text.as_bytes()) {
        return failed(&error);
    }
    let store = IndexStore::at(state_dir);
    let of_volume = IndexKey::target(key.as_str());
    let listed = store.list().unwrap_or_default();
    for (key, _) in listed.into_iter().filter_map(|listed| listed.header.ok()) {
        if key.volume() == of_volume.volume()
            && let Err(error) = store.remove(&key)
        {
            return failed(&error);
        }
    }
    None
}

fn mark_of(state_dir: &Path, volume: &VolumeKey) -> PathBuf {
    let name = blake3::hash(volume.as_str().as_bytes()).to_hex();
    state_dir.join(FOLDER).join(&name[..32])
}

#[cfg(test)]
mod tests {
    use super::{FOLDER, from_now_on, reason};
    use std::fs;

    #[test]
    fn a_volume_is_distrusted_until_its_mark_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let (state, volume) = (folder.path().join("state"), folder.path().join("a"));
        fs::write(&volume, "a").unwrap();
        assert_eq!(reason(&state, &volume), None);
        assert_eq!(from_now_on(&state, &volume), None);
        assert!(reason(&state, &volume).unwrap().contains("hid changes"));
        assert_eq!(reason(&state, &folder.path().join("b")), None);
        let marks: Vec<_> = fs::read_dir(state.join(FOLDER)).unwrap().collect();
        assert_eq!(marks.len(), 1, "no draft is left");
        fs::remove_file(marks[0].as_ref().unwrap().path()).unwrap();
        assert_eq!(reason(&state, &volume), None);
    }

    #[test]
    fn a_mark_that_nobody_can_look_for_counts_as_one() {
        let folder = tempfile::tempdir().unwrap();
        let volume = folder.path().join("a");
        fs::write(&volume, "a").unwrap();
        // Neither can be made or looked for below a file.
        fs::write(folder.path().join(FOLDER), "damage").unwrap();
        assert!(
            reason(folder.path(), &volume)
                .unwrap()
                .contains("cannot be told")
        );
        let trouble = from_now_on(folder.path(), &volume).unwrap();
        assert!(trouble.contains("could not be written down"), "{trouble}");
    }
}
