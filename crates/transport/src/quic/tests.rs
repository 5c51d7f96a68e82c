//! Who gets in, and what happens to those who misbehave once they are in.

use super::carrier::Load;
use super::dial::{Call, dial_counted};
use super::options::{Opener, QuicOptions, endpoint_config};
use super::route::path_mtu;
use super::{ALPN, AcceptError, DialError, Listening, MtuChoice, OneTimeKey, listen, tls};
use crate::link::Link;
use crate::{LinkError, MAX_BULK_FRAME};
use quinn::{Connection, Endpoint, TokioRuntime, VarInt};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const TOKEN: [u8; 32] = [3; 32];
const SHORT: Duration = Duration::from_millis(700);

struct Keys {
    near: OneTimeKey,
    far: OneTimeKey,
}

impl Keys {
    fn new() -> Self {
        Self {
            near: OneTimeKey::generate().unwrap(),
            far: OneTimeKey::generate().unwrap(),
        }
    }

    fn listen(&self) -> Listening {
        listen(
            LOCALHOST,
            self.far.clone(),
            self.near.public_key(),
            TOKEN,
            QuicOptions::default(),
        )
        .unwrap()
    }

    fn call(&self) -> Call<'_> {
        Call {
            key: &self.near,
            peer: self.far.public_key(),
            token: TOKEN,
            alpn: ALPN,
        }
    }
}

fn dial(ports: &[u16], call: Call<'_>, timeout: Duration) -> Result<Link, DialError> {
    let addresses = [SocketAddr::new(LOCALHOST, 0)];
    dial_counted(
        &addresses,
        ports,
        call,
        &QuicOptions::default(),
        timeout,
        Arc::default(),
    )
}

/// Dials with `call` and expects both ends to refuse.
fn refusals(keys: &Keys, call: Call<'_>) -> (String, String) {
    let listening = keys.listen();
    let Err(dialed) = dial(&listening.ports(), call, Duration::from_secs(5)) else {
        panic!("got in")
    };
    let Err(accepted) = listening.accept(Instant::now() + SHORT) else {
        panic!("let in")
    };
    assert!(matches!(dialed, DialError::Refused { .. }), "{dialed}");
    assert!(
        matches!(accepted, AcceptError::TimedOut { refusal: Some(_) }),
        "{accepted}"
    );
    (dialed.to_string(), accepted.to_string())
}

#[test]
fn a_dialer_with_another_key_is_refused() {
    let (keys, stranger) = (Keys::new(), OneTimeKey::generate().unwrap());
    refusals(
        &keys,
        Call {
            key: &stranger,
            ..keys.call()
        },
    );
}

#[test]
fn a_listener_with_another_key_is_refused() {
    let (keys, other) = (Keys::new(), OneTimeKey::generate().unwrap());
    refusals(
        &keys,
        Call {
            peer: other.public_key(),
            ..keys.call()
        },
    );
}

#[test]
fn a_dialer_with_another_token_is_refused_and_told_so() {
    let keys = Keys::new();
    let mut token = TOKEN;
    token[31] ^= 1;
    let (dialed, accepted) = refusals(
        &keys,
        Call {
            token,
            ..keys.call()
        },
    );
    assert!(dialed.contains("wrong token"), "{dialed}");
    assert!(accepted.contains("wrong token"), "{accepted}");
}

#[test]
fn a_dialer_that_speaks_another_protocol_is_refused() {
    let keys = Keys::new();
    refusals(
        &keys,
        Call {
            alpn: b"lockstep/2",
            ..keys.call()
        },
    );
}

#[test]
fn a_key_that_was_only_seen_cannot_be_used() {
    // The near end's public key with somebody else's private one: the signature has to fail.
    let keys = Keys::new();
    let another = OneTimeKey::generate().unwrap();
    let thief = OneTimeKey(another.identity().claiming(keys.near.public_key()));
    refusals(
        &keys,
        Call {
            key: &thief,
            ..keys.call()
        },
    );
}

