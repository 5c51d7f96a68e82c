//! How fast, and how small, a volume's own pages are packed.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use lockstep_engine::{FAST_LEVEL, SMALL_LEVEL};
use lockstep_merkle::{EXTENT_SIZE, PAGE_SIZE, is_zero};
use lockstep_protocol::{Failure, FailureKind};
use lockstep_volume::{IoFailure, Volume};

use crate::disk::Subject;
use crate::failures::disk_failed;
use crate::measured::{Measured, Stopwatch, float};

/// Extents in a sample, spread over the volume: 32 MiB at most.
const SAMPLE_EXTENTS: u64 = 32;
/// Packed pages must be this much smaller to be sent packed, as in a run.
const WORTH_NUMERATOR: usize = 15;
const WORTH_DENOMINATOR: usize = 16;

/// Pages of a volume, as runs pack them: those of an extent together, zeros left out.
#[derive(Debug)]
pub struct Sample {
    extents: Vec<Vec<u8>>,
    bytes: u64,
}

impl Sample {
    /// Reads a sample through the page cache.
    ///
    /// # Errors
    /// The disk fails.
    pub fn of(subject: &Subject) -> Result<Sample, Failure> {
        sample(subject.volume()).map_err(|error| disk_failed(&error))
    }

    /// Bytes that were looked at, zeros too; holes are not.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes of pages that are not zero.
    #[must_use]
    pub fn data_bytes(&self) -> u64 {
        self.extents.iter().map(|extent| extent.len() as u64).sum()
    }

    /// The part of a volume's data that is not zeros.
    #[must_use]
    pub fn data_share(&self) -> f64 {
        match self.bytes {
            0 => 0.0,
            bytes => float(self.data_bytes()) / float(bytes),
        }
    }
}

fn sample(volume: &dyn Volume) -> Result<Sample, IoFailure> {
    let mut sample = Sample {
        extents: Vec::new(),
        bytes: 0,
    };
    let mut after = 0;
    for number in 0..SAMPLE_EXTENTS {
        let wanted = volume.size() / SAMPLE_EXTENTS * number;
        let Some(data) = volume.next_data(wanted.max(after))? else {
            break;
        };
        let end = data.end.min(data.start + EXTENT_SIZE as u64);
        let mut extent = vec![0; usize::try_from(end - data.start).unwrap_or(0)];
        volume.read_at(data.start, &mut extent)?;
        sample.bytes += extent.len() as u64;
        sample.extents.push(without_zeros(&extent));
        after = end;
    }
    Ok(sample)
}

fn without_zeros(extent: &[u8]) -> Vec<u8> {
    let pages = extent.chunks(PAGE_SIZE).filter(|page| !is_zero(page));
    pages.flatten().copied().collect()
}

/// A level of zstd that runs use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PackLevel {
    /// While the link waits for the packing.
    Fast,
    /// While the packing waits for the link.
    Small,
}

impl PackLevel {
    /// Both.
    pub const ALL: [PackLevel; 2] = [PackLevel::Fast, PackLevel::Small];

    /// zstd's number for it.
    #[must_use]
    pub fn number(self) -> i32 {
        match self {
            PackLevel::Fast => FAST_LEVEL,
            PackLevel::Small => SMALL_LEVEL,
        }
    }
}

/// What packing a sample took, and came to.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Packed {
    /// Bytes that went in.
    pub measured: Measured,
    /// Bytes that came out for each that went in; what does not shrink counts as it is.
    pub share: f64,
}

/// Packs the sample on so many threads, at least once and for so long.
///
/// # Errors
/// zstd cannot be set up.
pub fn measure_packing(
    sample: &Sample,
    level: PackLevel,
    threads: usize,
    limit: Duration,
) -> Result<Packed, Failure> {
    let count = sample.extents.len();
    let (next, bytes_in) = (AtomicUsize::new(0), AtomicU64::new(0));
    let (once_in, once_out) = (AtomicU64::new(0), AtomicU64::new(0));
    let failed = Mutex::new(None);
    let watch = Stopwatch::start();
    let deadline = Instant::now() + limit;
    let work = || -> std::io::Result<()> {
        let mut packer = zstd::bulk::Compressor::new(level.number())?;
        let mut scratch = vec![0; EXTENT_SIZE];
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let first_round = number < count;
            if count == 0 || !first_round && Instant::now() >= deadline {
                return Ok(());
            }
            let pages = &sample.extents[number % count];
            let room = pages.len() * WORTH_NUMERATOR / WORTH_DENOMINATOR;
            let packed = packer.compress_to_buffer(pages, &mut scratch[..room]);
            bytes_in.fetch_add(pages.len() as u64, Ordering::Relaxed);
            if first_round {
                let length = packed.unwrap_or(pages.len());
                once_in.fetch_add(pages.len() as u64, Ordering::Relaxed);
                once_out.fetch_add(length as u64, Ordering::Relaxed);
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                if let Err(error) = work() {
                    *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                }
            });
        }
    });
    if let Some(error) = failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(Failure::new(
            FailureKind::Internal,
            format!("zstd: {error}"),
        ));
    }
    let measured = watch.stop(bytes_in.into_inner());
    let share = match once_in.into_inner() {
        0 => 1.0,
        bytes => float(once_out.into_inner()) / float(bytes),
    };
    Ok(Packed { measured, share })
}

#[cfg(test)]
mod tests {
    use super::{PackLevel, Sample, measure_packing};
    use crate::disk::Subject;
    use lockstep_volume::IoEngine;
    use std::time::Duration;

    fn sample_of(bytes: &[u8]) -> Sample {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("volume");
        std::fs::write(&path, bytes).unwrap();
        Sample::of(&Subject::open(&path, IoEngine::Threads).unwrap()).unwrap()
    }

    #[test]
    fn zeros_are_left_out_and_text_shrinks() {
        let mut bytes = vec![0; 2 << 20];
        bytes[..1 << 20].fill(b'a');
        let sample = sample_of(&bytes);
        assert_eq!(sample.bytes(), 2 << 20);
        assert_eq!(sample.data_bytes(), 1 << 20);
        assert!((sample.data_share() - 0.5).abs() < 1e-9);
        for level in PackLevel::ALL {
            let packed = measure_packing(&sample, level, 2, Duration::ZERO).unwrap();
            assert!(packed.share < 0.1, "{packed:?}");
            assert!(packed.measured.bytes >= 1 << 20);
        }
    }

    #[test]
    fn what_does_not_shrink_counts_as_it_is() {
        let mut bytes = vec![0; 1 << 20];
        getrandom::fill(&mut bytes).unwrap();
        let packed = measure_packing(&sample_of(&bytes), PackLevel::Small, 1, Duration::ZERO);
        assert!((packed.unwrap().share - 1.0).abs() < 1e-9);
    }

    #[test]
    fn a_volume_of_zeros_has_nothing_to_pack() {
        let sample = sample_of(&[0; 8192]);
        assert_eq!(sample.data_bytes(), 0);
        let packed = measure_packing(&sample, PackLevel::Fast, 2, Duration::from_millis(1));
        assert!(packed.unwrap().share <= 1.0);
    }

    #[test]
    fn a_sample_is_bounded_and_comes_from_all_over_the_volume() {
        let mut bytes = vec![1; 80 << 20];
        bytes[40 << 20..].fill(2);
        let sample = sample_of(&bytes);
        assert_eq!(sample.bytes(), 32 << 20);
        let halves = |byte| {
            sample
                .extents
                .iter()
                .filter(|extent| extent[0] == byte)
                .count()
        };
        assert_eq!((halves(1), halves(2)), (16, 16));
    }
}
