//! A volume of this node: the file or device, and what the ledger says of it.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::{DirEntryExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lockstep_cluster::claim::Promise;
use lockstep_cluster::plan::NodeState;
use lockstep_cluster::value::{NodeName, VolumeId};
use lockstep_engine::sentence;
use lockstep_ledger::{Identity, Ledger, Record, Standing, VolumeKey, peek};
use lockstep_protocol::{Failure, FailureKind};
use lockstep_volume::{Hold, OpenErrorKind, Volume, identify, open_source};
use rustix::fs::OFlags;

use super::fate::Now;
use super::note::Mark;

/// How long is looked for a byte that is not zero.
const BLANK_LIMIT: Duration = Duration::from_secs(60);
/// Bytes read at once meanwhile.
const BLANK_BYTES: u64 = 1 << 20;
/// What is said of a volume that does not exist yet.
const MISSING: &str = "missing";

/// Where a volume is, and where its records are.
#[derive(Clone, Debug)]
pub(super) struct Ground {
    pub(super) id: VolumeId,
    pub(super) path: PathBuf,
    pub(super) state_dir: PathBuf,
    pub(super) node: NodeName,
}

/// What was found there.
#[derive(Clone, Debug)]
pub(super) struct Look {
    /// Words that change when the file or device is replaced.
    pub(super) device: String,
    pub(super) exists: bool,
    pub(super) state: NodeState,
    /// The record that the state comes from.
    pub(super) record: Option<Record>,
}

impl Ground {
    /// Looks without changing anything.
    pub(super) fn look(&self) -> Result<Look, Failure> {
        let (identity, exists) = match identify(&self.path) {
            Ok(found) => (found.durable_text(), true),
            Err(error) if error.kind() == OpenErrorKind::Missing => (MISSING.to_owned(), false),
            Err(error) => return Err(broken(FailureKind::Guard, &self.path, &error)),
        };
        let standing = peek(&self.state_dir, &self.key()?, &Identity::new(&*identity));
        let (state, record) = match standing {
            Standing::Unknown { .. } => (NodeState::Unknown, None),
            // Of a volume that is gone nothing is consistent.
            Standing::Consistent(_) if !exists => (NodeState::Unknown, None),
            Standing::Consistent(record) => (NodeState::Consistent, Some(record)),
            Standing::Inconsistent(record) => (NodeState::Inconsistent, Some(record)),
            Standing::Failed(record) => (NodeState::Failed, Some(record)),
        };
        Ok(Look {
            device: lasting(&identity).to_owned(),
            exists,
            state,
            record,
        })
    }

    /// What the ledger says, down to its newest record.
    pub(super) fn now(&self) -> Result<Now, Failure> {
        let look = self.look()?;
        let ledger = self.ledger()?;
        let history = ledger
            .history(&self.key()?)
            .map_err(|error| broken(FailureKind::Io, &self.state_dir, &error))?;
        let newest = history.first();
        Ok(Now {
            state: look.state,
            newest: newest.map(Mark::of),
            epoch: newest.map_or(0, |record| record.epoch),
            forgot: ledger.was_damaged().is_some(),
        })
    }

