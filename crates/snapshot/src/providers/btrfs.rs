//! `btrfs`: a read-only snapshot of the subvolume that the image file is in.
//!
//! It takes the same time whatever the number of extents. For a file that is a subvolume's only
//! content that beats a clone when extents are many; but it shows only what a power cut would have
//! left, as btrfs flushes before it freezes, and a later write through the page cache may reach the
//! disk on its own in between.
//!
//! Only a subvolume that has the file directly in its top folder is frozen: anything larger would
//! keep space of files that nobody meant.
//!
//! # Recipe
//!
//! | step | what is done | after a crash here |
//! | --- | --- | --- |
//! | 1 | make the folder, fsync its parent | an empty folder, which `recover` removes |
//! | 2 | make the snapshot, read-only from the start: one transaction, durable | it is whole |
//!
//! To release: remove the subvolume, sync the filesystem, remove the folder if it is empty.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lockstep_volume::{
    BTRFS_FIRST_SUBVOLUME, BTRFS_SUBVOLUME_TOP, Subvolume, remove_subvolume, snapshot_subvolume,
    subvolume_of,
};
use rustix::fs::{CWD, FileType, Mode, OFlags, openat, syncfs};
use serde::{Deserialize, Serialize};

use crate::changed::Changed;
use crate::compare::{Asking, Sharing, compare};
use crate::doubt::{Doubt, Which};
use crate::error::SnapshotError;
use crate::folder::{Folder, c_name, free_bytes};
use crate::name::{SnapshotName, VolumeName};
use crate::provider::{Atomicity, Cost, Fitness, Health, Provider, Space, Told, Verdict};
use crate::snapshot::{Image, Recovered, Snapshot, canonical_place};
use crate::steps::{Observer, Step};

const NAME: &str = "btrfs";
/// Writers of the whole filesystem wait for one transaction to be written.
const PAUSE: Duration = Duration::from_millis(50);

/// The provider.
#[derive(Debug)]
pub struct Btrfs {
    observer: Observer,
}

/// What tells a subvolume from every other, and from itself after a change.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Seal {
    /// Its own name among all subvolumes, in hexadecimal.
    uuid: String,
    /// Transaction of the last change of something in it.
    changed_transid: u64,
}

impl Seal {
    fn of(subvolume: &Subvolume) -> Self {
        let digits = subvolume.uuid.iter();
        Self {
            uuid: digits.map(|byte| format!("{byte:02x}")).collect(),
            changed_transid: subvolume.changed_transid,
        }
    }
}

impl Btrfs {
    /// The provider.
    #[must_use]
    pub const fn new() -> Self {
        Self::observed(Observer::nobody())
    }

    /// The provider, watched at every step.
    #[must_use]
    pub const fn observed(observer: Observer) -> Self {
        Self { observer }
    }
}

impl Default for Btrfs {
    fn default() -> Self {
        Self::new()
    }
}

