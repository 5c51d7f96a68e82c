//! What every provider must do.

use std::fs::OpenOptions;

use lockstep_snapshot::{Btrfs, Exec, Health, Reflink, SnapshotError, SnapshotErrorKind, Verdict};

use crate::lab::{Mounted, need};
use crate::stage::{PAGE, Random, SIZE, Stage, preallocate, punch, write};
use crate::writers::{Way, Writer};

/// How much is tried.
struct Effort {
    /// Images taken of each kind of writer.
    images: usize,
    /// Rounds of random changes, each compared with the one before.
    rounds: u64,
}

const THOROUGH: Effort = Effort {
    images: 6,
    rounds: 12,
};
/// For a provider that starts a program at every turn.
const BRIEF: Effort = Effort {
    images: 2,
    rounds: 4,
};

fn conforms(stage: &Stage, effort: &Effort) {
    it_is_fit_and_says_what_it_costs(stage);
    the_image_is_the_volume_and_stays_so(stage);
    names_are_not_taken_twice(stage);
    a_delta_covers_every_changed_byte_and_little_else(stage, effort.rounds);
    what_a_crash_leaves_is_found_and_removed(stage);
    a_base_outlives_a_reboot_and_its_volume(stage);
    for way in [Way::Buffered, Way::Direct, Way::Mapped, Way::Mixed] {
        an_image_of_a_busy_volume_is_sound(stage, way, effort.images);
    }
    stage.assert_nothing_is_left();
}

fn it_is_fit_and_says_what_it_costs(stage: &Stage) {
    match stage.provider.probe(&stage.volume) {
        Verdict::Fit(fitness) => {
            assert!(fitness.space.free > 0, "{fitness:?}");
            assert!(fitness.cost.pause.as_millis() < 100, "{fitness:?}");
        }
        Verdict::Unfit { why } => panic!("{why}"),
    }
    stage.assert_nothing_is_left();
}

fn the_image_is_the_volume_and_stays_so(stage: &Stage) {
    let before = std::fs::read(&stage.volume).unwrap();
    let snapshot = stage.freeze("first");
    assert_eq!(snapshot.size, SIZE);
    assert!(stage.bytes(&snapshot) == before);
    let volume = stage.open_volume();
    write(&volume, 4096..300_000, 7);
    punch(&volume, 1 << 20..2 << 20);
    volume.set_len(SIZE - 5000).unwrap();
    volume.sync_all().unwrap();
    assert!(stage.bytes(&snapshot) == before, "the image changed");
    let path = stage.provider.open(&snapshot).unwrap().path;
    let written = OpenOptions::new().write(true).open(&path);
    assert!(
        written.is_err(),
        "{} can be opened for writing",
        path.display()
    );
    assert!(std::fs::remove_file(&path).is_err(), "it can be removed");
    let health = stage.provider.health(&snapshot).unwrap();
    assert!(
        matches!(health, Health::Sound { room } if room > 0),
        "{health:?}"
    );
    volume.set_len(SIZE).unwrap();
    write(&volume, 5 << 20..SIZE, 3);
    stage.release(&[&snapshot]);
    stage.assert_nothing_is_left();
    let gone = stage.provider.open(&snapshot).unwrap_err();
    if stage.provider.name() != "exec" {
        assert!(matches!(gone, SnapshotError::Gone { .. }), "{gone}");
        assert_eq!(gone.kind(), SnapshotErrorKind::Lost);
    }
    stage.release(&[&snapshot]);
}

fn names_are_not_taken_twice(stage: &Stage) {
    let first = stage.freeze("twice");
    let bytes = stage.bytes(&first);
    write(&stage.open_volume(), 0..4096, 99);
    let name = stage.snapshot_name("twice");
    let second = stage.provider.create(&stage.volume, &name).unwrap_err();
    assert!(second.to_string().contains("exists already"), "{second}");
    assert!(stage.bytes(&first) == bytes);
    stage.release(&[&first]);
    stage.assert_nothing_is_left();
}

fn a_delta_covers_every_changed_byte_and_little_else(stage: &Stage, rounds: u64) {
    let volume = stage.open_volume();
    let mut random = Random::new(42);
    let mut base = stage.freeze("0");
    for round in 1..=rounds {
        for _ in 0..random.below(6) {
            let at = random.below(SIZE / PAGE) * PAGE + random.below(2) * random.below(PAGE);
            let range = at..(at + 1 + random.below(40_000)).min(SIZE);
            match random.below(6) {
                0 => punch(&volume, range),
                1 => preallocate(&volume, range),
                2 => {
                    // The same data again.
                    let mut bytes = vec![0; (range.end - range.start) as usize];
                    std::os::unix::fs::FileExt::read_exact_at(&volume, &mut bytes, range.start)
                        .unwrap();
                    std::os::unix::fs::FileExt::write_all_at(&volume, &bytes, range.start).unwrap();
                }
                _ => write(&volume, range, random.next()),
            }
        }
        let now = stage.freeze(&round.to_string());
        let changed = stage.delta(&base, &now).unwrap();
        // At most 6 changes of 40 kB, each widened to the largest block.
        assert!(changed.bytes() <= 6 * (40_000 + 2 * 65_536), "{changed:?}");
        let nothing = stage.delta(&now, &now).unwrap();
        assert_eq!(nothing.bytes(), 0, "{nothing:?}");
        stage.release(&[&base]);
        base = now;
    }
    stage.release(&[&base]);
    stage.assert_nothing_is_left();
}

