//! Where undos are kept: in the state directory, or beside a file where that has more room.

use std::path::Path;

use lockstep_undo::{Kept, Record, UndoError, UndoStore, Unusable};

use super::image;
use crate::clock::now;

/// The folder beside a file; it is its owner's alone.
const BESIDE: &str = ".lockstep-undo";

/// The places in which the undo of one volume can be; it is in one of them at most.
#[derive(Clone, Debug)]
pub(crate) struct Stores(Vec<UndoStore>);

impl Stores {
    /// For the volume at this path; only a file has a place beside it.
    pub(crate) fn of(state_dir: &Path, volume: &Path, is_file: bool) -> Stores {
        let beside = volume
            .parent()
            .filter(|_| is_file)
            .and_then(|folder| UndoStore::beside(&folder.join(BESIDE)).ok());
        let state = UndoStore::at(state_dir);
        Stores(std::iter::once(state).chain(beside).collect())
    }

    /// The one of the state directory.
    pub(crate) fn state(&self) -> &UndoStore {
        &self.0[0]
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &UndoStore> {
        self.0.iter()
    }

    /// The undo of the volume, and where it is.
    pub(crate) fn look(&self, key: &str) -> Result<(&UndoStore, Record), Unusable> {
        let mut first = Unusable::Missing;
        for store in self.iter() {
            match store.look(key) {
                Ok(record) => return Ok((store, record)),
                Err(Unusable::Missing) => {}
                Err(why) if matches!(first, Unusable::Missing) => first = why,
                Err(_) => {}
            }
        }
        Err(first)
    }

    /// Removes the volume's undo, and its image, wherever they are.
    pub(crate) fn release(&self, key: &str) -> Result<(), UndoError> {
        self.iter()
            .try_for_each(|store| remove(store, key, |_| true).map(drop))
    }

    /// Removes the undos of all volumes that are past their time. What somebody is at work on, or
    /// what cannot be removed, stays for the next run.
    pub(crate) fn release_expired(&self) {
        for store in self.iter() {
            for expired in store.expired(now()).unwrap_or_default() {
                // It may have been made anew since it was listed.
                let is_expired = |record: &Record| record.has_expired(now());
                match remove(store, &expired.key, is_expired) {
                    Ok(true) => tracing::info!("released the expired undo of {}", expired.key),
                    Ok(false) => {}
                    Err(error) => {
                        tracing::info!("the expired undo of {} stays: {error}", expired.key);
                    }
                }
            }
        }
    }
}

/// Removes an undo if that is still wanted once it is held; first its image, which nobody would find
/// otherwise.
fn remove(
    store: &UndoStore,
    key: &str,
    is_wanted: impl FnOnce(&Record) -> bool,
) -> Result<bool, UndoError> {
    let Some(held) = store.take(key)? else {
        return Ok(false);
    };
    if let Ok(record) = held.record() {
        if !is_wanted(record) {
            return Ok(false);
        }
        if let Kept::Image(description) = &record.kept
            && let Err(why) = image::release(description)
        {
            tracing::warn!("the image of {key} stays: {why}");
        }
    }
    held.remove().map(|()| true)
}
