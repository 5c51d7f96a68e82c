//! Finds the counters that tell how the source's machine fares, and reads them.

use std::fs::read_to_string;
use std::path::{Path, PathBuf};

use lockstep_volume::disks_below;

use super::signs::{Counts, DiskCounts, Pressure, parse_pressure};

/// Where the kernel has its counters.
#[derive(Debug)]
pub(super) struct Lookout {
    /// The `stat` of each disk below the volume.
    disks: Vec<PathBuf>,
    io: Option<Gauges>,
    cpu: Option<Gauges>,
}

/// A pressure of the whole machine, and of our own control group.
#[derive(Debug)]
struct Gauges {
    all: PathBuf,
    own: Option<PathBuf>,
}

impl Lookout {
    /// What there is to watch for a volume; `None` if there is nothing.
    pub(super) fn of(volume: &Path) -> Option<Lookout> {
        let group = own_group();
        let lookout = Lookout {
            disks: disks_below(volume)
                .into_iter()
                .map(|disk| disk.join("stat"))
                .filter(|stat| read_disk(stat).is_some())
                .collect(),
            io: Gauges::of("io", group.as_deref()),
            cpu: Gauges::of("cpu", group.as_deref()),
        };
        let watches = !lookout.disks.is_empty() || lookout.io.is_some() || lookout.cpu.is_some();
        watches.then_some(lookout)
    }

    /// In words, for `-v`.
    pub(super) fn describe(&self) -> String {
        let name = |stat: &PathBuf| {
            let disk = stat.parent()?.file_name()?;
            Some(disk.to_string_lossy().into_owned())
        };
        let disks: Vec<String> = self.disks.iter().filter_map(name).collect();
        let disks = match disks.is_empty() {
            true => "no disk (none is known below the source)".to_owned(),
            false => format!("the latency of {}", disks.join(", ")),
        };
        let pressure = match (&self.io, &self.cpu) {
            (Some(io), Some(_)) if io.own.is_some() => "pressure of others",
            (Some(_), Some(_)) => "pressure",
            (Some(_), None) => "pressure on disks only",
            (None, Some(_)) => "pressure on processors only",
            (None, None) => "no pressure (the kernel does not tell it)",
        };
        format!("{disks}, {pressure}")
    }

    pub(super) fn look(&self, bytes_read: u64) -> Counts {
        let pressure = |gauges: &Option<Gauges>| gauges.as_ref().map(Gauges::read);
        Counts {
            disks: self.disks.iter().map(|stat| read_disk(stat)).collect(),
            io: pressure(&self.io).unwrap_or_default(),
            cpu: pressure(&self.cpu).unwrap_or_default(),
            bytes_read,
        }
    }
}

impl Gauges {
    fn of(what: &str, group: Option<&Path>) -> Option<Gauges> {
        let all = Path::new("/proc/pressure").join(what);
        read_pressure(&all)?;
        let own = group.map(|group| group.join(format!("{what}.pressure")));
        Some(Gauges {
            all,
            own: own.filter(|own| read_pressure(own).is_some()),
        })
    }

    /// Ours first: what others add meanwhile is theirs.
    fn read(&self) -> Pressure {
        Pressure {
            own: self.own.as_deref().and_then(read_pressure),
            all: read_pressure(&self.all),
        }
    }
}

fn read_disk(stat: &Path) -> Option<DiskCounts> {
    DiskCounts::parse(&read_to_string(stat).ok()?)
}

fn read_pressure(file: &Path) -> Option<u64> {
    parse_pressure(&read_to_string(file).ok()?)
}

/// The folder of the control group (version 2) that this process is in, unless it is everybody's.
fn own_group() -> Option<PathBuf> {
    let groups = read_to_string("/proc/self/cgroup").ok()?;
    let path = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    (!path.is_empty() && !path.starts_with("..")).then(|| Path::new("/sys/fs/cgroup").join(path))
}

#[cfg(test)]
mod tests {
    use super::Lookout;

    #[test]
    fn what_is_watched_is_counted() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let Some(lookout) = Lookout::of(file.path()) else {
            println!("skipped: this machine has neither disks nor pressure to watch");
            return;
        };
        let counts = lookout.look(7);
        assert_eq!(counts.disks.len(), lookout.disks.len());
        assert!(counts.disks.iter().all(Option::is_some));
        assert_eq!(counts.io.all.is_some(), lookout.io.is_some());
        assert_eq!(counts.bytes_read, 7);
        assert!(!lookout.describe().is_empty());
    }
}
