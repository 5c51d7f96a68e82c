//! Block devices: guards, sizes that are not a multiple of anything, zeroing, the medium.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;

use lockstep_volume::{
    Hold, IoEngine, OpenErrorKind, TargetPlan, TargetRequest, Volume, VolumeKind, identify,
    open_source, open_target,
};

use crate::lab::{
    LoopDevice, Mounted, begun, file_with, folder, need, pattern, read, read_back, refused,
    request, run, sparse_file, text,
};

const ODD_SIZE: u64 = (1 << 20) + 512;

#[test]
fn a_device_of_an_odd_number_of_sectors_is_written_zeroed_and_read_back_whole() {
    let folder = folder();
    let size = ODD_SIZE as usize;
    let path = file_with(folder.path(), "backing", &vec![0xAA; size]);
    let device = need!(LoopDevice::on(&path), "no root or no loop device");
    let target = begun(&device.0, ODD_SIZE);
    assert_eq!(target.plan(), TargetPlan::Keep);
    assert_eq!(target.kind(), VolumeKind::BlockDevice);
    let mut expected = pattern(size);
    target.write_at(0, &expected).unwrap();
    // Within a sector, from sector to sector, across their boundaries, and at the very end.
    for range in [5..9, 512..1024, 1000..300_000, size - 700..size, 77..77] {
        target.zero(range.start as u64..range.end as u64).unwrap();
        expected[range].fill(0);
    }
    target.write_at(ODD_SIZE - 3, b"end").unwrap();
    expected[size - 3..].copy_from_slice(b"end");
    target.flush().unwrap();
    assert_eq!(read(&target, 0, size), expected);
    for (offset, length) in [(0, size), (1, 5), (511, 1025), (size - 513, 513)] {
        let bytes = read_back(&target, offset as u64, length);
        assert_eq!(bytes, expected[offset..offset + length]);
    }
    assert_eq!(target.next_data(100).unwrap(), Some(100..ODD_SIZE));
    assert!(target.has_medium());
    target.seal().unwrap();
    drop(target);
    drop(device);
    assert_eq!(std::fs::read(&path).unwrap(), expected);
}

#[test]
fn reading_back_shows_the_medium_and_not_the_page_cache() {
    let folder = folder();
    let path = file_with(folder.path(), "backing", &pattern(1 << 20));
    let device = need!(LoopDevice::on(&path), "no root or no loop device");
    for engine in [IoEngine::Threads, IoEngine::Uring] {
        let target = open_target(&TargetRequest {
            engine,
            ..request(&device.0, 1 << 20)
        });
        let target = target.unwrap();
        target.begin_overwrite().unwrap();
        target.write_at(0, &vec![1; 1 << 20]).unwrap();
        target.flush().unwrap();
        assert_eq!(read(&target, 8192, 4096), [1; 4096], "now it is cached");
        let behind = OpenOptions::new().write(true).open(&path).unwrap();
        behind.write_all_at(&[2; 4096], 8192).unwrap();
        assert_eq!(read(&target, 8192, 4096), [1; 4096]);
        assert_eq!(read_back(&target, 8192, 4096), [2; 4096]);
        assert_eq!(read_back(&target, 8191, 3), [1, 2, 2]);
        let (mut one, mut two) = (vec![0; 100], vec![0; 4096]);
        let mut reads = [(8192, &mut one[..]), (8192, &mut two[..])];
        target.read_back_many(&mut reads).unwrap();
        assert_eq!((one, two), (vec![2; 100], vec![2; 4096]));
    }
}

#[test]
fn a_mounted_device_and_its_backing_file_are_in_use_by_the_mount() {
    for kind in ["ext4", "xfs", "btrfs"] {
        let mounted = need!(Mounted::new(kind, 320), "no root, loop device or mkfs");
        let refusal = refused(&mounted.device.0, 320 << 20);
        assert_eq!(refusal.kind(), OpenErrorKind::InUse);
        let told = format!("it is mounted on {} ({kind})", text(&mounted.point));
        assert!(refusal.to_string().contains(&told), "{refusal}");
        let comparing = TargetRequest {
            read_only: true,
            ..request(&mounted.device.0, 320 << 20)
        };
        let refusal = open_target(&comparing).unwrap_err();
        assert_eq!(refusal.kind(), OpenErrorKind::InUse);
    }
}

#[test]
fn swap_on_a_device_is_in_use() {
    let folder = folder();
    let path = sparse_file(folder.path(), "backing", 1 << 20);
    let device = need!(LoopDevice::on(&path), "no root or no loop device");
    need!(run("mkswap", &[text(&device.0)]), "no mkswap");
    need!(run("swapon", &[text(&device.0)]), "no swap here");
    let refusal = refused(&device.0, 1 << 20);
    run("swapoff", &[text(&device.0)]);
    assert_eq!(refusal.kind(), OpenErrorKind::InUse);
    assert!(refusal.to_string().contains("as swap"), "{refusal}");
}

#[test]
fn a_device_held_by_another_run_is_busy() {
    let folder = folder();
    let path = sparse_file(folder.path(), "backing", 1 << 20);
    let device = need!(LoopDevice::on(&path), "no root or no loop device");
    let first = open_target(&request(&device.0, 1 << 20)).unwrap();
    assert_eq!(refused(&device.0, 1 << 20).kind(), OpenErrorKind::Busy);
    drop(first);
    open_target(&request(&device.0, 1 << 20)).unwrap();
}