    /// The damaged stores that the ledger set aside, each with its inode.
    pub(super) fn set_aside(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.state_dir).into_iter().flatten();
        let described = entries.flatten().filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let is_store = name.starts_with("ledger.redb.damaged");
            is_store.then(|| format!("{name} {}", entry.ino()))
        });
        let mut all: Vec<String> = described.collect();
        all.sort();
        all
    }

    /// Whether there is nothing to lose: no file, an empty one, or nothing but zeros. In doubt there
    /// is.
    pub(super) fn is_blank(&self) -> Result<bool, Failure> {
        let source = match open_source(&self.path, Hold::None) {
            Ok(source) => source,
            Err(error) if error.kind() == OpenErrorKind::Missing => return Ok(true),
            Err(error) => return Err(broken(FailureKind::Guard, &self.path, &error)),
        };
        let deadline = Instant::now() + BLANK_LIMIT;
        let failed = |error| broken(FailureKind::Io, &self.path, &error);
        let mut buffer = vec![0; usize::try_from(BLANK_BYTES).unwrap_or(1 << 20)];
        let (mut at, size) = (0, source.size());
        while let Some(data) = source.next_data(at).map_err(failed)? {
            let end = data.end.min(size);
            at = data.start.max(at);
            while at < end {
                if Instant::now() > deadline {
                    return Ok(false);
                }
                let length = usize::try_from((end - at).min(BLANK_BYTES)).unwrap_or(0);
                source
                    .read_at(at, &mut buffer[..length])
                    .map_err(|error| broken(FailureKind::Io, &self.path, &error))?;
                if buffer[..length].iter().any(|byte| *byte != 0) {
                    return Ok(false);
                }
                at += length as u64;
            }
            if at >= size {
                break;
            }
        }
        Ok(true)
    }

    /// The newest promise. One that cannot be understood is an error: it lets nobody in.
    pub(super) fn promised(&self) -> Result<Option<Promise>, Failure> {
        let kept = self
            .ledger()?
            .promised(*self.id.as_bytes())
            .map_err(|error| broken(FailureKind::Io, &self.state_dir, &error))?;
        match kept.map(|kept| Promise::from_durable(&kept)) {
            None => Ok(None),
            Some(Some(promise)) => Ok(Some(promise)),
            Some(None) => Err(Failure::new(
                FailureKind::Io,
                "the promise of the volume is not one that this version makes",
            )
            .hint("use the newest version of lockstep on this node")),
        }
    }

    /// Makes a promise durable.
    pub(super) fn persist(&self, promise: &Promise) -> Result<(), String> {
        crate::crash::point("host.claimed");
        let ledger = self.ledger().map_err(|failure| failure.message)?;
        ledger
            .promise(&promise.to_durable(&self.node))
            .map_err(|error| sentence(&error))?;
        crate::crash::point("host.promised");
        Ok(())
    }

    /// Everything that was written is on the medium.
    pub(super) fn flush(&self) -> io::Result<()> {
        let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or(0);
        let opened = OpenOptions::new()
            .read(true)
            .custom_flags(flags)
            .open(&self.path);
        match opened {
            Ok(file) => file.sync_all(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn key(&self) -> Result<VolumeKey, Failure> {
        VolumeKey::from_path(&self.path)
            .map_err(|error| broken(FailureKind::Usage, &self.path, &error))
    }

    fn ledger(&self) -> Result<Ledger, Failure> {
        Ledger::open(&self.state_dir)
            .map_err(|error| broken(FailureKind::Io, &self.state_dir, &error))
    }
}

/// A run may give a file another size, which makes it no other one.
fn lasting(identity: &str) -> &str {
    identity
        .rsplit_once(" size ")
        .map_or(identity, |(lasting, _)| lasting)
}

fn broken(kind: FailureKind, path: &Path, error: &dyn std::error::Error) -> Failure {
    Failure::new(kind, format!("{}: {}", path.display(), sentence(error)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn only_zeros_and_nothing_are_blank() {
        let folder = tempfile::tempdir().unwrap();
        let ground = Ground {
            id: "0198f3b2-8c7e-7d11-9a51-2f6c0a1b9e77".parse().unwrap(),
            path: folder.path().join("v.img"),
            state_dir: folder.path().join("state"),
            node: "b".parse().unwrap(),
        };
        assert!(ground.is_blank().unwrap(), "missing");
        fs::write(&ground.path, b"").unwrap();
        assert!(ground.is_blank().unwrap(), "empty");
        let mut bytes = vec![0; 3 << 20];
        fs::write(&ground.path, &bytes).unwrap();
        assert!(ground.is_blank().unwrap(), "zeros");
        let last = bytes.len() - 1;
        bytes[last] = 1;
        fs::write(&ground.path, &bytes).unwrap();
        assert!(!ground.is_blank().unwrap(), "one byte");
        let file = fs::File::create(&ground.path).unwrap();
        file.set_len(3 << 20).unwrap();
        assert!(ground.is_blank().unwrap(), "a hole");
        assert_eq!(ground.look().unwrap().state, NodeState::Unknown);
        assert!(!ground.state_dir.exists(), "a look makes nothing");
    }
}
