//! Runs whose snapshots' deltas lie: whoever was proved on their word is taken back first, and then
//! proved, or named.
//!
//! The snapshots are copies, so that no root and no special filesystem is needed.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use lockstep_engine::{
    Cancel, Compression, Consent, FullScanEvery, LocalTarget, MIN_MEMORY, Monitor, Notice, Outcome,
    Purpose, Request, Reuse, Scope, ServeOptions, SnapshotChoice, Stillness, TargetSpec,
    UndoPolicy, VerifyScope, run,
};
use lockstep_ledger::{Identity, ProofLevel, Standing, VolumeKey, peek};
use lockstep_protocol::VolumeState;
use lockstep_volume::{IoEngine, Priority, identify};

const SIZE: usize = 32 << 20;
const PAGE: usize = 4096;

/// Copies the volume, and never tells of a change.
const LIAR: &str = r#"#!/bin/sh
read -r line
volume=${line#*\"volume\":\"}; volume=${volume%%\"*}
name=${line##*\"name\":\"}; name=${name%%\"*}
copy="$volume.$name"
ok() { echo "{\"ok\":{$1}}"; }
case "$1" in
  probe) ok '"atomicity":"instant","delta":true,"pause_ms":1,"space_at_risk":0,"space_free":1048576' ;;
  create) cp -- "$volume" "$copy"; ok "\"size\":$(stat -c %s "$copy"),\"handle\":null" ;;
  open) ok "\"path\":\"$copy\"" ;;
  delta | recover) ok '"count":0' ;;
  release) rm -f -- "$copy"; ok '' ;;
  health) ok '"room":1048576' ;;
esac
"#;

#[derive(Default)]
struct Heard(Mutex<Vec<Notice>>);

impl Monitor for Heard {
    fn notice(&self, notice: Notice) {
        self.0.lock().unwrap().push(notice);
    }
}

/// How a run ended, and what it said.
struct Told {
    outcome: Outcome,
    notices: Vec<Notice>,
}

impl Told {
    fn warnings(&self) -> Vec<(Option<usize>, &str)> {
        let warning = |notice| match notice {
            &Notice::Warning {
                target,
                ref message,
            } => Some((target, message.as_str())),
            _ => None,
        };
        self.notices.iter().filter_map(warning).collect()
    }

    fn states(&self) -> Vec<VolumeState> {
        let state = |notice: &Notice| match notice {
            Notice::State { state, .. } => Some(*state),
            _ => None,
        };
        self.notices.iter().filter_map(state).collect()
    }

    #[track_caller]
    fn says(&self, target: Option<usize>, part: &str) {
        let warnings = self.warnings();
        let is_it =
            |warning: &&(Option<usize>, &str)| warning.0 == target && warning.1.contains(part);
        let count = warnings.iter().filter(is_it).count();
        assert_eq!(count, 1, "{part:?} is not once in {warnings:#?}");
    }
}

struct Field {
    folder: tempfile::TempDir,
}

impl Field {
    fn new() -> Field {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("liar");
        fs::write(&program, LIAR).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let bytes: Vec<u8> = (0..SIZE).map(|at| (at / 7 % 251) as u8).collect();
        fs::write(folder.path().join("source"), bytes).unwrap();
        Field { folder }
    }

