//! The controller against simulated disks and applications.

use std::time::Duration;

use proptest::prelude::*;

use super::{Controller, FLOOR, LEARN, PATIENCE, Step};
use crate::pace::signs::Signs;

const MIB: u64 = 1 << 20;

/// A disk with so many bytes a second that answers later the busier it is, as a queue does.
#[derive(Clone, Copy)]
struct Disk {
    capacity: f64,
    /// How long an idle disk takes.
    service: f64,
}

impl Disk {
    fn latency(self, load: f64) -> Duration {
        let busy = (load / self.capacity).min(0.99);
        Duration::from_secs_f64(self.service / (1.0 - busy))
    }
}

const SSD: Disk = Disk {
    capacity: (1000 * MIB) as f64,
    service: 0.0004,
};
const SLOW: Disk = Disk {
    capacity: (150 * MIB) as f64,
    service: 0.004,
};

/// Runs looks of a run that reads as fast as it may on a disk, beside an application whose own
/// load is given for each; the rates and steps that came of them.
fn play(
    controller: &mut Controller,
    disk: Disk,
    application: impl IntoIterator<Item = u64>,
) -> Vec<(u64, Step)> {
    application
        .into_iter()
        .map(|load| {
            let free = (disk.capacity - load as f64).max(MIB as f64) as u64;
            let read = controller.rate().min(free);
            let signs = Signs {
                latency: Some(disk.latency((load + read) as f64)),
                read_rate: read,
                ..Signs::default()
            };
            let step = controller.step(&signs);
            (controller.rate(), step)
        })
        .collect()
}

fn quiet(looks: usize) -> Vec<u64> {
    vec![MIB; looks]
}

fn mean(rates: &[(u64, Step)]) -> u64 {
    rates.iter().map(|(rate, _)| rate).sum::<u64>() / rates.len() as u64
}

#[test]
fn it_begins_slowly_and_opens_when_nobody_suffers() {
    let mut controller = Controller::new();
    let rates = play(&mut controller, SSD, quiet(12));
    assert!(rates[..LEARN as usize - 1].iter().all(|it| it.0 == FLOOR));
    assert!(
        rates.iter().any(|(rate, _)| *rate >= 512 * MIB),
        "{rates:?}"
    );
}

#[test]
fn alone_on_a_disk_it_uses_a_good_part_of_it() {
    for disk in [SSD, SLOW] {
        let mut controller = Controller::new();
        play(&mut controller, disk, quiet(40));
        let rates = play(&mut controller, disk, quiet(400));
        let used = mean(&rates) as f64 / disk.capacity;
        assert!(used > 0.3, "{used}");
    }
}

#[test]
fn it_yields_soon_when_the_application_comes_and_recovers_when_it_goes() {
    let mut controller = Controller::new();
    play(&mut controller, SSD, quiet(60));
    let before = controller.rate();
    assert!(before > 200 * MIB, "{before}");
    let busy = play(&mut controller, SSD, vec![700 * MIB; 40]);
    let first = busy
        .iter()
        .position(|it| matches!(it.1, Step::Yielded(_)))
        .unwrap();
    assert!(first < PATIENCE as usize + 1, "after {first} looks");
    // Within three seconds the application has the disk back: it takes 700 of 1000 MiB/s.
    let settled = &busy[12..];
    assert!(mean(settled) < 150 * MIB, "{settled:?}");
    assert!(controller.yields());
    let after = play(&mut controller, SSD, quiet(60));
    assert!(after.iter().any(|it| it.1 == Step::Recovered));
    assert!(controller.rate() > before / 2, "{}", controller.rate());
}

#[test]
fn the_application_waits_little_longer_than_by_itself() {
    let mut controller = Controller::new();
    play(&mut controller, SLOW, vec![30 * MIB; 60]);
    let alone = SLOW.latency((30 * MIB) as f64).as_secs_f64();
    let mut late = 0;
    for _ in 0..400 {
        let (rate, _) = play(&mut controller, SLOW, [30 * MIB])[0];
        let with_us = SLOW.latency((30 * MIB + rate) as f64).as_secs_f64();
        late += usize::from(with_us > 3.0 * alone);
    }
    assert!(late < 40, "{late} of 400");
}

