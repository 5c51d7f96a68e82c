//! One test for each place where the recipe of a change can be interrupted.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use redb::StorageBackend;

use crate::claim::RunFacts;
use crate::image::{self, Damage};
use crate::ledger::{Ledger, Standing, peek};
use crate::proof::{Proof, ProofLevel};
use crate::rows::{self, Row};
use crate::{Identity, VolumeKey};

struct Scene {
    folder: tempfile::TempDir,
    key: VolumeKey,
}

impl Scene {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key = VolumeKey::from_path(&folder.path().join("volume.img")).unwrap();
        Self { folder, key }
    }

    fn dir(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir().join(name)
    }

    fn overwrite(&self) -> crate::Overwriting {
        let run = RunFacts {
            run: "r".to_owned(),
            source: "s".to_owned(),
            who: "w".to_owned(),
            started_unix_ms: 1,
            epoch: 0,
        };
        let claim = Ledger::open(&self.dir()).unwrap().claim(&self.key, run);
        claim.unwrap().overwrite(Some(identity())).unwrap()
    }

    fn sync(&self) {
        let proof = Proof::new([1; 32], [1; 32], 1, ProofLevel::Full).unwrap();
        self.overwrite()
            .consistent(identity(), proof, 1, 2)
            .unwrap();
    }

    fn standing(&self) -> Standing {
        peek(&self.dir(), &self.key, &identity())
    }

    fn word(&self) -> &'static str {
        self.standing().word()
    }
}

fn identity() -> Identity {
    Identity::new("a")
}

/// Before step 3: a store that was only being made, and is now in the way.
#[test]
fn interrupted_while_the_first_store_is_made() {
    let scene = Scene::new();
    Ledger::open(&scene.dir()).unwrap();
    for half_made in [b"".as_slice(), b"half a store"] {
        fs::write(scene.file("ledger.redb.new"), half_made).unwrap();
        fs::write(scene.file("ledger.probe.new"), half_made).unwrap();
        assert_eq!(scene.word(), "unknown");
        assert!(Ledger::open(&scene.dir()).unwrap().was_damaged().is_none());
    }
    scene.sync();
    assert_eq!(scene.word(), "consistent");
    assert!(!scene.file("ledger.redb.new").exists());
}

/// Between steps 3 and 4: the store is ahead of its number.
#[test]
fn interrupted_before_the_number_is_written() {
    let scene = Scene::new();
    scene.overwrite().abandon();
    fs::remove_file(scene.file("ledger.seq")).unwrap();
    assert_eq!(scene.word(), "inconsistent", "the very first change");
    scene.sync();
    let number = fs::read(scene.file("ledger.seq")).unwrap();
    scene.overwrite().abandon();
    fs::write(scene.file("ledger.seq"), number).unwrap();
    assert_eq!(scene.word(), "inconsistent");
    assert!(Ledger::open(&scene.dir()).unwrap().was_damaged().is_none());
}

/// Within step 4.
#[test]
fn interrupted_while_the_number_is_written() {
    let scene = Scene::new();
    scene.sync();
    fs::write(scene.file("ledger.seq.new"), b"lockstep-led").unwrap();
    assert_eq!(scene.word(), "consistent");
    scene.overwrite().abandon();
    assert_eq!(scene.word(), "inconsistent");
}

/// Within setting aside: the store is away, its damaged number not yet.
#[test]
fn interrupted_while_damage_is_set_aside() {
    let scene = Scene::new();
    scene.sync();
    fs::rename(
        scene.file("ledger.redb"),
        scene.file("ledger.redb.damaged-1"),
    )
    .unwrap();
    fs::write(scene.file("ledger.seq"), b"damaged").unwrap();
    assert_eq!(scene.word(), "unknown");
    assert!(Ledger::open(&scene.dir()).unwrap().was_damaged().is_none());
    scene.sync();
    assert_eq!(scene.word(), "consistent");
}

/// A file whose every write and flush is remembered.
#[derive(Debug, Clone, Default)]
struct Recorder(Arc<Mutex<Tape>>);

#[derive(Debug, Default)]
struct Tape {
    bytes: Vec<u8>,
    calls: Vec<Call>,
}

#[derive(Debug, Clone)]
enum Call {
    Write(usize, Vec<u8>),
    SetLen(usize),
    Sync,
}

impl Call {
    fn replay(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Write(offset, data) => bytes[*offset..*offset + data.len()].copy_from_slice(data),
            Self::SetLen(len) => bytes.resize(*len, 0),
            Self::Sync => {}
        }
    }
}

impl Recorder {
    fn call(&self, call: Call) {
        let mut tape = self.0.lock().unwrap();
        call.replay(&mut tape.bytes);
        tape.calls.push(call);
    }
}

