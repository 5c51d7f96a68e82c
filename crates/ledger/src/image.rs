//! A copy of the store in memory: the only way in which it is ever read.
//!
//! redb trusts a file that looks cleanly closed, may panic on a damaged one, and writes to it when
//! it opens it after a crash. On a copy all of that is harmless: it can be repaired and every
//! checksum verified by a reader who may not write at all, and a panic ends a look, not a program.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{PoisonError, RwLock};

use redb::{Builder, Database, StorageBackend};

use crate::rows;

/// Largest store in bytes that is read; the rows' own limits keep it far below.
pub(crate) const MAX_STORE_BYTES: u64 = 256 << 20;
/// Memory in bytes that redb may keep for one look or one change.
const CACHE_BYTES: usize = 4 << 20;

/// Why a store cannot be believed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Damage(pub(crate) String);

/// Verifies a whole store and looks into it; also returns the number of its last change.
///
/// A store whose last change is older than `floor` fell back behind a change that was reported as
/// durable, which is damage.
pub(crate) fn look<T>(
    bytes: Vec<u8>,
    floor: u64,
    see: impl FnOnce(&Database) -> Result<T, redb::Error>,
) -> Result<(u64, T), Damage> {
    if bytes.is_empty() {
        return Err(Damage("the store is empty".to_owned()));
    }
    let (sequence, seen) = guarded(|| {
        let database = builder()
            .set_check_integrity_on_open(true)
            .create_with_backend(Image::of(bytes))?;
        Ok((rows::sequence(&database)?, see(&database)?))
    })
    .map_err(|error| Damage(format!("the store is damaged: {error}")))?;
    if sequence < floor {
        let why = format!("the store is at change {sequence}, but change {floor} was durable");
        return Err(Damage(why));
    }
    Ok((sequence, seen))
}

/// How every store is opened.
pub(crate) fn builder() -> Builder {
    let mut builder = Builder::new();
    builder.set_cache_size(CACHE_BYTES);
    builder
}

/// Runs redb so that a panic in it becomes an error.
pub(crate) fn guarded<T>(work: impl FnOnce() -> Result<T, redb::Error>) -> Result<T, redb::Error> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err(redb::Error::Corrupted("redb panicked".to_owned())))
}

/// Bytes that redb takes for its file.
#[derive(Debug)]
struct Image(RwLock<Vec<u8>>);

impl Image {
    fn of(bytes: Vec<u8>) -> Self {
        Self(RwLock::new(bytes))
    }
}

impl StorageBackend for Image {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.read().unwrap_or_else(PoisonError::into_inner).len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let bytes = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let range = range(offset, out.len())?;
        let part = bytes.get(range).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(part);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        // A damaged header may ask for any size.
        if len > 2 * MAX_STORE_BYTES {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let mut bytes = self.0.write().unwrap_or_else(PoisonError::into_inner);
        bytes.resize(len as usize, 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut bytes = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let range = range(offset, data.len())?;
        let part = bytes.get_mut(range).ok_or(io::ErrorKind::UnexpectedEof)?;
        part.copy_from_slice(data);
        Ok(())
    }
}

fn range(offset: u64, len: usize) -> io::Result<std::ops::Range<usize>> {
    let start = usize::try_from(offset).map_err(|_| io::ErrorKind::UnexpectedEof)?;
    let end = start.checked_add(len).ok_or(io::ErrorKind::UnexpectedEof)?;
    Ok(start..end)
}
