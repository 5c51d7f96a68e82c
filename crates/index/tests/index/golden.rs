//! Indexes of old releases are kept and still read.

use std::fs;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use lockstep_index::{Facts, IndexKey, IndexStore, Lineage};
use lockstep_merkle::{Cv, Geometry, PAGE_SIZE, PageIndex, fold_pages, page_cvs};

use crate::scene::Scene;

/// A state directory as format 1 wrote it.
const FORMAT_1: &str = "tests/vectors/format-1";

fn vectors() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(FORMAT_1)
}

/// Three pages and a short one, each filled with its number.
fn values() -> (Geometry, Vec<Cv>) {
    let geometry = Geometry::new(3 * PAGE_SIZE as u64 + 7);
    let mut bytes = vec![0; geometry.size() as usize];
    for (page, bytes) in (0..).zip(bytes.chunks_mut(PAGE_SIZE)) {
        bytes.fill(page);
    }
    let mut cvs = vec![Cv::from_bytes([0; 32]); 4];
    page_cvs(geometry, PageIndex(0), &bytes, &mut cvs);
    (geometry, cvs)
}

fn both() -> [(IndexKey, Facts); 2] {
    let (geometry, cvs) = values();
    let source = Facts {
        identity: "file inode 12 born 1700000000000000000 size 12295".to_owned(),
        snapshot: br#"{"provider":"reflink","name":"lockstep-pgdata-1"}"#.to_vec(),
        geometry,
        root: fold_pages(geometry, cvs).unwrap(),
        lineage: Lineage::Delta {
            runs: NonZeroU32::new(7).unwrap(),
        },
        last_full_scan_unix_ms: 1_700_000_000_000,
        created_unix_ms: 1_700_000_002_100,
    };
    let target = Facts {
        identity: "device partuuid 1234 size 12295".to_owned(),
        snapshot: Vec::new(),
        lineage: Lineage::FullScan,
        ..source.clone()
    };
    let volume = "/srv/pgdata \u{e9}.img";
    [
        (IndexKey::source(volume, "lockstep-pgdata-1"), source),
        (IndexKey::target(volume), target),
    ]
}

fn names(state_dir: &Path) -> Vec<PathBuf> {
    let listed = IndexStore::at(state_dir).list().unwrap();
    listed.into_iter().map(|listed| listed.path).collect()
}

#[test]
fn an_index_of_format_1_reads_as_it_was_written() {
    let store = IndexStore::at(&vectors());
    let (_, cvs) = values();
    for (key, facts) in both() {
        let index = store.load(&key, &facts.identity).unwrap();
        assert_eq!((index.key(), index.facts()), (&key, &facts));
        assert!(index.cvs().eq(cvs.iter().copied()));
    }
}

/// As long as 1 is the newest format, the same content is the same file, down to its name.
#[test]
fn an_index_of_today_has_the_bytes_of_format_1() {
    let scene = Scene::new();
    for (key, facts) in both() {
        scene.store.save(&key, &facts, values().1).unwrap();
    }
    let (new, old) = (names(&scene.dir), names(&vectors()));
    assert_eq!((new.len(), old.len()), (2, 2));
    for (new, old) in new.iter().zip(&old) {
        assert_eq!(new.file_name(), old.file_name());
        assert!(
            fs::read(new).unwrap() == fs::read(old).unwrap(),
            "{}",
            old.display()
        );
    }
}

/// The byte map of `header.rs`, read by hand.
#[test]
fn the_byte_map_is_true() {
    let path = names(&vectors()).into_iter().find(|path| {
        let name = path.file_name().unwrap().to_str().unwrap();
        name.contains(".source-")
    });
    let bytes = fs::read(path.unwrap()).unwrap();
    let number = |at: usize, width: usize| {
        let mut le = [0; 8];
        le[..width].copy_from_slice(&bytes[at..at + width]);
        u64::from_le_bytes(le)
    };
    let (_, facts) = both()[0].clone();
    assert_eq!(&bytes[..8], b"LSKINDEX");
    assert_eq!(
        (number(8, 4), number(12, 1), number(13, 1), number(14, 2)),
        (1, 0, 1, 0)
    );
    assert_eq!(
        (number(16, 8), number(24, 8), number(32, 4)),
        (12_295, 4, 4_096)
    );
    assert_eq!(number(36, 4), 7);
    assert_eq!(
        (number(40, 8), number(48, 8)),
        (1_700_000_000_000, 1_700_000_002_100)
    );
    assert_eq!(&bytes[56..88], facts.root.as_bytes());
    assert_eq!(&bytes[88..120], blake3::hash(&bytes[4096..]).as_bytes());
    let text = |length_at: usize, at: usize| &bytes[at..at + number(length_at, 2) as usize];
    assert_eq!(text(120, 128), "/srv/pgdata \u{e9}.img".as_bytes());
    assert_eq!(text(122, 640), b"lockstep-pgdata-1");
    assert_eq!(text(124, 768), facts.identity.as_bytes());
    assert_eq!(text(126, 1024), facts.snapshot);
    assert_eq!(&bytes[4064..4096], blake3::hash(&bytes[..4064]).as_bytes());
    let cvs: Vec<u8> = values().1.iter().flat_map(|cv| *cv.as_bytes()).collect();
    assert_eq!(&bytes[4096..], cvs);
}

/// How the vector was made. A new format gets a folder of its own; this one is never written again.
#[test]
#[ignore = "makes a new vector in the folder that LOCKSTEP_VECTOR names"]
fn make_the_vector() {
    let dir = PathBuf::from(std::env::var_os("LOCKSTEP_VECTOR").unwrap());
    let store = IndexStore::at(&dir);
    for (key, facts) in both() {
        store.save(&key, &facts, values().1).unwrap();
    }
}
