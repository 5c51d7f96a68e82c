//! A trusted key in the hands of a program that breaks the rules, and strangers who do.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::crypto::{
    self, ExportKeyingMaterialError, HeaderKey, KeyPair, Keys, PacketKey, Session,
};
use quinn::{ConnectError, ConnectionError, ConnectionId, Side, VarInt};
use quinn_proto::TransportError;
use quinn_proto::transport_parameters::TransportParameters;
use tokio::time::timeout;

use super::{Lab, SOON, ask, code, raw_endpoint};
use crate::control::error::VIOLATION;
use crate::control::{CallError, MAX_CALL_FRAME, MAX_FIRST_FRAME, NodeKey};
use crate::quic::{ALPN, tls};

/// What the server closes the connection with when a stream carries `bytes`, while another client is served.
async fn closed_for(bytes: &[u8]) -> String {
    let lab = Lab::new();
    let friend = lab.connect().await;
    let (_endpoint, connection) = lab.raw(&lab.friend).await;
    let (mut send, _recv) = connection.open_bi().await.unwrap();
    // The server may close it before all is sent.
    let _ = send.write_all(bytes).await;
    let _ = send.finish();
    let error = timeout(SOON, connection.closed()).await.unwrap();
    assert_eq!(code(&error), Some(VarInt::from_u32(VIOLATION)), "{error}");
    ask(&friend).await.unwrap();
    error.to_string()
}

fn head(len: usize) -> [u8; 4] {
    u32::try_from(len).unwrap().to_le_bytes()
}

#[tokio::test]
async fn an_empty_frame_closes_the_connection() {
    assert!(closed_for(&head(0)).await.contains("an empty frame"));
}

#[tokio::test]
async fn a_first_frame_beyond_its_limit_closes_the_connection_before_it_is_there() {
    let reason = closed_for(&head(MAX_FIRST_FRAME + 1)).await;
    assert!(reason.contains("65537 bytes, of 65536"), "{reason}");
}

#[tokio::test]
async fn a_later_frame_beyond_its_limit_closes_the_connection() {
    let first = [&head(1)[..], b"1", &head(MAX_CALL_FRAME + 1)].concat();
    let reason = closed_for(&first).await;
    assert!(reason.contains("1048577 bytes, of 1048576"), "{reason}");
}

#[tokio::test]
async fn a_cut_frame_closes_the_connection() {
    for cut in [
        &head(9)[..3],
        &head(9)[..],
        &[&head(9)[..], b"12345678"].concat(),
    ] {
        assert!(closed_for(cut).await.contains("ended within a frame"));
    }
    let later = [&head(1)[..], b"1", &head(9)[..2]].concat();
    assert!(closed_for(&later).await.contains("ended within a frame"));
}

#[tokio::test]
async fn garbage_closes_the_connection() {
    let reason = closed_for(b"GET / HTTP/1.1\r\nHost: db1\r\n\r\n").await;
    assert!(reason.contains("a frame of 542393671 bytes"), "{reason}");
}

#[tokio::test]
async fn a_stream_without_a_frame_is_given_up_and_the_connection_lives() {
    let lab = Lab::silent();
    let (_endpoint, connection) = lab.raw(&lab.friend).await;
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    send.finish().unwrap();
    let ended = timeout(SOON, recv.read_chunk(1, true)).await.unwrap();
    assert!(
        matches!(ended, Err(quinn::ReadError::Reset(_))),
        "{ended:?}"
    );
    let (mut send, _recv) = connection.open_bi().await.unwrap();
    send.reset(VarInt::from_u32(77)).unwrap();
    let (mut send, _recv) = connection.open_bi().await.unwrap();
    send.write_all(&[&head(5)[..], b"hello"].concat())
        .await
        .unwrap();
    assert_eq!(lab.server.accept().await.unwrap().first, "hello");
}

