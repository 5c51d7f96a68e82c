//! Which handshakes to begin: a decision about numbers alone.

use std::collections::HashMap;
use std::net::IpAddr;

use super::limits::{
    HANDSHAKES, HANDSHAKES_PER_ADDRESS, HANDSHAKES_PER_NETWORK, UNPROVED_HANDSHAKES,
};

/// Where a handshake comes from, as far as that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// The address may be forged.
    Unproved,
    /// Packets to this address arrive.
    Proved(IpAddr),
}

impl Origin {
    pub(super) fn proved(address: IpAddr) -> Self {
        Self::Proved(address.to_canonical())
    }
}

/// What becomes of a connection that nobody knows yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Begin,
    /// Let it prove its address and come again.
    Prove,
    Refuse,
}

/// The handshakes under way.
#[derive(Debug, Default)]
pub(super) struct Handshakes {
    unproved: usize,
    /// By address; as few as there are handshakes.
    proved: HashMap<IpAddr, usize>,
}

impl Handshakes {
    /// Decides, and counts a handshake that begins until [`Handshakes::leave`].
    pub(super) fn enter(&mut self, origin: Origin) -> Verdict {
        match origin {
            Origin::Unproved if self.unproved >= UNPROVED_HANDSHAKES => return Verdict::Prove,
            Origin::Unproved => self.unproved += 1,
            Origin::Proved(address) if self.is_full_for(address) => return Verdict::Refuse,
            Origin::Proved(address) => *self.proved.entry(address).or_default() += 1,
        }
        Verdict::Begin
    }

    fn is_full_for(&self, address: IpAddr) -> bool {
        let under_way: usize = self.proved.values().sum();
        let of_address = self.proved.get(&address).copied().unwrap_or(0);
        under_way >= HANDSHAKES
            || of_address >= HANDSHAKES_PER_ADDRESS
            || prefix(address)
                .is_some_and(|prefix| self.of_network(prefix) >= HANDSHAKES_PER_NETWORK)
    }

    fn of_network(&self, network: u64) -> usize {
        let inside = |address: &IpAddr| prefix(*address) == Some(network);
        let counts = self.proved.iter();
        counts
            .filter(|(address, _)| inside(address))
            .map(|(_, count)| count)
            .sum()
    }

    /// A handshake is over, well or not.
    pub(super) fn leave(&mut self, origin: Origin) {
        match origin {
            Origin::Unproved => self.unproved = self.unproved.saturating_sub(1),
            Origin::Proved(address) => {
                if let Some(of_address) = self.proved.get_mut(&address) {
                    *of_address -= 1;
                    if *of_address == 0 {
                        self.proved.remove(&address);
                    }
                }
            }
        }
    }
}

/// The first half of an IPv6 address, which one subscriber has for itself.
fn prefix(address: IpAddr) -> Option<u64> {
    match address {
        IpAddr::V6(address) => Some((address.to_bits() >> 64) as u64),
        IpAddr::V4(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{
        HANDSHAKES, HANDSHAKES_PER_ADDRESS, HANDSHAKES_PER_NETWORK, Handshakes, Origin,
        UNPROVED_HANDSHAKES, Verdict,
    };

    fn from(address: &str) -> Origin {
        Origin::proved(address.parse().unwrap())
    }

    fn enter(handshakes: &mut Handshakes, origin: Origin, times: usize) -> Vec<Verdict> {
        (0..times).map(|_| handshakes.enter(origin)).collect()
    }

    #[test]
    fn forged_addresses_take_their_share_and_keep_nobody_out() {
        let mut handshakes = Handshakes::default();
        let begun = enter(&mut handshakes, Origin::Unproved, UNPROVED_HANDSHAKES);
        assert_eq!(begun, [Verdict::Begin; UNPROVED_HANDSHAKES]);
        assert_eq!(
            enter(&mut handshakes, Origin::Unproved, 10_000),
            [Verdict::Prove; 10_000]
        );
        assert_eq!(handshakes.enter(from("192.0.2.1")), Verdict::Begin);
        handshakes.leave(Origin::Unproved);
        assert_eq!(handshakes.enter(Origin::Unproved), Verdict::Begin);
    }

    #[test]
    fn one_address_cannot_keep_its_neighbours_out() {
        let mut handshakes = Handshakes::default();
        for (address, neighbour) in [("2001:db8::1", "2001:db8::2"), ("192.0.2.1", "192.0.2.2")] {
            let begun = enter(&mut handshakes, from(address), HANDSHAKES_PER_ADDRESS);
            assert_eq!(begun, [Verdict::Begin; HANDSHAKES_PER_ADDRESS]);
            assert_eq!(handshakes.enter(from(address)), Verdict::Refuse);
            assert_eq!(handshakes.enter(from(neighbour)), Verdict::Begin);
            handshakes.leave(from(address));
            assert_eq!(handshakes.enter(from(address)), Verdict::Begin);
        }
        assert_eq!(handshakes.enter(from("::ffff:192.0.2.1")), Verdict::Refuse);
    }

    #[test]
    fn one_network_cannot_keep_the_others_out() {
        let mut handshakes = Handshakes::default();
        for host in 0..HANDSHAKES_PER_NETWORK {
            let one = from(&format!("2001:db8::{host:x}"));
            assert_eq!(handshakes.enter(one), Verdict::Begin);
        }
        let one_more = from("2001:db8::ffff:0:0:2");
        assert_eq!(handshakes.enter(one_more), Verdict::Refuse);
        assert_eq!(handshakes.enter(from("2001:db8:0:1::1")), Verdict::Begin);
        assert_eq!(handshakes.enter(from("192.0.2.1")), Verdict::Begin);
        handshakes.leave(from("2001:db8::3"));
        assert_eq!(handshakes.enter(one_more), Verdict::Begin);
    }

    #[test]
    fn there_is_an_end_to_all_of_them_together_and_nothing_is_kept_of_those_gone() {
        let mut handshakes = Handshakes::default();
        let origins: Vec<Origin> = (0..255)
            .map(|host| from(&format!("192.0.2.{host}")))
            .collect();
        let begun = origins
            .iter()
            .filter(|origin| handshakes.enter(**origin) == Verdict::Begin);
        assert_eq!(begun.count(), HANDSHAKES);
        for origin in &origins[..HANDSHAKES] {
            handshakes.leave(*origin);
        }
        assert!(handshakes.proved.is_empty());
        assert_eq!(handshakes.unproved, 0);
    }
}
