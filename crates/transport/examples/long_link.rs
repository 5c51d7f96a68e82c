//! Bulk throughput of a QUIC link over a long way that loses packets: a proxy between two ends in this process delays,
//! drops and queues them.
//!
//! `cargo run --release -p lockstep-transport --example long_link [MBIT [RTT_MS [LOST_PERCENT [MIB [known]]]]]` prints a line
//! without and one with the link's rate known, for one and for four data connections: Mbit/s, and the share of what the
//! link carries. With `known` only the latter.
//! Without arguments: 200 Mbit/s, 100 ms, 1 %, 256 MiB.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use lockstep_transport::quic::{self, MtuChoice, OneTimeKey, QuicOptions};
use lockstep_transport::{Bulk, Link};

type Failure = Box<dyn std::error::Error>;

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// As over an Ethernet.
const PAYLOAD: u16 = 1452;
/// What a router holds back at most, as time at the link's rate.
const QUEUE: Duration = Duration::from_millis(50);
/// Headers below a UDP payload.
const HEADERS: usize = 28;

#[derive(Clone, Copy)]
struct Way {
    bytes_per_second: f64,
    one_way: Duration,
    /// In a million.
    lost: u64,
}

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, default: f64| match arguments.get(at) {
        Some(text) => text.parse::<f64>(),
        None => Ok(default),
    };
    let megabits = number(0, 200.0)?;
    let way = Way {
        bytes_per_second: megabits * 1e6 / 8.0,
        one_way: Duration::from_secs_f64(number(1, 100.0)? / 2000.0),
        lost: (number(2, 1.0)? * 1e4) as u64,
    };
    let frames = number(3, 256.0)? as u64;
    println!("{:<40} {:>8} {:>8}", "link", "Mbit/s", "of it");
    for connections in [1, 4] {
        for rate in [None, Some(way.bytes_per_second as u64)] {
            if rate.is_none() && arguments.len() > 4 {
                continue;
            }
            let options = QuicOptions {
                connections,
                mtu: MtuChoice::Fixed(PAYLOAD),
                rate,
                ..QuicOptions::default()
            };
            // Without the rate it may take minutes.
            let frames = if rate.is_some() {
                frames
            } else {
                frames.div_ceil(16)
            };
            let seconds = carried(&options, way, frames)?;
            let rate = if rate.is_some() { "known" } else { "unknown" };
            let reached = (frames << 20) as f64 * 8.0 / seconds / 1e6;
            println!(
                "{:<40} {reached:>8.1} {:>7.0}%",
                format!("{connections} data, rate {rate}"),
                reached / megabits * 100.0
            );
        }
    }
    Ok(())
}

/// Seconds that so many frames of 1 MiB took.
fn carried(options: &QuicOptions, way: Way, frames: u64) -> Result<f64, Failure> {
    let is_over = Arc::new(AtomicBool::new(false));
    let (near, far) = linked(options, way, &is_over)?;
    let begun = Instant::now();
    let sending = thread::spawn(move || {
        let body = Bytes::from(vec![0x5a; 1 << 20]);
        for _ in 0..frames {
            if near
                .sender
                .bulk(Bulk::new(Bytes::new(), body.clone()))
                .is_err()
            {
                return;
            }
        }
        // Until the other end has everything.
        let _ = near.control.recv();
    });
    for _ in 0..frames {
        far.bulk.recv()?;
    }
    let seconds = begun.elapsed().as_secs_f64();
    far.sender.close("that is all");
    sending.join().map_err(|_| "the sender panicked")?;
    is_over.store(true, Ordering::Relaxed);
    Ok(seconds)
}

fn linked(
    options: &QuicOptions,
    way: Way,
    is_over: &Arc<AtomicBool>,
) -> Result<(Link, Link), Failure> {
    let (near_key, far_key) = (OneTimeKey::generate()?, OneTimeKey::generate()?);
    let (near_public, far_public, token) = (near_key.public_key(), far_key.public_key(), [1; 32]);
    let listening = quic::listen(HERE, far_key, near_public, token, options.clone())?;
    let shared = Arc::new(Mutex::new(Instant::now()));
    let ports = (listening.ports().into_iter())
        .map(|port| proxy(port, way, &shared, is_over))
        .collect::<Result<Vec<u16>, _>>()?;
    let patience = Duration::from_secs(20);
    let accepting = thread::spawn(move || listening.accept(Instant::now() + patience));
    let address = [SocketAddr::new(HERE, 0)];
    let near = quic::dial(
        &address,
        &ports,
        near_key,
        far_public,
        token,
        options.clone(),
        patience,
    )?;
    let far = accepting.join().map_err(|_| "the listener panicked")??;
    Ok((near, far))
}

