//! Who else wrote a file while it was held: fanotify, which tells one process from another.
//!
//! The kernel reports every change, and every closing of a descriptor that could write, with the
//! process that did it. A mapping keeps its descriptor open until it is gone, and so does a loop
//! device. So whoever wrote between the watch's beginning, with nobody else having the file open,
//! and a moment at which nobody else has it open any more, was seen.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};

use rustix::io::{Errno, read};

use crate::kernel;

/// Room for many events; more are read by the next call.
const BUFFER_BYTES: usize = 4096;
/// `FANOTIFY_METADATA_VERSION` of <linux/fanotify.h>.
const VERSION: u8 = 3;
const METADATA_BYTES: usize = 24;

/// `FAN_Q_OVERFLOW` of <linux/fanotify.h>.
const OVERFLOW: u64 = 0x4000;

/// Who, besides this process, wrote a file while it was held; the worst comes last.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum OtherWriters {
    /// Nobody.
    Nobody,
    /// Nobody can say.
    Perhaps,
    /// Somebody wrote it, or let go of it having been able to.
    Somebody,
}

/// Sees who changes a file.
#[derive(Debug)]
pub(crate) struct Watch {
    events: OwnedFd,
    seen: Mutex<OtherWriters>,
}

impl Watch {
    /// Watches from now on; `None` where the kernel or the filesystem has no such watch for us.
    pub(crate) fn over(file: &File) -> Option<Watch> {
        match kernel::watch_writers(file) {
            Ok(events) => Some(Watch {
                events,
                seen: Mutex::new(OtherWriters::Nobody),
            }),
            Err(error) => {
                tracing::debug!(%error, "writers of the target cannot be watched");
                None
            }
        }
    }

    /// Forgets who wrote it until now, before anything of it was read.
    pub(crate) fn forget(&self) {
        self.other_writers();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if *seen == OtherWriters::Somebody {
            *seen = OtherWriters::Nobody;
        }
    }

    /// Who wrote it until now; what was seen once stays.
    pub(crate) fn other_writers(&self) -> OtherWriters {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let mut buffer = [0; BUFFER_BYTES];
        loop {
            let now = match read(&self.events, &mut buffer) {
                Ok(0) | Err(Errno::AGAIN) => return *seen,
                Ok(count) => writers_of(&buffer[..count]),
                Err(Errno::INTR) => continue,
                Err(_) => {
                    *seen = OtherWriters::Perhaps.max(*seen);
                    return *seen;
                }
            };
            *seen = now.max(*seen);
        }
    }
}

/// Who did what these events tell: `struct fanotify_event_metadata`, one after another.
fn writers_of(mut events: &[u8]) -> OtherWriters {
    let mut seen = OtherWriters::Nobody;
    while let Some(event) = events.first_chunk::<METADATA_BYTES>() {
        let length = u32::from_ne_bytes([event[0], event[1], event[2], event[3]]) as usize;
        let Some(rest) = events.get(length.max(METADATA_BYTES)..) else {
            return OtherWriters::Perhaps.max(seen);
        };
        if event[4] != VERSION || length < METADATA_BYTES {
            return OtherWriters::Perhaps.max(seen);
        }
        seen = writer_of(event).max(seen);
        events = rest;
    }
    if events.is_empty() {
        seen
    } else {
        OtherWriters::Perhaps.max(seen)
    }
}

fn writer_of(event: &[u8; METADATA_BYTES]) -> OtherWriters {
    let mut mask = [0; 8];
    mask.copy_from_slice(&event[8..16]);
    let process = i32::from_ne_bytes([event[20], event[21], event[22], event[23]]);
    if u64::from_ne_bytes(mask) & OVERFLOW != 0 {
        OtherWriters::Perhaps
    } else if u32::try_from(process) == Ok(std::process::id()) {
        OtherWriters::Nobody
    } else {
        // Other users' processes have the number 0 here.
        OtherWriters::Somebody
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(process: u32, version: u8, length: u32, mask: u64) -> Vec<u8> {
        let mut bytes = vec![0; METADATA_BYTES + 8];
        bytes[..4].copy_from_slice(&length.to_ne_bytes());
        bytes[4] = version;
        bytes[8..16].copy_from_slice(&mask.to_ne_bytes());
        bytes[20..24].copy_from_slice(&process.to_ne_bytes());
        bytes
    }

    #[test]
    fn only_whole_events_of_this_process_are_ours() {
        let us = std::process::id();
        let ours = event(us, VERSION, 32, 2);
        assert_eq!(writers_of(&[]), OtherWriters::Nobody);
        let twice = [ours.clone(), ours.clone()].concat();
        assert_eq!(writers_of(&twice), OtherWriters::Nobody);
        for (other, writers) in [
            (event(0, VERSION, 32, 8), OtherWriters::Somebody),
            (event(us + 1, VERSION, 32, 2), OtherWriters::Somebody),
            (event(0, VERSION, 32, OVERFLOW), OtherWriters::Perhaps),
            (event(us, VERSION + 1, 32, 2), OtherWriters::Perhaps),
            (event(us, VERSION, 23, 2), OtherWriters::Perhaps),
            (event(us, VERSION, 33, 2), OtherWriters::Perhaps),
            (ours[..10].to_vec(), OtherWriters::Perhaps),
        ] {
            let events = [ours.clone(), other.clone()].concat();
            assert_eq!(writers_of(&events), writers, "{other:?}");
            let known = [event(0, VERSION, 32, 8), other].concat();
            assert_eq!(writers_of(&known), OtherWriters::Somebody, "it stays known");
        }
    }
}
