//! Sources: what holds them still, and what they notice when nothing does.

use std::fs::OpenOptions;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::time::{Duration, Instant};

use lockstep_volume::{
    Held, Hold, HoldLost, IoFailureKind, OpenErrorKind, Volume, VolumeKind, open_source,
};

use crate::lab::{
    LoopDevice, Mounted, Running, file_with, folder, need, pattern, read, sparse_file, text,
};

/// `O_NONBLOCK`: the open fails where it would wait for a lease, and asks for it all the same.
const NONBLOCK: i32 = 0o4000;

#[test]
fn a_lease_holds_until_somebody_wants_to_write() {
    let folder = folder();
    let path = file_with(folder.path(), "image", &pattern(5000));
    let source = open_source(&path, Hold::Exclusive).unwrap();
    assert_eq!(source.hold(), Held::Lease);
    let reader = std::fs::File::open(&path).unwrap();
    source.still_held().unwrap();
    drop(reader);
    let writer = OpenOptions::new()
        .write(true)
        .custom_flags(NONBLOCK)
        .open(&path);
    assert!(writer.is_err(), "the lease keeps the writer out");
    let lost = source.still_held().unwrap_err();
    assert!(matches!(lost, HoldLost::Broken { .. }), "{lost}");
    assert_eq!(read(&source, 0, 5000), pattern(5000), "and is read on");
}

#[test]
fn letting_go_lets_a_waiting_writer_through_at_once() {
    let folder = folder();
    let path = file_with(folder.path(), "image", &pattern(5000));
    let source = open_source(&path, Hold::Exclusive).unwrap();
    let writer = std::thread::spawn({
        let path = path.clone();
        move || OpenOptions::new().write(true).open(path).map(drop)
    });
    assert!(crate::lab::eventually(|| source.still_held().is_err()));
    let asked = Instant::now();
    source.release_hold();
    writer.join().unwrap().unwrap();
    assert!(asked.elapsed() < Duration::from_secs(5));
    let lost = source.still_held().unwrap_err();
    assert!(matches!(lost, HoldLost::NotHeld { .. }), "{lost}");
}

#[test]
fn a_file_open_for_writing_is_not_exclusive_and_the_writer_is_named() {
    let folder = folder();
    let path = file_with(folder.path(), "image", &pattern(5000));
    let writer = OpenOptions::new().write(true).open(&path).unwrap();
    let writer = Running::holding(writer);
    let named = format!("process {} (sleep)", writer.0.id());
    let refusal = open_source(&path, Hold::Exclusive).unwrap_err();
    assert_eq!(refusal.kind(), OpenErrorKind::NoExclusive);
    assert!(refusal.to_string().contains(&named), "{refusal}");
    let source = open_source(&path, Hold::None).unwrap();
    let Held::Nothing { why } = source.hold() else {
        panic!("{:?}", source.hold());
    };
    assert!(why.contains(&named), "{why}");
    assert!(source.still_held().is_err());
    assert_eq!(read(&source, 4990, 10), pattern(5000)[4990..]);
}

#[test]
fn a_source_that_shrinks_is_told_and_not_filled_up_with_zeros() {
    let folder = folder();
    let path = file_with(folder.path(), "image", &pattern(20_000));
    let keep = OpenOptions::new().write(true).open(&path).unwrap();
    let source = open_source(&path, Hold::None).unwrap();
    keep.set_len(10_000).unwrap();
    let mut buf = [0; 4096];
    source.read_at(0, &mut buf).unwrap();
    let cut = source.read_at(8192, &mut buf).unwrap_err();
    assert_eq!(cut.kind(), IoFailureKind::Truncated);
    assert!(cut.to_string().contains("ends at 10000"), "{cut}");
    let gone = source.read_back(16_384, &mut buf[..100]).unwrap_err();
    assert_eq!(gone.kind(), IoFailureKind::Truncated);
}

#[test]
fn a_change_in_place_is_noticed_although_the_lease_still_stands() {
    let folder = folder();
    let path = file_with(folder.path(), "image", &pattern(5000));
    let source = open_source(&path, Hold::Exclusive).unwrap();
    let later = std::time::SystemTime::now() + Duration::from_secs(60);
    let reader = std::fs::File::open(&path).unwrap();
    reader.set_modified(later).unwrap();
    let lost = source.still_held().unwrap_err();
    assert!(matches!(lost, HoldLost::Changed { .. }), "{lost}");
}

#[test]
fn a_source_says_what_it_is_and_cannot_be_written() {
    let folder = folder();
    let path = sparse_file(folder.path(), "image", 10 << 20);
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(&pattern(4096), 1 << 20).unwrap();
    file.sync_all().unwrap();
    drop(file);
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap();
    let source = open_source(&path, Hold::Exclusive).unwrap();
    assert_eq!(source.size(), 10 << 20);
    assert_eq!(
        (source.kind(), source.mode_bits()),
        (VolumeKind::File, 0o640)
    );
    assert!((4096..1 << 20).contains(&source.allocated_bytes()));
    assert_eq!(source.path(), path.canonicalize().unwrap());
    assert!(source.write_at(0, b"x").is_err());
    assert!(source.zero(0..1).is_err());
    source.flush().unwrap();
}

#[test]
fn a_device_is_held_exclusively_unless_it_is_mounted() {
    let mounted = need!(Mounted::new("ext4", 16), "no root, loop device or ext4");
    let refusal = open_source(&mounted.device.0, Hold::Exclusive).unwrap_err();
    assert_eq!(refusal.kind(), OpenErrorKind::NoExclusive);
    assert!(
        refusal.to_string().contains(text(&mounted.point)),
        "{refusal}"
    );
    let source = open_source(&mounted.device.0, Hold::None).unwrap();
    assert!(matches!(source.hold(), Held::Nothing { .. }));
    drop(source);

    let folder = folder();
    let path = sparse_file(folder.path(), "image", 1 << 20);
    let device = need!(LoopDevice::on(&path), "no loop device");
    let source = open_source(&device.0, Hold::Exclusive).unwrap();
    assert_eq!(source.hold(), Held::ExclusiveDevice);
    assert_eq!((source.size(), source.mode_bits()), (1 << 20, 0o600));
    source.still_held().unwrap();
}
