//! A volume before another one, which spoils calls by a plan and counts them.

use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

use super::Fault;
use crate::failure::{IoFailure, Operation};
use crate::volume::Volume;

/// A volume that spoils calls to the one behind it.
#[derive(Debug)]
pub struct FaultyVolume<V> {
    inner: V,
    name: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    plan: Vec<Fault>,
    counts: HashMap<Operation, u64>,
    flush_failed: bool,
}

/// What becomes of one write.
struct Spoilt {
    bytes: Vec<u8>,
    in_halves: bool,
}

impl<V: Volume> FaultyVolume<V> {
    /// A volume with a plan of faults; all of them apply.
    pub fn new(inner: V, plan: Vec<Fault>) -> FaultyVolume<V> {
        FaultyVolume {
            inner,
            name: PathBuf::from("a faulty volume"),
            state: Mutex::new(State {
                plan,
                counts: HashMap::new(),
                flush_failed: false,
            }),
        }
    }

    /// The volume behind it.
    pub fn inner(&self) -> &V {
        &self.inner
    }

    /// Gives the volume behind it back.
    pub fn into_inner(self) -> V {
        self.inner
    }

    /// Calls of an operation so far, failed ones included.
    pub fn count(&self, operation: Operation) -> u64 {
        self.state().counts.get(&operation).copied().unwrap_or(0)
    }

    /// Adds a fault to the plan.
    pub fn add(&self, fault: Fault) {
        self.state().plan.push(fault);
    }

    /// Ends all faults; a flush that failed goes on failing.
    pub fn heal(&self) {
        self.state().plan.clear();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a call, and fails it if that is the plan; else its number.
    fn begin(&self, op: Operation, offset: u64, length: u64) -> Result<u64, IoFailure> {
        let mut state = self.state();
        let count = state.counts.entry(op).or_insert(0);
        *count += 1;
        let number = *count;
        let failing = state.plan.iter().find_map(|fault| match fault {
            Fault::FailNth { op: of, n, errno } if (*of, *n) == (op, number) => Some(*errno),
            Fault::ReadBackError { offset: bad }
                if op == Operation::ReadBack && (offset..offset + length).contains(bad) =>
            {
                Some(Errno::IO.raw_os_error())
            }
            _ => None,
        });
        match failing {
            Some(errno) => Err(self.failure(op, offset, length, errno)),
            None => Ok(number),
        }
    }

    fn failure(&self, op: Operation, offset: u64, length: u64, errno: i32) -> IoFailure {
        let cause = io::Error::from_raw_os_error(errno);
        IoFailure::from_io(op, &self.name, offset, length, cause)
    }

    /// Begins a read of any kind, which may find the volume shortened.
    fn begin_read(&self, op: Operation, offset: u64, length: u64) -> Result<u64, IoFailure> {
        let number = self.begin(op, offset, length)?;
        let state = self.state();
        let reads: u64 = [Operation::Read, Operation::ReadCached, Operation::ReadBack]
            .iter()
            .filter_map(|op| state.counts.get(op))
            .sum();
        let end = state.plan.iter().find_map(|fault| match fault {
            Fault::TruncateAfter { reads: still, end } if reads > *still => Some(*end),
            _ => None,
        });
        match end {
            Some(end) if offset + length > end => Err(IoFailure::Truncated {
                operation: op,
                path: self.name.clone(),
                offset,
                length,
                end,
            }),
            _ => Ok(number),
        }
    }

    fn spoil_write(&self, number: u64, offset: u64, buf: &[u8]) -> Spoilt {
        let mut spoilt = Spoilt {
            bytes: buf.to_vec(),
            in_halves: false,
        };
        for fault in &mut self.state().plan {
            spoilt.suffer(fault, number, offset);
        }
        spoilt
    }
}

impl Spoilt {
    fn suffer(&mut self, fault: &mut Fault, number: u64, offset: u64) {
        match fault {
            Fault::LostWrite { n } if *n == number => self.bytes.clear(),
            Fault::TornWrite { n, at } if *n == number => self.bytes.truncate(*at),
            Fault::ShortWrite { every } => self.in_halves |= is_turn(*every, number),
            Fault::FlipBit { n, bit } if *n == number && !self.bytes.is_empty() => {
                let byte = (*bit / 8) as usize % self.bytes.len();
                self.bytes[byte] ^= 1 << (*bit % 8);
            }
            Fault::FlipBitAt { offset: at, times } if *times > 0 => {
                let byte = at.checked_sub(offset).map(|index| index as usize);
                if let Some(byte) = byte.and_then(|index| self.bytes.get_mut(index)) {
                    *byte ^= 1;
                    *times -= 1;
                }
            }
            _ => {}
        }
    }
}

fn is_turn(every: u64, number: u64) -> bool {
    every > 0 && number.is_multiple_of(every)
}

impl<V: Volume> Volume for FaultyVolume<V> {
    fn size(&self) -> u64 {
        self.inner.size()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), IoFailure> {
        let number = self.begin_read(Operation::Read, offset, buf.len() as u64)?;
        let in_halves =
            self.state().plan.iter().any(
                |fault| matches!(fault, Fault::ShortRead { every } if is_turn(*every, number)),
            );
        let middle = if in_halves { buf.len() / 2 } else { buf.len() };
        let (first, second) = buf.split_at_mut(middle);
        self.inner.read_at(offset, first)?;
        self.inner.read_at(offset + middle as u64, second)
    }

    fn read_if_cached(&self, offset: u64, buf: &mut [u8]) -> Result<bool, IoFailure> {
        self.begin_read(Operation::ReadCached, offset, buf.len() as u64)?;
        self.inner.read_if_cached(offset, buf)
    }

