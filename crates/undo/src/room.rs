//! Whether there is room for a pre-image log.

use std::path::Path;

use lockstep_merkle::PAGE_SIZE;
use rustix::fs::statvfs;

use crate::error::UndoError;
use crate::log::{HEAD_BYTES, LOG_HEADER_BYTES};
use crate::record_block::RECORD_BYTES;

/// Part of the filesystem that a log leaves free: one in so many bytes.
const RESERVED_PART: u64 = 20;
/// Bytes that a log leaves free at least, for whoever else lives on the filesystem of the state
/// directory: often the whole system.
const MIN_RESERVE_BYTES: u64 = 64 << 20;

/// Room on the filesystem of the undo folder, and how much of it a log would take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Room {
    /// Bytes of the log at worst, if no two overwritten pages are neighbours and none is zeros.
    pub needed_bytes: u64,
    /// Bytes that may be written there.
    pub available_bytes: u64,
    /// Bytes of these that are to stay free.
    pub reserved_bytes: u64,
}

impl Room {
    /// Whether the log would fit and leave the reserve free.
    pub fn fits(&self) -> bool {
        self.needed_bytes <= self.largest_log_bytes()
    }

    /// Most bytes that a log may have without touching the reserve.
    pub fn largest_log_bytes(&self) -> u64 {
        self.available_bytes.saturating_sub(self.reserved_bytes)
    }
}

/// The room for a log of that many overwritten bytes. The folder need not exist yet.
pub(crate) fn room(folder: &Path, overwritten_bytes: u64) -> Result<Room, UndoError> {
    let existing = folder.ancestors().find(|folder| folder.is_dir());
    let existing = existing.unwrap_or(folder);
    let stat = statvfs(existing).map_err(UndoError::io("ask for free space on", existing))?;
    let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
    Ok(Room {
        needed_bytes: needed(overwritten_bytes),
        available_bytes: bytes(stat.f_bavail),
        reserved_bytes: (bytes(stat.f_blocks) / RESERVED_PART).max(MIN_RESERVE_BYTES),
    })
}

fn needed(overwritten_bytes: u64) -> u64 {
    let heads = overwritten_bytes
        .div_ceil(PAGE_SIZE as u64)
        .saturating_mul(HEAD_BYTES as u64);
    // The record, and its draft.
    let fixed = LOG_HEADER_BYTES + 2 * RECORD_BYTES as u64;
    overwritten_bytes
        .saturating_add(heads)
        .saturating_add(fixed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_measured_before_the_folder_exists() {
        let dir = tempfile::tempdir().unwrap();
        let room = room(&dir.path().join("state/undo"), 1 << 20).unwrap();
        assert!(room.available_bytes > 0 && room.reserved_bytes >= MIN_RESERVE_BYTES);
        assert_eq!(room.needed_bytes, (1 << 20) + 256 * 128 + 128 + 16384);
    }

    #[test]
    fn the_reserve_stays_free() {
        let room = Room {
            needed_bytes: 100,
            available_bytes: 150,
            reserved_bytes: 50,
        };
        assert!(room.fits());
        let one_more = Room {
            needed_bytes: 101,
            ..room
        };
        assert!(!one_more.fits());
        let full = Room {
            available_bytes: 10,
            ..room
        };
        assert!(!full.fits() && full.largest_log_bytes() == 0);
        assert!(needed(u64::MAX) == u64::MAX);
    }
}
