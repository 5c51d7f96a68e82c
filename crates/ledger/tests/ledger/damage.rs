//! Whatever happens to its files, the ledger never says more than it knows, and never panics.

use std::fs;

use lockstep_ledger::{MAX_SET_ASIDE, Standing};
use proptest::prelude::{ProptestConfig, Strategy, any};
use proptest::prop_oneof;
use proptest::sample::Index;
use proptest::test_runner::TestRunner;

use crate::scene::{Scene, identity, run};

/// A volume that was consistent and is being overwritten: saying `consistent` now would be a lie,
/// and the store still has every byte that it takes to tell it.
fn interrupted() -> Scene {
    let scene = Scene::new();
    scene.sync("first");
    let claim = scene.open().claim(&scene.key, run("second")).unwrap();
    claim.overwrite(Some(identity("a"))).unwrap().abandon();
    scene
}

/// Asks, opens, and uses a ledger whose store is these bytes.
fn assert_never_believed_beyond(truth: &Standing, scene: &Scene, store: &[u8], what: &str) {
    fs::write(scene.store(), store).unwrap();
    let peeked = scene.standing();
    assert!(
        peeked == *truth || peeked.word() == "unknown",
        "{what}: {peeked:?}"
    );
    let standing = scene.open().standing(&scene.key, &identity("a")).unwrap();
    assert_eq!(standing.word(), peeked.word(), "{what}");
}

fn assert_still_usable(scene: &Scene) {
    scene.sync("afterwards");
    assert_eq!(scene.word(), "consistent");
}

/// Where redb keeps what decides which of its two last commits counts.
const HEADER_BYTES: usize = 320;

#[test]
fn no_flipped_bit_of_the_header_brings_consistent_back() {
    let scene = interrupted();
    let (whole, truth) = (scene.store_bytes(), scene.standing());
    assert_eq!(truth.word(), "inconsistent");
    for bit in (0..HEADER_BYTES * 8).filter(|bit| bit % 7 == 0 || bit / 8 < 16) {
        let mut store = whole.clone();
        store[bit / 8] ^= 1 << (bit % 8);
        fs::write(scene.store(), &store).unwrap();
        let peeked = scene.standing();
        let honest = peeked == truth || peeked.word() == "unknown";
        assert!(honest, "bit {bit}: {peeked:?}");
    }
    fs::write(scene.store(), &whole).unwrap();
    assert_eq!(scene.standing(), truth);
}

#[test]
fn a_store_from_before_the_last_change_is_not_believed() {
    let scene = Scene::new();
    scene.sync("first");
    let consistent = scene.store_bytes();
    let claim = scene.open().claim(&scene.key, run("second")).unwrap();
    claim.overwrite(Some(identity("a"))).unwrap().abandon();

    fs::write(scene.store(), &consistent).unwrap();
    let Standing::Unknown { why } = scene.standing() else {
        panic!("a restored store is believed");
    };
    assert!(
        why.contains("change 2") && why.contains("change 3"),
        "{why}"
    );
    assert!(scene.open().was_damaged().is_some());
    assert_still_usable(&scene);
}

#[test]
fn a_store_cut_short_anywhere_is_set_aside() {
    let scene = interrupted();
    let (whole, truth) = (scene.store_bytes(), scene.standing());
    let step = whole.len() / 40;
    for len in (0..64)
        .map(|n| n * 64)
        .chain((0..whole.len()).step_by(step))
    {
        fs::write(scene.store(), &whole[..len]).unwrap();
        let peeked = scene.standing();
        assert!(peeked == truth || peeked.word() == "unknown", "{len} bytes");
    }
    assert_never_believed_beyond(&truth, &scene, &whole[..whole.len() / 2], "half");
    assert_still_usable(&scene);
}

#[test]
fn what_is_no_store_is_set_aside_and_kept() {
    let scene = Scene::new();
    scene.open();
    for (n, garbage) in [
        b"".as_slice(),
        b"x",
        &[0; 8192],
        &[0xff; 8192],
        b"redb\x1a\x0a\xa9\x0d\x0a",
    ]
    .into_iter()
    .enumerate()
    {
        fs::write(scene.store(), garbage).unwrap();
        assert_eq!(scene.word(), "unknown");
        let ledger = scene.open();
        let aside = ledger.was_damaged().unwrap();
        assert!(aside.ends_with(format!("ledger.redb.damaged-{}", n + 1)));
        assert_eq!(fs::read(aside).unwrap(), garbage);
        assert!(scene.open().was_damaged().is_none());
    }
    assert_still_usable(&scene);
}