    fn read_back(&self, offset: u64, buf: &mut [u8]) -> Result<(), IoFailure> {
        self.begin_read(Operation::ReadBack, offset, buf.len() as u64)?;
        self.inner.read_back(offset, buf)
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> Result<(), IoFailure> {
        let number = self.begin(Operation::Write, offset, buf.len() as u64)?;
        let spoilt = self.spoil_write(number, offset, buf);
        let middle = if spoilt.in_halves {
            spoilt.bytes.len() / 2
        } else {
            spoilt.bytes.len()
        };
        let (first, second) = spoilt.bytes.split_at(middle);
        self.inner.write_at(offset, first)?;
        self.inner.write_at(offset + middle as u64, second)
    }

    fn zero(&self, range: Range<u64>) -> Result<(), IoFailure> {
        let length = range.end.saturating_sub(range.start);
        self.begin(Operation::Zero, range.start, length)?;
        self.inner.zero(range)
    }

    fn start_writeback(&self, range: Range<u64>) {
        self.inner.start_writeback(range);
    }

    fn flush(&self) -> Result<(), IoFailure> {
        let number = self.begin(Operation::Flush, 0, self.size());
        let fails = |number: u64| {
            let fails = |fault: &Fault| matches!(fault, Fault::FlushError { n } if *n <= number);
            self.state().plan.iter().any(fails)
        };
        let failed = number.map_or(true, fails) || self.state().flush_failed;
        if failed {
            self.state().flush_failed = true;
            return Err(IoFailure::FlushFailed {
                path: Path::to_path_buf(&self.name),
                cause: Errno::IO.into(),
            });
        }
        self.inner.flush()
    }

    fn next_data(&self, from: u64) -> Result<Option<Range<u64>>, IoFailure> {
        self.begin(Operation::FindData, from, 0)?;
        self.inner.next_data(from)
    }

    fn advise_sequential(&self) {
        self.inner.advise_sequential();
    }

    fn will_need(&self, range: Range<u64>) {
        self.inner.will_need(range);
    }

    fn has_medium(&self) -> bool {
        self.inner.has_medium()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::IoFailureKind;
    use crate::faults::MemoryVolume;

    fn faulty(plan: Vec<Fault>) -> FaultyVolume<MemoryVolume> {
        FaultyVolume::new(MemoryVolume::new(1000), plan)
    }

    #[test]
    fn the_nth_call_of_one_operation_fails_and_no_other() {
        let (op, errno) = (Operation::Write, 28);
        let volume = faulty(vec![Fault::FailNth { op, n: 2, errno }]);
        volume.write_at(0, b"a").unwrap();
        volume.read_at(0, &mut [0]).unwrap();
        let full = volume.write_at(1, b"b").unwrap_err();
        assert_eq!(full.kind(), IoFailureKind::NoSpace);
        volume.write_at(2, b"c").unwrap();
        assert_eq!(&volume.inner().content()[..3], b"a\0c");
        assert_eq!(volume.count(op), 3);
        assert_eq!(volume.count(Operation::Read), 1);
    }

    #[test]
    fn lost_torn_and_flipped_writes_say_that_all_is_well() {
        let volume = faulty(vec![
            Fault::LostWrite { n: 1 },
            Fault::TornWrite { n: 2, at: 1 },
            Fault::FlipBit { n: 3, bit: 9 },
            Fault::FlipBitAt {
                offset: 30,
                times: 1,
            },
        ]);
        for offset in [0, 10, 20, 30, 30] {
            volume.write_at(offset, &[0xF0; 3]).unwrap();
        }
        let content = volume.inner().content();
        assert_eq!(content[..3], [0, 0, 0]);
        assert_eq!(content[10..13], [0xF0, 0, 0]);
        assert_eq!(content[20..23], [0xF0, 0xF2, 0xF0]);
        assert_eq!(content[30..33], [0xF0; 3], "the second write repaired it");
    }

    #[test]
    fn halves_make_a_whole() {
        let volume = faulty(vec![
            Fault::ShortRead { every: 1 },
            Fault::ShortWrite { every: 2 },
        ]);
        volume.write_at(0, b"abc").unwrap();
        volume.write_at(3, b"def").unwrap();
        let mut buf = [0; 6];
        volume.read_at(0, &mut buf).unwrap();
        assert_eq!(&buf, b"abcdef");
    }

    #[test]
    fn a_flush_that_failed_fails_for_ever() {
        let volume = faulty(vec![Fault::FlushError { n: 2 }]);
        volume.flush().unwrap();
        volume.write_at(0, b"x").unwrap();
        assert!(volume.flush().is_err());
        volume.heal();
        let again = volume.flush().unwrap_err();
        assert_eq!(again.kind(), IoFailureKind::FlushFailed);
        assert_eq!(volume.inner().medium_content()[0], 0);
    }

    #[test]
    fn read_backs_over_a_bad_byte_fail_and_a_shortened_volume_is_told() {
        let volume = faulty(vec![
            Fault::ReadBackError { offset: 100 },
            Fault::TruncateAfter { reads: 3, end: 500 },
        ]);
        assert!(volume.read_back(90, &mut [0; 20]).is_err());
        volume.read_back(101, &mut [0; 20]).unwrap();
        volume.read_at(480, &mut [0; 30]).unwrap();
        let cut = volume.read_at(480, &mut [0; 30]).unwrap_err();
        assert_eq!(cut.kind(), IoFailureKind::Truncated);
        volume.read_at(470, &mut [0; 30]).unwrap();
    }
}
