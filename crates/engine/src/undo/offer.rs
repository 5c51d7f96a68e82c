//! Which way of keeping there is for a target. Changes nothing.

use std::path::Path;

use lockstep_protocol::UndoKind;
use lockstep_undo::UndoStore;

use super::{Stores, UndoMode, image};
use crate::failures::sentence;

/// Room for less than this is none: a log would be given up at once.
const LEAST_LOG_BYTES: u64 = 1 << 20;

/// How what is overwritten can be kept.
#[derive(Debug)]
pub(crate) enum Offer {
    /// In an image of the whole, beside which so many bytes can be overwritten.
    Image { kind: UndoKind, room: u64 },
    /// In a log of so many bytes at most.
    Log { store: UndoStore, max_bytes: u64 },
    /// Not at all.
    Nothing { why: String },
}

/// The best way for a volume of so many bytes.
pub(crate) fn offer(
    volume: &Path,
    is_file: bool,
    size: u64,
    stores: &Stores,
    mode: UndoMode,
) -> Offer {
    match image::room(volume, is_file) {
        Ok((kind, room)) => Offer::Image { kind, room },
        Err(why) => {
            tracing::debug!(%why, "there can be no image of the target");
            offer_log(size, stores, mode)
        }
    }
}

/// A log, wherever there is room for one.
pub(crate) fn offer_log(size: u64, stores: &Stores, mode: UndoMode) -> Offer {
    let mut most: Option<(UndoStore, u64)> = None;
    let mut why = String::new();
    for store in stores.iter() {
        let room = match store.preflight(size) {
            Ok(room) => room,
            Err(error) => {
                why = sentence(&error);
                continue;
            }
        };
        let most_bytes = room.largest_log_bytes();
        if room.fits() {
            // The first one that has room for all of it.
            let max_bytes = most_bytes;
            let store = store.clone();
            return Offer::Log { store, max_bytes };
        }
        why = format!(
            "of {} bytes that are free for a log, {} are to stay so",
            room.available_bytes, room.reserved_bytes
        );
        // It may take the last that others need too, unless it was asked for.
        let max_bytes = match mode {
            UndoMode::Require => most_bytes,
            UndoMode::Auto | UndoMode::Off => most_bytes / 2,
        };
        if most.as_ref().is_none_or(|(_, bytes)| *bytes < max_bytes) {
            most = Some((store.clone(), max_bytes));
        }
    }
    match most {
        Some((store, max_bytes)) if max_bytes >= LEAST_LOG_BYTES => Offer::Log { store, max_bytes },
        _ => Offer::Nothing { why },
    }
}