#[test]
fn stores_set_aside_are_bounded_and_the_first_ones_stay() {
    let scene = Scene::new();
    scene.open();
    for n in 0..MAX_SET_ASIDE + 3 {
        fs::write(scene.store(), n.to_string()).unwrap();
        assert!(scene.open().was_damaged().is_some());
    }
    let asides = fs::read_dir(&scene.dir).unwrap().filter(|entry| {
        let name = entry.as_ref().unwrap().file_name();
        name.to_str().unwrap().contains("damaged")
    });
    assert_eq!(asides.count(), MAX_SET_ASIDE);
    let first = fs::read(scene.dir.join("ledger.redb.damaged-1")).unwrap();
    assert_eq!(first, b"0");
}

#[test]
fn a_damaged_number_makes_everything_unknown_and_a_missing_store_too() {
    let scene = interrupted();
    fs::write(
        scene.dir.join("ledger.seq"),
        "lockstep-ledger-seq 1 1 0000\n",
    )
    .unwrap();
    assert_eq!(scene.word(), "unknown");
    assert!(scene.open().was_damaged().is_some());
    assert_still_usable(&scene);

    fs::remove_file(scene.store()).unwrap();
    assert_eq!(scene.word(), "unknown");
    assert!(scene.open().was_damaged().is_none());
    assert_still_usable(&scene);
}

#[test]
fn damage_in_the_middle_of_a_run_costs_the_history_and_not_the_proof() {
    let scene = Scene::new();
    scene.sync("first");
    let claim = scene.open().claim(&scene.key, run("second")).unwrap();
    let overwriting = claim.overwrite(Some(identity("a"))).unwrap();
    fs::write(scene.store(), b"garbage").unwrap();
    assert_eq!(scene.word(), "unknown");
    let proof = crate::scene::proof(9);
    let record = overwriting.consistent(identity("a"), proof, 1, 2).unwrap();
    assert_eq!(scene.standing(), Standing::Consistent(record.clone()));
    assert_eq!(scene.open().history(&scene.key).unwrap(), [record]);
}

#[derive(Debug, Clone)]
enum Accident {
    Flip(Index, u8),
    Zero(Index, usize),
    Garbage(Index, usize, u8),
    Swap(Index, Index),
}

const PAGE: usize = 4096;

fn accidents() -> impl Strategy<Value = Accident> {
    prop_oneof![
        4 => (any::<Index>(), 0..8_u8).prop_map(|(at, bit)| Accident::Flip(at, bit)),
        1 => (any::<Index>(), 1..3 * PAGE).prop_map(|(at, len)| Accident::Zero(at, len)),
        1 => (any::<Index>(), 1..PAGE, any::<u8>())
            .prop_map(|(at, len, byte)| Accident::Garbage(at, len, byte)),
        1 => (any::<Index>(), any::<Index>()).prop_map(|(a, b)| Accident::Swap(a, b)),
    ]
}

fn happen(accident: &Accident, store: &mut [u8]) {
    let len = store.len();
    let cut = |at: usize, want: usize| at..len.min(at + want);
    match accident {
        Accident::Flip(at, bit) => store[at.index(len)] ^= 1 << bit,
        Accident::Zero(at, want) => store[cut(at.index(len), *want)].fill(0),
        Accident::Garbage(at, want, byte) => {
            for (n, there) in store[cut(at.index(len), *want)].iter_mut().enumerate() {
                *there ^= byte.wrapping_add(n as u8);
            }
        }
        Accident::Swap(a, b) => {
            let pages = len / PAGE;
            let (a, b) = (a.index(pages) * PAGE, b.index(pages) * PAGE);
            for n in 0..PAGE {
                store.swap(a + n, b + n);
            }
        }
    }
}

/// One scene for many accidents: each finds the same files.
fn after(accidents: &[Accident], scene: &Scene, whole: &[u8], number: &[u8], truth: &Standing) {
    let mut store = whole.to_vec();
    accidents
        .iter()
        .for_each(|accident| happen(accident, &mut store));
    fs::write(scene.dir.join("ledger.seq"), number).unwrap();
    assert_never_believed_beyond(truth, scene, &store, &format!("{accidents:?}"));
}

fn a_few() -> impl Strategy<Value = Vec<Accident>> {
    proptest::collection::vec(accidents(), 1..4)
}

/// Runs `cases` accidents against the files of `scene`.
fn survive(scene: &Scene, cases: u32) {
    let (whole, truth) = (scene.store_bytes(), scene.standing());
    let number = fs::read(scene.dir.join("ledger.seq")).unwrap();
    let mut runner = TestRunner::new(ProptestConfig::with_cases(cases));
    runner
        .run(&a_few(), |accidents| {
            after(&accidents, scene, &whole, &number, &truth);
            Ok(())
        })
        .unwrap();
    assert_still_usable(scene);
}

#[test]
fn no_accident_makes_an_interrupted_run_look_finished() {
    survive(&interrupted(), 400);
}

#[test]
fn no_accident_changes_a_finished_run_into_another() {
    let scene = Scene::new();
    scene.sync("first");
    survive(&scene, 400);
}
