//! What the kernel's counters say of the time between two looks at them.

use std::time::Duration;

use lockstep_merkle::EXTENT_SIZE;

use crate::limits::PREFETCH_EXTENTS;

/// Fewer reads than this tell nothing of a disk.
const MIN_READS: u64 = 8;
/// A run reads larger pieces than this, which take their time on any disk; applications mostly
/// read smaller ones.
const SMALL_READ: u64 = 64 << 10;
/// What a run may have asked for in advance.
const AHEAD: u64 = PREFETCH_EXTENTS * EXTENT_SIZE as u64;
const SECTOR: u64 = 512;

/// A disk's counters since it was found (`/sys/block/DISK/stat`).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct DiskCounts {
    reads: u64,
    sectors: u64,
    /// Milliseconds that reads took, all added up.
    read_ms: u64,
}

impl DiskCounts {
    pub(super) fn parse(text: &str) -> Option<DiskCounts> {
        let mut fields = text.split_ascii_whitespace();
        Some(DiskCounts {
            reads: fields.next()?.parse().ok()?,
            sectors: fields.nth(1)?.parse().ok()?,
            read_ms: fields.next()?.parse().ok()?,
        })
    }

    /// What was read since the counters were these.
    fn since(self, before: DiskCounts) -> Option<DiskCounts> {
        Some(DiskCounts {
            reads: self.reads.checked_sub(before.reads)?,
            sectors: self.sectors.checked_sub(before.sectors)?,
            read_ms: self.read_ms.checked_sub(before.read_ms)?,
        })
    }

    /// How long a read took, on the average.
    fn latency(self) -> Option<Duration> {
        let micros = self.read_ms.saturating_mul(1000);
        (self.reads >= MIN_READS).then(|| Duration::from_micros(micros / self.reads))
    }

    /// Whether all of it may have been read by a run that read so many bytes.
    fn may_be_ours(self, ours: u64) -> bool {
        let bytes = self.sectors.saturating_mul(SECTOR);
        let are_large = bytes / self.reads.max(1) > SMALL_READ;
        are_large && bytes <= ours.saturating_add(ours / 8).saturating_add(AHEAD)
    }
}

/// Microseconds in which some task waited, of a file of pressure (PSI).
pub(super) fn parse_pressure(text: &str) -> Option<u64> {
    let some = text.lines().find_map(|line| line.strip_prefix("some "))?;
    let mut fields = some.split_ascii_whitespace();
    fields.find_map(|field| field.strip_prefix("total=")?.parse().ok())
}

/// Time in which some task waited for something: of the whole machine, and of the control group
/// that this process is in, if that has a count of its own.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Pressure {
    pub(super) all: Option<u64>,
    pub(super) own: Option<u64>,
}

impl Pressure {
    /// The share of the time, 0 to 1, that some task waited since then: of others, as far as they
    /// can be told from us.
    fn share_since(self, before: Pressure, passed: Duration) -> Option<f64> {
        let grown = |now: Option<u64>, before: Option<u64>| now?.checked_sub(before?);
        let all = grown(self.all, before.all)?;
        let own = grown(self.own, before.own).unwrap_or(0);
        let passed = u64::try_from(passed.as_micros())
            .ok()
            .filter(|us| *us > 0)?;
        #[expect(
            clippy::cast_precision_loss,
            reason = "a share needs no more than 52 bits"
        )]
        let share = all.saturating_sub(own) as f64 / passed as f64;
        Some(share.clamp(0.0, 1.0))
    }
}

/// All counters at one moment.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Counts {
    pub(super) disks: Vec<Option<DiskCounts>>,
    pub(super) io: Pressure,
    pub(super) cpu: Pressure,
    /// Bytes that the run has read.
    pub(super) bytes_read: u64,
}

/// What they say of the time between two moments.
#[derive(Clone, Copy, PartialEq, Default, Debug)]
pub(super) struct Signs {
    /// How long a read of the slowest disk took; none if hardly anything was read, or nothing by
    /// others.
    pub(super) latency: Option<Duration>,
    /// Of the time, the share in which some task waited for a disk.
    pub(super) io_stall: Option<f64>,
    /// The same for a processor.
    pub(super) cpu_stall: Option<f64>,
    /// Bytes a second that the run read.
    pub(super) read_rate: u64,
}

