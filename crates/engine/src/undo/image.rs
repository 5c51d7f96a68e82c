//! A clone of the whole target, where its filesystem can make one.
//!
//! It lies beside the target as a source's snapshots do, under a name of its own, so that neither is
//! taken for the other.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use lockstep_snapshot::{
    Image, MAX_AUTO_PAUSE, Provider, Reflink, Snapshot, SnapshotError, SnapshotName, Verdict,
    VolumeName,
};

/// Of what a clone may come to hold, one part in so many must be free: with less, hardly any change
/// fits beside it.
const FREE_SHARE: u64 = 20;
/// Hexadecimal digits of the hash in a clone's name.
const NAME_DIGITS: usize = 32;

/// How many bytes can be overwritten while a clone holds what they were, or why there can be none.
pub(crate) fn room(volume: &Path) -> Result<u64, String> {
    let fitness = match Reflink::new().probe(volume) {
        Verdict::Fit(fitness) => fitness,
        Verdict::Unfit { why } => return Err(why),
    };
    let (space, pause) = (fitness.space, fitness.cost.pause);
    if pause > MAX_AUTO_PAUSE {
        let extents = fitness.cost.extents.unwrap_or(0);
        return Err(format!("a clone of its {extents} extents takes too long"));
    }
    if space.free < space.at_risk.div_ceil(FREE_SHARE) {
        let free = space.free;
        return Err(format!("only {free} bytes are free beside it"));
    }
    Ok(space.free)
}

/// Clones the volume; what has to be known to find the clone again.
pub(crate) fn make(volume: &Path, run: &str) -> Result<Vec<u8>, SnapshotError> {
    let unfit = |why: String| SnapshotError::Unfit {
        provider: "reflink",
        volume: volume.to_path_buf(),
        why,
    };
    let volume_name = name(volume).map_err(&unfit)?;
    let clone_name =
        SnapshotName::new(&volume_name, run).map_err(|error| unfit(error.to_string()))?;
    let snapshot = Reflink::new().create(volume, &clone_name)?;
    serde_json::to_vec(&snapshot).map_err(|error| unfit(error.to_string()))
}

/// Opens a clone, if it is still what was made.
pub(crate) fn open(description: &[u8]) -> Result<Image, String> {
    let snapshot = described(description)?;
    Reflink::new()
        .open(&snapshot)
        .map_err(|error| error.to_string())
}

/// Removes a clone; one that is gone is no error.
pub(crate) fn release(description: &[u8]) -> Result<(), String> {
    let snapshot = described(description)?;
    Reflink::new()
        .release(&snapshot)
        .map_err(|error| error.to_string())
}

/// Whether a clone of the volume is no longer there; not if nobody can say.
pub(crate) fn is_gone(volume: &Path, description: &[u8]) -> bool {
    let (Ok(snapshot), Ok(volume_name)) = (described(description), name(volume)) else {
        return false;
    };
    let found = Reflink::new().recover(volume, &volume_name);
    found.is_ok_and(|found| !found.whole.iter().any(|clone| clone.name == snapshot.name))
}

/// Removes clones of the volume that no record names: a crash between the clone and its record left
/// them.
pub(crate) fn release_strays(volume: &Path, named: Option<&[u8]>) {
    let Ok(volume_name) = name(volume) else {
        return;
    };
    let provider = Reflink::new();
    let kept = named.and_then(|description| described(description).ok());
    // Where there are no clones it cannot look, and there is nothing to be found.
    let found = provider.recover(volume, &volume_name).unwrap_or_default();
    for stray in found.whole {
        if kept.as_ref().is_some_and(|kept| kept.name == stray.name) {
            continue;
        }
        match provider.release(&stray) {
            Ok(()) => tracing::info!("released {}, which a run left behind", stray.name),
            Err(error) => tracing::warn!("{} stays: {error}", stray.name),
        }
    }
}

/// No volume's own snapshots have a name with a dot after four letters.
fn name(volume: &Path) -> Result<VolumeName, String> {
    let file = volume.file_name().unwrap_or(OsStr::new("volume"));
    let hash = blake3::hash(file.as_bytes()).to_hex();
    format!("undo.{}", &hash[..NAME_DIGITS])
        .parse()
        .map_err(|error: lockstep_snapshot::BadName| error.to_string())
}

fn described(description: &[u8]) -> Result<Snapshot, String> {
    serde_json::from_slice(description)
        .map_err(|error| format!("the description of its clone cannot be read: {error}"))
}

#[cfg(test)]
mod tests {
    use super::name;
    use lockstep_snapshot::VolumeName;
    use std::path::Path;

    #[test]
    fn a_clone_is_never_taken_for_a_snapshot_of_a_source() {
        for file in ["undo", "undo.x", "a", &"x".repeat(200)] {
            let path = Path::new("/srv").join(file);
            let clone = name(&path).unwrap();
            assert_ne!(clone, VolumeName::of_path(&path));
            assert!(clone.as_str().starts_with("undo."));
            assert!(!VolumeName::of_path(&path).as_str().starts_with("undo."));
        }
    }
}
