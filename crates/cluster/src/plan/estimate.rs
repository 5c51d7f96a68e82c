//! How much would be sent and how long it would take, from what was measured.

use serde::{Deserialize, Serialize};

/// Bytes of a volume for which one digest of [`DIGEST_BYTES`] crosses the link.
const GROUP_BYTES: u64 = 64 * 1024;
const DIGEST_BYTES: u64 = 32;

/// How fast a run to one secondary goes: bytes a second, and times, as they were measured.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Rates {
    /// The primary reads and hashes.
    pub scan_primary: f64,
    /// The secondary reads and hashes.
    pub scan_secondary: f64,
    /// The link carries.
    pub link: f64,
    /// The secondary writes, and reads back what it wrote.
    pub write: f64,
    /// What packing leaves of data, from 0 to 1.
    pub packed: f64,
    /// Seconds that `stop`, `configure` and `start` took last time; 0 if they never ran.
    pub hooks_seconds: f64,
}

/// How long a resync would take.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Estimate {
    /// Seconds from its begin to the mark; none if something was never measured.
    pub seconds: Option<f64>,
    /// Seconds in which the secondary's services are down.
    pub downtime_seconds: Option<f64>,
}

impl Rates {
    /// Bytes that would cross the link: every digest, and what differs, packed, without zeros.
    #[must_use]
    pub fn bytes_to_send(&self, size: u64, differing: u64, zero: u64) -> u64 {
        let digests = size.div_ceil(GROUP_BYTES).saturating_mul(DIGEST_BYTES);
        let packed = if (0.0..=1.0).contains(&self.packed) {
            self.packed
        } else {
            1.0
        };
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "an estimate, between 0 and the bytes that differ"
        )]
        let data = (differing.saturating_sub(zero) as f64 * packed).ceil() as u64;
        digests.saturating_add(data)
    }

    /// How long it would take: the stages overlap, so the slowest one counts.
    #[must_use]
    pub fn estimate(&self, size: u64, differing: u64, to_send: u64) -> Estimate {
        let stages = [
            seconds(size, self.scan_primary),
            seconds(size, self.scan_secondary),
            seconds(to_send, self.link),
            seconds(differing, self.write),
        ];
        let slowest = stages
            .into_iter()
            .try_fold(0.0_f64, |slowest, stage| Some(slowest.max(stage?)));
        // What is equal is not written, so nothing has to be stopped for it.
        let downtime = match differing {
            0 => slowest.map(|_| 0.0),
            _ => slowest.map(|slowest| slowest + self.hooks_seconds.max(0.0)),
        };
        Estimate {
            seconds: slowest,
            downtime_seconds: downtime,
        }
    }
}

/// Nothing takes no time; anything else takes an unknown one if its rate is unknown.
fn seconds(bytes: u64, rate: f64) -> Option<f64> {
    if bytes == 0 {
        return Some(0.0);
    }
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    let seconds = bytes as f64 / rate;
    (rate > 0.0 && seconds.is_finite()).then_some(seconds)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) const RATES: Rates = Rates {
        scan_primary: 2e9,
        scan_secondary: 1e9,
        link: 1e8,
        write: 4e8,
        packed: 0.5,
        hooks_seconds: 3.0,
    };

    #[test]
    fn the_slowest_stage_counts() {
        let scan = RATES.estimate(10_000_000_000, 4096, 1000);
        assert_eq!(
            scan,
            Estimate {
                seconds: Some(10.0),
                downtime_seconds: Some(13.0)
            }
        );
        let link = RATES.estimate(10_000_000_000, 4_000_000_000, 2_000_000_000);
        assert_eq!(link.seconds, Some(20.0));
        let disk = RATES.estimate(10_000_000_000, 8_000_000_000, 1000);
        assert_eq!(disk.seconds, Some(20.0));
        let equal = RATES.estimate(10_000_000_000, 0, 1000);
        assert_eq!(equal.downtime_seconds, Some(0.0));
    }

    #[test]
    fn what_was_never_measured_makes_no_estimate() {
        for link in [0.0, -1.0, f64::NAN] {
            let unknown = Rates { link, ..RATES }.estimate(4096, 4096, 100);
            assert_eq!(
                unknown,
                Estimate {
                    seconds: None,
                    downtime_seconds: None
                }
            );
        }
    }

    #[test]
    fn zeros_are_not_sent_and_digests_are() {
        assert_eq!(RATES.bytes_to_send(64 * 1024 + 1, 0, 0), 64);
        assert_eq!(
            RATES.bytes_to_send(1 << 30, 1 << 20, 1 << 19),
            (1 << 19) + (1 << 18)
        );
        assert_eq!(RATES.bytes_to_send(0, 0, 0), 0);
        let odd = Rates {
            packed: f64::NAN,
            ..RATES
        };
        assert_eq!(odd.bytes_to_send(0, 4096, 0), 4096);
    }
}
