//! Real logical volumes, which few machines have: `tests/vm/run lvm-provider` brings one.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use lockstep_snapshot::{
    Doubt, Health, Lvm, Provider, Registry, Snapshot, SnapshotError, SnapshotName, Verdict,
    VolumeName, choose,
};

use crate::lab::run;
use crate::stage::write;

/// A thin volume and a plain one, whose content may be destroyed.
const THIN: &str = "LOCKSTEP_SNAPSHOT_TEST_THIN_VOLUME";
const THIN_POOL: &str = "LOCKSTEP_SNAPSHOT_TEST_THIN_POOL";
const CLASSIC: &str = "LOCKSTEP_SNAPSHOT_TEST_CLASSIC_VOLUME";
/// The largest block of a thin pool here.
const BLOCK: u64 = 64 << 10;

/// A volume that may be overwritten, if this run has one.
struct Device {
    lvm: Lvm,
    path: PathBuf,
    file: File,
}

impl Device {
    fn given(variable: &str) -> Option<Self> {
        let path = PathBuf::from(std::env::var_os(variable)?);
        let file = OpenOptions::new().read(true).write(true).open(&path);
        Some(Self {
            lvm: Lvm::new(),
            path,
            file: file.unwrap(),
        })
    }

    fn name(&self) -> VolumeName {
        VolumeName::of_path(&self.path)
    }

    fn freeze(&self, run: &str) -> Snapshot {
        let name = SnapshotName::new(&self.name(), run).unwrap();
        self.lvm.create(&self.path, &name).unwrap()
    }

