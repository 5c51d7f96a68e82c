//! Regular files as targets: the guards, the partial file, the seal.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use lockstep_volume::{
    Hold, IoFailureKind, OpenErrorKind, TargetPlan, TargetRequest, Volume, VolumeKind, identify,
    open_source, open_target,
};

use crate::lab::{
    LoopDevice, Mounted, Running, begun, file_with, folder, need, pattern, read, refused, request,
    run, sparse_file, text,
};

fn partial_of(path: &Path) -> std::path::PathBuf {
    let name = path.file_name().unwrap().to_str().unwrap();
    path.with_file_name(format!(".{name}.lockstep-partial"))
}

fn mode_of(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o7777
}

#[test]
fn a_missing_target_bears_its_name_only_once_it_is_sealed() {
    let folder = folder();
    let path = folder.path().join("new");
    let target = open_target(&request(&path, 100_001)).unwrap();
    assert_eq!(target.plan(), TargetPlan::Create);
    assert_eq!((target.identity(), target.present_size()), (None, None));
    assert_eq!(read(&target, 99_999, 2), [0, 0]);
    assert_eq!(target.next_data(0).unwrap(), None);
    assert!(!partial_of(&path).exists(), "opening creates nothing");
    assert!(target.write_at(0, b"early").is_err());

    target.begin_overwrite().unwrap();
    target.begin_overwrite().unwrap();
    target.write_at(0, &pattern(100_001)).unwrap();
    target.flush().unwrap();
    assert!(!path.exists());
    assert_eq!(mode_of(&partial_of(&path)), 0o600);

    let sealed = target.seal().unwrap();
    assert_eq!(target.seal().unwrap(), sealed);
    drop(target);
    assert_eq!(std::fs::read(&path).unwrap(), pattern(100_001));
    assert!(!partial_of(&path).exists());
    assert_eq!(mode_of(&path), 0o640);
    assert_eq!(sealed, identify(&path).unwrap());
    assert_eq!(sealed.size, 100_001);
}

#[test]
fn a_created_file_can_be_written_again_by_its_owner_whatever_the_source_allows() {
    let folder = folder();
    let path = folder.path().join("new");
    let mode_bits = 0o4444;
    let target = open_target(&TargetRequest {
        mode_bits,
        ..request(&path, 0)
    });
    target.unwrap().seal().unwrap();
    assert_eq!(mode_of(&path), 0o644);
    assert_eq!(begun(&path, 0).plan(), TargetPlan::Keep);
}

#[test]
fn an_interrupted_run_is_resumed_from_its_partial_file() {
    let folder = folder();
    let path = folder.path().join("new");
    let first = begun(&path, 50_000);
    first.write_at(10, b"already here").unwrap();
    drop(first);
    let second = open_target(&request(&path, 60_000)).unwrap();
    assert_eq!(second.plan(), TargetPlan::ResumePartial);
    assert_eq!(second.present_size(), Some(50_000));
    assert_eq!(read(&second, 10, 12), b"already here");
    assert_eq!(read(&second, 49_999, 10_001), vec![0; 10_001]);
    let before = second.identity().unwrap();
    let sealed = second.seal().unwrap();
    assert!(before.same_place(&sealed));
    assert_eq!(path.metadata().unwrap().len(), 60_000);
}

#[test]
fn strange_things_in_the_partial_files_place_are_not_touched() {
    let folder = folder();
    let path = folder.path().join("new");
    let victim = file_with(folder.path(), "victim", b"precious");
    symlink(&victim, partial_of(&path)).unwrap();
    let kind = refused(&path, 100).kind();
    assert_eq!(kind, OpenErrorKind::InUse);
    std::fs::remove_file(partial_of(&path)).unwrap();
    std::fs::hard_link(&victim, partial_of(&path)).unwrap();
    let linked = refused(&path, 100).to_string();
    assert!(linked.contains("it has another name too"), "{linked}");
    assert_eq!(std::fs::read(victim).unwrap(), b"precious");
}

#[test]
fn the_final_name_is_never_taken_from_a_file_that_appeared_meanwhile() {
    let folder = folder();
    let path = folder.path().join("new");
    let target = begun(&path, 1000);
    file_with(folder.path(), "new", b"somebody else's");
    let appeared = target.seal().unwrap_err();
    assert_eq!(appeared.kind(), OpenErrorKind::InUse);
    assert!(appeared.to_string().contains("appeared"), "{appeared}");
    assert_eq!(std::fs::read(&path).unwrap(), b"somebody else's");
    assert!(partial_of(&path).exists());
}

