//! Every word of a source in every phase of an extent.

use lockstep_merkle::GroupIndex;
use lockstep_protocol::{Evidence, Hold, Terms};

use crate::rig::{FIRST, MIB, Target, compared, head, page, promised, target, terms, word};

/// Rows: how far extent 0 is. Columns: what the source says next. `-` is a violation.
const ANSWERS: &str = "
                    counted   data      proceed   done      digests
open                -         -         -         -         ok
queued              -         -         -         ok        -
asked               -         ok        -         ok        -
arrived             -         -         -         ok        -
written             -         -         -         ok        -
flushed             -         -         -         ok        -
checking            -         -         -         ok        -
settled             -         -         -         ok        -
wrong, queued       -         -         -         ok        -
counting, queued    -         -         -         ok        -
counting, asked     ok        -         -         ok        -
counting, counted   -         -         -         ok        -
held                -         -         ok        ok        -
held, agreed        -         -         -         ok        -
held, agreed, asked -         ok        -         ok        -
";

type Scenario = (&'static str, fn() -> Target);

const SCENARIOS: [Scenario; 15] = [
    ("open", || {
        let mut target = target(terms(MIB), &[0]);
        target.scan();
        target
    }),
    ("queued", queued),
    ("asked", || asked(queued())),
    ("arrived", || {
        let mut target = queued();
        let want = target.session.next_want().unwrap();
        target.arrive(want).unwrap();
        target
    }),
    ("written", written),
    ("flushed", flushed),
    ("checking", || {
        let mut target = flushed();
        target.session.next_check().unwrap();
        target
    }),
    ("settled", || {
        let mut target = flushed();
        target.read_back(&[]).unwrap();
        target
    }),
    ("wrong, queued", || {
        let mut target = flushed();
        target.read_back(&[0]).unwrap();
        target
    }),
    ("counting, queued", counting),
    ("counting, asked", || asked(counting())),
    ("counting, counted", counted),
    ("held", held),
    ("held, agreed", agreed),
    ("held, agreed, asked", || asked(agreed())),
];

fn queued() -> Target {
    compared(terms(MIB), &[0])
}

fn asked(mut target: Target) -> Target {
    assert_eq!(target.session.next_want().unwrap().extent, FIRST);
    target
}

fn written() -> Target {
    let mut target = queued();
    target.write();
    target
}

fn flushed() -> Target {
    let mut target = written();
    target.flush();
    target
}

fn counting() -> Target {
    let hold = Terms {
        hold: Hold::UntilProceed,
        ..terms(MIB)
    };
    compared(hold, &[0])
}

fn counted() -> Target {
    let mut target = asked(counting());
    target.session.counted(FIRST).unwrap();
    target
}

fn held() -> Target {
    let mut target = counted();
    assert!(target.session.announce_compared());
    target
}

fn agreed() -> Target {
    let mut target = held();
    target.session.proceed().unwrap();
    target
}

fn answers(scenario: fn() -> Target) -> [bool; 5] {
    let data = head(FIRST, page(0), page(1));
    let root = scenario().root();
    [
        scenario().session.counted(FIRST).is_ok(),
        scenario().session.arrived(&data).is_ok(),
        scenario().session.proceed().is_ok(),
        scenario().session.done(word(root, Evidence::Full)).is_ok(),
        scenario()
            .session
            .digests(GroupIndex(0), &[promised(0)])
            .is_ok(),
    ]
}

#[test]
fn every_word_in_every_phase() {
    let row = |name: &str, cells: [&str; 5]| {
        let cells: String = cells.iter().map(|cell| format!("{cell:<10}")).collect();
        format!("{name:<20}{cells}").trim_end().to_owned()
    };
    let mut table = vec![String::new()];
    table.push(row("", ["counted", "data", "proceed", "done", "digests"]));
    for (name, scenario) in SCENARIOS {
        table.push(row(
            name,
            answers(scenario).map(|ok| if ok { "ok" } else { "-" }),
        ));
    }
    table.push(String::new());
    let table = table.join("\n");
    assert_eq!(table, ANSWERS, "the table is now:\n{table}");
}
