//! Stores of old releases are kept and still read.

use std::fs;
use std::path::{Path, PathBuf};

use lockstep_ledger::{
    Ledger, Proof, ProofLevel, Record, RunFacts, Standing, State, VolumeKey, peek,
};

use crate::scene::identity;

/// `ledger.redb` and `ledger.seq` as format 1 wrote them with redb 4.6.
const FORMAT_1: &str = "tests/vectors/format-1";

/// In the root folder, so that the key is the same on every machine.
fn key(name: &str) -> VolumeKey {
    VolumeKey::from_path(&Path::new("/").join(name)).unwrap()
}

fn run(name: &str) -> RunFacts {
    RunFacts {
        run: name.to_owned(),
        source: "db1:/dev/vg0/pg".to_owned(),
        who: "ops@db1 \u{e9}".to_owned(),
        started_unix_ms: 1_700_000_000_000,
        epoch: 0,
    }
}

fn old_store() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let vectors = Path::new(env!("CARGO_MANIFEST_DIR")).join(FORMAT_1);
    for name in ["ledger.redb", "ledger.seq"] {
        fs::copy(vectors.join(name), dir.path().join(name)).unwrap();
    }
    dir
}

fn old_consistent() -> Record {
    Record {
        state: State::Consistent,
        identity: Some(identity("file ino=12")),
        size: 4_294_967_296,
        root: Some([0xa5; 32]),
        run: "second".to_owned(),
        source: "db1:/dev/vg0/pg".to_owned(),
        who: "ops@db1 \u{e9}".to_owned(),
        started_unix_ms: 1_700_000_000_000,
        ended_unix_ms: Some(1_700_000_002_100),
        bytes_written: 479_612_928,
        proof: ProofLevel::Delta,
        level: None,
        reason: None,
        epoch: 0,
    }
}

#[test]
fn a_store_of_format_1_reads_as_it_was_written() {
    let dir = old_store();
    let ask = |name| peek(dir.path(), &key(name), &identity("file ino=12"));
    assert_eq!(ask("good.img"), Standing::Consistent(old_consistent()));
    assert_eq!(ask("half.img").word(), "inconsistent");
    let Standing::Failed(failed) = ask("broken.img") else {
        panic!("{:?}", ask("broken.img"));
    };
    assert_eq!(failed.reason.as_deref(), Some("fdatasync: EIO"));
    assert_eq!(ask("other.img").word(), "unknown");
    let replaced = peek(dir.path(), &key("good.img"), &identity("file ino=13"));
    assert_eq!(replaced.word(), "unknown");
}

#[test]
fn a_store_of_format_1_is_continued_and_not_set_aside() {
    let dir = old_store();
    let ledger = Ledger::open(dir.path()).unwrap();
    assert!(ledger.was_damaged().is_none());
    let claim = ledger.claim(&key("good.img"), run("third")).unwrap();
    claim.overwrite(None).unwrap().abandon();
    let runs = |record: &Record| (record.run.clone(), record.state);
    let history: Vec<_> = ledger
        .history(&key("good.img"))
        .unwrap()
        .iter()
        .map(runs)
        .collect();
    let expected = [
        ("third".to_owned(), State::Inconsistent),
        ("second".to_owned(), State::Consistent),
        ("first".to_owned(), State::Inconsistent),
    ];
    assert_eq!(history, expected);
}

/// How the vector was made. A new format gets a folder of its own; this one is never written again.
#[test]
#[ignore = "makes a new vector in the folder that LOCKSTEP_VECTOR names"]
fn make_the_vector() {
    let dir = PathBuf::from(std::env::var_os("LOCKSTEP_VECTOR").unwrap());
    let ledger = Ledger::open(&dir).unwrap();
    let overwrite = |name, run_name| {
        let claim = ledger.claim(&key(name), run(run_name)).unwrap();
        claim.overwrite(Some(identity("file ino=12"))).unwrap()
    };
    overwrite("good.img", "first").abandon();
    overwrite("half.img", "first").abandon();
    let record = old_consistent();
    let root = record.root.unwrap();
    let proof = Proof::new(root, root, record.size, record.proof).unwrap();
    overwrite("good.img", "second")
        .consistent(
            identity("file ino=12"),
            proof,
            record.bytes_written,
            record.ended_unix_ms.unwrap(),
        )
        .unwrap();
    overwrite("broken.img", "first")
        .failed("fdatasync: EIO", 1_700_000_001_000)
        .unwrap();
}
