//! Which targets were proved by a delta of this source, so that each of them is told when one turns
//! out to have lied.
//!
//! Promise: a target that may have been marked on the word of a delta that was caught is named here
//! until its record was taken back, or a later proof took the record's place; through kills and power
//! cuts.
//!
//! ```text
//!   run inherits ─► rests ─► last word to the targets ─► ended: those that cannot be marked go
//!                     │                                                │
//!     full scan that is a new base: the chain ends ◄───────────────────┤
//!                                                                      ▼ a delta of the chain is caught
//!                      record taken back, or proved anew ◄───────── doubted
//! ```
//!
//! | file of the state directory | content |
//! | --- | --- |
//! | `reliance/V.json` | a line with one [`Document`], and one with the BLAKE3 of its bytes in 64 hex digits; `V` is 32 hex digits of the hash of the volume's name |
//! | `reliance/V.json.new` | one being written; the next writer replaces it |
//! | `reliance/V.lock` | flock: held for one change; never removed |
//!
//! A change is written beside, flushed, renamed, and the folder flushed. A file that cannot be read, or
//! of which one bit is another, is left where it is: nobody knows then who rests on what, and no delta
//! is used.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use lockstep_protocol::limits::MAX_DOUBTED_RUNS;
use serde::{Deserialize, Serialize};

use crate::doubt::run_name;
use crate::durable;

const FOLDER: &str = "reliance";
const FORMAT: u32 = 2;
/// Longest file that is read, and written.
const MAX_BYTES: u64 = 16 << 20;

/// A target as it is found again.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Place {
    /// As the user named it.
    pub(super) name: String,
    /// Its key in the ledger of this state directory, if that is where its record is.
    pub(super) volume: Option<String>,
}

impl Place {
    /// Whether both are one target: a path on this machine can have several names, and one name can
    /// stand for several paths.
    pub(super) fn is(&self, other: &Place) -> bool {
        match (&self.volume, &other.volume) {
            (Some(one), Some(other)) => one == other,
            (None, None) => self.name == other.name,
            _ => false,
        }
    }
}

/// A run's name: 16 bytes, in the document 32 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(super) struct RunName(pub(super) [u8; 16]);

impl From<RunName> for String {
    fn from(name: RunName) -> String {
        run_name(&name.0)
    }
}

impl TryFrom<String> for RunName {
    type Error = &'static str;

    fn try_from(text: String) -> Result<RunName, &'static str> {
        let number = u128::from_str_radix(&text, 16);
        let name = number.map(|number| RunName(number.to_be_bytes()));
        name.ok()
            .filter(|name| String::from(*name) == text)
            .ok_or("a run's name is not 32 hex digits")
    }
}

/// A run that took hashes over because a delta said so, and the targets that it may have marked.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Run {
    run: RunName,
    targets: Vec<Place>,
}

/// What is known; changed by pure functions.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Document {
    v: u32,
    /// Runs since the full scan that the newest base goes back to.
    rests: Vec<Run>,
    /// Runs that rest on a delta that was caught.
    doubted: Vec<Run>,
}

impl Default for Document {
    fn default() -> Document {
        Document {
            v: FORMAT,
            rests: Vec::new(),
            doubted: Vec::new(),
        }
    }
}

impl Document {
    /// Whether a further run could not be named in a doubt.
    pub(super) fn is_full(&self) -> bool {
        self.rests.len() + self.doubted.len() >= MAX_DOUBTED_RUNS
    }

    /// The run takes hashes over; any of these targets may come to be marked by it.
    pub(super) fn rests(&mut self, run: RunName, targets: Vec<Place>) {
        self.rests.push(Run { run, targets });
    }

    /// The run is over, and can have marked no others than these.
    pub(super) fn ended(&mut self, run: RunName, marked: &[Place]) {
        for ended in self.rests.iter_mut().chain(&mut self.doubted) {
            if ended.run == run {
                ended.targets = marked.to_vec();
            }
        }
        self.forget_empty();
    }

    /// A full scan is the base from now on: nothing can tell any more whether the deltas before it
    /// lied.
    pub(super) fn chain_ended(&mut self) {
        self.rests.clear();
    }

    /// A delta of the chain was caught.
    pub(super) fn caught(&mut self) {
        self.doubted.append(&mut self.rests);
    }

    /// The records of these targets rest on none of the doubted runs any more.
    pub(super) fn settled(&mut self, targets: &[Place]) {
        for run in &mut self.doubted {
            let is_settled = |place: &Place| targets.iter().any(|settled| settled.is(place));
            run.targets.retain(|place| !is_settled(place));
        }
        self.forget_empty();
    }

