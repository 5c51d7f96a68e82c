//! How large UDP payloads may be on the way to a peer, as far as the kernel knows.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use quinn::{MtuDiscoveryConfig, TransportConfig};
use rustix::net::sockopt::{ip_mtu, ipv6_mtu};

use super::options::MtuChoice;

/// Largest UDP payload used, in bytes: a jumbo frame of 9000 less the IPv6 and UDP headers. Transfers stalled above
/// 16000 although the loopback takes 65507.
pub(crate) const MAX_PAYLOAD: u16 = 8952;
/// Smallest UDP payload that QUIC works with (RFC 9000, section 14).
pub(crate) const MIN_PAYLOAD: u16 = 1200;

const UDP_HEADER: u32 = 8;
const IPV4_HEADER: u32 = 20;
const IPV6_HEADER: u32 = 40;
/// The port of the route query; nothing is sent to it.
const DISCARD_PORT: u16 = 9;

/// Size of UDP payloads on one path, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PathMtu {
    /// This size works: the path is the loopback, or somebody said so.
    Known(u16),
    /// No more than this leaves the interface; what arrives has to be found out.
    UpTo(u16),
}

impl PathMtu {
    pub(crate) fn largest(self) -> u16 {
        match self {
            Self::Known(payload) | Self::UpTo(payload) => payload,
        }
    }

    /// Sets packet sizes accordingly.
    pub(crate) fn apply(self, config: &mut TransportConfig) {
        match self {
            // Nothing smaller is worth falling back to: on a path that is known, lost bursts are full buffers.
            Self::Known(payload) => config
                .initial_mtu(payload)
                .min_mtu(payload)
                .mtu_discovery_config(None),
            Self::UpTo(payload) => {
                let mut discovery = MtuDiscoveryConfig::default();
                discovery.upper_bound(payload);
                config.mtu_discovery_config(Some(discovery))
            }
        };
    }
}

/// The payload size for the path to `peer`. Asks the kernel, and is careful if it does not answer.
pub(crate) fn path_mtu(peer: SocketAddr, choice: MtuChoice) -> PathMtu {
    match choice {
        MtuChoice::Fixed(payload) => PathMtu::Known(payload.clamp(MIN_PAYLOAD, MAX_PAYLOAD)),
        MtuChoice::FromInterface => ask_kernel(peer.ip().to_canonical()).unwrap_or_else(|error| {
            tracing::debug!("no MTU for the route to {peer}: {error}");
            PathMtu::UpTo(1452)
        }),
    }
}

/// Bytes of the largest IP packet that the route to `peer` takes without being split, as this machine knows it.
///
/// # Errors
/// If there is no route.
pub fn route_mtu(peer: IpAddr) -> io::Result<u32> {
    let peer = peer.to_canonical();
    mtu_of(&towards(peer)?, peer)
}

/// Connecting a UDP socket makes the kernel choose a route without sending anything; see ip(7), `IP_MTU`.
fn towards(peer: IpAddr) -> io::Result<UdpSocket> {
    let any: IpAddr = match peer {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect((peer, DISCARD_PORT))?;
    Ok(socket)
}

fn mtu_of(socket: &UdpSocket, peer: IpAddr) -> io::Result<u32> {
    Ok(match peer {
        IpAddr::V4(_) => ip_mtu(socket)?,
        IpAddr::V6(_) => ipv6_mtu(socket)?,
    })
}

fn ask_kernel(peer: IpAddr) -> io::Result<PathMtu> {
    let socket = towards(peer)?;
    let headers = match peer {
        IpAddr::V4(_) => IPV4_HEADER + UDP_HEADER,
        IpAddr::V6(_) => IPV6_HEADER + UDP_HEADER,
    };
    let mtu = mtu_of(&socket, peer)?;
    let payload = u16::try_from(mtu.saturating_sub(headers)).unwrap_or(u16::MAX);
    let payload = payload.clamp(MIN_PAYLOAD, MAX_PAYLOAD);
    let stays_on_this_machine = peer.is_loopback() || socket.local_addr()?.ip() == peer;
    Ok(match stays_on_this_machine {
        true => PathMtu::Known(payload),
        false => PathMtu::UpTo(payload),
    })
}

#[cfg(test)]
mod tests {
    use super::{MAX_PAYLOAD, PathMtu, path_mtu, route_mtu};
    use crate::quic::MtuChoice;

    #[test]
    fn the_loopback_is_known_to_carry_large_packets_and_other_routes_are_not() {
        let loopback = path_mtu("127.0.0.1:1".parse().unwrap(), MtuChoice::FromInterface);
        assert_eq!(loopback, PathMtu::Known(MAX_PAYLOAD));
        let mapped = path_mtu(
            "[::ffff:127.0.0.1]:1".parse().unwrap(),
            MtuChoice::FromInterface,
        );
        assert_eq!(mapped, loopback);
        assert!(route_mtu("127.0.0.1".parse().unwrap()).unwrap() > 1500);
        let elsewhere = path_mtu("192.0.2.77:1".parse().unwrap(), MtuChoice::FromInterface);
        assert!(
            matches!(elsewhere, PathMtu::UpTo(1200..=MAX_PAYLOAD)),
            "{elsewhere:?}"
        );
    }

    #[test]
    fn a_fixed_size_stays_within_what_quic_and_our_buffers_take() {
        let any = "192.0.2.77:1".parse().unwrap();
        assert_eq!(path_mtu(any, MtuChoice::Fixed(100)), PathMtu::Known(1200));
        assert_eq!(
            path_mtu(any, MtuChoice::Fixed(60_000)),
            PathMtu::Known(MAX_PAYLOAD)
        );
    }
}
