//! SIGKILL at any moment of writing.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use lockstep_index::{IndexKey, IndexStore};

use crate::scene::{Scene, cvs, facts};

const ROUNDS: u64 = 40;
const PAGES: u64 = 40_000;
const CHILD: &str = "LOCKSTEP_INDEX_KILL_TEST_CHILD";

/// The child's life. Does nothing when it runs as an ordinary test.
#[test]
fn child_writes_until_it_is_killed() {
    let Some(dir) = std::env::var_os(CHILD).map(PathBuf::from) else {
        return;
    };
    let store = IndexStore::at(&dir);
    let key = IndexKey::target("pgdata");
    let both = [facts(PAGES, 1), facts(PAGES, 2)];
    std::fs::write(dir.join("begun"), b"").unwrap();
    for version in [1, 2].into_iter().cycle() {
        let facts = &both[version as usize - 1];
        store.save(&key, facts, cvs(PAGES, version)).unwrap();
    }
}

#[test]
fn a_killed_writer_leaves_the_old_index_or_the_new_one() {
    let scene = Scene::new();
    scene.save(PAGES, 1);
    let begun = scene.dir.join("begun");
    let mut seen = [0_u32; 2];
    let mut drafts = 0;
    for round in 0..ROUNDS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "kill::child_writes_until_it_is_killed",
                "--test-threads=1",
            ])
            .env(CHILD, &scene.dir)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        while !begun.exists() {
            assert!(child.try_wait().unwrap().is_none(), "the child ended");
            assert!(Instant::now() < deadline, "the child does not begin");
            std::thread::sleep(Duration::from_micros(200));
        }
        // Steps of a prime, so that the kills spread over the whole length of a few writes.
        std::thread::sleep(Duration::from_micros(round * 1709 % 60_000));
        child.kill().unwrap();
        child.wait().unwrap();
        std::fs::remove_file(&begun).unwrap();
        drafts += scene.count(".new");
        let index = scene.load().unwrap();
        let version = if index.facts().snapshot == b"1" { 1 } else { 2 };
        assert!(index.cvs().eq(cvs(PAGES, version)));
        seen[version as usize - 1] += 1;
    }
    assert!(
        seen[0] > 0 && seen[1] > 0 && drafts > 0,
        "{seen:?}, {drafts} drafts"
    );
    scene.save(PAGES, 1);
    assert_eq!((scene.count(".new"), scene.count(".index")), (0, 1));
}
