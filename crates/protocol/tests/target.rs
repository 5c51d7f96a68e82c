//! The target's session: every step of an extent, and every way a source can get out of step.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "target/out_of_step.rs"]
mod out_of_step;
#[path = "target/rig.rs"]
mod rig;
#[path = "target/table.rs"]
mod table;

use std::sync::Arc;

use lockstep_merkle::{ExtentIndex, GROUP_SIZE, GroupIndex, GroupSet, MemoryCvs};
use lockstep_protocol::limits::{MAX_REPAIRS, MAX_UNCHECKED_EXTENTS};
use lockstep_protocol::{
    Applied, Exhausted, Hold, Plan, Purpose, Scope, TargetSession, Terms, VerifyScope, Violation,
    WantMode, WantOrder,
};
use rig::{FIRST, MIB, compared, groups, promised, target, terms};

#[test]
fn an_equal_target_is_settled_without_asking_for_anything() {
    for digests_first in [false, true] {
        let mut target = target(terms(2 * MIB + 1), &[]);
        if digests_first {
            target.digest(0..33);
            target.scan();
        } else {
            target.scan();
            target.digest(0..33);
        }
        assert_eq!(target.session.next_want(), None);
        assert!(!target.is_proved(), "done has not come");
        target.done();
        assert!(target.is_proved());
        assert_eq!(target.session.stats().extents_compared, 3);
        assert_eq!(target.session.stats().bytes_written, 0);
        assert!(target.session.begin_flush().is_empty());
    }
}

#[test]
fn an_extent_goes_from_open_to_settled_and_no_step_can_be_left_out() {
    let mut target = compared(terms(2 * MIB), &[17, 31]);
    target.done();
    let want = target.session.next_want().unwrap();
    let expected = WantOrder {
        extent: ExtentIndex(1),
        groups: groups(&[1, 15]),
        mode: WantMode::Differing,
    };
    assert_eq!(want, expected);
    assert!(!target.session.is_idle());
    assert_eq!(target.session.next_want(), None);

    let order = target.arrive(want).unwrap();
    assert_eq!((order.groups, order.mode), (expected.groups, expected.mode));
    assert!(
        target.session.begin_flush().is_empty(),
        "arrived is not written"
    );

    target
        .session
        .applied(want.extent, Applied::Written { bytes: 8192 })
        .unwrap();
    assert_eq!(target.session.bytes_unflushed(), 8192);
    assert!(target.session.is_idle());
    assert!(
        target.session.next_check().is_none(),
        "written is not durable"
    );

    let ticket = target.session.begin_flush();
    assert_eq!(target.session.bytes_unflushed(), 0);
    assert!(
        target.session.next_check().is_none(),
        "a flush that runs is not durable"
    );
    target.session.flushed(ticket);
    assert!(!target.is_proved(), "durable is not proved");

    let order = target.read_back(&[]).unwrap();
    assert_eq!(order.groups, expected.groups);
    assert!(target.is_proved());
    let stats = target.session.stats();
    assert_eq!(stats.bytes_written, 8192);
    assert_eq!(stats.bytes_verified, 2 * GROUP_SIZE as u64);
}

#[test]
fn a_flush_covers_what_was_written_before_it_began() {
    let mut target = compared(terms(2 * MIB), &[0, 16]);
    target.write();
    let ticket = target.session.begin_flush();
    target.write();
    target.session.flushed(ticket);
    assert_eq!(target.read_back(&[]).unwrap().extent, FIRST);
    assert!(target.session.next_check().is_none());
    assert_eq!(target.session.bytes_unflushed(), 4096);
    target.flush();
    assert_eq!(target.read_back(&[]).unwrap().extent, ExtentIndex(1));
}

#[test]
fn the_window_bounds_what_is_asked_for_until_it_is_applied() {
    let mut target = compared(terms(4 * MIB), &[0, 16, 32, 48]);
    let first = target.session.next_want().unwrap();
    target.session.next_want().unwrap();
    assert!(!target.session.has_wants());
    assert_eq!(target.session.next_want(), None);
    target.arrive(first).unwrap();
    assert_eq!(
        target.session.next_want(),
        None,
        "arrived still holds memory"
    );
    target
        .session
        .applied(first.extent, Applied::Written { bytes: 1 })
        .unwrap();
    assert!(target.session.has_wants());
    assert!(target.session.next_want().is_some());
}

