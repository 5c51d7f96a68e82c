//! Every kind of damage is found, named, never trusted, and known before the volume is touched.

use std::fs;
use std::os::unix::fs::{FileExt, symlink};

use lockstep_undo::{Keeping, UndoError, Unusable, check, restore};
use lockstep_volume::Volume;
use lockstep_volume::faults::MemoryVolume;

use crate::scene::{IDENTITY, KEY, PAGE, PAGES, Scene};

/// Bytes of a log's header, and of a record's head.
const HEAD: usize = 128;

fn doubt(scene: &Scene) -> Unusable {
    match scene.store.restore(KEY, IDENTITY, "rollback") {
        Err(UndoError::Unusable(doubt)) => doubt,
        other => panic!("{other:?}"),
    }
}

/// Pages 0, 2, 4 … in a flush each; interrupted.
fn interrupted(scene: &Scene, count: u64) -> Keeping {
    let keeping = scene.begin();
    for page in 0..count {
        scene.overwrite(&keeping, 2 * page, 1);
    }
    keeping
}

#[test]
fn no_flipped_bit_of_a_record_is_believed() {
    let scene = Scene::new();
    scene.finished();
    let path = scene.file("undo");
    let whole = fs::read(&path).unwrap();
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    for at in (0..128).chain((128..whole.len()).step_by(13)) {
        let flipped = whole[at] ^ 1 << (at % 8);
        file.write_all_at(&[flipped], at as u64).unwrap();
        let doubt = scene.store.look(KEY).unwrap_err();
        let right = match at {
            0..8 => matches!(doubt, Unusable::Magic(_)),
            8..12 => matches!(doubt, Unusable::Version { .. }),
            _ => matches!(doubt, Unusable::Checksum(_)),
        };
        assert!(right, "byte {at}: {doubt}");
        file.write_all_at(&whole[at..=at], at as u64).unwrap();
    }
    scene.store.look(KEY).unwrap();
}

#[test]
fn no_cut_longer_or_zeroed_record_is_believed() {
    let scene = Scene::new();
    scene.finished();
    let path = scene.file("undo");
    let whole = fs::read(&path).unwrap();
    for length in [0, 1, 100, 4096, whole.len() - 1] {
        fs::write(&path, &whole[..length]).unwrap();
        assert!(matches!(
            scene.store.look(KEY),
            Err(Unusable::Length { .. })
        ));
    }
    fs::write(&path, [whole.as_slice(), &[0]].concat()).unwrap();
    assert!(matches!(
        scene.store.look(KEY),
        Err(Unusable::Length { .. })
    ));
    fs::write(&path, vec![0; whole.len()]).unwrap();
    assert!(matches!(scene.store.look(KEY), Err(Unusable::Magic(_))));
    fs::write(&path, &whole).unwrap();
    scene.store.look(KEY).unwrap();
}

/// Right checksums over contradictions: nobody writes that, and nobody is believed who did.
#[test]
fn contradictions_are_named_even_under_a_good_checksum() {
    let scene = Scene::new();
    scene.finished();
    let path = scene.file("undo");
    let whole = fs::read(&path).unwrap();
    let cases: [(usize, &[u8], &str); 8] = [
        (12, &[3], "its state is none"),
        (12, &[0], "its log has another length than its state allows"),
        (13, &[1], "it is neither of a log nor of an image"),
        (14, &[3], "its root is neither known nor unknown"),
        (15, &[1], "something is where nothing should be"),
        (16, &[0xff; 8], "its volume is larger than any"),
        (104, &[0xff, 0xff], "a text is longer than its field"),
        (639, &[1], "something follows a text"),
    ];
    for (at, bytes, why) in cases {
        let mut forged = whole.clone();
        forged[at..at + bytes.len()].copy_from_slice(bytes);
        let sum = *blake3::hash(&forged[..8160]).as_bytes();
        forged[8160..].copy_from_slice(&sum);
        fs::write(&path, forged).unwrap();
        let doubt = scene.store.look(KEY).unwrap_err();
        assert!(
            doubt.is_damage() && doubt.to_string().ends_with(why),
            "{doubt}"
        );
    }
}

#[test]
fn no_flipped_bit_of_a_finished_log_is_believed_and_the_volume_stays_as_it_is() {
    let scene = Scene::new();
    scene.finished();
    let (path, record) = (scene.file("log"), fs::read(scene.file("undo")).unwrap());
    let whole = fs::read(&path).unwrap();
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    // Padding is nobody's; there is some behind the short last page alone.
    let padding = whole.len() - 96..whole.len();
    let places = (0..1024).chain((1024..whole.len()).step_by(997));
    for at in places.filter(|at| !padding.contains(at)) {
        let flipped = whole[at] ^ 1 << (at % 8);
        file.write_all_at(&[flipped], at as u64).unwrap();
        let doubt = doubt(&scene);
        let right = match at {
            0..8 => matches!(doubt, Unusable::Magic(_)),
            8..12 => matches!(doubt, Unusable::Version { .. }),
            12..HEAD => matches!(doubt, Unusable::Checksum(_)),
            _ => matches!(doubt, Unusable::DamagedPreImage { .. }),
        };
        assert!(right, "byte {at}: {doubt}");
        file.write_all_at(&whole[at..=at], at as u64).unwrap();
    }
    let is_unchanged = fs::read(scene.file("undo")).unwrap() == record;
    assert!(is_unchanged, "a rollback that is refused has not begun");
    scene.store.restore(KEY, IDENTITY, "rollback").unwrap();
}