impl StorageBackend for Recorder {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().bytes.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let offset = offset as usize;
        out.copy_from_slice(&self.0.lock().unwrap().bytes[offset..offset + out.len()]);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.call(Call::SetLen(len as usize));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.call(Call::Sync);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.call(Call::Write(offset as usize, data.to_vec()));
        Ok(())
    }
}

/// The store before and after `inconsistent` took the place of `consistent`.
struct Change {
    scene: Scene,
    before: Vec<u8>,
    old: Newest,
    new: Newest,
    calls: Vec<Call>,
}

/// Number of the last change, and the newest row of the volume.
type Newest = (u64, Vec<Row>);

impl Change {
    fn record() -> Self {
        let scene = Scene::new();
        scene.sync();
        let before = fs::read(scene.file("ledger.redb")).unwrap();
        scene.overwrite().abandon();
        let after = fs::read(scene.file("ledger.redb")).unwrap();
        let (old, new) = (scene.newest(before.clone(), 0), scene.newest(after, 0));
        let (old, new) = (old.unwrap(), new.unwrap());
        assert_eq!(new.0, old.0 + 1);
        Self {
            calls: record_commit(&scene, &before, new.0, &new.1[0]),
            scene,
            before,
            old,
            new,
        }
    }
}

impl Scene {
    fn newest(&self, bytes: Vec<u8>, floor: u64) -> Result<Newest, Damage> {
        let volume = self.key.as_str();
        image::look(bytes, floor, |database| {
            rows::of_volume(database, volume, 1)
        })
    }
}

/// Within step 3, at every call that redb makes, and also with any one unflushed write lost or torn:
/// the store is whole, and holds the old record or the new one.
#[test]
fn interrupted_at_every_write_of_a_commit() {
    let change = Change::record();
    assert!(change.calls.iter().any(|call| matches!(call, Call::Sync)));
    let mut seen = [0, 0];
    for stop in 0..=change.calls.len() {
        for image in crashes(&change.before, &change.calls[..stop]) {
            let found = change.scene.newest(image, 0).unwrap();
            let is_new = found == change.new;
            assert!(is_new || found == change.old, "stopped at call {stop}");
            seen[usize::from(is_new)] += 1;
        }
    }
    assert!(seen[0] > 2 && seen[1] > 2, "{seen:?}");
}

/// After step 4, and then a bit of the header decays. Here redb believes its previous commit, where
/// the volume is still consistent; the number outside is what tells us.
#[test]
fn killed_after_a_commit_and_then_damaged() {
    const HEADER_BYTES: usize = 320;
    let change = Change::record();
    let mut image = change.before.clone();
    let mut calls = change.calls.iter();
    while change.scene.newest(image.clone(), 0).unwrap() != change.new {
        calls.next().unwrap().replay(&mut image);
    }
    let mut fell_back = 0;
    for bit in 0..HEADER_BYTES * 8 {
        let mut image = image.clone();
        image[bit / 8] ^= 1 << (bit % 8);
        fell_back += usize::from(change.scene.newest(image.clone(), 0) == Ok(change.old.clone()));
        let believed = change.scene.newest(image, change.new.0);
        assert!(
            believed.is_err() || believed == Ok(change.new.clone()),
            "bit {bit}"
        );
    }
    assert!(
        fell_back > 0,
        "the number outside of the store is not needed any more"
    );
}

fn record_commit(scene: &Scene, before: &[u8], number: u64, row: &Row) -> Vec<Call> {
    let recorder = Recorder::default();
    recorder.0.lock().unwrap().bytes = before.to_vec();
    let database = image::builder()
        .create_with_backend(recorder.clone())
        .unwrap();
    rows::put(&database, number, scene.key.as_str(), row).unwrap();
    database.close().unwrap();
    let tape = recorder.0.lock().unwrap();
    tape.calls.clone()
}

/// The medium after a power cut behind `calls`: everything arrived, or one write since the last
/// flush did not, or half of it.
fn crashes(before: &[u8], calls: &[Call]) -> Vec<Vec<u8>> {
    let flushed = calls.iter().rposition(|call| matches!(call, Call::Sync));
    let unflushed = flushed.map_or(0, |at| at + 1)..calls.len();
    let medium = |lost: Option<usize>, kept: usize| {
        let mut bytes = before.to_vec();
        for (at, call) in calls.iter().enumerate() {
            match call {
                Call::Write(offset, data) if lost == Some(at) => {
                    Call::Write(*offset, data[..data.len() / 2 * kept].to_vec()).replay(&mut bytes);
                }
                call => call.replay(&mut bytes),
            }
        }
        bytes
    };
    let damaged = unflushed.flat_map(|at| [medium(Some(at), 0), medium(Some(at), 1)]);
    std::iter::once(medium(None, 0)).chain(damaged).collect()
}
