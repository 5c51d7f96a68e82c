//! Putting pre-images back.

use lockstep_merkle::EXTENT_SIZE;
use lockstep_volume::Volume;

use crate::error::RestoreError;
use crate::log::{PreImage, SealedLog};

/// What a restoration did.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Restored {
    /// Pre-images that were put back.
    pub pre_images: u64,
    /// Bytes that were written.
    pub bytes_written: u64,
    /// Bytes that were made zeros, as holes where the volume can have them.
    pub bytes_zeroed: u64,
}

/// Puts every pre-image back, the last one first, and flushes once at the end.
///
/// Nothing is remembered of how far it came: killed at any point and run again from the start, it
/// gives the same bytes. Whether these are the ones from before the run is for the caller to prove,
/// by hashing the volume and comparing with the root that the record names; [`check`] proves only what was
/// written.
///
/// # Errors
/// [`RestoreError`]: the volume is then neither what it was nor what the run made of it.
pub fn restore(log: &SealedLog, volume: &dyn Volume) -> Result<Restored, RestoreError> {
    check_size(log, volume)?;
    let mut restored = Restored::default();
    log.backwards(|image| {
        let range = image.offset..image.offset + image.length as u64;
        match image.bytes {
            Some(bytes) => {
                volume.write_at(image.offset, bytes)?;
                restored.bytes_written += image.length as u64;
            }
            None => {
                volume.zero(range.clone())?;
                restored.bytes_zeroed += image.length as u64;
            }
        }
        volume.start_writeback(range);
        restored.pre_images += 1;
        Ok::<(), RestoreError>(())
    })?;
    volume.flush()?;
    Ok(restored)
}

/// Reads every restored byte back from the medium and compares it with its pre-image: the proof that
/// is left when nobody knew the root before the run.
///
/// # Errors
/// [`RestoreError::Differs`] names the first difference.
pub fn check(log: &SealedLog, volume: &dyn Volume) -> Result<(), RestoreError> {
    check_size(log, volume)?;
    let mut own = vec![0; EXTENT_SIZE];
    log.backwards(|image| {
        let PreImage { offset, length, .. } = image;
        let own = &mut own[..length];
        volume.read_back(offset, own)?;
        let is_equal = match image.bytes {
            Some(bytes) => own == bytes,
            None => lockstep_merkle::is_zero(own),
        };
        if is_equal {
            return Ok(());
        }
        Err(RestoreError::Differs { offset, length })
    })
}

fn check_size(log: &SealedLog, volume: &dyn Volume) -> Result<(), RestoreError> {
    let (then, now) = (log.size(), volume.size());
    if then == now {
        return Ok(());
    }
    Err(RestoreError::Size { then, now })
}
