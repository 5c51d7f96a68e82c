//! Several direct reads or writes in flight at once, on a small io_uring of the calling thread.
#![expect(
    unsafe_code,
    reason = "a submission holds raw pointers; run() waits until what they point to is no longer used"
)]

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use io_uring::{IoUring, opcode, squeue, types};
use rustix::io::Errno;

use crate::priority;

/// Transfers in flight on one thread.
const DEPTH: u32 = 64;
/// Wait between tries when the kernel is short of memory for a submission.
const BUSY_WAIT: Duration = Duration::from_millis(1);

enum Ring {
    Untried,
    Ready(Box<IoUring>),
    Refused,
}

thread_local! {
    static RING: RefCell<Ring> = const { RefCell::new(Ring::Untried) };
}

/// Whether the kernel lets this process have an io_uring; the text says why not.
///
/// Container runtimes and hardened kernels forbid it (`EPERM`), old ones lack it (`ENOSYS`,
/// `EINVAL`). [`crate::IoEngine::Uring`] then works as [`crate::IoEngine::Threads`].
///
/// # Errors
/// One sentence for `doctor` and logs.
pub fn probe_uring() -> Result<(), String> {
    match new_ring() {
        Ok(_) => Ok(()),
        Err(error) => Err(format!("the kernel refuses io_uring: {error}")),
    }
}

/// The ring of one thread. Its completions run when the thread asks for them, which saves
/// interrupts; kernels before 6.1 do not know those flags.
fn new_ring() -> io::Result<IoUring> {
    IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .build(DEPTH)
        .or_else(|_| IoUring::new(DEPTH))
}

/// Whether every buffer was filled. On `false` their content is unspecified, nothing is in flight
/// any more, and the plain way is to be tried, which finds out why.
pub(crate) fn read_all(fd: BorrowedFd<'_>, reads: &mut [(u64, &mut [u8])]) -> bool {
    let priority = priority::of_requests();
    with_ring(|ring| {
        reads.chunks_mut(DEPTH as usize).all(|batch| {
            let entries = batch.iter_mut().map(|(offset, buf)| {
                let length = u32::try_from(buf.len()).ok()?;
                let read = opcode::Read::new(types::Fd(fd.as_raw_fd()), buf.as_mut_ptr(), length);
                Some(read.offset(*offset).ioprio(priority).build())
            });
            let Some(entries) = entries.collect::<Option<Vec<_>>>() else {
                return false;
            };
            // SAFETY: descriptor and buffers are borrowed for longer than the call, and each buffer
            // mutably, so that nobody else looks at it meanwhile.
            let results = unsafe { run(ring, entries) };
            is_whole(&results, batch.iter().map(|(_, buf)| buf.len()))
        })
    })
    .unwrap_or(false)
}

/// Whether everything was written. On `false` any part may have been, nothing is in flight any
/// more, and the plain way is to be tried.
///
/// # Errors
/// What the kernel said of a write that is lost.
pub(crate) fn write_all(fd: BorrowedFd<'_>, writes: &[(u64, &[u8])]) -> Result<bool, Errno> {
    let priority = priority::of_requests();
    let written = with_ring(|ring| {
        for batch in writes.chunks(DEPTH as usize) {
            let entries = batch.iter().map(|(offset, buf)| {
                let length = u32::try_from(buf.len()).ok()?;
                let write = opcode::Write::new(types::Fd(fd.as_raw_fd()), buf.as_ptr(), length);
                Some(write.offset(*offset).ioprio(priority).build())
            });
            let Some(entries) = entries.collect::<Option<Vec<_>>>() else {
                return Ok(false);
            };
            // SAFETY: descriptor and buffers are borrowed for longer than the call; the kernel only
            // reads the buffers.
            let results = unsafe { run(ring, entries) };
            if let Some(error) = results.iter().find_map(lost) {
                return Err(error);
            }
            if !is_whole(&results, batch.iter().map(|(_, buf)| buf.len())) {
                return Ok(false);
            }
        }
        Ok(true)
    });
    written.unwrap_or(Ok(false))
}

/// Runs `work` with this thread's ring; `None` where the kernel refuses one.
fn with_ring<T>(work: impl FnOnce(&mut IoUring) -> T) -> Option<T> {
    RING.with_borrow_mut(|slot| {
        if matches!(slot, Ring::Untried) {
            *slot = match new_ring() {
                Ok(ring) => Ring::Ready(Box::new(ring)),
                Err(_) => Ring::Refused,
            };
        }
        match slot {
            Ring::Ready(ring) => Some(work(ring)),
            Ring::Untried | Ring::Refused => None,
        }
    })
}

