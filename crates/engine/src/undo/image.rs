//! An image of the whole target: a clone of a file, where its filesystem can make one, or a snapshot
//! of a thin volume in its pool.
//!
//! It lies where a source's snapshots do, under a name of its own, so that neither is taken for the
//! other.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use lockstep_protocol::UndoKind;
use lockstep_snapshot::{
    Image, Lvm, MAX_AUTO_PAUSE, Provider, Reflink, Snapshot, SnapshotError, SnapshotName, Verdict,
    VolumeName,
};
use lockstep_volume::{VolumeKind, identify};

use super::lasting;

/// How the identity of a logical volume begins.
const LOGICAL_VOLUME: &str = "device dm-uuid LVM-";
/// Of what a clone may come to hold, one part in so many must be free: with less, hardly any change
/// fits beside it.
const FREE_SHARE: u64 = 20;
/// Hexadecimal digits of the hash in a clone's name.
const NAME_DIGITS: usize = 32;

/// How an image of a volume is made, and what its images are called.
struct Way {
    provider: Box<dyn Provider>,
    name: VolumeName,
}

impl Way {
    /// By what the volume is; asks nobody but the kernel.
    fn of(volume: &Path) -> Result<Way, String> {
        let identity = identify(volume).map_err(|error| error.to_string())?;
        match identity.kind {
            VolumeKind::File => {
                let file = volume.file_name().unwrap_or(OsStr::new("volume"));
                Way::new(Box::new(Reflink::new()), file.as_bytes())
            }
            VolumeKind::BlockDevice => {
                // The name of a device can be another one after a reboot.
                let identity = lasting(&identity.durable_text());
                if !identity.starts_with(LOGICAL_VOLUME) {
                    return Err("it is no logical volume".to_owned());
                }
                Way::new(Box::new(Lvm::new()), identity.as_bytes())
            }
        }
    }

    /// No volume's own snapshots have a name with a dot after four letters.
    fn new(provider: Box<dyn Provider>, volume: &[u8]) -> Result<Way, String> {
        let hash = blake3::hash(volume).to_hex();
        let name = format!("undo.{}", &hash[..NAME_DIGITS])
            .parse()
            .map_err(|error: lockstep_snapshot::BadName| error.to_string())?;
        Ok(Way { provider, name })
    }
}

/// What an image of the volume would be, and how many bytes can be overwritten while it holds what they
/// were, or why there can be none.
pub(crate) fn room(volume: &Path, is_file: bool) -> Result<(UndoKind, u64), String> {
    if is_file {
        return clone_room(volume).map(|room| (UndoKind::Reflink, room));
    }
    Way::of(volume)?;
    let room = Lvm::new().thin_room(volume)?;
    Ok((UndoKind::Thin, room))
}

fn clone_room(volume: &Path) -> Result<u64, String> {
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

/// Makes an image of the volume; what has to be known to find it again.
pub(crate) fn make(volume: &Path, run: &str) -> Result<Vec<u8>, SnapshotError> {
    let unfit = |why: String| SnapshotError::Unfit {
        provider: "undo",
        volume: volume.to_path_buf(),
        why,
    };
    let Way { provider, name } = Way::of(volume).map_err(&unfit)?;
    let name = SnapshotName::new(&name, run).map_err(|error| unfit(error.to_string()))?;
    let snapshot = provider.create(volume, &name)?;
    serde_json::to_vec(&snapshot).map_err(|error| unfit(error.to_string()))
}

/// What kind of image it is; a description that nobody can read is one of a clone.
pub(crate) fn kind(description: &[u8]) -> UndoKind {
    match described(description) {
        Ok(snapshot) if snapshot.provider == Lvm::new().name() => UndoKind::Thin,
        _ => UndoKind::Reflink,
    }
}

/// Opens an image, if it is still what was made.
pub(crate) fn open(description: &[u8]) -> Result<Image, String> {
    let snapshot = described(description)?;
    provider_of(&snapshot)
        .open(&snapshot)
        .map_err(|error| error.to_string())
}

/// Removes an image; one that is gone is no error.
pub(crate) fn release(description: &[u8]) -> Result<(), String> {
    let snapshot = described(description)?;
    provider_of(&snapshot)
        .release(&snapshot)
        .map_err(|error| error.to_string())
}

/// Whether an image of the volume is no longer there; not if nobody can say.
pub(crate) fn is_gone(volume: &Path, description: &[u8]) -> bool {
    let (Ok(snapshot), Ok(way)) = (described(description), Way::of(volume)) else {
        return false;
    };
    let found = way.provider.recover(volume, &way.name);
    found.is_ok_and(|found| !found.whole.iter().any(|image| image.name == snapshot.name))
}

/// Removes images of the volume that no record names: a crash between an image and its record left
/// them.
pub(crate) fn release_strays(volume: &Path, named: Option<&[u8]>) {
    let Ok(Way { provider, name }) = Way::of(volume) else {
        return;
    };
    let kept = named.and_then(|description| described(description).ok());
    // Where there are no images it cannot look, and there is nothing to be found.
    let found = provider.recover(volume, &name).unwrap_or_default();
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

/// A description names no provider but these; another one's is refused by whichever is asked.
fn provider_of(snapshot: &Snapshot) -> Box<dyn Provider> {
    match snapshot.provider == Lvm::new().name() {
        true => Box::new(Lvm::new()),
        false => Box::new(Reflink::new()),
    }
}

fn described(description: &[u8]) -> Result<Snapshot, String> {
    serde_json::from_slice(description)
        .map_err(|error| format!("the description of its image cannot be read: {error}"))
}

#[cfg(test)]
mod tests {
    use super::{Way, kind, open};
    use lockstep_protocol::UndoKind;
    use lockstep_snapshot::VolumeName;
    use std::fs;

    #[test]
    fn a_clone_is_never_taken_for_a_snapshot_of_a_source() {
        let folder = tempfile::tempdir().unwrap();
        for file in ["undo", "undo.x", "a", &"x".repeat(200)] {
            let path = folder.path().join(file);
            fs::write(&path, "x").unwrap();
            let way = Way::of(&path).unwrap();
            assert_eq!(way.provider.name(), "reflink");
            assert_ne!(way.name, VolumeName::of_path(&path));
            assert!(way.name.as_str().starts_with("undo."));
            assert!(!VolumeName::of_path(&path).as_str().starts_with("undo."));
        }
    }

    #[test]
    fn an_image_is_what_its_provider_makes() {
        let made_by = |provider: &str| {
            format!(
                r#"{{"provider":"{provider}","name":"lockstep-undo.x-1","volume":"/dev/vg/b","size":1,"made_unix_ms":1,"detail":{{}}}}"#
            )
        };
        assert_eq!(kind(made_by("lvm").as_bytes()), UndoKind::Thin);
        assert_eq!(kind(made_by("reflink").as_bytes()), UndoKind::Reflink);
        assert!(open(made_by("zfs").as_bytes()).unwrap_err().contains("zfs"));
    }
}