    /// Targets that a lie made consistent, and that are not equal. The lie hides one page of 8,192;
    /// where the sample meets it, another field is tried.
    fn lied(targets: &[&str]) -> Field {
        for _ in 0..8 {
            let field = Field::new();
            assert_eq!(field.sync(targets, Reuse::default()).outcome.exit_code(), 0);
            field.change(7000);
            let told = field.sync(targets, Reuse::default());
            assert_eq!(told.outcome.exit_code(), 0);
            if told.outcome.proof == ProofLevel::Delta {
                return field;
            }
        }
        panic!("a sample of 1024 pages meets a single one again and again");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn change(&self, page: usize) {
        let file = OpenOptions::new()
            .write(true)
            .open(self.path("source"))
            .unwrap();
        file.write_all_at(&[page as u8 | 1; 100], (page * PAGE) as u64)
            .unwrap();
    }

    fn sync(&self, targets: &[&str], reuse: Reuse) -> Told {
        self.run(targets, reuse, Purpose::Sync)
    }

    fn run(&self, targets: &[&str], reuse: Reuse, purpose: Purpose) -> Told {
        let spec = |name: &&str| TargetSpec {
            name: (*name).to_owned(),
            connect: Box::new(LocalTarget(ServeOptions {
                path: self.path(name),
                state_dir: self.path("state"),
                who: "test".to_owned(),
                memory: MIN_MEMORY,
                threads: 2,
                priority: Priority::Normal,
                io: IoEngine::Threads,
                reuse,
                undo: UndoPolicy::default(),
                epoch: 0,
                only_compare: false,
                image: None,
                device: None,
            })),
        };
        let request = Request {
            source: self.path("source"),
            targets: targets.iter().map(spec).collect(),
            purpose,
            snapshot: SnapshotChoice::Program(self.path("liar")),
            taken: None,
            run: None,
            stillness: Stillness::default(),
            scope: Scope::Differences,
            verify: VerifyScope::Written,
            compression: Compression::Auto,
            io: IoEngine::Threads,
            limits: Arc::default(),
            priority: Priority::Normal,
            memory: MIN_MEMORY,
            threads: 2,
            consent: Consent::Given,
            allow_larger_target: false,
            max_duration: None,
            scratch: self.folder.path().to_path_buf(),
            state_dir: self.path("state"),
            reuse,
            undo: UndoPolicy::default(),
            who: "test".to_owned(),
        };
        let heard = Arc::new(Heard::default());
        let outcome = run(request, Arc::clone(&heard) as _, Arc::new(Cancel::new()));
        let notices = std::mem::take(&mut *heard.0.lock().unwrap());
        Told { outcome, notices }
    }

    fn is_equal(&self, name: &str) -> bool {
        let read = |path: &Path| fs::read(path).unwrap();
        read(&self.path("source")) == read(&self.path(name))
    }

    fn standing(&self, name: &str) -> Standing {
        let path = self.path(name);
        let identity = Identity::new(identify(&path).unwrap().durable_text());
        let key = VolumeKey::from_path(&path).unwrap();
        peek(&self.path("state"), &key, &identity)
    }

    #[track_caller]
    fn assert_taken_back(&self, name: &str) {
        let Standing::Inconsistent(record) = self.standing(name) else {
            panic!("{name}: {:?}", self.standing(name));
        };
        let reason = record.reason.unwrap();
        assert!(reason.contains("delta that hid changes"), "{reason}");
    }

    #[track_caller]
    fn assert_good(&self, name: &str) {
        assert!(self.is_equal(name), "{name}");
        assert_eq!(self.standing(name).word(), "consistent", "{name}");
    }
}

fn reads_everything() -> Reuse {
    Reuse {
        delta: false,
        ..Reuse::default()
    }
}

fn scan_is_due() -> Reuse {
    Reuse {
        full_scan_every: FullScanEvery {
            runs: 2.try_into().unwrap(),
            ..Reuse::default().full_scan_every
        },
        ..Reuse::default()
    }
}

#[test]
fn a_full_scan_or_a_sample_takes_back_all_that_rests_on_the_lie() {
    for reuse in [reads_everything(), scan_is_due(), Reuse::default()] {
        let field = Field::lied(&["b", "c"]);
        assert!(!field.is_equal("b"), "the lie stands");
        assert_eq!(field.standing("b").word(), "consistent", "the lie stands");
        if reuse == Reuse::default() {
            // So much that no sample misses it.
            (0..SIZE / PAGE)
                .step_by(2)
                .for_each(|page| field.change(page));
        }
        let told = field.sync(&["b"], reuse);
        assert_eq!(told.outcome.exit_code(), 0);
        assert_eq!(told.outcome.proof, ProofLevel::Full);
        told.says(None, "ALARM");
        told.says(Some(0), "until it is proved anew");
        told.says(None, "c is `inconsistent` from now on");
        assert_eq!(
            told.states(),
            [VolumeState::Inconsistent, VolumeState::Consistent]
        );
        field.assert_good("b");
        field.assert_taken_back("c");

        let told = field.sync(&["c"], Reuse::default());
        field.assert_good("c");
        let again = |(target, text): &(Option<usize>, &str)| {
            target.is_some() || text.contains("ALARM") || text.contains("may differ")
        };
        assert!(!told.warnings().iter().any(again), "{:#?}", told.warnings());
    }
}

#[test]
fn a_comparison_that_catches_the_lie_writes_only_that_down() {
    let field = Field::lied(&["b"]);
    let before = fs::read(field.path("b")).unwrap();
    let told = field.run(&["b"], reads_everything(), Purpose::Compare);
    assert_eq!(told.outcome.exit_code(), 10);
    told.says(None, "ALARM");
    told.says(None, "b is `inconsistent` from now on");
    assert!(fs::read(field.path("b")).unwrap() == before);
    field.assert_taken_back("b");
    assert_eq!(field.sync(&["b"], Reuse::default()).outcome.exit_code(), 0);
    field.assert_good("b");
}

/// What a full scan found true is not taken back by a lie that is caught later.
#[test]
fn what_was_proved_by_a_full_scan_stands() {
    let field = Field::new();
    field.sync(&["b", "c"], Reuse::default());
    (0..SIZE / PAGE)
        .step_by(2)
        .for_each(|page| field.change(page));
    let told = field.sync(&["b"], Reuse::default());
    told.says(None, "ALARM");
    assert_eq!(told.warnings().len(), 1, "{:#?}", told.warnings());
    assert_eq!(
        field.standing("c").word(),
        "consistent",
        "of an earlier instant"
    );
    field.assert_good("b");
}
