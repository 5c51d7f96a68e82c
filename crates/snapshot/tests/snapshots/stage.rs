//! A volume that a provider can freeze, and an independent eye on its images.

use std::fs::{File, OpenOptions};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use lockstep_snapshot::{
    Atomicity, Changed, Doubt, Provider, Snapshot, SnapshotName, Verdict, VolumeName,
};
use rustix::fs::{FallocateFlags, fallocate};

use crate::lab::{Mounted, run, text};

pub(crate) const PAGE: u64 = 4096;
/// Bytes of a staged volume: not a whole number of pages.
pub(crate) const SIZE: u64 = (8 << 20) + 1234;

/// A provider with a volume that it is fit for.
pub(crate) struct Stage {
    pub(crate) provider: Box<dyn Provider>,
    pub(crate) volume: PathBuf,
    /// What is beside the volume before the first snapshot.
    before: Vec<String>,
    mounted: Option<Mounted>,
}

impl Stage {
    pub(crate) fn new(
        provider: impl Provider + 'static,
        volume: PathBuf,
        mounted: Option<Mounted>,
    ) -> Self {
        Self {
            provider: Box::new(provider),
            before: names_beside(&volume),
            volume,
            mounted,
        }
    }

    /// A file of [`SIZE`] bytes at the top of a filesystem.
    pub(crate) fn on(mounted: Mounted, provider: impl Provider + 'static) -> Self {
        let volume = mounted.point.join("disk.img");
        fill(&volume);
        Self::new(provider, volume, Some(mounted))
    }

    /// The same in a subvolume of its own.
    pub(crate) fn in_subvolume(
        mounted: Mounted,
        provider: impl Provider + 'static,
    ) -> Option<Self> {
        let folder = mounted.point.join("own");
        run("btrfs", &["subvolume", "create", text(&folder)])?;
        let volume = folder.join("disk.img");
        fill(&volume);
        Some(Self::new(provider, volume, Some(mounted)))
    }

    /// As a reboot would: what is known of the images must hold longer than memory.
    pub(crate) fn remount(&self) {
        self.mounted.as_ref().unwrap().remount();
    }

    pub(crate) fn name(&self) -> VolumeName {
        VolumeName::of_path(&self.volume)
    }

    pub(crate) fn snapshot_name(&self, run: &str) -> SnapshotName {
        SnapshotName::new(&self.name(), run).unwrap()
    }

    pub(crate) fn freeze(&self, run: &str) -> Snapshot {
        let name = self.snapshot_name(run);
        let snapshot = self.provider.create(&self.volume, &name).unwrap();
        assert_eq!(snapshot.name, name);
        snapshot
    }

    pub(crate) fn atomicity(&self) -> Atomicity {
        match self.provider.probe(&self.volume) {
            Verdict::Fit(fitness) => fitness.atomicity,
            Verdict::Unfit { why } => panic!("{:?} is unfit: {why}", self.provider),
        }
    }

    pub(crate) fn open_volume(&self) -> File {
        let mut options = OpenOptions::new();
        options.read(true).write(true).open(&self.volume).unwrap()
    }

    /// All bytes of an image.
    pub(crate) fn bytes(&self, snapshot: &Snapshot) -> Vec<u8> {
        let image = self.provider.open(snapshot).unwrap();
        let bytes = std::fs::read(&image.path).unwrap();
        assert_eq!(bytes.len() as u64, image.size);
        assert_eq!(image.size, snapshot.size);
        bytes
    }

    /// The delta of two images, after looking at every byte that it leaves out.
    pub(crate) fn delta(&self, base: &Snapshot, now: &Snapshot) -> Result<Changed, Doubt> {
        let changed = self.provider.delta(base, now)?;
        self.assert_covers(&changed, base, now);
        Ok(changed)
    }

    pub(crate) fn assert_covers(&self, changed: &Changed, base: &Snapshot, now: &Snapshot) {
        let (was, is) = (self.bytes(base), self.bytes(now));
        assert_eq!(changed.size(), is.len() as u64);
        for (at, byte) in is.iter().enumerate() {
            let at = at as u64;
            if was.get(at as usize) != Some(byte) {
                assert!(changed.touches(at..at + 1), "byte {at} was missed");
            }
        }
    }

    pub(crate) fn release(&self, snapshots: &[&Snapshot]) {
        for snapshot in snapshots {
            self.provider.release(snapshot).unwrap();
        }
    }

    pub(crate) fn assert_nothing_is_left(&self) {
        assert_eq!(names_beside(&self.volume), self.before);
        let found = self.provider.recover(&self.volume, &self.name()).unwrap();
        assert_eq!(found, lockstep_snapshot::Recovered::default());
    }
}

fn names_beside(volume: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(volume.parent().unwrap()).unwrap();
    let name = |entry: std::io::Result<std::fs::DirEntry>| entry.unwrap().file_name();
    let mut names: Vec<String> = entries
        .map(|entry| name(entry).into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Data, holes, allocated space that was never written, and a ragged end.
pub(crate) fn fill(volume: &Path) {
    let file = File::create(volume).unwrap();
    file.set_len(SIZE).unwrap();
    write(&file, 0..2 << 20, 1);
    preallocate(&file, 3 << 20..4 << 20);
    write(&file, (3 << 20) + 8192..(3 << 20) + 20_480, 2);
    write(&file, 5 << 20..SIZE, 3);
}

/// Writes bytes that differ with the seed and the place, and cannot be compressed.
pub(crate) fn write(file: &File, range: Range<u64>, seed: u64) {
    let mut random = Random::new(seed ^ range.start);
    let bytes: Vec<u8> = (0..(range.end - range.start).div_ceil(8))
        .flat_map(|_| random.next().to_le_bytes())
        .collect();
    let length = (range.end - range.start) as usize;
    file.write_all_at(&bytes[..length], range.start).unwrap();
}

pub(crate) fn preallocate(file: &File, range: Range<u64>) {
    let flags = FallocateFlags::KEEP_SIZE;
    fallocate(file, flags, range.start, range.end - range.start).unwrap();
}

pub(crate) fn punch(file: &File, range: Range<u64>) {
    let flags = FallocateFlags::KEEP_SIZE | FallocateFlags::PUNCH_HOLE;
    fallocate(file, flags, range.start, range.end - range.start).unwrap();
}

/// Numbers that look random and are the same in every run (splitmix64).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}