#[test]
fn no_cut_finished_log_is_believed() {
    let scene = Scene::new();
    scene.finished();
    let path = scene.file("log");
    let whole = fs::read(&path).unwrap();
    for length in (0..whole.len()).step_by(4999).chain([whole.len() - 1]) {
        fs::write(&path, &whole[..length]).unwrap();
        let doubt = doubt(&scene);
        assert!(
            matches!(doubt, Unusable::Length { .. }),
            "{length}: {doubt}"
        );
        assert!(scene.store.look(KEY).is_err(), "it is not offered either");
    }
    // What somebody added behind the end does not count.
    fs::write(&path, [whole.as_slice(), &[1; 300]].concat()).unwrap();
    let restoring = scene.store.restore(KEY, IDENTITY, "rollback").unwrap();
    restore(restoring.log().unwrap(), &scene.volume).unwrap();
    assert!(scene.volume.medium_content() == scene.before);
}

/// Cut anywhere, as by a crash: what is whole counts, and nothing else.
#[test]
fn a_torn_end_of_an_interrupted_log_is_left_out() {
    const RECORDS: u64 = 4;
    let scene = Scene::new();
    drop(interrupted(&scene, RECORDS));
    let path = scene.file("log");
    let whole = fs::read(&path).unwrap();
    let record = fs::read(scene.file("undo")).unwrap();
    // Page 2 is of zeros.
    let ends: Vec<usize> = [0, 1, 2, 3, 4]
        .map(|count: usize| {
            HEAD + count * HEAD + count.saturating_sub(usize::from(count > 1)) * 4096
        })
        .into();
    assert_eq!(ends[4], whole.len());
    for length in (HEAD..=whole.len()).step_by(61).chain(ends.iter().copied()) {
        fs::write(&path, &whole[..length]).unwrap();
        fs::write(scene.file("undo"), &record).unwrap();
        let restoring = scene.store.restore(KEY, IDENTITY, "rollback").unwrap();
        let log = restoring.log().unwrap();
        let whole_records = ends.iter().filter(|end| **end <= length).count() - 1;
        assert_eq!(log.records(), whole_records as u64, "{length} bytes");
        let volume = MemoryVolume::with_content(scene.volume.content());
        restore(log, &volume).unwrap();
        check(log, &volume).unwrap();
        let restored = &volume.content()[..whole_records * 2 * PAGE as usize];
        assert!(
            restored == &scene.before[..restored.len()],
            "{length} bytes"
        );
    }
}

/// Garbage behind the last record, bad blocks in the last one: torn. The same in front of a record that
/// was written after it was durable: damage.
#[test]
fn damage_is_told_from_a_torn_end() {
    const RECORDS: u64 = 6;
    let scene = Scene::new();
    drop(interrupted(&scene, RECORDS));
    let path = scene.file("log");
    let (whole, record) = (
        fs::read(&path).unwrap(),
        fs::read(scene.file("undo")).unwrap(),
    );
    let last = whole.len() - HEAD - 4096;
    for at in (HEAD..whole.len()).step_by(37) {
        let mut bad = whole.clone();
        bad[at] ^= 4;
        fs::write(&path, &bad).unwrap();
        fs::write(scene.file("undo"), &record).unwrap();
        let result = scene.store.restore(KEY, IDENTITY, "rollback");
        match result {
            Ok(restoring) if at >= last => {
                assert_eq!(restoring.log().unwrap().records(), RECORDS - 1);
            }
            Err(UndoError::Unusable(Unusable::DamagedPreImage { at: found })) if at < last => {
                assert!(found <= at as u64);
            }
            other => panic!("byte {at}: {other:?}"),
        }
    }
    fs::write(scene.file("undo"), &record).unwrap();
    fs::write(&path, [whole.as_slice(), &[0xa5; 5000]].concat()).unwrap();
    let keeping = scene.resume("run-1").unwrap();
    assert_eq!(keeping.log().unwrap().records(), RECORDS);
    let cut = fs::metadata(&path).unwrap().len();
    assert_eq!(
        cut,
        whole.len() as u64,
        "a resumed log begins behind its last record"
    );
    scene.overwrite(&keeping, 0, PAGES);
    keeping.finish(1).unwrap();
    let restoring = scene.store.restore(KEY, IDENTITY, "rollback").unwrap();
    restore(restoring.log().unwrap(), &scene.volume).unwrap();
    assert!(scene.volume.medium_content() == scene.before);
}