impl Provider for Btrfs {
    fn name(&self) -> &'static str {
        NAME
    }

    fn probe(&self, volume: &Path) -> Verdict {
        match Place::of(volume).and_then(|place| place.fitness()) {
            Ok(fitness) => Verdict::Fit(fitness),
            Err(why) => Verdict::unfit(why),
        }
    }

    fn create(&self, volume: &Path, name: &SnapshotName) -> Result<Snapshot, SnapshotError> {
        let unfit = |why| SnapshotError::Unfit {
            provider: NAME,
            volume: volume.to_path_buf(),
            why,
        };
        let place = Place::of(volume).map_err(unfit)?;
        let text = name.to_string();
        Folder::make_for(&place.volume, |folder| {
            self.observer.done(Step::FolderMade);
            snapshot_subvolume(&place.top, folder.file(), &c_name(&text)?)
                .map_err(SnapshotError::io("making", &folder.join(&text)))?;
            self.observer.done(Step::Named);
            let snapshot = describe(folder, name, &place.volume)?;
            self.observer.done(Step::Sealed);
            Ok(snapshot)
        })
    }

    fn open(&self, snapshot: &Snapshot) -> Result<Image, SnapshotError> {
        let seal: Seal = snapshot.detail_for(NAME)?;
        let found = Found::open(snapshot)?.ok_or_else(|| gone(snapshot))?;
        let image = found.image(&snapshot.volume)?;
        if let Some(why) = found.difference(&seal)? {
            return Err(SnapshotError::NotOurs {
                path: found.path,
                why: why.to_owned(),
            });
        }
        Ok(image)
    }

    fn delta(&self, base: &Snapshot, now: &Snapshot) -> Result<Changed, Doubt> {
        Doubt::unless_comparable(base, now, NAME)?;
        let of_base = Trusted::open(base, Which::Base)?;
        let of_now = Trusted::open(now, Which::Now)?;
        let changed = compare(&of_base.image, &of_now.image, Asking::ItemsIfAllowed)?;
        of_base.is_still_sealed()?;
        of_now.is_still_sealed()?;
        Ok(changed)
    }

    fn release(&self, snapshot: &Snapshot) -> Result<(), SnapshotError> {
        let seal: Seal = snapshot.detail_for(NAME)?;
        let Some(folder) = Folder::find(&snapshot.volume)? else {
            return Ok(());
        };
        if let Some(found) = Found::open(snapshot)? {
            if Seal::of(&found.subvolume()?).uuid != seal.uuid {
                return Err(SnapshotError::NotOurs {
                    path: found.path,
                    why: "it is another subvolume than the one that was made".to_owned(),
                });
            }
            let name = c_name(&snapshot.name.to_string())?;
            remove_subvolume(folder.file(), &name)
                .map_err(SnapshotError::io("removing", &found.path))?;
            self.observer.done(Step::Removed);
            drop(found.top);
            syncfs(folder.file()).map_err(SnapshotError::io("flushing", &found.path))?;
            self.observer.done(Step::RemovalFlushed);
        }
        folder.remove_if_empty()
    }

    fn recover(&self, volume: &Path, name: &VolumeName) -> Result<Recovered, SnapshotError> {
        let volume = canonical_place(volume)?;
        let mut found = Recovered::default();
        let Some(folder) = Folder::find(&volume)? else {
            return Ok(found);
        };
        for entry in folder.entries()? {
            let whole = SnapshotName::of_volume(&entry.name, name)
                .filter(|_| entry.kind == FileType::Directory);
            if let Some(whole) = whole {
                found.whole.push(describe(&folder, &whole, &volume)?);
            }
        }
        folder.remove_if_empty()?;
        Ok(found.sorted())
    }

    fn health(&self, snapshot: &Snapshot) -> Result<Health, SnapshotError> {
        let seal: Seal = snapshot.detail_for(NAME)?;
        let found = Found::open(snapshot)?.ok_or_else(|| gone(snapshot))?;
        found.image(&snapshot.volume)?;
        if let Some(why) = found.difference(&seal)? {
            let why = why.to_owned();
            return Ok(Health::Lost { why });
        }
        let room = free_bytes(&found.top).map_err(SnapshotError::io("looking at", &found.path))?;
        Ok(Health::Sound { room })
    }
}

/// A volume in a subvolume of its own.
struct Place {
    volume: PathBuf,
    file: File,
    top: File,
}

impl Place {
    fn of(volume: &Path) -> Result<Self, String> {
        let said = |error: std::io::Error| error.to_string();
        let volume = volume.canonicalize().map_err(said)?;
        let parent = volume.parent().unwrap_or(Path::new("/"));
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let open = |path: &Path| openat(CWD, path, flags, Mode::empty()).map(File::from);
        let file = open(&volume).map_err(|error| said(error.into()))?;
        if Sharing::of(&file) != Some(Sharing::Btrfs) {
            return Err("it is not on btrfs".to_owned());
        }
        if !file.metadata().map_err(said)?.is_file() {
            return Err("it is no regular file".to_owned());
        }
        let top = open(parent).map_err(|error| said(error.into()))?;
        let subvolume = subvolume_of(&file).map_err(said)?;
        let is_on_top = top.metadata().map_err(said)?.ino() == BTRFS_SUBVOLUME_TOP;
        if subvolume.id == BTRFS_FIRST_SUBVOLUME || !is_on_top {
            return Err("it is not directly in a subvolume of its own".to_owned());
        }
        Ok(Self { volume, file, top })
    }

    fn fitness(&self) -> Result<Fitness, String> {
        let said = |error: std::io::Error| error.to_string();
        let metadata = self.file.metadata().map_err(said)?;
        Ok(Fitness {
            atomicity: Atomicity::PowerCut,
            cost: Cost {
                extents: None,
                pause: PAUSE,
            },
            space: Space {
                at_risk: metadata.blocks().saturating_mul(512).min(metadata.size()),
                free: free_bytes(&self.file).map_err(|error| said(error.into()))?,
            },
            delta: Told::Changes,
        })
    }
}

/// A subvolume that has a snapshot's name.
struct Found {
    path: PathBuf,
    top: File,
}

