//! The connections of trusted keys.

use std::collections::HashMap;

use super::limits::{CONNECTIONS, CONNECTIONS_PER_KEY};
use crate::quic::PublicKey;

/// There is no place for another connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Full {
    #[error("this key has {CONNECTIONS_PER_KEY} connections already")]
    Key,
    #[error("there are {CONNECTIONS} connections already")]
    All,
}

/// All of them, by number. `C` is a connection.
#[derive(Debug)]
pub(super) struct Held<C> {
    next: u64,
    connections: HashMap<u64, (PublicKey, C)>,
}

impl<C> Default for Held<C> {
    fn default() -> Self {
        Self {
            next: 0,
            connections: HashMap::new(),
        }
    }
}

impl<C> Held<C> {
    /// Takes a connection in; its number, to let it go by.
    pub(super) fn take(&mut self, key: PublicKey, connection: C) -> Result<u64, Full> {
        if self.connections.len() >= CONNECTIONS {
            return Err(Full::All);
        }
        if self.all().filter(|(other, _)| *other == key).count() >= CONNECTIONS_PER_KEY {
            return Err(Full::Key);
        }
        let number = self.next;
        self.next += 1;
        self.connections.insert(number, (key, connection));
        Ok(number)
    }

    pub(super) fn release(&mut self, number: u64) {
        self.connections.remove(&number);
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &(PublicKey, C)> {
        self.connections.values()
    }
}

#[cfg(test)]
mod tests {
    use super::{CONNECTIONS, CONNECTIONS_PER_KEY, Full, Held};
    use crate::quic::PublicKey;

    fn key(number: usize) -> PublicKey {
        PublicKey([u8::try_from(number).unwrap(); 32])
    }

    #[test]
    fn one_key_gets_its_share() {
        let mut held = Held::default();
        let numbers: Vec<u64> = (0..CONNECTIONS_PER_KEY)
            .map(|_| held.take(key(1), ()).unwrap())
            .collect();
        assert_eq!(held.take(key(1), ()), Err(Full::Key));
        held.take(key(2), ()).unwrap();
        held.release(numbers[3]);
        held.take(key(1), ()).unwrap();
        assert_eq!(held.take(key(1), ()), Err(Full::Key));
    }

    #[test]
    fn all_keys_together_get_theirs() {
        let mut held = Held::default();
        for number in 0..CONNECTIONS {
            held.take(key(number / CONNECTIONS_PER_KEY), ()).unwrap();
        }
        assert_eq!(held.take(key(200), ()), Err(Full::All));
    }
}
