//! A volume in memory, with a page cache that a crash empties.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::failure::{Call, IoFailure, Operation};
use crate::volume::Volume;

/// Unit in which it knows what is data and what is hole.
const PAGE: u64 = 4096;

/// A volume in memory: what was written is readable at once, and survives [`MemoryVolume::crash`]
/// only if it was flushed. [`Volume::read_back`] shows the medium, so what was not flushed is missing
/// there.
#[derive(Debug)]
pub struct MemoryVolume {
    name: PathBuf,
    size: u64,
    state: Mutex<State>,
}

#[derive(Clone, Debug, Default)]
struct Image {
    bytes: Vec<u8>,
    data_pages: BTreeSet<u64>,
}

#[derive(Debug, Default)]
struct State {
    cache: Image,
    medium: Image,
}

impl MemoryVolume {
    /// A volume of that many bytes, all hole.
    #[must_use]
    pub fn new(size: u64) -> MemoryVolume {
        let image = Image {
            bytes: vec![0; size as usize],
            data_pages: BTreeSet::new(),
        };
        Self::of_image(image)
    }

    /// A volume with this content, all data, all on the medium.
    #[must_use]
    pub fn with_content(bytes: Vec<u8>) -> MemoryVolume {
        let data_pages = (0..(bytes.len() as u64).div_ceil(PAGE)).collect();
        Self::of_image(Image { bytes, data_pages })
    }

    fn of_image(image: Image) -> MemoryVolume {
        MemoryVolume {
            name: PathBuf::from("a volume in memory"),
            size: image.bytes.len() as u64,
            state: Mutex::new(State {
                cache: image.clone(),
                medium: image,
            }),
        }
    }

    /// Forgets everything that was not flushed, as a power cut does.
    pub fn crash(&self) {
        let mut state = self.state();
        state.cache = state.medium.clone();
    }

    /// All bytes, as a read shows them.
    #[must_use]
    pub fn content(&self) -> Vec<u8> {
        self.state().cache.bytes.clone()
    }

    /// All bytes on the medium: what a crash would leave.
    #[must_use]
    pub fn medium_content(&self) -> Vec<u8> {
        self.state().medium.bytes.clone()
    }

    /// Bytes that are data, in whole pages of 4 KiB.
    #[must_use]
    pub fn allocated_bytes(&self) -> u64 {
        self.state().cache.data_pages.len() as u64 * PAGE
    }

    /// The name that its failures bear.
    #[must_use]
    pub fn name(&self) -> &Path {
        &self.name
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The range as indexes, if it lies inside.
    fn checked(
        &self,
        operation: Operation,
        offset: u64,
        length: u64,
    ) -> Result<Range<usize>, IoFailure> {
        Call {
            operation,
            path: &self.name,
            offset,
            length,
        }
        .within(self.size)?;
        Ok(offset as usize..(offset + length) as usize)
    }
}

impl Volume for MemoryVolume {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), IoFailure> {
        let range = self.checked(Operation::Read, offset, buf.len() as u64)?;
        buf.copy_from_slice(&self.state().cache.bytes[range]);
        Ok(())
    }

    fn read_if_cached(&self, offset: u64, buf: &mut [u8]) -> Result<bool, IoFailure> {
        self.read_at(offset, buf).map(|()| true)
    }

    fn read_back(&self, offset: u64, buf: &mut [u8]) -> Result<(), IoFailure> {
        let range = self.checked(Operation::ReadBack, offset, buf.len() as u64)?;
        buf.copy_from_slice(&self.state().medium.bytes[range]);
        Ok(())
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> Result<(), IoFailure> {
        let range = self.checked(Operation::Write, offset, buf.len() as u64)?;
        if range.is_empty() {
            return Ok(());
        }
        let pages = offset / PAGE..(offset + buf.len() as u64).div_ceil(PAGE);
        let cache = &mut self.state().cache;
        cache.bytes[range].copy_from_slice(buf);
        cache.data_pages.extend(pages);
        Ok(())
    }

    fn zero(&self, range: Range<u64>) -> Result<(), IoFailure> {
        let length = range.end.saturating_sub(range.start);
        let indexes = self.checked(Operation::Zero, range.start, length)?;
        let at_end = range.end == self.size;
        let end = if at_end {
            range.end.div_ceil(PAGE)
        } else {
            range.end / PAGE
        };
        let cache = &mut self.state().cache;
        cache.bytes[indexes].fill(0);
        for page in range.start.div_ceil(PAGE)..end {
            cache.data_pages.remove(&page);
        }
        Ok(())
    }

    fn start_writeback(&self, _: Range<u64>) {}

    fn flush(&self) -> Result<(), IoFailure> {
        let mut state = self.state();
        state.medium = state.cache.clone();
        Ok(())
    }

    fn next_data(&self, from: u64) -> Result<Option<Range<u64>>, IoFailure> {
        let state = self.state();
        let mut pages = state.cache.data_pages.range(from / PAGE..);
        let Some(&first) = pages.next() else {
            return Ok(None);
        };
        let after_first = pages.zip(first + 1..);
        let more = after_first.take_while(|(page, next)| *page == next).count();
        let start = (first * PAGE).max(from);
        let end = ((first + 1 + more as u64) * PAGE).min(self.size);
        Ok((start < end).then_some(start..end))
    }

    fn advise_sequential(&self) {}

    fn will_need(&self, _: Range<u64>) {}

    fn has_medium(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crash_keeps_what_was_flushed_and_only_that() {
        let volume = MemoryVolume::new(10_000);
        volume.write_at(10, b"kept").unwrap();
        volume.flush().unwrap();
        volume.write_at(10, b"lost").unwrap();
        let mut medium = [0; 4];
        volume.read_back(10, &mut medium).unwrap();
        assert_eq!(&medium, b"kept");
        assert_eq!(&volume.content()[10..14], b"lost");
        volume.crash();
        assert_eq!(&volume.content()[10..14], b"kept");
    }

    #[test]
    fn data_and_holes_are_known_by_page() {
        let volume = MemoryVolume::new(5 * PAGE + 100);
        assert_eq!(volume.next_data(0).unwrap(), None);
        volume.write_at(PAGE, &[1; 2 * PAGE as usize]).unwrap();
        volume.write_at(5 * PAGE, &[1; 100]).unwrap();
        assert_eq!(volume.next_data(0).unwrap(), Some(PAGE..3 * PAGE));
        assert_eq!(
            volume.next_data(PAGE + 7).unwrap(),
            Some(PAGE + 7..3 * PAGE)
        );
        assert_eq!(
            volume.next_data(3 * PAGE).unwrap(),
            Some(5 * PAGE..5 * PAGE + 100)
        );
        assert_eq!(volume.next_data(5 * PAGE + 100).unwrap(), None);
        volume.zero(0..2 * PAGE + 1).unwrap();
        volume.zero(5 * PAGE..5 * PAGE + 100).unwrap();
        assert_eq!(volume.next_data(0).unwrap(), Some(2 * PAGE..3 * PAGE));
        assert_eq!(volume.allocated_bytes(), PAGE);
    }

    #[test]
    fn ranges_past_the_end_are_refused() {
        let volume = MemoryVolume::with_content(vec![7; 10]);
        assert!(volume.read_at(5, &mut [0; 6]).is_err());
        assert!(volume.write_at(u64::MAX, &[0]).is_err());
        assert!(volume.zero(9..11).is_err());
        assert_eq!(volume.content(), [7; 10]);
    }
}
