//! Making ranges zero: holes in files, zeroed ranges on devices, written zeros where neither works.

use std::ops::Range;
use std::sync::atomic::Ordering;

use lockstep_merkle::is_zero;
use rustix::fs::{FallocateFlags, fallocate, ioctl_blksszget};
use rustix::io::Errno;

use crate::failure::{Call, IoFailure, Operation};
use crate::kernel;
use crate::medium::Medium;
use crate::volume::VolumeKind;

/// Where zeros are written, this many bytes a call.
const ZEROS_BYTES: usize = 1 << 20;
/// The first zeroed range of a device, or its beginning, is read back before any is trusted.
const PROBE_BYTES: u64 = 16 << 20;

#[repr(align(4096))]
struct Zeros([u8; ZEROS_BYTES]);

static ZEROS: Zeros = Zeros([0; ZEROS_BYTES]);

// What is known of the kernel's own zeroing of one volume.
const UNTRIED: u8 = 0;
const WORKS: u8 = 1;
const WRITE_ZEROS: u8 = 2;

impl Medium {
    pub(crate) fn zero(&self, range: Range<u64>) -> Result<(), IoFailure> {
        let length = range.end.saturating_sub(range.start);
        let call = self.writing_call(Operation::Zero, range.start, length)?;
        if length == 0 {
            return Ok(());
        }
        match self.kind() {
            VolumeKind::File => self.punch(call, range),
            VolumeKind::BlockDevice => self.zero_out(call, range),
        }
    }

    fn punch(&self, call: Call<'_>, range: Range<u64>) -> Result<(), IoFailure> {
        if self.zeroing.load(Ordering::Relaxed) == WRITE_ZEROS {
            return self.write_zeros_over_data(call, range);
        }
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        loop {
            match fallocate(self.file(), flags, call.offset, call.length) {
                Ok(()) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
                    self.zeroing.store(WRITE_ZEROS, Ordering::Relaxed);
                    return self.write_zeros_over_data(call, range);
                }
                Err(error) => return Err(call.failed(error)),
            }
        }
    }

    /// Writes zeros, but not where a hole already reads as zeros.
    fn write_zeros_over_data(&self, call: Call<'_>, range: Range<u64>) -> Result<(), IoFailure> {
        let mut from = range.start;
        while let Some(data) = self.next_data(from)? {
            if data.start >= range.end {
                break;
            }
            from = data.end.min(range.end);
            self.write_zeros(data.start.max(range.start)..from)
                .map_err(|error| call.failed(error))?;
            if from == range.end {
                break;
            }
        }
        Ok(())
    }

    fn write_zeros(&self, range: Range<u64>) -> rustix::io::Result<()> {
        let mut at = range.start;
        while at < range.end {
            let length = (range.end - at).min(ZEROS_BYTES as u64);
            self.write_parts(at, &ZEROS.0[..length as usize])?;
            at += length;
        }
        Ok(())
    }

    /// Zeroes whole sectors in the device, and writes zeros to what sticks out at either end.
    fn zero_out(&self, call: Call<'_>, range: Range<u64>) -> Result<(), IoFailure> {
        let sector = ioctl_blksszget(self.file()).map_err(|error| call.failed(error))?;
        let sector = u64::from(sector.max(512));
        let start = range.start.next_multiple_of(sector);
        let end = range.end - range.end % sector;
        let edges = if start < end {
            self.zero_out_sectors(call, start..end)?;
            [range.start..start, end..range.end]
        } else {
            [range.clone(), range.end..range.end]
        };
        edges
            .into_iter()
            .try_for_each(|edge| self.write_zeros(edge))
            .map_err(|error| call.failed(error))
    }

    fn zero_out_sectors(&self, call: Call<'_>, range: Range<u64>) -> Result<(), IoFailure> {
        match self.zeroing.load(Ordering::Acquire) {
            WORKS => self.zero_out_trusted(call, range),
            UNTRIED => {
                let probe = range.start..range.end.min(range.start + PROBE_BYTES);
                self.probe_zero_out(call, probe.clone())?;
                if probe.end == range.end {
                    return Ok(());
                }
                self.zero_out_sectors(call, probe.end..range.end)
            }
            _ => self.write_zeros(range).map_err(|error| call.failed(error)),
        }
    }

    fn zero_out_trusted(&self, call: Call<'_>, range: Range<u64>) -> Result<(), IoFailure> {
        match kernel::zero_out(self.file(), range.start, range.end - range.start) {
            Ok(()) => Ok(()),
            Err(Errno::OPNOTSUPP | Errno::INVAL) => {
                self.zeroing.store(WRITE_ZEROS, Ordering::Release);
                self.write_zeros(range).map_err(|error| call.failed(error))
            }
            Err(error) => Err(call.failed(error)),
        }
    }

    /// Zeroes a range and looks at the medium; a device that left anything there gets zeros written
    /// from now on. Devices have claimed to zero and did not.
    fn probe_zero_out(&self, call: Call<'_>, range: Range<u64>) -> Result<(), IoFailure> {
        self.zero_out_trusted(call, range.clone())?;
        if self.zeroing.load(Ordering::Acquire) == WRITE_ZEROS {
            return Ok(());
        }
        if self.reads_back_as_zeros(range.clone())? {
            self.zeroing.store(WORKS, Ordering::Release);
            return Ok(());
        }
        tracing::warn!(
            volume = %self.path().display(),
            "the device did not zero what it said it zeroed; zeros are written instead"
        );
        self.zeroing.store(WRITE_ZEROS, Ordering::Release);
        self.write_zeros(range).map_err(|error| call.failed(error))
    }

    fn reads_back_as_zeros(&self, range: Range<u64>) -> Result<bool, IoFailure> {
        let mut buf = crate::buffer::map_zeroed(ZEROS_BYTES);
        let mut at = range.start;
        while at < range.end {
            let length = (range.end - at).min(ZEROS_BYTES as u64) as usize;
            self.read_back(at, &mut buf[..length])?;
            if !is_zero(&buf[..length]) {
                return Ok(false);
            }
            at += length as u64;
        }
        Ok(true)
    }
}
