//! How much may still change before a snapshot, or its volume's writers, find the disk full.

use std::time::{Duration, Instant};

/// Of what an image may come to hold, the part that must still be free: below the first one the user
/// is told, below the second the image is given up before the volume's writers find the disk full.
const TOLD_PART: u64 = 10;
const NEEDED_PART: u64 = 33;
/// It is given up too if at the present rate nothing is left after this time, unless there is more
/// than it may ever hold: a first copy beside its source writes as fast as the disk can.
const NEEDED_TIME: Duration = Duration::from_secs(2);
/// How often it is looked at, and how much longer than the look itself the wait between two is.
const EVERY: Duration = Duration::from_millis(200);
const WAIT_FACTOR: u32 = 20;

/// How the image does.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Room {
    /// It can be read to the end.
    Enough,
    /// So many bytes are left beside it: worth telling.
    Little(u64),
    /// So many: its volume's writers will find the disk full.
    TooLittle(u64),
    /// Its data are gone, for this reason.
    Lost(String),
}

/// What was seen of it so far.
#[derive(Debug)]
pub(super) struct RoomWatch {
    next: Instant,
    seen: Option<(Instant, u64)>,
    told: bool,
}

impl RoomWatch {
    pub(super) fn new(now: Instant) -> RoomWatch {
        RoomWatch {
            next: now,
            seen: None,
            told: false,
        }
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        now >= self.next
    }

    /// A look has begun and ended then.
    pub(super) fn looked(&mut self, begun: Instant, ended: Instant) {
        self.next = ended + EVERY.max((ended - begun) * WAIT_FACTOR);
    }

    /// So many bytes are left beside an image that may come to hold `at_risk`.
    pub(super) fn judge(&mut self, now: Instant, left: u64, at_risk: u64) -> Room {
        let before = self.seen.replace((now, left));
        let ends_soon = left < at_risk && before.is_some_and(|before| ends_soon(before, now, left));
        if left < at_risk / NEEDED_PART || ends_soon {
            Room::TooLittle(left)
        } else if left < at_risk / TOLD_PART {
            Room::Little(left)
        } else {
            Room::Enough
        }
    }

    /// Whether this is the first time that there is something to tell.
    pub(super) fn tells_first(&mut self) -> bool {
        !std::mem::replace(&mut self.told, true)
    }
}

fn ends_soon((then, before): (Instant, u64), now: Instant, left: u64) -> bool {
    let taken = u128::from(before.saturating_sub(left));
    let time = (now - then).as_micros();
    taken * NEEDED_TIME.as_micros() > u128::from(left) * time
}

#[cfg(test)]
mod tests {
    use super::{EVERY, Room, RoomWatch};
    use std::time::{Duration, Instant};

    fn judged(left: u64, at_risk: u64) -> Room {
        let now = Instant::now();
        RoomWatch::new(now).judge(now, left, at_risk)
    }

    #[test]
    fn room_is_told_below_a_tenth_and_not_enough_below_a_thirty_third() {
        assert_eq!(judged(100, 1000), Room::Enough);
        assert_eq!(judged(99, 1000), Room::Little(99));
        assert_eq!(judged(30, 1000), Room::Little(30));
        assert_eq!(judged(29, 1000), Room::TooLittle(29));
        assert_eq!(judged(0, 0), Room::Enough, "nothing can come to be held");
    }

    #[test]
    fn a_fast_writer_is_seen_coming() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let mut watch = RoomWatch::new(start);
        assert_eq!(watch.judge(start, 1000, 1000), Room::Enough);
        assert_eq!(watch.judge(start + second, 700, 1000), Room::Enough);
        assert_eq!(
            watch.judge(start + 2 * second, 400, 1000),
            Room::TooLittle(400)
        );
    }

    #[test]
    fn a_fast_writer_is_let_be_while_there_is_room_for_all_that_the_image_may_hold() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let mut watch = RoomWatch::new(start);
        assert_eq!(watch.judge(start, 4000, 1000), Room::Enough);
        assert_eq!(watch.judge(start + second, 1000, 1000), Room::Enough);
        assert_eq!(
            watch.judge(start + 2 * second, 999, 1000),
            Room::Enough,
            "nothing is taken any more"
        );
    }

    #[test]
    fn looks_that_take_long_are_seldom() {
        let start = Instant::now();
        let mut watch = RoomWatch::new(start);
        assert!(watch.is_due(start));
        watch.looked(start, start);
        assert!(!watch.is_due(start + EVERY / 2));
        assert!(watch.is_due(start + EVERY));
        watch.looked(start, start + EVERY);
        assert!(!watch.is_due(start + 2 * EVERY));
        assert!(watch.tells_first() && !watch.tells_first());
    }
}
