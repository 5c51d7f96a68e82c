//! The same promises on every filesystem that is trusted with more than plain reads and writes.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use lockstep_volume::{IoBuffer, TargetRequest, Volume, open_target};

use crate::lab::{Mounted, begun, folder, need, pattern, read, read_back, request};

/// 3 MiB and a ragged end.
const SIZE: u64 = (3 << 20) + 1234;

fn allocated(path: &Path) -> u64 {
    path.metadata().unwrap().blocks() * 512
}

/// Writes aligned bulk, scattered pages and a ragged tail; reads all of it every way.
fn keeps_what_is_written(folder: &Path) {
    let path = folder.join("written");
    let target = begun(&path, SIZE);
    let expected = pattern(SIZE as usize);
    let mut piece = IoBuffer::unpooled(1 << 20);
    for index in 0..3 {
        let start = index << 20;
        piece.copy_from_slice(&expected[start..start + (1 << 20)]);
        target.write_at(start as u64, &piece).unwrap();
    }
    target.write_at(3 << 20, &expected[3 << 20..]).unwrap();
    target.write_at(4096, &expected[4096..8192]).unwrap();
    target.write_at(5001, &expected[5001..9000]).unwrap();
    target.start_writeback(0..SIZE);
    target.flush().unwrap();
    assert_eq!(read(&target, 0, SIZE as usize), expected);
    let whole = SIZE as usize;
    for (offset, length) in [
        (0, whole),
        (1, 1),
        (4095, 4098),
        (whole - 1, 1),
        (3 << 20, 1234),
    ] {
        let bytes = read_back(&target, offset as u64, length);
        assert_eq!(bytes, expected[offset..offset + length], "{offset}");
    }
    target.seal().unwrap();
    drop(target);
    assert_eq!(std::fs::read(&path).unwrap(), expected);
}

/// Zeroes data and holes; what was a hole stays one, what became zero becomes one.
fn stays_sparse(folder: &Path) {
    let path = folder.join("sparse");
    let target = begun(&path, 8 << 20);
    target.zero(0..8 << 20).unwrap();
    assert_eq!(target.next_data(0).unwrap(), None);
    target.write_at(1 << 20, &pattern(2 << 20)).unwrap();
    target.flush().unwrap();
    assert_eq!(target.next_data(0).unwrap(), Some(1 << 20..3 << 20));
    assert_eq!(target.next_data(2 << 20).unwrap(), Some(2 << 20..3 << 20));
    assert_eq!(target.next_data(4 << 20).unwrap(), None);
    let full = allocated(&folder.join(".sparse.lockstep-partial"));
    assert!(full >= 2 << 20, "{full}");
    target.zero((1 << 20) + 100..3 << 20).unwrap();
    target.flush().unwrap();
    let mut expected = vec![0; 8 << 20];
    expected[1 << 20..(1 << 20) + 100].copy_from_slice(&pattern(100));
    assert_eq!(read_back(&target, 0, 8 << 20), expected);
    target.seal().unwrap();
    let left = allocated(&path);
    assert!(left <= 64 << 10, "{left} bytes are still allocated");
}

/// What is in memory is given without waiting; what is only on the medium is not.
fn tells_what_is_cached(folder: &Path) {
    let path = folder.join("cached");
    let target = begun(&path, 4 << 20);
    let mut piece = IoBuffer::unpooled(1 << 20);
    piece.copy_from_slice(&pattern(1 << 20));
    target.write_at(2 << 20, &piece).unwrap();
    target.flush().unwrap();
    target.read_back(2 << 20, &mut piece).unwrap();
    assert!(!target.read_if_cached(2 << 20, &mut piece).unwrap());
    target.read_at(2 << 20, &mut piece).unwrap();
    piece.fill(0);
    assert!(target.read_if_cached(2 << 20, &mut piece).unwrap());
    assert_eq!(&piece[..], pattern(1 << 20));
}

fn keeps_every_promise(folder: &Path) {
    keeps_what_is_written(folder);
    stays_sparse(folder);
    tells_what_is_cached(folder);
}

#[test]
fn the_filesystem_of_this_build_keeps_every_promise() {
    let folder = folder();
    keeps_what_is_written(folder.path());
}

#[test]
fn ext4_keeps_every_promise() {
    let mounted = need!(Mounted::new("ext4", 64), "no root, loop device or ext4");
    keeps_every_promise(&mounted.point);
}

#[test]
fn xfs_keeps_every_promise() {
    let mounted = need!(Mounted::new("xfs", 320), "no root, loop device or XFS");
    keeps_every_promise(&mounted.point);
}

#[test]
fn btrfs_keeps_every_promise() {
    let mounted = need!(Mounted::new("btrfs", 256), "no root, loop device or btrfs");
    keeps_every_promise(&mounted.point);
}

#[test]
fn tmpfs_has_no_medium_and_says_so() {
    let folder = need!(tempfile::tempdir_in("/dev/shm").ok(), "no tmpfs");
    let path = folder.path().join("volume");
    let before = open_target(&request(&path, SIZE)).unwrap();
    assert!(!before.has_medium());
    drop(before);
    keeps_what_is_written(folder.path());
    let target = open_target(&TargetRequest {
        read_only: true,
        ..request(&folder.path().join("written"), SIZE)
    });
    assert!(!target.unwrap().has_medium());
}
