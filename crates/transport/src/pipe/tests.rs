use super::{Obituary, Timing, start};
use crate::error::LinkError;
use crate::link::{Guard, Link, Via};
use bytes::Bytes;
use std::io::{PipeReader, PipeWriter, Read, Write, pipe};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A link with short timing, and the raw other ends of its pipes.
fn link_and_wire() -> (Link, PipeReader, PipeWriter) {
    let (read, wire_in) = pipe().unwrap();
    let (wire_out, write) = pipe().unwrap();
    let timing = Timing {
        ping_after: Duration::from_millis(50),
        lost_after: Duration::from_millis(1500),
    };
    let end = start(read, write, Arc::default(), timing, Obituary::default());
    (Link::new(Arc::new(Guard(end)), Via::Ssh), wire_out, wire_in)
}

fn header(lane: u8, len: u32) -> Vec<u8> {
    [&[lane][..], &len.to_le_bytes()].concat()
}

#[test]
fn silence_is_broken_by_pings_and_taken_for_the_end_when_it_lasts() {
    let (link, mut wire_out, mut wire_in) = link_and_wire();
    let mut ping = [0; 5];
    for _ in 0..10 {
        wire_out.read_exact(&mut ping).unwrap();
        assert_eq!(ping.to_vec(), header(2, 0));
        wire_in.write_all(&header(2, 0)).unwrap();
    }
    let before = Instant::now();
    let error = link.control.recv().unwrap_err();
    assert!(
        matches!(&error, LinkError::Lost { what } if what.contains("nothing heard")),
        "{error}"
    );
    assert!(
        before.elapsed() >= Duration::from_millis(1300),
        "{:?}",
        before.elapsed()
    );
}

#[test]
fn a_receiver_that_takes_its_time_does_not_make_the_other_end_look_dead() {
    let (link, _wire_out, mut wire_in) = link_and_wire();
    for _ in 0..5 {
        wire_in
            .write_all(&[header(1, 1), vec![8]].concat())
            .unwrap();
    }
    std::thread::sleep(Duration::from_millis(2500));
    assert_eq!(link.bulk.recv().unwrap().len(), 1);
}

#[test]
fn headers_out_of_range_are_violations_before_anything_is_allocated() {
    let hostile = [
        (0, (64 << 10) + 1),
        (0, u32::MAX),
        (1, (1 << 20) + 4097),
        (1, u32::MAX),
        (2, 1),
        (3, 7),
        (4, 1),
        (5, 1201),
        (6, 0),
        (255, 0),
    ];
    for (lane, len) in hostile {
        let (link, mut wire_out, mut wire_in) = link_and_wire();
        wire_in.write_all(&header(lane, len)).unwrap();
        let error = link.bulk.recv().unwrap_err();
        assert!(
            matches!(error, LinkError::Violation { .. }),
            "lane {lane}, {len} bytes: {error}"
        );
        let mut told = Vec::new();
        drop(link);
        wire_out.read_to_end(&mut told).unwrap();
        assert!(
            told.windows(7).any(|window| window == b"refused"),
            "lane {lane}, {len} bytes"
        );
    }
}

#[test]
fn a_goodbye_that_counts_frames_never_sent_is_a_violation() {
    for (frames_sent, frames_counted) in [(0, 1), (2, 1), (0, u64::MAX)] {
        let (link, _wire_out, mut wire_in) = link_and_wire();
        for _ in 0..frames_sent {
            wire_in.write_all(&header(1, 0)).unwrap();
        }
        wire_in.write_all(&header(3, 8)).unwrap();
        wire_in.write_all(&frames_counted.to_le_bytes()).unwrap();
        let error = link.control.recv().unwrap_err();
        assert!(
            matches!(error, LinkError::Violation { .. }),
            "{frames_sent}, {frames_counted}: {error}"
        );
    }
}

#[test]
fn a_pipe_that_is_cut_within_a_frame_is_lost_and_the_part_is_not_handed_out() {
    for cut in 1..15 {
        let (link, _wire_out, mut wire_in) = link_and_wire();
        let frame = [header(1, 10), vec![4; 10]].concat();
        wire_in.write_all(&frame[..cut]).unwrap();
        drop(wire_in);
        let received = link.bulk.recv();
        assert!(
            matches!(received, Err(LinkError::Lost { .. })),
            "cut after {cut}: {received:?}"
        );
    }
}

#[test]
fn after_a_goodbye_the_end_of_the_pipe_is_no_loss() {
    let (link, mut wire_out, mut wire_in) = link_and_wire();
    wire_in
        .write_all(&[header(0, 2), b"ok".to_vec(), header(3, 8), vec![0; 8]].concat())
        .unwrap();
    assert_eq!(link.control.recv().unwrap(), "ok");
    let mut receipt = header(2, 0);
    while receipt == header(2, 0) {
        wire_out.read_exact(&mut receipt).unwrap();
    }
    assert_eq!(receipt, header(4, 0));
    drop((wire_in, wire_out));
    let end = LinkError::Closed {
        reason: "finished".to_owned(),
    };
    assert_eq!(link.control.recv().unwrap_err(), end);
}

#[test]
fn a_write_that_fails_reports_the_reason_that_the_other_end_gave() {
    let (link, wire_out, mut wire_in) = link_and_wire();
    wire_in
        .write_all(&[header(5, 4), b"full".to_vec()].concat())
        .unwrap();
    drop((wire_in, wire_out));
    let error = loop {
        if let Err(error) = link.sender.control(Bytes::from_static(&[0; 1000])) {
            break error;
        }
    };
    assert_eq!(
        error,
        LinkError::Closed {
            reason: "full".to_owned()
        }
    );
}
