//! Ports that nobody else takes while an agent is away.

use std::net::UdpSocket;
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};

/// Below those that the kernel gives away by itself.
const PORTS: Range<u32> = 10_000..32_000;

/// A port that is nobody's: tests in other processes begin to look at other places.
pub(crate) fn free_port() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let first = std::process::id().wrapping_mul(101);
    loop {
        let number = first.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = PORTS.start + number % (PORTS.end - PORTS.start);
        if UdpSocket::bind(("127.0.0.1", u16::try_from(port).unwrap())).is_ok() {
            return port;
        }
    }
}