impl Found {
    fn open(snapshot: &Snapshot) -> Result<Option<Self>, SnapshotError> {
        match Folder::find(&snapshot.volume)? {
            None => Ok(None),
            Some(folder) => Self::open_in(&folder, &snapshot.name),
        }
    }

    fn open_in(folder: &Folder, name: &SnapshotName) -> Result<Option<Self>, SnapshotError> {
        let name = name.to_string();
        let path = folder.join(&name);
        let top = match folder.open_file(&name, OFlags::RDONLY | OFlags::DIRECTORY) {
            Ok(top) => top,
            Err(error) if error.is_missing() => return Ok(None),
            Err(error) => return Err(error),
        };
        let failed = || SnapshotError::io("looking at", &path);
        if top.metadata().map_err(failed())?.ino() != BTRFS_SUBVOLUME_TOP {
            let why = "it is no subvolume".to_owned();
            return Err(SnapshotError::NotOurs { path, why });
        }
        Ok(Some(Self { path, top }))
    }

    fn subvolume(&self) -> Result<Subvolume, SnapshotError> {
        subvolume_of(&self.top).map_err(SnapshotError::io("looking at", &self.path))
    }

    /// What makes it useless, if anything does. A store that is still in memory only does not show
    /// yet: the image must have been opened before.
    fn difference(&self, made: &Seal) -> Result<Option<&'static str>, SnapshotError> {
        let subvolume = self.subvolume()?;
        let seal = Seal::of(&subvolume);
        Ok(if seal.uuid != made.uuid {
            Some("it is another subvolume than the one that was made")
        } else if seal.changed_transid != made.changed_transid {
            Some("it was touched after it was made")
        } else if !subvolume.is_read_only {
            Some("it is not read-only any more")
        } else {
            None
        })
    }

    /// Opens and flushes the image, so that a store by whoever could write it shows in the seal.
    fn image(&self, volume: &Path) -> Result<Image, SnapshotError> {
        let name = volume.file_name().unwrap_or_default();
        let path = self.path.join(name);
        let failed = || SnapshotError::io("opening", &path);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let opened = openat(&self.top, name, flags, Mode::empty()).map_err(std::io::Error::from);
        let file = opened.map(File::from).map_err(failed())?;
        let metadata = file.metadata().map_err(failed())?;
        if !metadata.is_file() {
            let why = "it is no regular file".to_owned();
            return Err(SnapshotError::NotOurs { path, why });
        }
        file.sync_data().map_err(failed())?;
        Ok(Image {
            size: metadata.len(),
            path,
            file,
        })
    }
}

/// An image whose subvolume is alive, read-only and what was made.
struct Trusted {
    which: Which,
    found: Found,
    image: File,
    seal: Seal,
}

impl Trusted {
    fn open(snapshot: &Snapshot, which: Which) -> Result<Self, Doubt> {
        let seal: Seal = snapshot
            .detail_for(NAME)
            .map_err(Doubt::unreadable(which))?;
        let found = Found::open(snapshot).map_err(Doubt::unreadable(which))?;
        let found = found.ok_or(Doubt::Gone { which })?;
        let image = found
            .image(&snapshot.volume)
            .map_err(Doubt::unreadable(which))?;
        let trusted = Self {
            which,
            found,
            image: image.file,
            seal,
        };
        trusted.is_still_sealed()?;
        Ok(trusted)
    }

    fn is_still_sealed(&self) -> Result<(), Doubt> {
        let which = self.which;
        let subvolume = self.found.subvolume().map_err(Doubt::unreadable(which))?;
        let seal = Seal::of(&subvolume);
        if seal.uuid != self.seal.uuid {
            let what = "another subvolume has its name".to_owned();
            return Err(Doubt::Replaced { which, what });
        }
        if !subvolume.is_read_only {
            return Err(Doubt::NotImmutable { which });
        }
        if seal != self.seal {
            return Err(Doubt::Touched { which });
        }
        Ok(())
    }
}

fn describe(
    folder: &Folder,
    name: &SnapshotName,
    volume: &Path,
) -> Result<Snapshot, SnapshotError> {
    let found = Found::open_in(folder, name)?.ok_or_else(|| SnapshotError::Gone {
        name: name.to_string(),
    })?;
    let size = found.image(volume)?.size;
    Snapshot::made(NAME, name, volume, size, &Seal::of(&found.subvolume()?))
}

fn gone(snapshot: &Snapshot) -> SnapshotError {
    SnapshotError::Gone {
        name: snapshot.name.to_string(),
    }
}
