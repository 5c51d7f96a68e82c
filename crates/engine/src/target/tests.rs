//! Whole runs against a target whose disk misbehaves.
//!
//! | fault | what must come of it |
//! | --- | --- |
//! | a bit flipped between write and medium, once or twice | repaired, consistent |
//! | the same, always | mismatch (9), never consistent |
//! | a write lost or torn on its way to the medium | repaired, consistent |
//! | a write, a flush or a read-back fails | I/O (12), `failed` |
//! | no space | I/O (12), not `failed`: the disk is well |

mod own;

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use lockstep_ledger::{Identity, Ledger, Standing, VolumeKey, peek};
use lockstep_merkle::Geometry;
use lockstep_protocol::{Hello, Plan, VolumeState, Welcome};
use lockstep_transport::{Link, memory_pair};
use lockstep_undo::{PreRunRoot, UndoStore, restore};
use lockstep_volume::faults::{Fault, FaultyVolume, MemoryVolume};
use lockstep_volume::{IoEngine, IoFailure, OpenError, Operation, OtherWriters, Priority, Volume};

use self::own::Mischief;
use super::keep::{Keep, Subject};
use super::mark::Marks;
use super::open::Opened;
use super::place::{Place, Untouched};
use super::{ServeOptions, attend, greeted};
use crate::clock::now;
use crate::doubt::run_name;
use crate::scan::ScanFrom;
use crate::undo::Stores;
use crate::{
    Cancel, Compression, Connect, Connected, Consent, Monitor, Notice, Outcome, Purpose, Request,
    Reuse, Scope, SnapshotChoice, Stillness, TargetSpec, UndoMode, UndoPolicy, Verdict,
    VerifyScope, run,
};

const SIZE: usize = (5 << 20) + 777;
const IDENTITY: &str = "test place";

/// A place in memory that can fail; the test keeps a handle on it.
#[derive(Clone)]
struct TestPlace(Arc<FaultyVolume<MemoryVolume>>, Arc<Mischief>, Watch);

/// Called with every write before it happens.
type Watch = Arc<dyn Fn(u64, usize) + Send + Sync>;

impl Volume for TestPlace {
    fn size(&self) -> u64 {
        self.0.size()
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), IoFailure> {
        self.0.read_at(offset, buf)
    }
    fn read_if_cached(&self, offset: u64, buf: &mut [u8]) -> Result<bool, IoFailure> {
        self.0.read_if_cached(offset, buf)
    }
    fn read_back(&self, offset: u64, buf: &mut [u8]) -> Result<(), IoFailure> {
        self.0.read_back(offset, buf)
    }
    fn write_at(&self, offset: u64, buf: &[u8]) -> Result<(), IoFailure> {
        (self.2)(offset, buf.len());
        self.0.write_at(offset, buf)
    }
    fn zero(&self, range: std::ops::Range<u64>) -> Result<(), IoFailure> {
        self.0.zero(range)
    }
    fn start_writeback(&self, range: std::ops::Range<u64>) {
        self.0.start_writeback(range);
    }
    fn flush(&self) -> Result<(), IoFailure> {
        self.0.flush()
    }
    fn next_data(&self, from: u64) -> Result<Option<std::ops::Range<u64>>, IoFailure> {
        self.0.next_data(from)
    }
    fn advise_sequential(&self) {}
    fn will_need(&self, _: std::ops::Range<u64>) {}
    fn has_medium(&self) -> bool {
        true
    }
}

impl Place for TestPlace {
    fn durable_identity(&self) -> Option<String> {
        Some(IDENTITY.to_owned())
    }
    fn begin_overwrite(&self) -> Result<(), IoFailure> {
        Ok(())
    }
    fn read_present(&self, offset: u64, buf: &mut [u8]) -> Result<(), IoFailure> {
        self.0.read_at(offset, buf)
    }
    fn seal(&self) -> Result<String, OpenError> {
        Ok(IDENTITY.to_owned())
    }
    fn other_writers(&self) -> OtherWriters {
        if self.1.is_unwatched.load(Ordering::Relaxed) {
            OtherWriters::Perhaps
        } else if self.1.was_seen.load(Ordering::Relaxed) {
            OtherWriters::Somebody
        } else {
            OtherWriters::Nobody
        }
    }
    fn is_still_sealed(&self) -> bool {
        true
    }
    fn untouched(&self) -> Option<Untouched> {
        if self.other_writers() != OtherWriters::Nobody {
            return None;
        }
        let mischief = Arc::clone(&self.1);
        Some(Box::new(move || {
            !mischief.is_written_late.load(Ordering::Relaxed)
        }))
    }
    fn discard_partial(&self) {}
}