    /// Whether what this run takes over was caught by another one.
    pub(super) fn doubts(&self, run: RunName) -> bool {
        self.doubted.iter().any(|doubted| doubted.run == run)
    }

    pub(super) fn doubted_runs(&self) -> Vec<RunName> {
        self.doubted.iter().map(|run| run.run).collect()
    }

    /// The targets whose records may rest on a doubted run, each once.
    pub(super) fn doubted_targets(&self) -> Vec<Place> {
        let mut places: Vec<Place> = Vec::new();
        for place in self.doubted.iter().flat_map(|run| &run.targets) {
            if !places.iter().any(|known| known.is(place)) {
                places.push(place.clone());
            }
        }
        places
    }

    fn forget_empty(&mut self) {
        self.rests.retain(|run| !run.targets.is_empty());
        self.doubted.retain(|run| !run.targets.is_empty());
    }
}

/// The document of one source.
#[derive(Clone, Debug)]
pub(super) struct Reliance {
    path: PathBuf,
}

/// Why the document cannot be read or changed.
#[derive(Debug, thiserror::Error)]
#[error("which targets rest on earlier deltas cannot be looked up in {}: {cause}", path.display())]
pub(super) struct Unknown {
    path: PathBuf,
    cause: io::Error,
}

impl Reliance {
    /// Of the source whose volume has this key.
    pub(super) fn of(state_dir: &Path, volume: &str) -> Reliance {
        let name = blake3::hash(volume.as_bytes()).to_hex();
        Reliance {
            path: (state_dir.join(FOLDER)).join(format!("{}.json", &name[..32])),
        }
    }

    /// What is known; empty if nothing was ever written.
    pub(super) fn look(&self) -> Result<Document, Unknown> {
        read(&self.path).map_err(|cause| self.unknown(cause))
    }

    /// Changes what is known, durably; returns it as it is now. Writes nothing if nothing changes.
    pub(super) fn change(&self, change: impl FnOnce(&mut Document)) -> Result<Document, Unknown> {
        let changed = || {
            let _lock = self.lock()?;
            let before = read(&self.path)?;
            let mut document = before.clone();
            change(&mut document);
            if document != before {
                write(&self.path, &document)?;
            }
            Ok(document)
        };
        changed().map_err(|cause| self.unknown(cause))
    }

    fn lock(&self) -> io::Result<File> {
        durable::make_folder(self.path.parent().unwrap_or(Path::new(".")))?;
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(self.path.with_extension("lock"))?;
        // Held by others for one small write.
        file.lock()?;
        Ok(file)
    }

    fn unknown(&self, cause: io::Error) -> Unknown {
        Unknown {
            path: self.path.clone(),
            cause,
        }
    }
}

fn read(path: &Path) -> io::Result<Document> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Document::default()),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    decode(&bytes)
}

fn write(path: &Path, document: &Document) -> io::Result<()> {
    let bytes = encode(document)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    durable::replace(path, &bytes)
}

fn encode(document: &Document) -> io::Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec(document)?;
    let sum = blake3::hash(&bytes).to_hex();
    bytes.extend([b"\n", sum.as_bytes(), b"\n"].concat());
    Ok(bytes)
}

