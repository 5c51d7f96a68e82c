//! How fast memory is hashed, compared by digests, and looked through for zeros.

use std::hint::black_box;
use std::thread;
use std::time::{Duration, Instant};

use lockstep_merkle::{
    Cv, EXTENT_SIZE, ExtentIndex, Geometry, GroupIndex, PAGE_SIZE, PAGES_PER_EXTENT,
    PAGES_PER_GROUP, PageIndex, PageSeed, extent_cvs, group_cv_of_pages, is_zero, page_cvs,
    page_digest,
};

use crate::measured::{Measured, Stopwatch};

/// A volume so large that every extent has all its levels above it.
const VOLUME: u64 = 1 << 40;
/// Extents after which the clock is looked at: tenths of a millisecond.
const EXTENTS_A_LOOK: u64 = 2;
/// Numbers of threads that are measured one by one; above, each is twice the one before.
const ONE_BY_ONE: usize = 8;

/// What is done with each byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HashKind {
    /// BLAKE3 by groups of 64 KiB: the scan of a volume beyond 16 GiB.
    Groups,
    /// BLAKE3 by pages of 4 KiB, folded to groups: the scan of a smaller volume.
    Pages,
    /// XXH3-128 of pages: what tells differing pages of a large volume.
    Digests,
    /// The zero test.
    Zeros,
}

impl HashKind {
    /// All of them.
    pub const ALL: [HashKind; 4] = [
        HashKind::Groups,
        HashKind::Pages,
        HashKind::Digests,
        HashKind::Zeros,
    ];

    /// The kind by which a scan of a volume of this size goes.
    #[must_use]
    pub fn of_scan(size: u64) -> HashKind {
        /// Up to here the values of pages are kept (`ARCHITECTURE.md`).
        const KEEPS_PAGES: u64 = 16 << 30;
        match size <= KEEPS_PAGES {
            true => HashKind::Pages,
            false => HashKind::Groups,
        }
    }
}

/// Hashes on so many threads for so long. Each thread has one extent in memory, as a scan has after
/// reading it.
#[must_use]
pub fn measure_hashing(kind: HashKind, threads: usize, limit: Duration) -> Measured {
    let mut bytes = vec![0; EXTENT_SIZE];
    if kind != HashKind::Zeros {
        // Hashing takes as long whatever it hashes.
        let _ = getrandom::fill(&mut bytes);
    }
    let copies: Vec<Vec<u8>> = (0..threads.max(1)).map(|_| bytes.clone()).collect();
    let watch = Stopwatch::start();
    let deadline = Instant::now() + limit;
    let done: u64 = thread::scope(|scope| {
        let workers: Vec<_> = (copies.iter().zip(0..))
            .map(|(bytes, worker)| scope.spawn(move || work(kind, bytes, worker, deadline)))
            .collect();
        workers
            .into_iter()
            .map(|worker| worker.join().unwrap_or(0))
            .sum()
    });
    watch.stop(done)
}

/// Bytes that one thread gets through before the deadline, at least one extent.
fn work(kind: HashKind, bytes: &[u8], worker: u64, deadline: Instant) -> u64 {
    let geometry = Geometry::new(VOLUME);
    let mut done = 0;
    loop {
        for extent in 0..EXTENTS_A_LOOK {
            let extent = ExtentIndex((worker + done + extent) % geometry.extent_count());
            one_extent(kind, geometry, extent, black_box(bytes));
        }
        done += EXTENTS_A_LOOK;
        if Instant::now() >= deadline {
            return done * EXTENT_SIZE as u64;
        }
    }
}

fn one_extent(kind: HashKind, geometry: Geometry, extent: ExtentIndex, bytes: &[u8]) {
    match kind {
        HashKind::Groups => {
            black_box(extent_cvs(geometry, extent, bytes));
        }
        HashKind::Pages => {
            let mut pages = [Cv::from_bytes([0; 32]); PAGES_PER_EXTENT];
            let first = PageIndex(geometry.pages_of_extent(extent).start);
            page_cvs(geometry, first, bytes, &mut pages);
            let groups = geometry.groups_of(extent).map(GroupIndex);
            for (group, pages) in groups.zip(pages.chunks(PAGES_PER_GROUP)) {
                black_box(group_cv_of_pages(geometry, group, pages));
            }
        }
        HashKind::Digests => {
            for page in bytes.chunks(PAGE_SIZE) {
                black_box(page_digest(PageSeed(extent.0), page));
            }
        }
        HashKind::Zeros => {
            for page in bytes.chunks(PAGE_SIZE) {
                black_box(is_zero(page));
            }
        }
    }
}

/// The numbers of threads worth measuring on so many cores, the last one all of them.
#[must_use]
pub fn thread_counts(cores: usize) -> Vec<usize> {
    let cores = cores.max(1);
    let doubling = std::iter::successors(Some(2 * ONE_BY_ONE), |count| count.checked_mul(2));
    let mut counts: Vec<usize> = (1..=ONE_BY_ONE)
        .chain(doubling)
        .take_while(|count| *count < cores)
        .collect();
    counts.push(cores);
    counts
}

#[cfg(test)]
mod tests {
    use super::{HashKind, measure_hashing, thread_counts};
    use std::time::Duration;

    #[test]
    fn few_cores_are_measured_one_by_one_and_many_by_doubling() {
        assert_eq!(thread_counts(0), [1]);
        assert_eq!(thread_counts(1), [1]);
        assert_eq!(thread_counts(3), [1, 2, 3]);
        assert_eq!(thread_counts(8), [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(
            thread_counts(48),
            [1, 2, 3, 4, 5, 6, 7, 8, 16, 32, 48],
            "and all of them"
        );
    }

    #[test]
    fn every_kind_gets_through_something_in_no_time() {
        for kind in HashKind::ALL {
            let measured = measure_hashing(kind, 2, Duration::ZERO);
            assert!(measured.bytes >= 2 << 20, "{kind:?}");
            assert!(measured.rate() > 0.0);
        }
    }

    #[test]
    fn small_volumes_keep_the_values_of_their_pages() {
        assert_eq!(HashKind::of_scan(16 << 30), HashKind::Pages);
        assert_eq!(HashKind::of_scan((16 << 30) + 1), HashKind::Groups);
    }
}
