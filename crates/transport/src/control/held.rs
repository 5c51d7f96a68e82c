//! The connections of trusted keys.
//!
//! A key that has all of its connections gets another one only in place of one that carries no call: that of a
//! program which ended, and whose goodbye was lost, say.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::limits::{CONNECTIONS, CONNECTIONS_PER_KEY, SPARE_AFTER};
use crate::quic::PublicKey;

/// There is no place for another connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Full {
    #[error("this key has {CONNECTIONS_PER_KEY} connections already")]
    Key,
    #[error("there are {CONNECTIONS} connections already")]
    All,
}

/// What a connection is used for now.
#[derive(Debug)]
pub(super) struct Usage(Mutex<Used>);

#[derive(Debug)]
struct Used {
    calls: usize,
    /// When it began, or the last call ended.
    since: Instant,
}

impl Usage {
    /// Of a connection without a call, as of now.
    pub(super) fn none() -> Arc<Self> {
        Arc::new(Self(Mutex::new(Used {
            calls: 0,
            since: Instant::now(),
        })))
    }

    /// Counts a call for as long as what is returned lives.
    pub(super) fn begin(self: &Arc<Self>) -> InUse {
        self.lock().calls += 1;
        InUse(Arc::clone(self))
    }

    /// For how long it has carried no call; none if it carries one.
    fn idle(&self) -> Option<Duration> {
        let used = self.lock();
        (used.calls == 0).then(|| used.since.elapsed())
    }

    fn lock(&self) -> MutexGuard<'_, Used> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call that counts as one of its connection's while this lives.
#[derive(Debug)]
pub(super) struct InUse(Arc<Usage>);

impl Drop for InUse {
    fn drop(&mut self) {
        let mut used = self.0.lock();
        used.calls -= 1;
        used.since = Instant::now();
    }
}

/// All of them, by number. `C` is a connection.
#[derive(Debug)]
pub(super) struct Held<C> {
    next: u64,
    connections: HashMap<u64, (PublicKey, C, Arc<Usage>)>,
}

/// A connection's place.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Taken<C> {
    /// To let it go by.
    pub(super) number: u64,
    /// The connection that had the place, which is to be closed.
    pub(super) instead_of: Option<C>,
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
    /// Takes a connection in.
    pub(super) fn take(
        &mut self,
        key: PublicKey,
        connection: C,
        usage: Arc<Usage>,
    ) -> Result<Taken<C>, Full> {
        let of_key = self.connections.values().filter(|it| it.0 == key).count();
        let instead_of = match of_key >= CONNECTIONS_PER_KEY {
            true => Some(self.spare(key).ok_or(Full::Key)?),
            false if self.connections.len() >= CONNECTIONS => return Err(Full::All),
            false => None,
        };
        let instead_of = instead_of.and_then(|number| self.connections.remove(&number));
        let number = self.next;
        self.next += 1;
        self.connections.insert(number, (key, connection, usage));
        Ok(Taken {
            number,
            instead_of: instead_of.map(|(_, connection, _)| connection),
        })
    }

    /// The key's connection that has carried no call for the longest time, if that is long enough.
    fn spare(&self, key: PublicKey) -> Option<u64> {
        let of_key = self.connections.iter().filter(|(_, it)| it.0 == key);
        let idle = of_key.filter_map(|(number, it)| Some((it.2.idle()?, *number)));
        idle.max()
            .filter(|(idle, _)| *idle >= SPARE_AFTER)
            .map(|(_, number)| number)
    }

    pub(super) fn release(&mut self, number: u64) {
        self.connections.remove(&number);
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (&PublicKey, &C)> {
        let each = self.connections.values();
        each.map(|(key, connection, _)| (key, connection))
    }
}

#[cfg(test)]
mod tests {
    use super::{CONNECTIONS, CONNECTIONS_PER_KEY, Full, Held, Usage};
    use crate::control::limits::SPARE_AFTER;
    use crate::quic::PublicKey;
    use std::sync::Arc;

    fn key(number: usize) -> PublicKey {
        PublicKey([u8::try_from(number).unwrap(); 32])
    }

    /// That of a connection which has been idle for as long as it takes to be spare.
    fn spare() -> Arc<Usage> {
        let usage = Usage::none();
        usage.lock().since -= SPARE_AFTER;
        usage
    }

    #[test]
    fn one_key_gets_its_share() {
        let mut held = Held::default();
        let take = |held: &mut Held<()>, number| {
            let taken = held.take(key(number), (), Usage::none());
            taken.map(|taken| (taken.number, taken.instead_of))
        };
        let numbers: Vec<u64> = (0..CONNECTIONS_PER_KEY)
            .map(|_| take(&mut held, 1).unwrap().0)
            .collect();
        assert_eq!(take(&mut held, 1), Err(Full::Key));
        take(&mut held, 2).unwrap();
        held.release(numbers[3]);
        take(&mut held, 1).unwrap();
        assert_eq!(take(&mut held, 1), Err(Full::Key));
    }

    #[test]
    fn all_keys_together_get_theirs() {
        let mut held = Held::default();
        for number in 0..CONNECTIONS {
            let key = key(number / CONNECTIONS_PER_KEY);
            held.take(key, (), spare()).unwrap();
        }
        assert_eq!(held.take(key(200), (), Usage::none()), Err(Full::All));
        // Its own place is still its own.
        let taken = held.take(key(0), (), Usage::none()).unwrap();
        assert_eq!(taken.instead_of, Some(()));
    }

    #[test]
    fn a_key_gives_up_the_connection_that_has_been_of_no_use_the_longest_and_no_other() {
        let mut held = Held::default();
        let usages: Vec<_> = (0..CONNECTIONS_PER_KEY).map(|_| spare()).collect();
        let calls: Vec<_> = usages.iter().map(Usage::begin).collect();
        for (number, usage) in usages.iter().enumerate() {
            held.take(key(1), number, Arc::clone(usage)).unwrap();
        }
        let foreign = held.take(key(2), 100, spare());
        assert_eq!(foreign.unwrap().instead_of, None);
        let take = |held: &mut Held<usize>| {
            let taken = held.take(key(1), 99, Usage::none());
            taken.map(|taken| taken.instead_of)
        };
        assert_eq!(take(&mut held), Err(Full::Key), "each carries a call");
        drop(calls);
        assert_eq!(take(&mut held), Err(Full::Key), "they have just ended");
        usages[5].lock().since -= SPARE_AFTER;
        usages[7].lock().since -= SPARE_AFTER * 2;
        assert_eq!(take(&mut held), Ok(Some(7)));
        assert_eq!(take(&mut held), Ok(Some(5)));
        assert_eq!(take(&mut held), Err(Full::Key));
    }
}
