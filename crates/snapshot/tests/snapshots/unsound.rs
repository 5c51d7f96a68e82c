//! Every way that a delta by extents is known to lie: none may lead to a missed change.

use std::fs::{File, FileTimes};
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use lockstep_snapshot::{Btrfs, Doubt, FOLDER, Provider, Reflink, Snapshot, Which};
use lockstep_volume::{ExtentFlags, next_extents};

use crate::lab::{Mounted, need, run, text};
use crate::stage::{PAGE, SIZE, Stage, preallocate, punch, write};

/// What btrfs stores in one compressed extent.
const PACKED: u64 = 128 << 10;

fn on_xfs() -> Option<Stage> {
    Some(Stage::on(Mounted::xfs()?, Reflink::new()))
}

fn on_btrfs() -> Option<Stage> {
    Some(Stage::on(Mounted::btrfs()?, Reflink::new()))
}

fn on_packed_btrfs(provider: impl Provider + 'static) -> Option<Stage> {
    let mounted = Mounted::new("btrfs", 512, "compress-force=zstd")?;
    Some(Stage::on(mounted, provider))
}

/// A test for XFS and for btrfs.
fn on_both(story: impl Fn(&Stage)) {
    story(&need!(on_xfs(), "no root, loop device or XFS"));
    story(&need!(on_btrfs(), "no root, loop device or btrfs"));
}

/// Freezes, changes, freezes again, and looks at every byte outside of the delta.
fn changed_bytes(stage: &Stage, change: impl FnOnce(&File)) -> u64 {
    let base = stage.freeze("base");
    change(&stage.open_volume());
    let now = stage.freeze("now");
    let changed = stage.delta(&base, &now).unwrap();
    stage.release(&[&base, &now]);
    stage.assert_nothing_is_left();
    changed.bytes()
}

/// Pages that can be compressed, each other than its neighbours.
fn write_packable(file: &File, start: u64, length: u64, seed: u8) {
    let bytes: Vec<u8> = (0..length)
        .map(|at| ((start + at) / PAGE) as u8 ^ seed)
        .collect();
    file.write_all_at(&bytes, start).unwrap();
    file.sync_all().unwrap();
}

fn places(snapshot: &Snapshot, stage: &Stage) -> Vec<(u64, u64, bool)> {
    let image = stage.provider.open(snapshot).unwrap();
    let extents = next_extents(&image.file, 0).unwrap();
    let place = |extent: &lockstep_volume::FileExtent| {
        let is_encoded = extent.flags.has_any(ExtentFlags::ENCODED);
        (extent.logical, extent.physical, is_encoded)
    };
    extents.iter().map(place).collect()
}

/// Two images of which every page differs, and whose extent maps are the same.
fn same_map_other_bytes(stage: &Stage) -> (Snapshot, Snapshot) {
    let volume = stage.volume.with_file_name("source");
    let source = File::create(&volume).unwrap();
    write_packable(&source, 0, PACKED, 0x55);
    let length = PACKED - PAGE;
    let freeze_from = |offset: u64, run: &str| {
        std::fs::remove_file(&stage.volume).unwrap();
        let file = File::create(&stage.volume).unwrap();
        file.set_len(length).unwrap();
        let reflink = format!("reflink {} {offset} 0 {length}", text(&volume));
        self::run("xfs_io", &["-c", &reflink, text(&stage.volume)]).unwrap();
        file.sync_all().unwrap();
        stage.freeze(run)
    };
    (freeze_from(0, "base"), freeze_from(PAGE, "now"))
}

#[test]
fn compressed_images_with_one_map_and_other_bytes_are_told_apart() {
    for provider in [Reflink::new(), Reflink::by_maps_only()] {
        let stage = need!(on_packed_btrfs(provider), "no root, loop device or btrfs");
        let (base, now) = same_map_other_bytes(&stage);
        let (was, is) = (stage.bytes(&base), stage.bytes(&now));
        let pages = was.chunks(PAGE as usize).zip(is.chunks(PAGE as usize));
        assert!(pages.into_iter().all(|(was, is)| was != is));
        // The trap itself: if this fails, the test proves nothing any more.
        assert_eq!(places(&base, &stage), places(&now, &stage));
        assert!(places(&base, &stage).iter().all(|(_, _, encoded)| *encoded));
        let changed = stage.delta(&base, &now).unwrap();
        assert_eq!(changed.bytes(), PACKED - PAGE);
        stage.release(&[&base, &now]);
    }
}

