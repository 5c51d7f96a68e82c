//! Runs after runs, with a provider of snapshots that tells the truth, or lies.
//!
//! | what happens between two runs | what must come of it |
//! | --- | --- |
//! | nothing, or the source changes | little is read of the target, proof `delta` |
//! | the target is written | found and repaired |
//! | the provider hides that | alarm, repaired, no delta any more |
//! | the snapshot, the index or the file is not what it was | a warning, everything read |
//! | somebody may have written during the run | no snapshot and no index are left |

use std::fs::{self, File};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lockstep_index::{FullScanEvery, IndexKey, IndexStore};
use lockstep_ledger::{Proof, ProofLevel, RunFacts};
use lockstep_merkle::Root;
use lockstep_snapshot::{
    Atomicity, Changed, Cost, Doubt, Fitness, Health, Image, Provider, Recovered, Registry,
    Snapshot, SnapshotError, SnapshotName, Space, Told, VolumeName,
};

use super::*;
use crate::target::own::{Own, Past};

const MIB: usize = 1 << 20;
const LARGE: usize = 32 * MIB + 777;
/// So few groups that the sample is all of them.
const SMALL: usize = 2 * MIB + 777;
const PAGE: usize = 4096;

/// What a test may have go wrong; shared with the run.
#[derive(Debug, Default)]
pub(super) struct Mischief {
    /// No change is told.
    pub(super) lies: AtomicBool,
    /// There is no room for a snapshot.
    pub(super) is_full: AtomicBool,
    /// Somebody wrote after the target was let go.
    pub(super) is_written_late: AtomicBool,
    /// Whether anybody wrote during the run cannot be told.
    pub(super) is_unwatched: AtomicBool,
    /// Somebody writes right after the run has looked at the target's snapshot.
    pub(super) writes_during: AtomicBool,
    /// Somebody was seen having the target open for writing.
    pub(super) was_seen: AtomicBool,
}

/// Copies the volume into files, and compares them.
#[derive(Debug)]
struct Copies {
    folder: PathBuf,
    place: Arc<FaultyVolume<MemoryVolume>>,
    mischief: Arc<Mischief>,
}

impl Copies {
    fn file(&self, name: &SnapshotName) -> PathBuf {
        self.folder.join(name.to_string())
    }

    fn snapshot(name: &SnapshotName, volume: &Path, size: u64) -> Snapshot {
        Snapshot {
            provider: "copies".to_owned(),
            name: name.clone(),
            volume: volume.to_path_buf(),
            size,
            made_unix_ms: now(),
            detail: serde_json::Value::Null,
        }
    }

    fn bytes(
        &self,
        snapshot: &Snapshot,
        which: lockstep_snapshot::Which,
    ) -> Result<Vec<u8>, Doubt> {
        fs::read(self.file(&snapshot.name)).map_err(|_| Doubt::Gone { which })
    }
}

impl Provider for Copies {
    fn name(&self) -> &'static str {
        "copies"
    }

    fn probe(&self, _: &Path) -> lockstep_snapshot::Verdict {
        let at_risk = self.place.size();
        lockstep_snapshot::Verdict::Fit(Fitness {
            atomicity: Atomicity::Instant,
            cost: Cost {
                extents: None,
                pause: Duration::ZERO,
            },
            space: Space {
                at_risk,
                free: match self.mischief.is_full.load(Ordering::Relaxed) {
                    true => at_risk / 15,
                    false => at_risk,
                },
            },
            delta: Told::Changes,
        })
    }

    fn create(&self, volume: &Path, name: &SnapshotName) -> Result<Snapshot, SnapshotError> {
        let bytes = self.place.inner().content();
        fs::write(self.file(name), &bytes).unwrap();
        if self.mischief.writes_during.swap(false, Ordering::Relaxed) {
            self.place
                .write_at(5000 * PAGE as u64, b"meanwhile")
                .unwrap();
            self.place.flush().unwrap();
        }
        Ok(Copies::snapshot(name, volume, bytes.len() as u64))
    }

    fn open(&self, snapshot: &Snapshot) -> Result<Image, SnapshotError> {
        let path = self.file(&snapshot.name);
        Ok(Image {
            file: File::open(&path).unwrap(),
            path,
            size: snapshot.size,
        })
    }

    fn delta(&self, base: &Snapshot, now: &Snapshot) -> Result<Changed, Doubt> {
        let base = self.bytes(base, lockstep_snapshot::Which::Base)?;
        let now = self.bytes(now, lockstep_snapshot::Which::Now)?;
        let size = now.len() as u64;
        if self.mischief.lies.load(Ordering::Relaxed) {
            return Ok(Changed::none(size));
        }
        let pages = base.chunks(PAGE).zip(now.chunks(PAGE)).enumerate();
        let changed = pages.filter(|(_, (base, now))| base != now);
        let ranges = changed.map(|(page, _)| (page * PAGE) as u64..((page + 1) * PAGE) as u64);
        Ok(Changed::new(ranges, size))
    }

    fn release(&self, snapshot: &Snapshot) -> Result<(), SnapshotError> {
        // One that is gone is no error.
        let _ = fs::remove_file(self.file(&snapshot.name));
        Ok(())
    }

    fn recover(&self, volume: &Path, name: &VolumeName) -> Result<Recovered, SnapshotError> {
        let mut found = Recovered::default();
        for entry in fs::read_dir(&self.folder).unwrap() {
            let file = entry.unwrap().file_name();
            if let Some(name) = SnapshotName::of_volume(file.to_str().unwrap(), name) {
                let size = self.place.size();
                found.whole.push(Copies::snapshot(&name, volume, size));
            }
        }
        Ok(found)
    }

    fn health(&self, _: &Snapshot) -> Result<Health, SnapshotError> {
        Ok(Health::Sound { room: u64::MAX })
    }
}

