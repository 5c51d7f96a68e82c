//! Several direct reads in flight at once, on a small io_uring of the calling thread.
#![expect(
    unsafe_code,
    reason = "a submission holds raw pointers; read_all keeps what they point to until all are done"
)]

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use io_uring::{IoUring, opcode, types};

/// Reads in flight on one thread.
const DEPTH: u32 = 32;
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
    RING.with_borrow_mut(|slot| {
        if matches!(slot, Ring::Untried) {
            *slot = match new_ring() {
                Ok(ring) => Ring::Ready(Box::new(ring)),
                Err(_) => Ring::Refused,
            };
        }
        match slot {
            Ring::Ready(ring) => reads
                .chunks_mut(DEPTH as usize)
                .all(|batch| read_batch(ring, fd, batch)),
            Ring::Untried | Ring::Refused => false,
        }
    })
}

fn read_batch(ring: &mut IoUring, fd: BorrowedFd<'_>, batch: &mut [(u64, &mut [u8])]) -> bool {
    let mut pushed = 0;
    for (index, (offset, buf)) in batch.iter_mut().enumerate() {
        let Ok(length) = u32::try_from(buf.len()) else {
            break;
        };
        let read = opcode::Read::new(types::Fd(fd.as_raw_fd()), buf.as_mut_ptr(), length)
            .offset(*offset)
            .build()
            .user_data(index as u64);
        // SAFETY: the descriptor and the buffer are borrowed for longer than this function runs, and
        // `complete` does not return before every read that was pushed has completed.
        if unsafe { ring.submission().push(&read) }.is_err() {
            break;
        }
        pushed += 1;
    }
    let filled = complete(ring, pushed, batch);
    filled == batch.len()
}

/// Waits for every read that was pushed, whatever happens, and counts those that filled their
/// buffer: leaving earlier would let the kernel write into memory that is somebody else's by then.
fn complete(ring: &mut IoUring, pushed: usize, batch: &[(u64, &mut [u8])]) -> usize {
    let mut completed = 0;
    let mut filled = 0;
    while completed < pushed {
        if let Err(error) = ring.submit_and_wait(1)
            && error.kind() != io::ErrorKind::Interrupted
        {
            std::thread::sleep(BUSY_WAIT);
        }
        for entry in ring.completion() {
            completed += 1;
            let wanted = batch.get(entry.user_data() as usize);
            let whole =
                |(_, buf): &(u64, &mut [u8])| usize::try_from(entry.result()) == Ok(buf.len());
            filled += usize::from(wanted.is_some_and(whole));
        }
    }
    filled
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
}
