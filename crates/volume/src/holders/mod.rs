//! Who else uses a file or a device: a guard where the kernel has none, and a sentence for the user.
//!
//! Everything here reads `/proc` and `/sys` and believes what it finds; what it cannot see (other
//! users' processes, other namespaces) it leaves out.

mod device;
mod process;

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Stat};

use crate::kernel;

pub(crate) use device::{explain_device, number_in, sys_folder};
pub(crate) use process::Process;

/// Entries of a `/sys` or `/proc` folder that are looked at.
const MAX_ENTRIES: usize = 65_536;
/// Holders that are named; the rest are counted.
const MAX_NAMED: usize = 4;
/// Longest path or name repeated in a message, in characters.
const MAX_NAME: usize = 200;

/// A sentence on who uses something, and whether one of them is a run of lockstep.
#[derive(Debug, Default)]
pub(crate) struct Holders {
    facts: Vec<String>,
    pub(crate) processes: Vec<Process>,
}

impl Holders {
    /// Whether nobody was found.
    pub(crate) fn is_empty(&self) -> bool {
        self.facts.is_empty() && self.processes.is_empty()
    }

    /// The first of the processes that is a run of lockstep.
    pub(crate) fn lockstep(&self) -> Option<&Process> {
        self.processes.iter().find(|process| process.is_lockstep())
    }

    pub(crate) fn add(&mut self, fact: String) {
        if !self.facts.contains(&fact) {
            self.facts.push(fact);
        }
    }

    /// Everybody found, or `otherwise`.
    pub(crate) fn sentence(&self, otherwise: &str) -> String {
        let opened = |process: &Process| format!("{process} has it open");
        let all: Vec<String> = self
            .facts
            .iter()
            .cloned()
            .chain(self.processes.iter().map(opened))
            .collect();
        if all.is_empty() {
            return otherwise.to_owned();
        }
        let mut sentence = all[..all.len().min(MAX_NAMED)].join(", ");
        if all.len() > MAX_NAMED {
            sentence.push_str(&format!(" and {} more", all.len() - MAX_NAMED));
        }
        sentence
    }
}

/// Who uses a regular file, apart from this one descriptor of ours.
pub(crate) fn of_file(file: &File, stat: &Stat) -> Holders {
    let mut holders = Holders::default();
    for device in loop_devices_on(stat.st_dev, stat.st_ino) {
        holders.add(format!("{} is attached to it", device.display()));
    }
    if is_swap(|swap| swap.st_dev == stat.st_dev && swap.st_ino == stat.st_ino) {
        holders.add("it is in use as swap".to_owned());
    }
    holders.processes = process::with_open(Some(file.as_raw_fd()), |open| {
        open.st_dev == stat.st_dev && open.st_ino == stat.st_ino
    });
    holders
}

/// Who, besides this process, has a device open for writing. An exclusive open says nothing of
/// programs that open it plainly, as virtual machines and databases on raw devices do.
pub(crate) fn writers_of_device(rdev: u64) -> Holders {
    Holders {
        processes: process::writing(|open| {
            rustix::fs::FileType::from_raw_mode(open.st_mode) == rustix::fs::FileType::BlockDevice
                && open.st_rdev == rdev
        }),
        ..Holders::default()
    }
}

/// Loop devices whose backing file is this one.
fn loop_devices_on(dev: u64, ino: u64) -> Vec<PathBuf> {
    names_in(Path::new("/sys/block"))
        .filter(|name| name.starts_with("loop"))
        .filter(|name| loop_backing(name) == Some((dev, ino)))
        .map(|name| Path::new("/dev").join(name))
        .collect()
}

/// Device and inode behind a loop device, by its kernel name; `None` if it is free or not a loop.
///
/// The device is asked; `/sys` has only a path, which may have gone to another file meanwhile.
pub(crate) fn loop_backing(name: &str) -> Option<(u64, u64)> {
    let backing_file = Path::new("/sys/block").join(name).join("loop/backing_file");
    let backing_path = std::fs::read_to_string(backing_file).ok()?;
    let told = File::open(Path::new("/dev").join(name)).and_then(kernel::loop_backing);
    told.ok().or_else(|| {
        let stat = rustix::fs::stat(backing_path.trim_end_matches('\n')).ok()?;
        Some((stat.st_dev, stat.st_ino))
    })
}

/// Whether some swap space is the file or device that `is_it` knows.
fn is_swap(is_it: impl Fn(&Stat) -> bool) -> bool {
    let swaps = std::fs::read_to_string("/proc/swaps").unwrap_or_default();
    swaps
        .lines()
        .skip(1)
        .filter_map(|line| line.split_ascii_whitespace().next())
        .filter_map(|path| rustix::fs::stat(unescape(path)).ok())
        .any(|stat| is_it(&stat))
}

/// Whether a file status is that of the block device with this number.
fn is_device(stat: &Stat, rdev: u64) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::BlockDevice && stat.st_rdev == rdev
}

/// Names in a folder, at most [`MAX_ENTRIES`]; none if it cannot be read.
pub(crate) fn names_in(folder: &Path) -> impl Iterator<Item = String> {
    std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .take(MAX_ENTRIES)
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
}

/// Undoes the octal escapes (`\040`) of `/proc/self/mountinfo` and `/proc/swaps` (proc(5)).
pub(crate) fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let code = tail
            .get(..3)
            .filter(|_| first == b'\\')
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        bytes.push(code.unwrap_or(first));
        rest = if code.is_some() { &tail[3..] } else { tail };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A name from elsewhere, fit for a message: no control characters, not endless.
fn printable(name: &str) -> String {
    name.chars()
        .take(MAX_NAME)
        .map(|char| if char.is_control() { '?' } else { char })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octal_escapes_are_undone_and_other_backslashes_stay() {
        assert_eq!(unescape("/mnt/a\\040b\\134c"), "/mnt/a b\\c");
        assert_eq!(unescape("tail\\04"), "tail\\04");
        assert_eq!(unescape("\\999"), "\\999");
    }

    #[test]
    fn sentences_name_a_few_and_count_the_rest() {
        let mut holders = Holders::default();
        assert_eq!(holders.sentence("somebody"), "somebody");
        for number in 0..6 {
            holders.add(format!("holder {number}"));
        }
        holders.add("holder 0".to_owned());
        assert_eq!(
            holders.sentence(""),
            "holder 0, holder 1, holder 2, holder 3 and 2 more"
        );
    }

    #[test]
    fn a_second_descriptor_of_this_process_is_found_and_the_named_one_is_not() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let stat = rustix::fs::fstat(file.as_file()).unwrap();
        assert!(of_file(file.as_file(), &stat).is_empty());
        let second = File::open(file.path()).unwrap();
        let holders = of_file(file.as_file(), &stat);
        drop(second);
        assert_eq!(holders.processes.len(), 1);
        assert!(holders.lockstep().is_some(), "this process is one of ours");
    }
}
