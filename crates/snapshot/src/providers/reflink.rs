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
//! To release: take the flag away, unlink, fsync the folder, remove the folder if it is empty. A
//! crash between leaves a whole image, which can be released again.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use lockstep_volume::count_extents;
use rustix::fs::{
    AtFlags, CWD, FlockOperation, IFlags, Mode, OFlags, RenameFlags, StatxFlags, fchmod, flock,
    ioctl_ficlone, ioctl_getflags, ioctl_setflags, openat, renameat_with, statx,
};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::changed::Changed;
use crate::compare::{Asking, Sharing, compare};
use crate::doubt::{Doubt, Which};
use crate::error::SnapshotError;
use crate::folder::{Folder, free_bytes};
use crate::name::{SnapshotName, VolumeName};
use crate::provider::{Atomicity, Cost, Fitness, Health, Provider, Space, Told, Verdict};
use crate::snapshot::{Image, Recovered, Snapshot};
use crate::steps::{Observer, Step};

const NAME: &str = "reflink";
/// Around a snapshot's name while it is being made.
const MAKING: (&str, &str) = (".", ".making");
/// Bytes that the probe clones; a block of every usual size.
const PROBE_BYTES: usize = 64 * 1024;

/// The provider.
#[derive(Debug)]
pub struct Reflink {
    observer: Observer,
    asking: Asking,
}

