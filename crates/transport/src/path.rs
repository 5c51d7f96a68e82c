//! What is known of the ways that a link's packets take.

use std::time::Duration;

/// What one connection of a link has seen of its path so far. The counts only grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathStats {
    /// Whether it carries bulk frames; a link of several connections has one for control alone.
    pub carries_bulk: bool,
    /// Bytes of UDP payload of the largest packets that it sends now.
    pub mtu: u16,
    /// Estimate of the round trip now: queues that the link's own data fills are part of it.
    pub rtt: Duration,
    /// Bytes that it may have under way now.
    pub window: u64,
    /// Packets that were sent, lost ones too.
    pub packets_sent: u64,
    /// Packets that were taken for lost; what was in them was sent again.
    pub packets_lost: u64,
    /// Bytes of these.
    pub bytes_lost: u64,
    /// Times that congestion narrowed the window.
    pub congestion_events: u64,
    /// Bytes of UDP payload that were sent.
    pub bytes_sent: u64,
    /// Bytes of UDP payload that arrived.
    pub bytes_received: u64,
}