#[test]
fn items_tell_compressed_extents_that_did_not_change_and_maps_do_not() {
    let changed_by = |provider: Reflink| {
        let stage = on_packed_btrfs(provider)?;
        // Anew: btrfs does not compress a file that had space allocated ahead.
        std::fs::remove_file(&stage.volume).unwrap();
        let volume = File::create(&stage.volume).unwrap();
        write_packable(&volume, 0, SIZE, 0x55);
        Some(changed_bytes(&stage, |volume| {
            write_packable(volume, 8 * PAGE, PAGE, 0xAA);
        }))
    };
    let by_items = need!(changed_by(Reflink::new()), "no root, loop device or btrfs");
    assert!(by_items <= PACKED, "{by_items}");
    // Only the ragged end is not compressed.
    let by_maps = changed_by(Reflink::by_maps_only()).unwrap();
    assert!(by_maps >= SIZE - PAGE, "{by_maps}");
}

#[test]
fn a_base_that_is_gone_leaves_doubt() {
    on_both(|stage| {
        let (base, now) = (stage.freeze("base"), stage.freeze("now"));
        stage.release(&[&base]);
        let doubt = stage.provider.delta(&base, &now).unwrap_err();
        assert_eq!(doubt, Doubt::Gone { which: Which::Base });
        assert_eq!(doubt.to_string(), "the base snapshot is gone");
        // Another image in its place is not it, however alike.
        let again = stage.freeze("base");
        let doubt = stage.provider.delta(&base, &now).unwrap_err();
        assert_eq!(doubt.word(), "replaced", "{doubt}");
        assert!(stage.provider.release(&base).is_err());
        stage.release(&[&again, &now]);
        stage.assert_nothing_is_left();
    });
}

#[test]
fn a_base_that_could_have_been_changed_leaves_doubt() {
    on_both(|stage| {
        let (base, now) = (stage.freeze("base"), stage.freeze("now"));
        let path = stage
            .volume
            .with_file_name(FOLDER)
            .join(base.name.to_string());
        run("chattr", &["-i", text(&path)]).unwrap();
        let doubt = stage.provider.delta(&base, &now).unwrap_err();
        assert_eq!(doubt.word(), "not-immutable", "{doubt}");
        run("chmod", &["600", text(&path)]).unwrap();
        write(&File::options().write(true).open(&path).unwrap(), 0..10, 77);
        let file = File::options().write(true).open(&path).unwrap();
        let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1);
        file.set_times(FileTimes::new().set_modified(long_ago))
            .unwrap();
        drop(file);
        run("chattr", &["+i", text(&path)]).unwrap();
        let doubt = stage.provider.delta(&base, &now).unwrap_err();
        assert_eq!(doubt.word(), "touched", "{doubt}");
        assert!(stage.provider.open(&base).is_err());
        stage.release(&[&base, &now]);
        stage.assert_nothing_is_left();
    });
}

#[test]
fn a_subvolume_that_could_have_been_changed_leaves_doubt() {
    let mounted = need!(Mounted::btrfs(), "no root, loop device or btrfs");
    let stage = need!(Stage::in_subvolume(mounted, Btrfs::new()), "no btrfs-progs");
    let (base, now) = (stage.freeze("base"), stage.freeze("now"));
    let path = stage
        .volume
        .with_file_name(FOLDER)
        .join(base.name.to_string());
    let read_only = |word| run("btrfs", &["property", "set", text(&path), "ro", word]).unwrap();
    read_only("false");
    let doubt = stage.provider.delta(&base, &now).unwrap_err();
    assert_eq!(doubt.word(), "not-immutable", "{doubt}");
    let image = path.join(stage.volume.file_name().unwrap());
    write(
        &File::options().write(true).open(&image).unwrap(),
        0..10,
        77,
    );
    read_only("true");
    let doubt = stage.provider.delta(&base, &now).unwrap_err();
    assert_eq!(doubt.word(), "touched", "{doubt}");
    assert!(stage.provider.open(&base).is_err());
    stage.release(&[&base]);
    let doubt = stage.provider.delta(&base, &now).unwrap_err();
    assert_eq!(doubt, Doubt::Gone { which: Which::Base });
    stage.release(&[&now]);
    stage.assert_nothing_is_left();
}

