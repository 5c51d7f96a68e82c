//! Consecutive sends that leave as one.
//!
//! quinn asks for ten segments at a time, whatever the kernel takes. At a payload of 1452 bytes that is a quarter of
//! what one send can carry, and the way through the kernel costs more than encrypting: what follows at once is
//! appended, and goes along.

use std::net::{IpAddr, SocketAddr};

use quinn::udp::{EcnCodepoint, Transmit};

/// Fewer segments than this are all that there is to send: nothing is worth waiting for.
const WORTH_WAITING: usize = 8;

/// Sends that have been taken and not yet made.
#[derive(Debug, Default)]
pub(super) struct Batch {
    bytes: Vec<u8>,
    head: Option<Head>,
    /// Its last segment is a short one, or more would not fit.
    is_full: bool,
}

/// What all of a batch have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Head {
    destination: SocketAddr,
    ecn: Option<EcnCodepoint>,
    source: Option<IpAddr>,
    segment: usize,
}

/// What becomes of a send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Offered {
    /// It is to be made by itself.
    Alone,
    /// It was taken, as the first or as one more; another may follow.
    Held {
        /// Nothing was held before.
        is_first: bool,
    },
    /// It was taken, and what is held is to be sent.
    Full,
    /// It was not taken: what is held is to be sent before.
    Unlike,
}

impl Batch {
    /// Takes a send if it goes with what is held, or if more may follow it; at most so many segments together.
    pub(super) fn offer(&mut self, transmit: &Transmit<'_>, max_segments: usize) -> Offered {
        let length = transmit.contents.len();
        let segment = transmit.segment_size.unwrap_or(length).max(1);
        let segments = length.div_ceil(segment);
        let may_go_on = segments >= WORTH_WAITING && length.is_multiple_of(segment);
        let Some(head) = self.head else {
            if !may_go_on || segments * 2 > max_segments {
                return Offered::Alone;
            }
            self.head = Some(Head {
                destination: transmit.destination,
                ecn: transmit.ecn,
                source: transmit.src_ip,
                segment,
            });
            self.bytes.extend_from_slice(transmit.contents);
            return Offered::Held { is_first: true };
        };
        let wanted = Head {
            destination: transmit.destination,
            ecn: transmit.ecn,
            source: transmit.src_ip,
            // One datagram alone may be the last, shorter segment.
            segment: match transmit.segment_size {
                None if length <= head.segment => head.segment,
                _ => segment,
            },
        };
        let held = self.bytes.len() / head.segment;
        if self.is_full || wanted != head || held + segments > max_segments {
            return Offered::Unlike;
        }
        self.bytes.extend_from_slice(transmit.contents);
        self.is_full = !may_go_on || held + 2 * segments > max_segments;
        match self.is_full {
            true => Offered::Full,
            false => Offered::Held { is_first: false },
        }
    }

    /// What is held, as one send.
    pub(super) fn held(&self) -> Option<Transmit<'_>> {
        self.head.map(|head| Transmit {
            destination: head.destination,
            ecn: head.ecn,
            contents: &self.bytes,
            segment_size: Some(head.segment),
            src_ip: head.source,
        })
    }

    /// It has been sent.
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.head = None;
        self.is_full = false;
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use proptest::prelude::{ProptestConfig, prop_assert, prop_assert_eq, proptest};
    use quinn::udp::Transmit;

    use super::{Batch, Offered};

    fn transmit(contents: &[u8], segment: usize, port: u16) -> Transmit<'_> {
        Transmit {
            destination: SocketAddr::from(([127, 0, 0, 1], port)),
            ecn: None,
            contents,
            segment_size: (contents.len() > segment).then_some(segment),
            src_ip: None,
        }
    }

    /// Datagrams with their destinations, as the other end sees them.
    fn datagrams(transmit: &Transmit<'_>) -> Vec<(u16, Vec<u8>)> {
        let segment = transmit.segment_size.unwrap_or(usize::MAX);
        let parts = transmit.contents.chunks(segment.min(1 << 20));
        let port = transmit.destination.port();
        parts.map(|part| (port, part.to_vec())).collect()
    }

    #[test]
    fn four_full_sends_leave_as_one() {
        let contents = [1; 10 * 1452];
        let mut batch = Batch::default();
        let offered = [(); 4].map(|()| batch.offer(&transmit(&contents, 1452, 1), 45));
        let more = Offered::Held { is_first: false };
        let first = Offered::Held { is_first: true };
        assert_eq!(offered, [first, more, more, Offered::Full]);
        assert_eq!(batch.held().unwrap().contents.len(), 40 * 1452);
        assert_eq!(
            batch.offer(&transmit(&contents, 1452, 1), 45),
            Offered::Unlike
        );
    }

    #[test]
    fn what_nothing_follows_waits_for_nothing() {
        let mut batch = Batch::default();
        for (length, segment) in [(1452, 1452), (3 * 1452, 1452), (9 * 1452 + 5, 1452)] {
            let contents = vec![1; length];
            let offered = batch.offer(&transmit(&contents, segment, 1), 45);
            assert_eq!(offered, Offered::Alone, "{length}");
        }
        // Jumbo frames: seven of them fill a send.
        let contents = vec![1; 7 * 8952];
        let offered = batch.offer(&transmit(&contents, 8952, 1), 7);
        assert_eq!(offered, Offered::Alone);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]
        #[test]
        fn the_same_datagrams_arrive_in_the_same_order(
            sends in proptest::collection::vec((1_usize..12, 0_usize..3, 1_u16..3, 0_u8..8), 1..40),
            max_segments in 1_usize..64,
        ) {
            let mut batch = Batch::default();
            let (mut wanted, mut seen) = (Vec::new(), Vec::new());
            for (number, (segments, cut, port, size)) in sends.into_iter().enumerate() {
                let segment = if size == 0 { 40 } else { 50 };
                let length = (segments * segment).saturating_sub(cut * 7).max(1);
                let contents = vec![number as u8; length];
                let transmit = transmit(&contents, segment, port);
                wanted.extend(datagrams(&transmit));
                for attempt in 0..2 {
                    let offered = batch.offer(&transmit, max_segments);
                    if matches!(offered, Offered::Full | Offered::Unlike) {
                        let held = batch.held().unwrap();
                        let parts = datagrams(&held);
                        prop_assert!(parts.len() <= max_segments);
                        seen.extend(parts);
                        batch.clear();
                    }
                    if offered == Offered::Alone {
                        prop_assert!(batch.held().is_none());
                        seen.extend(datagrams(&transmit));
                    }
                    if offered != Offered::Unlike {
                        break;
                    }
                    prop_assert_eq!(attempt, 0, "refused although nothing was held");
                }
            }
            if let Some(held) = batch.held() {
                seen.extend(datagrams(&held));
            }
            prop_assert_eq!(seen, wanted);
        }
    }
}
