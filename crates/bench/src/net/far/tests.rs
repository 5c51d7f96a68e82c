use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use lockstep_protocol::FailureKind;
use lockstep_transport::{Bulk, Link, memory_pair};

use super::Far;
use crate::disk::Way;
use crate::hash::HashKind;
use crate::net::flow::{Direction, take};
use crate::net::serve;
use crate::net::word::Word;

const MOMENT: Duration = Duration::from_millis(60);

/// An end that serves, as long as the test talks to it.
fn serving(test: impl FnOnce(Far)) {
    let (near, far) = memory_pair();
    thread::scope(|scope| {
        let served = scope.spawn(|| serve(far));
        test(Far::new(near));
        served.join().unwrap().unwrap();
    });
}

#[test]
fn both_directions_are_measured_again_and_again() {
    serving(|far| {
        for direction in [Direction::To, Direction::From, Direction::To] {
            let flow = far.flow(direction, MOMENT).unwrap();
            assert!(flow.received.bytes > 1 << 20, "{flow:?}");
            assert!(flow.received.elapsed <= 4 * MOMENT, "{flow:?}");
            assert!(flow.paths.is_empty());
        }
        assert!(far.round_trip().unwrap() < Duration::from_secs(1));
        far.leave();
    });
}

#[test]
fn the_far_end_measures_its_own_machine() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("volume");
    std::fs::write(&path, vec![7; 1 << 20]).unwrap();
    serving(|far| {
        let hashed = far.hash(HashKind::Pages, MOMENT).unwrap();
        assert!(hashed.cores >= 1 && hashed.measured.bytes > 0 && hashed.is_here);
        let found = far.read(&path, Way::Cached, true, MOMENT).unwrap();
        assert_eq!(found.size, 1 << 20);
        assert!(found.read.measured.bytes >= 1 << 20);
        let written = far.write(&path, true, MOMENT).unwrap();
        assert!(written.written.bytes > 0);
        far.leave();
    });
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    assert_eq!(std::fs::read(&path).unwrap(), vec![7; 1 << 20]);
}

#[test]
fn what_the_far_end_cannot_do_is_told_and_it_goes_on() {
    serving(|far| {
        let missing = Path::new("/nonexistent/volume");
        let refused = far.read(missing, Way::Cached, true, MOMENT).unwrap_err();
        assert_eq!(refused.kind, FailureKind::Usage);
        assert!(refused.message.contains("/nonexistent"), "{refused}");
        assert!(far.write(missing, true, MOMENT).is_err());
        assert!(far.round_trip().is_ok());
        far.leave();
    });
}

#[test]
fn an_end_that_goes_is_no_hang() {
    let (near, far) = memory_pair();
    drop(far);
    let begun = Instant::now();
    let lost = Far::new(near).flow(Direction::To, MOMENT).unwrap_err();
    assert_eq!(lost.kind, FailureKind::Temporary);
    assert!(begun.elapsed() < Duration::from_secs(5));
}

/// Says these words whatever is asked, then takes what comes.
fn liar(link: &Link, words: &[Word]) {
    for word in words {
        let bytes = serde_json::to_vec(word).unwrap();
        if link.sender.control(Bytes::from(bytes)).is_err() {
            return;
        }
    }
    while link
        .bulk
        .recv_timeout(Duration::from_secs(5))
        .is_ok_and(|it| it.is_some())
    {}
}

#[test]
fn a_receiver_that_lies_about_what_arrived_is_caught() {
    let measured = crate::Measured::default();
    let bytes = u64::MAX;
    for words in [
        vec![Word::Taken { bytes, measured }],
        vec![Word::Ack { bytes }, Word::Taken { bytes: 1, measured }],
        vec![Word::Echo { number: 1 }],
    ] {
        let (near, far) = memory_pair();
        thread::scope(|scope| {
            scope.spawn(|| liar(&far, &words));
            let caught = Far::new(near).flow(Direction::To, MOMENT);
            assert!(caught.is_err(), "{words:?}");
        });
    }
}

#[test]
fn a_sender_that_says_less_than_it_sent_is_caught() {
    let (near, far) = memory_pair();
    thread::scope(|scope| {
        scope.spawn(|| {
            let frame = Bulk::new(Bytes::new(), Bytes::from_static(b"frame"));
            for _ in 0..3 {
                far.sender.bulk(frame.clone()).unwrap();
            }
            liar(&far, &[Word::Sent { bytes: 1 }]);
        });
        assert!(take(&near, MOMENT).is_err());
        near.sender.close("caught");
    });
}