/// Serves a [`TestPlace`] as if it had been opened and claimed.
struct TestTarget {
    place: TestPlace,
    state_dir: PathBuf,
    key: VolumeKey,
    from: ScanFrom,
    /// Where its snapshots are; it can have none without.
    images: Option<PathBuf>,
    reuse: Reuse,
    undo: UndoMode,
}

impl TestTarget {
    fn serve(self, link: &Link) {
        let hello = greeted(link, &Cancel::new()).unwrap();
        let options = ServeOptions {
            path: PathBuf::from("/nowhere"),
            state_dir: self.state_dir.clone(),
            who: "test".to_owned(),
            memory: 16 << 20,
            threads: 2,
            priority: Priority::Normal,
            io: IoEngine::Threads,
            reuse: self.reuse,
            undo: UndoPolicy::default(),
            epoch: 0,
            only_compare: false,
            image: None,
            device: None,
        };
        let opened = self.opened(&hello);
        // What came of it is in the run's outcome.
        let _ = attend(link, &options, &hello, opened, &Cancel::new());
    }

    fn opened(self, hello: &Hello) -> Opened {
        let ledger = Ledger::open(&self.state_dir).unwrap();
        let facts = lockstep_ledger::RunFacts {
            run: run_name(&hello.run),
            source: "source".to_owned(),
            who: "test".to_owned(),
            started_unix_ms: now(),
            epoch: 0,
        };
        let subject = Subject {
            policy: UndoPolicy {
                mode: self.undo,
                ..UndoPolicy::default()
            },
            path: PathBuf::from("/nowhere"),
            interrupted: Subject::interrupted(&ledger, &self.key).unwrap(),
            key: self.key.clone(),
            identity: IDENTITY.to_owned(),
            is_file: false,
            size: hello.size,
            new_size: hello.size,
            run: facts.run.clone(),
            stores: Stores::of(&self.state_dir, Path::new("/nowhere"), false),
        };
        Opened {
            keep: Keep::of(subject).unwrap(),
            marks: Marks::claim(&ledger, &self.key, &facts).unwrap(),
            welcome: Welcome {
                version: hello.newest,
                window: hello.window,
                plan: Plan::Keep,
                present_size: Some(hello.size),
                standing: VolumeState::Unknown,
                has_medium: true,
                identity: Vec::new(),
            },
            from: self.from,
            geometry: Geometry::new(hello.size),
            own: self
                .images
                .as_ref()
                .map(|images| own::own(&self, hello, images)),
            volume: Box::new(self.place),
        }
    }
}

impl Connect for Mutex<Option<TestTarget>> {
    fn connect(self: Box<Self>) -> Result<Connected, lockstep_protocol::Failure> {
        let target = self.lock().unwrap().take().unwrap();
        let (near, far) = memory_pair();
        std::thread::spawn(move || target.serve(&far));
        Ok(Connected {
            link: near,
            warning: None,
            lifeline: Box::new(()),
        })
    }
}

/// Keeps the warnings.
#[derive(Default)]
struct Listener(Mutex<Vec<String>>);

impl Monitor for Listener {
    fn notice(&self, notice: Notice) {
        if let Notice::Warning { message, .. } = notice {
            self.0.lock().unwrap().push(message);
        }
    }
}

/// A source file, a target in memory that differs, and a ledger.
struct Lab {
    folder: tempfile::TempDir,
    source: Vec<u8>,
    drifted: Vec<u8>,
    place: TestPlace,
    images: Option<PathBuf>,
    reuse: Reuse,
    verify: VerifyScope,
    listener: Mutex<Arc<Listener>>,
    undo: UndoMode,
}

impl Lab {
    fn new(faults: Vec<Fault>) -> Lab {
        Lab::sized(SIZE, faults)
    }

    fn sized(size: usize, faults: Vec<Fault>) -> Lab {
        let folder = tempfile::tempdir().unwrap();
        let source: Vec<u8> = (0..size).map(|i| (i / 7 % 251) as u8).collect();
        std::fs::write(folder.path().join("source"), &source).unwrap();
        let mut drifted = source.clone();
        for page in [0, 5, 77, 300, 301, 302, 900, 1200] {
            if let Some(byte) = drifted.get_mut(page * 4096 + 9) {
                *byte ^= 0x55;
            }
        }
        let memory = MemoryVolume::with_content(drifted.clone());
        Lab {
            folder,
            source,
            drifted,
            place: TestPlace(
                Arc::new(FaultyVolume::new(memory, faults)),
                Arc::default(),
                Arc::new(|_, _| ()),
            ),
            images: None,
            reuse: Reuse::default(),
            verify: VerifyScope::Written,
            listener: Mutex::default(),
            undo: UndoMode::Off,
        }
    }

