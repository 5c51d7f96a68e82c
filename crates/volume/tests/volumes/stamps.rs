//! Telling whether anybody else wrote a target, while it was held and after it was let go.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use lockstep_volume::{Stamp, Target, Volume, open_target};

use crate::lab::{begun, file_with, folder, pattern, request, run, text};

const SIZE: usize = 300_000;

/// Ways in which another program changes one byte, and closes the file again.
const WRITERS: [&str; 5] = [
    "import os,sys; f=os.open(sys.argv[1], os.O_RDWR); os.pwrite(f, b'x', 5000)",
    "import os,sys,mmap; f=os.open(sys.argv[1], os.O_RDWR); m=mmap.mmap(f, 0); os.close(f); m[5000]=1",
    "import os,sys,mmap; f=os.open(sys.argv[1], os.O_RDWR|os.O_DIRECT); os.pwrite(f, mmap.mmap(-1, 4096), 4096)",
    "import os,sys; n=os.stat(sys.argv[1]).st_size; os.truncate(sys.argv[1], 10); os.truncate(sys.argv[1], n)",
    "import os,sys; f=os.open(sys.argv[1], os.O_RDWR); t=os.fstat(f); os.pwrite(f, b'x', 5000); os.utime(f, ns=(t.st_atime_ns, t.st_mtime_ns))",
];

fn by_another_program(path: &Path, how: &str) {
    run("python3", &["-c", how, text(path)]).expect("python3 writes");
}

/// Whether this machine can tell at all; elsewhere there never is a stamp, which is safe.
fn sealed(target: &Target) -> Option<Stamp> {
    target.seal().unwrap();
    target.stamp()
}

fn can_tell(folder: &Path) -> bool {
    let path = file_with(folder, "trial", b"trial");
    let tells = sealed(&begun(&path, 5)).is_some();
    if !tells {
        eprintln!("skipped: no leases or no watches here");
    }
    tells
}

#[test]
fn what_nobody_else_wrote_keeps_its_stamp() {
    let folder = folder();
    if !can_tell(folder.path()) {
        return;
    }
    let path = file_with(folder.path(), "kept", &pattern(SIZE));
    let new = folder.path().join("new");
    for (path, size, writes) in [
        (&path, SIZE, false),
        (&path, SIZE, true),
        (&path, SIZE + 7, true),
        (&new, SIZE, true),
    ] {
        let target = open_target(&request(path, size as u64)).unwrap();
        if writes {
            target.begin_overwrite().unwrap();
            target.write_at(4096, &pattern(100_000)).unwrap();
            target.zero(200_000..300_000).unwrap();
            target.flush().unwrap();
        }
        assert_eq!(target.stamp(), None, "not before it is sealed");
        let stamp = sealed(&target);
        assert!(stamp.is_some(), "our own writes are ours");
        drop(target);
        // Readers change nothing.
        Command::new("cat").arg(path).output().unwrap();
        assert_eq!(stamp, Stamp::of_path(path).ok());
    }
}

#[test]
fn whoever_wrote_while_it_was_held_is_seen_however_he_did_it() {
    let folder = folder();
    if !can_tell(folder.path()) {
        return;
    }
    for how in WRITERS {
        let path = file_with(folder.path(), "target", &pattern(SIZE));
        let target = begun(&path, SIZE as u64);
        by_another_program(&path, how);
        target.write_at(0, &pattern(100_000)).unwrap();
        target.flush().unwrap();
        assert_eq!(sealed(&target), None, "{how}");
        assert_eq!(target.stamp(), None, "and is not forgotten");
    }
}

#[test]
fn whoever_writes_after_it_was_let_go_shows_by_the_stamp() {
    let folder = folder();
    if !can_tell(folder.path()) {
        return;
    }
    for how in WRITERS {
        let path = file_with(folder.path(), "target", &pattern(SIZE));
        let target = begun(&path, SIZE as u64);
        target.write_at(0, &pattern(100_000)).unwrap();
        let stamp = sealed(&target).unwrap();
        drop(target);
        by_another_program(&path, how);
        assert_ne!(stamp, Stamp::of_path(&path).unwrap(), "{how}");
    }
}

#[test]
fn a_write_at_once_after_letting_go_shows_too() {
    let folder = folder();
    if !can_tell(folder.path()) {
        return;
    }
    let path = file_with(folder.path(), "target", &pattern(SIZE));
    for round in 0..200_u8 {
        let target = begun(&path, SIZE as u64);
        target.write_at(0, &[round; 4096]).unwrap();
        let stamp = sealed(&target).unwrap();
        drop(target);
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        file.write_all_at(&[round], 8192).unwrap();
        assert_ne!(stamp, Stamp::of_path(&path).unwrap(), "round {round}");
    }
}

#[test]
fn another_file_of_the_same_name_and_bytes_has_another_stamp() {
    let folder = folder();
    if !can_tell(folder.path()) {
        return;
    }
    let path = file_with(folder.path(), "target", &pattern(SIZE));
    let target = begun(&path, SIZE as u64);
    let stamp = sealed(&target).unwrap();
    drop(target);
    let copy = folder.path().join("copy");
    std::fs::copy(&path, &copy).unwrap();
    std::fs::rename(&copy, &path).unwrap();
    assert_ne!(stamp, Stamp::of_path(&path).unwrap());
    assert!(File::open(&path).is_ok());
}