impl Counts {
    pub(super) fn since(&self, before: &Counts, passed: Duration) -> Signs {
        let disks = self.disks.iter().zip(&before.disks);
        let read_bytes = self.bytes_read.saturating_sub(before.bytes_read);
        let micros = passed.as_micros().max(1);
        let rate = u128::from(read_bytes) * 1_000_000 / micros;
        let io_stall = self.io.share_since(before.io, passed);
        // Large reads by ourselves say nothing of others; their waits do, if the kernel tells them.
        let counts = |read: &DiskCounts| io_stall.is_none() || !read.may_be_ours(read_bytes);
        Signs {
            latency: disks
                .filter_map(|(now, before)| (*now)?.since((*before)?))
                .filter(counts)
                .filter_map(DiskCounts::latency)
                .max(),
            io_stall,
            cpu_stall: self.cpu.share_since(before.cpu, passed),
            read_rate: u64::try_from(rate).unwrap_or(u64::MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "    1234       10   98765      617     5000        0   400000     9000        2     3000     9617\n";
    const PRESSURE: &str = "some avg10=0.00 avg60=0.02 avg300=0.11 total=2284654900\n\
                            full avg10=0.00 avg60=0.00 avg300=0.06 total=280457944\n";

    #[test]
    fn the_kernels_files_are_understood() {
        let counts = DiskCounts::parse(STAT).unwrap();
        assert_eq!(
            (counts.reads, counts.sectors, counts.read_ms),
            (1234, 98765, 617)
        );
        assert_eq!(parse_pressure(PRESSURE), Some(2_284_654_900));
        for text in ["", "\n", "some", "some total=", "full total=1", "1 2 x"] {
            assert_eq!(parse_pressure(text), None, "{text}");
            assert_eq!(DiskCounts::parse(text), None, "{text}");
        }
    }

    fn disk(reads: u64, read_ms: u64) -> Option<DiskCounts> {
        Some(DiskCounts {
            reads,
            sectors: reads * 8,
            read_ms,
        })
    }

    #[test]
    fn the_slowest_disk_and_the_longest_waits_count() {
        let before = Counts {
            disks: vec![disk(100, 100), disk(0, 0), None],
            io: Pressure {
                all: Some(1_000_000),
                own: Some(500_000),
            },
            cpu: Pressure {
                all: Some(7),
                own: None,
            },
            bytes_read: 1 << 20,
        };
        let now = Counts {
            disks: vec![disk(200, 600), disk(1000, 100), disk(10, 10_000)],
            io: Pressure {
                all: Some(1_300_000),
                own: Some(600_000),
            },
            cpu: Pressure {
                all: Some(2_000_007),
                own: None,
            },
            bytes_read: 5 << 20,
        };
        let signs = now.since(&before, Duration::from_millis(500));
        assert_eq!(signs.latency, Some(Duration::from_millis(5)));
        assert_eq!(signs.io_stall, Some(0.4));
        assert_eq!(signs.cpu_stall, Some(1.0));
        assert_eq!(signs.read_rate, 8 << 20);
    }

    #[test]
    fn large_reads_of_our_own_are_no_sign() {
        let pressure = |all| Pressure { all, own: None };
        let counts = |reads, bytes: u64, all| Counts {
            disks: vec![Some(DiskCounts {
                reads,
                sectors: bytes / SECTOR,
                read_ms: 12 * reads,
            })],
            io: pressure(all),
            ..Counts::default()
        };
        let latency = |reads, bytes, ours, all| {
            let now = Counts {
                bytes_read: ours,
                ..counts(reads, bytes, all)
            };
            let signs = now.since(&counts(0, 0, all), Duration::from_millis(250));
            signs.latency.map(|latency| latency.as_millis())
        };
        let mib = 1 << 20;
        assert_eq!(latency(20, 20 * mib, 20 * mib, Some(0)), None);
        assert_eq!(latency(20, 27 * mib, 20 * mib, Some(0)), None, "in advance");
        // More than we read; small reads; and where nothing else could tell of others.
        assert_eq!(latency(40, 40 * mib, 20 * mib, Some(0)), Some(12));
        assert_eq!(latency(1000, 20 * mib, 20 * mib, Some(0)), Some(12));
        assert_eq!(latency(20, 20 * mib, 20 * mib, None), Some(12));
    }

    #[test]
    fn what_cannot_be_told_is_not_told() {
        let nothing = Counts::default();
        let signs = nothing.since(&nothing, Duration::ZERO);
        assert_eq!(signs, Signs::default());
        let few = Counts {
            disks: vec![disk(MIN_READS - 1, 1000)],
            ..Counts::default()
        };
        let before = Counts {
            disks: vec![disk(0, 0)],
            ..Counts::default()
        };
        assert_eq!(few.since(&before, Duration::from_secs(1)).latency, None);
        // Counters of a disk that came anew.
        assert_eq!(before.since(&few, Duration::from_secs(1)).latency, None);
    }
}
