//! The source's session: every frame of a target in every stage, and the limits on wants.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use lockstep_merkle::{EXTENT_SIZE, ExtentIndex, Geometry, GroupSet, PageDigest, Root};
use lockstep_protocol::limits::{
    MAX_CVS_PER_FRAME, MAX_STATE_CHANGES, MAX_UNDO_NOTES, MAX_WANTS_PER_EXTENT, MAX_WARNINGS,
};
use lockstep_protocol::{
    Doubted, Failure, FailureKind, Hold, Plan, Purpose, Scope, Served, SourceSession, Stats,
    TargetFrame, Terms, Text, UndoNote, UndoStage, VerifyScope, Violation, VolumeState, Want,
    Welcome,
};

const SIZE: u64 = 3 * EXTENT_SIZE as u64 + 5;
const ROOT: Root = Root::from_bytes([7; 32]);

fn terms(purpose: Purpose, hold: Hold) -> Terms {
    Terms {
        geometry: Geometry::new(SIZE),
        purpose,
        scope: Scope::Differences,
        verify: VerifyScope::Written,
        hold,
        window: 3,
    }
}

fn welcome(plan: Plan) -> TargetFrame {
    TargetFrame::Welcome(Welcome {
        version: 1,
        window: 2,
        plan,
        present_size: Some(SIZE),
        standing: VolumeState::Unknown,
        has_medium: true,
        identity: Vec::new(),
    })
}

fn want_of(extent: u64) -> Want {
    Want {
        extent: ExtentIndex(extent),
        whole: GroupSet::all(1),
        blank: GroupSet::EMPTY,
        paged: GroupSet::EMPTY,
        digests: Vec::new(),
    }
}

fn want(extent: u64) -> TargetFrame {
    TargetFrame::Want(want_of(extent))
}

fn compared() -> TargetFrame {
    TargetFrame::Compared(Stats::default())
}

fn verified(root: Root) -> TargetFrame {
    TargetFrame::Verified {
        root,
        state: VolumeState::Consistent,
        stats: Stats::default(),
    }
}

fn failure() -> Failure {
    Failure::new(FailureKind::Io, "disk")
}

fn every_frame() -> Vec<TargetFrame> {
    vec![
        welcome(Plan::Keep),
        TargetFrame::Refused {
            failure: failure(),
            identity: Vec::new(),
        },
        want(0),
        TargetFrame::State(VolumeState::Inconsistent),
        compared(),
        TargetFrame::Progress(Stats::default()),
        verified(ROOT),
        TargetFrame::Failed {
            failure: failure(),
            state: VolumeState::Failed,
            stats: Stats::default(),
        },
        TargetFrame::Warning(Text::new("look")),
        TargetFrame::Undo(UndoNote {
            stage: UndoStage::Offered,
            kept: None,
            until_unix_ms: 0,
            bytes: 0,
            why: Text::new("no room"),
        }),
    ]
}

fn greeting(hold: Hold) -> SourceSession {
    SourceSession::new(terms(Purpose::Sync, hold))
}

fn welcomed(hold: Hold) -> SourceSession {
    let mut session = greeting(hold);
    session.handle(welcome(Plan::Keep)).unwrap();
    session
}

fn groups() -> u64 {
    Geometry::new(SIZE).group_count()
}

fn finished(hold: Hold) -> SourceSession {
    let mut session = welcomed(hold);
    assert_eq!(session.next_digests(groups()), Some(0..groups()));
    session.finished(ROOT);
    session
}

fn asked(mut session: SourceSession, extent: u64) -> SourceSession {
    session.handle(want(extent)).unwrap();
    session
}

fn held() -> SourceSession {
    let mut session = finished(Hold::UntilProceed);
    session.handle(compared()).unwrap();
    session
}

fn ended() -> SourceSession {
    let mut session = finished(Hold::None);
    session.handle(verified(ROOT)).unwrap();
    session
}