#[tokio::test]
async fn what_a_server_sends_is_judged_the_same_way() {
    for (bytes, what) in [
        (&head(0)[..], "an empty frame"),
        (&head(MAX_CALL_FRAME + 1)[..], "1048577 bytes, of 1048576"),
        (&head(5)[..2], "ended within a frame"),
    ] {
        let lab = Lab::silent();
        let connection = lab.connect().await;
        let mut call = connection.call().await.unwrap();
        call.send("first".into()).await.unwrap();
        let called = lab.server.accept().await.unwrap().call;
        let writing = tokio::spawn(called.write_raw(bytes.to_vec()));
        let error = call.recv_within(SOON).await.unwrap_err();
        assert!(
            matches!(&error, CallError::Protocol { what: found } if found.contains(what)),
            "{error}"
        );
        assert!(connection.call().await.is_err(), "the connection lives");
        timeout(SOON, writing).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn nothing_but_calls_is_offered_to_a_caller() {
    let lab = Lab::new();
    let (_endpoint, connection) = lab.raw(&lab.friend).await;
    let short = Duration::from_millis(300);
    assert!(timeout(short, connection.open_uni()).await.is_err());
    assert_eq!(connection.max_datagram_size(), None);
}

/// The connection of a client that believes that it may open streams and send datagrams from the start, after `act`.
async fn forward(
    lab: &Lab,
    key: &NodeKey,
    act: impl FnOnce(&quinn::Connection),
) -> ConnectionError {
    let tls = tls::client(&key.0, Arc::new(lab.key.public()), ALPN).unwrap();
    let config = quinn::ClientConfig::new(Arc::new(Forward(Arc::new(tls))));
    let endpoint = raw_endpoint();
    let connecting = endpoint.connect_with(config, lab.address(), tls::SERVER_NAME);
    let connection = match connecting.unwrap().await {
        Ok(connection) => connection,
        Err(error) => return error,
    };
    act(&connection);
    timeout(SOON, connection.closed()).await.unwrap()
}

fn assert_closed_by_quic(error: &ConnectionError, what: quinn::TransportErrorCode) {
    let ConnectionError::ConnectionClosed(close) = error else {
        panic!("{error}")
    };
    assert_eq!(close.error_code, what, "{error}");
}

fn open_uni(connection: &quinn::Connection) {
    let connection = connection.clone();
    tokio::spawn(async move {
        let mut stream = connection.open_uni().await.unwrap();
        let _ = stream.write_all(b"unsolicited").await;
        connection.closed().await;
    });
}

fn open_bi(connection: &quinn::Connection) {
    let connection = connection.clone();
    tokio::spawn(async move {
        for _ in 0..32 {
            let (mut send, _recv) = connection.open_bi().await.unwrap();
            let _ = send.write_all(b"\x01\x00\x00\x00!").await;
        }
        connection.closed().await;
    });
}

#[tokio::test]
async fn unsolicited_streams_and_datagrams_close_the_connection() {
    let lab = Lab::new();
    let friend = lab.connect().await;
    let error = forward(&lab, &lab.friend, open_uni).await;
    assert_closed_by_quic(&error, quinn::TransportErrorCode::STREAM_LIMIT_ERROR);
    let error = forward(&lab, &lab.friend, |connection| {
        connection
            .send_datagram(Bytes::from_static(b"unsolicited"))
            .unwrap();
    })
    .await;
    assert_closed_by_quic(&error, quinn::TransportErrorCode::PROTOCOL_VIOLATION);
    let error = forward(&lab, &lab.friend, open_bi).await;
    assert_closed_by_quic(&error, quinn::TransportErrorCode::STREAM_LIMIT_ERROR);
    ask(&friend).await.unwrap();
}

#[tokio::test]
async fn a_stranger_that_sends_a_call_with_its_handshake_is_refused_all_the_same() {
    let lab = Lab::silent();
    let error = forward(&lab, &lab.stranger, open_bi).await;
    let error = CallError::from(error);
    assert!(
        matches!(
            error,
            CallError::Refused { .. } | CallError::Protocol { .. }
        ),
        "{error}"
    );
    assert_eq!(
        (lab.server.connections(), lab.server.calls_waiting()),
        (0, 0)
    );
}

/// TLS as it should be, except for what it says that the server allows.
struct Forward(Arc<QuicClientConfig>);

impl crypto::ClientConfig for Forward {
    fn start_session(
        self: Arc<Self>,
        version: u32,
        server_name: &str,
        params: &TransportParameters,
    ) -> Result<Box<dyn Session>, ConnectError> {
        let inner = Arc::clone(&self.0) as Arc<dyn crypto::ClientConfig>;
        let session = inner.start_session(version, server_name, params)?;
        Ok(Box::new(ForwardSession(session)))
    }
}

/// `initial_max_streams_bidi` and `_uni` of 32, `max_datagram_frame_size` of 65535 (RFC 9000, section 18.2; RFC 9221).
const ALLOWED: [u8; 12] = [0x08, 1, 32, 0x09, 1, 32, 0x20, 4, 0x80, 0, 0xff, 0xff];

struct ForwardSession(Box<dyn Session>);

impl Session for ForwardSession {
    fn transport_parameters(&self) -> Result<Option<TransportParameters>, TransportError> {
        let Some(said) = self.0.transport_parameters()? else {
            return Ok(None);
        };
        let mut written = Vec::new();
        said.write(&mut written);
        written.extend(ALLOWED);
        Ok(Some(
            TransportParameters::read(Side::Client, &mut written.as_slice()).unwrap(),
        ))
    }

    fn initial_keys(&self, dst_cid: &ConnectionId, side: Side) -> Keys {
        self.0.initial_keys(dst_cid, side)
    }

    fn handshake_data(&self) -> Option<Box<dyn Any>> {
        self.0.handshake_data()
    }

    fn peer_identity(&self) -> Option<Box<dyn Any>> {
        self.0.peer_identity()
    }

    fn early_crypto(&self) -> Option<(Box<dyn HeaderKey>, Box<dyn PacketKey>)> {
        self.0.early_crypto()
    }

    fn early_data_accepted(&self) -> Option<bool> {
        self.0.early_data_accepted()
    }

    fn is_handshaking(&self) -> bool {
        self.0.is_handshaking()
    }

    fn read_handshake(&mut self, buf: &[u8]) -> Result<bool, TransportError> {
        self.0.read_handshake(buf)
    }

    fn write_handshake(&mut self, buf: &mut Vec<u8>) -> Option<Keys> {
        self.0.write_handshake(buf)
    }

    fn next_1rtt_keys(&mut self) -> Option<KeyPair<Box<dyn PacketKey>>> {
        self.0.next_1rtt_keys()
    }

    fn is_valid_retry(&self, orig_dst_cid: &ConnectionId, header: &[u8], payload: &[u8]) -> bool {
        self.0.is_valid_retry(orig_dst_cid, header, payload)
    }

    fn export_keying_material(
        &self,
        output: &mut [u8],
        label: &[u8],
        context: &[u8],
    ) -> Result<(), ExportKeyingMaterialError> {
        self.0.export_keying_material(output, label, context)
    }
}
