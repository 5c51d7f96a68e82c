//! What stands in the files of a volume's undo, and what may be done with it.

use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::error::{UndoError, Unusable, What};
use crate::folder::{Access, Names, open_file};
use crate::log::{self, PreImageLog};
use crate::record::{PreRunRoot, Record, State};
use crate::record_block::{self, RECORD_BYTES};
use crate::store::Resume;

/// The record, and that the log it speaks of is there.
pub(crate) fn read(names: &Names) -> Result<Record, Unusable> {
    let record = read_record(&names.record)?;
    if let Some(facts) = record.log() {
        log::look(&names.log, facts, record.size)?;
    }
    Ok(record)
}

pub(crate) fn read_record(path: &Path) -> Result<Record, Unusable> {
    let what = What::Record;
    let file = open_file(path, what, Access::Read)?.ok_or(Unusable::Missing)?;
    let unreadable = |cause| Unusable::Unreadable { what, cause };
    let (bytes, expected) = (
        file.metadata().map_err(unreadable)?.len(),
        RECORD_BYTES as u64,
    );
    if bytes != expected {
        return Err(Unusable::Length {
            what,
            bytes,
            expected,
        });
    }
    let mut block = [0; RECORD_BYTES];
    file.read_exact_at(&mut block, 0).map_err(unreadable)?;
    record_block::decode(&block)
}

pub(crate) fn check_subject(record: Record, key: &str, identity: &str) -> Result<Record, Unusable> {
    if record.key != key {
        return Err(Unusable::OtherKey(record.key));
    }
    if record.identity != identity {
        return Err(Unusable::OtherIdentity {
            then: record.identity,
            now: identity.to_owned(),
        });
    }
    Ok(record)
}

/// Whether what is there may make way: nothing, a log, or damage; but neither what a newer version
/// wrote nor the last trace of a snapshot.
pub(crate) fn check_replaceable(names: &Names) -> Result<(), UndoError> {
    match read_record(&names.record) {
        Ok(record) if record.log().is_none() => Err(UndoError::HoldsSnapshot),
        Ok(_) | Err(Unusable::Missing) => Ok(()),
        Err(why) if why.is_damage() => {
            tracing::warn!(record = %names.record.display(), %why, "removed");
            Ok(())
        }
        Err(why) => Err(why.into()),
    }
}

/// The record of an interrupted run or rollback on this volume, if the ledger names the same one.
pub(crate) fn continuable(
    names: &Names,
    key: &str,
    resume: &Resume<'_>,
) -> Result<Option<Record>, UndoError> {
    let checked = read(names).and_then(|record| check_subject(record, key, resume.identity));
    let record = match checked {
        Ok(record) => record,
        Err(Unusable::Missing | Unusable::OtherIdentity { .. }) => return Ok(None),
        Err(why) if why.is_damage() => {
            tracing::warn!(%why, "the undo of the interrupted run cannot be continued");
            return Ok(None);
        }
        Err(why) => return Err(why.into()),
    };
    let was_interrupted = record.state != State::Whole;
    let is_same = was_interrupted && record.latest_run == resume.continues;
    Ok(is_same.then_some(record))
}

pub(crate) fn resumed(old: Record, resume: &Resume<'_>, log: Option<&PreImageLog>) -> Record {
    let untouched = old.size == resume.size && log.is_some_and(|log| log.records() == 0);
    let mut record = old.with_seal(None);
    record.state = State::Keeping;
    resume.run.clone_into(&mut record.latest_run);
    if record.root == PreRunRoot::NotYet && !untouched {
        // A scan that comes now measures what the interrupted run left.
        record.root = PreRunRoot::Never;
    }
    record
}