fn what_a_crash_leaves_is_found_and_removed(stage: &Stage) {
    let forgotten = stage.freeze("forgotten");
    let found = stage
        .provider
        .recover(&stage.volume, &stage.name())
        .unwrap();
    assert_eq!(found.whole.len(), 1, "{found:?}");
    assert_eq!(found.whole[0].name, forgotten.name);
    assert_eq!(found.whole[0].detail, forgotten.detail);
    let other = "another_volume".parse().unwrap();
    let of_another = stage.provider.recover(&stage.volume, &other).unwrap();
    assert_eq!(of_another.whole, []);
    stage.release(&[&found.whole[0]]);
    stage.assert_nothing_is_left();
}

fn a_base_outlives_a_reboot_and_its_volume(stage: &Stage) {
    let base = stage.freeze("before");
    write(&stage.open_volume(), 40_000..50_000, 5);
    stage.remount();
    let now = stage.freeze("after");
    let changed = stage.delta(&base, &now).unwrap();
    assert!(changed.bytes() <= 200_000, "{changed:?}");
    let bytes = stage.bytes(&now);
    if stage.provider.name() != "exec" {
        std::fs::remove_file(&stage.volume).unwrap();
        let found = stage
            .provider
            .recover(&stage.volume, &stage.name())
            .unwrap();
        let details: Vec<_> = found.whole.iter().map(|one| &one.detail).collect();
        assert_eq!(details, [&now.detail, &base.detail]);
        std::fs::write(&stage.volume, &bytes).unwrap();
    }
    stage.release(&[&base, &now]);
    stage.assert_nothing_is_left();
}

fn an_image_of_a_busy_volume_is_sound(stage: &Stage, way: Way, images: usize) {
    let writer = Writer::start(&stage.volume, way);
    let atomicity = stage.atomicity();
    let mut base = None;
    for image in 0..images {
        let flushed = writer.flushed();
        let snapshot = stage.freeze(&format!("busy{image}"));
        writer.assert_sound(&stage.bytes(&snapshot), flushed, atomicity);
        if let Some(base) = &base {
            stage.delta(base, &snapshot).unwrap();
            stage.release(&[base]);
        }
        base = Some(snapshot);
    }
    stage.release(&[&base.unwrap()]);
}

#[test]
fn reflink_on_xfs_conforms() {
    let mounted = need!(Mounted::xfs(), "no root, loop device or XFS");
    conforms(&Stage::on(mounted, Reflink::new()), &THOROUGH);
}

#[test]
fn reflink_on_btrfs_conforms() {
    let mounted = need!(Mounted::btrfs(), "no root, loop device or btrfs");
    conforms(&Stage::on(mounted, Reflink::new()), &THOROUGH);
}

#[test]
fn reflink_on_btrfs_by_maps_only_conforms() {
    let mounted = need!(Mounted::btrfs(), "no root, loop device or btrfs");
    conforms(&Stage::on(mounted, Reflink::by_maps_only()), &THOROUGH);
}

#[test]
fn a_btrfs_subvolume_conforms() {
    let mounted = need!(Mounted::btrfs(), "no root, loop device or btrfs");
    let stage = Stage::in_subvolume(mounted, Btrfs::new());
    conforms(&need!(stage, "no btrfs-progs"), &THOROUGH);
}

/// The example in the documentation.
fn example() -> Exec {
    let program = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../docs/examples/snapshot-by-clone"
    );
    Exec::new("python3".into(), vec![program.into()])
}

#[test]
fn the_example_of_a_snapshot_program_conforms() {
    let mounted = need!(Mounted::xfs(), "no root, loop device or XFS");
    conforms(&Stage::on(mounted, example()), &BRIEF);
}

#[test]
fn the_example_cleans_up_after_its_own_crash() {
    let mounted = need!(Mounted::xfs(), "no root, loop device or XFS");
    let stage = Stage::on(mounted, example());
    let kept = stage.freeze("kept");
    let folder = stage.provider.open(&kept).unwrap().path;
    let half = folder.with_file_name(format!("{}.half", stage.snapshot_name("killed")));
    std::fs::write(&half, b"half").unwrap();
    let found = stage
        .provider
        .recover(&stage.volume, &stage.name())
        .unwrap();
    assert_eq!(found.whole.len(), 1);
    assert_eq!(found.removed.len(), 1);
    stage.release(&[&kept]);
    stage.assert_nothing_is_left();
}