#[test]
fn a_partial_file_that_this_run_created_can_be_discarded_and_no_other() {
    let folder = folder();
    let path = folder.path().join("new");
    let target = begun(&path, 1000);
    target.discard_partial();
    assert!(!partial_of(&path).exists());
    drop(target);

    drop(begun(&path, 1000));
    let resumed = begun(&path, 1000);
    resumed.discard_partial();
    assert!(partial_of(&path).exists(), "an earlier run made it");
    drop(resumed);

    std::fs::remove_file(partial_of(&path)).unwrap();
    let target = begun(&path, 1000);
    std::fs::remove_file(partial_of(&path)).unwrap();
    std::fs::write(partial_of(&path), b"another").unwrap();
    target.discard_partial();
    assert_eq!(std::fs::read(partial_of(&path)).unwrap(), b"another");
}

#[test]
fn an_existing_file_is_resized_when_it_is_begun_and_not_before() {
    let folder = folder();
    let path = file_with(folder.path(), "image", &[7; 3000]);
    for (from, to) in [(3000, 5000), (5000, 1000)] {
        let target = open_target(&request(&path, to)).unwrap();
        assert_eq!(target.plan(), TargetPlan::Resize { from, to });
        assert_eq!((target.size(), target.present_size()), (to, Some(from)));
        let beyond_is_zero = read(&target, 999, (to - 999) as usize);
        assert_eq!(beyond_is_zero[0], 7);
        assert!(to < 3000 || beyond_is_zero[2001..].iter().all(|byte| *byte == 0));
        assert_eq!(path.metadata().unwrap().len(), from);
        target.begin_overwrite().unwrap();
        assert_eq!(path.metadata().unwrap().len(), to);
        assert_eq!(target.seal().unwrap().size, to);
    }
}

#[test]
fn comparing_changes_nothing_and_writing_is_refused() {
    let folder = folder();
    let path = file_with(folder.path(), "image", &[7; 3000]);
    let comparing = |path| TargetRequest {
        read_only: true,
        ..request(path, 4000)
    };
    let before = path.metadata().unwrap().modified().unwrap();
    let target = open_target(&comparing(&path)).unwrap();
    assert_eq!(read(&target, 2999, 2), [7, 0]);
    assert!(target.begin_overwrite().is_err());
    assert!(target.write_at(0, b"x").is_err());
    assert!(target.zero(0..10).is_err());
    target.seal().unwrap();
    assert_eq!(path.metadata().unwrap().len(), 3000);
    assert_eq!(path.metadata().unwrap().modified().unwrap(), before);
    let missing = folder.path().join("missing");
    let target = open_target(&comparing(&missing)).unwrap();
    assert_eq!(target.plan(), TargetPlan::Create);
    assert_eq!(read(&target, 3999, 1), [0]);
}

#[test]
fn a_file_that_another_process_has_open_is_in_use_by_name() {
    let folder = folder();
    let path = file_with(folder.path(), "image", &[7; 3000]);
    let reader = Running::holding(File::open(&path).unwrap());
    let refusal = refused(&path, 3000);
    assert_eq!(refusal.kind(), OpenErrorKind::InUse);
    let named = format!("process {} (sleep)", reader.0.id());
    assert!(refusal.to_string().contains(&named), "{refusal}");
    let comparing = TargetRequest {
        read_only: true,
        ..request(&path, 3000)
    };
    assert_eq!(
        open_target(&comparing).unwrap_err().kind(),
        OpenErrorKind::InUse
    );
    drop(reader);
    open_target(&request(&path, 3000)).unwrap();
}

#[test]
fn a_file_that_is_opened_while_it_is_written_cannot_be_sealed() {
    let folder = folder();
    let path = file_with(folder.path(), "image", &[7; 3000]);
    let target = begun(&path, 3000);
    let writer = OpenOptions::new().write(true).open(&path).unwrap();
    let writer = Running::holding(writer);
    let refusal = target.seal().unwrap_err();
    assert_eq!(refusal.kind(), OpenErrorKind::InUse);
    assert!(refusal.to_string().contains("(sleep)"), "{refusal}");
    drop(writer);
    target.seal().unwrap();
}