/// Submits the entries, at most [`DEPTH`], and waits for every one that was taken, whatever happens:
/// leaving earlier would let the kernel use memory that is somebody else's by then. Their results in
/// order; an entry that was not taken has none that counts (`EAGAIN`).
///
/// # Safety
/// What the entries point to must stay valid and unaliased until this returns.
unsafe fn run(ring: &mut IoUring, entries: Vec<squeue::Entry>) -> Vec<i32> {
    let mut results = vec![-Errno::AGAIN.raw_os_error(); entries.len()];
    let mut pushed = 0;
    for (index, entry) in entries.into_iter().enumerate() {
        let entry = entry.user_data(index as u64);
        // SAFETY: the caller keeps what the entry points to, and every entry that was pushed has
        // completed before this function returns.
        if unsafe { ring.submission().push(&entry) }.is_err() {
            break;
        }
        pushed += 1;
    }
    let mut completed = 0;
    while completed < pushed {
        if let Err(error) = ring.submit_and_wait(1)
            && error.kind() != io::ErrorKind::Interrupted
        {
            std::thread::sleep(BUSY_WAIT);
        }
        for entry in ring.completion() {
            completed += 1;
            if let Some(result) = results.get_mut(entry.user_data() as usize) {
                *result = entry.result();
            }
        }
    }
    results
}

/// Whether every transfer was as long as its buffer.
fn is_whole(results: &[i32], lengths: impl Iterator<Item = usize>) -> bool {
    results
        .iter()
        .zip(lengths)
        .all(|(result, length)| usize::try_from(*result) == Ok(length))
}

/// The error of a write that the plain way need not try again: the device's or filesystem's own.
fn lost(result: &i32) -> Option<Errno> {
    let error = (*result < 0).then(|| Errno::from_raw_os_error(-*result))?;
    let of_the_ring = [
        Errno::AGAIN,
        Errno::INTR,
        Errno::INVAL,
        Errno::OPNOTSUPP,
        Errno::CANCELED,
    ];
    (!of_the_ring.contains(&error)).then_some(error)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn more_reads_than_the_ring_is_deep_all_arrive() {
        if let Err(why) = probe_uring() {
            eprintln!("skipped: {why}");
            return;
        }
        let file = tempfile::tempfile().unwrap();
        let content: Vec<u8> = (0..100_u32 * 512).map(|at| (at / 512) as u8).collect();
        file.write_all_at(&content, 0).unwrap();
        let mut bufs = vec![[0_u8; 512]; 100];
        let mut reads: Vec<(u64, &mut [u8])> = bufs
            .iter_mut()
            .enumerate()
            .map(|(index, buf)| (index as u64 * 512, &mut buf[..]))
            .collect();
        assert!(read_all(file.as_fd(), &mut reads));
        assert!(
            bufs.iter()
                .enumerate()
                .all(|(index, buf)| buf == &[index as u8; 512])
        );
    }

    #[test]
    fn a_short_read_is_told_and_leaves_nothing_in_flight() {
        if probe_uring().is_err() {
            return;
        }
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[1; 100], 0).unwrap();
        let (mut whole, mut short) = ([0; 50], [0; 200]);
        assert!(!read_all(
            file.as_fd(),
            &mut [(0, &mut whole[..]), (0, &mut short[..])]
        ));
        assert!(read_all(file.as_fd(), &mut [(50, &mut whole[..])]));
        assert_eq!(whole, [1; 50]);
    }

    #[test]
    fn more_writes_than_the_ring_is_deep_all_arrive_and_a_lost_one_is_told() {
        if probe_uring().is_err() {
            return;
        }
        let file = tempfile::tempfile().unwrap();
        let pages: Vec<[u8; 512]> = (0..150).map(|at| [at as u8; 512]).collect();
        let writes: Vec<(u64, &[u8])> = (pages.iter().enumerate())
            .map(|(index, page)| (index as u64 * 1024, &page[..]))
            .collect();
        assert_eq!(write_all(file.as_fd(), &writes), Ok(true));
        for (offset, page) in &writes {
            let mut found = [0; 512];
            file.read_exact_at(&mut found, *offset).unwrap();
            assert_eq!(found, *page);
        }
        let read_only = std::fs::File::open("/proc/self/exe").unwrap();
        assert_eq!(write_all(read_only.as_fd(), &writes), Err(Errno::BADF));
    }
}