    fn bytes(&self, snapshot: &Snapshot) -> Vec<u8> {
        let image = self.lvm.open(snapshot).unwrap();
        let mut bytes = vec![0; image.size as usize];
        image.file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    fn write(&self, at: u64, length: u64, seed: u64) {
        write(&self.file, at..at + length, seed);
        self.file.sync_all().unwrap();
    }

    fn assert_nothing_is_left(&self) {
        let found = self.lvm.recover(&self.path, &self.name()).unwrap();
        assert_eq!(found, lockstep_snapshot::Recovered::default());
    }

    fn images_stay_as_they_are(&self) {
        self.write(0, 4 << 20, 1);
        let verdict = self.lvm.probe(&self.path);
        assert!(matches!(verdict, Verdict::Fit(_)), "{verdict:?}");
        let choice = choose(&self.path, &Registry::system());
        assert_eq!(
            choice.chosen.unwrap().provider,
            "lvm",
            "{:?}",
            choice.others
        );
        let snapshot = self.freeze("first");
        let before = self.bytes(&snapshot);
        let mut volume = vec![0; before.len()];
        self.file.read_exact_at(&mut volume, 0).unwrap();
        assert!(before == volume, "the image is not the volume");
        self.write(1 << 20, 100_000, 2);
        assert!(self.bytes(&snapshot) == before, "the image changed");
        let path = self.lvm.open(&snapshot).unwrap().path;
        let written = OpenOptions::new().write(true).open(&path);
        let stored =
            written.and_then(|file| file.write_all_at(b"x", 0).and_then(|()| file.sync_all()));
        assert!(stored.is_err(), "the image can be written");
        let again = self.lvm.create(&self.path, &snapshot.name).unwrap_err();
        assert!(matches!(again, SnapshotError::Exists { .. }), "{again}");
        let health = self.lvm.health(&snapshot).unwrap();
        assert!(
            matches!(health, Health::Sound { room } if room > 0),
            "{health:?}"
        );
        let found = self.lvm.recover(&self.path, &self.name()).unwrap();
        assert_eq!(found.whole.len(), 1);
        assert_eq!(found.whole[0].detail, snapshot.detail);
        assert_eq!(found.whole[0].size, snapshot.size);
        self.lvm.release(&snapshot).unwrap();
        self.lvm.release(&snapshot).unwrap();
        let gone = self.lvm.open(&snapshot).unwrap_err();
        assert!(matches!(gone, SnapshotError::Gone { .. }), "{gone}");
        self.assert_nothing_is_left();
    }
}

#[test]
fn a_thin_volume_conforms() {
    let Some(device) = Device::given(THIN) else {
        return eprintln!("skipped: {THIN} names no thin volume");
    };
    device.images_stay_as_they_are();
    let base = device.freeze("base");
    device.write(BLOCK * 3, 10, 7);
    device.write(BLOCK * 30 - 5, 10, 8);
    let now = device.freeze("now");
    let changed = device.lvm.delta(&base, &now).unwrap();
    let (was, is) = (device.bytes(&base), device.bytes(&now));
    for (at, (one, other)) in was.iter().zip(&is).enumerate() {
        let at = at as u64;
        assert!(
            one == other || changed.touches(at..at + 1),
            "byte {at} was missed"
        );
    }
    assert_eq!(changed.bytes(), 3 * BLOCK, "{changed:?}");
    assert_eq!(device.lvm.delta(&now, &now).unwrap().bytes(), 0);
    a_metadata_snapshot_left_by_a_crash_is_released(&device);
    assert_eq!(device.lvm.delta(&base, &now).unwrap(), changed);
    device.lvm.release(&base).unwrap();
    let doubt = device.lvm.delta(&base, &now).unwrap_err();
    assert_eq!(doubt.word(), "gone", "{doubt}");
    device.lvm.release(&now).unwrap();
    device.assert_nothing_is_left();
}

/// What a delta leaves that is killed between its steps.
fn a_metadata_snapshot_left_by_a_crash_is_released(device: &Device) {
    let pool = std::env::var(THIN_POOL).unwrap();
    let (vg, lv) = pool.split_once('/').unwrap();
    let mapped = format!("{vg}-{}-tpool", lv.replace('-', "--"));
    run("lvchange", &["--addtag", "lockstep_metadata_snap", &pool]).unwrap();
    run(
        "dmsetup",
        &["message", &mapped, "0", "reserve_metadata_snap"],
    )
    .unwrap();
    let found = device.lvm.recover(&device.path, &device.name()).unwrap();
    assert_eq!(found.removed, [format!("{pool} metadata snapshot")]);
    let status = run("dmsetup", &["status", &mapped]).unwrap();
    assert_eq!(status.split(' ').nth(6), Some("-"), "{status}");
    // One of somebody else stays his, and leaves doubt.
    run(
        "dmsetup",
        &["message", &mapped, "0", "reserve_metadata_snap"],
    )
    .unwrap();
    let found = device.lvm.recover(&device.path, &device.name()).unwrap();
    assert_eq!(found.removed, [""; 0]);
    let doubt = device
        .lvm
        .delta(&found.whole[0], &found.whole[1])
        .unwrap_err();
    assert_eq!(doubt.word(), "program", "{doubt}");
    run(
        "dmsetup",
        &["message", &mapped, "0", "release_metadata_snap"],
    )
    .unwrap();
}

#[test]
fn a_classic_volume_conforms_until_its_area_is_full() {
    let Some(device) = Device::given(CLASSIC) else {
        return eprintln!("skipped: {CLASSIC} names no plain logical volume");
    };
    device.images_stay_as_they_are();
    let snapshot = device.freeze("full");
    let doubt = device.lvm.delta(&snapshot, &snapshot).unwrap_err();
    assert!(matches!(doubt, Doubt::NotTold { .. }), "{doubt}");
    let image = device.lvm.open(&snapshot).unwrap();
    let mut rooms = Vec::new();
    for at in 0..snapshot.size >> 20 {
        match device.lvm.health(&snapshot).unwrap() {
            Health::Sound { room } => rooms.push(room),
            Health::Lost { why } => {
                eprintln!("after {at} MiB: {why}");
                break;
            }
        }
        device.write(at << 20, 1 << 20, at + 100);
    }
    assert!(rooms.is_sorted_by(|one, other| one >= other), "{rooms:?}");
    let lost = device.lvm.health(&snapshot).unwrap();
    assert!(matches!(lost, Health::Lost { .. }), "{lost:?}");
    let refused = device.lvm.open(&snapshot).unwrap_err();
    assert!(matches!(refused, SnapshotError::Lost { .. }), "{refused}");
    let mut bytes = vec![0; 4096];
    let read = image.file.read_exact_at(&mut bytes, snapshot.size / 2);
    assert!(read.is_err(), "a lost image can be read");
    drop(image);
    device.lvm.release(&snapshot).unwrap();
    device.assert_nothing_is_left();
}