#[test]
fn a_disk_that_is_slow_for_good_becomes_the_baseline() {
    let mut controller = Controller::new();
    play(&mut controller, SSD, quiet(40));
    // The disk is another one from now on, ten times as slow.
    let worse = Disk {
        service: 0.01,
        ..SSD
    };
    let rates = play(&mut controller, worse, quiet(200));
    assert!(rates.iter().any(|it| it.0 == FLOOR), "it yields at first");
    let settled = mean(&rates[120..]);
    assert!(settled > 4 * FLOOR, "{settled}");
}

#[test]
fn waits_for_disks_and_processors_count_like_latency() {
    let signs = |io: f64, cpu: f64, rate: u64| Signs {
        io_stall: Some(io),
        cpu_stall: Some(cpu),
        read_rate: rate,
        ..Signs::default()
    };
    for (io, cpu) in [(0.5, 0.0), (0.0, 0.6)] {
        let mut controller = Controller::new();
        for _ in 0..10 {
            controller.step(&signs(0.05, 0.1, controller.rate()));
        }
        let before = controller.rate();
        controller.step(&signs(io, cpu, before));
        let step = controller.step(&signs(io, cpu, before));
        assert!(matches!(step, Step::Yielded(_)), "{step:?}");
        assert!(controller.rate() <= before, "{before}");
    }
}

#[test]
fn one_bad_look_is_chance() {
    let mut controller = Controller::new();
    play(&mut controller, SSD, quiet(8));
    let before = controller.rate();
    let rates = play(&mut controller, SSD, [990 * MIB, MIB, 990 * MIB, MIB]);
    assert!(rates.iter().all(|it| it.0 >= before), "{rates:?}");
}

#[test]
fn a_rate_that_nobody_uses_does_not_rise() {
    let mut controller = Controller::new();
    for _ in 0..100 {
        controller.step(&Signs {
            latency: Some(Duration::from_micros(100)),
            read_rate: MIB,
            ..Signs::default()
        });
    }
    assert_eq!(controller.rate(), FLOOR);
    assert!(!controller.yields());
}

#[test]
fn a_run_is_held_while_it_uses_up_its_rate() {
    let controller = Controller::new();
    let reads = |read_rate| {
        controller.holds(&Signs {
            read_rate,
            ..Signs::default()
        })
    };
    assert!(reads(FLOOR) && reads(FLOOR / 10 * 9));
    assert!(!reads(FLOOR / 2) && !reads(0));
}

#[test]
fn without_any_sign_it_opens() {
    let mut controller = Controller::new();
    for _ in 0..40 {
        controller.step(&Signs {
            read_rate: controller.rate(),
            ..Signs::default()
        });
    }
    assert!(controller.rate() > 100 << 30);
}

fn look() -> impl Strategy<Value = Signs> {
    let share = || proptest::option::of(0.0..=1.0f64);
    let latency = proptest::option::of(0..60_000_000u64);
    let rate = prop_oneof![Just(0), 0..(1u64 << 50), Just(u64::MAX)];
    (latency, share(), share(), rate).prop_map(|(latency, io_stall, cpu_stall, read_rate)| Signs {
        latency: latency.map(Duration::from_micros),
        io_stall,
        cpu_stall,
        read_rate,
    })
}

proptest! {
    #[test]
    fn whatever_is_seen_the_floor_holds(looks in proptest::collection::vec(look(), 1..300)) {
        let mut controller = Controller::new();
        for signs in looks {
            let before = controller.rate();
            let step = controller.step(&signs);
            prop_assert!(controller.rate() >= FLOOR);
            match step {
                Step::Yielded(reason) => {
                    prop_assert!(controller.rate() < before);
                    prop_assert!(controller.yields());
                    prop_assert!(reason.seen > reason.bound);
                }
                Step::Recovered => prop_assert!(!controller.yields()),
                Step::On => {}
            }
        }
    }

    #[test]
    fn it_always_recovers_once_all_is_well(
        looks in proptest::collection::vec(look(), 1..200),
        seed in 0..1000u64,
    ) {
        let mut controller = Controller::new();
        for signs in looks {
            controller.step(&signs);
        }
        // Quiet, and a little uneven.
        for number in 0..400u64 {
            let wobble = (number * 7 + seed) % 5;
            controller.step(&Signs {
                latency: Some(Duration::from_micros(200 + wobble * 20)),
                io_stall: Some(0.01),
                cpu_stall: Some(0.01),
                read_rate: controller.rate(),
            });
        }
        prop_assert!(controller.rate() > 16 * FLOOR, "{}", controller.rate());
    }
}
