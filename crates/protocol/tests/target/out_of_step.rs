//! What comes at the wrong time, about the wrong thing, or not at all.

use std::sync::Arc;

use lockstep_merkle::{Cv, CvTable, ExtentIndex, GroupIndex, MAX_VOLUME_SIZE, PageSet, Root};
use lockstep_protocol::{Applied, Evidence, Plan, Scope, TargetSession, Terms, Violation};

use crate::rig::{FIRST, MIB, STALE, compared, groups, head, page, promised, target, terms, word};

#[test]
fn a_group_that_was_not_measured_is_not_proved() {
    let mut target = compared(terms(2 * MIB), &[0, 1, 16]);
    target.done();
    target.write();
    target.flush();
    target.session.next_check().unwrap();
    target
        .session
        .checked(FIRST, &[(GroupIndex(1), promised(1))])
        .unwrap();
    let wants = [(); 2].map(|()| target.session.next_want().unwrap());
    assert_eq!(
        wants.map(|want| (want.extent, want.groups)),
        [(ExtentIndex(1), groups(&[0])), (FIRST, groups(&[0])),]
    );
}

#[test]
fn a_measurement_of_nothing_asked_for_proves_nothing() {
    let mut target = compared(terms(2 * MIB), &[0, 16]);
    target.done();
    let stray = [
        (GroupIndex(16), promised(16)),
        (GroupIndex(u64::MAX), STALE),
    ];
    for extent in [0, 1, 2, u64::MAX].map(ExtentIndex) {
        target.session.checked(extent, &stray).unwrap();
        target
            .session
            .applied(extent, Applied::Written { bytes: 9 })
            .unwrap();
    }
    assert_eq!(target.session.stats().bytes_written, 0);
    target.write();
    target.write();
    target.flush();
    target.read_back(&[]).unwrap();
    let repeated = [(GroupIndex(0), promised(0))];
    target.session.checked(FIRST, &repeated).unwrap();
    assert!(!target.is_proved(), "one extent proved twice is not two");
    target.read_back(&[]).unwrap();
    assert!(target.is_proved());
}

#[test]
fn digests_come_in_order_and_end_where_the_volume_ends() {
    let mut target = target(terms(2 * MIB), &[]);
    let one = [promised(0)];
    let out_of_order = |got, expected| {
        Err(Violation::DigestsOutOfOrder {
            got: GroupIndex(got),
            expected: GroupIndex(expected),
        })
    };
    for first in [1, 31, 32, u64::MAX] {
        assert_eq!(
            target.session.digests(GroupIndex(first), &one),
            out_of_order(first, 0)
        );
    }
    target.digest(0..20);
    assert_eq!(
        target.session.digests(GroupIndex(19), &one),
        out_of_order(19, 20)
    );
    assert_eq!(
        target.session.digests(GroupIndex(20), &[STALE; 13]),
        out_of_order(20, 20)
    );
    target.digest(20..32);
    assert_eq!(
        target.session.digests(GroupIndex(32), &one),
        out_of_order(32, 32)
    );
}

#[test]
fn done_waits_for_the_last_digest_comes_once_and_names_their_root() {
    let mut target = target(terms(MIB), &[]);
    let root = target.root();
    target.scan();
    target.digest(0..15);
    assert!(target.session.done(word(root, Evidence::Full)).is_err());
    target.digest(15..16);
    let other = Root::from_bytes([9; 32]);
    let contradiction = Violation::Contradiction { what: "root" };
    assert_eq!(
        target.session.done(word(other, Evidence::Full)),
        Err(contradiction)
    );
    assert_eq!(target.session.settled(), None);
    target.session.done(word(root, Evidence::None)).unwrap();
    assert_eq!(target.session.settled(), Some(word(root, Evidence::None)));
    assert!(target.session.done(word(root, Evidence::Full)).is_err());
    assert_eq!(target.session.settled(), Some(word(root, Evidence::None)));
}

