//! What is kept in a state directory, for a list.

use std::path::Path;

use lockstep_protocol::Failure;
use lockstep_undo::UndoStore;

use super::{kind_of, undo_failed};

/// An undo as a list shows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeptUndo {
    /// The volume's canonical path, as text.
    pub volume: String,
    /// `reflink`, `thin` or `log`.
    pub kind: &'static str,
    /// Bytes of the volume before the run.
    pub size: u64,
    /// The run.
    pub run: String,
    /// When it was begun, in milliseconds since the Unix epoch.
    pub created_unix_ms: u64,
    /// When it expires.
    pub until_unix_ms: u64,
}

/// What is kept in a state directory, and why the rest of it cannot be used.
///
/// # Errors
/// If the folder cannot be read.
pub fn list_undos(state_dir: &Path) -> Result<(Vec<KeptUndo>, Vec<String>), Failure> {
    let listed = UndoStore::at(state_dir)
        .list()
        .map_err(|error| undo_failed(&error))?;
    let (mut kept, mut unusable) = (Vec::new(), Vec::new());
    for undo in listed {
        match undo.record {
            Ok(record) => kept.push(KeptUndo {
                volume: record.key,
                kind: kind_of(&record.kept).word(),
                size: record.size,
                run: record.run,
                created_unix_ms: record.created_unix_ms,
                until_unix_ms: record.expires_unix_ms,
            }),
            Err(why) => unusable.push(format!("{}: {why}", undo.path.display())),
        }
    }
    Ok((kept, unusable))
}
