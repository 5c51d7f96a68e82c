//! `--snapshot auto`: the best sound provider for a volume, and why not the others.

use std::path::Path;
use std::time::Duration;

use crate::provider::{Fitness, Verdict};
use crate::registry::Registry;

/// A pause that interactive use notices; longer ones are told.
pub const NOTICED_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause that is chosen without being asked for.
pub const MAX_AUTO_PAUSE: Duration = Duration::from_secs(30);
/// Of the space that an image may come to hold, this share must be free: one part in 20. With less,
/// hardly any change fits, and the volume's own writers would fail.
const FREE_SHARE: u64 = 20;

/// What every provider said of a volume.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Probed {
    /// The provider.
    pub provider: &'static str,
    /// What it said.
    pub verdict: Verdict,
}

/// The decision.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Choice {
    /// The best one, if there is any.
    pub chosen: Option<Chosen>,
    /// The others, and why not each of them.
    pub others: Vec<Rejected>,
}

/// The provider to use.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Chosen {
    /// Its name.
    pub provider: &'static str,
    /// What it gives and costs.
    pub fitness: Fitness,
    /// What should be told before it is used.
    pub cautions: Vec<Caution>,
}

/// A provider that was not chosen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rejected {
    /// Its name.
    pub provider: &'static str,
    /// Why not, as a clause.
    pub why: String,
}

/// Something that may surprise the volume's writers.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Caution {
    /// They will wait.
    #[error("writers wait about {} ms while {extents} extents are shared", pause.as_millis())]
    Pause {
        /// How long.
        pause: Duration,
        /// For how many extents; 0 if that is not why.
        extents: u64,
    },
    /// They may find the disk full.
    #[error("the snapshot may come to hold {at_risk} bytes, and only {free} are free")]
    Space {
        /// Bytes that it may come to hold.
        at_risk: u64,
        /// Bytes that are free.
        free: u64,
    },
}

/// Asks every provider about the volume, and decides.
#[must_use]
pub fn choose(volume: &Path, registry: &Registry) -> Choice {
    let probed = registry.iter().map(|provider| Probed {
        provider: provider.name(),
        verdict: provider.probe(volume),
    });
    decide(probed.collect())
}