type Scenario = (&'static str, fn() -> SourceSession);

const SCENARIOS: [Scenario; 10] = [
    ("greeting", || greeting(Hold::None)),
    ("greeting, holding", || greeting(Hold::UntilProceed)),
    ("counting, digests to go", || welcomed(Hold::UntilProceed)),
    ("counting", || finished(Hold::UntilProceed)),
    ("counting, count owed", || {
        asked(finished(Hold::UntilProceed), 1)
    }),
    ("held", held),
    ("shipping, digests to go", || welcomed(Hold::None)),
    ("shipping", || finished(Hold::None)),
    ("shipping, data owed", || asked(finished(Hold::None), 1)),
    ("ended", ended),
];

/// Rows: what has happened. Columns: the frame that comes. Cells: the stage after it, `!` before
/// those that end the session as a violation.
const TRANSITIONS: &str = "
                          welcome   refused   want      state     compared  progress  verified  failed    warning   undo
greeting                  shipping  ended     !ended    !ended    !ended    !ended    !ended    ended     !ended    !ended
greeting, holding         counting  ended     !ended    !ended    !ended    !ended    !ended    ended     !ended    !ended
counting, digests to go   !ended    !ended    !ended    !ended    !ended    counting  !ended    ended     counting  counting
counting                  !ended    !ended    counting  !ended    held      counting  !ended    ended     counting  counting
counting, count owed      !ended    !ended    counting  !ended    !ended    counting  !ended    ended     counting  counting
held                      !ended    !ended    !ended    !ended    !ended    held      !ended    ended     held      held
shipping, digests to go   !ended    !ended    !ended    shipping  !ended    shipping  !ended    ended     shipping  shipping
shipping                  !ended    !ended    shipping  shipping  shipping  shipping  ended     ended     shipping  shipping
shipping, data owed       !ended    !ended    shipping  shipping  shipping  shipping  !ended    ended     shipping  shipping
ended                     !ended    !ended    !ended    !ended    !ended    !ended    !ended    !ended    !ended    !ended
";

/// The stage, as the session's own refusals name it.
fn stage_of(session: &mut SourceSession) -> &'static str {
    if session.is_held() {
        return "held";
    }
    match session.proceed() {
        Err(Violation::OutOfTurn { stage, .. }) => match stage {
            "counting differences" => "counting",
            other => other,
        },
        other => panic!("proceeding without being held gave {other:?}"),
    }
}

fn cell(scenario: fn() -> SourceSession, frame: TargetFrame) -> String {
    let mut session = scenario();
    let mark = match session.handle(frame) {
        Ok(_) => "",
        Err(_) => "!",
    };
    format!("{mark}{}", stage_of(&mut session))
}

fn row(name: &str, cells: impl Iterator<Item = String>) -> String {
    let cells: String = cells.map(|cell| format!("{cell:<10}")).collect();
    format!("{name:<26}{cells}").trim_end().to_owned()
}

#[test]
fn every_frame_in_every_stage() {
    let names = every_frame()
        .into_iter()
        .map(|frame| frame.name().to_owned());
    let mut table = vec![String::new(), row("", names)];
    for (name, scenario) in SCENARIOS {
        let frames = every_frame().into_iter();
        table.push(row(name, frames.map(|frame| cell(scenario, frame))));
    }
    table.push(String::new());
    let table = table.join("\n");
    assert_eq!(table, TRANSITIONS, "the table is now:\n{table}");
}

#[test]
fn a_target_warns_so_many_times_and_no_more() {
    let warning = || TargetFrame::Warning(Text::new("look"));
    let mut session = finished(Hold::None);
    for _ in 0..MAX_WARNINGS {
        let served = session.handle(warning());
        assert_eq!(served, Ok(Served::Warning(Text::new("look"))));
    }
    assert!(matches!(
        session.handle(warning()),
        Err(Violation::OutOfTurn { .. })
    ));
}

#[test]
fn a_target_tells_so_many_changes_and_no_more() {
    let kept = || {
        TargetFrame::Undo(UndoNote {
            stage: UndoStage::Begun,
            kept: None,
            until_unix_ms: 0,
            bytes: 0,
            why: Text::new("no room"),
        })
    };
    let state = || TargetFrame::State(VolumeState::Inconsistent);
    let tell = |limit: u8, frame: &dyn Fn() -> TargetFrame| {
        let mut session = finished(Hold::None);
        for _ in 0..limit {
            session.handle(frame()).unwrap();
        }
        let refused = session.handle(frame());
        assert!(matches!(refused, Err(Violation::OutOfTurn { .. })));
    };
    tell(MAX_UNDO_NOTES, &kept);
    tell(MAX_STATE_CHANGES, &state);
}

#[test]
fn a_doubt_goes_out_between_the_welcome_and_the_end_and_is_answered_once() {
    let answer = || TargetFrame::Doubted(Doubted::Stands);
    for (name, scenario) in SCENARIOS {
        let mut session = scenario();
        let may = !name.starts_with("greeting") && name != "ended";
        assert_eq!(session.may_doubt(), may, "{name}");
        assert!(scenario().handle(answer()).is_err(), "{name}: unasked");
        if !may {
            continue;
        }
        let before = stage_of(&mut scenario());
        session.doubted();
        session.doubted();
        for _ in 0..2 {
            let served = session.handle(answer());
            assert_eq!(served, Ok(Served::Doubted(Doubted::Stands)), "{name}");
        }
        assert_eq!(stage_of(&mut scenario()), before, "{name}");
        assert!(session.handle(answer()).is_err(), "{name}: once too often");
    }
    let mut compares = SourceSession::new(terms(Purpose::Compare, Hold::None));
    compares.handle(welcome(Plan::Keep)).unwrap();
    assert!(!compares.may_doubt(), "a comparison changes no record");
}

