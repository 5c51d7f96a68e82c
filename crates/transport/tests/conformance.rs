//! What every link must do, whatever carries it.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use lockstep_transport::{Bulk, Link, LinkError, MAX_BULK_FRAME, MAX_CONTROL_FRAME};

use support::{Noise, every_pair, joined};

/// Long enough for a slow machine, short enough to end a hanging test.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn control_frames_arrive_in_order_and_whole() {
    for (name, near, far) in every_pair() {
        let sending = thread::spawn(move || {
            let mut noise = Noise::new(1);
            for index in 0..500_usize {
                let len = if index % 50 == 0 {
                    MAX_CONTROL_FRAME
                } else {
                    index % 7
                };
                near.sender.control(noise.bytes(len)).unwrap();
            }
            near
        });
        let mut noise = Noise::new(1);
        for index in 0..500_usize {
            let len = if index % 50 == 0 {
                MAX_CONTROL_FRAME
            } else {
                index % 7
            };
            assert_eq!(
                far.control.recv().unwrap(),
                noise.bytes(len),
                "{name}: frame {index}"
            );
        }
        sending.join().unwrap();
    }
}

#[test]
fn bulk_frames_of_every_size_arrive_whole_in_both_directions_at_once_from_several_threads() {
    const THREADS: u64 = 3;
    for (name, near, far) in every_pair() {
        thread::scope(|scope| {
            for (from, to) in [(&near, &far), (&far, &near)] {
                for thread in 0..THREADS {
                    scope.spawn(move || send_sizes(from, thread));
                }
                scope.spawn(move || receive_sizes(name, to, THREADS));
            }
        });
    }
}

const SIZES: [usize; 9] = [
    0,
    1,
    4095,
    4096,
    65_537,
    1 << 20,
    (1 << 20) + 1,
    MAX_BULK_FRAME,
    100_000,
];

fn send_sizes(link: &Link, seed: u64) {
    let mut noise = Noise::new(seed);
    for len in SIZES {
        let content = noise.bytes(len);
        let (head, body) = (content.slice(..len.min(10)), content.slice(len.min(10)..));
        link.sender.bulk(Bulk::new(head, body)).unwrap();
    }
}

fn receive_sizes(name: &str, link: &Link, threads: u64) {
    let mut expected = Vec::new();
    for seed in 0..threads {
        let mut noise = Noise::new(seed);
        expected.extend(SIZES.map(|len| noise.bytes(len)));
    }
    let mut received: Vec<Bytes> = expected
        .iter()
        .map(|_| joined(&link.bulk.recv().unwrap()))
        .collect();
    expected.sort();
    received.sort();
    assert!(
        expected == received,
        "{name}: a frame was changed, lost or repeated"
    );
}

