//! Pairs of links and contents for them.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::allow_attributes,
    reason = "each test binary uses its own part, so an expectation would fail in some"
)]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use lockstep_transport::quic::{self, OneTimeKey, QuicOptions};
use lockstep_transport::{Bulk, Link, memory_pair, pipe_link};

pub const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const TOKEN: [u8; 32] = [42; 32];

/// One pair over every carrier, with its name.
pub fn every_pair() -> Vec<(&'static str, Link, Link)> {
    let named = |name, (near, far)| (name, near, far);
    vec![
        named("memory", memory_pair()),
        named("pipe", pipe_pair()),
        named("quic, one connection", quic_pair(&options(1))),
        named(
            "quic, control and three data connections",
            quic_pair(&options(3)),
        ),
    ]
}

pub fn options(connections: usize) -> QuicOptions {
    QuicOptions {
        connections,
        window_bytes: 8 << 20,
        ..QuicOptions::default()
    }
}

pub fn pipe_pair() -> (Link, Link) {
    let (near_read, far_write) = std::io::pipe().unwrap();
    let (far_read, near_write) = std::io::pipe().unwrap();
    (
        pipe_link(near_read, near_write),
        pipe_link(far_read, far_write),
    )
}

pub fn quic_pair(options: &QuicOptions) -> (Link, Link) {
    quic_pair_through(options, |ports| ports)
}

/// A pair whose dialer is given other ports than the listener has.
pub fn quic_pair_through(
    options: &QuicOptions,
    detour: impl FnOnce(Vec<u16>) -> Vec<u16>,
) -> (Link, Link) {
    let (near_key, far_key) = (
        OneTimeKey::generate().unwrap(),
        OneTimeKey::generate().unwrap(),
    );
    let far_public = far_key.public_key();
    let listening = quic::listen(
        LOCALHOST,
        far_key,
        near_key.public_key(),
        TOKEN,
        options.clone(),
    )
    .unwrap();
    let ports = detour(listening.ports());
    let accepting = thread::spawn(move || {
        listening
            .accept(Instant::now() + Duration::from_secs(20))
            .unwrap()
    });
    let addresses = [SocketAddr::new(LOCALHOST, 0)];
    let timeout = Duration::from_secs(20);
    let near = quic::dial(
        &addresses,
        &ports,
        near_key,
        far_public,
        TOKEN,
        options.clone(),
        timeout,
    )
    .unwrap();
    (near, accepting.join().unwrap())
}

/// The content of a frame as one piece, read through `copy_to`.
pub fn joined(bulk: &Bulk) -> Bytes {
    let mut whole = vec![0; bulk.len()];
    assert_eq!(bulk.copy_to(0, &mut whole), bulk.len());
    whole.into()
}

/// Seeded noise (xorshift64*).
pub struct Noise(u64);

impl Noise {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn number(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.number() % limit
    }

    pub fn bytes(&mut self, len: usize) -> Bytes {
        let mut bytes = Vec::with_capacity(len + 8);
        while bytes.len() < len {
            bytes.extend_from_slice(&self.number().to_le_bytes());
        }
        bytes.truncate(len);
        bytes.into()
    }
}