#[test]
fn dirty_data_is_in_the_image_and_in_the_delta() {
    on_both(|stage| {
        let before = stage.open_volume();
        let bytes = changed_bytes(stage, |volume| {
            // Over a hole, over space never written, over data; nothing is flushed.
            write(volume, (2 << 20) + 5..(2 << 20) + 9000, 1);
            write(volume, (3 << 20) + 100_000..(3 << 20) + 101_000, 2);
            write(volume, 100..200, 3);
        });
        assert!((10_000..400_000).contains(&bytes), "{bytes}");
        drop(before);
    });
}

#[test]
fn the_live_volume_is_never_taken_for_an_image() {
    let stage = need!(on_xfs(), "no root, loop device or XFS");
    let (base, now) = (stage.freeze("base"), stage.freeze("now"));
    // Somebody puts the volume itself where the image was.
    let path = stage
        .volume
        .with_file_name(FOLDER)
        .join(now.name.to_string());
    run("chattr", &["-i", text(&path)]).unwrap();
    std::fs::remove_file(&path).unwrap();
    std::fs::hard_link(&stage.volume, &path).unwrap();
    let doubt = stage.provider.delta(&base, &now).unwrap_err();
    assert_eq!(doubt.word(), "replaced", "{doubt}");
    assert!(stage.provider.release(&now).is_err());
    assert!(stage.volume.exists());
}

#[test]
fn images_of_other_providers_and_volumes_leave_doubt() {
    let mounted = need!(Mounted::btrfs(), "no root, loop device or btrfs");
    let stage = need!(Stage::in_subvolume(mounted, Btrfs::new()), "no btrfs-progs");
    let base = stage.freeze("base");
    let reflink = Reflink::new();
    let now = reflink
        .create(&stage.volume, &stage.snapshot_name("now"))
        .unwrap();
    let doubt = stage.provider.delta(&base, &now).unwrap_err();
    assert_eq!(doubt.word(), "other-provider", "{doubt}");
    let other = Snapshot {
        volume: stage.volume.with_file_name("other"),
        ..base.clone()
    };
    let doubt = stage.provider.delta(&base, &other).unwrap_err();
    assert_eq!(doubt, Doubt::OtherVolume);
    reflink.release(&now).unwrap();
    stage.release(&[&base]);
    stage.assert_nothing_is_left();
}

#[test]
fn a_whole_balance_in_between_hides_nothing() {
    let stage = need!(on_btrfs(), "no root, loop device or btrfs");
    let balance = || {
        run(
            "btrfs",
            &[
                "balance",
                "start",
                "--full-balance",
                text(&stage.volume.with_file_name("")),
            ],
        )
    };
    let base = stage.freeze("base");
    let places_before = places(&base, &stage);
    write(&stage.open_volume(), 0..70_000, 5);
    need!(balance(), "no btrfs-progs");
    let now = stage.freeze("now");
    assert_ne!(
        places(&base, &stage),
        places_before,
        "the balance moved nothing"
    );
    let changed = stage.delta(&base, &now).unwrap();
    assert!(changed.bytes() < 400_000, "{changed:?}");
    write(&stage.open_volume(), 1 << 20..(1 << 20) + 70_000, 6);
    balance().unwrap();
    let later = stage.freeze("later");
    stage.delta(&now, &later).unwrap();
    stage.delta(&base, &later).unwrap();
    stage.release(&[&base, &now, &later]);
    stage.assert_nothing_is_left();
}

#[test]
fn a_balance_under_way_leaves_doubt_or_hides_nothing() {
    let stage = need!(on_btrfs(), "no root, loop device or btrfs");
    let base = stage.freeze("base");
    write(&stage.open_volume(), 0..70_000, 5);
    let now = stage.freeze("now");
    let mut doubts = 0;
    for _ in 0..4 {
        let mut balance = Command::new("btrfs")
            .args(["balance", "start", "--full-balance"])
            .arg(stage.volume.with_file_name(""))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        while balance.try_wait().unwrap().is_none() {
            match stage.delta(&base, &now) {
                Ok(_) => {}
                Err(Doubt::Relocating { .. } | Doubt::Moved { .. }) => doubts += 1,
                Err(doubt) => panic!("{doubt}"),
            }
        }
    }
    assert!(doubts > 0, "no delta ever met a balance");
    stage.delta(&base, &now).unwrap();
    stage.release(&[&base, &now]);
}

