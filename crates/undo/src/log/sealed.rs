//! A log that grows no more: every record of it was read and found whole.

use std::path::Path;

use lockstep_merkle::EXTENT_SIZE;

use super::format::{Content, Head};
use super::survey::{Reader, Survey, survey, unreadable};
use crate::error::Unusable;
use crate::folder::Access;
use crate::record::LogFacts;

/// The pre-images of a volume, all of them, each checked when the log was opened and again whenever
/// it is read.
pub struct SealedLog {
    reader: Reader,
    records: Survey,
}

/// What a stretch of the volume held.
pub(crate) struct PreImage<'a> {
    pub(crate) offset: u64,
    pub(crate) length: usize,
    /// `None` for zeros.
    pub(crate) bytes: Option<&'a [u8]>,
}

impl SealedLog {
    /// Reads the whole log from the medium; what a crash cut off is left out, see the rules in the
    /// crate's documentation.
    pub(crate) fn open(path: &Path, facts: &LogFacts, size: u64) -> Result<Self, Unusable> {
        let reader = Reader::open(path, facts.id, size, Access::Read)?;
        reader.forget_cache().map_err(unreadable)?;
        let records = survey(&reader, facts)?;
        Ok(Self { reader, records })
    }

    /// Bytes of the volume before the run.
    pub fn size(&self) -> u64 {
        self.reader.size()
    }

    /// Number of pre-images.
    pub fn records(&self) -> u64 {
        self.records.count
    }

    /// Bytes of the log that count.
    pub fn bytes(&self) -> u64 {
        self.records.end
    }

    /// All pre-images, the last one first.
    ///
    /// Each is checked again: hours may lie between opening the log and reading its first record.
    pub(crate) fn backwards<E: From<Unusable>>(
        &self,
        mut visit: impl FnMut(PreImage<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut buffer = Vec::with_capacity(EXTENT_SIZE);
        let mut at = self.records.last;
        for number in (0..self.records.count).rev() {
            let head = self.reader.record(at, self.records.end, &mut buffer)?;
            let head = head
                .filter(|head| head.number == number)
                .ok_or(Unusable::DamagedPreImage { at })?;
            visit(pre_image(&head, &buffer))?;
            at = head.previous;
        }
        Ok(())
    }
}

impl std::fmt::Debug for SealedLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SealedLog({} records)", self.records.count)
    }
}

fn pre_image<'a>(head: &Head, buffer: &'a [u8]) -> PreImage<'a> {
    PreImage {
        offset: head.offset,
        length: head.length as usize,
        bytes: match head.content {
            Content::Bytes { .. } => Some(buffer),
            Content::Zeros => None,
        },
    }
}
