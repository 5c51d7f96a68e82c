//! `reflink`: an image file on XFS or btrfs shares all its extents with the volume (FICLONE).
//!
//! FICLONE is atomic against every writer and takes dirty pages along, so nothing needs to be
//! flushed before. Writers wait until it is done, a time that grows with the extents.
//!
//! # Recipe
//!
//! | step | what is done | after a crash here |
//! | --- | --- | --- |
//! | 1 | make the folder, fsync its parent | an empty folder, which `recover` removes |
//! | 2 | make `.NAME.making` and lock it; NOCOW if the volume is | `recover` removes it |
//! | 3 | FICLONE | the same |
//! | 4 | fsync it, take its write permission away | the same |
//! | 5 | rename it to `NAME`, fsync the folder | it is whole; `recover` does step 6 |
//! | 6 | make it immutable, fsync it | it is whole |
//!
//! To release: take the flag away, give it a name of something half made, empty it, unlink, fsync the
//! folder, remove the folder if it is empty. A crash between leaves an image whose name says which of
//! the two it is: whole, and to be released again, or half made, which the next recovery removes.

mod making;
mod seal;

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use lockstep_volume::count_extents;
use rustix::fs::{CWD, FileType, Mode, OFlags, ioctl_ficlone, openat};
use rustix::io::Errno;

use crate::changed::Changed;
use crate::compare::{Asking, Sharing, compare};
use crate::doubt::{Doubt, Which};
use crate::error::SnapshotError;
use crate::folder::{Folder, free_bytes};
use crate::name::{SnapshotName, VolumeName};
use crate::provider::{Atomicity, Cost, Fitness, Health, Provider, Space, Told, Verdict};
use crate::snapshot::{Image, Recovered, Snapshot, canonical, canonical_place};
use crate::steps::{Observer, Step};

use making::{Making, adopt, copy_nocow, is_half_made, remove, remove_half_made};
use seal::{Seal, Trusted, difference, open_image};

const NAME: &str = "reflink";
/// Bytes that the probe clones; a block of every usual size.
const PROBE_BYTES: usize = 64 * 1024;

/// The provider.
#[derive(Debug)]
pub struct Reflink {
    observer: Observer,
    asking: Asking,
}

impl Reflink {
    /// The provider.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            observer: Observer::nobody(),
            asking: Asking::ItemsIfAllowed,
        }
    }

    /// The provider, watched at every step.
    #[must_use]
    pub const fn observed(observer: Observer) -> Self {
        Self {
            observer,
            ..Self::new()
        }
    }

    /// The provider as it is for a user who may not read btrfs's trees: compressed extents count as
    /// changed.
    #[must_use]
    pub const fn by_maps_only() -> Self {
        Self {
            asking: Asking::MapsOnly,
            ..Self::new()
        }
    }
}

impl Default for Reflink {
    fn default() -> Self {
        Self::new()
    }
}

