//! Counts of what crossed a link.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes that crossed a link in both directions, framing and handshake included.
///
/// QUIC counts UDP payload bytes at the socket, on all connections, packets that were lost or repeated included. A
/// pipe counts all bytes in and out of it; memory counts the bytes of frames. The counts only grow, and stay readable
/// after the link has ended.
#[derive(Clone, Debug)]
pub struct Meter(pub(crate) Arc<Counters>);

impl Meter {
    /// Bytes this end handed to the network, the pipe or the other end.
    pub fn bytes_sent(&self) -> u64 {
        self.0.sent.load(Ordering::Relaxed)
    }

    /// Bytes this end got from the network, the pipe or the other end.
    pub fn bytes_received(&self) -> u64 {
        self.0.received.load(Ordering::Relaxed)
    }
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    sent: AtomicU64,
    received: AtomicU64,
}

impl Counters {
    pub(crate) fn add_sent(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn add_received(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}
