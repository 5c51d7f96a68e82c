//! Processes that have something open.

use std::fmt;
use std::path::Path;

use rustix::fs::Stat;

use super::{MAX_NAMED, names_in, printable};

/// Descriptors looked at before the search is given up.
const MAX_DESCRIPTORS: usize = 1 << 18;
/// What the kernel calls a run of lockstep.
const OUR_NAME: &str = "lockstep";

/// A process that has something open.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Process {
    pid: u32,
    name: String,
}

impl Process {
    /// Whether it is a run of lockstep; this process is one.
    pub(crate) fn is_lockstep(&self) -> bool {
        self.pid == std::process::id() || self.name == OUR_NAME
    }
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} ({})", self.pid, self.name)
    }
}

/// The first few processes that have what `is_it` knows open, not counting the descriptor `except`
/// of this process.
pub(crate) fn with_open(except: Option<i32>, is_it: impl Fn(&Stat) -> bool) -> Vec<Process> {
    let own = std::process::id();
    search(|pid, fd| {
        (pid != own || fd.parse::<i32>().ok() != except)
            && opens(Path::new(&format!("/proc/{pid}/fd/{fd}")), &is_it)
    })
}

/// The first few other processes that have what `is_it` knows open for writing.
pub(crate) fn writing(is_it: impl Fn(&Stat) -> bool) -> Vec<Process> {
    let own = std::process::id();
    search(|pid, fd| {
        pid != own
            && opens(Path::new(&format!("/proc/{pid}/fd/{fd}")), &is_it)
            && may_write(pid, fd)
    })
}

/// By the flags in proc_pid_fdinfo(5), which are octal; unreadable ones count as writing.
fn may_write(pid: u32, fd: &str) -> bool {
    let Ok(info) = std::fs::read_to_string(format!("/proc/{pid}/fdinfo/{fd}")) else {
        return true;
    };
    let flags = info
        .lines()
        .find_map(|line| line.strip_prefix("flags:"))
        .and_then(|text| u32::from_str_radix(text.trim(), 8).ok());
    flags.is_none_or(|flags| flags & ACCESS_MODE != READ_ONLY)
}

/// O_ACCMODE and O_RDONLY of open(2).
const ACCESS_MODE: u32 = 3;
const READ_ONLY: u32 = 0;

/// Processes of which some descriptor is what `holds` looks for.
fn search(holds: impl Fn(u32, &str) -> bool) -> Vec<Process> {
    let mut left = MAX_DESCRIPTORS;
    let mut found = Vec::new();
    for pid in names_in(Path::new("/proc")).filter_map(|name| name.parse::<u32>().ok()) {
        let folder = Path::new("/proc").join(pid.to_string()).join("fd");
        let found_one = names_in(&folder)
            .take_while(|_| {
                left = left.saturating_sub(1);
                left > 0
            })
            .any(|fd| holds(pid, &fd));
        if found_one {
            found.push(describe(pid));
        }
        if left == 0 || found.len() > MAX_NAMED {
            break;
        }
    }
    found
}

/// Only descriptors that have a path are asked for their status: a socket or a pipe cannot be a
/// volume.
fn opens(descriptor: &Path, is_it: impl Fn(&Stat) -> bool) -> bool {
    let has_path = std::fs::read_link(descriptor).is_ok_and(|target| target.is_absolute());
    has_path && rustix::fs::stat(descriptor).is_ok_and(|stat| is_it(&stat))
}

fn describe(pid: u32) -> Process {
    let comm = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    Process {
        pid,
        name: printable(comm.trim_end()),
    }
}