impl Provider for Reflink {
    fn name(&self) -> &'static str {
        NAME
    }

    fn probe(&self, volume: &Path) -> Verdict {
        match fitness(volume) {
            Ok(fitness) => Verdict::Fit(fitness),
            Err(why) => Verdict::unfit(why),
        }
    }

    fn suits_new_file(&self, volume: &Path) -> bool {
        let folder = volume.parent().and_then(|folder| File::open(folder).ok());
        folder.is_some_and(|folder| Sharing::of(&folder).is_some())
            && try_clone(volume, |_| Ok(())).is_ok()
    }

    fn create(&self, volume: &Path, name: &SnapshotName) -> Result<Snapshot, SnapshotError> {
        let volume = canonical(volume)?;
        let source = open_volume(&volume)?;
        let seal = Folder::make_for(&volume, |folder| {
            self.observer.done(Step::FolderMade);
            Making::begin(folder, name, self.observer)?.finish(&source, &volume)
        })?;
        Snapshot::made(NAME, name, &volume, seal.size, &seal)
    }

    fn open(&self, snapshot: &Snapshot) -> Result<Image, SnapshotError> {
        let seal: Seal = snapshot.detail_for(NAME)?;
        let (folder, file) = open_image(snapshot)?;
        let path = folder.join(&snapshot.name.to_string());
        let found = Seal::of(&file, &path)?;
        if let Some(why) = difference(&seal, &found) {
            return Err(SnapshotError::NotOurs { path, why });
        }
        Ok(Image {
            path,
            file,
            size: found.size,
        })
    }

    fn delta(&self, base: &Snapshot, now: &Snapshot) -> Result<Changed, Doubt> {
        Doubt::unless_comparable(base, now, NAME)?;
        let of_base = Trusted::open(base, Which::Base)?;
        let of_now = Trusted::open(now, Which::Now)?;
        let changed = compare(&of_base.file, &of_now.file, self.asking)?;
        of_base.is_still_sealed()?;
        of_now.is_still_sealed()?;
        Ok(changed)
    }

    fn release(&self, snapshot: &Snapshot) -> Result<(), SnapshotError> {
        let seal: Seal = snapshot.detail_for(NAME)?;
        let Some(folder) = Folder::find(&snapshot.volume)? else {
            return Ok(());
        };
        let name = snapshot.name.to_string();
        match folder.open_file(&name, OFlags::RDONLY) {
            Ok(file) => {
                let path = folder.join(&name);
                let found = Seal::of(&file, &path)?;
                if !found.is_same_file(&seal) {
                    let why = "it is another file than the one that was made".to_owned();
                    return Err(SnapshotError::NotOurs { path, why });
                }
                remove(&folder, &snapshot.name, &file, self.observer)?;
            }
            Err(error) if error.is_missing() => {}
            Err(error) => return Err(error),
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
            if entry.kind != FileType::RegularFile {
                continue;
            }
            if let Some(whole) = SnapshotName::of_volume(&entry.name, name) {
                found.whole.extend(adopt(&folder, &whole, &volume)?);
            } else if is_half_made(&entry.name, name) {
                if remove_half_made(&folder, &entry.name)? {
                    found.removed.push(entry.name);
                } else {
                    found.in_the_making.push(entry.name);
                }
            }
        }
        folder.remove_if_empty()?;
        Ok(found.sorted())
    }

    fn health(&self, snapshot: &Snapshot) -> Result<Health, SnapshotError> {
        let seal: Seal = snapshot.detail_for(NAME)?;
        let (folder, file) = open_image(snapshot)?;
        let found = Seal::of(&file, &folder.join(&snapshot.name.to_string()))?;
        if let Some(why) = difference(&seal, &found) {
            return Ok(Health::Lost { why });
        }
        let room = folder.free_bytes()?;
        Ok(Health::Sound { room })
    }
}

fn fitness(volume: &Path) -> Result<Fitness, String> {
    let volume = canonical(volume).map_err(|error| error.to_string())?;
    let file = open_volume(&volume).map_err(|error| error.to_string())?;
    let metadata = file.metadata().map_err(|error| error.to_string())?;
    if !metadata.is_file() {
        return Err("it is no regular file".to_owned());
    }
    if Sharing::of(&file).is_none() {
        return Err("its filesystem is neither XFS nor btrfs".to_owned());
    }
    try_clone(&volume, |made| copy_nocow(&file, made)).map_err(|error| match error {
        Errno::OPNOTSUPP => "its filesystem was made without reflinks".to_owned(),
        error => format!("a trial clone beside it failed: {error}"),
    })?;
    let extents =
        count_extents(&file).map_err(|error| format!("its extents cannot be counted: {error}"))?;
    Ok(Fitness {
        atomicity: Atomicity::Instant,
        cost: Cost::of_extents(extents),
        space: Space {
            at_risk: metadata.blocks().saturating_mul(512).min(metadata.size()),
            free: free_bytes(&file).map_err(|error| error.to_string())?,
        },
        delta: Told::Changes,
    })
}

/// Clones one block between two files that never have a name, each made like the volume.
fn try_clone(
    volume: &Path,
    make_alike: impl Fn(&File) -> rustix::io::Result<()>,
) -> rustix::io::Result<()> {
    let parent = volume.parent().unwrap_or(Path::new("/"));
    let nameless = || -> rustix::io::Result<File> {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let made = File::from(openat(CWD, parent, flags, Mode::RUSR | Mode::WUSR)?);
        make_alike(&made)?;
        Ok(made)
    };
    let (from, to) = (nameless()?, nameless()?);
    rustix::io::pwrite(&from, &[1; PROBE_BYTES], 0)?;
    ioctl_ficlone(&to, &from)
}

fn open_volume(volume: &Path) -> Result<File, SnapshotError> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let opened = openat(CWD, volume, flags, Mode::empty());
    opened
        .map(File::from)
        .map_err(SnapshotError::io("opening", volume))
}