#[test]
fn several_threads_share_the_received_bulk_frames() {
    const FRAMES: usize = 200;
    for (name, near, far) in every_pair() {
        let received = Arc::new(AtomicUsize::new(0));
        let receivers: Vec<_> = (0..3)
            .map(|_| {
                let (bulk, received) = (far.bulk.clone(), Arc::clone(&received));
                thread::spawn(move || {
                    while bulk.recv().is_ok() {
                        received.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        for _ in 0..FRAMES {
            near.sender
                .bulk(Bulk::new(Bytes::new(), Bytes::from_static(&[1; 10_000])))
                .unwrap();
        }
        near.sender.finish();
        receivers
            .into_iter()
            .for_each(|receiver| receiver.join().unwrap());
        assert_eq!(received.load(Ordering::Relaxed), FRAMES, "{name}");
    }
}

#[test]
fn a_receiver_that_stops_blocks_the_sender_within_a_bound_and_nothing_is_lost() {
    const FRAMES: usize = 60;
    let frame = Bulk::new(Bytes::new(), Bytes::from(vec![3; 1 << 20]));
    for (name, near, far) in every_pair() {
        let accepted = Arc::new(AtomicUsize::new(0));
        let sending = {
            let (frame, sender, accepted) =
                (frame.clone(), near.sender.clone(), Arc::clone(&accepted));
            thread::spawn(move || {
                for _ in 0..FRAMES {
                    sender.bulk(frame.clone()).unwrap();
                    accepted.fetch_add(1, Ordering::Relaxed);
                }
            })
        };
        let stuck_at = settled(&accepted);
        assert!(
            stuck_at < 50,
            "{name}: {stuck_at} MiB were taken and nobody received"
        );
        // The control lane has bounds of its own, unless it shares a pipe with the bulk lane.
        if name != "pipe" {
            near.sender
                .control(Bytes::from_static(b"overtakes"))
                .unwrap();
            assert_eq!(
                far.control.recv_timeout(PATIENCE).unwrap().as_deref(),
                Some(&b"overtakes"[..]),
                "{name}"
            );
        }
        for _ in 0..FRAMES {
            assert_eq!(
                far.bulk
                    .recv_timeout(PATIENCE)
                    .unwrap()
                    .map(|frame| frame.len()),
                Some(1 << 20),
                "{name}"
            );
        }
        sending.join().unwrap();
    }
}

/// The value of `count` once it has not moved for half a second.
fn settled(count: &AtomicUsize) -> usize {
    let (mut last, mut since) = (count.load(Ordering::Relaxed), Instant::now());
    while since.elapsed() < Duration::from_millis(500) {
        thread::sleep(Duration::from_millis(20));
        let now = count.load(Ordering::Relaxed);
        if now != last {
            (last, since) = (now, Instant::now());
        }
    }
    last
}

#[test]
fn closing_wakes_whoever_is_blocked_on_either_end_with_the_reason() {
    for (name, near, far) in every_pair() {
        let blocked_sender = {
            let sender = near.sender.clone();
            thread::spawn(move || {
                loop {
                    if let Err(error) =
                        sender.bulk(Bulk::new(Bytes::new(), Bytes::from(vec![0; 1 << 20])))
                    {
                        return error;
                    }
                }
            })
        };
        let blocked_receivers = [near.control.clone(), far.control.clone()]
            .map(|control| thread::spawn(move || control.recv().unwrap_err()));
        thread::sleep(Duration::from_millis(200));
        let before = Instant::now();
        near.sender.close("out of\tpatience");
        let reason = LinkError::Closed {
            reason: "out of\\tpatience".to_owned(),
        };
        assert_eq!(blocked_sender.join().unwrap(), reason, "{name}: sender");
        // A pipe full of frames has no room for the reason until somebody takes them.
        let draining = {
            let bulk = far.bulk.clone();
            thread::spawn(move || while bulk.recv().is_ok() {})
        };
        let [own, others] = blocked_receivers.map(|receiver| receiver.join().unwrap());
        assert_eq!(own, reason, "{name}: own receiver");
        assert_eq!(others, reason, "{name}: receiver at the other end");
        draining.join().unwrap();
        assert!(
            before.elapsed() < Duration::from_secs(5),
            "{name}: took {:?}",
            before.elapsed()
        );
        assert_eq!(near.bulk.recv().unwrap_err(), reason, "{name}: afterwards");
        assert_eq!(
            near.sender.control(Bytes::new()).unwrap_err(),
            reason,
            "{name}: afterwards"
        );
        drop(far);
    }
}

#[test]
fn an_end_that_is_dropped_is_noticed_by_the_other() {
    for (name, near, far) in every_pair() {
        near.sender.control(Bytes::from_static(b"hello")).unwrap();
        assert_eq!(far.control.recv().unwrap(), "hello");
        drop(near);
        let error = far.control.recv().unwrap_err();
        assert!(
            matches!(error, LinkError::Closed { .. } | LinkError::Lost { .. }),
            "{name}: {error}"
        );
        assert_eq!(far.bulk.recv().unwrap_err(), error, "{name}");
        assert!(far.sender.control(Bytes::new()).is_err(), "{name}");
    }
}

#[test]
fn a_part_that_is_still_held_keeps_the_link() {
    for (name, near, far) in every_pair() {
        let sender = near.sender.clone();
        drop(near);
        sender.control(Bytes::from_static(b"still here")).unwrap();
        assert_eq!(far.control.recv().unwrap(), "still here", "{name}");
    }
}

#[test]
fn finishing_delivers_everything_queued_before_the_end() {
    const FRAMES: usize = 30;
    for (name, near, far) in every_pair() {
        let finishing = thread::spawn(move || {
            for index in 0..FRAMES {
                near.sender
                    .bulk(Bulk::new(Bytes::new(), Bytes::from(vec![9; 300_000])))
                    .unwrap();
                near.sender.control(Bytes::from(vec![0; index])).unwrap();
            }
            near.sender.finish();
        });
        for index in 0..FRAMES {
            assert_eq!(far.control.recv().unwrap().len(), index, "{name}");
            thread::sleep(Duration::from_millis(2));
            assert_eq!(far.bulk.recv().unwrap().len(), 300_000, "{name}");
        }
        let end = LinkError::Closed {
            reason: "finished".to_owned(),
        };
        assert_eq!(far.control.recv().unwrap_err(), end, "{name}");
        assert_eq!(far.bulk.recv().unwrap_err(), end, "{name}");
        finishing.join().unwrap();
    }
}

#[test]
fn both_ends_may_finish_at_the_same_time() {
    for (name, near, far) in every_pair() {
        for link in [&near, &far] {
            link.sender.control(Bytes::from_static(b"bye")).unwrap();
        }
        assert_eq!(near.control.recv().unwrap(), "bye");
        assert_eq!(far.control.recv().unwrap(), "bye");
        let before = Instant::now();
        thread::scope(|scope| {
            scope.spawn(|| near.sender.finish());
            scope.spawn(|| far.sender.finish());
        });
        assert!(
            before.elapsed() < Duration::from_secs(5),
            "{name}: took {:?}",
            before.elapsed()
        );
    }
}

#[test]
fn a_frame_too_large_is_refused_and_the_link_goes_on() {
    for (name, near, far) in every_pair() {
        let control = near
            .sender
            .control(Bytes::from(vec![0; MAX_CONTROL_FRAME + 1]))
            .unwrap_err();
        assert!(
            matches!(control, LinkError::TooLarge { lane: "control", len, .. } if len == MAX_CONTROL_FRAME + 1)
        );
        let bulk = near.sender.bulk(Bulk::new(
            Bytes::new(),
            Bytes::from(vec![0; MAX_BULK_FRAME + 1]),
        ));
        assert!(matches!(
            bulk.unwrap_err(),
            LinkError::TooLarge { lane: "bulk", .. }
        ));
        near.sender.control(Bytes::from_static(b"fits")).unwrap();
        assert_eq!(far.control.recv().unwrap(), "fits", "{name}");
    }
}

#[test]
fn waiting_with_a_limit_ends_at_the_limit() {
    for (name, near, far) in every_pair() {
        let before = Instant::now();
        assert!(
            far.control
                .recv_timeout(Duration::from_millis(50))
                .unwrap()
                .is_none(),
            "{name}"
        );
        assert!(
            far.bulk
                .recv_timeout(Duration::from_millis(50))
                .unwrap()
                .is_none(),
            "{name}"
        );
        assert!(before.elapsed() >= Duration::from_millis(100), "{name}");
        near.sender.control(Bytes::from_static(b"late")).unwrap();
        assert!(
            far.control.recv_timeout(PATIENCE).unwrap().is_some(),
            "{name}"
        );
    }
}

#[test]
fn the_meters_agree_and_are_final_once_the_link_has_ended() {
    const PAYLOAD: u64 = 20 << 20;
    for (name, near, far) in every_pair() {
        let (near_meter, far_meter) = (near.meter.clone(), far.meter.clone());
        let receiving = thread::spawn(move || while far.bulk.recv().is_ok() {});
        let body = Bytes::from(vec![5; 1 << 20]);
        for _ in 0..20 {
            near.sender
                .bulk(Bulk::new(Bytes::new(), body.clone()))
                .unwrap();
        }
        near.sender.finish();
        receiving.join().unwrap();
        drop(near);
        thread::sleep(Duration::from_millis(700));
        let sent = near_meter.bytes_sent();
        let received = far_meter.bytes_received();
        assert!(
            sent >= PAYLOAD && received >= PAYLOAD,
            "{name}: {sent} sent, {received} received"
        );
        assert!(sent < PAYLOAD * 11 / 10, "{name}: {sent} sent");
        assert!(received <= sent, "{name}: {received} of {sent}");
        assert!(
            near_meter.bytes_received() < PAYLOAD / 20,
            "{name}: {} back",
            near_meter.bytes_received()
        );
        thread::sleep(Duration::from_millis(100));
        assert_eq!(
            (near_meter.bytes_sent(), far_meter.bytes_received()),
            (sent, received),
            "{name}: still moving"
        );
    }
}
