//! `zfs`: a snapshot of a zvol, by the `zfs` program.
//!
//! A zvol's snapshot has no device of its own unless all of them are shown (`snapdev=visible`),
//! where anything may find a filesystem on them. So the image is read through a clone that is
//! read-only and shows no partitions; it shares all blocks, bears the snapshot's name beside the
//! zvol, and goes before the snapshot. ZFS does not tell what changed in a zvol.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::changed::Changed;
use crate::doubt::Doubt;
use crate::error::SnapshotError;
use crate::name::{SnapshotName, VolumeName};
use crate::program::{Call, Limits, Programs, System};
use crate::provider::{Atomicity, Cost, Fitness, Health, Provider, Space, Told, Verdict};
use crate::snapshot::{Image, Recovered, Snapshot};

const NAME: &str = "zfs";
/// Where the devices of zvols are.
const DEVICES: &str = "/dev/zvol";
/// A snapshot waits for a transaction group.
const LIMITS: Limits = Limits {
    time: Duration::from_secs(120),
    output_bytes: 16 << 20,
};
const PAUSE: Duration = Duration::from_millis(50);
/// How long the device of a new clone is waited for.
const DEVICE_PATIENCE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(20);

/// The provider.
#[derive(Debug)]
pub struct Zfs {
    programs: Box<dyn Programs>,
}

/// What tells a snapshot from every other.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Detail {
    dataset: String,
    /// Its number, never used again.
    guid: u64,
}

/// A line of `zfs list`.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Row {
    name: String,
    guid: u64,
    size: u64,
    available: u64,
    referenced: u64,
}

const COLUMNS: &str = "name,guid,volsize,available,referenced";

impl Zfs {
    /// The provider.
    #[must_use]
    pub fn new() -> Self {
        Self {
            programs: Box::new(System),
        }
    }

    fn run(&self, arguments: &[&str]) -> Result<Vec<u8>, SnapshotError> {
        self.programs.run(&Call::new("zfs", arguments, LIMITS))
    }

    fn list(&self, rest: &[&str]) -> Result<Vec<Row>, SnapshotError> {
        let fixed = ["list", "-H", "-p", "-o", COLUMNS];
        let call = Call::new("zfs", fixed.iter().chain(rest), LIMITS);
        let output = self.programs.run(&call)?;
        rows(&output).map_err(|why| call.failed(why, b""))
    }

    /// The zvol that a device is.
    fn zvol_of(&self, volume: &Path) -> Result<Row, String> {
        let said = |error: std::io::Error| error.to_string();
        let device = volume.canonicalize().map_err(said)?;
        if !Path::new(DEVICES).exists() {
            return Err("there are no zvols here".to_owned());
        }
        let zvols = self
            .list(&["-t", "volume"])
            .map_err(|error| error.to_string())?;
        let is_it = |zvol: &Row| {
            let path = device_of(&zvol.name).canonicalize();
            path.is_ok_and(|path| path == device)
        };
        let found = zvols.into_iter().find(is_it);
        found.ok_or_else(|| "it is no zvol".to_owned())
    }

    /// The snapshots of a zvol.
    fn snapshots(&self, dataset: &str) -> Result<Vec<Row>, SnapshotError> {
        self.list(&["-t", "snapshot", "-d", "1", dataset])
    }

    /// The snapshot, if it is still the one that was made.
    fn found(&self, snapshot: &Snapshot) -> Result<(Detail, String), SnapshotError> {
        let detail: Detail = snapshot.detail_for(NAME)?;
        let full = full_name(&detail.dataset, &snapshot.name);
        let rows = self.snapshots(&detail.dataset)?;
        match rows.into_iter().find(|row| row.name == full) {
            None => Err(SnapshotError::Gone {
                name: snapshot.name.to_string(),
            }),
            Some(row) if row.guid != detail.guid => Err(SnapshotError::NotOurs {
                path: PathBuf::from(full),
                why: "it is another snapshot than the one that was made".to_owned(),
            }),
            Some(_) => Ok((detail, full)),
        }
    }

    fn freeze(&self, zvol: &Row, name: &SnapshotName) -> Result<Snapshot, SnapshotError> {
        let full = full_name(&zvol.name, name);
        let exists = |rows: Vec<Row>| rows.into_iter().find(|row| row.name == full);
        if exists(self.snapshots(&zvol.name)?).is_some() {
            let path = PathBuf::from(&full);
            return Err(SnapshotError::Exists { path });
        }
        self.run(&["snapshot", &full])?;
        let made = exists(self.snapshots(&zvol.name)?).ok_or_else(|| SnapshotError::Gone {
            name: name.to_string(),
        })?;
        describe(&zvol.name, name, &made)
    }

    fn clones(&self, detail: &Detail, name: &SnapshotName) -> Result<bool, SnapshotError> {
        let clone = clone_name(&detail.dataset, name);
        let parent = parent_of(&detail.dataset);
        let beside = self.list(&["-t", "volume", "-d", "1", parent])?;
        Ok(beside.iter().any(|row| row.name == clone))
    }

