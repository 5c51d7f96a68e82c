//! QUIC links over a network that loses, reorders and stops, made by a seeded proxy between the two ends.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use lockstep_transport::quic::QuicOptions;
use lockstep_transport::{Bulk, Link, LinkError};

use support::{LOCALHOST, Noise, joined, options, quic_pair_through};

/// What a network does to packets, in packets of a thousand.
#[derive(Clone, Copy)]
struct Weather {
    lost: u64,
    held_back: u64,
}

const FAIR: Weather = Weather {
    lost: 0,
    held_back: 0,
};
const FOUL: Weather = Weather {
    lost: 20,
    held_back: 50,
};
/// Packets that overtake one that is held back.
const OVERTAKERS: usize = 5;

/// A network between the ends; dropping it stops its threads.
struct Network {
    is_cut: AtomicBool,
    is_over: AtomicBool,
    lost: AtomicU64,
}

impl Drop for Unplug {
    fn drop(&mut self) {
        self.0.is_over.store(true, Ordering::Relaxed);
    }
}

struct Unplug(Arc<Network>);

fn pair_over(weather: Weather, options: &QuicOptions) -> (Link, Link, Unplug) {
    let network = Arc::new(Network {
        is_cut: AtomicBool::new(false),
        is_over: AtomicBool::new(false),
        lost: AtomicU64::new(0),
    });
    let (near, far) = quic_pair_through(options, |ports| {
        (0..)
            .zip(ports)
            .map(|(seed, port)| proxy(&network, weather, seed, port))
            .collect()
    });
    (near, far, Unplug(network))
}

