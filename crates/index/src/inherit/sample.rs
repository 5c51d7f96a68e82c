//! Drawing a few of many numbers, all sets of that size being equally likely.

use std::collections::BTreeSet;

use blake3::OutputReader;

/// Sets this use of BLAKE3 apart from every other.
const CONTEXT: &str = "lockstep 2026 sample of unchanged pages";

/// What a sample is drawn from. A new one from the system's random numbers for each run: a provider
/// that could guess it could hide its lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SampleSeed(pub [u8; 32]);

/// `count` of the numbers below `below`, ascending, without repetition; all of them if there are not
/// more.
///
/// Robert Floyd's method: memory for the sample alone. Source: J. Bentley and B. Floyd, "Programming
/// pearls: a sample of brilliance", CACM 30 (1987).
pub(super) fn ranks(seed: SampleSeed, below: u64, count: u64) -> Vec<u64> {
    let mut numbers = Numbers::new(seed);
    let mut chosen = BTreeSet::new();
    for last in below.saturating_sub(count)..below {
        let number = numbers.up_to(last);
        if !chosen.insert(number) {
            chosen.insert(last);
        }
    }
    chosen.into_iter().collect()
}

/// Uniform numbers from a seed: BLAKE3 as an extendable output.
struct Numbers(OutputReader);

impl Numbers {
    fn new(seed: SampleSeed) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
        hasher.update(&seed.0);
        Self(hasher.finalize_xof())
    }

    /// One of `0..=last`. Draws again what does not fit instead of taking a remainder, which would
    /// favour small numbers.
    fn up_to(&mut self, last: u64) -> u64 {
        let mask = u64::MAX.checked_shr(last.leading_zeros()).unwrap_or(0);
        loop {
            let mut bytes = [0; 8];
            self.0.fill(&mut bytes);
            let number = u64::from_le_bytes(bytes) & mask;
            if number <= last {
                return number;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seed(number: u64) -> SampleSeed {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&number.to_le_bytes());
        SampleSeed(bytes)
    }

    #[test]
    fn a_sample_has_its_size_and_no_repetition() {
        for (below, count, size) in [
            (0, 64, 0),
            (1, 64, 1),
            (64, 64, 64),
            (65, 64, 64),
            (1 << 40, 9, 9),
        ] {
            let ranks = ranks(seed(7), below, count);
            assert_eq!(ranks.len(), size);
            assert!(ranks.windows(2).all(|pair| pair[0] < pair[1]));
            assert!(ranks.iter().all(|rank| *rank < below));
        }
    }

    #[test]
    fn the_seed_alone_decides() {
        assert_eq!(ranks(seed(1), 1000, 64), ranks(seed(1), 1000, 64));
        assert_ne!(ranks(seed(1), 1000, 64), ranks(seed(2), 1000, 64));
    }

    /// Each of the C(5,2) = 10 samples, 20,000 draws: chi-square with 9 degrees of freedom exceeds
    /// 33.7 once in 10,000 times, and these seeds are fixed.
    #[test]
    fn all_samples_are_equally_likely() {
        const DRAWS: u64 = 20_000;
        let mut seen = std::collections::BTreeMap::new();
        for draw in 0..DRAWS {
            *seen.entry(ranks(seed(draw), 5, 2)).or_insert(0_u32) += 1;
        }
        let expected = DRAWS as f64 / 10.0;
        let chi_square: f64 = seen
            .values()
            .map(|count| (f64::from(*count) - expected).powi(2) / expected)
            .sum();
        assert_eq!(seen.len(), 10);
        assert!(chi_square < 33.7, "{chi_square}");
    }
}
