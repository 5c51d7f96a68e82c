//! How fast it went the last time, for the estimates of plans. Losing it costs an estimate, no more.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lockstep_cluster::plan::Rates;
use lockstep_cluster::value::{NodeName, VolumeName};
use serde::{Deserialize, Serialize};

const NAME: &str = "rates.json";
/// Largest file that is read.
const MAX_BYTES: usize = 1 << 20;
/// Less than this says nothing of a rate.
const LEAST_BYTES: u64 = 1 << 20;

/// What was measured, by volume and node. Bytes a second.
#[derive(Default, Serialize, Deserialize)]
pub(super) struct Measured(BTreeMap<VolumeName, BTreeMap<NodeName, Speeds>>);

/// What was measured of one volume on one node.
#[derive(Clone, Copy, Default, Serialize, Deserialize)]
pub(super) struct Speeds {
    pub(super) scan: f64,
    pub(super) link: f64,
    pub(super) write: f64,
    pub(super) packed: f64,
    pub(super) hooks_seconds: f64,
}

impl Measured {
    /// What is remembered; nothing if it cannot be read.
    pub(super) fn read(state_dir: &Path) -> Self {
        let bytes = fs::read(path(state_dir)).unwrap_or_default();
        match bytes.len() <= MAX_BYTES {
            true => serde_json::from_slice(&bytes).unwrap_or_default(),
            false => Self::default(),
        }
    }

    /// Remembers it.
    pub(super) fn write(&self, state_dir: &Path) {
        let written = serde_json::to_vec(self)
            .map_err(Into::into)
            .and_then(|bytes| {
                let mut file = tempfile::NamedTempFile::new_in(state_dir)?;
                file.write_all(&bytes)?;
                file.persist(path(state_dir)).map_err(|error| error.error)?;
                Ok::<(), std::io::Error>(())
            });
        if let Err(error) = written {
            tracing::warn!("what was measured is not remembered: {error}");
        }
    }

    pub(super) fn of(&mut self, volume: &VolumeName, node: &NodeName) -> &mut Speeds {
        let nodes = self.0.entry(volume.clone()).or_default();
        nodes.entry(node.clone()).or_default()
    }

    /// The rates of a run from one node to another.
    pub(super) fn rates(&self, volume: &VolumeName, primary: &NodeName, node: &NodeName) -> Rates {
        let speeds = |node| {
            let speeds = self.0.get(volume).and_then(|nodes| nodes.get(node));
            speeds.copied().unwrap_or_default()
        };
        let there = speeds(node);
        Rates {
            scan_primary: speeds(primary).scan,
            scan_secondary: there.scan,
            link: there.link,
            write: there.write,
            packed: match there.packed {
                packed if packed > 0.0 => packed,
                _ => 1.0,
            },
            hooks_seconds: there.hooks_seconds,
        }
    }
}

/// Bytes a second; nothing of too few bytes, which take no time worth measuring.
pub(super) fn rate(bytes: u64, took: Duration) -> Option<f64> {
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    let rate = bytes as f64 / took.as_secs_f64();
    (bytes >= LEAST_BYTES && rate.is_finite()).then_some(rate)
}

fn path(state_dir: &Path) -> PathBuf {
    state_dir.join(NAME)
}

#[cfg(test)]
mod tests {
    use super::{Measured, rate};
    use std::time::Duration;

    #[test]
    fn what_was_measured_is_remembered_and_damage_is_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (volume, a, b) = (
            "v".parse().unwrap(),
            "a".parse().unwrap(),
            "b".parse().unwrap(),
        );
        let mut measured = Measured::read(folder.path());
        measured.of(&volume, &a).scan = 2e9;
        measured.of(&volume, &b).write = 1e8;
        measured.write(folder.path());
        let again = Measured::read(folder.path()).rates(&volume, &a, &b);
        assert_eq!(
            (again.scan_primary, again.write, again.packed),
            (2e9, 1e8, 1.0)
        );
        std::fs::write(folder.path().join(super::NAME), b"{").unwrap();
        let nothing = Measured::read(folder.path()).rates(&volume, &a, &b);
        assert_eq!(nothing.scan_primary, 0.0);
    }

    #[test]
    fn small_amounts_say_nothing() {
        assert_eq!(rate(1000, Duration::from_secs(1)), None);
        assert_eq!(
            rate(2 << 20, Duration::from_secs(2)),
            Some((1 << 20) as f64)
        );
        assert_eq!(rate(2 << 20, Duration::ZERO), None);
    }
}