/// Carries packets between whoever sends to the returned port, and `port`.
fn proxy(network: &Arc<Network>, weather: Weather, seed: u64, port: u16) -> u16 {
    let front = UdpSocket::bind((LOCALHOST, 0)).unwrap();
    let back = UdpSocket::bind((LOCALHOST, 0)).unwrap();
    let front_port = front.local_addr().unwrap().port();
    let client: Arc<Mutex<Option<SocketAddr>>> = Arc::default();
    let server = SocketAddr::new(LOCALHOST, port);
    for (index, from, to) in [(0, &front, &back), (1, &back, &front)] {
        let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
        from.set_read_timeout(Some(Duration::from_millis(20)))
            .unwrap();
        let (network, client) = (Arc::clone(network), Arc::clone(&client));
        let mut noise = Noise::new(seed * 2 + index + 1);
        thread::spawn(move || {
            let mut held: Vec<(usize, Vec<u8>)> = Vec::new();
            let mut packet = vec![0; 65_536];
            while !network.is_over.load(Ordering::Relaxed) {
                let Ok((len, sender)) = from.recv_from(&mut packet) else {
                    continue;
                };
                if index == 0 {
                    *client.lock().unwrap() = Some(sender);
                }
                let fate = noise.below(1000);
                if network.is_cut.load(Ordering::Relaxed) || fate < weather.lost {
                    network.lost.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
                let target = if index == 0 {
                    Some(server)
                } else {
                    *client.lock().unwrap()
                };
                let Some(target) = target else { continue };
                if fate < weather.lost + weather.held_back {
                    held.push((OVERTAKERS, packet[..len].to_vec()));
                    continue;
                }
                let _ = to.send_to(&packet[..len], target);
                held.iter_mut().for_each(|(left, _)| *left -= 1);
                held.retain(|(left, late)| {
                    let stays = *left > 0;
                    if !stays {
                        let _ = to.send_to(late, target);
                    }
                    stays
                });
            }
        });
    }
    front_port
}

#[test]
fn loss_and_reordering_change_nothing_but_the_time() {
    const FRAMES: usize = 24;
    for connections in [1, 2] {
        let (near, far, network) = pair_over(FOUL, &options(connections));
        thread::scope(|scope| {
            for (from, to) in [(&near, &far), (&far, &near)] {
                scope.spawn(move || {
                    let mut noise = Noise::new(5);
                    for index in 0..FRAMES {
                        from.sender.control(noise.bytes(index * 100)).unwrap();
                        from.sender
                            .bulk(Bulk::new(Bytes::new(), noise.bytes(index * 40_000)))
                            .unwrap();
                    }
                });
                scope.spawn(move || {
                    let mut noise = Noise::new(5);
                    let (mut sent, mut received) = (Vec::new(), Vec::new());
                    for index in 0..FRAMES {
                        assert_eq!(to.control.recv().unwrap(), noise.bytes(index * 100));
                        sent.push(noise.bytes(index * 40_000));
                        received.push(joined(&to.bulk.recv().unwrap()));
                    }
                    sent.sort();
                    received.sort();
                    assert!(sent == received, "a bulk frame was changed");
                });
            }
        });
        assert!(
            network.0.lost.load(Ordering::Relaxed) > 10,
            "the network lost nothing"
        );
    }
}

/// A third of the usual times.
fn hasty() -> QuicOptions {
    QuicOptions {
        idle_timeout: Duration::from_secs(9),
        keep_alive: Duration::from_millis(1500),
        ..options(2)
    }
}

#[test]
fn a_cut_of_a_third_of_the_idle_timeout_is_survived() {
    let (near, far, network) = pair_over(FAIR, &hasty());
    near.sender
        .bulk(Bulk::new(Bytes::from_static(b"before"), Bytes::new()))
        .unwrap();
    assert_eq!(joined(&far.bulk.recv().unwrap()), "before");
    network.0.is_cut.store(true, Ordering::Relaxed);
    for _ in 0..4 {
        near.sender
            .bulk(Bulk::new(Bytes::new(), Bytes::from(vec![1; 1 << 20])))
            .unwrap();
    }
    far.sender.control(Bytes::from_static(b"during")).unwrap();
    thread::sleep(Duration::from_secs(3));
    assert!(network.0.lost.load(Ordering::Relaxed) > 0);
    network.0.is_cut.store(false, Ordering::Relaxed);
    assert_eq!(near.control.recv().unwrap(), "during");
    for _ in 0..4 {
        assert_eq!(far.bulk.recv().unwrap().len(), 1 << 20);
    }
}

#[test]
fn a_cut_for_good_is_noticed_by_both_ends_after_the_idle_timeout_and_not_before() {
    let options = QuicOptions {
        idle_timeout: Duration::from_millis(1500),
        keep_alive: Duration::from_millis(200),
        ..options(2)
    };
    let (near, far, network) = pair_over(FAIR, &options);
    thread::sleep(Duration::from_secs(2));
    far.sender
        .control(Bytes::from_static(b"idle, but alive"))
        .unwrap();
    assert_eq!(near.control.recv().unwrap(), "idle, but alive");
    network.0.is_cut.store(true, Ordering::Relaxed);
    let cut = Instant::now();
    let blocked = {
        let sender = near.sender.clone();
        thread::spawn(move || {
            loop {
                if let Err(error) =
                    sender.bulk(Bulk::new(Bytes::new(), Bytes::from(vec![1; 1 << 20])))
                {
                    return error;
                }
            }
        })
    };
    let errors = [
        far.control.recv().unwrap_err(),
        near.bulk.recv().unwrap_err(),
        blocked.join().unwrap(),
    ];
    for error in errors {
        assert!(
            matches!(&error, LinkError::Lost { what } if what.contains("nothing heard")),
            "{error}"
        );
    }
    assert!(
        cut.elapsed() > Duration::from_secs(1),
        "gave up after {:?}",
        cut.elapsed()
    );
    assert!(
        cut.elapsed() < Duration::from_secs(8),
        "took {:?}",
        cut.elapsed()
    );
}

#[test]
fn finishing_into_a_cut_ends_with_the_link() {
    let options = QuicOptions {
        idle_timeout: Duration::from_millis(800),
        keep_alive: Duration::from_millis(200),
        ..options(1)
    };
    let (near, _far, network) = pair_over(FAIR, &options);
    network.0.is_cut.store(true, Ordering::Relaxed);
    near.sender
        .control(Bytes::from_static(b"nobody hears this"))
        .unwrap();
    let before = Instant::now();
    near.sender.finish();
    assert!(
        before.elapsed() < Duration::from_secs(6),
        "took {:?}",
        before.elapsed()
    );
    assert!(matches!(
        near.control.recv().unwrap_err(),
        LinkError::Lost { .. }
    ));
}
