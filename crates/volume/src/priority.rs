//! How much of processors and disks a thread asks for: setpriority(2), ioprio_set(2).
#![expect(
    unsafe_code,
    reason = "ioprio_set has no wrapper in libc or rustix; its arguments are integers"
)]

use std::cell::Cell;
use std::fmt;
use std::io;

use rustix::process::{getpriority_process, setpriority_process};

// From <linux/ioprio.h>.
const IOPRIO_WHO_PROCESS: libc::c_int = 1;
const IOPRIO_CLASS_SHIFT: u16 = 13;
const IOPRIO_CLASS_BE: u16 = 2;
const IOPRIO_CLASS_IDLE: u16 = 3;
const IOPRIO_LOWEST_LEVEL: u16 = 7;

/// Nice values: half way, and the last.
const LOW_NICE: i32 = 10;
const IDLE_NICE: i32 = 19;

/// How much a run's threads ask for, beside whoever else uses the machine.
///
/// The class of I/O counts only where the disk's scheduler (BFQ, mq-deadline) looks at it; `none`,
/// which many fast disks have, does not.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Priority {
    /// As much as anybody.
    #[default]
    Normal,
    /// Less than others: the lowest best-effort I/O, nice 10.
    Low,
    /// What nobody else wants: idle I/O, nice 19.
    Idle,
}

/// The kernel did not lower a thread.
#[derive(Debug, thiserror::Error)]
#[error("the kernel does not lower the {what} of a thread")]
pub struct NotLowered {
    what: &'static str,
    #[source]
    cause: io::Error,
}

thread_local! {
    /// What requests say that carry a class of their own; 0 is the thread's.
    static REQUESTS: Cell<u16> = const { Cell::new(0) };
}

impl Priority {
    /// The priority in one word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Priority::Normal => "normal",
            Priority::Low => "low",
            Priority::Idle => "idle",
        }
    }

    /// Lowers the calling thread, for as long as it lives. A thread that is lower already stays as
    /// it is: without rights nothing could be raised again.
    ///
    /// # Errors
    /// [`NotLowered`] if the kernel refuses, as a seccomp filter makes it; whatever it did allow
    /// stays.
    pub fn lower_this_thread(self) -> Result<(), NotLowered> {
        let Some((nice, io)) = self.values() else {
            return Ok(());
        };
        let niced = lower_processor(nice);
        let classed = lower_io(io);
        niced.and(classed)
    }

    fn values(self) -> Option<(i32, u16)> {
        match self {
            Priority::Normal => None,
            Priority::Low => {
                let io = IOPRIO_CLASS_BE << IOPRIO_CLASS_SHIFT | IOPRIO_LOWEST_LEVEL;
                Some((LOW_NICE, io))
            }
            Priority::Idle => Some((IDLE_NICE, IOPRIO_CLASS_IDLE << IOPRIO_CLASS_SHIFT)),
        }
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// What a request of the calling thread says of its own priority (`sqe.ioprio`).
///
/// Only what the kernel has taken for the thread: it refuses others with the request itself.
pub(crate) fn of_requests() -> u16 {
    REQUESTS.get()
}

/// On Linux these calls are about the calling thread, whatever POSIX says of processes.
fn lower_processor(nice: i32) -> Result<(), NotLowered> {
    let refused = |error: rustix::io::Errno| NotLowered {
        what: "processor time",
        cause: error.into(),
    };
    let now = getpriority_process(None).map_err(refused)?;
    match now < nice {
        true => setpriority_process(None, nice).map_err(refused),
        false => Ok(()),
    }
}

fn lower_io(wanted: u16) -> Result<(), NotLowered> {
    let refused = |cause: io::Error| NotLowered {
        what: "I/O priority",
        cause,
    };
    let now = io_priority().map_err(refused)?;
    if now >> IOPRIO_CLASS_SHIFT == IOPRIO_CLASS_IDLE {
        REQUESTS.set(now);
        return Ok(());
    }
    // SAFETY: three integers; 0 stands for the calling thread.
    let set = unsafe {
        libc::syscall(
            libc::SYS_ioprio_set,
            IOPRIO_WHO_PROCESS,
            0,
            libc::c_int::from(wanted),
        )
    };
    if set < 0 {
        return Err(refused(io::Error::last_os_error()));
    }
    REQUESTS.set(wanted);
    Ok(())
}

/// The calling thread's class and level of I/O.
fn io_priority() -> io::Result<u16> {
    // SAFETY: two integers; 0 stands for the calling thread.
    let value = unsafe { libc::syscall(libc::SYS_ioprio_get, IOPRIO_WHO_PROCESS, 0) };
    match value {
        ..0 => Err(io::Error::last_os_error()),
        value => Ok(u16::try_from(value).unwrap_or(0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lowered(priorities: &'static [Priority]) -> (i32, u16, u16) {
        let thread = std::thread::spawn(move || {
            for priority in priorities {
                priority.lower_this_thread().unwrap();
            }
            let nice = getpriority_process(None).unwrap();
            (nice, io_priority().unwrap(), of_requests())
        });
        thread.join().unwrap()
    }

    #[test]
    fn a_thread_is_lowered_and_no_other() {
        let before = (getpriority_process(None).unwrap(), io_priority().unwrap());
        let (nice, io, requests) = lowered(&[Priority::Low]);
        assert_eq!(nice, LOW_NICE.max(before.0));
        if before.1 >> IOPRIO_CLASS_SHIFT != IOPRIO_CLASS_IDLE {
            assert_eq!(io, 0x4007);
        }
        assert_eq!(requests, io);
        assert_eq!(lowered(&[Priority::Idle]), (IDLE_NICE, 0x6000, 0x6000));
        let after = (getpriority_process(None).unwrap(), io_priority().unwrap());
        assert_eq!(after, before);
    }

    #[test]
    fn nothing_is_ever_raised() {
        assert_eq!(
            lowered(&[Priority::Idle, Priority::Low]),
            (IDLE_NICE, 0x6000, 0x6000)
        );
    }

    #[test]
    fn normal_changes_nothing() {
        let nice = getpriority_process(None).unwrap();
        assert_eq!(
            lowered(&[Priority::Normal]),
            (nice, io_priority().unwrap(), 0)
        );
    }
}
