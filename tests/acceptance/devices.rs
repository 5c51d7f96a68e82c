//! Block devices and full disks. Root only.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use super::judge::{b3sum, differing, same};
use super::lab::{Disk, Mount, root_lab};
use super::stand::{Stand, drifted, volume};

/// Not a multiple of a page, a group or an extent.
const SIZE: usize = (1 << 20) + 512;

#[test]
fn a_device_is_hashed_as_b3sum_hashes_it() {
    let stand = Stand::new();
    let a = stand.file("a", &volume(SIZE, 1));
    if !root_lab() {
        return;
    }
    let disk = Disk::over(&a);
    let ran = stand.run(&["hash", disk.name()]).exits(0);
    assert_eq!(ran.stdout, format!("{}  {}\n", b3sum(&a), disk.name()));
}

#[test]
fn a_device_becomes_equal_by_its_differing_pages() {
    if !root_lab() {
        return;
    }
    let stand = Stand::new();
    let bytes = volume(SIZE, 2);
    let a = stand.file("a", &bytes);
    let b = stand.file("b", &drifted(&bytes, &[0, 3, 100, SIZE / 4096]));
    let disk = Disk::over(&b);
    let missing = differing(&a, disk.path());
    assert_eq!(missing, 3 * 4096 + 512);
    let events = stand.events(&["sync", "a", disk.name(), "--yes"]).exits(0);
    assert_eq!(events.count("bytes_written"), missing);
    assert!(same(&a, disk.path()));
    let events = stand.events(&["sync", "a", disk.name()]).exits(0);
    assert_eq!(events.count("bytes_written"), 0);
    stand.run(&["gate", disk.name()]).exits(0);
}

#[test]
fn a_larger_device_is_taken_only_when_allowed_and_keeps_its_rest() {
    if !root_lab() {
        return;
    }
    let stand = Stand::new();
    let bytes = volume(SIZE, 3);
    stand.file("a", &bytes);
    let rest = volume(2 * SIZE, 99);
    let disk = Disk::over(&stand.file("b", &rest));
    stand.events(&["sync", "a", disk.name(), "--yes"]).exits(7);
    assert!(fs::read(disk.path()).unwrap() == rest, "a refusal writes");
    let command = ["sync", "a", disk.name(), "--yes", "--allow-larger-target"];
    stand.events(&command).exits(0);
    let found = fs::read(disk.path()).unwrap();
    assert!(found[..SIZE] == bytes[..], "what the source has");
    assert!(found[SIZE..] == rest[SIZE..], "what it has not");
}

#[test]
fn a_smaller_device_and_a_mounted_one_are_refused_untouched() {
    if !root_lab() {
        return;
    }
    let stand = Stand::new();
    stand.file("a", &volume(16 << 20, 4));
    let small = Disk::blank(&stand, "small", (16 << 20) - 512);
    stand.events(&["sync", "a", small.name(), "--yes"]).exits(7);
    assert!(stand.read("small").iter().all(|byte| *byte == 0));

    let disk = Disk::blank(&stand, "disk", 16 << 20);
    let mount = Mount::ext4(&stand, "mnt", &disk);
    stand.file("mnt/precious", b"still here");
    for way in [&["--yes"][..], &["--yes", "--full"]] {
        let mut command = vec!["sync", "a", disk.name()];
        command.extend(way);
        let events = stand.events(&command).exits(7);
        assert_eq!(events.summary()["changed"], false);
    }
    drop(mount);
    fs::remove_dir(stand.path("mnt")).unwrap();
    let check = std::process::Command::new("e2fsck")
        .args(["-fn", disk.name()])
        .output()
        .unwrap();
    assert!(check.status.success(), "{check:?}");
}

#[test]
fn a_device_as_source_fills_files_and_devices() {
    if !root_lab() {
        return;
    }
    let stand = Stand::new();
    let a = stand.file("a", &volume(SIZE, 5));
    let source = Disk::over(&a);
    let target = Disk::blank(&stand, "b", SIZE as u64);
    stand
        .events(&["sync", source.name(), target.name(), "c", "--yes"])
        .exits(0);
    assert!(same(&a, target.path()));
    assert!(same(&a, &stand.path("c")));
    let events = stand.events(&["sync", source.name(), source.name(), "--yes"]);
    events.exits(7);
}

#[test]
fn on_a_full_disk_no_file_is_left_that_looks_whole() {
    if !root_lab() {
        return;
    }
    let stand = Stand::new();
    let a = stand.file("a", &volume(24 << 20, 6));
    let disk = Disk::blank(&stand, "disk", 16 << 20);
    let mounts = [
        Mount::memory(&stand, "memory", 8 << 20),
        Mount::ext4(&stand, "ext4", &disk),
    ];
    for name in ["memory/b", "ext4/b"] {
        let events = stand.events(&["sync", "a", name, "--yes"]);
        assert!([12, 20].contains(&events.code), "{:#}", events.summary());
        assert!(!stand.path(name).exists(), "{name} looks whole");
        stand.run(&["gate", name]).exits(10);
    }
    // Half a page before the end of the space, in a file that was there.
    let kept = stand.path("memory/kept");
    File::create(&kept).unwrap().set_len(24 << 20).unwrap();
    File::options()
        .write(true)
        .open(&kept)
        .unwrap()
        .write_all_at(b"kept", 23 << 20)
        .unwrap();
    let events = stand.events(&["sync", "a", "memory/kept", "--yes"]);
    assert!([12, 20].contains(&events.code), "{:#}", events.summary());
    assert!(!same(&a, &kept));
    stand.run(&["gate", "memory/kept"]).exits(10);
    drop(mounts);
}
