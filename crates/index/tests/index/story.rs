//! What a run does with indexes, from the first to the last.

use lockstep_index::{IndexError, IndexKey, IndexStore, Unusable};
use lockstep_merkle::{MAX_VOLUME_SIZE, PageIndex, Root};

use crate::scene::{IDENTITY, Scene, cvs, facts, geometry};

#[test]
fn what_was_saved_is_loaded_for_every_number_of_pages() {
    let scene = Scene::new();
    for pages in [0, 1, 2, 3, 127, 128, 129, 32_767, 32_768, 32_769, 70_001] {
        scene.save(pages, pages);
        let index = scene.load().unwrap();
        assert_eq!(index.key(), &scene.key);
        assert_eq!(index.facts(), &facts(pages, pages));
        assert_eq!(index.page_count(), pages);
        assert_eq!(index.geometry(), geometry(pages));
        assert!(index.cvs().eq(cvs(pages, pages)));
        if let Some(last) = pages.checked_sub(1) {
            let cv = index.cv(PageIndex(last));
            assert_eq!(Some(cv), cvs(pages, pages).last());
        }
    }
}

#[test]
fn a_volume_has_an_index_for_each_snapshot_and_one_as_a_target() {
    let scene = Scene::new();
    let keys = [
        IndexKey::target("pgdata"),
        IndexKey::source("pgdata", "a"),
        IndexKey::source("pgdata", "b"),
        IndexKey::source("pgwal", "a"),
    ];
    for (version, key) in (0..).zip(&keys) {
        let cvs = cvs(5, version);
        scene.store.save(key, &facts(5, version), cvs).unwrap();
    }
    for (version, key) in (0..).zip(&keys) {
        let index = scene.store.load(key, IDENTITY).unwrap();
        assert_eq!(index.facts(), &facts(5, version));
    }
    let listed = scene.store.list().unwrap();
    let mut found: Vec<IndexKey> = listed
        .into_iter()
        .map(|listed| listed.header.unwrap().0)
        .collect();
    found.sort_unstable();
    let mut expected = keys.to_vec();
    expected.sort_unstable();
    assert_eq!(found, expected);
    scene.store.remove(&keys[1]).unwrap();
    assert!(matches!(
        scene.store.load(&keys[1], IDENTITY),
        Err(Unusable::Missing)
    ));
    assert_eq!(scene.store.list().unwrap().len(), 3);
}

#[test]
fn a_state_directory_without_indexes_is_only_looked_at() {
    let scene = Scene::new();
    assert!(matches!(scene.load(), Err(Unusable::Missing)));
    assert!(scene.store.list().unwrap().is_empty());
    scene.store.remove(&scene.key).unwrap();
    assert!(!scene.dir.exists());
}

#[test]
fn a_replaced_file_is_not_the_one_that_was_indexed() {
    let scene = Scene::new();
    scene.save(5, 1);
    let refused = scene.store.load(&scene.key, "file inode 13").unwrap_err();
    assert!(!refused.is_damage());
    assert!(refused.to_string().contains("this is \"file inode 13\""));
}

#[test]
fn who_has_an_index_open_keeps_it_while_others_come_and_go() {
    let scene = Scene::new();
    scene.save(5000, 1);
    let first = scene.load().unwrap();
    scene.save(5, 2);
    scene.store.remove(&scene.key).unwrap();
    scene.save(9000, 3);
    assert!(first.cvs().eq(cvs(5000, 1)));
}

#[test]
fn what_would_not_load_again_is_not_written() {
    let scene = Scene::new();
    scene.save(40, 1);
    let save = |facts, pages| scene.store.save(&scene.key, &facts, cvs(pages, 2));
    for pages in [0, 39, 41, u64::MAX] {
        let refused = save(facts(40, 2), pages).unwrap_err();
        assert!(matches!(refused, IndexError::Pages(_)), "{refused}");
    }
    let mut wrong = facts(40, 2);
    wrong.root = Root::from_bytes([0; 32]);
    let refused = save(wrong, 40).unwrap_err();
    assert!(matches!(refused, IndexError::RootDiffers { .. }));
    let mut long = facts(40, 2);
    long.identity = "x".repeat(300);
    let refused = save(long, 40).unwrap_err();
    assert!(matches!(refused, IndexError::TooLong { limit: 256, .. }));
    let mut huge = facts(40, 2);
    huge.geometry = lockstep_merkle::Geometry::new(MAX_VOLUME_SIZE + 1);
    let refused = save(huge, 40).unwrap_err();
    assert!(matches!(refused, IndexError::TooLarge { .. }));
    assert_eq!(scene.load().unwrap().facts(), &facts(40, 1));
    assert_eq!(scene.count(".new"), 0);
}

/// Each thread saves and loads all the time: nobody ever sees anything but a whole index.
#[test]
fn writers_and_readers_do_not_meet_in_the_middle() {
    let scene = Scene::new();
    scene.save(3000, 0);
    std::thread::scope(|scope| {
        for writer in 0..3 {
            let scene = &scene;
            scope.spawn(move || (0..10).for_each(|round| scene.save(3000, writer * 10 + round)));
        }
        for _ in 0..60 {
            let index = scene.load().unwrap();
            let version = std::str::from_utf8(&index.facts().snapshot).unwrap();
            assert!(index.cvs().eq(cvs(3000, version.parse().unwrap())));
        }
    });
    assert_eq!((scene.count(".new"), scene.count(".index")), (0, 1));
}

#[test]
fn only_the_owner_may_read_an_index() {
    use std::os::unix::fs::PermissionsExt;
    let scene = Scene::new();
    scene.save(5, 1);
    let mode = |path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(scene.file()), 0o600);
    assert_eq!(mode(scene.folder()), 0o700);
}

/// A folder that cannot be made, and a removal that must not be taken for done.
#[test]
fn a_state_directory_that_is_no_folder_is_an_error() {
    let scene = Scene::new();
    std::fs::write(&scene.dir, b"a file").unwrap();
    let store = IndexStore::at(&scene.dir);
    let refused = store.save(&scene.key, &facts(5, 1), cvs(5, 1)).unwrap_err();
    assert!(matches!(refused, IndexError::Io { .. }), "{refused}");
    assert!(store.remove(&scene.key).is_err());
    assert!(matches!(
        store.load(&scene.key, IDENTITY),
        Err(Unusable::Unreadable(_))
    ));
}

/// Most memory that this process had at once so far, in KiB; pages of mapped files count too.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let number = line.and_then(|line| line.split_whitespace().nth(1));
    number.unwrap().parse().unwrap()
}

#[test]
#[ignore = "writes the 512 MiB index of a volume of 64 GiB; to be run alone"]
fn sixty_four_gigabytes_take_no_memory_to_save_and_to_load() {
    const PAGES: u64 = 1 << 24;
    let scene = Scene::new();
    let facts = facts(PAGES, 1);
    let before = peak_kib();
    let start = std::time::Instant::now();
    let saved = scene.store.save(&scene.key, &facts, cvs(PAGES, 1));
    saved.unwrap();
    let written = start.elapsed();
    let index = scene.load().unwrap();
    let loaded = start.elapsed() - written;
    let grown = peak_kib() - before;
    println!("saved in {written:?}, loaded in {loaded:?}, {grown} KiB more");
    assert!(grown < 16 << 10, "{grown} KiB");
    assert!(index.cvs().eq(cvs(PAGES, 1)));
}
