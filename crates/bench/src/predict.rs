//! From the rates of the stages to the time of a resync. Pure.
//!
//! ```text
//!   source disk ──► source processors ──► link ──► target processors ──► target disk
//!   read            hash, pack, send      bytes    receive, hash twice   read, write, read back
//! ```
//!
//! The stages of a run overlap, so a run takes about as long as the busiest of these parts. What one
//! part does adds up: stages share the processors of their machine, and reading, writing and reading
//! back share a disk. Where both ends are on one machine they share its processors too.

/// Bytes a second and processor time of one end.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Side {
    /// Processors that work at once.
    pub cores: f64,
    /// Processor seconds to hash a byte.
    pub hash_cpu: f64,
    /// Bytes a second that a scan reads.
    pub scan: f64,
    /// Processor seconds to read a byte.
    pub read_cpu: f64,
    /// Bytes a second from the medium: reading back.
    pub read_back: f64,
    /// Bytes a second written.
    pub write: WriteRate,
}

/// How fast a disk takes data.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum WriteRate {
    /// Bytes a second, by a test.
    Measured(f64),
    /// Taken to be as fast as reading back.
    LikeReading,
}

/// A link's measure.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct LinkRates {
    /// Bytes a second, from the source to the target.
    pub rate: f64,
    /// Processor seconds to send a byte.
    pub sender_cpu: f64,
    /// Processor seconds to receive a byte.
    pub receiver_cpu: f64,
}

/// What packing a volume's pages takes.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct PackRates {
    /// Processor seconds for a byte that goes in.
    pub cpu: f64,
    /// Bytes that come out for each that goes in.
    pub share: f64,
    /// The part of the data that is not zeros, which alone is packed and sent.
    pub data_share: f64,
}

/// Everything that was measured.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Rates {
    /// The end that has the right volume.
    pub source: Side,
    /// The end that is made equal.
    pub target: Side,
    /// Whether both are one machine.
    pub one_machine: bool,
    /// Whether both volumes are on one disk.
    pub one_disk: bool,
    /// What is between them; nothing, where they are one process.
    pub link: Option<LinkRates>,
    /// Packing.
    pub pack: PackRates,
}

/// What a resync is of.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Job {
    /// Bytes of the volume.
    pub size: f64,
    /// Bytes of it that are data and no hole.
    pub data: f64,
    /// The part of the data that differs, 0 to 1.
    pub changed: f64,
}

/// A resync of which kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// To a target that has nothing yet.
    Full,
    /// To one that differs in part.
    Differential,
}

impl Kind {
    /// Its word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Kind::Full => "full",
            Kind::Differential => "differential",
        }
    }
}

/// What can be the busiest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// The disk of the source.
    SourceDisk,
    /// The processors there.
    SourceCpu,
    /// What is between the two.
    Link,
    /// The processors of the target's machine.
    TargetCpu,
    /// Its disk.
    TargetDisk,
    /// The processors of both, if they are one machine.
    Cpu,
    /// The disk of both, if they share one.
    Disk,
}

impl Part {
    /// Its name.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Part::SourceDisk => "source disk",
            Part::SourceCpu => "source processors",
            Part::Link => "link",
            Part::TargetCpu => "target processors",
            Part::TargetDisk => "target disk",
            Part::Cpu => "processors",
            Part::Disk => "disk",
        }
    }
}

/// How long a part is busy, and with what most of all.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Load {
    /// The part.
    pub part: Part,
    /// Seconds.
    pub seconds: f64,
    /// The stage that takes most of them.
    pub mainly: &'static str,
}

/// What is to be expected.
#[derive(Clone, PartialEq, Debug)]
pub struct Prediction {
    /// Of which kind of resync.
    pub kind: Kind,
    /// How long it takes.
    pub seconds: f64,
    /// Bytes over the link.
    pub bytes_on_link: f64,
    /// Every part, the busiest first.
    pub loads: Vec<Load>,
}

/// Of the digest stream: a value of 32 bytes for 64 KiB.
const DIGESTS: f64 = 32.0 / 65536.0;

