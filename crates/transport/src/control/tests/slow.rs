//! Those who begin and do not go on.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use quinn::{ReadError, VarInt};
use quinn_proto::DatagramEvent;
use tokio::time::timeout;

use super::{Lab, SOON, ask, eventually, node};
use crate::control::error::TOO_LATE;
use crate::control::limits::{HANDSHAKES_PER_ADDRESS, UNPROVED_HANDSHAKES};
use crate::control::{CallError, Connection, FIRST_FRAME_LIMIT, HANDSHAKE_LIMIT};
use crate::quic::{ALPN, tls};

/// How long a closed connection is still answered for (RFC 9000, section 10.2): three probe timeouts of a connection
/// whose round trip was never measured, about a second each.
const DRAINING: Duration = Duration::from_secs(4);

/// A client whose every packet is sent by hand.
pub(super) struct ByHand {
    endpoint: quinn_proto::Endpoint,
    config: quinn::ClientConfig,
    server: SocketAddr,
}

impl ByHand {
    pub(super) fn new(lab: &Lab) -> Self {
        let tls = tls::client(&lab.stranger.0, Arc::new(lab.key.public()), ALPN).unwrap();
        Self {
            endpoint: quinn_proto::Endpoint::new(Arc::default(), None, false, None),
            config: quinn::ClientConfig::new(Arc::new(tls)),
            server: lab.address(),
        }
    }

    pub(super) fn begin(&mut self) -> quinn_proto::Connection {
        let config = self.config.clone();
        let begun = self
            .endpoint
            .connect(Instant::now(), config, self.server, tls::SERVER_NAME);
        begun.unwrap().1
    }

    fn receive(&mut self, connection: &mut quinn_proto::Connection, packet: &[u8]) {
        let (data, mut answer) = (BytesMut::from(packet), Vec::new());
        let event =
            self.endpoint
                .handle(Instant::now(), self.server, None, None, data, &mut answer);
        if let Some(DatagramEvent::ConnectionEvent(_, event)) = event {
            connection.handle_event(event);
        }
    }
}

pub(super) fn packets(connection: &mut quinn_proto::Connection) -> Vec<Vec<u8>> {
    let next = || {
        let mut packet = Vec::new();
        connection
            .poll_transmit(Instant::now(), 1, &mut packet)
            .map(|_| packet)
    };
    std::iter::from_fn(next).collect()
}

fn send_all(socket: &UdpSocket, server: SocketAddr, packets: &[Vec<u8>]) {
    for packet in packets {
        socket.send_to(packet, server).unwrap();
    }
}

#[tokio::test]
async fn those_who_send_one_packet_are_dropped_and_hold_up_nobody() {
    let lab = Lab::new();
    let connected = lab.connect().await;
    let (mut by_hand, socket) = (ByHand::new(&lab), UdpSocket::bind("127.0.0.1:0").unwrap());
    for _ in 0..5 * UNPROVED_HANDSHAKES {
        send_all(&socket, lab.address(), &packets(&mut by_hand.begin()));
    }
    let all = UNPROVED_HANDSHAKES + 1;
    eventually("they have begun", || lab.server.open_connections() == all).await;
    // The next one has to prove its address, and needs no more than that.
    let (before, newcomer) = (Instant::now(), lab.connect().await);
    ask(&newcomer).await.unwrap();
    ask(&connected).await.unwrap();
    assert!(
        before.elapsed() < HANDSHAKE_LIMIT / 2,
        "{:?}",
        before.elapsed()
    );
    assert_eq!(lab.server.open_connections(), all + 1);
    let gone = eventually("they are gone", || lab.server.open_connections() == 2).await;
    assert!(gone < HANDSHAKE_LIMIT + DRAINING, "{gone:?}");
}