    fn recover_of(&self, dataset: &str, name: &VolumeName) -> Result<Recovered, SnapshotError> {
        let mut found = Recovered::default();
        for row in self.snapshots(dataset)? {
            let own = row.name.split_once('@').map_or("", |(_, own)| own);
            if let Some(whole) = SnapshotName::of_volume(own, name) {
                found.whole.push(describe(dataset, &whole, &row)?);
            }
        }
        Ok(found.sorted())
    }
}

impl Default for Zfs {
    fn default() -> Self {
        Self::new()
    }
}

impl Provider for Zfs {
    fn name(&self) -> &'static str {
        NAME
    }

    fn probe(&self, volume: &Path) -> Verdict {
        match self.zvol_of(volume) {
            Ok(zvol) => Verdict::Fit(fitness(&zvol)),
            Err(why) => Verdict::unfit(why),
        }
    }

    fn create(&self, volume: &Path, name: &SnapshotName) -> Result<Snapshot, SnapshotError> {
        let zvol = self.zvol_of(volume).map_err(|why| unfit(volume, why))?;
        self.freeze(&zvol, name)
    }

    fn open(&self, snapshot: &Snapshot) -> Result<Image, SnapshotError> {
        let (detail, full) = self.found(snapshot)?;
        let clone = clone_name(&detail.dataset, &snapshot.name);
        if !self.clones(&detail, &snapshot.name)? {
            let options = ["-o", "readonly=on", "-o", "volmode=dev"];
            self.run(&[&["clone"], &options[..], &[&full, &clone]].concat())?;
        }
        let path = device_of(&clone);
        let deadline = Instant::now() + DEVICE_PATIENCE;
        while !path.exists() && Instant::now() < deadline {
            std::thread::sleep(POLL);
        }
        Image::open(path, snapshot.size)
    }

    fn delta(&self, base: &Snapshot, now: &Snapshot) -> Result<Changed, Doubt> {
        Doubt::unless_comparable(base, now, NAME)?;
        Err(Doubt::NotTold {
            provider: NAME.to_owned(),
            why: "ZFS has no such list for a zvol".to_owned(),
        })
    }

    fn release(&self, snapshot: &Snapshot) -> Result<(), SnapshotError> {
        let (detail, full) = match self.found(snapshot) {
            Ok(found) => found,
            // A clone cannot outlive its snapshot.
            Err(SnapshotError::Gone { .. }) => return Ok(()),
            Err(error) => return Err(error),
        };
        if self.clones(&detail, &snapshot.name)? {
            self.run(&["destroy", &clone_name(&detail.dataset, &snapshot.name)])?;
        }
        self.run(&["destroy", &full]).map(drop)
    }

    fn recover(&self, volume: &Path, name: &VolumeName) -> Result<Recovered, SnapshotError> {
        let zvol = self.zvol_of(volume).map_err(|why| unfit(volume, why))?;
        self.recover_of(&zvol.name, name)
    }

    fn health(&self, snapshot: &Snapshot) -> Result<Health, SnapshotError> {
        let (detail, _) = self.found(snapshot)?;
        let rows = self.list(&["-t", "volume", &detail.dataset])?;
        match rows.first() {
            Some(row) => Ok(Health::Sound {
                room: row.available,
            }),
            None => Ok(Health::Lost {
                why: "its zvol is gone".to_owned(),
            }),
        }
    }
}

fn fitness(zvol: &Row) -> Fitness {
    Fitness {
        atomicity: Atomicity::PowerCut,
        cost: Cost {
            extents: None,
            pause: PAUSE,
        },
        space: Space {
            at_risk: zvol.referenced,
            free: zvol.available,
        },
        delta: Told::Nothing,
    }
}

fn describe(dataset: &str, name: &SnapshotName, row: &Row) -> Result<Snapshot, SnapshotError> {
    let detail = Detail {
        dataset: dataset.to_owned(),
        guid: row.guid,
    };
    Snapshot::made(NAME, name, &device_of(dataset), row.size, &detail)
}

fn unfit(volume: &Path, why: String) -> SnapshotError {
    SnapshotError::Unfit {
        provider: NAME,
        volume: volume.to_path_buf(),
        why,
    }
}

/// Fields are separated by tabs, which no name has; what does not apply is a hyphen.
fn rows(output: &[u8]) -> Result<Vec<Row>, String> {
    let text = std::str::from_utf8(output).map_err(|_| "its list is no text".to_owned())?;
    text.lines().map(row).collect()
}

fn row(line: &str) -> Result<Row, String> {
    let fields: Vec<&str> = line.split('\t').collect();
    let [name, guid, size, available, referenced] = fields[..] else {
        return Err(format!("a line of its list has {} fields", fields.len()));
    };
    let number = |text: &str| match text {
        "-" => Ok(0),
        text => text.parse().map_err(|_| format!("{text:?} is no number")),
    };
    Ok(Row {
        name: name.to_owned(),
        guid: number(guid)?,
        size: number(size)?,
        available: number(available)?,
        referenced: number(referenced)?,
    })
}

