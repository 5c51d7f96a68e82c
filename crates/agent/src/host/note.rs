//! What is written down before a volume's services are stopped.
//!
//! `<state_dir>/services/<the volume's UUID>.json` is one line: `lockstep-services 1 <the note as
//! JSON> <BLAKE3 of all before, 64 hex digits>⏎`. It exists as long as the services may be down
//! because of us. One that cannot be read says that they are down, and nothing of what may run.
//!
//! # Recipe of a change
//!
//! 1. Write `….new`, fsync it.
//! 2. Rename it over the note, fsync the folder.
//!
//! A crash before the rename leaves the note as it was; what it stands for was not begun yet.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use lockstep_cluster::claim::{Epoch, RunName};
use lockstep_cluster::plan::NodeState;
use lockstep_cluster::value::{NodeName, VolumeId, VolumeName};
use lockstep_ledger::Record;
use serde::{Deserialize, Serialize};

use crate::align::Staged;

const FOLDER: &str = "services";
const PREFIX: &str = "lockstep-services 1 ";
/// Largest note that is read: every file of a volume may be in it.
const MAX_BYTES: u64 = 32 << 20;

/// Services that may be down, and what has to be known to start them again.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Note {
    /// The volume whose hooks stopped them.
    pub(super) id: VolumeId,
    /// Its name.
    pub(super) volume: VolumeName,
    /// The run.
    pub(super) run: RunName,
    /// Its epoch.
    pub(super) epoch: Epoch,
    /// Where its data comes from.
    pub(super) primary: NodeName,
    /// When they were stopped, in milliseconds since the Unix epoch.
    pub(super) stopped_unix_ms: u64,
    /// The volume is one of a group.
    pub(super) group: bool,
    /// They were down before, for a reason that this run does not undo by writing nothing.
    pub(super) was_down: bool,
    /// A way for data was opened: anything may have been written.
    pub(super) serving: bool,
    /// The hook `configure` has run.
    pub(super) configured: bool,
    /// Files that are to be put in place with the data.
    pub(super) files: Vec<Staged>,
    /// Damaged stores of the ledger that were set aside before: one more, and it has forgotten.
    pub(super) set_aside: Vec<String>,
    /// What the ledger said of the volume, and after it of the others of its group.
    pub(super) before: Vec<Before>,
}

/// What the ledger said of a volume when the services were stopped.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Before {
    /// The volume.
    pub(super) volume: VolumeName,
    /// Its state.
    pub(super) state: NodeState,
    /// Its newest record.
    pub(super) newest: Option<Mark>,
}

/// What tells one record from every other.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Mark {
    pub(super) run: String,
    pub(super) started_unix_ms: u64,
    pub(super) ended_unix_ms: Option<u64>,
    pub(super) state: String,
}

impl Mark {
    pub(super) fn of(record: &Record) -> Self {
        Self {
            run: record.run.clone(),
            started_unix_ms: record.started_unix_ms,
            ended_unix_ms: record.ended_unix_ms,
            state: format!("{:?}", record.state).to_lowercase(),
        }
    }
}

/// What was found where a note may be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Found {
    /// The services are up, as far as is known here.
    Nothing,
    /// They may be down.
    Whole(Box<Note>),
    /// They may be down, and nobody knows what may run.
    Damaged,
}

/// The notes of a node.
#[derive(Clone, Debug)]
pub(super) struct Notes {
    folder: PathBuf,
}

impl Notes {
    pub(super) fn at(state_dir: &Path) -> Self {
        let folder = state_dir.join(FOLDER);
        Self { folder }
    }

    fn path(&self, id: VolumeId) -> PathBuf {
        self.folder.join(format!("{id}.json"))
    }

    pub(super) fn read(&self, id: VolumeId) -> Found {
        let path = self.path(id);
        match bytes(&path) {
            Ok(None) => Found::Nothing,
            Ok(Some(bytes)) => match parse(&bytes).filter(|note| note.id == id) {
                Some(note) => Found::Whole(Box::new(note)),
                None => {
                    tracing::warn!("{} is damaged: services stay stopped", path.display());
                    Found::Damaged
                }
            },
            Err(error) => {
                tracing::warn!("{} cannot be read: {error}", path.display());
                Found::Damaged
            }
        }
    }

