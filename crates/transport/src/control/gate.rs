//! Which handshakes to begin: a decision about numbers alone.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};

use super::limits::{HANDSHAKES, HANDSHAKES_PER_NETWORK, UNPROVED_HANDSHAKES};

/// Where a handshake comes from, as far as that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// The address may be forged.
    Unproved,
    /// Packets to an address of this network arrive.
    Proved(IpAddr),
}

impl Origin {
    pub(super) fn proved(address: IpAddr) -> Self {
        Self::Proved(network(address))
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
    proved: HashMap<IpAddr, usize>,
}

impl Handshakes {
    /// Decides, and counts a handshake that begins until [`Handshakes::leave`].
    pub(super) fn enter(&mut self, origin: Origin) -> Verdict {
        match origin {
            Origin::Unproved if self.unproved >= UNPROVED_HANDSHAKES => return Verdict::Prove,
            Origin::Unproved => self.unproved += 1,
            Origin::Proved(network) => {
                let under_way: usize = self.proved.values().sum();
                let of_network = self.proved.get(&network).copied().unwrap_or(0);
                if under_way >= HANDSHAKES || of_network >= HANDSHAKES_PER_NETWORK {
                    return Verdict::Refuse;
                }
                self.proved.insert(network, of_network + 1);
            }
        }
        Verdict::Begin
    }

    /// A handshake is over, well or not.
    pub(super) fn leave(&mut self, origin: Origin) {
        match origin {
            Origin::Unproved => self.unproved = self.unproved.saturating_sub(1),
            Origin::Proved(network) => {
                if let Some(of_network) = self.proved.get_mut(&network) {
                    *of_network -= 1;
                    if *of_network == 0 {
                        self.proved.remove(&network);
                    }
                }
            }
        }
    }
}

/// One subscriber has as many IPv6 addresses as it likes, within one /64.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::{
        HANDSHAKES, HANDSHAKES_PER_NETWORK, Handshakes, Origin, UNPROVED_HANDSHAKES, Verdict,
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
    fn one_network_cannot_keep_the_others_out() {
        let mut handshakes = Handshakes::default();
        let begun = enter(&mut handshakes, from("2001:db8::1"), HANDSHAKES_PER_NETWORK);
        assert_eq!(begun, [Verdict::Begin; HANDSHAKES_PER_NETWORK]);
        assert_eq!(
            handshakes.enter(from("2001:db8::ffff:0:0:2")),
            Verdict::Refuse
        );
        assert_eq!(handshakes.enter(from("2001:db8:0:1::1")), Verdict::Begin);
        handshakes.leave(from("2001:db8::3"));
        assert_eq!(handshakes.enter(from("2001:db8::1")), Verdict::Begin);
        let mapped = enter(
            &mut handshakes,
            from("::ffff:192.0.2.1"),
            HANDSHAKES_PER_NETWORK,
        );
        assert_eq!(mapped, [Verdict::Begin; HANDSHAKES_PER_NETWORK]);
        assert_eq!(handshakes.enter(from("192.0.2.1")), Verdict::Refuse);
        assert_eq!(handshakes.enter(from("192.0.2.2")), Verdict::Begin);
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