#[test]
fn two_runs_do_not_share_a_target_and_the_second_is_told_to_wait() {
    let folder = folder();
    let path = file_with(folder.path(), "image", &[7; 3000]);
    let first = open_target(&request(&path, 3000)).unwrap();
    let second = refused(&path, 3000);
    assert_eq!(second.kind(), OpenErrorKind::Busy);
    assert!(!second.hint().is_empty());
    drop(first);
    let new = folder.path().join("new");
    let first = begun(&new, 10);
    assert_eq!(refused(&new, 10).kind(), OpenErrorKind::Busy);
    drop(first);
}

#[test]
fn a_source_being_read_is_not_disturbed_by_a_run_that_would_write_it() {
    let folder = folder();
    let path = file_with(folder.path(), "image", &[7; 3000]);
    let source = open_source(&path, Hold::Exclusive).unwrap();
    assert_eq!(refused(&path, 3000).kind(), OpenErrorKind::Busy);
    source.still_held().unwrap();
    drop(source);
    let target = open_target(&request(&path, 3000)).unwrap();
    let refusal = open_source(&path, Hold::None).unwrap_err();
    assert_eq!(refusal.kind(), OpenErrorKind::Busy);
    drop(target);
}

#[test]
fn the_source_itself_is_refused_by_any_path() {
    let folder = folder();
    let path = file_with(folder.path(), "image", &[7; 3000]);
    let source = open_source(&path, Hold::Exclusive).unwrap();
    symlink("image", folder.path().join("soft")).unwrap();
    std::fs::hard_link(&path, folder.path().join("hard")).unwrap();
    for name in ["image", "soft", "hard"] {
        let other = folder.path().join(name);
        let same = open_target(&TargetRequest {
            source: Some(source.identity()),
            ..request(&other, 3000)
        });
        assert_eq!(same.unwrap_err().kind(), OpenErrorKind::SameVolume);
    }
    source.still_held().unwrap();
    drop(source);
    std::fs::rename(&path, partial_of(&folder.path().join("other"))).unwrap();
    std::fs::remove_file(folder.path().join("hard")).unwrap();
    let source = open_source(&partial_of(&folder.path().join("other")), Hold::None).unwrap();
    let own_partial = open_target(&TargetRequest {
        source: Some(source.identity()),
        ..request(&folder.path().join("other"), 3000)
    });
    assert_eq!(own_partial.unwrap_err().kind(), OpenErrorKind::SameVolume);
}

#[test]
fn what_is_no_volume_is_refused_by_what_it_is() {
    let folder = folder();
    let fifo = folder.path().join("fifo");
    run("mkfifo", &[text(&fifo)]).unwrap();
    let socket = folder.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let cases = [
        (folder.path(), "a folder"),
        (&fifo, "a named pipe"),
        (&socket, "a socket"),
        (Path::new("/dev/null"), "a character device"),
    ];
    for (path, what) in cases {
        for refusal in [
            refused(path, 10),
            open_source(path, Hold::None).unwrap_err(),
        ] {
            assert_eq!(refusal.kind(), OpenErrorKind::NotAVolume);
            assert!(refusal.to_string().contains(what), "{refusal}");
        }
    }
}

#[test]
fn missing_sources_and_missing_folders_are_told_apart() {
    let folder = folder();
    let nowhere = folder.path().join("no/where");
    let source = open_source(&nowhere, Hold::None).unwrap_err();
    assert_eq!(source.kind(), OpenErrorKind::Missing);
    assert_eq!(refused(&nowhere, 1).kind(), OpenErrorKind::MissingFolder);
    let long = folder.path().join("n".repeat(250));
    assert_eq!(refused(&long, 1).kind(), OpenErrorKind::Io);
}

#[test]
fn a_file_that_nobody_may_write_is_read_only_even_to_root_but_may_be_compared() {
    let folder = folder();
    let path = file_with(folder.path(), "image", &[7; 10]);
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o444)).unwrap();
    assert_eq!(refused(&path, 10).kind(), OpenErrorKind::ReadOnly);
    let comparing = TargetRequest {
        read_only: true,
        ..request(&path, 10)
    };
    assert_eq!(read(&open_target(&comparing).unwrap(), 0, 10), [7; 10]);
}

