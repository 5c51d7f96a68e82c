//! What threads, full disks and failing flushes do to a log.

use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lockstep_merkle::{EXTENT_SIZE, PAGE_SIZE};

use super::{HEAD_BYTES, LOG_HEADER_BYTES, PreImageLog, SealedLog};
use crate::error::{LogError, Unusable};
use crate::record::{LogFacts, LogId};
use crate::steps::{Step, Steps};

const PAGE: u64 = PAGE_SIZE as u64;

struct Bench {
    folder: tempfile::TempDir,
    facts: LogFacts,
    size: u64,
}

impl Bench {
    fn new(size: u64) -> Self {
        let facts = LogFacts {
            id: LogId([3; 16]),
            sealed_bytes: None,
            max_bytes: 1 << 40,
        };
        Self {
            folder: tempfile::tempdir().unwrap(),
            facts,
            size,
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("v.log")
    }

    fn make(&self, steps: &Steps) -> PreImageLog {
        PreImageLog::make(&self.path(), &self.facts, self.size, steps).unwrap()
    }

    /// Offset and first byte of every pre-image, the last one first.
    fn content(&self) -> Vec<(u64, usize, u8)> {
        let log = SealedLog::open(&self.path(), &self.facts, self.size).unwrap();
        let mut found = Vec::new();
        log.backwards(|image| {
            found.push((image.offset, image.length, image.bytes.map_or(0, |b| b[0])));
            Ok::<(), Unusable>(())
        })
        .unwrap();
        found
    }
}

#[test]
fn only_the_first_pre_image_of_a_page_counts_and_zeros_take_no_room() {
    let bench = Bench::new(10 * PAGE);
    let log = bench.make(&Steps::default());
    let ticket = log.append(2 * PAGE, &[1; 2 * PAGE_SIZE]).unwrap();
    let again = log.append(0, &[2; 10 * PAGE_SIZE]).unwrap();
    assert!(again > ticket);
    let bytes = log.bytes();
    let nothing_new = log.append(0, &[3; 10 * PAGE_SIZE]).unwrap();
    assert_eq!((log.bytes(), nothing_new), (bytes, again));
    assert_eq!(
        log.ticket(),
        again,
        "not durable yet, though nothing is missing"
    );
    log.commit(nothing_new).unwrap();
    assert_eq!(
        bench.content(),
        [
            (4 * PAGE, 6 * PAGE_SIZE, 2),
            (0, 2 * PAGE_SIZE, 2),
            (2 * PAGE, 2 * PAGE_SIZE, 1),
        ]
    );
    let sparse = Bench::new(1 << 30);
    let log = sparse.make(&Steps::default());
    let ticket = log.append(0, &vec![0; 4 * EXTENT_SIZE]).unwrap();
    log.commit(ticket).unwrap();
    assert_eq!(log.bytes(), LOG_HEADER_BYTES + 4 * HEAD_BYTES as u64);
}

#[test]
fn what_is_missing_is_named_in_whole_pages_up_to_the_old_end() {
    let extent = EXTENT_SIZE as u64;
    let size = 2 * extent + 100;
    let bench = Bench::new(size);
    let log = bench.make(&Steps::default());
    let only = |range| std::slice::from_ref(&range).to_vec();
    assert_eq!(log.missing(5..6), only(0..PAGE));
    assert_eq!(log.missing(0..u64::MAX), only(0..size));
    assert!(log.missing(size..size + 5).is_empty());
    assert!(log.missing(7..7).is_empty());
    let _ = log.append(extent - PAGE, &[1; 2 * PAGE_SIZE]).unwrap();
    let _ = log.append(2 * extent, &[1; 100]).unwrap();
    assert_eq!(
        log.missing(0..size),
        [0..extent - PAGE, extent + PAGE..2 * extent]
    );
}

#[test]
fn parts_of_pages_and_what_lies_outside_are_refused() {
    let bench = Bench::new(3 * PAGE + 10);
    let log = bench.make(&Steps::default());
    for (offset, length) in [(1, PAGE_SIZE), (0, 100), (3 * PAGE, 9)] {
        let refused = log.append(offset, &vec![1; length]).unwrap_err();
        assert!(matches!(refused, LogError::Misaligned { .. }), "{refused}");
    }
    for (offset, length) in [(3 * PAGE, PAGE_SIZE), (u64::MAX - 4095, 1 << 13)] {
        let refused = log.append(offset, &vec![1; length]).unwrap_err();
        assert!(matches!(refused, LogError::Outside { .. }), "{refused}");
    }
    let _ = log.append(3 * PAGE, &[1; 10]).unwrap();
    let nothing = log.append(0, &[]).unwrap();
    log.commit(nothing).unwrap();
    assert_eq!(log.records(), 1);
}

#[test]
fn a_log_stays_below_its_limit_and_what_it_has_is_good() {
    let mut bench = Bench::new(100 * PAGE);
    bench.facts.max_bytes = LOG_HEADER_BYTES + 2 * (HEAD_BYTES as u64 + PAGE);
    let log = bench.make(&Steps::default());
    let _ = log.append(0, &[1; PAGE_SIZE]).unwrap();
    let refused = log.append(4 * PAGE, &[1; 2 * PAGE_SIZE]).unwrap_err();
    assert!(refused.is_no_room(), "{refused}");
    let ticket = log.append(9 * PAGE, &[2; PAGE_SIZE]).unwrap();
    log.commit(ticket).unwrap();
    assert_eq!(
        bench.content(),
        [(9 * PAGE, PAGE_SIZE, 2), (0, PAGE_SIZE, 1)]
    );
}

/// A full disk cuts a write off in the middle; what it left is gone before the next record.
#[test]
fn a_failed_append_leaves_no_trace() {
    let bench = Bench::new(100 * PAGE);
    let path = bench.path();
    let appends = AtomicU64::new(0);
    let steps = Steps::calling(move |step| {
        if step != Step::Append || appends.fetch_add(1, Ordering::SeqCst) != 1 {
            return Ok(());
        }
        let file = fs::OpenOptions::new().write(true).open(&path)?;
        file.write_all_at(&[0xaa; 3000], file.metadata()?.len())?;
        Err(io::ErrorKind::StorageFull.into())
    });
    let log = bench.make(&steps);
    let _ = log.append(0, &[1; PAGE_SIZE]).unwrap();
    let refused = log.append(PAGE, &[2; 8 * PAGE_SIZE]).unwrap_err();
    assert!(matches!(refused, LogError::NoSpace { .. }), "{refused}");
    assert!(refused.is_no_room());
    assert_eq!(fs::metadata(bench.path()).unwrap().len(), log.bytes());
    let missing = log.missing(0..3 * PAGE);
    assert_eq!((missing.len(), &missing[0]), (1, &(PAGE..3 * PAGE)));
    let ticket = log.append(PAGE, &[3; PAGE_SIZE]).unwrap();
    log.commit(ticket).unwrap();
    assert_eq!(bench.content(), [(PAGE, PAGE_SIZE, 3), (0, PAGE_SIZE, 1)]);
}

#[test]
fn a_flush_that_failed_is_final_and_what_was_durable_stays() {
    let bench = Bench::new(100 * PAGE);
    let commits = AtomicU64::new(0);
    let steps = Steps::calling(move |step| {
        if step == Step::Commit && commits.fetch_add(1, Ordering::SeqCst) == 1 {
            return Err(io::Error::other("injected"));
        }
        Ok(())
    });
    let log = bench.make(&steps);
    let durable = log.append(0, &[1; PAGE_SIZE]).unwrap();
    log.commit(durable).unwrap();
    let lost = log.append(PAGE, &[2; PAGE_SIZE]).unwrap();
    let refused = log.commit(lost).unwrap_err();
    assert!(matches!(refused, LogError::Io { .. }), "{refused}");
    for _ in 0..2 {
        let refused = log.commit(lost).unwrap_err();
        assert!(matches!(refused, LogError::Broken { .. }), "{refused}");
        let refused = log.append(5 * PAGE, &[2; PAGE_SIZE]).unwrap_err();
        assert!(matches!(refused, LogError::Broken { .. }), "{refused}");
    }
    log.commit(durable).unwrap();
    assert_eq!(log.flushes(), 2);
}

/// Threads fight over the same pages: each page has one pre-image, and it is durable when the ticket
/// of any of them is.
#[test]
fn threads_that_overlap_keep_each_page_once() {
    const THREADS: u64 = 8;
    let size = 3 * EXTENT_SIZE as u64;
    let bench = Bench::new(size);
    let log = bench.make(&Steps::default());
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let log = &log;
            scope.spawn(move || {
                for round in 0..40 {
                    let page = (thread * 31 + round * 97) % (size / PAGE - 16);
                    let bytes = vec![page as u8 | 1; 16 * PAGE_SIZE];
                    let ticket = log.append(page * PAGE, &bytes).unwrap();
                    log.commit(ticket).unwrap();
                    assert!(log.durable_bytes() >= ticket.0);
                }
            });
        }
    });
    let mut pages: Vec<u64> = Vec::new();
    for (offset, length, _) in bench.content() {
        pages.extend(offset / PAGE..(offset + length as u64) / PAGE);
    }
    let count = pages.len();
    pages.sort_unstable();
    pages.dedup();
    assert_eq!(pages.len(), count, "no page twice");
    let missing: u64 = log.missing(0..size).iter().map(|r| r.end - r.start).sum();
    assert_eq!(missing / PAGE + count as u64, size / PAGE);
}

/// One flush serves all who wait: with a slow disk, many commits cost few flushes.
#[test]
fn threads_share_flushes() {
    const THREADS: u64 = 8;
    const ROUNDS: u64 = 10;
    let bench = Bench::new(THREADS * ROUNDS * PAGE);
    let steps = Steps::calling(|step| {
        if step == Step::Commit {
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    });
    let log = Arc::new(bench.make(&steps));
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let log = Arc::clone(&log);
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    let offset = (thread * ROUNDS + round) * PAGE;
                    let ticket = log.append(offset, &[7; PAGE_SIZE]).unwrap();
                    log.commit(ticket).unwrap();
                }
            });
        }
    });
    let commits = THREADS * ROUNDS;
    assert_eq!(log.records(), commits);
    assert!(
        log.flushes() <= commits / 2,
        "{} flushes for {commits} commits",
        log.flushes()
    );
}
