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
    let mut left = MAX_DESCRIPTORS;
    let mut found = Vec::new();
    for pid in names_in(Path::new("/proc")).filter_map(|name| name.parse::<u32>().ok()) {
        let folder = Path::new("/proc").join(pid.to_string()).join("fd");
        let holds = names_in(&folder)
            .take_while(|_| {
                left = left.saturating_sub(1);
                left > 0
            })
            .filter(|fd| pid != own || fd.parse::<i32>().ok() != except)
            .any(|fd| opens(&folder.join(fd), &is_it));
        if holds {
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
