//! A congestion controller for long links whose rate somebody knows.
//!
//! CUBIC takes every lost packet for a sign that the link is full. Over 100 ms with 1 % lost by a bad line it
//! settles near a hundredth of what the line carries. Whoever knows the rate can say so: then so much is in flight
//! that it takes a little more than one round trip at that rate, whatever is lost on the way.
//!
//! It is no way to share a link: what is lost because the rate is too high is sent again, at the same rate. Only when
//! nothing at all gets through for several round trips (RFC 9002, section 7.6) does it back off, to a sixteenth, and
//! comes back a sixteenth each round trip.

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn::congestion::{Controller, ControllerFactory};
use quinn_proto::RttEstimator;

/// Quarters of a round trip's bytes that are in flight: quinn sends in bursts, one for each turn of a timer of 1 ms, and
/// would leave a link idle that has nothing to spare.
const QUARTERS: u128 = 5;
/// Parts in which the window is given back after a link was down.
const PARTS: u64 = 16;
/// In packets; what RFC 9002 (section 7.2) starts with, and a window that works with late acknowledgements.
const LEAST_PACKETS: u64 = 10;

/// Makes controllers for a rate.
#[derive(Clone, Copy, Debug)]
pub(super) struct TargetRate {
    /// Of one connection.
    pub(super) bytes_per_second: u64,
}

impl ControllerFactory for TargetRate {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        Box::new(AtRate {
            bytes_per_second: self.bytes_per_second,
            mtu: u64::from(current_mtu),
            round_trip: None,
            parts: PARTS,
            round_began: now,
        })
    }
}

/// Keeps one round trip's worth of bytes in flight.
#[derive(Clone, Debug)]
struct AtRate {
    bytes_per_second: u64,
    mtu: u64,
    /// Not known before the first acknowledgement.
    round_trip: Option<Duration>,
    /// Of the window, `PARTS` being all of it.
    parts: u64,
    round_began: Instant,
}

impl AtRate {
    fn least(&self) -> u64 {
        LEAST_PACKETS * self.mtu
    }

    /// What a round trip takes longer than the shortest one is time in a queue, and a larger window would make that
    /// longer.
    fn measured(&mut self, shortest: Duration, now: Instant) {
        self.round_trip = Some(shortest);
        if now.saturating_duration_since(self.round_began) >= shortest {
            self.round_began = now;
            self.parts = (self.parts + 1).min(PARTS);
        }
    }
}

impl Controller for AtRate {
    fn on_ack(
        &mut self,
        now: Instant,
        _sent: Instant,
        _bytes: u64,
        _app_limited: bool,
        rtt: &RttEstimator,
    ) {
        self.measured(rtt.min(), now);
    }

    fn on_congestion_event(
        &mut self,
        now: Instant,
        _sent: Instant,
        is_persistent_congestion: bool,
        _lost_bytes: u64,
    ) {
        if is_persistent_congestion {
            self.parts = 1;
            self.round_began = now;
        }
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.mtu = u64::from(new_mtu);
    }

    fn window(&self) -> u64 {
        let Some(round_trip) = self.round_trip else {
            return self.least();
        };
        let bytes = u128::from(self.bytes_per_second) * round_trip.as_micros() / 1_000_000;
        let bytes = bytes * QUARTERS / 4;
        // quinn paces no window beyond 32 bits.
        let bytes = u64::try_from(bytes).map_or(u64::from(u32::MAX), |bytes| bytes);
        (bytes.min(u64::from(u32::MAX)) * self.parts / PARTS).max(self.least())
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        self.least()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use proptest::prelude::{ProptestConfig, prop_assert, proptest};
    use quinn::congestion::{Controller, ControllerFactory};

    use super::{AtRate, PARTS, TargetRate};

    const MILLISECOND: Duration = Duration::from_millis(1);
    /// A quarter more than 25 MB/s for 100 ms.
    const WINDOW: u64 = 3_125_000;

    fn at_rate(bytes_per_second: u64) -> AtRate {
        let now = Instant::now();
        let built = Arc::new(TargetRate { bytes_per_second }).build(now, 1200);
        *built.into_any().downcast().unwrap()
    }

    #[test]
    fn one_round_trip_at_the_rate_is_in_flight_whatever_is_lost() {
        let mut controller = at_rate(25_000_000);
        let now = Instant::now();
        assert_eq!(controller.window(), 12_000, "nothing is known yet");
        controller.measured(100 * MILLISECOND, now);
        assert_eq!(controller.window(), WINDOW);
        for _ in 0..1000 {
            controller.on_congestion_event(now, now, false, 1200);
        }
        assert_eq!(controller.window(), WINDOW);
    }

    #[test]
    fn a_link_that_was_down_is_filled_again_step_by_step() {
        let mut controller = at_rate(25_000_000);
        let mut now = Instant::now();
        let trip = 100 * MILLISECOND;
        controller.measured(trip, now);
        controller.on_congestion_event(now, now, true, 1_000_000);
        assert_eq!(controller.window(), WINDOW / PARTS);
        for part in 2..PARTS + 4 {
            // Many acknowledgements come within one round trip.
            for _ in 0..5 {
                now += trip / 5;
                controller.measured(trip, now);
            }
            assert_eq!(controller.window(), WINDOW * part.min(PARTS) / PARTS);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]
        #[test]
        fn no_rate_and_no_round_trip_makes_a_window_of_nothing_or_beyond_what_is_paced(
            rate in proptest::prelude::any::<u64>(),
            shortest in 0_u64..u64::MAX / 1_000_000,
            mtu in 1200_u16..9000,
        ) {
            let mut controller = at_rate(rate);
            controller.on_mtu_update(mtu);
            controller.measured(Duration::from_micros(shortest), Instant::now());
            let window = controller.window();
            prop_assert!((10 * u64::from(mtu)..=u64::from(u32::MAX)).contains(&window));
        }
    }
}