#[test]
fn nocow_files_are_frozen_and_their_changes_found() {
    for provider in ["reflink", "btrfs"] {
        let mounted = need!(Mounted::btrfs(), "no root, loop device or btrfs");
        let folder = mounted.point.join("own");
        run("btrfs", &["subvolume", "create", text(&folder)]).unwrap();
        let volume = folder.join("disk.img");
        File::create(&volume).unwrap();
        run("chattr", &["+C", text(&volume)]).unwrap();
        let file = File::options().write(true).open(&volume).unwrap();
        write(&file, 0..4 << 20, 1);
        file.sync_all().unwrap();
        let stage = match provider {
            "reflink" => Stage::new(Reflink::new(), volume, Some(mounted)),
            _ => Stage::new(Btrfs::new(), volume, Some(mounted)),
        };
        for round in 0..4 {
            let bytes = changed_bytes(&stage, |volume| {
                write(volume, 8192..8192 + 4096, round);
                volume.sync_all().unwrap();
                // Overwritten twice: the second time in place, where nothing shares it any more.
                write(volume, 8192..8192 + 4096, round + 100);
                write(volume, 1 << 20..(1 << 20) + 10, round);
            });
            assert!((8192..200_000).contains(&bytes), "{bytes}");
        }
    }
}

#[test]
fn space_never_written_and_holes_are_zeros_and_nothing_else() {
    on_both(|stage| {
        let hole = 2 << 20..3 << 20;
        let nothing = changed_bytes(stage, |volume| preallocate(volume, hole.clone()));
        assert_eq!(
            nothing, 0,
            "a hole became allocated, and still reads as zeros"
        );
        let nothing = changed_bytes(stage, |volume| punch(volume, hole.clone()));
        assert_eq!(nothing, 0, "and back");
        let written = changed_bytes(stage, |volume| {
            preallocate(volume, hole.clone());
            write(volume, (2 << 20) + 4096..(2 << 20) + 8192, 9);
        });
        assert!((4096..200_000).contains(&written), "{written}");
        let zeroed = changed_bytes(stage, |volume| {
            // Zeros in place of data, by writing them.
            volume.write_all_at(&[0; 8192], 2 << 20).unwrap();
            volume.write_all_at(&[0; 8192], 0).unwrap();
        });
        assert!((8192..200_000).contains(&zeroed), "{zeroed}");
    });
}

#[test]
fn punched_holes_are_changes() {
    on_both(|stage| {
        let bytes = changed_bytes(stage, |volume| punch(volume, 65_536..1 << 20));
        assert_eq!(bytes, (1 << 20) - 65_536);
        // Not at the edge of a block.
        let bytes = changed_bytes(stage, |volume| punch(volume, 5..70));
        assert!((70..200_000).contains(&bytes), "{bytes}");
    });
}

#[test]
fn the_same_data_written_again_may_count_and_nothing_else_does() {
    on_both(|stage| {
        let bytes = changed_bytes(stage, |volume| {
            let mut same = vec![0; 65_536];
            volume.read_exact_at(&mut same, 0).unwrap();
            volume.write_all_at(&same, 0).unwrap();
        });
        assert!(bytes <= 200_000, "{bytes}");
    });
}

#[test]
fn truncating_and_growing_hides_nothing() {
    on_both(|stage| {
        let cut = (5 << 20) + 1000;
        let bytes = changed_bytes(stage, |volume| volume.set_len(cut).unwrap());
        assert!(bytes <= 65_536, "{bytes}");
        let bytes = changed_bytes(stage, |volume| volume.set_len(SIZE).unwrap());
        assert!(
            bytes >= SIZE - cut,
            "what is beyond the base is all new: {bytes}"
        );
        write(&stage.open_volume(), 5 << 20..SIZE, 3);
        let bytes = changed_bytes(stage, |volume| {
            // Cut inside a block, and grown again: the rest of that block became zeros.
            volume.set_len(cut).unwrap();
            volume.set_len(SIZE).unwrap();
        });
        assert!(bytes >= SIZE - cut, "{bytes}");
        changed_bytes(stage, |volume| volume.set_len(0).unwrap());
        let grown = changed_bytes(stage, |volume| write(volume, 0..10, 1));
        assert_eq!(grown, 10);
    });
}

#[test]
fn a_small_file_that_btrfs_keeps_among_its_metadata_is_all_changed() {
    let stage = need!(on_btrfs(), "no root, loop device or btrfs");
    let volume = stage.open_volume();
    volume.set_len(0).unwrap();
    volume.sync_all().unwrap();
    write(&volume, 0..300, 1);
    let bytes = changed_bytes(&stage, |volume| write(volume, 100..101, 2));
    assert_eq!(bytes, 300);
}
