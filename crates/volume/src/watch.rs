//! Who else wrote a file while it was held: fanotify, which tells one process from another.
//!
//! The kernel reports every change, and every closing of a descriptor that could write, with the
//! process that did it. A mapping keeps its descriptor open until it is gone, and so does a loop
//! device. So whoever wrote between the watch's beginning, with nobody else having the file open,
//! and a moment at which nobody else has it open any more, was seen.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::{Errno, read};

use crate::kernel;

/// Room for many events; more are read by the next call.
const BUFFER_BYTES: usize = 4096;
/// `FANOTIFY_METADATA_VERSION` of <linux/fanotify.h>.
const VERSION: u8 = 3;
const METADATA_BYTES: usize = 24;

/// Sees who changes a file.
#[derive(Debug)]
pub(crate) struct Watch {
    events: OwnedFd,
    is_disturbed: AtomicBool,
}

impl Watch {
    /// Watches from now on; `None` where the kernel or the filesystem has no such watch for us.
    pub(crate) fn over(file: &File) -> Option<Watch> {
        match kernel::watch_writers(file) {
            Ok(events) => Some(Watch {
                events,
                is_disturbed: AtomicBool::new(false),
            }),
            Err(error) => {
                tracing::debug!(%error, "writers of the target cannot be watched");
                None
            }
        }
    }

    /// Whether all changes were this process's. What cannot be read was somebody else's.
    pub(crate) fn saw_only_us(&self) -> bool {
        let mut buffer = [0; BUFFER_BYTES];
        loop {
            match read(&self.events, &mut buffer) {
                Ok(0) | Err(Errno::AGAIN) => break,
                Ok(count) if are_ours(&buffer[..count]) => {}
                Err(Errno::INTR) => {}
                _ => {
                    self.is_disturbed.store(true, Ordering::SeqCst);
                    break;
                }
            }
        }
        !self.is_disturbed.load(Ordering::SeqCst)
    }
}

/// Whether every event is of this process: `struct fanotify_event_metadata`, one after another.
fn are_ours(mut events: &[u8]) -> bool {
    while let Some(event) = events.first_chunk::<METADATA_BYTES>() {
        let length = u32::from_ne_bytes([event[0], event[1], event[2], event[3]]) as usize;
        let process = i32::from_ne_bytes([event[20], event[21], event[22], event[23]]);
        // An overflow of the queue is of no process.
        let is_ours = u32::try_from(process) == Ok(std::process::id());
        if event[4] != VERSION || !is_ours || length < METADATA_BYTES {
            return false;
        }
        let Some(rest) = events.get(length..) else {
            return false;
        };
        events = rest;
    }
    events.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(process: u32, version: u8, length: u32) -> Vec<u8> {
        let mut bytes = vec![0; METADATA_BYTES + 8];
        bytes[..4].copy_from_slice(&length.to_ne_bytes());
        bytes[4] = version;
        bytes[20..24].copy_from_slice(&process.to_ne_bytes());
        bytes
    }

    #[test]
    fn only_whole_events_of_this_process_are_ours() {
        let ours = event(std::process::id(), VERSION, 32);
        assert!(are_ours(&[]));
        assert!(are_ours(&[ours.clone(), ours.clone()].concat()));
        for other in [
            event(0, VERSION, 32),
            event(std::process::id() + 1, VERSION, 32),
            event(std::process::id(), VERSION + 1, 32),
            event(std::process::id(), VERSION, 23),
            event(std::process::id(), VERSION, 33),
            ours[..10].to_vec(),
        ] {
            assert!(!are_ours(&[ours.clone(), other].concat()));
        }
    }
}