    /// Every volume that has a note.
    pub(super) fn volumes(&self) -> Vec<VolumeId> {
        let Ok(entries) = fs::read_dir(&self.folder) else {
            return Vec::new();
        };
        let names = entries.flatten().map(|entry| entry.file_name());
        let id = |name: std::ffi::OsString| name.to_str()?.strip_suffix(".json")?.parse().ok();
        names.filter_map(id).collect()
    }

    /// Writes a note, durably.
    pub(super) fn write(&self, note: &Note) -> io::Result<()> {
        fs::create_dir_all(&self.folder)?;
        let path = self.path(note.id);
        let new = path.with_extension("json.new");
        let mut file = File::create(&new)?;
        file.write_all(line(note)?.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, &path)?;
        self.flush()
    }

    /// The services run again.
    pub(super) fn remove(&self, id: VolumeId) -> io::Result<()> {
        match fs::remove_file(self.path(id)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => self.flush(),
        }
    }

    fn flush(&self) -> io::Result<()> {
        match File::open(&self.folder) {
            Ok(folder) => folder.sync_all(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }
}

fn bytes(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

fn line(note: &Note) -> io::Result<String> {
    let body = format!("{PREFIX}{} ", serde_json::to_string(note)?);
    let checksum = blake3::hash(body.as_bytes());
    Ok(format!("{body}{checksum}\n"))
}

/// What earlier releases noted besides, and nothing depends on.
const NO_MORE: &str = "usable";

/// Nothing that was not written as a whole.
fn parse(bytes: &[u8]) -> Option<Note> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (json, checksum) = text.strip_prefix(PREFIX)?.rsplit_once(' ')?;
    let body = text.strip_suffix(checksum)?;
    if checksum != format!("{}\n", blake3::hash(body.as_bytes())) {
        return None;
    }
    let mut json: serde_json::Value = serde_json::from_str(json).ok()?;
    json.as_object_mut()?.remove(NO_MORE);
    serde_json::from_value(json).ok()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::host) fn note() -> Note {
        Note {
            id: "0198f3b2-8c7e-7d11-9a51-2f6c0a1b9e77".parse().unwrap(),
            volume: "data".parse().unwrap(),
            run: "r-1".parse().unwrap(),
            epoch: Epoch::new(5).unwrap(),
            primary: "a".parse().unwrap(),
            stopped_unix_ms: 1,
            group: false,
            was_down: false,
            serving: false,
            configured: false,
            files: Vec::new(),
            set_aside: Vec::new(),
            before: vec![Before {
                volume: "data".parse().unwrap(),
                state: NodeState::Consistent,
                newest: None,
            }],
        }
    }

    #[test]
    fn a_note_is_read_as_it_was_written_and_is_gone_once_removed() {
        let folder = tempfile::tempdir().unwrap();
        let notes = Notes::at(folder.path());
        assert_eq!(notes.read(note().id), Found::Nothing);
        notes.write(&note()).unwrap();
        assert_eq!(notes.read(note().id), Found::Whole(Box::new(note())));
        assert_eq!(notes.volumes(), [note().id]);
        notes.remove(note().id).unwrap();
        notes.remove(note().id).unwrap();
        assert_eq!(notes.read(note().id), Found::Nothing);
        assert!(notes.volumes().is_empty());
    }

    #[test]
    fn a_note_of_an_earlier_release_is_read_and_a_later_one_is_not_guessed_at() {
        let folder = tempfile::tempdir().unwrap();
        let notes = Notes::at(folder.path());
        notes.write(&note()).unwrap();
        let with = |more: &str| {
            let json = serde_json::to_string(&note()).unwrap();
            let json = json.replace("\"configured\"", &format!("{more},\"configured\""));
            let body = format!("{PREFIX}{json} ");
            let checksum = blake3::hash(body.as_bytes());
            fs::write(notes.path(note().id), format!("{body}{checksum}\n")).unwrap();
            notes.read(note().id)
        };
        assert_eq!(with("\"usable\":true"), Found::Whole(Box::new(note())));
        assert_eq!(with("\"forbidden\":true"), Found::Damaged);
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_damage_and_never_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let notes = Notes::at(folder.path());
        notes.write(&note()).unwrap();
        let path = notes.path(note().id);
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 1;
            fs::write(&path, &flipped).unwrap();
            assert_eq!(notes.read(note().id), Found::Damaged, "byte {at}");
            fs::write(&path, &whole[..at]).unwrap();
            assert_eq!(notes.read(note().id), Found::Damaged, "{at} bytes");
        }
    }
}
