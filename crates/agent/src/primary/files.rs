//! Configuration files, from the primary to its secondaries.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bytes::Bytes;
use lockstep_cluster::plan::FileState;
use lockstep_cluster::value::AbsolutePath;
use lockstep_engine::Cancel;
use lockstep_protocol::{Failure, FailureKind};

use super::part::Part;
use crate::align::{MAX_FRAME_BYTES, read, states};
use crate::reach::{out_of_turn, said_by};
use crate::wire::{FileBytes, HostBid, HostTell, fits};

/// How long a secondary may take to compare its files, and to put aside what it was sent.
const LIMIT: Duration = Duration::from_secs(60);
/// How long all files of a volume may take.
const ALL_LIMIT: Duration = Duration::from_secs(600);

const FEWER: &str = "name fewer folders in `files`, and lay the others down by other means";

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
    cancel: &Cancel,
) -> Result<(), Failure> {
    if places.is_empty() {
        return Ok(());
    }
    let bid = HostBid::Files {
        states: states.clone(),
    };
    if !fits(&bid) {
        return Err(too_many(states.len()));
    }
    let HostTell::Differing { files, left_out } = part.bid(&bid, LIMIT)? else {
        return Err(out_of_turn(part.node()));
    };
    if left_out > 0 {
        // Part of them would be neither the old files nor the new ones.
        return Err(said_by(part.node(), too_many_differ(files.len(), left_out)));
    }
    // Each path once, whatever the other side says.
    let paths: BTreeSet<&AbsolutePath> = files.iter().collect();
    let deadline = Instant::now() + ALL_LIMIT;
    for path in paths {
        if cancel.cause().is_some() {
            return Err(Failure::new(
                FailureKind::Temporary,
                "the run was cancelled",
            ));
        }
        if Instant::now() > deadline {
            let message = format!("{}: its files take too long", part.node());
            return Err(Failure::new(FailureKind::Temporary, message));
        }
        send_one(part, places, states, path)?;
    }
    match part.bid(&HostBid::FilesEnd, LIMIT)? {
        HostTell::Staged { failure: None } => Ok(()),
        HostTell::Staged {
            failure: Some(failure),
        } => Err(said_by(part.node(), failure.into())),
        _ => Err(out_of_turn(part.node())),
    }
}

/// Nothing of it can be compared: half a list would have files removed that the primary has.
pub(super) fn too_many(files: usize) -> Failure {
    let message =
        format!("the names and states of {files} configuration files are too long to be told");
    Failure::new(FailureKind::Guard, message).hint(FEWER)
}

fn too_many_differ(told: usize, left_out: u64) -> Failure {
    let message = format!(
        "{told} configuration files differ, and {left_out} more, whose names are too long to be told"
    );
    Failure::new(FailureKind::Guard, message).hint(FEWER)
}

fn send_one(
    part: &Part,
    places: &[AbsolutePath],
    states: &BTreeMap<AbsolutePath, FileState>,
    path: &AbsolutePath,
) -> Result<(), Failure> {
    // What the other side wants is not looked at: only what was told of this side's own files.
    let Some(state) = states.get(path) else {
        return part.say(&HostBid::File(FileBytes {
            path: path.clone(),
            state: None,
            bytes: 0,
        }));
    };
    let found = read(places, path)?;
    let Some((_, content)) = found.filter(|(now, _)| now == state) else {
        let message = format!("{} was changed while it was being sent", path.as_str());
        return Err(Failure::new(FailureKind::Temporary, message)
            .hint("run the same command again once nobody edits it"));
    };
    part.say(&HostBid::File(FileBytes {
        path: path.clone(),
        state: Some(*state),
        bytes: u64::try_from(content.len()).unwrap_or(u64::MAX),
    }))?;
    (content.chunks(MAX_FRAME_BYTES))
        .try_for_each(|part_of| part.send(Bytes::copy_from_slice(part_of)))
}