#[test]
fn nothing_more_is_asked_for_while_too_much_waits_to_be_read_back() {
    let extents = MAX_UNCHECKED_EXTENTS as u64 + 1;
    let differing: Vec<u64> = (0..extents).map(|extent| extent * 16).collect();
    let mut target = compared(terms(extents * MIB), &differing);
    for _ in 0..MAX_UNCHECKED_EXTENTS {
        target.write();
    }
    assert!(
        target.session.has_wants(),
        "what is not flushed is bounded elsewhere"
    );
    target.flush();
    assert!(!target.session.has_wants());
    assert_eq!(target.session.next_want(), None);
    target.read_back(&[]).unwrap();
    assert!(target.session.has_wants());
    target.write();
}

#[test]
fn data_that_does_not_fit_is_asked_for_whole_and_at_most_twice_again() {
    let mut target = compared(terms(MIB), &[3]);
    target.done();
    for round in 0..=MAX_REPAIRS {
        let want = target.session.next_want().unwrap();
        let mode = if round == 0 {
            WantMode::Differing
        } else {
            WantMode::Whole
        };
        assert_eq!((want.groups, want.mode), (groups(&[3]), mode));
        target.arrive(want).unwrap();
        let result = target.session.applied(FIRST, Applied::Unfit);
        assert_eq!(result.is_ok(), round < MAX_REPAIRS, "round {round}");
    }
    assert_eq!(target.session.next_want(), None);
    assert!(!target.is_proved());
    assert_eq!(target.session.stats().bytes_written, 0);
}

#[test]
fn what_the_medium_lost_is_written_again_and_only_that() {
    let mut target = compared(terms(MIB), &[3, 4]);
    target.done();
    target.write();
    target.flush();
    target.read_back(&[4]).unwrap();
    assert!(!target.is_proved());
    let again = target.write();
    assert_eq!((again.groups, again.mode), (groups(&[4]), WantMode::Whole));
    target.flush();
    assert_eq!(target.read_back(&[]).unwrap().groups, groups(&[4]));
    assert!(target.is_proved());
    assert_eq!(target.session.stats().bytes_verified, 2 * GROUP_SIZE as u64);
}

#[test]
fn a_medium_that_never_keeps_it_exhausts_the_repairs() {
    let mut target = compared(terms(MIB), &[3]);
    target.done();
    for round in 0..=MAX_REPAIRS {
        target.write();
        target.flush();
        let result = target.read_back(&[3]);
        assert_eq!(result.is_ok(), round < MAX_REPAIRS, "round {round}");
    }
    assert_eq!(target.session.next_want(), None);
    assert!(!target.is_proved());
}

#[test]
fn repairs_before_and_after_writing_share_one_allowance() {
    let mut target = compared(terms(MIB), &[3]);
    let want = target.session.next_want().unwrap();
    target.arrive(want).unwrap();
    target.session.applied(FIRST, Applied::Unfit).unwrap();
    target.write();
    target.flush();
    target.read_back(&[3]).unwrap();
    target.write();
    target.flush();
    assert_eq!(target.read_back(&[3]), Err(Exhausted { extent: FIRST }));
}

#[test]
fn holding_counts_first_and_takes_no_data_before_the_word() {
    let hold = Terms {
        hold: Hold::UntilProceed,
        ..terms(3 * MIB)
    };
    let mut target = compared(hold, &[0, 32]);
    target.done();
    assert!(
        target.session.proceed().is_err(),
        "nothing has been compared"
    );
    let first = target.session.next_want().unwrap();
    let second = target.session.next_want().unwrap();
    assert_eq!(target.arrive(first), Err(Violation::Unasked(FIRST)));
    assert!(!target.session.announce_compared());

    target.session.counted(first.extent).unwrap();
    assert_eq!(
        target.session.counted(first.extent),
        Err(Violation::Unasked(FIRST))
    );
    assert!(target.session.proceed().is_err(), "not all is counted");
    target.session.counted(second.extent).unwrap();
    assert!(target.session.is_at_turn());
    assert!(target.session.announce_compared());
    assert!(!target.session.announce_compared(), "it is said once");

    assert_eq!(target.session.next_want(), None);
    assert!(!target.session.has_wants());
    assert_eq!(target.arrive(first), Err(Violation::Unasked(FIRST)));
    assert!(!target.is_proved());

    target.session.proceed().unwrap();
    assert!(target.session.proceed().is_err());
    assert!(matches!(
        target.session.counted(FIRST),
        Err(Violation::OutOfTurn { .. })
    ));
    assert_eq!(target.write(), first);
    assert_eq!(target.write(), second);
    target.flush();
    target.read_back(&[]).unwrap();
    target.read_back(&[]).unwrap();
    assert!(target.is_proved());
}