    /// What the target is before a page is written is in the log by then.
    fn keeping(faults: Vec<Fault>) -> Lab {
        let mut lab = Lab::new(faults);
        lab.undo = UndoMode::Require;
        let (drifted, folder) = (lab.drifted.clone(), lab.path().join("state/undo"));
        lab.place.2 = Arc::new(move |offset, length| {
            let logs = std::fs::read_dir(&folder)
                .unwrap()
                .map(|entry| entry.unwrap().path());
            let log = logs.filter(|path| path.extension().is_some_and(|end| end == "log"));
            let bytes = std::fs::read(log.last().unwrap()).unwrap();
            let old = &drifted[offset as usize..offset as usize + length];
            for page in old.chunks(4096) {
                let is_kept = bytes.windows(page.len()).any(|part| part == page);
                assert!(is_kept, "{length} bytes at {offset} are not all kept");
            }
        });
        lab
    }

    /// Puts back what the log holds, and returns the root that it should have.
    fn restore(&self) -> PreRunRoot {
        let store = UndoStore::at(&self.path().join("state"));
        let key = self.key();
        let restoring = store.restore(key.as_str(), IDENTITY, "rollback").unwrap();
        restore(restoring.log().unwrap(), self.place.0.inner()).unwrap();
        restoring.record().root
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn key(&self) -> VolumeKey {
        VolumeKey::from_path(&self.path().join("target")).unwrap()
    }

    fn run(&self) -> Outcome {
        self.run_from(ScanFrom::Cache)
    }

    fn run_from(&self, from: ScanFrom) -> Outcome {
        self.run_with(from, Consent::Given)
    }

    fn run_with(&self, from: ScanFrom, consent: Consent) -> Outcome {
        let target = TestTarget {
            place: self.place.clone(),
            state_dir: self.path().join("state"),
            key: self.key(),
            from,
            images: self.images.clone(),
            reuse: self.reuse,
            undo: self.undo,
        };
        let request = Request {
            source: self.path().join("source"),
            targets: vec![TargetSpec {
                name: "target".to_owned(),
                connect: Box::new(Mutex::new(Some(target))),
            }],
            purpose: Purpose::Sync,
            snapshot: SnapshotChoice::Auto,
            taken: None,
            run: None,
            stillness: Stillness::default(),
            scope: Scope::Differences,
            verify: self.verify,
            compression: Compression::Auto,
            io: IoEngine::Threads,
            limits: Arc::default(),
            priority: Priority::Normal,
            memory: 16 << 20,
            threads: 2,
            consent,
            allow_larger_target: false,
            max_duration: None,
            scratch: self.path().to_path_buf(),
            state_dir: self.path().join("state-near"),
            reuse: Reuse::default(),
            who: "test".to_owned(),
            undo: UndoPolicy::default(),
        };
        let listener = Arc::new(Listener::default());
        *self.listener.lock().unwrap() = Arc::clone(&listener);
        run(request, listener, Arc::new(Cancel::new()))
    }

    /// Those of the last run.
    fn warnings(&self) -> Vec<String> {
        let listener = self.listener.lock().unwrap();
        listener.0.lock().unwrap().clone()
    }

    fn mischief(&self) -> Arc<Mischief> {
        Arc::clone(&self.place.1)
    }

    /// The document of who is doubted, as an earlier run of the source left it.
    fn owed(&self) -> PathBuf {
        let source = VolumeKey::from_path(&self.path().join("source")).unwrap();
        let name = blake3::hash(source.as_str().as_bytes()).to_hex();
        let folder = self.path().join("state-near/reliance");
        std::fs::create_dir_all(&folder).unwrap();
        folder.join(format!("{}.json", &name[..32]))
    }

    fn doubt(&self, run: &str) {
        let doubted = format!(
            r#"{{"v":2,"rests":[],"doubted":[{{"run":"{run}","targets":[{{"name":"target","volume":null}}]}}]}}"#
        );
        let sum = blake3::hash(doubted.as_bytes()).to_hex();
        std::fs::write(self.owed(), format!("{doubted}\n{sum}\n")).unwrap();
    }

    fn standing(&self) -> Standing {
        peek(
            &self.path().join("state"),
            &self.key(),
            &Identity::new(IDENTITY),
        )
    }

    fn on_medium(&self) -> Vec<u8> {
        self.place.0.inner().medium_content()
    }

    /// The one unforgivable bug.
    fn assert_consistent_means_equal(&self) {
        if matches!(self.standing(), Standing::Consistent(_)) {
            assert!(self.on_medium() == self.source, "marked, and not equal");
        }
    }
}

#[test]
fn a_drifted_target_becomes_equal_on_its_medium_and_is_marked() {
    let lab = Lab::new(Vec::new());
    let outcome = lab.run();
    assert_eq!(outcome.verdict, Verdict::Ok, "{outcome:?}");
    assert!(lab.on_medium() == lab.source);
    assert_eq!(outcome.targets[0].bytes_written, 8 * 4096);
    assert_eq!(outcome.targets[0].bytes_differing, 8 * 4096);
    assert_eq!(outcome.root.unwrap().to_string(), blake3_of(&lab.source));
    assert_eq!(lab.standing().word(), "consistent");
}

#[test]
fn a_thread_that_panics_ends_the_run_and_marks_nothing() {
    let mut lab = Lab::new(Vec::new());
    lab.place.2 = Arc::new(|_, _| panic!("on purpose"));
    let outcome = lab.run();
    assert_eq!(outcome.exit_code(), 1, "{outcome:?}");
    assert_eq!(lab.standing().word(), "inconsistent");
}

/// The run ends without having written anything, for want of agreement.
#[test]
fn a_record_that_rests_on_a_doubted_run_is_taken_back_before_anything_else() {
    let lab = Lab::new(Vec::new());
    let first = lab.run();
    lab.place.0.write_at(77 * 4096, b"drift").unwrap();
    lab.doubt(&first.run);
    let outcome = lab.run_with(ScanFrom::Cache, Consent::Refused);
    assert_eq!(outcome.exit_code(), 4, "{outcome:?}");
    assert_eq!(outcome.targets[0].bytes_written, 0);
    assert_eq!(outcome.targets[0].state, VolumeState::Inconsistent);
    let Standing::Inconsistent(record) = lab.standing() else {
        panic!("{:?}", lab.standing());
    };
    assert_eq!((record.run, record.identity), (outcome.run, None));
    let nobody = r#"{"v":2,"rests":[],"doubted":[]}"#;
    let left = std::fs::read_to_string(lab.owed()).unwrap();
    assert_eq!(left.lines().next(), Some(nobody));

    assert_eq!(lab.run().exit_code(), 0);
    assert_eq!(lab.standing().word(), "consistent");
    assert!(lab.on_medium() == lab.source);
}

#[test]
fn a_record_of_a_run_that_nobody_doubts_stands() {
    let lab = Lab::new(Vec::new());
    lab.run();
    let before = lab.standing();
    lab.place.0.write_at(77 * 4096, b"drift").unwrap();
    lab.doubt("0123456789abcdef0123456789abcdef");
    let outcome = lab.run_with(ScanFrom::Cache, Consent::Refused);
    assert_eq!(outcome.exit_code(), 4, "{outcome:?}");
    assert_eq!(lab.standing(), before);
    let left = std::fs::read_to_string(lab.owed()).unwrap();
    assert!(left.contains(r#""doubted":[]"#), "it answered: {left}");
}

/// Who is doubted cannot be looked up, and still nobody is marked wrongly.
#[test]
fn a_damaged_document_of_doubts_is_told_and_ends_no_run() {
    let lab = Lab::new(Vec::new());
    std::fs::write(lab.owed(), b"{").unwrap();
    assert_eq!(lab.run().exit_code(), 0);
    assert_eq!(std::fs::read(lab.owed()).unwrap(), b"{");
    lab.assert_consistent_means_equal();
}

#[test]
fn what_a_run_overwrote_comes_back_from_its_log_however_the_run_ended() {
    for (faults, code) in [
        (Vec::new(), 0),
        (vec![Fault::LostWrite { n: 3 }], 0),
        (
            vec![Fault::FailNth {
                op: Operation::Write,
                n: 4,
                errno: 5,
            }],
            12,
        ),
        (vec![Fault::FlushError { n: 1 }], 12),
    ] {
        let lab = Lab::keeping(faults);
        let outcome = lab.run();
        assert_eq!(outcome.exit_code(), code, "{outcome:?}");
        let kept = outcome.targets[0].undo.unwrap();
        assert!(kept.bytes > 4 * 4096, "{kept:?}");
        let root = lab.restore();
        assert!(lab.on_medium() == lab.drifted, "ended with {code}");
        if code == 0 {
            let known = PreRunRoot::Known(lockstep_merkle::Root::from_bytes(
                *blake3::hash(&lab.drifted).as_bytes(),
            ));
            assert_eq!(root, known);
        }
    }
}

#[test]
fn a_run_that_continues_an_interrupted_one_keeps_what_was_there_before_it() {
    let lab = Lab::keeping(vec![Fault::FailNth {
        op: Operation::Write,
        n: 3,
        errno: 5,
    }]);
    assert_eq!(lab.run().exit_code(), 12);
    lab.place.0.heal();
    assert_eq!(lab.run().exit_code(), 0);
    assert!(lab.on_medium() == lab.source);
    lab.restore();
    assert!(lab.on_medium() == lab.drifted);
}

#[test]
fn a_run_that_keeps_nothing_leaves_no_older_undo() {
    let mut lab = Lab::keeping(Vec::new());
    assert_eq!(lab.run().exit_code(), 0);
    lab.undo = UndoMode::Off;
    lab.place.2 = Arc::new(|_, _| ());
    let store = UndoStore::at(&lab.path().join("state"));
    // Nothing is written, and what was kept is still right.
    assert_eq!(lab.run().exit_code(), 0);
    assert!(store.look(lab.key().as_str()).is_ok());
    lab.place.0.write_at(9000, &[1]).unwrap();
    lab.place.0.flush().unwrap();
    assert_eq!(lab.run().exit_code(), 0);
    assert!(store.look(lab.key().as_str()).is_err());
}

#[test]
fn what_was_written_is_read_back_and_little_else() {
    let lab = Lab::new(Vec::new());
    assert_eq!(lab.run().exit_code(), 0);
    // Pages 0, 5, 77, 300 to 302, 900 and 1200; no gap is short enough to write along.
    assert_eq!(lab.place.0.count(Operation::Write), 6);
    assert_eq!(lab.place.0.count(Operation::ReadBack), 6);

    let mut drifted = lab.source.clone();
    for page in [16, 19, 23, 32] {
        drifted[page * 4096 + 1] ^= 1;
    }
    lab.place.0.write_at(0, &drifted).unwrap();
    lab.place.0.flush().unwrap();
    let outcome = lab.run();
    assert_eq!(outcome.targets[0].bytes_written, 4 * 4096);
    // The page written along is none of those that differed; 16 to 19 went as one.
    assert_eq!(lab.place.0.count(Operation::Write), 6 + 1 + 3);
    assert_eq!(lab.place.0.count(Operation::ReadBack), 6 + 3);
    assert!(lab.on_medium() == lab.source);
}

#[test]
fn a_bit_flipped_in_a_page_that_was_written_along_is_repaired() {
    let lab = Lab::new(Vec::new());
    let mut drifted = lab.source.clone();
    drifted[16 * 4096] ^= 1;
    drifted[18 * 4096] ^= 1;
    lab.place.0.write_at(0, &drifted).unwrap();
    lab.place.0.flush().unwrap();
    lab.place.0.add(Fault::FlipBitAt {
        offset: 17 * 4096 + 5,
        times: 1,
    });
    assert_eq!(lab.run().exit_code(), 0);
    assert!(lab.on_medium() == lab.source);
}

#[test]
fn an_identical_target_is_not_written() {
    let lab = Lab::new(Vec::new());
    lab.run();
    let writes = lab.place.0.count(Operation::Write);
    let outcome = lab.run();
    assert_eq!(outcome.exit_code(), 0);
    assert_eq!(lab.place.0.count(Operation::Write), writes);
    assert_eq!(outcome.targets[0].bytes_written, 0);
}

#[test]
fn a_bit_flipped_on_its_way_to_the_medium_is_repaired() {
    for times in [1, 2] {
        let lab = Lab::new(vec![Fault::FlipBitAt {
            offset: 5 * 4096 + 9,
            times,
        }]);
        let outcome = lab.run();
        assert_eq!(outcome.exit_code(), 0, "{times} times: {outcome:?}");
        assert!(lab.on_medium() == lab.source);
    }
}

#[test]
fn a_bit_flipped_again_and_again_is_a_mismatch_and_never_consistent() {
    let lab = Lab::new(vec![Fault::FlipBitAt {
        offset: 5 * 4096 + 9,
        times: 100,
    }]);
    let outcome = lab.run();
    assert_eq!(outcome.exit_code(), 9, "{outcome:?}");
    assert_eq!(outcome.targets[0].state, VolumeState::Inconsistent);
    assert_eq!(lab.standing().word(), "inconsistent");
}

#[test]
fn lost_and_torn_writes_are_repaired() {
    for fault in [
        Fault::LostWrite { n: 3 },
        Fault::TornWrite { n: 2, at: 100 },
    ] {
        let lab = Lab::new(vec![fault.clone()]);
        let outcome = lab.run();
        assert_eq!(outcome.exit_code(), 0, "{fault:?}: {outcome:?}");
        assert!(lab.on_medium() == lab.source, "{fault:?}");
    }
}

#[test]
fn short_reads_and_writes_are_carried_on() {
    let lab = Lab::new(vec![
        Fault::ShortRead { every: 2 },
        Fault::ShortWrite { every: 1 },
    ]);
    assert_eq!(lab.run().exit_code(), 0);
    assert!(lab.on_medium() == lab.source);
}

const EIO: i32 = 5;
const ENOSPC: i32 = 28;

#[test]
fn a_disk_that_fails_a_write_a_flush_or_a_read_back_is_failed() {
    let faults = [
        Fault::FailNth {
            op: Operation::Write,
            n: 2,
            errno: EIO,
        },
        Fault::FlushError { n: 1 },
        Fault::ReadBackError { offset: 4096 * 77 },
    ];
    for fault in faults {
        let lab = Lab::new(vec![fault.clone()]);
        let outcome = lab.run();
        assert_eq!(outcome.exit_code(), 12, "{fault:?}: {outcome:?}");
        assert_eq!(outcome.targets[0].state, VolumeState::Failed, "{fault:?}");
        assert_eq!(lab.standing().word(), "failed", "{fault:?}");
    }
}

#[test]
fn a_full_disk_is_an_error_but_not_a_broken_disk() {
    let lab = Lab::new(vec![Fault::FailNth {
        op: Operation::Write,
        n: 1,
        errno: ENOSPC,
    }]);
    let outcome = lab.run();
    assert_eq!(outcome.exit_code(), 12, "{outcome:?}");
    assert_eq!(lab.standing().word(), "inconsistent");
}

#[test]
fn a_target_that_cannot_be_read_is_left_alone() {
    let lab = Lab::new(vec![Fault::FailNth {
        op: Operation::ReadCached,
        n: 1,
        errno: EIO,
    }]);
    let outcome = lab.run();
    assert_eq!(outcome.exit_code(), 12, "{outcome:?}");
    assert_eq!(outcome.targets[0].bytes_written, 0);
    assert_eq!(lab.standing().word(), "unknown");
}

#[test]
fn what_a_dead_run_left_only_in_memory_is_brought_to_the_medium() {
    let lab = Lab::new(Vec::new());
    // A run that died: its pages are in the cache, the medium lacks them.
    lab.place.0.write_at(0, &lab.source).unwrap();
    let outcome = lab.run_from(ScanFrom::Medium);
    assert_eq!(outcome.exit_code(), 0, "{outcome:?}");
    assert!(lab.on_medium() == lab.source);
    lab.assert_consistent_means_equal();
}

#[test]
fn every_single_fault_at_every_call_leaves_no_false_mark() {
    let operations = [Operation::Write, Operation::Read, Operation::ReadBack];
    for op in operations {
        for n in 1..12 {
            let lab = Lab::new(vec![Fault::FailNth { op, n, errno: EIO }]);
            lab.run();
            lab.assert_consistent_means_equal();
        }
    }
    for n in 1..12 {
        for fault in [
            Fault::LostWrite { n },
            Fault::TornWrite { n, at: 1 },
            Fault::FlipBit { n, bit: n * 31 },
        ] {
            let lab = Lab::new(vec![fault]);
            lab.run();
            lab.assert_consistent_means_equal();
        }
    }
}

fn blake3_of(bytes: &[u8]) -> String {
    let geometry = Geometry::new(bytes.len() as u64);
    let cvs = (0..geometry.group_count()).map(|group| {
        let index = lockstep_merkle::GroupIndex(group);
        let range = geometry.group_range(index);
        lockstep_merkle::group_cv(
            geometry,
            index,
            &bytes[range.start as usize..range.end as usize],
        )
    });
    lockstep_merkle::fold(geometry, cvs).unwrap().to_string()
}