/// What tells an image from every other file, and from itself after a change.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Seal {
    inode: u64,
    /// Time of birth in nanoseconds since 1970, where the filesystem keeps it.
    born_ns: Option<i64>,
    /// Time of the last change of the file or of what is known of it.
    changed_ns: i64,
    size: u64,
    immutable: bool,
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

    fn create(&self, volume: &Path, name: &SnapshotName) -> Result<Snapshot, SnapshotError> {
        let volume = canonical(volume)?;
        let source = open_volume(&volume)?;
        let folder = Folder::make(&volume)?;
        self.observer.done(Step::FolderMade);
        let made = Making::begin(&folder, name, self.observer)
            .and_then(|making| making.finish(&source, &volume));
        if made.is_err() {
            // The first error counts.
            let _ = folder.remove_if_empty();
        }
        let seal = made?;
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
                remove(&folder, &name, &file, self.observer)?;
            }
            Err(error) if error.is_missing() => {}
            Err(error) => return Err(error),
        }
        folder.remove_if_empty()
    }

    fn recover(&self, volume: &Path, name: &VolumeName) -> Result<Recovered, SnapshotError> {
        let volume = canonical(volume)?;
        let mut found = Recovered::default();
        let Some(folder) = Folder::find(&volume)? else {
            return Ok(found);
        };
        for entry in folder.entries()? {
            if entry.is_folder {
                continue;
            }
            if let Some(whole) = SnapshotName::of_volume(&entry.name, name) {
                found.whole.push(adopt(&folder, &whole, &volume)?);
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

/// An image that is being made; what is there of it goes away unless it is finished.
struct Making<'a> {
    folder: &'a Folder,
    name: &'a SnapshotName,
    file: File,
    observer: Observer,
    is_finished: bool,
}

impl<'a> Making<'a> {
    fn begin(
        folder: &'a Folder,
        name: &'a SnapshotName,
        observer: Observer,
    ) -> Result<Self, SnapshotError> {
        let half = half_name(name);
        let file = folder.open_file(&half, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL)?;
        let making = Self {
            folder,
            name,
            file,
            observer,
            is_finished: false,
        };
        // Who recovers meanwhile sees by the lock that somebody is at work.
        flock(&making.file, FlockOperation::NonBlockingLockExclusive)
            .map_err(SnapshotError::io("locking", &folder.join(&half)))?;
        observer.done(Step::Begun);
        Ok(making)
    }

    fn finish(mut self, source: &File, volume: &Path) -> Result<Seal, SnapshotError> {
        let (half, name) = (half_name(self.name), self.name.to_string());
        let half_path = self.folder.join(&half);
        copy_nocow(source, &self.file)
            .map_err(SnapshotError::io("setting flags of", &half_path))?;
        ioctl_ficlone(&self.file, source).map_err(|error| why_no_clone(error, volume))?;
        self.observer.done(Step::Cloned);
        fchmod(&self.file, Mode::RUSR)
            .and_then(|()| rustix::fs::fsync(&self.file))
            .map_err(SnapshotError::io("flushing", &half_path))?;
        self.observer.done(Step::Flushed);
        let path = self.folder.join(&name);
        let folder = self.folder.file();
        renameat_with(folder, &half, folder, &name, RenameFlags::NOREPLACE)
            .map_err(SnapshotError::io("naming", &path))?;
        self.observer.done(Step::Named);
        self.is_finished = true;
        self.folder.sync()?;
        self.observer.done(Step::NameFlushed);
        seal(&self.file, &path)?;
        self.observer.done(Step::Sealed);
        Seal::of(&self.file, &path)
    }
}

impl Drop for Making<'_> {
    fn drop(&mut self) {
        if !self.is_finished {
            // What stays is found by the next recovery.
            let _ = self.folder.remove_file(&half_name(self.name));
        }
    }
}

/// An image that is alive, immutable and what was made.
struct Trusted {
    which: Which,
    file: File,
    path: PathBuf,
    seal: Seal,
}

impl Trusted {
    fn open(snapshot: &Snapshot, which: Which) -> Result<Self, Doubt> {
        let seal: Seal = snapshot
            .detail_for(NAME)
            .map_err(Doubt::unreadable(which))?;
        let (folder, file) = open_image(snapshot).map_err(|error| match error {
            error if error.is_missing() => Doubt::Gone { which },
            error => Doubt::unreadable(which)(error),
        })?;
        let path = folder.join(&snapshot.name.to_string());
        // Extent items do not tell of stores that are in memory only.
        file.sync_data().map_err(Doubt::unreadable(which))?;
        let trusted = Self {
            which,
            file,
            path,
            seal,
        };
        trusted.is_still_sealed()?;
        Ok(trusted)
    }

    fn is_still_sealed(&self) -> Result<(), Doubt> {
        let which = self.which;
        let found = Seal::of(&self.file, &self.path).map_err(Doubt::unreadable(which))?;
        if !found.is_same_file(&self.seal) || found.size != self.seal.size {
            let what = "another file has its name".to_owned();
            return Err(Doubt::Replaced { which, what });
        }
        if !found.immutable || !self.seal.immutable {
            return Err(Doubt::NotImmutable { which });
        }
        if found.changed_ns != self.seal.changed_ns {
            return Err(Doubt::Touched { which });
        }
        Ok(())
    }
}

impl Seal {
    fn of(file: &File, path: &Path) -> Result<Self, SnapshotError> {
        let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
        let stat = statx(file, "", AtFlags::EMPTY_PATH, wanted)
            .map_err(SnapshotError::io("looking at", path))?;
        let time = |time: rustix::fs::StatxTimestamp| {
            let seconds = time.tv_sec.saturating_mul(1_000_000_000);
            seconds.saturating_add(time.tv_nsec.into())
        };
        let is_born = stat.stx_mask & StatxFlags::BTIME.bits() != 0;
        Ok(Self {
            inode: stat.stx_ino,
            born_ns: is_born.then(|| time(stat.stx_btime)),
            changed_ns: time(stat.stx_ctime),
            size: stat.stx_size,
            immutable: stat
                .stx_attributes
                .contains(rustix::fs::StatxAttributes::IMMUTABLE),
        })
    }

    fn is_same_file(&self, other: &Self) -> bool {
        (self.inode, self.born_ns) == (other.inode, other.born_ns)
    }
}

/// What makes an image useless for reading, if anything does. A flag that was taken away is not
/// enough: the time of change tells whether anything else happened, and the flag changes that too.
fn difference(made: &Seal, found: &Seal) -> Option<String> {
    let what = if !found.is_same_file(made) {
        "it is another file than the one that was made"
    } else if found.size != made.size || found.changed_ns != made.changed_ns {
        "it was touched after it was made"
    } else {
        return None;
    };
    Some(what.to_owned())
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
    try_clone(&volume, &file).map_err(|error| match error {
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

/// Clones one block between two files that never have a name.
fn try_clone(volume: &Path, file: &File) -> rustix::io::Result<()> {
    let parent = volume.parent().unwrap_or(Path::new("/"));
    let nameless = || -> rustix::io::Result<File> {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let made = openat(CWD, parent, flags, Mode::RUSR | Mode::WUSR)?;
        copy_nocow(file, &File::from(made.try_clone().map_err(io_errno)?))?;
        Ok(File::from(made))
    };
    let (from, to) = (nameless()?, nameless()?);
    rustix::io::pwrite(&from, &[1; PROBE_BYTES], 0)?;
    ioctl_ficlone(&to, &from)
}

fn io_errno(error: std::io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}

/// btrfs does not share extents between files of which only one is NOCOW.
fn copy_nocow(from: &File, to: &File) -> rustix::io::Result<()> {
    let is_nocow = ioctl_getflags(from).is_ok_and(|flags| flags.contains(IFlags::NOCOW));
    let flags = ioctl_getflags(to)?;
    if flags.contains(IFlags::NOCOW) == is_nocow {
        return Ok(());
    }
    // A folder may pass NOCOW on to files made in it.
    ioctl_setflags(
        to,
        (flags - IFlags::NOCOW)
            | if is_nocow {
                IFlags::NOCOW
            } else {
                IFlags::empty()
            },
    )
}

/// Makes a file immutable, durably. Without the right to, its missing write permission must do, and
/// no delta is believed.
fn seal(file: &File, path: &Path) -> Result<(), SnapshotError> {
    let failed = || SnapshotError::io("making immutable", path);
    let flags = ioctl_getflags(file).map_err(failed())?;
    if flags.contains(IFlags::IMMUTABLE) {
        return Ok(());
    }
    match ioctl_setflags(file, flags | IFlags::IMMUTABLE) {
        Ok(()) => rustix::fs::fsync(file).map_err(failed()),
        Err(Errno::PERM | Errno::ACCESS) => {
            tracing::debug!("{} is not immutable: that needs root", path.display());
            Ok(())
        }
        Err(error) => Err(failed()(error)),
    }
}

fn remove(
    folder: &Folder,
    name: &str,
    file: &File,
    observer: Observer,
) -> Result<(), SnapshotError> {
    let failed = || SnapshotError::io("making removable", &folder.join(name));
    let flags = ioctl_getflags(file).map_err(failed())?;
    if flags.contains(IFlags::IMMUTABLE) {
        ioctl_setflags(file, flags - IFlags::IMMUTABLE).map_err(failed())?;
    }
    observer.done(Step::Unsealed);
    folder.remove_file(name)?;
    observer.done(Step::Removed);
    folder.sync()?;
    observer.done(Step::RemovalFlushed);
    Ok(())
}

/// Finishes what a crash after the naming left undone, and describes what is there.
fn adopt(folder: &Folder, name: &SnapshotName, volume: &Path) -> Result<Snapshot, SnapshotError> {
    let file = folder.open_file(&name.to_string(), OFlags::RDONLY)?;
    let path = folder.join(&name.to_string());
    seal(&file, &path)?;
    folder.sync()?;
    let seal = Seal::of(&file, &path)?;
    Snapshot::made(NAME, name, volume, seal.size, &seal)
}

/// Removes a half made image, unless somebody is making it.
fn remove_half_made(folder: &Folder, name: &str) -> Result<bool, SnapshotError> {
    let file = match folder.open_file(name, OFlags::RDONLY) {
        Ok(file) => file,
        // Finished or given up in this moment.
        Err(error) if error.is_missing() => return Ok(false),
        Err(error) => return Err(error),
    };
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => return Ok(false),
        Err(error) => return Err(SnapshotError::io("locking", &folder.join(name))(error)),
    }
    folder.remove_file(name)?;
    folder.sync()?;
    Ok(true)
}

fn half_name(name: &SnapshotName) -> String {
    let (before, after) = MAKING;
    format!("{before}{name}{after}")
}

fn is_half_made(entry: &str, volume: &VolumeName) -> bool {
    let (before, after) = MAKING;
    entry
        .strip_prefix(before)
        .and_then(|rest| rest.strip_suffix(after))
        .is_some_and(|name| SnapshotName::of_volume(name, volume).is_some())
}

fn open_image(snapshot: &Snapshot) -> Result<(Folder, File), SnapshotError> {
    let gone = || SnapshotError::Gone {
        name: snapshot.name.to_string(),
    };
    let folder = Folder::find(&snapshot.volume)?.ok_or_else(gone)?;
    match folder.open_file(&snapshot.name.to_string(), OFlags::RDONLY) {
        Ok(file) if file.metadata().is_ok_and(|metadata| metadata.is_file()) => Ok((folder, file)),
        Ok(_) => Err(SnapshotError::NotOurs {
            path: folder.join(&snapshot.name.to_string()),
            why: "it is no regular file".to_owned(),
        }),
        Err(error) if error.is_missing() => Err(gone()),
        Err(error) => Err(error),
    }
}

fn why_no_clone(error: Errno, volume: &Path) -> SnapshotError {
    let why = match error {
        Errno::OPNOTSUPP | Errno::NOTTY => "its filesystem has no reflinks",
        Errno::XDEV => "its folder is on another filesystem",
        Errno::INVAL => "its filesystem refuses to share its extents",
        Errno::TXTBSY => "it is used as swap space",
        error => return SnapshotError::io("cloning", volume)(error),
    };
    SnapshotError::Unfit {
        provider: NAME,
        volume: volume.to_path_buf(),
        why: why.to_owned(),
    }
}

fn canonical(volume: &Path) -> Result<PathBuf, SnapshotError> {
    volume
        .canonicalize()
        .map_err(SnapshotError::io("looking up", volume))
}

fn open_volume(volume: &Path) -> Result<File, SnapshotError> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let opened = openat(CWD, volume, flags, Mode::empty());
    opened
        .map(File::from)
        .map_err(SnapshotError::io("opening", volume))
}