#[test]
fn the_digests_of_every_group_go_out_once_and_in_order() {
    let geometry = Geometry::new(100 * EXTENT_SIZE as u64 + 1);
    let mut session = SourceSession::new(Terms {
        geometry,
        ..terms(Purpose::Sync, Hold::None)
    });
    assert_eq!(session.next_digests(1601), None, "nobody has been welcomed");
    session.handle(welcome(Plan::Keep)).unwrap();
    assert_eq!(session.next_digests(0), None);
    assert_eq!(session.next_digests(16), Some(0..16));
    assert_eq!(session.next_digests(16), None);
    let full = 16 + MAX_CVS_PER_FRAME as u64;
    assert_eq!(session.next_digests(1601), Some(16..full));
    assert!(!session.may_finish());
    assert_eq!(session.next_digests(1601), Some(full..1601));
    assert!(session.may_finish());
    session.finished(ROOT);
    assert!(!session.may_finish(), "done goes out once");
}

#[test]
fn a_want_before_its_digests_is_too_early() {
    let mut session = welcomed(Hold::None);
    session.next_digests(31);
    session.handle(want(0)).unwrap();
    assert_eq!(
        session.handle(want(1)),
        Err(Violation::TooEarly(ExtentIndex(1)))
    );
}

#[test]
fn the_smaller_window_counts_and_answers_make_room() {
    let mut session = finished(Hold::None);
    session.handle(want(0)).unwrap();
    session.handle(want(1)).unwrap();
    session.answered(ExtentIndex(3));
    session.answered(ExtentIndex(u64::MAX));
    session.answered(ExtentIndex(0));
    session.answered(ExtentIndex(0));
    session.handle(want(2)).unwrap();
    assert_eq!(session.handle(want(3)), Err(Violation::WindowExceeded(2)));
}

#[test]
fn an_extent_is_shipped_again_for_repairs_and_no_more() {
    let mut session = finished(Hold::None);
    for times in 0..MAX_WANTS_PER_EXTENT {
        let served = session.handle(want(0)).unwrap();
        let first = times == 0;
        assert_eq!(
            served,
            Served::Ship {
                want: want_of(0),
                first
            }
        );
        session.answered(ExtentIndex(0));
    }
    assert_eq!(
        session.handle(want(0)),
        Err(Violation::TooManyWants(ExtentIndex(0)))
    );
}

#[test]
fn an_extent_is_not_asked_for_twice_at_once() {
    let mut session = asked(finished(Hold::None), 0);
    assert_eq!(
        session.handle(want(0)),
        Err(Violation::TooManyWants(ExtentIndex(0)))
    );
}

#[test]
fn what_was_counted_is_not_counted_again_when_it_is_shipped() {
    let mut session = asked(finished(Hold::UntilProceed), 0);
    session.answered(ExtentIndex(0));
    session.handle(compared()).unwrap();
    session.proceed().unwrap();
    let served = session.handle(want(0)).unwrap();
    assert_eq!(
        served,
        Served::Ship {
            want: want_of(0),
            first: false
        }
    );
}

#[test]
fn a_want_of_another_shape_than_the_volume_is_refused() {
    let digests = |count| vec![PageDigest([1; 16]); count];
    let tail = ExtentIndex(3);
    let rows: [(&str, Want, bool); 9] = [
        (
            "nothing",
            Want {
                whole: GroupSet::EMPTY,
                ..want_of(0)
            },
            false,
        ),
        (
            "whole and blank at once",
            Want {
                blank: GroupSet::all(1),
                ..want_of(0)
            },
            false,
        ),
        (
            "all groups",
            Want {
                whole: GroupSet::all(16),
                ..want_of(0)
            },
            true,
        ),
        (
            "a page digest too few",
            Want {
                paged: GroupSet::from_bits(2),
                digests: digests(15),
                ..want_of(0)
            },
            false,
        ),
        (
            "page digests of a group",
            Want {
                paged: GroupSet::from_bits(2),
                digests: digests(16),
                ..want_of(0)
            },
            true,
        ),
        (
            "page digests of no group",
            Want {
                digests: digests(1),
                ..want_of(0)
            },
            false,
        ),
        (
            "a group past the end",
            Want {
                extent: tail,
                whole: GroupSet::all(2),
                ..want_of(0)
            },
            false,
        ),
        (
            "the only page of the tail",
            Want {
                extent: tail,
                whole: GroupSet::EMPTY,
                paged: GroupSet::all(1),
                digests: digests(1),
                ..want_of(0)
            },
            true,
        ),
        (
            "more pages than the tail has",
            Want {
                extent: tail,
                whole: GroupSet::EMPTY,
                paged: GroupSet::all(1),
                digests: digests(2),
                ..want_of(0)
            },
            false,
        ),
    ];
    for (name, want, fits) in rows {
        let extent = want.extent;
        match finished(Hold::None).handle(TargetFrame::Want(want)) {
            Ok(_) => assert!(fits, "{name}"),
            Err(violation) => {
                assert!(!fits, "{name}");
                assert_eq!(violation, Violation::WrongPages(extent), "{name}");
            }
        }
    }
    for extent in [4, u64::MAX] {
        let violation = Violation::NoSuchExtent(ExtentIndex(extent));
        assert_eq!(finished(Hold::None).handle(want(extent)), Err(violation));
    }
}