/// A volume may hold a copy of its own log; those bytes are no records when a torn end bares them.
#[test]
fn records_inside_a_pre_image_are_not_taken_for_records() {
    let scene = Scene::new();
    drop(interrupted(&scene, 2));
    let path = scene.file("log");
    let copy = fs::read(&path).unwrap();
    let keeping = scene.resume("run-1").unwrap();
    let mut page = copy[HEAD..HEAD + 4096].to_vec();
    page[0] ^= 1;
    page.extend_from_slice(&copy[HEAD..HEAD + 4096]);
    scene.volume.write_at(20 * PAGE, &page).unwrap();
    scene.overwrite(&keeping, 20, 2);
    drop(keeping);
    let mut torn = fs::read(&path).unwrap();
    let head = copy.len();
    torn[head..head + HEAD].fill(0);
    fs::write(&path, torn).unwrap();
    let restoring = scene.store.restore(KEY, IDENTITY, "rollback").unwrap();
    assert_eq!(restoring.log().unwrap().records(), 2);
}

#[test]
fn a_log_that_is_gone_or_of_another_undo_is_not_taken() {
    let scene = Scene::new();
    scene.finished();
    let path = scene.file("log");
    let whole = fs::read(&path).unwrap();
    fs::remove_file(&path).unwrap();
    assert!(matches!(scene.store.look(KEY), Err(Unusable::NoLog)));
    assert!(matches!(doubt(&scene), Unusable::NoLog));
    assert_eq!(scene.store.expired(u64::MAX).unwrap().len(), 1);
    scene.store.release(KEY).unwrap();
    drop(scene.begin());
    fs::write(&path, whole).unwrap();
    assert!(matches!(doubt(&scene), Unusable::OtherLog));
    assert!(scene.resume("run-1").is_none());
    drop(scene.begin());
    scene.store.look(KEY).unwrap();
}

#[test]
fn a_record_of_another_volume_is_not_taken() {
    let scene = Scene::new();
    scene.finished();
    let (undo, log) = (scene.file("undo"), scene.file("log"));
    let other = lockstep_undo::Begin {
        key: "other",
        ..scene.facts()
    };
    drop(scene.store.begin_log(&other, 1 << 20).unwrap());
    let (undo, log) = (fs::read(undo).unwrap(), fs::read(log).unwrap());
    for listed in scene.store.list().unwrap() {
        fs::write(&listed.path, &undo).unwrap();
        fs::write(listed.path.with_extension("log"), &log).unwrap();
    }
    let doubt = scene.store.look("other").unwrap_err();
    assert!(matches!(doubt, Unusable::OtherKey(_)), "{doubt}");
    let refused = scene.store.restore("other", IDENTITY, "r").unwrap_err();
    assert!(
        matches!(refused, UndoError::Unusable(Unusable::OtherKey(_))),
        "{refused}"
    );
}

#[test]
fn a_link_a_folder_and_a_pipe_are_no_undos_and_nobody_waits_for_them() {
    for end in ["undo", "log"] {
        let scene = Scene::new();
        scene.finished();
        let path = scene.file(end);
        let elsewhere = scene.dir.join("elsewhere");
        fs::rename(&path, &elsewhere).unwrap();
        let refused = || matches!(scene.store.look(KEY), Err(Unusable::NotAFile(_)));
        symlink(&elsewhere, &path).unwrap();
        assert!(refused(), "a link");
        fs::remove_file(&path).unwrap();
        let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR);
        rustix::fs::mknodat(rustix::fs::CWD, &path, kind, mode, 0).unwrap();
        assert!(refused(), "a pipe");
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(refused(), "a folder");
        assert!(
            scene.store.release(KEY).is_err(),
            "and none of ours to remove"
        );
    }
}

#[test]
fn damage_makes_way_for_the_next_undo_and_a_newer_format_does_not() {
    let scene = Scene::new();
    scene.finished();
    let path = scene.file("undo");
    let whole = fs::read(&path).unwrap();
    let mut newer = whole.clone();
    newer[8] = 2;
    fs::write(&path, &newer).unwrap();
    let refused = scene.store.begin_log(&scene.facts(), 1 << 20).unwrap_err();
    assert!(matches!(
        refused,
        UndoError::Unusable(Unusable::Version { format: 2, .. })
    ));
    let mut damaged = whole;
    damaged[500] ^= 1;
    fs::write(&path, &damaged).unwrap();
    assert!(scene.resume("run-1").is_none());
    drop(scene.begin());
    scene.store.look(KEY).unwrap();
    fs::write(&path, &damaged).unwrap();
    let listed = scene.store.list().unwrap();
    assert!(listed[0].record.is_err());
    scene.store.discard(&listed[0]).unwrap();
    assert!(scene.store.list().unwrap().is_empty());
    assert!(!path.with_extension("log").exists());
}
