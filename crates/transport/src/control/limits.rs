//! How much of anything a peer gets, and what follows for quinn.

use std::sync::Arc;
use std::time::Duration;

use quinn::congestion::CubicConfig;
use quinn::{IdleTimeout, ServerConfig, TransportConfig, VarInt};

use crate::quic::route::PathMtu;

/// Largest frame of a call, in bytes: a plan of every volume of a cluster fits many times.
pub const MAX_CALL_FRAME: usize = 1 << 20;
/// Largest first frame of a caller, in bytes. It is read before anybody has looked at the call, so it only has to hold
/// the request; what is larger follows in further frames.
pub const MAX_FIRST_FRAME: usize = 64 * 1024;
/// How long the first frame of a call may take to arrive.
pub const FIRST_FRAME_LIMIT: Duration = Duration::from_secs(10);

/// Handshakes with proved addresses at the same time; more are refused.
pub const HANDSHAKES: usize = 64;
/// Of these with one address, so that a stranger in the cluster's own network does not keep its nodes out.
pub(super) const HANDSHAKES_PER_ADDRESS: usize = 4;
/// Of these with one IPv6 /64: whoever has one has as many addresses as it likes.
pub(super) const HANDSHAKES_PER_NETWORK: usize = HANDSHAKES / 2;
/// Handshakes with addresses that are not proved; beyond them every address has to be proved with a Retry first, which
/// leaves nothing behind here. Such addresses may be forged, so they count for nobody's share.
pub(super) const UNPROVED_HANDSHAKES: usize = 16;
/// How long a handshake may take: two lost packets in a row still fit.
pub const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);

/// Connections of trusted keys at the same time: the largest cluster (64 nodes, 64 operators), twice over.
pub const CONNECTIONS: usize = 256;
/// Connections of one key: several commands at once, and those of crashed ones until they time out.
pub const CONNECTIONS_PER_KEY: usize = 16;
/// How long a connection without a call keeps its place when its key has no other one left: a first call takes less
/// long to begin, and whoever has to wait for the place goes on asking for longer.
pub(super) const SPARE_AFTER: Duration = Duration::from_secs(2);
/// Calls that one connection carries at the same time for sure; with more, a caller may wait for a place.
pub const CALLS_PER_CONNECTION: usize = 16;
/// Streams of one connection: quinn may hold back the credit of an eighth of them until more have ended.
pub(super) const STREAMS: usize = 18;
/// Calls that wait to be accepted without holding up the tasks that read them.
pub(super) const CALLS_WAITING: usize = 32;

/// How long nothing may be heard before a connection counts as lost.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long an end stays silent at most.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// Initial packets that nobody has looked at yet; more are dropped, and the callers send them again.
const UNSEEN: usize = 1024;
/// Bytes kept of one and of all of them beyond the first packet.
const UNSEEN_BYTES: u64 = 8 * 1024;
const UNSEEN_BYTES_TOTAL: u64 = 1 << 20;
/// Out of order handshake bytes kept of one peer: ours are below 2 KiB.
const CRYPTO_BYTES: usize = 8 * 1024;
/// Window of a connection before its key is known, in bytes. There are no streams that could use it.
const STRANGER_WINDOW: u32 = 16 * 1024;
/// Window of one call, in bytes: more than 2 MB/s over 50 ms.
const CALL_WINDOW: u32 = 128 * 1024;
/// Window of a connection, in bytes: calls that nobody reads cannot stop the others.
const CONNECTION_WINDOW: u32 = CALL_WINDOW * STREAMS as u32;
/// Bytes on their way to one peer.
const SEND_WINDOW: u64 = 2 << 20;

/// Bytes that may be on their way before the path is known: a whole first frame. quinn holds back a close that finds
/// the window full, and does not read the acknowledgements that would empty it; 14 KB are full with one probe for the
/// loopback's packet size.
const FIRST_WINDOW: u64 = 64 * 1024;

/// quinn's settings for either end of a connection. A server allows streams later, and only to those it trusts; a
/// caller allows none.
pub(super) fn transport(mtu: PathMtu) -> Arc<TransportConfig> {
    let mut congestion = CubicConfig::default();
    congestion.initial_window(FIRST_WINDOW);
    let mut config = TransportConfig::default();
    config
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(CALL_WINDOW))
        .receive_window(VarInt::from_u32(STRANGER_WINDOW))
        .send_window(SEND_WINDOW)
        .congestion_controller_factory(Arc::new(congestion))
        .crypto_buffer_size(CRYPTO_BYTES)
        .datagram_receive_buffer_size(None)
        .max_idle_timeout(IdleTimeout::try_from(IDLE_TIMEOUT).ok())
        .keep_alive_interval(Some(KEEP_ALIVE));
    // Calls are small: the first packets are small enough for every path, and larger ones have to be found to arrive.
    PathMtu::UpTo(mtu.largest()).apply(&mut config);
    Arc::new(config)
}

/// Gives a caller that is trusted its window and its streams.
pub(super) fn admit(connection: &quinn::Connection) {
    widen(connection);
    connection.set_max_concurrent_bi_streams(VarInt::from_u32(STREAMS as u32));
}

/// Gives a peer whose key was checked the window that its calls need.
pub(super) fn widen(connection: &quinn::Connection) {
    connection.set_receive_window(VarInt::from_u32(CONNECTION_WINDOW));
}

/// Bounds what the endpoint keeps of packets that nobody has looked at.
pub(super) fn bound_unseen(config: &mut ServerConfig) {
    config
        .max_incoming(UNSEEN)
        .incoming_buffer_size(UNSEEN_BYTES)
        .incoming_buffer_size_total(UNSEEN_BYTES_TOTAL);
}
