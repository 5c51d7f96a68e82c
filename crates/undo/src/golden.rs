//! Records and logs of old releases are kept and still read.

use std::fs;
use std::path::{Path, PathBuf};

use lockstep_merkle::{EXTENT_SIZE, Root};
use lockstep_volume::faults::MemoryVolume;

use crate::record::{Kept, LogFacts, LogId, PreRunRoot, Record, State};
use crate::restore::restore;
use crate::store::{Begin, UndoStore};

/// A state directory as format 1 wrote it.
const FORMAT_1: &str = "tests/vectors/format-1";
const SIZE: u64 = EXTENT_SIZE as u64 + 5000;
const DESCRIPTION: &[u8] = br#"{"provider":"reflink","name":"lockstep-pgdata-1"}"#;

fn vectors() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(FORMAT_1)
}

fn begin(key: &str) -> Begin<'_> {
    Begin {
        key,
        identity: "file inode 12 born 1700000000000000000",
        size: SIZE,
        run: "0198f3b2-run",
        created_unix_ms: 1_700_000_000_000,
        expires_unix_ms: 1_700_086_400_000,
    }
}

/// An undo from a log whose run ended, and one from a snapshot whose run has not.
fn make(dir: &Path) {
    let store = UndoStore::at(dir);
    let log = LogFacts {
        id: LogId(*b"sixteen byte id!"),
        sealed_bytes: None,
        max_bytes: 1 << 20,
    };
    let keeping = store.begin(&begin("/srv/pgdata é.img"), Kept::Log(log));
    let keeping = keeping.unwrap();
    let log = keeping.log().unwrap();
    let appended = [
        log.append(8192, &[5; 4096]).unwrap(),
        log.append(0, &[0; 8192]).unwrap(),
    ];
    log.commit(appended[1]).unwrap();
    let tail = [9; 5000];
    let ticket = log.append(EXTENT_SIZE as u64, &tail).unwrap();
    log.commit(ticket).unwrap();
    keeping.record_root(Root::from_bytes([0xab; 32])).unwrap();
    keeping.finish(1_700_090_000_000).unwrap();
    store
        .begin_image(&begin("/dev/vg0/pg"), DESCRIPTION)
        .unwrap();
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let names = fs::read_dir(dir.join("undo")).unwrap();
    let paths = names.map(|name| name.unwrap().path());
    let mut paths: Vec<_> = paths
        .filter(|path| path.extension().unwrap() != "lock")
        .collect();
    paths.sort_unstable();
    paths
}

/// A copy, because opening takes locks and restoring records that it does.
fn copy() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("undo")).unwrap();
    for path in files(&vectors()) {
        let name = path.file_name().unwrap();
        fs::copy(&path, folder.path().join("undo").join(name)).unwrap();
    }
    folder
}

#[test]
fn the_same_undo_has_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    make(folder.path());
    let (new, old) = (files(folder.path()), files(&vectors()));
    assert_eq!((new.len(), old.len()), (3, 3));
    for (new, old) in new.iter().zip(&old) {
        assert_eq!(new.file_name(), old.file_name());
        let is_equal = fs::read(new).unwrap() == fs::read(old).unwrap();
        assert!(is_equal, "{}", old.display());
    }
}

#[test]
fn format_1_is_read_and_restored() {
    let folder = copy();
    let store = UndoStore::at(folder.path());
    let key = "/srv/pgdata é.img";
    let record = store.look(key).unwrap();
    let expected = Record {
        key: key.to_owned(),
        identity: begin(key).identity.to_owned(),
        size: SIZE,
        run: "0198f3b2-run".to_owned(),
        latest_run: "0198f3b2-run".to_owned(),
        created_unix_ms: 1_700_000_000_000,
        expires_unix_ms: 1_700_090_000_000,
        root: PreRunRoot::Known(Root::from_bytes([0xab; 32])),
        state: State::Whole,
        kept: record.kept.clone(),
    };
    assert_eq!(record, expected);
    let restoring = store.restore(key, begin(key).identity, "rollback");
    let restoring = restoring.unwrap();
    let volume = MemoryVolume::with_content(vec![0xff; SIZE as usize]);
    let restored = restore(restoring.log().unwrap(), &volume).unwrap();
    assert_eq!(
        (
            restored.pre_images,
            restored.bytes_written,
            restored.bytes_zeroed
        ),
        (3, 9096, 8192)
    );
    let content = volume.medium_content();
    assert!(content[..8192].iter().all(|byte| *byte == 0));
    assert!(content[8192..12_288].iter().all(|byte| *byte == 5));
    assert!(
        content[12_288..EXTENT_SIZE]
            .iter()
            .all(|byte| *byte == 0xff)
    );
    assert!(content[EXTENT_SIZE..].iter().all(|byte| *byte == 9));
    let image = store.look("/dev/vg0/pg").unwrap();
    assert_eq!(image.kept, Kept::Image(DESCRIPTION.to_vec()));
    assert_eq!(
        (image.state, image.root),
        (State::Keeping, PreRunRoot::NotYet)
    );
}