/// Decides by what was said: of those that are fit, the one with the better image, then one that
/// tells what changed, then the shorter pause, then the one that comes first.
#[must_use]
pub fn decide(probed: Vec<Probed>) -> Choice {
    let mut others = Vec::new();
    let mut best: Option<(&'static str, Fitness)> = None;
    for Probed { provider, verdict } in probed {
        let fitness = match sound(verdict) {
            Ok(fitness) => fitness,
            Err(why) => {
                others.push(Rejected { provider, why });
                continue;
            }
        };
        let (loser, winner) = match best.take() {
            None => (None, (provider, fitness)),
            Some(held) if is_better(&fitness, &held.1) => (Some(held), (provider, fitness)),
            Some(held) => (Some((provider, fitness)), held),
        };
        others.extend(loser.map(|(provider, fitness)| Rejected {
            provider,
            why: why_not(&fitness, winner.0, &winner.1),
        }));
        best = Some(winner);
    }
    Choice {
        chosen: best.map(|(provider, fitness)| Chosen {
            provider,
            cautions: cautions(&fitness),
            fitness,
        }),
        others,
    }
}

fn sound(verdict: Verdict) -> Result<Fitness, String> {
    let fitness = match verdict {
        Verdict::Fit(fitness) => fitness,
        Verdict::Unfit { why } => return Err(why),
    };
    let space = fitness.space;
    if space.free < space.at_risk.div_ceil(FREE_SHARE) {
        let (at_risk, free) = (space.at_risk, space.free);
        return Err(format!(
            "it may come to hold {at_risk} bytes, and only {free} are free"
        ));
    }
    if fitness.cost.pause > MAX_AUTO_PAUSE {
        let (pause, limit) = (fitness.cost.pause.as_secs(), MAX_AUTO_PAUSE.as_secs());
        return Err(format!(
            "writers would wait about {pause} s; more than {limit} s must be asked for"
        ));
    }
    Ok(fitness)
}

fn is_better(one: &Fitness, other: &Fitness) -> bool {
    let merit = |fitness: &Fitness| (fitness.atomicity, fitness.delta);
    let pause = |fitness: &Fitness| fitness.cost.pause;
    merit(one) > merit(other) || (merit(one) == merit(other) && pause(one) < pause(other))
}

fn why_not(loser: &Fitness, name: &str, winner: &Fitness) -> String {
    if loser.atomicity < winner.atomicity {
        return format!("the image of {name} shows one instant even of what is not flushed");
    }
    if loser.delta < winner.delta {
        return format!("{name} tells what changed");
    }
    if loser.cost.pause > winner.cost.pause {
        return format!("writers wait longer for it than for {name}");
    }
    format!("{name} does as well and comes first")
}

/// What should be told before a provider is used, chosen or asked for.
#[must_use]
pub fn cautions(fitness: &Fitness) -> Vec<Caution> {
    let (cost, space) = (fitness.cost, fitness.space);
    let pause = (cost.pause >= NOTICED_PAUSE).then(|| Caution::Pause {
        pause: cost.pause,
        extents: cost.extents.unwrap_or(0),
    });
    let full = (space.free < space.at_risk).then_some(Caution::Space {
        at_risk: space.at_risk,
        free: space.free,
    });
    pause.into_iter().chain(full).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::{Atomicity, Cost, Space, Told};

    fn fit(atomicity: Atomicity, extents: u64, delta: Told) -> Verdict {
        Verdict::Fit(Fitness {
            atomicity,
            cost: Cost::of_extents(extents),
            space: Space {
                at_risk: 100,
                free: 1000,
            },
            delta,
        })
    }

    fn decided<const N: usize>(verdicts: [(&'static str, Verdict); N]) -> Choice {
        let probed = verdicts.map(|(provider, verdict)| Probed { provider, verdict });
        decide(probed.into())
    }

    fn chosen(choice: &Choice) -> &'static str {
        choice.chosen.as_ref().map_or("none", |one| one.provider)
    }

    #[test]
    fn one_instant_beats_a_power_cut_however_fast_that_is() {
        let choice = decided([
            ("btrfs", fit(Atomicity::PowerCut, 0, Told::Changes)),
            ("reflink", fit(Atomicity::Instant, 10_000, Told::Changes)),
            ("lvm", Verdict::unfit("it is a file")),
        ]);
        assert_eq!(chosen(&choice), "reflink");
        let whys: Vec<(&str, &str)> = choice
            .others
            .iter()
            .map(|other| (other.provider, other.why.as_str()))
            .collect();
        let instant = "the image of reflink shows one instant even of what is not flushed";
        assert_eq!(whys, [("btrfs", instant), ("lvm", "it is a file")]);
    }

    #[test]
    fn then_who_tells_what_changed_then_the_shorter_pause_then_the_first() {
        let fit = |extents, delta| fit(Atomicity::Instant, extents, delta);
        let choice = decided([
            ("a", fit(1, Told::Nothing)),
            ("b", fit(9000, Told::Changes)),
        ]);
        assert_eq!(chosen(&choice), "b");
        let choice = decided([("a", fit(9, Told::Changes)), ("b", fit(8, Told::Changes))]);
        assert_eq!(chosen(&choice), "b");
        assert!(choice.others[0].why.contains("wait longer"));
        let choice = decided([("a", fit(8, Told::Changes)), ("b", fit(8, Told::Changes))]);
        assert_eq!(chosen(&choice), "a");
        assert_eq!(choice.others[0].why, "a does as well and comes first");
    }

    #[test]
    fn minutes_of_pause_and_a_full_disk_are_not_chosen_unasked() {
        let long = fit(Atomicity::Instant, 50_000_000, Told::Changes);
        let mut full = fit(Atomicity::Instant, 1, Told::Changes);
        if let Verdict::Fit(fitness) = &mut full {
            fitness.space.free = 4;
        }
        let choice = decided([("long", long), ("full", full)]);
        assert_eq!(choice.chosen, None);
        assert!(choice.others[0].why.contains("2500 s"));
        assert!(choice.others[1].why.contains("only 4 are free"));
        assert_eq!(decided([]).chosen, None);
    }

    #[test]
    fn a_pause_that_is_noticed_and_space_that_may_run_out_are_told() {
        let mut verdict = fit(Atomicity::Instant, 40_000, Told::Changes);
        if let Verdict::Fit(fitness) = &mut verdict {
            fitness.space.free = 50;
        }
        let cautions = decided([("a", verdict)]).chosen.unwrap().cautions;
        let texts: Vec<String> = cautions.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "writers wait about 2000 ms while 40000 extents are shared",
                "the snapshot may come to hold 100 bytes, and only 50 are free",
            ]
        );
        let none = decided([("a", fit(Atomicity::Instant, 10, Told::Changes))]);
        assert_eq!(none.chosen.unwrap().cautions, []);
    }
}
