//! What an index says besides the chaining values.

use std::num::NonZeroU32;
use std::time::Duration;

use lockstep_merkle::{Geometry, Root};

/// What an index says of the bytes that its values were measured on. Times are in milliseconds since
/// the Unix epoch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Facts {
    /// The file or device, as text that survives a reboot: at most
    /// [`MAX_DURABLE_TEXT`](lockstep_volume::MAX_DURABLE_TEXT) bytes.
    pub identity: String,
    /// Whatever its provider needs to find the snapshot again; opaque here, returned as it was
    /// given, at most [`MAX_DESCRIPTION_BYTES`](crate::MAX_DESCRIPTION_BYTES).
    pub snapshot: Vec<u8>,
    /// Size of the volume.
    pub geometry: Geometry,
    /// Root of the volume, and so of all values together.
    pub root: Root,
    /// How the values came about.
    pub lineage: Lineage,
    /// When the last full scan ended that these values go back to.
    pub last_full_scan_unix_ms: u64,
    /// When these values were complete.
    pub created_unix_ms: u64,
}

/// How much of the volume was read for the values of an index.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Lineage {
    /// All of it, in one run: proof level `full`.
    FullScan,
    /// What a delta named; the rest was inherited: proof level `delta`.
    Delta {
        /// Runs since the last full scan, this one included.
        runs: NonZeroU32,
    },
}

impl Lineage {
    /// Of values of which some are inherited from these.
    #[must_use]
    pub fn inherited(self) -> Self {
        let runs = match self {
            Self::FullScan => NonZeroU32::MIN,
            Self::Delta { runs } => runs.saturating_add(1),
        };
        Self::Delta { runs }
    }

    /// Delta runs since the last full scan; 0 right after one.
    pub fn delta_runs(self) -> u32 {
        match self {
            Self::FullScan => 0,
            Self::Delta { runs } => runs.get(),
        }
    }
}

/// How seldom a volume may be scanned as a whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FullScanEvery {
    /// At least one run of so many.
    pub runs: NonZeroU32,
    /// At least once in this time.
    pub age: Duration,
}

impl Facts {
    /// Whether the next run has to read everything.
    ///
    /// A clock that stands before the last full scan says nothing about its age, so then too.
    pub fn is_full_scan_due(&self, every: FullScanEvery, now_unix_ms: u64) -> bool {
        let Some(age_ms) = now_unix_ms.checked_sub(self.last_full_scan_unix_ms) else {
            return true;
        };
        let is_old = u128::from(age_ms) >= every.age.as_millis();
        // The next run would be one more than those counted.
        is_old || self.lineage.inherited().delta_runs() >= every.runs.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(delta_runs: u32) -> Facts {
        let lineage = (0..delta_runs).fold(Lineage::FullScan, |lineage, _| lineage.inherited());
        Facts {
            identity: String::new(),
            snapshot: Vec::new(),
            geometry: Geometry::new(0),
            root: Root::from_bytes([0; 32]),
            lineage,
            last_full_scan_unix_ms: 1000,
            created_unix_ms: 1000,
        }
    }

    #[test]
    fn every_tenth_run_is_a_full_scan() {
        let every = FullScanEvery {
            runs: NonZeroU32::new(10).unwrap(),
            age: Duration::MAX,
        };
        let due: Vec<u32> = (0..12)
            .filter(|runs| facts(*runs).is_full_scan_due(every, 1001))
            .collect();
        assert_eq!(due, [9, 10, 11], "nine deltas, then a full scan");
        let always = FullScanEvery {
            runs: NonZeroU32::MIN,
            ..every
        };
        assert!(facts(0).is_full_scan_due(always, 1001));
    }

    #[test]
    fn an_old_scan_and_a_clock_that_went_back_call_for_a_full_one() {
        let every = FullScanEvery {
            runs: NonZeroU32::MAX,
            age: Duration::from_millis(500),
        };
        assert!(!facts(1).is_full_scan_due(every, 1499));
        assert!(facts(1).is_full_scan_due(every, 1500));
        assert!(facts(1).is_full_scan_due(every, 999));
    }

    #[test]
    fn runs_are_counted_and_never_overflow() {
        assert_eq!(facts(3).lineage.delta_runs(), 3);
        let last = Lineage::Delta {
            runs: NonZeroU32::MAX,
        };
        assert_eq!(last.inherited(), last);
    }
}