/// How long a resync takes.
#[must_use]
pub fn predict(rates: &Rates, job: &Job, kind: Kind) -> Prediction {
    match kind {
        Kind::Differential => {
            let changed = job.data * job.changed.clamp(0.0, 1.0);
            loaded(rates, job, kind, changed, Packing::Packed)
        }
        // A run packs a full copy where the link does not keep up.
        Kind::Full => {
            let plain = loaded(rates, job, kind, job.data, Packing::Plain);
            let packed = loaded(rates, job, kind, job.data, Packing::Packed);
            match packed.seconds < plain.seconds {
                true => packed,
                false => plain,
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Packing {
    Plain,
    Packed,
}

/// The loads of all parts, `moved` bytes of the data being new to the target.
fn loaded(rates: &Rates, job: &Job, kind: Kind, moved: f64, packing: Packing) -> Prediction {
    let (source, target, pack) = (&rates.source, &rates.target, &rates.pack);
    let sent = moved * pack.data_share;
    let packs = packing == Packing::Packed && rates.link.is_some();
    let wire = match packs {
        true => sent * pack.share,
        false => sent,
    } + job.size * DIGESTS;
    let found = match kind {
        Kind::Full => 0.0,
        Kind::Differential => job.data,
    };
    // Groups that are written are hashed in memory and once more as they come back; all others by
    // the scan, holes too.
    let hashed_there = match kind {
        Kind::Full => job.size + moved,
        Kind::Differential => job.size + 2.0 * moved,
    };
    let written = match target.write {
        WriteRate::Measured(rate) => over(moved, rate),
        WriteRate::LikeReading => over(moved, target.read_back),
    };
    let link = rates.link;
    let here = [
        ("hashing", job.size * source.hash_cpu),
        ("reading", job.data * source.read_cpu),
        ("packing", if packs { sent * pack.cpu } else { 0.0 }),
        ("sending", link.map_or(0.0, |link| wire * link.sender_cpu)),
    ];
    let there = [
        ("hashing", hashed_there * target.hash_cpu),
        ("reading", (found + moved) * target.read_cpu),
        (
            "receiving",
            link.map_or(0.0, |link| wire * link.receiver_cpu),
        ),
    ];
    let source_disk = [("reading", over(job.data, source.scan))];
    let target_disk = [
        ("reading", over(found, target.scan)),
        ("writing", written),
        ("reading back", over(moved, target.read_back)),
    ];
    let mut loads = Vec::new();
    match rates.one_machine {
        true => loads.push(load(Part::Cpu, &[&here, &there], source.cores)),
        false => {
            loads.push(load(Part::SourceCpu, &[&here], source.cores));
            loads.push(load(Part::TargetCpu, &[&there], target.cores));
        }
    }
    match rates.one_disk {
        true => loads.push(load(Part::Disk, &[&source_disk, &target_disk], 1.0)),
        false => {
            loads.push(load(Part::SourceDisk, &[&source_disk], 1.0));
            loads.push(load(Part::TargetDisk, &[&target_disk], 1.0));
        }
    }
    if let Some(link) = link {
        loads.push(load(
            Part::Link,
            &[&[("sending", over(wire, link.rate))]],
            1.0,
        ));
    }
    loads.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    Prediction {
        kind,
        seconds: loads.first().map_or(0.0, |load| load.seconds),
        bytes_on_link: match link {
            Some(_) => wire,
            None => 0.0,
        },
        loads,
    }
}

/// Seconds for so many bytes; a rate that nobody knows holds nothing up.
fn over(bytes: f64, rate: f64) -> f64 {
    match rate > 0.0 {
        true => bytes / rate,
        false => 0.0,
    }
}

type Work<'a> = &'a [(&'static str, f64)];

/// What all work together takes a part that does `width` of it at once; stages of one name at both
/// ends are one.
fn load(part: Part, work: &[Work<'_>], width: f64) -> Load {
    let all = || work.iter().copied().flatten().copied();
    let of = |name: &str| -> f64 { all().filter(|it| it.0 == name).map(|it| it.1).sum() };
    let mainly = all().map(|it| it.0).max_by(|a, b| of(a).total_cmp(&of(b)));
    let total: f64 = all().map(|it| it.1).sum();
    Load {
        part,
        seconds: total / width.max(1.0),
        mainly: mainly.unwrap_or(""),
    }
}

impl Prediction {
    /// The part that everything else waits for.
    #[must_use]
    pub fn bottleneck(&self) -> Option<&Load> {
        self.loads.first().filter(|load| load.seconds > 0.0)
    }

    /// What would make it faster, in a clause.
    #[must_use]
    pub fn lift(&self) -> &'static str {
        let Some(load) = self.bottleneck() else {
            return "nothing: there is nothing to do";
        };
        match (load.part, load.mainly) {
            (Part::SourceDisk, _) => {
                "a faster source disk; where a snapshot tells what changed, a run reads only that"
            }
            (Part::Link, _) => {
                "a faster link, more --connections, a larger MTU, or a higher --compress level"
            }
            (Part::TargetDisk | Part::Disk, "reading") => {
                "a faster disk, or a target whose snapshot tells what changed (a file on XFS or btrfs)"
            }
            (Part::TargetDisk | Part::Disk, _) => "a disk that takes and gives back data faster",
            (_, "packing") => "more cores, or --compress off where the link is fast",
            (_, "sending" | "receiving") => {
                "more cores, or a larger MTU, which takes less work a byte"
            }
            (_, "hashing") => {
                "more cores (--threads); where a snapshot tells what changed, a run hashes only that"
            }
            _ => "more cores",
        }
    }

    /// How long it would take if the bottleneck were gone: the next busiest part.
    #[must_use]
    pub fn without_bottleneck(&self) -> Option<&Load> {
        self.loads.get(1)
    }
}

#[cfg(test)]
mod tests {
    use super::{Job, Kind, LinkRates, PackRates, Part, Rates, Side, WriteRate, predict};
    use proptest::prelude::{prop_assert, proptest};

    const MB: f64 = 1e6;
    const GB: f64 = 1e9;

    fn side() -> Side {
        Side {
            cores: 4.0,
            hash_cpu: 1.0 / (4.0 * GB),
            scan: 2.0 * GB,
            read_cpu: 0.0,
            read_back: 2.0 * GB,
            write: WriteRate::Measured(GB),
        }
    }

    fn rates() -> Rates {
        Rates {
            source: side(),
            target: side(),
            one_machine: false,
            one_disk: false,
            link: Some(LinkRates {
                rate: 100.0 * MB,
                sender_cpu: 1.0 / GB,
                receiver_cpu: 1.0 / GB,
            }),
            pack: PackRates {
                cpu: 1.0 / (500.0 * MB),
                share: 0.25,
                data_share: 1.0,
            },
        }
    }

    fn job() -> Job {
        Job {
            size: 100.0 * GB,
            data: 100.0 * GB,
            changed: 0.01,
        }
    }

    #[track_caller]
    fn near(found: f64, expected: f64) {
        let off = (found - expected).abs() / expected;
        assert!(off < 0.01, "{found} is not about {expected}");
    }

    #[test]
    fn a_slow_link_holds_a_full_copy_back_and_gets_it_packed() {
        let full = predict(&rates(), &job(), Kind::Full);
        // A quarter of 100 GB and 49 MB of digests over 100 MB/s.
        near(full.seconds, 250.5);
        near(full.bytes_on_link, 25.05 * GB);
        assert_eq!(full.bottleneck().unwrap().part, Part::Link);
        assert!(full.lift().contains("link"));
    }

    #[test]
    fn a_fast_link_is_not_packed_for() {
        let mut rates = rates();
        rates.link.as_mut().unwrap().rate = 10.0 * GB;
        let full = predict(&rates, &job(), Kind::Full);
        near(full.bytes_on_link, 100.05 * GB);
        // Written at 1 GB/s and read back at 2 on the same disk.
        near(full.seconds, 150.0);
        let bottleneck = full.bottleneck().unwrap();
        assert_eq!(
            (bottleneck.part, bottleneck.mainly),
            (Part::TargetDisk, "writing")
        );
    }

    #[test]
    fn a_small_difference_costs_the_scans() {
        let differential = predict(&rates(), &job(), Kind::Differential);
        // 100 GB at 2 GB/s, and 1 GB written and read back.
        near(differential.seconds, 51.5);
        near(differential.bytes_on_link, (0.25 + 0.0488) * GB);
        let bottleneck = differential.bottleneck().unwrap();
        assert_eq!(
            (bottleneck.part, bottleneck.mainly),
            (Part::TargetDisk, "reading")
        );
        assert!(differential.lift().contains("snapshot"));
        near(differential.without_bottleneck().unwrap().seconds, 50.0);
    }

    #[test]
    fn on_one_machine_the_work_of_both_ends_adds_up() {
        let mut rates = rates();
        (rates.one_machine, rates.link) = (true, None);
        rates.source.cores = 1.0;
        rates.target.cores = 1.0;
        // Both volumes are in memory.
        rates.source.scan = 1000.0 * GB;
        rates.target.scan = 1000.0 * GB;
        let together = predict(&rates, &job(), Kind::Differential);
        // 100 GB hashed at each end, and 2 GB more at the target, by one core of 4 GB/s.
        near(together.seconds, 50.5);
        assert!(together.bytes_on_link.abs() < 1.0);
        let bottleneck = together.bottleneck().unwrap();
        assert_eq!((bottleneck.part, bottleneck.mainly), (Part::Cpu, "hashing"));
    }

    #[test]
    fn on_one_disk_reading_and_writing_add_up() {
        let mut rates = rates();
        rates.one_disk = true;
        let together = predict(&rates, &job(), Kind::Differential);
        near(together.seconds, 101.5);
        assert_eq!(together.bottleneck().unwrap().part, Part::Disk);
    }

    #[test]
    fn holes_are_hashed_and_neither_read_nor_sent() {
        let mut job = job();
        job.data = GB;
        let full = predict(&rates(), &job, Kind::Full);
        let seconds = |part| {
            let load = full.loads.iter().find(|load| load.part == part);
            load.unwrap().seconds
        };
        near(seconds(Part::SourceDisk), 0.5);
        near(seconds(Part::TargetCpu), (101.0 / 4.0 + 0.3) / 4.0);
        near(seconds(Part::Link), 0.25 * 10.0 + 0.49);
    }

    #[test]
    fn writing_that_was_not_measured_counts_as_reading_back() {
        let mut rates = rates();
        rates.target.write = WriteRate::LikeReading;
        rates.link.as_mut().unwrap().rate = 10.0 * GB;
        near(predict(&rates, &job(), Kind::Full).seconds, 100.0);
    }

    #[test]
    fn nothing_takes_no_time() {
        let nothing = Job {
            size: 0.0,
            data: 0.0,
            changed: 0.5,
        };
        for kind in [Kind::Full, Kind::Differential] {
            let prediction = predict(&rates(), &nothing, kind);
            assert!(prediction.seconds.abs() < f64::EPSILON);
            assert!(prediction.bottleneck().is_none());
            assert!(prediction.lift().contains("nothing"));
        }
    }

    proptest! {
        #[test]
        fn more_changes_never_take_less_and_the_busiest_part_is_the_time(
            less in 0.0f64..1.0,
            more in 0.0f64..1.0,
            link in 1e5f64..1e11,
            scan in 1e7f64..1e11,
        ) {
            let (less, more) = (less.min(more), less.max(more));
            let mut rates = rates();
            rates.link.as_mut().unwrap().rate = link;
            rates.source.scan = scan;
            let of = |changed| predict(&rates, &Job { changed, ..job() }, Kind::Differential);
            prop_assert!(of(less).seconds <= of(more).seconds);
            let prediction = of(more);
            for load in &prediction.loads {
                prop_assert!(load.seconds <= prediction.seconds);
                prop_assert!(load.seconds.is_finite());
            }
        }
    }
}