/// What opening the target would have found out.
pub(super) fn own(target: &TestTarget, hello: &Hello, images: &Path) -> Own {
    let standing = peek(&target.state_dir, &target.key, &Identity::new(IDENTITY));
    let past = match standing {
        _ if hello.verify == VerifyScope::Full => Past::Unwanted,
        Standing::Consistent(record) => Past::Known {
            identity: IDENTITY.to_owned(),
            root: Root::from_bytes(record.root.unwrap()),
        },
        _ => Past::Doubtful("not consistent"),
    };
    let provider = Copies {
        folder: images.to_path_buf(),
        place: Arc::clone(&target.place.0),
        mischief: Arc::clone(&target.place.1),
    };
    Own {
        path: images.with_file_name("target"),
        volume: target.key.as_str().to_owned(),
        state_dir: target.state_dir.clone(),
        run: hello.run.iter().map(|byte| format!("{byte:02x}")).collect(),
        reuse: target.reuse,
        registry: Registry::of(vec![Box::new(provider)]),
        past,
        is_new: false,
    }
}

/// A target that can be snapshotted, once it has been made equal.
fn field(size: usize) -> Lab {
    let mut lab = Lab::sized(size, Vec::new());
    fs::create_dir(lab.path().join("images")).unwrap();
    lab.images = Some(lab.path().join("images"));
    let outcome = lab.run();
    assert_eq!(outcome.exit_code(), 0, "{outcome:?}");
    assert_eq!(outcome.proof, ProofLevel::Full);
    assert_eq!(lab.warnings(), [""; 0]);
    assert_eq!(lab.images().len(), 1);
    lab
}

