//! Volumes of which a snapshot's delta once hid changes: none is believed any more, until somebody
//! has looked.

use std::path::{Path, PathBuf};

use lockstep_index::{IndexKey, IndexStore};
use lockstep_ledger::VolumeKey;

use crate::failures::sentence;

/// Folder of the state directory that names the volumes, by the hashes of their paths.
const FOLDER: &str = "distrusted";

/// Why no delta of this volume is believed, if so.
pub(crate) fn reason(state_dir: &Path, volume: &Path) -> Option<String> {
    let path = mark_of(state_dir, &VolumeKey::from_path(volume).ok()?);
    path.exists().then(|| {
        format!(
            "an earlier delta of this volume hid changes (remove {} to have deltas believed again)",
            path.display()
        )
    })
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
    let made = path.parent().map_or(Ok(()), std::fs::create_dir_all);
    if let Err(error) = made.and_then(|()| std::fs::write(&path, text)) {
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
