//! Who is served next: one delivery at a time for each destination, and none while it has just
//! failed. Pure: it is told the time.
//!
//! A destination that is down is so asked once a pause, not once for each report that waits for
//! it; and a report that it never takes lets those go first which were tried less.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::task::Id;

use crate::backoff::{Attempts, MAX_PAUSE, pause};
use crate::destination::Destination;
use crate::queue::Name;

/// Most deliveries at the same time.
const MAX_FLIGHTS: usize = 16;

#[derive(Default)]
pub(super) struct Lanes {
    flights: HashMap<Id, (Name, Destination)>,
    held: HashMap<Destination, Hold>,
}

/// A destination that failed lately.
struct Hold {
    failed: u32,
    until_unix_ms: u64,
}

/// What to start now, and how long until there may be more.
pub(super) struct Choice {
    pub(super) start: Vec<(Name, Destination)>,
    pub(super) sleep: Duration,
}

impl Lanes {
    pub(super) fn choose<'a>(
        &self,
        waiting: impl Iterator<Item = (&'a Name, &'a Destination, &'a Attempts)>,
        now_unix_ms: u64,
    ) -> Choice {
        let busy: HashSet<&Destination> = self.flights.values().map(|flight| &flight.1).collect();
        let mut first: HashMap<&Destination, (u32, &Name)> = HashMap::new();
        let mut sleep = Duration::MAX;
        for (name, to, attempts) in waiting {
            if busy.contains(to) {
                continue;
            }
            let wait = attempts.wait(now_unix_ms).max(self.hold(to, now_unix_ms));
            if !wait.is_zero() {
                sleep = sleep.min(wait);
                continue;
            }
            let this = (attempts.failed, name);
            let best = first.entry(to).or_insert(this);
            *best = this.min(*best);
        }
        let mut start: Vec<_> = first.into_iter().collect();
        start.sort_by_key(|(_, (_, name))| *name);
        start.truncate(MAX_FLIGHTS.saturating_sub(self.flights.len()));
        let start = start.into_iter();
        Choice {
            start: start
                .map(|(to, (_, name))| (name.clone(), to.clone()))
                .collect(),
            sleep,
        }
    }

    fn hold(&self, to: &Destination, now_unix_ms: u64) -> Duration {
        let Some(hold) = self.held.get(to) else {
            return Duration::ZERO;
        };
        let wait = Duration::from_millis(hold.until_unix_ms.saturating_sub(now_unix_ms));
        // A clock that was set back.
        if wait > MAX_PAUSE {
            Duration::ZERO
        } else {
            wait
        }
    }

    pub(super) fn started(&mut self, flight: Id, name: Name, to: Destination) {
        self.flights.insert(flight, (name, to));
    }

    pub(super) fn ended(&mut self, flight: Id) -> Option<(Name, Destination)> {
        self.flights.remove(&flight)
    }

    pub(super) fn reached(&mut self, to: &Destination) {
        self.held.remove(to);
    }

    pub(super) fn missed(&mut self, to: &Destination, now_unix_ms: u64, random: u32) {
        let hold = self.held.entry(to.clone()).or_insert(Hold {
            failed: 0,
            until_unix_ms: 0,
        });
        hold.failed = hold.failed.saturating_add(1);
        let pause = u64::try_from(pause(hold.failed, random).as_millis()).unwrap_or(u64::MAX);
        hold.until_unix_ms = now_unix_ms.saturating_add(pause);
    }
}

#[cfg(test)]
mod tests {
    use super::Lanes;
    use crate::backoff::Attempts;
    use crate::destination::Destination;
    use std::time::Duration;

    fn to(text: &str) -> Destination {
        Destination::try_from(text.to_owned()).unwrap()
    }

    fn item(name: &str, url: &str, failed: u32, next: u64) -> (String, Destination, Attempts) {
        let attempts = Attempts {
            failed,
            queued_unix_ms: 0,
            next_unix_ms: next,
        };
        (name.to_owned(), to(url), attempts)
    }

    fn chosen(
        lanes: &Lanes,
        items: &[(String, Destination, Attempts)],
        now: u64,
    ) -> (Vec<String>, Duration) {
        let choice = lanes.choose(items.iter().map(|(a, b, c)| (a, b, c)), now);
        let names = choice.start.into_iter().map(|(name, _)| name).collect();
        (names, choice.sleep)
    }

    #[test]
    fn one_for_each_destination_and_the_least_tried_first() {
        let items = [
            item("1", "http://a/", 4, 10),
            item("2", "http://a/", 0, 10),
            item("3", "http://a/", 0, 10),
            item("4", "http://b/", 9, 10),
            item("5", "http://c/", 0, 700),
        ];
        let (names, sleep) = chosen(&Lanes::default(), &items, 100);
        assert_eq!(names, ["2", "4"]);
        assert_eq!(sleep, Duration::from_millis(600));
    }

    #[test]
    fn a_destination_that_failed_rests_with_all_that_waits_for_it() {
        let items = [item("1", "http://a/", 1, 0), item("2", "http://a/", 0, 0)];
        let mut lanes = Lanes::default();
        lanes.missed(&to("http://a/"), 1000, 0);
        assert_eq!(
            chosen(&lanes, &items, 1000),
            (vec![], Duration::from_millis(2500))
        );
        assert_eq!(chosen(&lanes, &items, 3500).0, ["2"]);
        lanes.missed(&to("http://a/"), 3500, 0);
        assert_eq!(chosen(&lanes, &items, 3500).1, Duration::from_secs(5));
        lanes.reached(&to("http://a/"));
        assert_eq!(chosen(&lanes, &items, 3500).0, ["2"]);
    }

    #[test]
    fn a_clock_that_was_set_back_holds_nobody() {
        let mut lanes = Lanes::default();
        lanes.missed(&to("http://a/"), 1 << 40, 0);
        assert_eq!(chosen(&lanes, &[item("1", "http://a/", 0, 0)], 5).0, ["1"]);
    }
}
