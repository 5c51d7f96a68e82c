//! What can be chosen about a QUIC link, and what follows for quinn.

use std::sync::Arc;
use std::time::Duration;

use quinn::{EndpointConfig, IdleTimeout, TransportConfig, VarInt};

use super::carrier::Load;
use super::rate::TargetRate;
use super::route::PathMtu;
use crate::MAX_BULK_FRAME;

/// Most data connections of one link.
pub const MAX_CONNECTIONS: usize = 16;
/// Smallest and largest total window, in bytes: below one frame nothing moves, above 1 GiB no path needs it.
pub(crate) const WINDOW_BYTES: std::ops::RangeInclusive<u64> = (4 << 20)..=(1 << 30);
/// Longest time without a packet that an end may ask for.
pub(crate) const MAX_IDLE_TIMEOUT: Duration = Duration::from_secs(600);

/// Window of a connection whose dialer has not yet proved itself, in bytes.
const STRANGER_WINDOW: u32 = 16 * 1024;
/// Window of one stream, in bytes: a whole bulk frame fits, so a stream is never the bottleneck.
const STREAM_WINDOW: u32 = 2 << 20;
/// Window of the control lane, in bytes.
const CONTROL_WINDOW: u64 = 2 << 20;
/// Streams that may be open beyond those that fill the window, so that small frames do not wait for credit.
const SPARE_STREAMS: u64 = 64;

/// Choices for a QUIC link. Both ends need the same number of connections; the rest may differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuicOptions {
    /// Data connections, 1 to 16. Each is one thread at either end; control gets another when there are several.
    pub connections: usize,
    /// The size of UDP payloads.
    pub mtu: MtuChoice,
    /// Bytes in flight over all data connections, in each direction; 4 MiB to 1 GiB.
    pub window_bytes: u64,
    /// How long nothing may be heard before the link counts as lost; at most 10 minutes.
    pub idle_timeout: Duration,
    /// How long this end stays silent at most.
    pub keep_alive: Duration,
    /// Bytes a second that the way to the other end carries, if somebody knows: this end sends as much over all data
    /// connections, whatever gets lost. Otherwise it finds out, and takes what is lost for a sign of too much.
    pub rate: Option<u64>,
}

/// How the size of UDP payloads is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MtuChoice {
    /// From the MTU that the kernel has for the route, by discovery below it unless the route is the loopback.
    FromInterface,
    /// This many bytes, 1200 to 8952, at once and for good.
    Fixed(u16),
}

impl Default for QuicOptions {
    fn default() -> Self {
        Self {
            connections: 1,
            mtu: MtuChoice::FromInterface,
            window_bytes: 64 << 20,
            idle_timeout: Duration::from_secs(30),
            keep_alive: Duration::from_secs(5),
            rate: None,
        }
    }
}

impl QuicOptions {
    /// The same options with every number inside its range.
    pub(crate) fn clamped(&self) -> Self {
        Self {
            connections: self.connections.clamp(1, MAX_CONNECTIONS),
            mtu: self.mtu,
            window_bytes: self
                .window_bytes
                .clamp(*WINDOW_BYTES.start(), *WINDOW_BYTES.end()),
            idle_timeout: self
                .idle_timeout
                .clamp(Duration::from_millis(100), MAX_IDLE_TIMEOUT),
            keep_alive: self.keep_alive.max(Duration::from_millis(20)),
            rate: self.rate,
        }
    }

    /// Number of UDP ports, one for each connection.
    pub(super) fn ports(&self) -> usize {
        if self.connections == 1 {
            1
        } else {
            self.connections + 1
        }
    }

    fn window_per_connection(&self) -> u64 {
        let connections = u64::try_from(self.connections).unwrap_or(1);
        (self.window_bytes / connections).max(*WINDOW_BYTES.start())
    }

    /// What a connection with this load admits once the token has been accepted.
    pub(super) fn admitted(&self, load: Load) -> Admitted {
        let window = self.window_per_connection();
        let full_frames = window / MAX_BULK_FRAME as u64;
        let (window, bulk_streams) = match load {
            Load::Control => (CONTROL_WINDOW, 0),
            Load::Bulk => (window, full_frames + SPARE_STREAMS),
            // Bulk frames that nobody takes must not use up the window that control needs too.
            Load::Both => (window + CONTROL_WINDOW, full_frames),
        };
        Admitted {
            window: varint(window),
            bulk_streams: varint(bulk_streams),
        }
    }

    /// quinn's settings for a connection over a path of `mtu`.
    pub(super) fn transport(&self, mtu: PathMtu, side: Opener) -> Arc<TransportConfig> {
        let mut config = TransportConfig::default();
        config
            .max_concurrent_bidi_streams(match side {
                Opener::Peer => VarInt::from_u32(1),
                Opener::Us => VarInt::from_u32(0),
            })
            .max_concurrent_uni_streams(VarInt::from_u32(0))
            .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
            .receive_window(VarInt::from_u32(STRANGER_WINDOW))
            .send_window(self.window_per_connection())
            .send_fairness(false)
            .datagram_receive_buffer_size(None)
            .max_idle_timeout(IdleTimeout::try_from(self.idle_timeout).ok())
            .keep_alive_interval(Some(self.keep_alive));
        if let Some(rate) = self.rate {
            let connections = u64::try_from(self.connections).unwrap_or(1);
            let bytes_per_second = rate / connections;
            config.congestion_controller_factory(Arc::new(TargetRate { bytes_per_second }));
        }
        mtu.apply(&mut config);
        Arc::new(config)
    }
}

/// Who opens the stream that carries token and control frames.
#[derive(Clone, Copy)]
pub(super) enum Opener {
    Us,
    Peer,
}

/// Limits towards a peer that has proved itself.
#[derive(Clone, Copy)]
pub(super) struct Admitted {
    pub(super) window: VarInt,
    pub(super) bulk_streams: VarInt,
}

/// An endpoint that takes packets as large as any route of ours may carry.
pub(crate) fn endpoint_config() -> EndpointConfig {
    let mut config = EndpointConfig::default();
    if let Err(error) = config.max_udp_payload_size(super::route::MAX_PAYLOAD) {
        tracing::warn!("packets above quinn's default size stay off: {error}");
    }
    config
}

fn varint(value: u64) -> VarInt {
    VarInt::from_u64(value).unwrap_or(VarInt::MAX)
}
