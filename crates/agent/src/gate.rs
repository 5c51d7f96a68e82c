//! How much of something costly goes on at once: for one key, and for all of them.

use std::collections::HashMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lockstep_cluster::key::PublicKey;
use lockstep_protocol::{Failure, FailureKind};

/// Lets so many in at once; the others wait for their turn.
pub(crate) struct Gate {
    what: &'static str,
    per_key: usize,
    all: usize,
    patience: Duration,
    inside: Mutex<PerKey>,
    fewer: Condvar,
}

/// How many there are, for each key and in all.
#[derive(Default)]
pub(crate) struct PerKey {
    pub(crate) by_key: HashMap<[u8; 32], usize>,
    pub(crate) all: usize,
}

impl PerKey {
    pub(crate) fn of(&self, key: &[u8; 32]) -> usize {
        self.by_key.get(key).copied().unwrap_or(0)
    }

    pub(crate) fn begin(&mut self, key: [u8; 32]) {
        *self.by_key.entry(key).or_default() += 1;
        self.all += 1;
    }

    /// A key of which nothing is left is forgotten.
    pub(crate) fn end(&mut self, key: [u8; 32]) {
        self.all -= 1;
        if let Some(of_key) = self.by_key.get_mut(&key) {
            *of_key -= 1;
            if *of_key == 0 {
                self.by_key.remove(&key);
            }
        }
    }
}

/// One that is inside, until this is dropped.
pub(crate) struct Pass<'a> {
    gate: &'a Gate,
    key: [u8; 32],
}

impl Gate {
    /// `what` is counted, in a word for messages.
    pub(crate) fn new(what: &'static str, per_key: usize, all: usize, patience: Duration) -> Self {
        Self {
            what,
            per_key,
            all,
            patience,
            inside: Mutex::default(),
            fewer: Condvar::new(),
        }
    }

    /// Waits for a place.
    ///
    /// # Errors
    /// `Busy`.
    pub(crate) fn enter(&self, key: &PublicKey) -> Result<Pass<'_>, Failure> {
        let key = *key.as_bytes();
        let is_full =
            |inside: &mut PerKey| inside.all >= self.all || inside.of(&key) >= self.per_key;
        let (mut inside, _) = self
            .fewer
            .wait_timeout_while(self.inside(), self.patience, is_full)
            .unwrap_or_else(PoisonError::into_inner);
        if is_full(&mut inside) {
            return Err(Failure::new(
                FailureKind::Busy,
                format!("{} goes on as often as it may at once", self.what),
            )
            .hint("wait a moment"));
        }
        inside.begin(key);
        Ok(Pass { gate: self, key })
    }

    fn inside(&self) -> MutexGuard<'_, PerKey> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        let mut inside = self.gate.inside();
        inside.end(self.key);
        drop(inside);
        self.gate.fewer.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::Gate;
    use lockstep_cluster::key::PublicKey;
    use lockstep_protocol::FailureKind;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    fn key(number: u8) -> PublicKey {
        PublicKey::from_bytes([number; 32])
    }

    #[test]
    fn a_key_has_its_share_and_all_have_theirs() {
        let gate = Gate::new("it", 2, 3, Duration::from_millis(10));
        let refused = |number| gate.enter(&key(number)).err().map(|failure| failure.kind);
        let first = gate.enter(&key(1)).unwrap();
        let _second = gate.enter(&key(1)).unwrap();
        assert_eq!(refused(1), Some(FailureKind::Busy));
        let other = gate.enter(&key(2)).unwrap();
        assert_eq!(refused(2), Some(FailureKind::Busy), "three of all");
        drop(other);
        assert_eq!(refused(2), None);
        drop(first);
        assert_eq!(refused(1), None);
        assert_eq!(gate.inside().all, 1);
        assert!(!gate.inside().by_key.contains_key(key(2).as_bytes()));
    }

    #[test]
    fn many_who_come_at_once_have_their_turns() {
        let gate = Gate::new("it", 2, 3, Duration::from_secs(60));
        let (now, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for number in 0..24 {
                let (gate, now, most) = (&gate, &now, &most);
                scope.spawn(move || {
                    let _pass = gate.enter(&key(number % 3)).unwrap();
                    most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    std::thread::sleep(Duration::from_millis(5));
                    now.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        assert!(most.load(Ordering::SeqCst) <= 3);
    }
}