#[test]
fn making_or_finishing_a_file_holds_for_nobody() {
    let hold = Terms {
        hold: Hold::UntilProceed,
        ..terms(MIB)
    };
    for (plan, waits) in [
        (Plan::Keep, true),
        (Plan::Resize, true),
        (Plan::Create, false),
        (Plan::Resume, false),
    ] {
        let tables = [(); 2].map(|()| Arc::new(MemoryCvs::new(16)));
        let [own, expected] = tables;
        let mut session = TargetSession::new(hold, plan, own, expected);
        assert!(session.counted(FIRST).is_err());
        session.scanned(FIRST);
        session
            .digests(GroupIndex(0), &(0..16).map(promised).collect::<Vec<_>>())
            .unwrap();
        session.next_want().unwrap();
        assert_eq!(session.counted(FIRST).is_ok(), waits, "{}", plan.word());
    }
}

#[test]
fn a_comparison_counts_and_can_never_be_told_to_write() {
    let compare = Terms {
        purpose: Purpose::Compare,
        verify: VerifyScope::Full,
        ..terms(MIB)
    };
    let mut target = compared(compare, &[5]);
    target.done();
    let want = target.session.next_want().unwrap();
    target.session.counted(want.extent).unwrap();
    assert!(target.session.announce_compared());
    assert!(target.session.proceed().is_err());
    assert_eq!(target.session.next_want(), None);
    assert_eq!(target.arrive(want), Err(Violation::Unasked(FIRST)));
    assert!(target.session.begin_flush().is_empty());
    assert!(!target.is_proved());
}

#[test]
fn an_equal_comparison_is_announced_but_proves_no_run() {
    let compare = Terms {
        purpose: Purpose::Compare,
        ..terms(MIB)
    };
    let mut target = compared(compare, &[]);
    target.done();
    assert!(target.session.announce_compared());
    assert_eq!(target.session.settled(), None);
}

#[test]
fn everything_is_asked_for_whole_without_a_scan() {
    let everything = Terms {
        scope: Scope::Everything,
        ..terms(MIB + 1)
    };
    let mut target = target(everything, &[]);
    target.digest(0..17);
    target.done();
    let first = target.write();
    assert_eq!(
        (first.groups, first.mode),
        (GroupSet::all(16), WantMode::Whole)
    );
    assert_eq!(target.write().groups, GroupSet::all(1));
    target.flush();
    target.read_back(&[]).unwrap();
    assert!(!target.is_proved());
    target.read_back(&[]).unwrap();
    assert!(target.is_proved());
    assert_eq!(target.session.stats().bytes_verified, MIB + 1);
}

#[test]
fn a_full_verification_reads_back_every_group_of_every_extent() {
    let full = Terms {
        verify: VerifyScope::Full,
        ..terms(2 * MIB + 70_000)
    };
    let mut target = compared(full, &[17]);
    target.done();
    assert!(!target.is_proved());
    target.write();
    assert!(target.session.flush_is_due(u64::MAX), "no more is to come");
    target.flush();
    for expected in [16, 2, 16] {
        assert_eq!(
            target.read_back(&[]).unwrap().groups,
            GroupSet::all(expected)
        );
    }
    assert!(target.is_proved());
    assert_eq!(target.session.stats().bytes_verified, 2 * MIB + 70_000);
    assert_eq!(target.session.stats().bytes_written, 4096);
}

#[test]
fn what_only_the_page_cache_had_is_found_by_a_full_verification_and_repaired() {
    let full = Terms {
        verify: VerifyScope::Full,
        ..terms(MIB)
    };
    let mut target = compared(full, &[]);
    target.done();
    target.flush();
    target.read_back(&[9]).unwrap();
    assert!(!target.is_proved());
    let again = target.write();
    assert_eq!((again.groups, again.mode), (groups(&[9]), WantMode::Whole));
    target.flush();
    assert_eq!(target.read_back(&[]).unwrap().groups, groups(&[9]));
    assert!(target.is_proved());
    assert_eq!(target.session.stats().bytes_verified, MIB);
}

#[test]
fn an_extent_is_compared_when_its_last_digest_comes_however_they_are_cut() {
    for cut in [1, 5, 16, 17] {
        let mut target = target(terms(2 * MIB), &[]);
        target.scan();
        for start in (0..32).step_by(cut) {
            let end = (start + cut as u64).min(32);
            target.digest(start..end);
            assert_eq!(target.session.stats().extents_compared, end / 16);
        }
    }
}

#[test]
fn an_empty_volume_is_proved_by_done_alone() {
    for scope in [Scope::Differences, Scope::Everything] {
        let mut target = compared(Terms { scope, ..terms(0) }, &[]);
        assert!(!target.is_proved());
        assert!(target.session.announce_compared());
        target.done();
        assert!(target.is_proved());
    }
}