fn number(bytes: &[u8], at: usize, width: usize) -> u64 {
    let mut le = [0; 8];
    le[..width].copy_from_slice(&bytes[at..at + width]);
    u64::from_le_bytes(le)
}

/// The byte map of `record_block.rs`, read by hand.
#[test]
fn the_byte_map_of_a_record_is_true() {
    let records = files(&vectors()).into_iter();
    let records = records.filter(|path| path.extension().unwrap() == "undo");
    for path in records {
        let bytes = fs::read(path).unwrap();
        let text =
            |length_at: usize, at: usize| &bytes[at..][..number(&bytes, length_at, 2) as usize];
        assert_eq!((&bytes[..8], number(&bytes, 8, 4)), (&b"LSK-UNDO"[..], 1));
        assert_eq!(
            (number(&bytes, 16, 8), number(&bytes, 24, 8)),
            (SIZE, 1_700_000_000_000)
        );
        assert_eq!(text(106, 640), b"file inode 12 born 1700000000000000000");
        assert_eq!(
            (text(108, 896), text(110, 1024)),
            (&b"0198f3b2-run"[..], &b"0198f3b2-run"[..])
        );
        assert_eq!(&bytes[8160..], blake3::hash(&bytes[..8160]).as_bytes());
        let numbers = (
            number(&bytes, 32, 8),
            number(&bytes, 40, 8),
            number(&bytes, 48, 8),
        );
        if bytes[13] == 0 {
            assert_eq!((bytes[12], bytes[14]), (1, 1));
            assert_eq!(numbers, (1_700_090_000_000, 9_728, 1 << 20));
            assert_eq!(
                (&bytes[56..88], &bytes[88..104]),
                (&[0xab; 32][..], &b"sixteen byte id!"[..])
            );
            assert_eq!(text(104, 128), "/srv/pgdata é.img".as_bytes());
        } else {
            assert_eq!((bytes[12], bytes[13], bytes[14]), (0, 1, 0));
            assert_eq!(numbers, (1_700_086_400_000, 0, 0));
            assert_eq!(
                (text(104, 128), text(112, 1152)),
                (&b"/dev/vg0/pg"[..], DESCRIPTION)
            );
        }
    }
}

/// At, previous, durable, offset, length, pre-image.
type GoldenRecord = (usize, u64, u64, u64, u64, &'static [u8]);

/// The byte map of `log/format.rs`, read by hand.
#[test]
fn the_byte_map_of_a_log_is_true() {
    let mut logs = files(&vectors()).into_iter();
    let log = logs.find(|path| path.extension().unwrap() == "log");
    let bytes = fs::read(log.unwrap()).unwrap();
    assert_eq!((&bytes[..8], number(&bytes, 8, 8)), (&b"LSKPREIM"[..], 1));
    assert_eq!(
        (&bytes[16..32], number(&bytes, 32, 8)),
        (&b"sixteen byte id!"[..], SIZE)
    );
    assert_eq!(&bytes[96..128], blake3::hash(&bytes[..96]).as_bytes());
    let key = blake3::derive_key("lockstep 1 pre-image log", b"sixteen byte id!");
    let records: [GoldenRecord; 3] = [
        (128, 0, 128, 8192, 4096, &[5; 4096]),
        (4352, 128, 128, 0, 8192, &[]),
        (4480, 4352, 4480, EXTENT_SIZE as u64, 5000, &[9; 5000]),
    ];
    for (index, (at, previous, durable, offset, length, stored)) in (0..).zip(records) {
        let head = &bytes[at..at + 128];
        assert_eq!(&head[..8], b"PREIMAGE");
        assert_eq!(number(head, 8, 8), u64::from(stored.is_empty()));
        assert_eq!(
            (number(head, 16, 8), number(head, 24, 8)),
            (index, at as u64)
        );
        assert_eq!(
            (number(head, 32, 8), number(head, 40, 8)),
            (previous, durable)
        );
        assert_eq!((number(head, 48, 8), number(head, 56, 8)), (offset, length));
        let hash = if stored.is_empty() {
            [0; 32]
        } else {
            *blake3::hash(stored).as_bytes()
        };
        assert_eq!(head[64..96], hash);
        assert_eq!(
            &head[96..],
            blake3::keyed_hash(&key, &head[..96]).as_bytes()
        );
        assert_eq!(&bytes[at + 128..][..stored.len()], stored);
    }
    assert_eq!(bytes.len(), 4480 + 128 + 5120);
    assert!(bytes[4480 + 128 + 5000..].iter().all(|byte| *byte == 0));
}

/// How the vector was made. A new format gets a folder of its own; this one is never written again.
#[test]
#[ignore = "makes a new vector in the folder that LOCKSTEP_VECTOR names"]
fn make_the_vector() {
    make(&PathBuf::from(std::env::var_os("LOCKSTEP_VECTOR").unwrap()));
}
