//! Ten thousand strangers.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn::{Endpoint, TokioRuntime};
use tokio::task::JoinSet;

use super::slow::{ByHand, packets};
use super::{Lab, SOON, ask};
use crate::control::limits::{HANDSHAKES, UNPROVED_HANDSHAKES};
use crate::quic::options::endpoint_config;
use crate::quic::{ALPN, tls};

const STRANGERS: usize = 10_000;
/// What may come on top, in KiB: handshakes, packets that nobody has looked at, our own calls, and noise.
const MEMORY_KIB: u64 = 48 * 1024;

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// How a trusted key fares, call after call, until `over`.
async fn calls_until(lab: &Lab, mut over: impl FnMut() -> bool) -> (usize, Duration, Duration) {
    let connection = lab.connect().await;
    let (mut calls, mut slowest, mut slowest_connect) = (0, Duration::ZERO, Duration::ZERO);
    while !over() || calls < 20 {
        slowest = slowest.max(ask(&connection).await.unwrap());
        if calls % 20 == 0 {
            let before = Instant::now();
            ask(&lab.connect().await).await.unwrap();
            slowest_connect = slowest_connect.max(before.elapsed());
        }
        calls += 1;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    (calls, slowest, slowest_connect)
}

#[tokio::test]
async fn ten_thousand_first_packets_cost_little_memory_and_stop_no_call() {
    let lab = Lab::new();
    let mut by_hand = ByHand::new(&lab);
    let first = |_| packets(&mut by_hand.begin()).swap_remove(0);
    let initials: Vec<Vec<u8>> = (0..STRANGERS).map(first).collect();
    ask(&lab.connect().await).await.unwrap();
    let (before_kib, address) = (resident_kib(), lab.address());
    let began = Instant::now();
    let flood = std::thread::spawn(move || send_from_many(&initials, address));
    let mut most_kib = 0;
    let (calls, slowest, slowest_connect) = calls_until(&lab, || {
        most_kib = most_kib.max(resident_kib());
        flood.is_finished()
    })
    .await;
    let sent_in = flood.join().unwrap();
    let more_kib = most_kib.saturating_sub(before_kib);
    println!(
        "{STRANGERS} first packets in {sent_in:?}: {calls} calls in {:?}, the slowest {slowest:?}, \
         connecting at most {slowest_connect:?}; {before_kib} KiB before, {more_kib} KiB more at most",
        began.elapsed(),
    );
    assert!(more_kib < MEMORY_KIB, "{more_kib} KiB more");
    assert!(slowest < SOON && slowest_connect < SOON);
    let ours = 32;
    assert!(lab.server.open_connections() <= UNPROVED_HANDSHAKES + HANDSHAKES + ours);
}

/// Sends from a few sockets, as fast as a gigabit link would.
fn send_from_many(initials: &[Vec<u8>], server: SocketAddr) -> Duration {
    let began = Instant::now();
    let bind = |_| UdpSocket::bind("127.0.0.2:0").unwrap();
    let sockets: Vec<UdpSocket> = (0..16).map(bind).collect();
    for (at, initial) in initials.iter().enumerate() {
        sockets[at % sockets.len()]
            .send_to(initial, server)
            .unwrap();
        if at % 100 == 99 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    began.elapsed()
}

/// Strangers that answer everything; what became of them.
async fn complete_handshakes(lab: &Lab, strangers: usize) -> usize {
    let tls = tls::client(&lab.stranger.0, Arc::new(lab.key.public()), ALPN).unwrap();
    let config = quinn::ClientConfig::new(Arc::new(tls));
    let socket = UdpSocket::bind("127.0.0.2:0").unwrap();
    let endpoint = Endpoint::new(endpoint_config(), None, socket, Arc::new(TokioRuntime)).unwrap();
    let (mut attempts, mut turned_away) = (JoinSet::new(), 0);
    for _ in 0..strangers {
        let connecting = endpoint
            .connect_with(config.clone(), lab.address(), tls::SERVER_NAME)
            .unwrap();
        attempts.spawn(async move {
            match connecting.await {
                Ok(connection) => connection.closed().await,
                Err(error) => error,
            }
        });
        if attempts.len() >= 100 {
            turned_away += usize::from(attempts.join_next().await.unwrap().is_ok());
        }
    }
    while let Some(done) = attempts.join_next().await {
        turned_away += usize::from(done.is_ok());
    }
    turned_away
}

#[tokio::test]
async fn strangers_that_go_through_with_it_are_turned_away_while_calls_succeed() {
    let lab = Lab::new();
    let strangers = 2_000;
    let began = Instant::now();
    let over = std::sync::atomic::AtomicBool::new(false);
    let flood = async {
        let turned_away = complete_handshakes(&lab, strangers).await;
        over.store(true, std::sync::atomic::Ordering::Relaxed);
        turned_away
    };
    let calls = calls_until(&lab, || over.load(std::sync::atomic::Ordering::Relaxed));
    let (turned_away, (calls, slowest, slowest_connect)) = tokio::join!(flood, calls);
    println!(
        "{strangers} whole handshakes in {:?}: {calls} calls, the slowest {slowest:?}, connecting at most {slowest_connect:?}",
        began.elapsed(),
    );
    assert_eq!(turned_away, strangers);
    assert!(slowest < SOON && slowest_connect < SOON);
    assert_eq!(lab.server.calls_waiting(), 0);
}
