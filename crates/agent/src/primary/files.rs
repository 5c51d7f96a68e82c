//! Configuration files, from the primary to its secondaries.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use lockstep_cluster::plan::{FileDifference, FileState};
use lockstep_cluster::value::AbsolutePath;
use lockstep_protocol::{Failure, FailureKind};

use super::part::Part;
use crate::align::{MAX_FRAME_BYTES, read, states};
use crate::reach::{out_of_turn, said_by};
use crate::wire::{FileBytes, HostBid, HostTell};

/// How long a secondary may take to compare its files, and to put aside what it was sent.
const LIMIT: Duration = Duration::from_secs(60);

/// The files of a volume here.
pub(super) fn own(places: &[AbsolutePath]) -> Result<BTreeMap<AbsolutePath, FileState>, Failure> {
    match places {
        [] => Ok(BTreeMap::new()),
        places => states(places),
    }
}

/// Sends a secondary every file in which it differs; they are put aside there.
pub(super) fn send(
    part: &Part,
    places: &[AbsolutePath],
    states: &BTreeMap<AbsolutePath, FileState>,
) -> Result<(), Failure> {
    if places.is_empty() {
        return Ok(());
    }
    let bid = HostBid::Files {
        states: states.clone(),
    };
    let HostTell::Differing { files } = part.bid(&bid, LIMIT)? else {
        return Err(out_of_turn(part.node()));
    };
    for file in &files {
        send_one(part, places, states, file)?;
    }
    match part.bid(&HostBid::FilesEnd, LIMIT)? {
        HostTell::Staged { failure: None } => Ok(()),
        HostTell::Staged {
            failure: Some(failure),
        } => Err(said_by(part.node(), failure.into())),
        _ => Err(out_of_turn(part.node())),
    }
}

fn send_one(
    part: &Part,
    places: &[AbsolutePath],
    states: &BTreeMap<AbsolutePath, FileState>,
    file: &FileDifference,
) -> Result<(), Failure> {
    // What the other side wants is not looked at: only what was told of this side's own files.
    let Some(state) = states.get(&file.path) else {
        return part.say(&HostBid::File(FileBytes {
            path: file.path.clone(),
            state: None,
            bytes: 0,
        }));
    };
    let found = read(places, &file.path)?;
    let Some((_, content)) = found.filter(|(now, _)| now == state) else {
        let message = format!("{} was changed while it was being sent", file.path.as_str());
        return Err(Failure::new(FailureKind::Temporary, message)
            .hint("run the same command again once nobody edits it"));
    };
    part.say(&HostBid::File(FileBytes {
        path: file.path.clone(),
        state: Some(*state),
        bytes: u64::try_from(content.len()).unwrap_or(u64::MAX),
    }))?;
    (content.chunks(MAX_FRAME_BYTES))
        .try_for_each(|part_of| part.send(Bytes::copy_from_slice(part_of)))
}