fn decode(bytes: &[u8]) -> io::Result<Document> {
    let damaged = |why| io::Error::new(io::ErrorKind::InvalidData, why);
    // JSON as it is written here has no end of line in it.
    let end = bytes.iter().position(|byte| *byte == b'\n');
    let (text, sum) = bytes.split_at(end.ok_or_else(|| damaged("its checksum is missing"))?);
    let expected = blake3::hash(text).to_hex();
    if sum != [b"\n", expected.as_bytes(), b"\n"].concat() {
        return Err(damaged("its checksum is another"));
    }
    let document: Document = serde_json::from_slice(text)?;
    let is_ours = document.v == FORMAT;
    is_ours
        .then_some(document)
        .ok_or_else(|| damaged("it is not what this version writes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn run(number: u128) -> RunName {
        RunName(number.to_be_bytes())
    }

    fn far(name: &str) -> Place {
        Place {
            name: name.to_owned(),
            volume: None,
        }
    }

    fn near(name: &str, volume: &str) -> Place {
        Place {
            name: name.to_owned(),
            volume: Some(volume.to_owned()),
        }
    }

    fn names(document: &Document) -> Vec<String> {
        let places = document.doubted_targets();
        places.into_iter().map(|place| place.name).collect()
    }

    #[test]
    fn all_runs_since_the_full_scan_are_doubted_and_no_earlier_ones() {
        let mut document = Document::default();
        document.rests(run(1), vec![far("old")]);
        document.chain_ended();
        document.rests(run(2), vec![far("a"), far("b")]);
        document.rests(run(3), vec![far("a"), far("c")]);
        assert_eq!(document.doubted_runs(), []);
        document.caught();
        assert_eq!(document.doubted_runs(), [run(2), run(3)]);
        assert_eq!(names(&document), ["a", "b", "c"]);
        assert!(document.doubts(run(3)) && !document.doubts(run(1)));
        document.rests(run(4), vec![far("a")]);
        document.chain_ended();
        assert_eq!(
            document.doubted_runs(),
            [run(2), run(3)],
            "a full scan settles nobody"
        );
    }

    #[test]
    fn a_target_is_doubted_until_it_is_settled_whatever_it_is_called() {
        let mut document = Document::default();
        document.rests(
            run(1),
            vec![near("b", "/x/b"), near("b", "/y/b"), far("h:b")],
        );
        document.caught();
        document.settled(&[near("../x/b", "/x/b")]);
        assert_eq!(document.doubted_targets(), [near("b", "/y/b"), far("h:b")]);
        document.settled(&[far("b"), near("h:b", "/z")]);
        assert_eq!(document.doubted_targets().len(), 2, "others");
        document.settled(&[far("h:b")]);
        document.settled(&[near("b", "/y/b")]);
        assert_eq!(document, Document::default());
    }

    #[test]
    fn a_run_that_ended_keeps_those_that_it_may_have_marked_even_if_it_was_doubted_meanwhile() {
        let mut document = Document::default();
        document.rests(run(1), vec![far("a"), far("b")]);
        document.rests(run(2), vec![far("a")]);
        document.ended(run(2), &[]);
        document.caught();
        assert_eq!(document.doubted_runs(), [run(1)]);
        document.ended(run(1), &[far("b")]);
        assert_eq!(names(&document), ["b"]);
    }

    #[test]
    fn a_chain_is_never_longer_than_a_doubt_can_name() {
        let mut document = Document::default();
        for number in 0..MAX_DOUBTED_RUNS {
            assert!(!document.is_full());
            document.rests(run(number as u128), vec![far("a")]);
            if number == 9 {
                document.caught();
            }
        }
        assert!(document.is_full());
    }

    #[test]
    fn what_is_changed_is_found_again_and_what_is_damaged_is_not_believed() {
        let folder = tempfile::tempdir().unwrap();
        let reliance = Reliance::of(folder.path(), "/x/volume");
        assert_eq!(reliance.look().unwrap(), Document::default());
        assert!(!folder.path().join(FOLDER).exists(), "a look makes nothing");
        let changed = reliance
            .change(|document| document.rests(run(1), vec![near("b", "/x/b")]))
            .unwrap();
        assert_eq!(reliance.look().unwrap(), changed);
        let other = Reliance::of(folder.path(), "/x/other");
        assert_eq!(other.look().unwrap(), Document::default());

        // A writer that was killed.
        fs::write(reliance.path.with_extension("json.new"), b"{").unwrap();
        assert_eq!(reliance.look().unwrap(), changed);
        reliance.change(Document::caught).unwrap();
        assert!(reliance.look().unwrap().doubts(run(1)));

        let whole = fs::read(&reliance.path).unwrap();
        for cut in 0..whole.len() {
            fs::write(&reliance.path, &whole[..cut]).unwrap();
            assert!(reliance.look().is_err(), "{cut} bytes");
        }
        let refused = reliance.change(Document::chain_ended).unwrap_err();
        assert!(refused.to_string().contains("rest on"), "{refused}");
        for bit in 0..8 * whole.len() {
            let mut damaged = whole.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            fs::write(&reliance.path, damaged).unwrap();
            assert!(reliance.look().is_err(), "bit {bit}");
        }
        let later = Document {
            v: FORMAT + 1,
            ..changed
        };
        fs::write(&reliance.path, encode(&later).unwrap()).unwrap();
        assert!(reliance.look().is_err(), "a later format");
        // Nobody could tell damage to it.
        fs::write(&reliance.path, serde_json::to_vec(&later).unwrap()).unwrap();
        assert!(reliance.look().is_err(), "no checksum");
    }
}
