//! What images and deltas cost: work, not only results.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;

use lockstep_snapshot::{Health, Reflink, SnapshotError, Verdict};

use crate::lab::{Mounted, need};
use crate::stage::{PAGE, Random, Stage, write};

/// Pages of the volume of the test below: 128 MiB.
const PAGES: u64 = 32_768;

fn one_percent_changed_is_hardly_more_in_the_delta(mounted: Mounted) {
    let volume = mounted.point.join("disk.img");
    let file = File::create(&volume).unwrap();
    write(&file, 0..PAGES * PAGE, 1);
    let stage = Stage::new(Reflink::new(), volume, Some(mounted));
    let base = stage.freeze("base");
    let mut random = Random::new(7);
    for _ in 0..PAGES / 100 {
        let at = random.below(PAGES) * PAGE;
        write(&file, at..at + PAGE, random.next());
    }
    let now = stage.freeze("now");
    let changed = stage.provider.delta(&base, &now).unwrap();
    assert!(
        changed.bytes() * 100 <= PAGES * PAGE * 2,
        "{}",
        changed.bytes()
    );
    // Many extents now, and the probe says so before anybody waits for them.
    match stage.provider.probe(&stage.volume) {
        Verdict::Fit(fitness) => {
            let extents = fitness.cost.extents.unwrap();
            assert!((300..3000).contains(&extents), "{extents}");
            assert_eq!(fitness.cost.pause.as_micros(), u128::from(extents) * 50);
            assert!(fitness.space.at_risk >= PAGES * PAGE * 99 / 100);
        }
        Verdict::Unfit { why } => panic!("{why}"),
    }
    stage.release(&[&base, &now]);
    stage.assert_nothing_is_left();
}

#[test]
fn one_percent_changed_on_xfs() {
    let mounted = need!(Mounted::xfs(), "no root, loop device or XFS");
    one_percent_changed_is_hardly_more_in_the_delta(mounted);
}

#[test]
fn one_percent_changed_on_btrfs() {
    let mounted = need!(Mounted::btrfs(), "no root, loop device or btrfs");
    one_percent_changed_is_hardly_more_in_the_delta(mounted);
}

#[test]
fn a_filesystem_without_reflinks_is_unfit_and_left_as_it_was() {
    let mounted = need!(
        Mounted::new("ext4", 64, "defaults"),
        "no root, loop device or ext4"
    );
    let volume = mounted.point.join("disk.img");
    write(&File::create(&volume).unwrap(), 0..100_000, 1);
    let stage = Stage::new(Reflink::new(), volume, Some(mounted));
    let verdict = stage.provider.probe(&stage.volume);
    assert!(matches!(&verdict, Verdict::Unfit { why } if why.contains("neither XFS nor btrfs")));
    let name = stage.snapshot_name("first");
    let error = stage.provider.create(&stage.volume, &name).unwrap_err();
    assert!(matches!(error, SnapshotError::Unfit { .. }), "{error}");
    assert!(error.hint().is_some());
    stage.assert_nothing_is_left();
}

#[test]
fn what_is_left_of_a_disk_that_fills_up_is_told_and_released() {
    let mounted = need!(Mounted::xfs(), "no root, loop device or XFS");
    let volume = mounted.point.join("disk.img");
    let file = File::create(&volume).unwrap();
    write(&file, 0..64 << 20, 1);
    file.sync_all().unwrap();
    let stage = Stage::new(Reflink::new(), volume, Some(mounted));
    let snapshot = stage.freeze("first");
    let before = stage.bytes(&snapshot);
    let room = |stage: &Stage| match stage.provider.health(&snapshot).unwrap() {
        Health::Sound { room } => room,
        Health::Lost { why } => panic!("{why}"),
    };
    let filler_path = stage.volume.with_file_name("filler");
    let filler = File::create(&filler_path).unwrap();
    let full = (0..400).map(|at| {
        let piece = vec![1; 1 << 20];
        filler.write_all_at(&piece, at << 20)
    });
    let full = full.into_iter().find_map(Result::err).unwrap();
    assert_eq!(full.kind(), ErrorKind::StorageFull);
    drop(filler);
    assert!(room(&stage) < 16 << 20, "{}", room(&stage));
    // The volume's own writer is who suffers; the image does not.
    let suffered = (0..64).map(|at| {
        file.write_all_at(&vec![9; 1 << 20], at << 20)?;
        file.sync_data()
    });
    let suffered = suffered.into_iter().find_map(Result::err).unwrap();
    assert_eq!(suffered.kind(), ErrorKind::StorageFull);
    assert!(stage.bytes(&snapshot) == before);
    // Released, the volume can be written again.
    stage.release(&[&snapshot]);
    std::fs::remove_file(&filler_path).unwrap();
    write(&file, 0..64 << 20, 2);
    file.sync_all().unwrap();
    stage.assert_nothing_is_left();
}
