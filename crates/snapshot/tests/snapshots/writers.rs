//! Writers that never stop, and whether an image shows one instant of what they wrote.
//!
//! A writer fills page `n % PAGES` with the number `n`, for `n` = 1, 2, 3 and so on. At every
//! instant the file holds a prefix of these writes, so the largest number in it decides all others.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use lockstep_snapshot::Atomicity;
use lockstep_volume::IoBuffer;
use rustix::fs::OFlags;

const PAGES: u64 = 256;
const PAGE_BYTES: usize = 4096;
/// Writes between two flushes.
const FLUSH_EVERY: u64 = 512;

/// Stores through a shared mapping; prints a line once it has begun.
const MAPPED_WRITER: &str = "
import mmap, struct, sys
file = open(sys.argv[1], 'r+b')
memory = mmap.mmap(file.fileno(), 256 * 4096)
n = 0
while True:
    n += 1
    at = n % 256 * 4096
    memory[at:at + 4096] = struct.pack('<Q', n) * 512
    if n == 256:
        print('begun', flush=True)
";

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Way {
    Buffered,
    Direct,
    Mapped,
    /// Through the page cache and past it in turn: what is written last is on the disk first.
    Mixed,
}

/// A writer at work, stopped when dropped.
pub(crate) struct Writer {
    way: Way,
    stop: Arc<AtomicBool>,
    flushed: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
    child: Option<Child>,
}

impl Writer {
    pub(crate) fn start(volume: &Path, way: Way) -> Self {
        let file = File::create(volume).unwrap();
        file.write_all_at(&[0; PAGE_BYTES * PAGES as usize], 0)
            .unwrap();
        let mut writer = Self {
            way,
            stop: Arc::default(),
            flushed: Arc::default(),
            thread: None,
            child: None,
        };
        if way == Way::Mapped {
            writer.child = Some(mapped_writer(volume));
            return writer;
        }
        let (stop, flushed) = (writer.stop.clone(), writer.flushed.clone());
        let open = |flags: OFlags| {
            let mut options = OpenOptions::new();
            options.custom_flags(flags.bits().cast_signed());
            options.write(true).open(volume).unwrap()
        };
        let (even, odd) = match way {
            Way::Direct => (OFlags::DIRECT, OFlags::DIRECT),
            Way::Mixed => (OFlags::empty(), OFlags::DIRECT),
            _ => (OFlags::empty(), OFlags::empty()),
        };
        let files = [open(even), open(odd)];
        writer.thread = Some(std::thread::spawn(move || write(&files, &stop, &flushed)));
        while writer.flushed() == 0 {
            std::thread::yield_now();
        }
        writer
    }

    /// The last write that is known to be on the disk.
    pub(crate) fn flushed(&self) -> u64 {
        self.flushed.load(Ordering::Acquire)
    }

    /// Whether the image is what it must be, given what was flushed before it was made.
    pub(crate) fn assert_sound(&self, image: &[u8], flushed: u64, atomicity: Atomicity) {
        let pages: Vec<Vec<u64>> = image.chunks(PAGE_BYTES).map(numbers).collect();
        let newest = pages.iter().flatten().copied().max().unwrap();
        assert!(newest > 0 || self.way == Way::Mapped, "nothing was written");
        for (page, numbers) in pages.iter().enumerate() {
            let page = page as u64;
            for number in numbers {
                let is_sound = match atomicity {
                    Atomicity::Instant => self.fits(*number, page, newest),
                    Atomicity::PowerCut => *number >= expected(page, flushed),
                };
                assert!(
                    is_sound,
                    "{:?}: page {page} holds {number}, the newest is {newest}, {flushed} were flushed",
                    self.way
                );
            }
        }
        assert!(newest >= flushed, "a flushed write is missing");
    }

    fn fits(&self, number: u64, page: u64, newest: u64) -> bool {
        let is_in_the_middle = self.way == Way::Mapped && page == newest % PAGES;
        let before = expected(page, newest.saturating_sub(1));
        number == expected(page, newest) || (is_in_the_middle && number == before)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn write(files: &[File; 2], stop: &AtomicBool, flushed: &AtomicU64) {
    let mut page = IoBuffer::unpooled(PAGE_BYTES);
    for n in 1u64.. {
        if stop.load(Ordering::Acquire) {
            return;
        }
        for word in page.as_chunks_mut::<8>().0 {
            *word = n.to_le_bytes();
        }
        let file = &files[(n % 2) as usize];
        file.write_all_at(&page, n % PAGES * PAGE_BYTES as u64)
            .unwrap();
        if n % FLUSH_EVERY == 0 {
            file.sync_data().unwrap();
            flushed.store(n, Ordering::Release);
        }
    }
}

fn mapped_writer(volume: &Path) -> Child {
    use std::io::{BufRead, BufReader};
    let mut child = Command::new("python3")
        .args(["-c", MAPPED_WRITER])
        .arg(volume)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let output = child.stdout.take().unwrap();
    BufReader::new(output).read_line(&mut line).unwrap();
    assert_eq!(line, "begun\n");
    child
}

fn numbers(page: &[u8]) -> Vec<u64> {
    let words = page.as_chunks::<8>().0;
    words.iter().map(|word| u64::from_le_bytes(*word)).collect()
}

/// What a page holds once exactly the writes 1 to `newest` are done.
fn expected(page: u64, newest: u64) -> u64 {
    let back = (newest + PAGES - page) % PAGES;
    newest.saturating_sub(back)
}

#[test]
fn the_judge_knows_a_prefix_from_a_mixture() {
    let mut held = vec![0; PAGES as usize];
    for n in 1..2000u64 {
        held[(n % PAGES) as usize] = n;
        for page in 0..PAGES {
            let at = held[page as usize];
            assert_eq!(expected(page, n), at, "page {page} after {n}");
        }
    }
}