#[test]
fn a_refused_dialer_does_not_keep_the_right_one_out() {
    let (keys, stranger) = (Keys::new(), OneTimeKey::generate().unwrap());
    let listening = keys.listen();
    let ports = listening.ports();
    assert!(
        dial(
            &ports,
            Call {
                key: &stranger,
                ..keys.call()
            },
            SHORT
        )
        .is_err()
    );
    assert!(
        dial(
            &ports,
            Call {
                token: [0; 32],
                ..keys.call()
            },
            SHORT
        )
        .is_err()
    );
    let near = dial(&ports, keys.call(), Duration::from_secs(5)).unwrap();
    let far = listening
        .accept(Instant::now() + Duration::from_secs(5))
        .unwrap();
    near.sender.control("in".into()).unwrap();
    assert_eq!(far.control.recv().unwrap(), "in");
    assert!(
        dial(&ports, keys.call(), SHORT).is_err(),
        "a second link with the same token"
    );
}

#[test]
fn nobody_at_the_other_end_is_a_timeout_that_names_the_addresses() {
    let silent = UdpSocket::bind((LOCALHOST, 0)).unwrap();
    let port = silent.local_addr().unwrap().port();
    let before = Instant::now();
    let Err(error) = dial(&[port], Keys::new().call(), SHORT) else {
        panic!("nobody answered")
    };
    assert!(matches!(error, DialError::TimedOut { .. }), "{error}");
    assert!(
        error.to_string().contains(&format!("127.0.0.1:{port}")),
        "{error}"
    );
    assert!(before.elapsed() < SHORT * 3);
}