#[test]
fn a_welcome_cannot_stretch_what_was_offered() {
    let with = |version, window| {
        let TargetFrame::Welcome(welcome) = welcome(Plan::Keep) else {
            unreachable!("a welcome is a welcome");
        };
        greeting(Hold::None).handle(TargetFrame::Welcome(Welcome {
            version,
            window,
            ..welcome
        }))
    };
    assert!(with(1, 3).is_ok());
    assert_eq!(with(1, 4), Err(Violation::Contradiction { what: "window" }));
    assert_eq!(
        with(0, 1),
        Err(Violation::Contradiction { what: "version" })
    );
    assert_eq!(
        with(2, 1),
        Err(Violation::Contradiction { what: "version" })
    );
}

#[test]
fn only_a_target_that_loses_something_waits_for_agreement() {
    for (plan, stage) in [
        (Plan::Keep, "counting"),
        (Plan::Resize, "counting"),
        (Plan::Create, "shipping"),
        (Plan::Resume, "shipping"),
    ] {
        let mut session = greeting(Hold::UntilProceed);
        session.handle(welcome(plan)).unwrap();
        assert_eq!(stage_of(&mut session), stage, "{}", plan.word());
    }
}

#[test]
fn a_comparison_never_ships_whatever_the_target_plans() {
    for plan in [Plan::Keep, Plan::Create, Plan::Resize, Plan::Resume] {
        let mut session = SourceSession::new(terms(Purpose::Compare, Hold::None));
        session.handle(welcome(plan)).unwrap();
        session.next_digests(groups());
        session.finished(ROOT);
        assert_eq!(session.handle(want(0)), Ok(Served::Count(want_of(0))));
        session.answered(ExtentIndex(0));
        assert_eq!(
            session.handle(compared()),
            Ok(Served::Compared(Stats::default()))
        );
        assert!(session.is_held());
        assert!(session.proceed().is_err());
        assert!(session.handle(verified(ROOT)).is_err());
    }
}

#[test]
fn another_root_or_no_root_yet_verifies_nothing() {
    let contradiction = Err(Violation::Contradiction { what: "root" });
    let other = Root::from_bytes([8; 32]);
    assert_eq!(finished(Hold::None).handle(verified(other)), contradiction);
    assert_eq!(digested_session().handle(verified(ROOT)), contradiction);
}

fn digested_session() -> SourceSession {
    let mut session = welcomed(Hold::None);
    session.next_digests(groups());
    session
}

#[test]
fn compared_comes_once() {
    let mut session = finished(Hold::None);
    session.handle(compared()).unwrap();
    assert!(session.handle(compared()).is_err());
    let mut session = held();
    session.proceed().unwrap();
    assert!(session.handle(compared()).is_err());
}

#[test]
fn nothing_follows_a_violation() {
    let mut session = finished(Hold::None);
    session.handle(want(u64::MAX)).unwrap_err();
    assert!(session.handle(verified(ROOT)).is_err());
    assert_eq!(session.next_digests(groups()), None);
    assert!(!session.may_finish());
}

#[test]
fn an_empty_volume_is_finished_without_a_digest() {
    let mut session = SourceSession::new(Terms {
        geometry: Geometry::new(0),
        ..terms(Purpose::Sync, Hold::None)
    });
    assert!(!session.may_finish(), "nobody has been welcomed");
    session.handle(welcome(Plan::Keep)).unwrap();
    assert_eq!(session.next_digests(0), None);
    assert!(session.may_finish());
    session.finished(ROOT);
    assert!(session.handle(verified(ROOT)).is_ok());
}
