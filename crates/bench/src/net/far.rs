//! The near end: asks, and listens.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use lockstep_protocol::{Failure, FailureKind};
use lockstep_transport::remote::boot_id;
use lockstep_transport::{Link, PathStats, Via};

use super::flow::{Direction, Flow, LONGEST, give, take};
use super::word::{Found, MAX_PATH_BYTES, Scan, Word, hear, say};
use crate::disk::{DiskRead, Way};
use crate::failures::out_of_turn;
use crate::hash::HashKind;
use crate::measured::Measured;
use crate::write::WriteTest;

/// Round trips of which the median counts.
const ECHOES: u32 = 9;
/// How long an answer may take beyond the time of what was asked.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// Another machine that measures with this one.
#[derive(Debug)]
pub struct Far {
    link: Link,
}

/// Hashing on all cores of the other machine.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct FarHash {
    /// How many these are.
    pub cores: usize,
    /// Whether it is this machine after all.
    pub is_here: bool,
    /// What was hashed.
    pub measured: Measured,
}

/// A volume as the other machine found it.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct FarRead {
    /// Bytes of the volume.
    pub size: u64,
    /// Bytes of its data.
    pub data: u64,
    /// Whether there is a disk below the page cache.
    pub has_medium: bool,
    /// Whether io_uring was used, as was asked.
    pub uring: bool,
    /// What was read.
    pub read: DiskRead,
}

impl Far {
    /// Speaks over a link whose other end is in [`crate::serve`].
    #[must_use]
    pub fn new(link: Link) -> Far {
        Far { link }
    }

    /// What carries the link.
    #[must_use]
    pub fn via(&self) -> Via {
        self.link.via
    }

    /// The median of some round trips of a word, nothing else being under way.
    ///
    /// # Errors
    /// The link breaks.
    pub fn round_trip(&self) -> Result<Duration, Failure> {
        let mut trips = Vec::new();
        for number in 0..ECHOES {
            let begun = Instant::now();
            match self.ask(&Word::Echo { number }, Duration::ZERO)? {
                Word::Echo { number: back } if back == number => trips.push(begun.elapsed()),
                _ => return Err(out_of_turn()),
            }
        }
        trips.sort_unstable();
        Ok(trips[trips.len() / 2])
    }

    /// Moves bytes for so long, at most a minute.
    ///
    /// # Errors
    /// The link breaks, or is too slow to be measured in that time.
    pub fn flow(&self, direction: Direction, limit: Duration) -> Result<Flow, Failure> {
        let limit = limit.min(LONGEST);
        let (received, sender_cpu, paths) = match direction {
            Direction::To => {
                say(&self.link.sender, &Word::Take { limit })?;
                let gave = give(&self.link, limit)?;
                (gave.received, gave.cpu, gave.paths)
            }
            Direction::From => {
                say(&self.link.sender, &Word::Give { limit })?;
                let received = take(&self.link, limit)?;
                match hear(&self.link.control, ANSWER_LIMIT)? {
                    Word::Done { cpu, paths } => {
                        let paths: Vec<PathStats> = paths.into_iter().map(Into::into).collect();
                        (received, cpu, paths)
                    }
                    _ => return Err(out_of_turn()),
                }
            }
        };
        if received.bytes == 0 {
            return Err(
                Failure::new(FailureKind::Temporary, "too little arrived to tell a rate")
                    .hint("measure for longer with --seconds"),
            );
        }
        Ok(Flow {
            direction,
            via: self.link.via,
            received,
            sender_cpu,
            paths,
        })
    }

    /// Hashing on all cores there.
    ///
    /// # Errors
    /// The link breaks.
    pub fn hash(&self, kind: HashKind, limit: Duration) -> Result<FarHash, Failure> {
        let kind = match kind {
            HashKind::Pages => Scan::Pages,
            _ => Scan::Groups,
        };
        match self.ask(&Word::Hash { kind, limit }, limit)? {
            Word::Hashed {
                boot,
                cores,
                measured,
            } => Ok(FarHash {
                cores: usize::try_from(cores).unwrap_or(1).max(1),
                is_here: !boot.is_empty() && boot == boot_id(),
                measured,
            }),
            _ => Err(out_of_turn()),
        }
    }

    /// Reading a volume there.
    ///
    /// # Errors
    /// What the other end says of the path, or the link breaks.
    pub fn read(
        &self,
        path: &Path,
        way: Way,
        uring: bool,
        limit: Duration,
    ) -> Result<FarRead, Failure> {
        let path = bytes_of(path)?;
        let ask = Word::Read {
            path,
            way,
            uring,
            limit,
        };
        match self.ask(&ask, limit)? {
            Word::Found(Found {
                size,
                data,
                has_medium,
                uring,
                read,
            }) => Ok(FarRead {
                size,
                data,
                has_medium,
                uring,
                read,
            }),
            _ => Err(out_of_turn()),
        }
    }

    /// Writing a new nameless file beside a path there.
    ///
    /// # Errors
    /// What the other end says of the folder, or the link breaks.
    pub fn write(&self, path: &Path, uring: bool, limit: Duration) -> Result<WriteTest, Failure> {
        let path = bytes_of(path)?;
        match self.ask(&Word::Write { path, uring, limit }, 4 * limit)? {
            Word::Wrote(test) => Ok(test),
            _ => Err(out_of_turn()),
        }
    }

    /// Lets the other end go.
    pub fn leave(self) {
        // If it is gone already, so much the better.
        let _ = say(&self.link.sender, &Word::Bye);
        self.link.sender.finish();
    }

    fn ask(&self, word: &Word, limit: Duration) -> Result<Word, Failure> {
        say(&self.link.sender, word)?;
        hear(&self.link.control, limit.min(4 * LONGEST) + ANSWER_LIMIT)
    }
}

fn bytes_of(path: &Path) -> Result<Vec<u8>, Failure> {
    let bytes = path.as_os_str().as_bytes().to_vec();
    match bytes.len() {
        1..=MAX_PATH_BYTES => Ok(bytes),
        _ => Err(Failure::new(
            FailureKind::Usage,
            format!("a path has 1 to {MAX_PATH_BYTES} bytes"),
        )),
    }
}

#[cfg(test)]
mod tests;
