//! What an agent's start does with what a crash left.

use std::fs;

use super::super::note::{Before, Mark, Note, Notes, tests::note};
use super::lab::{DATA, Lab};
use lockstep_cluster::claim::Epoch;

fn noted(lab: &Lab) -> (Notes, Note) {
    let now = lab.ground().now().unwrap();
    let before = Before {
        volume: "data".parse().unwrap(),
        state: now.state,
        newest: now.newest,
    };
    let note = Note {
        epoch: Epoch::new(5).unwrap(),
        before: vec![before],
        ..note()
    };
    (Notes::at(&lab.dir().join("state")), note)
}

/// As if the ledger had said something else when the note was made.
fn before_the_last_run(note: &Note) -> Note {
    let mut earlier = note.clone();
    earlier.before[0].newest = earlier.before[0].newest.take().map(|mark| Mark {
        run: "an earlier one".to_owned(),
        ..mark
    });
    earlier
}

#[track_caller]
fn recovers(lab: &Lab, note: &Note, runs: &[&str], is_up: bool) {
    lab.clear_log();
    let notes = Notes::at(&lab.dir().join("state"));
    notes.write(note).unwrap();
    let host = lab.restarted();
    host.recover();
    assert_eq!(lab.moments(), runs);
    let view = host.view(&"data".parse().unwrap()).unwrap();
    assert_eq!(view.stopped, !is_up);
    // And once more: what was brought back is not brought back again.
    lab.clear_log();
    lab.restarted().recover();
    assert!(lab.moments().is_empty() || !is_up, "{:?}", lab.moments());
}

#[test]
fn services_come_back_on_data_that_nothing_was_done_to() {
    let lab = Lab::synced(4);
    let (_, note) = noted(&lab);
    recovers(&lab, &note, &["start", "check"], true);
    let serving = Note {
        serving: true,
        ..note.clone()
    };
    recovers(&lab, &serving, &["start", "check"], true);
    let was_down = Note {
        was_down: true,
        ..note
    };
    recovers(&lab, &was_down, &[], false);
}

/// A ledger that lost its store says nothing of a volume, as one that never said anything.
#[test]
fn a_ledger_that_forgot_is_not_one_that_had_nothing_to_say() {
    let lab = Lab::new();
    let (_, note) = noted(&lab);
    recovers(&lab, &note, &["start", "check"], true);
    let serving = Note {
        serving: true,
        ..note.clone()
    };
    recovers(&lab, &serving, &[], false);
    fs::write(lab.dir().join("state/ledger.redb.damaged-1"), b"").unwrap();
    recovers(&lab, &note, &[], false);
}

#[test]
fn services_come_back_on_data_that_this_run_made_consistent() {
    let lab = Lab::synced(5);
    let (_, note) = noted(&lab);
    let note = before_the_last_run(&note);
    recovers(&lab, &note, &["configure", "start", "check"], true);
    let configured = Note {
        configured: true,
        ..note.clone()
    };
    recovers(&lab, &configured, &["start", "check"], true);
    let other = Note {
        epoch: Epoch::new(6).unwrap(),
        ..note.clone()
    };
    recovers(&lab, &other, &[], false);
    let mut grouped = Note {
        group: true,
        ..note
    };
    grouped.before.push(Before {
        volume: "wal".parse().unwrap(),
        ..grouped.before[0].clone()
    });
    recovers(&lab, &grouped, &["configure", "start", "check"], true);
    grouped.epoch = Epoch::new(6).unwrap();
    recovers(&lab, &grouped, &[], false);
}

#[test]
fn what_fails_is_tried_again() {
    let lab = Lab::synced(5);
    let note = before_the_last_run(&noted(&lab).1);
    lab.let_fail("start");
    recovers(&lab, &note, &["configure", "start"], false);
    lab.let_fail("configure");
    recovers(&lab, &note, &["configure"], false);
}

#[test]
fn half_written_data_and_a_damaged_note_leave_services_down() {
    let lab = Lab::synced(4);
    let (notes, note) = noted(&lab);
    notes.write(&note).unwrap();
    let path = lab.dir().join(format!("state/services/{DATA}.json"));
    let mut bytes = fs::read(&path).unwrap();
    bytes[40] ^= 1;
    fs::write(&path, bytes).unwrap();
    let host = lab.restarted();
    host.recover();
    assert!(lab.moments().is_empty());
    assert!(host.view(&"data".parse().unwrap()).unwrap().stopped);

    lab.change_source();
    let mut call = lab.call(lab.ask(5));
    call.granted();
    assert_eq!(call.stop(), None);
    let run = call.begin(&lab, super::Rate::Slow);
    lab.wait_for(super::NodeState::Inconsistent);
    call.lose();
    assert_ne!(run.join().unwrap().exit_code(), 0);
    lab.clear_log();
    lab.restarted().recover();
    assert!(lab.moments().is_empty());
    let inconsistent = noted(&lab).1;
    recovers(&lab, &inconsistent, &[], false);
}