fn full_name(dataset: &str, name: &SnapshotName) -> String {
    format!("{dataset}@{name}")
}

fn clone_name(dataset: &str, name: &SnapshotName) -> String {
    format!("{}/{name}", parent_of(dataset))
}

/// A zvol is never at the top, so it has a parent.
fn parent_of(dataset: &str) -> &str {
    dataset
        .rsplit_once('/')
        .map_or(dataset, |(parent, _)| parent)
}

fn device_of(dataset: &str) -> PathBuf {
    Path::new(DEVICES).join(dataset)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::script::Script;

    fn zfs<const N: usize>(script: [(&str, Result<&str, &str>); N]) -> Zfs {
        Zfs {
            programs: Box::new(Script::new(script)),
        }
    }

    fn zvol() -> Row {
        row("tank/vm/disk\t77\t1048576\t5000000\t300000").unwrap()
    }

    fn snapshot() -> Snapshot {
        let detail = Detail {
            dataset: "tank/vm/disk".to_owned(),
            guid: 5,
        };
        let name = "lockstep-disk-r1".parse().unwrap();
        let volume = device_of(&detail.dataset);
        Snapshot::made(NAME, &name, &volume, 1_048_576, &detail).unwrap()
    }

    const LISTED: &str =
        "zfs list -H -p -o name,guid,volsize,available,referenced -t snapshot -d 1 tank/vm/disk";
    const BESIDE: &str =
        "zfs list -H -p -o name,guid,volsize,available,referenced -t volume -d 1 tank/vm";
    const OURS: &str = "tank/vm/disk@lockstep-disk-r1\t5\t1048576\t-\t300000\n";
    const OTHERS: &str = "tank/vm/disk@daily\t4\t1048576\t-\t200000\n";

    #[test]
    fn a_list_is_read_whole_or_not_at_all() {
        assert_eq!(rows(b""), Ok(Vec::new()));
        let both = format!("{OTHERS}{OURS}");
        let read = rows(both.as_bytes()).unwrap();
        assert_eq!((read[1].guid, read[1].available), (5, 0));
        assert!(rows(b"tank\t1\t2\n").is_err());
        assert!(rows(b"tank\t1\t2\tmany\t3\n").is_err());
        assert!(rows(&[0xFF, b'\n']).is_err());
    }

    #[test]
    fn a_snapshot_is_made_once_and_described_by_its_number() {
        let made = format!("{OTHERS}{OURS}");
        let zfs_with = zfs([
            (LISTED, Ok(OTHERS)),
            ("zfs snapshot tank/vm/disk@lockstep-disk-r1", Ok("")),
            (LISTED, Ok(&made)),
            (LISTED, Ok(&made)),
        ]);
        let name = "lockstep-disk-r1".parse().unwrap();
        let snapshot_made = zfs_with.freeze(&zvol(), &name).unwrap();
        assert_eq!(snapshot_made.detail, snapshot().detail);
        assert_eq!(snapshot_made.size, 1_048_576);
        let again = zfs_with.freeze(&zvol(), &name).unwrap_err();
        assert!(matches!(again, SnapshotError::Exists { .. }), "{again}");
    }

    #[test]
    fn the_clone_goes_before_the_snapshot_and_nothing_else_goes() {
        let clone = "tank/vm/lockstep-disk-r1\t9\t1048576\t1\t1\n";
        let zfs_with = zfs([
            (LISTED, Ok(OURS)),
            (BESIDE, Ok(clone)),
            ("zfs destroy tank/vm/lockstep-disk-r1", Ok("")),
            ("zfs destroy tank/vm/disk@lockstep-disk-r1", Ok("")),
            (LISTED, Ok(OTHERS)),
        ]);
        zfs_with.release(&snapshot()).unwrap();
        zfs_with.release(&snapshot()).unwrap();
        let replaced = OURS.replace("\t5\t", "\t6\t");
        let error = zfs([(LISTED, Ok(&replaced))])
            .release(&snapshot())
            .unwrap_err();
        assert!(matches!(error, SnapshotError::NotOurs { .. }), "{error}");
    }

    #[test]
    fn what_a_crash_left_is_found_by_name() {
        let both = format!("{OTHERS}{OURS}");
        let zfs_with = zfs([(LISTED, Ok(&both))]);
        let found = zfs_with.recover_of("tank/vm/disk", &"disk".parse().unwrap());
        let whole = found.unwrap().whole;
        assert_eq!(whole.len(), 1);
        assert_eq!(whole[0].detail, snapshot().detail);
    }

    #[test]
    fn it_never_tells_what_changed() {
        let doubt = zfs([]).delta(&snapshot(), &snapshot()).unwrap_err();
        assert_eq!(doubt.word(), "not-told");
    }
}