/// Carries packets between whoever sends to the returned port, and `port`. All ways there share one link; the ways back
/// carry little, and are only long.
fn proxy(
    port: u16,
    way: Way,
    link_is_free_at: &Arc<Mutex<Instant>>,
    is_over: &Arc<AtomicBool>,
) -> Result<u16, Failure> {
    let front = UdpSocket::bind((HERE, 0))?;
    let back = UdpSocket::bind((HERE, 0))?;
    for socket in [&front, &back] {
        // Bursts wait in the link's queue, not here.
        socket2::SockRef::from(socket).set_recv_buffer_size(4 << 20)?;
    }
    let front_port = front.local_addr()?.port();
    let client: Arc<Mutex<Option<SocketAddr>>> = Arc::default();
    for is_there in [true, false] {
        let (from, to) = if is_there {
            (&front, &back)
        } else {
            (&back, &front)
        };
        let direction = Direction {
            from: from.try_clone()?,
            to: to.try_clone()?,
            way,
            link_is_free_at: is_there.then(|| Arc::clone(link_is_free_at)),
            server: SocketAddr::new(HERE, port),
            client: Arc::clone(&client),
            noise: u64::from(port) << 1 | u64::from(is_there),
        };
        let is_over = Arc::clone(is_over);
        thread::spawn(move || direction.run(&is_over));
    }
    Ok(front_port)
}

struct Direction {
    from: UdpSocket,
    to: UdpSocket,
    way: Way,
    /// Only there.
    link_is_free_at: Option<Arc<Mutex<Instant>>>,
    server: SocketAddr,
    client: Arc<Mutex<Option<SocketAddr>>>,
    noise: u64,
}

impl Direction {
    fn run(mut self, is_over: &AtomicBool) {
        let mut under_way: VecDeque<(Instant, Vec<u8>)> = VecDeque::new();
        let mut packet = vec![0; 65_536];
        while !is_over.load(Ordering::Relaxed) {
            self.deliver(&mut under_way);
            let patience = match under_way.front() {
                Some((at, _)) => at.saturating_duration_since(Instant::now()),
                None => Duration::from_millis(20),
            };
            let patience = patience.clamp(Duration::from_micros(50), Duration::from_millis(20));
            if self.from.set_read_timeout(Some(patience)).is_err() {
                return;
            }
            let Ok((length, sender)) = self.from.recv_from(&mut packet) else {
                continue;
            };
            if self.link_is_free_at.is_some() {
                *self.client.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
            }
            if let Some(left_at) = self.leaves_at(length) {
                under_way.push_back((left_at + self.way.one_way, packet[..length].to_vec()));
            }
        }
    }

    fn deliver(&self, under_way: &mut VecDeque<(Instant, Vec<u8>)>) {
        let now = Instant::now();
        while under_way.front().is_some_and(|(at, _)| *at <= now) {
            let target = match self.link_is_free_at {
                Some(_) => Some(self.server),
                None => *self.client.lock().unwrap_or_else(PoisonError::into_inner),
            };
            if let (Some((_, packet)), Some(target)) = (under_way.pop_front(), target) {
                // What cannot be sent is lost, as on any network.
                let _ = self.to.send_to(&packet, target);
            }
        }
    }

    /// When a packet has left the link's queue, unless it is lost, or the queue is full.
    fn leaves_at(&mut self, length: usize) -> Option<Instant> {
        self.noise ^= self.noise << 13;
        self.noise ^= self.noise >> 7;
        self.noise ^= self.noise << 17;
        if self.noise % 1_000_000 < self.way.lost {
            return None;
        }
        let now = Instant::now();
        let Some(free_at) = &self.link_is_free_at else {
            return Some(now);
        };
        let mut free_at = free_at.lock().unwrap_or_else(PoisonError::into_inner);
        let begins = (*free_at).max(now);
        if begins - now > QUEUE {
            return None;
        }
        let takes = (length + HEADERS) as f64 / self.way.bytes_per_second;
        *free_at = begins + Duration::from_secs_f64(takes);
        Some(*free_at)
    }
}