/// Proves the address of `socket`, begins the handshake, and stops in the middle of it.
async fn half_a_handshake(by_hand: &mut ByHand, socket: &UdpSocket) {
    let mut connection = by_hand.begin();
    send_all(socket, by_hand.server, &packets(&mut connection));
    let mut buffer = [0; 2048];
    for _ in 0..200 {
        tokio::time::sleep(Duration::from_millis(5)).await;
        let Ok(len) = socket.recv(&mut buffer) else {
            continue;
        };
        by_hand.receive(&mut connection, &buffer[..len]);
        let is_retry = buffer[0] & 0xb0 == 0xb0;
        if !is_retry {
            // The server's half has arrived; the rest of ours is never sent.
            return;
        }
        send_all(socket, by_hand.server, &packets(&mut connection));
    }
    panic!("no answer from the server");
}

#[tokio::test]
async fn those_who_stop_within_the_handshake_are_dropped_and_hold_up_nobody_elsewhere() {
    let lab = Lab::new();
    let (mut by_hand, socket) = (ByHand::new(&lab), UdpSocket::bind("127.0.0.1:0").unwrap());
    for _ in 0..UNPROVED_HANDSHAKES {
        send_all(&socket, lab.address(), &packets(&mut by_hand.begin()));
    }
    eventually("all have to prove themselves", || {
        lab.server.open_connections() == UNPROVED_HANDSHAKES
    })
    .await;
    let began = Instant::now();
    let mut sockets = Vec::new();
    for _ in 0..HANDSHAKES_PER_ADDRESS {
        let socket = UdpSocket::bind("127.0.0.2:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        half_a_handshake(&mut by_hand, &socket).await;
        sockets.push(socket);
    }
    let all = UNPROVED_HANDSHAKES + HANDSHAKES_PER_ADDRESS;
    eventually("they have begun", || lab.server.open_connections() >= all).await;
    // Somebody else at 127.0.0.2 would have to wait; here nobody has to.
    let before = Instant::now();
    ask(&lab.connect().await).await.unwrap();
    assert!(
        before.elapsed() < HANDSHAKE_LIMIT / 2,
        "{:?}",
        before.elapsed()
    );
    eventually("they are gone", || lab.server.open_connections() == 0).await;
    assert!(
        began.elapsed() < HANDSHAKE_LIMIT * 2 + DRAINING,
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test]
async fn calls_that_do_not_begin_are_dropped_and_hold_up_nobody() {
    let lab = Lab::new();
    let other = node();
    lab.list.set(&[&lab.friend, &other]);
    let served = lab.connect_as(&other).await.unwrap();
    let (_endpoint, connection) = lab.raw(&lab.friend).await;
    // QUIC opens the streams before one that is used, so the first one is open without a byte.
    let mut streams = Vec::new();
    for bytes in [
        &b""[..],
        b"\x09\x00",
        b"\x09\x00\x00\x00",
        b"\x09\x00\x00\x00half",
    ] {
        let (mut send, recv) = connection.open_bi().await.unwrap();
        send.write_all(bytes).await.unwrap();
        streams.push((send, recv));
    }
    let began = Instant::now();
    while began.elapsed() < FIRST_FRAME_LIMIT - Duration::from_secs(1) {
        assert!(ask(&served).await.unwrap() < Duration::from_secs(2));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(connection.close_reason(), None);
    for (_, recv) in &mut streams {
        let ended = timeout(SOON, recv.read_chunk(1, true)).await.unwrap();
        assert_eq!(
            ended.unwrap_err(),
            ReadError::Reset(VarInt::from_u32(TOO_LATE))
        );
    }
    let waited = began.elapsed();
    assert!(
        waited > FIRST_FRAME_LIMIT - Duration::from_millis(200),
        "{waited:?}"
    );
    assert!(
        waited < FIRST_FRAME_LIMIT + Duration::from_secs(5),
        "{waited:?}"
    );
    assert_eq!(connection.close_reason(), None, "the connection may go on");
}

#[tokio::test]
async fn a_server_that_falls_silent_within_the_handshake_is_unreachable() {
    // It reads the packets, and that is all.
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let limit = Duration::from_secs(1);
    let (key, peers) = (node(), [node().public()]);
    let addresses = [address];
    let connecting = Connection::connect(&addresses, &key, &peers, limit);
    let error = connecting.await.unwrap_err();
    assert!(matches!(error, CallError::Unreachable { .. }), "{error}");
    let mut buffer = [0; 2048];
    assert!(socket.recv(&mut buffer).unwrap() >= 1200);
}