#[test]
fn an_immutable_file_is_read_only() {
    let folder = folder();
    let path = file_with(folder.path(), "image", &[7; 10]);
    need!(run("chattr", &["+i", text(&path)]), "no immutable files");
    let refusal = refused(&path, 10);
    run("chattr", &["-i", text(&path)]);
    assert_eq!(refusal.kind(), OpenErrorKind::ReadOnly);
    assert!(refusal.to_string().contains("immutable"), "{refusal}");
}

#[test]
fn a_read_only_mount_takes_no_target() {
    let mounted = need!(Mounted::new("ext4", 16), "no root, loop device or ext4");
    let image = file_with(&mounted.point, "image", &[7; 10]);
    run("mount", &["-o", "remount,ro", text(&mounted.point)]).unwrap();
    assert_eq!(refused(&image, 10).kind(), OpenErrorKind::ReadOnly);
    let new = mounted.point.join("new");
    assert_eq!(refused(&new, 10).kind(), OpenErrorKind::ReadOnly);
}

#[test]
fn a_full_disk_is_told_and_leaves_no_file_with_the_final_name() {
    let mounted = need!(Mounted::new("ext4", 16), "no root, loop device or ext4");
    let path = mounted.point.join("new");
    let target = begun(&path, 64 << 20);
    assert!(target.free_bytes().unwrap() < 16 << 20);
    let piece = pattern(1 << 20);
    let write = |index: u64| target.write_at(index << 20, &piece);
    let full = (0..64).map(write).find_map(Result::err);
    let full = full.or_else(|| target.flush().err()).unwrap();
    assert_eq!(full.kind(), IoFailureKind::NoSpace, "{full}");
    target.discard_partial();
    assert_eq!(std::fs::read_dir(&mounted.point).unwrap().count(), 1);
}

#[test]
fn a_file_behind_a_loop_device_is_in_use_by_that_device() {
    let folder = folder();
    let path = sparse_file(folder.path(), "image", 1 << 20);
    let device = need!(LoopDevice::on(&path), "no root or no loop device");
    let refusal = refused(&path, 1 << 20);
    assert_eq!(refusal.kind(), OpenErrorKind::InUse);
    assert!(refusal.to_string().contains(text(&device.0)), "{refusal}");
    let exclusive = open_source(&path, Hold::Exclusive).unwrap_err();
    assert_eq!(exclusive.kind(), OpenErrorKind::NoExclusive);
    assert!(
        exclusive.to_string().contains(text(&device.0)),
        "{exclusive}"
    );
}

#[test]
fn a_file_that_qemu_uses_is_in_use_and_its_locks_are_seen() {
    let folder = folder();
    let path = sparse_file(folder.path(), "image", 1 << 20);
    let arguments = ["-f", "raw", "-c", "sleep 60000", text(&path)];
    let qemu = need!(Running::start("qemu-io", &arguments), "no qemu-io");
    assert!(qemu.has_open(&path));
    assert!(crate::lab::eventually(|| {
        let locks = std::fs::read_to_string("/proc/locks").unwrap();
        locks.lines().any(|line| line.contains("OFDLCK"))
    }));
    let refusal = refused(&path, 1 << 20);
    assert_eq!(refusal.kind(), OpenErrorKind::InUse);
    assert!(refusal.to_string().contains("as QEMU does"), "{refusal}");
    assert!(refusal.to_string().contains("(qemu-io)"), "{refusal}");
}

#[test]
fn swap_space_in_a_file_is_in_use() {
    let folder = folder();
    let path = file_with(folder.path(), "swap", &vec![0; 1 << 20]);
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
    need!(run("mkswap", &[text(&path)]), "no mkswap");
    need!(run("swapon", &[text(&path)]), "no swap here");
    let refusal = refused(&path, 1 << 20);
    run("swapoff", &[text(&path)]);
    assert_eq!(refusal.kind(), OpenErrorKind::InUse);
    assert!(refusal.to_string().contains("swap"), "{refusal}");
}

#[test]
fn a_target_reached_through_a_link_is_the_file_behind_it() {
    let folder = folder();
    let path = file_with(folder.path(), "image", &[7; 10]);
    let link = folder.path().join("link");
    symlink(&path, &link).unwrap();
    let target = begun(&link, 10);
    assert_eq!(target.canonical_path(), path.canonicalize().unwrap());
    assert_eq!(target.kind(), VolumeKind::File);
    target.write_at(0, b"through it").unwrap();
    target.seal().unwrap();
    drop(target);
    assert!(link.is_symlink());
    assert_eq!(std::fs::read(path).unwrap(), b"through it");
}