#[test]
fn a_source_that_is_closed_lets_its_device_be_used_and_reads_no_zeros() {
    let folder = folder();
    let path = file_with(folder.path(), "backing", &pattern(1 << 20));
    let device = need!(LoopDevice::on(&path), "no root or no loop device");
    let source = open_source(&device.0, Hold::Exclusive).unwrap();
    let mut page = [0; 4096];
    source.read_at(4096, &mut page).unwrap();
    assert_eq!(refused(&device.0, 1 << 20).kind(), OpenErrorKind::Busy);
    source.close_device();
    source.close_device();
    open_target(&request(&device.0, 1 << 20)).unwrap();
    source.read_at(0, &mut page).unwrap_err();
    source.read_back(0, &mut page).unwrap_err();
    assert!(!source.is_unchanged());
}

#[test]
fn sizes_must_match_unless_a_larger_device_is_allowed() {
    let folder = folder();
    let path = file_with(folder.path(), "backing", &vec![9; ODD_SIZE as usize]);
    let device = need!(LoopDevice::on(&path), "no root or no loop device");
    let smaller = refused(&device.0, ODD_SIZE + 1);
    assert_eq!(smaller.kind(), OpenErrorKind::WrongSize);
    assert!(!smaller.hint().contains("--allow-larger-target"));
    let larger = refused(&device.0, 1000);
    assert_eq!(larger.kind(), OpenErrorKind::WrongSize);
    assert!(larger.hint().contains("--allow-larger-target"));
    let target = open_target(&TargetRequest {
        allow_larger: true,
        ..request(&device.0, 1000)
    });
    let target = target.unwrap();
    assert_eq!(
        (target.size(), target.present_size()),
        (1000, Some(ODD_SIZE))
    );
    target.begin_overwrite().unwrap();
    target.zero(0..1000).unwrap();
    assert!(target.write_at(999, b"xx").is_err());
    target.flush().unwrap();
    let mut all = vec![0; 1512];
    target.read_back(0, &mut all[..1000]).unwrap();
    assert_eq!(all, vec![0; 1512]);
    drop(target);
    drop(device);
    assert_eq!(std::fs::read(&path).unwrap()[1000], 9, "nothing beyond it");
}

#[test]
fn a_read_only_device_is_refused() {
    let folder = folder();
    let path = sparse_file(folder.path(), "backing", 1 << 20);
    let device = LoopDevice::with_options(&path, &["--read-only"]);
    let device = need!(device, "no root or no loop device");
    assert_eq!(refused(&device.0, 1 << 20).kind(), OpenErrorKind::ReadOnly);
    let comparing = TargetRequest {
        read_only: true,
        ..request(&device.0, 1 << 20)
    };
    open_target(&comparing).unwrap();
}

#[test]
fn a_loop_device_and_its_file_are_one_place() {
    let folder = folder();
    let path = sparse_file(folder.path(), "backing", 1 << 20);
    let device = need!(LoopDevice::on(&path), "no root or no loop device");
    let file = identify(&path).unwrap();
    let looped = identify(&device.0).unwrap();
    assert_eq!(looped.size, 1 << 20);
    assert_eq!(looped.backing, Some((file.dev, file.ino)));
    assert!(looped.same_place(&file) && file.same_place(&looped));
    let same = open_target(&TargetRequest {
        source: Some(&file),
        ..request(&device.0, 1 << 20)
    });
    assert_eq!(same.unwrap_err().kind(), OpenErrorKind::SameVolume);
    let again = need!(LoopDevice::on(&path), "no second loop device");
    assert!(identify(&again.0).unwrap().same_place(&looped));
    assert_eq!(
        identify(&again.0).unwrap().durable_text(),
        looped.durable_text(),
        "the number of a loop device means nothing"
    );
}

#[test]
fn a_disk_is_in_use_while_its_partition_is_and_they_are_one_place() {
    let folder = folder();
    let path = sparse_file(folder.path(), "backing", 64 << 20);
    let device = need!(LoopDevice::on(&path), "no root or no loop device");
    // From 1 MiB to 33 MiB, in sectors.
    let added = run("addpart", &[text(&device.0), "1", "2048", "65536"]);
    need!(added, "no partitions on loop devices");
    let part = std::path::PathBuf::from(format!("{}p1", text(&device.0)));
    if !part.exists() {
        eprintln!("skipped: no node for a loop device's partition");
        return;
    }
    let (disk_identity, part_identity) = (identify(&device.0).unwrap(), identify(&part).unwrap());
    assert!(disk_identity.same_place(&part_identity));
    assert_eq!(part_identity.disk, disk_identity.rdev);
    assert!(part_identity.same_place(&identify(&path).unwrap()));
    run("mkfs.ext4", &["-q", text(&part)]).unwrap();
    let point = folder.path().join("mounted");
    std::fs::create_dir(&point).unwrap();
    run("mount", &[text(&part), text(&point)]).unwrap();
    let refusal = refused(&device.0, 64 << 20);
    run("umount", &[text(&point)]);
    assert_eq!(refusal.kind(), OpenErrorKind::InUse);
    let told = format!("{} is mounted on", text(&part));
    assert!(refusal.to_string().contains(&told), "{refusal}");
}