#[test]
fn a_listener_that_is_dropped_stops_listening() {
    let listening = Keys::new().listen();
    let port = listening.ports()[0];
    drop(listening);
    let free = Instant::now() + Duration::from_secs(5);
    while UdpSocket::bind(("::", port)).is_err() {
        assert!(Instant::now() < free, "the port is still taken");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn the_number_of_ports_has_to_fit() {
    let keys = Keys::new();
    for ports in [&[][..], &[1, 2][..]] {
        assert!(matches!(
            dial(ports, keys.call(), SHORT),
            Err(DialError::Ports { needed: 1, .. })
        ));
    }
    assert!(matches!(
        dial_counted(
            &[],
            &[1],
            keys.call(),
            &QuicOptions::default(),
            SHORT,
            Arc::default()
        ),
        Err(DialError::NoAddress)
    ));
}

/// A dialer with the right keys that then does as it likes, and the link's end that it does it to.
async fn rogue<F: Future<Output = ()>>(act: impl FnOnce(Connection) -> F) -> LinkError {
    let keys = Keys::new();
    let listening = keys.listen();
    let address = SocketAddr::new(LOCALHOST, listening.ports()[0]);
    let socket = UdpSocket::bind((LOCALHOST, 0)).unwrap();
    let endpoint = Endpoint::new(endpoint_config(), None, socket, Arc::new(TokioRuntime)).unwrap();
    let tls = tls::client(keys.near.identity(), Arc::new(keys.far.public_key()), ALPN).unwrap();
    let mut config = quinn::ClientConfig::new(Arc::new(tls));
    let mtu = path_mtu(address, MtuChoice::FromInterface);
    config.transport_config(QuicOptions::default().transport(mtu, Opener::Us));
    let connection = endpoint
        .connect_with(config, address, tls::SERVER_NAME)
        .unwrap()
        .await
        .unwrap();
    let accepting = std::thread::spawn(move || {
        let link = match listening.accept(Instant::now() + Duration::from_secs(2)) {
            Ok(link) => link,
            Err(error) => return LinkError::lost(error.to_string()),
        };
        link.control.recv().unwrap_err()
    });
    act(connection.clone()).await;
    let error = tokio::task::spawn_blocking(move || accepting.join().unwrap())
        .await
        .unwrap();
    connection.close(VarInt::from_u32(0), b"");
    error
}

async fn admitted(connection: &Connection) -> quinn::SendStream {
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    send.write_all(&TOKEN).await.unwrap();
    let mut answer = [0];
    recv.read_exact(&mut answer).await.unwrap();
    // Dropping it would stop the stream, which is another offence.
    std::mem::forget(recv);
    send
}

fn run<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}

fn assert_violation(error: &LinkError, what: &str) {
    assert!(
        matches!(error, LinkError::Violation { what: found } if found.contains(what)),
        "{error}"
    );
}

#[test]
fn a_bulk_frame_beyond_the_limit_breaks_the_link() {
    let error = run(rogue(|connection| async move {
        let _control = admitted(&connection).await;
        let mut stream = connection.open_uni().await.unwrap();
        let _ = stream.write_all(&vec![0; MAX_BULK_FRAME + 1]).await;
        connection.closed().await;
    }));
    assert_violation(&error, "bulk frame of more than");
}

#[test]
fn a_control_frame_beyond_the_limit_breaks_the_link() {
    let error = run(rogue(|connection| async move {
        let mut control = admitted(&connection).await;
        control.write_all(&65_537_u32.to_le_bytes()).await.unwrap();
        connection.closed().await;
    }));
    assert_violation(&error, "control frame of 65537 bytes");
}

#[test]
fn a_second_goodbye_breaks_the_link() {
    let error = run(rogue(|connection| async move {
        let mut control = admitted(&connection).await;
        let goodbye = [&u32::MAX.to_le_bytes()[..], &9_u64.to_le_bytes()].concat();
        control
            .write_all(&[goodbye.clone(), goodbye].concat())
            .await
            .unwrap();
        connection.closed().await;
    }));
    assert_violation(&error, "second goodbye");
}

#[test]
fn a_bulk_stream_that_is_reset_breaks_the_link() {
    let error = run(rogue(|connection| async move {
        let _control = admitted(&connection).await;
        let mut stream = connection.open_uni().await.unwrap();
        stream.write_all(b"half a fra").await.unwrap();
        stream.reset(VarInt::from_u32(0)).unwrap();
        connection.closed().await;
    }));
    assert_violation(&error, "was reset");
}

#[test]
fn before_the_token_nothing_else_can_be_opened() {
    let error = run(rogue(|connection| async move {
        let opened = tokio::time::timeout(Duration::from_millis(300), connection.open_uni()).await;
        assert!(opened.is_err(), "a bulk stream before the token");
        let _token = connection.open_bi().await.unwrap();
        let opened = tokio::time::timeout(Duration::from_millis(300), connection.open_bi()).await;
        assert!(opened.is_err(), "a second stream before the token");
    }));
    assert!(
        error
            .to_string()
            .contains("nobody with the right key and token"),
        "{error}"
    );
}

#[test]
fn bulk_frames_never_use_up_the_window_that_control_needs() {
    for connections in [1, 2, 16] {
        let options = QuicOptions {
            connections,
            ..QuicOptions::default()
        };
        let both = options.admitted(Load::Both);
        let bulk_bytes = both.bulk_streams.into_inner() * MAX_BULK_FRAME as u64;
        assert!(both.bulk_streams.into_inner() > 0);
        assert!(bulk_bytes + (1 << 20) <= both.window.into_inner());
        assert_eq!(
            options.admitted(Load::Control).bulk_streams,
            VarInt::from_u32(0)
        );
    }
}

/// First packets of dialers that nobody answers.
fn first_packets(keys: &Keys, count: usize) -> Vec<Vec<u8>> {
    let sink = UdpSocket::bind((LOCALHOST, 0)).unwrap();
    sink.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let port = sink.local_addr().unwrap().port();
    std::thread::scope(|scope| {
        for _ in 0..count {
            scope.spawn(|| dial(&[port], keys.call(), SHORT).err().unwrap());
        }
        let mut packets = std::collections::BTreeMap::new();
        let mut buffer = [0; 2048];
        while packets.len() < count {
            let length = sink.recv(&mut buffer).unwrap();
            // A long header, then the identifier that tells one connection from another.
            let name = buffer[6..6 + usize::from(buffer[5])].to_vec();
            packets.entry(name).or_insert(buffer[..length].to_vec());
        }
        packets.into_values().collect()
    })
}

#[test]
fn forged_first_packets_do_not_keep_the_dialer_out() {
    let keys = Keys::new();
    let forged = first_packets(&keys, 16);
    let listening = keys.listen();
    let ports = listening.ports();
    let mut forgers = Vec::new();
    for packet in &forged {
        let forger = UdpSocket::bind((LOCALHOST, 0)).unwrap();
        forger.send_to(packet, (LOCALHOST, ports[0])).unwrap();
        forgers.push(forger);
    }
    let before = Instant::now();
    let dialer = std::thread::scope(|scope| {
        let dialed = scope.spawn(|| dial(&ports, keys.call(), Duration::from_secs(8)));
        let accepted = listening.accept(Instant::now() + Duration::from_secs(8));
        let dialed = dialed.join().unwrap();
        (dialed.map(drop), accepted.map(drop))
    });
    assert!(matches!(dialer, (Ok(()), Ok(()))), "{dialer:?}");
    assert!(
        before.elapsed() < Duration::from_secs(5),
        "{:?}",
        before.elapsed()
    );
}