#[test]
fn data_is_taken_only_as_it_was_asked_for() {
    let mut target = compared(terms(2 * MIB), &[0, 16]);
    let want = target.session.next_want().unwrap();
    let one = |page: usize| {
        let mut pages = PageSet::EMPTY;
        pages.insert(page);
        pages
    };
    let rows = [
        (
            head(ExtentIndex(2), one(0), PageSet::EMPTY),
            Violation::NoSuchExtent(ExtentIndex(2)),
        ),
        (
            head(ExtentIndex(u64::MAX), one(0), PageSet::EMPTY),
            Violation::NoSuchExtent(ExtentIndex(u64::MAX)),
        ),
        (
            head(ExtentIndex(1), one(0), PageSet::EMPTY),
            Violation::Unasked(ExtentIndex(1)),
        ),
        (
            head(FIRST, one(16), PageSet::EMPTY),
            Violation::WrongPages(FIRST),
        ),
        (head(FIRST, one(0), one(255)), Violation::WrongPages(FIRST)),
    ];
    for (head, violation) in rows {
        assert_eq!(target.session.arrived(&head), Err(violation));
    }
    target
        .session
        .arrived(&head(want.extent, one(3), one(15)))
        .unwrap();
    let twice = head(want.extent, one(3), one(15));
    assert_eq!(
        target.session.arrived(&twice),
        Err(Violation::Unasked(FIRST))
    );
}

#[test]
fn a_whole_group_comes_whole_up_to_the_last_page_of_the_volume() {
    let everything = Terms {
        scope: Scope::Everything,
        ..terms(2 * 4096 + 1)
    };
    let mut target = target(everything, &[]);
    target.digest(0..1);
    target.session.next_want().unwrap();
    for pages in [0, 2, 4, 256] {
        let short = head(FIRST, PageSet::all(pages), PageSet::EMPTY);
        assert_eq!(
            target.session.arrived(&short),
            Err(Violation::WrongPages(FIRST))
        );
    }
    target
        .session
        .arrived(&head(FIRST, PageSet::all(2), page(2)))
        .unwrap();
}

#[test]
fn no_data_at_all_is_an_answer_that_will_not_fit() {
    let mut target = compared(terms(MIB), &[0]);
    target.session.next_want().unwrap();
    let nothing = head(FIRST, PageSet::EMPTY, PageSet::EMPTY);
    assert_eq!(
        target.session.arrived(&nothing).unwrap().groups,
        groups(&[0])
    );
}

#[test]
fn scans_past_the_end_are_nobodys() {
    let mut target = target(terms(MIB), &[]);
    for extent in [1, 2, u64::MAX] {
        target.session.scanned(ExtentIndex(extent));
    }
    assert_eq!(target.session.stats().extents_compared, 0);
}

/// A table of any length that holds nothing.
struct NoCvs(u64);

impl CvTable for NoCvs {
    fn len(&self) -> u64 {
        self.0
    }

    fn cv(&self, _: GroupIndex) -> Cv {
        STALE
    }

    fn set(&self, _: GroupIndex, _: Cv) {}
}

#[test]
fn a_vast_size_costs_nothing_until_it_is_paid_for_in_digests() {
    let terms = terms(MAX_VOLUME_SIZE);
    let groups = terms.geometry.group_count();
    let tables = [(); 2].map(|()| Arc::new(NoCvs(groups)));
    let [own, expected] = tables;
    let mut session = TargetSession::new(terms, Plan::Keep, own, expected);
    session.digests(GroupIndex(0), &[STALE; 1024]).unwrap();
    session.scanned(FIRST);
    assert_eq!(session.stats().extents_compared, 1);
    assert!(
        session
            .done(word(Root::from_bytes([0; 32]), Evidence::Full))
            .is_err()
    );
    let last = ExtentIndex(terms.geometry.extent_count() - 1);
    let data = head(last, PageSet::EMPTY, PageSet::EMPTY);
    assert_eq!(session.arrived(&data), Err(Violation::Unasked(last)));
}