impl Lab {
    fn images(&self) -> Vec<String> {
        let entries = fs::read_dir(self.images.as_ref().unwrap()).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn index(&self) -> Option<lockstep_index::Index> {
        let key = IndexKey::target(self.key().as_str());
        IndexStore::at(&self.state_dir()).load(&key, IDENTITY).ok()
    }

    fn index_file(&self) -> PathBuf {
        let listed = IndexStore::at(&self.state_dir()).list().unwrap();
        listed[0].path.clone()
    }

    fn state_dir(&self) -> PathBuf {
        self.path().join("state")
    }

    fn change_source(&mut self, page: usize) {
        self.source[page * PAGE + 7] ^= 0x11;
        fs::write(self.path().join("source"), &self.source).unwrap();
    }

    /// Behind the target's back.
    fn change_target(&self, page: usize) {
        let at = (page * PAGE) as u64;
        self.place.0.write_at(at, &[0xA5; 100]).unwrap();
        self.place.0.flush().unwrap();
    }

    /// Runs, and checks what always has to hold.
    fn run_well(&self) -> Outcome {
        let outcome = self.run();
        assert_eq!(outcome.exit_code(), 0, "{outcome:?}");
        assert!(self.on_medium() == self.source, "not equal");
        if let Some(index) = self.index() {
            assert_eq!(index.root().to_string(), blake3_of(&self.source));
            assert_eq!(self.images().len(), 1, "{:?}", self.images());
        }
        outcome
    }

    fn proof(&self) -> ProofLevel {
        match self.standing() {
            Standing::Consistent(record) => record.proof,
            other => panic!("{}", other.word()),
        }
    }
}

#[test]
fn the_next_runs_read_little_of_the_target_and_say_so() {
    let mut lab = field(LARGE);
    for round in 0..3 {
        lab.change_source(100 + round);
        lab.change_source(7000 - 40 * round);
        let outcome = lab.run_well();
        let read = outcome.targets[0].bytes_read;
        assert!(read < LARGE as u64 / 5, "round {round}: {read} bytes read");
        assert_eq!(outcome.targets[0].bytes_written, 2 * PAGE as u64);
        assert_eq!(outcome.proof, ProofLevel::Delta);
        assert_eq!(lab.proof(), ProofLevel::Delta);
        assert_eq!(lab.warnings(), [""; 0]);
        assert_eq!(
            lab.index().unwrap().facts().lineage.delta_runs(),
            round as u32 + 1
        );
    }
}

#[test]
fn a_target_that_was_written_between_two_runs_is_repaired() {
    let mut lab = field(LARGE);
    for page in [0, 1, 15, 16, 17, 300, 4000, 8191, 8192] {
        lab.change_target(page);
        let outcome = lab.run_well();
        assert_eq!(
            outcome.targets[0].bytes_written,
            PAGE.min(LARGE - page * PAGE) as u64
        );
        assert_eq!(outcome.proof, ProofLevel::Delta);
        lab.change_target(page);
        lab.change_source(page.min(8000));
        lab.run_well();
    }
}

#[test]
fn a_delta_that_hides_a_change_of_the_target_alarms_and_is_not_believed_again() {
    let lab = field(SMALL);
    lab.change_target(70);
    lab.mischief().lies.store(true, Ordering::Relaxed);
    let outcome = lab.run_well();
    assert_eq!(outcome.proof, ProofLevel::Full);
    assert_eq!(outcome.targets[0].bytes_written, PAGE as u64);
    assert!(
        lab.warnings()[0].starts_with("ALARM"),
        "{:?}",
        lab.warnings()
    );

    lab.change_target(71);
    let outcome = lab.run_well();
    assert_eq!(outcome.proof, ProofLevel::Full);
    assert!(
        lab.warnings()[0].contains("earlier delta"),
        "{:?}",
        lab.warnings()
    );
}

#[test]
fn a_run_that_dies_after_the_alarm_leaves_no_consistent_record() {
    let lab = field(SMALL);
    lab.change_target(70);
    lab.mischief().lies.store(true, Ordering::Relaxed);
    lab.place.0.add(Fault::FailNth {
        op: Operation::Write,
        n: lab.place.0.count(Operation::Write) + 1,
        errno: ENOSPC,
    });
    let outcome = lab.run();
    assert_eq!(outcome.exit_code(), 12, "{outcome:?}");
    assert_eq!(lab.standing().word(), "inconsistent");
}

#[test]
fn index_and_snapshot_are_gone_before_the_first_byte_is_written() {
    let mut lab = field(LARGE);
    lab.change_source(4);
    lab.place.0.add(Fault::FailNth {
        op: Operation::Write,
        n: lab.place.0.count(Operation::Write) + 1,
        errno: EIO,
    });
    assert_eq!(lab.run().exit_code(), 12);
    assert_eq!(lab.standing().word(), "failed");
    assert!(lab.index().is_none());
    assert_eq!(lab.images(), [""; 0]);
    lab.place.0.heal();
    assert_eq!(lab.run_from(ScanFrom::Medium).proof, ProofLevel::Full);
    assert!(lab.on_medium() == lab.source);
}

#[test]
fn whoever_may_have_written_during_the_run_leaves_the_next_one_to_read_everything() {
    for unwatched in [true, false] {
        let mut lab = field(LARGE);
        let mischief = lab.mischief();
        match unwatched {
            true => mischief.is_unwatched.store(true, Ordering::Relaxed),
            false => mischief.is_written_late.store(true, Ordering::Relaxed),
        }
        for changes in [false, true] {
            if changes {
                lab.change_source(9);
            }
            lab.run_well();
            assert!(lab.index().is_none());
            assert_eq!(lab.images(), [""; 0]);
            let last = lab.warnings().pop().unwrap();
            assert!(last.contains("the next run"), "{last}");
        }
        assert_eq!(lab.run_well().proof, ProofLevel::Full);
    }
}

/// What spoils a base, and a word of the warning that follows.
type Spoiler = (&'static str, fn(&Lab));

#[test]
fn whoever_writes_during_the_run_is_not_inherited_around() {
    for is_unwatched in [true, false] {
        let lab = field(LARGE);
        let mischief = lab.mischief();
        mischief.writes_during.store(true, Ordering::Relaxed);
        match is_unwatched {
            true => mischief.is_unwatched.store(true, Ordering::Relaxed),
            false => mischief.was_seen.store(true, Ordering::Relaxed),
        }
        let outcome = lab.run();
        // The sample may have met the page: then it was repaired.
        if outcome.exit_code() == 0 {
            assert!(lab.warnings()[0].starts_with("ALARM"));
        } else {
            assert_eq!(outcome.exit_code(), 21, "{outcome:?}");
            assert!(lab.warnings()[0].contains("once more"));
            assert_eq!(lab.standing().word(), "inconsistent");
        }
        assert_eq!(lab.run_from(ScanFrom::Medium).exit_code(), 0);
        lab.assert_consistent_means_equal();
        assert!(lab.on_medium() == lab.source);
    }
}

#[test]
fn whoever_had_the_target_open_and_wrote_nothing_costs_one_more_scan() {
    let lab = field(LARGE);
    lab.mischief().was_seen.store(true, Ordering::Relaxed);
    let outcome = lab.run();
    assert_eq!(outcome.exit_code(), 0, "{outcome:?}");
    assert_eq!(outcome.proof, ProofLevel::Full);
    assert!(outcome.targets[0].bytes_read >= LARGE as u64);
    assert!(lab.warnings()[0].contains("once more"));
    assert!(lab.index().is_none());
}

#[test]
fn a_base_that_is_gone_or_damaged_is_told_and_everything_is_read() {
    let spoilers: [Spoiler; 3] = [
        ("gone", |lab| {
            let image = lab.images.as_ref().unwrap().join(&lab.images()[0]);
            fs::remove_file(image).unwrap();
        }),
        ("damaged", |lab| {
            let mut bytes = fs::read(lab.index_file()).unwrap();
            let last = bytes.len() - 1;
            bytes[last] ^= 1;
            fs::write(lab.index_file(), bytes).unwrap();
        }),
        ("ledger", |lab| {
            // Another run proved another root, and left no index.
            let facts = RunFacts {
                run: "other".to_owned(),
                source: "other".to_owned(),
                who: "other".to_owned(),
                started_unix_ms: now(),
                epoch: 0,
            };
            let ledger = Ledger::open(&lab.state_dir()).unwrap();
            let claim = ledger.claim(&lab.key(), facts).unwrap();
            let proof = Proof::new([9; 32], [9; 32], 1, ProofLevel::Full).unwrap();
            claim
                .confirm(Identity::new(IDENTITY), proof, now())
                .unwrap();
        }),
    ];
    for (word, spoil) in spoilers {
        let lab = field(LARGE);
        spoil(&lab);
        lab.change_target(200);
        let outcome = lab.run_well();
        assert_eq!(outcome.proof, ProofLevel::Full, "{word}");
        assert!(
            lab.warnings()[0].contains(word),
            "{word}: {:?}",
            lab.warnings()
        );
        assert!(lab.index().is_some(), "the next run reads little again");
    }
}

#[test]
fn what_a_killed_run_left_is_released_by_the_next() {
    let lab = field(LARGE);
    let folder = lab.images.clone().unwrap();
    let name = VolumeName::of_path(Path::new("target"));
    for which in ["found", "left"] {
        let left = SnapshotName::new(&name, &format!("deadbeef.{which}")).unwrap();
        fs::write(folder.join(left.to_string()), b"left").unwrap();
    }
    assert_eq!(lab.images().len(), 3);
    assert_eq!(lab.run_well().proof, ProofLevel::Delta);
    assert_eq!(lab.images().len(), 1);
}

#[test]
fn everything_is_read_when_it_is_asked_for_or_due() {
    let mut lab = field(LARGE);
    lab.verify = VerifyScope::Full;
    assert_eq!(lab.run_well().proof, ProofLevel::Full);
    lab.verify = VerifyScope::Written;
    lab.reuse.delta = false;
    assert_eq!(lab.run_well().proof, ProofLevel::Full);
    lab.reuse.delta = true;
    lab.reuse.full_scan_every = FullScanEvery {
        runs: 3.try_into().unwrap(),
        age: Duration::from_secs(1000),
    };
    let proofs = [0; 5].map(|_| lab.run_well().proof);
    let (full, delta) = (ProofLevel::Full, ProofLevel::Delta);
    assert_eq!(proofs, [delta, delta, full, delta, delta]);
    lab.reuse.full_scan_every.age = Duration::ZERO;
    assert_eq!(lab.run_well().proof, full);
}

#[test]
fn a_snapshot_is_kept_only_while_there_is_room_and_it_is_wanted() {
    let mut lab = field(LARGE);
    lab.mischief().is_full.store(true, Ordering::Relaxed);
    lab.run_well();
    assert_eq!((lab.images().len(), lab.index().is_some()), (0, false));
    assert_eq!(lab.warnings(), [""; 0]);
    lab.mischief().is_full.store(false, Ordering::Relaxed);
    lab.run_well();
    assert_eq!(lab.images().len(), 1);
    lab.reuse.keep_base = crate::KeepBase::Never;
    lab.run_well();
    assert_eq!((lab.images().len(), lab.index().is_some()), (0, false));
}
