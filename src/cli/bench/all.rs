//! `bench all`: every stage, and what a resync would take.

use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use lockstep_bench::{Direction, Flow};
use lockstep_bench::{
    DiskRead, FarRead, HashKind, Job, Kind, LinkRates, Measured, PackRates, Rates, Side, Subject,
    Way, WriteRate, folder_for_writing, predict,
};
use lockstep_protocol::{Failure, FailureKind};
use lockstep_volume::{IoEngine, canonical_target};

use super::host::{Address, Host, HostOptions};
use super::options::{Measuring, percent};
use super::sheet::Sheet;
use super::{DEVICE_SECONDS, MEMORY_SECONDS, local};
use crate::cli::Context;
use crate::cli::options::{IoOption, ThreadsOption};
use crate::failure::{chain, usage};
use crate::measures::{Bench, Predicted, Stage};
use crate::place;
use crate::target::{Remote, Target};

#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// The volume that is right: a block device or an image file on this machine
    #[arg(value_name = "SOURCE")]
    source: Option<OsString>,
    // Not a doc comment: rustdoc would take the brackets for a link.
    #[arg(
        value_name = "TARGET",
        help = "What would become equal to it: PATH or [USER@]HOST:PATH; it need not exist"
    )]
    target: Option<OsString>,
    /// The part of the source's data that differs, in percent
    #[arg(long, value_name = "PCT", default_value = "1", value_parser = percent)]
    changed: f64,
    /// Also measure writing, to a new file without a name beside TARGET
    #[arg(long, requires = "target")]
    write_test: bool,
    #[command(flatten)]
    io: IoOption,
    #[command(flatten)]
    threads: ThreadsOption,
    #[command(flatten)]
    reach: HostOptions,
    #[command(flatten)]
    pub(super) measuring: Measuring,
}

/// Everything that one machine was asked to do.
struct Task<'a> {
    arguments: &'a Arguments,
    engine: IoEngine,
    threads: usize,
    device_limit: Duration,
    memory_limit: Duration,
}

/// One end as it was measured; what was not is nothing.
#[derive(Clone, Copy)]
struct Found {
    cores: usize,
    hash: Measured,
    size: u64,
    data: u64,
    scan: Option<DiskRead>,
    direct: Option<Measured>,
    written: Option<Measured>,
}

pub(super) fn run(
    arguments: &Arguments,
    context: &Context,
    sheet: &mut Sheet,
) -> Result<(), Failure> {
    let source = arguments.source.as_deref().map(place::source).transpose()?;
    let target = match &arguments.target {
        Some(target) => place::targets(&[target])?.pop(),
        None => None,
    };
    let task = Task {
        arguments,
        engine: arguments.io.engine(&context.output),
        threads: arguments.threads.count(),
        device_limit: arguments.measuring.limit(DEVICE_SECONDS),
        memory_limit: arguments.measuring.limit(MEMORY_SECONDS),
    };
    // What cannot be had is told before anything is measured for half a minute.
    let subject = match &source {
        Some(path) => Some((Subject::open(path, task.engine)?, path.as_path())),
        None => None,
    };
    let other = match target {
        Some(Target::Remote(remote)) => {
            let host = arguments.reach.host(Address::of(&remote), sheet)?;
            Some(Other::There(host, remote))
        }
        Some(Target::Local(path)) => {
            match path.exists() {
                true => Subject::open(&path, task.engine).map(drop)?,
                false => folder_of_missing(&path).map(drop)?,
            }
            Some(Other::Here(path))
        }
        None => None,
    };
    for kind in [HashKind::Digests, HashKind::Zeros] {
        local::hash(kind, task.threads, task.memory_limit, sheet);
    }
    let size = subject.as_ref().map_or(0, |(subject, _)| subject.size());
    let hash = local::hash(
        HashKind::of_scan(size),
        task.threads,
        task.memory_limit,
        sheet,
    );
    let Some((subject, path)) = subject else {
        sheet.note("name a SOURCE to have its disk measured and a resync predicted");
        return Ok(());
    };
    task.volume(&subject, path, hash, other, sheet)
}

/// The other end.
enum Other {
    Here(PathBuf),
    There(Host, Remote),
}

impl Task<'_> {
    /// Measures both ends and what is between them, then predicts.
    fn volume(
        &self,
        subject: &Subject,
        path: &Path,
        hash: Measured,
        other: Option<Other>,
        sheet: &mut Sheet,
    ) -> Result<(), Failure> {
        let mut assumed = Vec::new();
        sheet.is_about(subject.size());
        let source = self.end(subject, path, hash, sheet)?;
        if source.data == 0 || source.scan.is_none() {
            assumed
                .push("the source has no data that could be read: its disk is left out".to_owned());
        }
        let (sample, packed) = local::pack(subject, path, self.threads, self.memory_limit, sheet)?;
        let pack = PackRates {
            cpu: per_byte(self.threads, packed.measured),
            share: packed.share,
            data_share: match sample.bytes() {
                0 => 1.0,
                _ => sample.data_share(),
            },
        };
        let mut between = Between::default();
        let target = match other {
            None => {
                assumed.push("no target is named: one like the source, on another machine and with a link that holds nothing up, is taken".to_owned());
                source
            }
            Some(Other::Here(there)) => {
                between.one_machine = true;
                between.one_disk = on_one_disk(path, &there);
                self.target_here(&there, &source, &mut assumed, sheet)?
            }
            Some(Other::There(host, remote)) => {
                let kind = HashKind::of_scan(subject.size());
                let found = self.target_there(
                    &host,
                    &remote,
                    kind,
                    &source,
                    &mut between,
                    &mut assumed,
                    sheet,
                )?;
                host.leave();
                found
            }
        };
        if target.written.is_none() {
            assumed.push(
                "writing was not measured (--write-test): it is taken to be as fast as reading from the medium"
                    .to_owned(),
            );
        }
        assumed.push("an undo that is kept in a log is left out".to_owned());
        let rates = Rates {
            source: source.side(),
            target: target.side(),
            one_machine: between.one_machine,
            one_disk: between.one_disk,
            link: between.link,
            pack,
        };
        let job = Job {
            size: float(source.size),
            data: float(source.data),
            changed: self.arguments.changed / 100.0,
        };
        for text in &assumed {
            sheet.output().say(&format!("assumed: {text}"));
        }
        for kind in [Kind::Full, Kind::Differential] {
            let prediction = predict(&rates, &job, kind);
            let percent = self.arguments.changed;
            sheet.predict(Predicted::of(&prediction, source.size, percent, &assumed));
        }
        Ok(())
    }

    /// Reads a volume of this machine in both ways.
    fn end(
        &self,
        subject: &Subject,
        path: &Path,
        hash: Measured,
        sheet: &mut Sheet,
    ) -> Result<Found, Failure> {
        let scan = local::scan(subject, path, self.threads, self.device_limit, sheet)?;
        let scan = Some(scan).filter(|read| read.measured.bytes > 0);
        let direct = match subject.has_medium() && scan.is_some() {
            true => {
                let limit = self.device_limit;
                let read = local::direct(subject, path, self.engine, true, limit, sheet)?;
                Some(read.measured)
            }
            false => None,
        };
        Ok(Found {
            cores: self.threads,
            hash,
            size: subject.size(),
            data: subject.data_bytes(),
            scan,
            direct,
            written: None,
        })
    }

    fn target_here(
        &self,
        path: &Path,
        source: &Found,
        assumed: &mut Vec<String>,
        sheet: &mut Sheet,
    ) -> Result<Found, Failure> {
        let mut found = match path.exists() {
            true => {
                let subject = Subject::open(path, self.engine)?;
                self.end(&subject, path, source.hash, sheet)?
            }
            false => {
                assumed.push(not_there(&path.display().to_string()));
                *source
            }
        };
        found.written = None;
        if self.arguments.write_test {
            let folder = match path.exists() {
                true => folder_for_writing(path),
                false => folder_of_missing(path),
            };
            let tested = folder
                .and_then(|folder| local::write(&folder, self.engine, self.device_limit, sheet));
            found.written = unless_impossible(tested, sheet)?.map(|test| test.written);
        }
        Ok(found)
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "each is a different thing, used once"
    )]
    fn target_there(
        &self,
        host: &Host,
        remote: &Remote,
        kind: HashKind,
        source: &Found,
        between: &mut Between,
        assumed: &mut Vec<String>,
        sheet: &mut Sheet,
    ) -> Result<Found, Failure> {
        let rtt = host.far.round_trip()?;
        let mut flows = Vec::new();
        for direction in [Direction::To, Direction::From] {
            let flow = host.far.flow(direction, self.device_limit)?;
            sheet.add(Bench::of_flow(&host.name, rtt, &flow));
            flows.push(flow);
        }
        between.link = flows.first().map(link_rates);
        let hashed = host.far.hash(kind, self.memory_limit)?;
        between.one_machine = hashed.is_here;
        sheet.add(Bench {
            threads: Some(hashed.cores),
            method: local::method_of(kind),
            ..Bench::of(Stage::Hash, &host.name, hashed.measured)
        });
        let mut found = Found {
            cores: hashed.cores,
            hash: hashed.measured,
            written: None,
            ..*source
        };
        let uring = self.arguments.io.uring_elsewhere();
        let read = |way| host.far.read(&remote.path, way, uring, self.device_limit);
        match unless_impossible(read(Way::Cached), sheet)? {
            Some(there) => {
                sheet.add(read_there(host, remote, Way::Cached, &there));
                found.size = there.size;
                found.data = there.data;
                found.scan = Some(there.read).filter(|read| read.measured.bytes > 0);
                found.direct = None;
                if there.has_medium && found.scan.is_some() {
                    let there = read(Way::Direct)?;
                    sheet.add(read_there(host, remote, Way::Direct, &there));
                    found.direct = Some(there.read.measured);
                }
            }
            None => assumed.push(not_there(&format!(
                "{}:{}",
                host.name,
                remote.path.display()
            ))),
        }
        if self.arguments.write_test {
            let tested = host.far.write(&remote.path, uring, self.device_limit);
            if let Some(test) = unless_impossible(tested, sheet)? {
                let folder = remote.path.parent();
                let folder = folder.filter(|folder| !folder.as_os_str().is_empty());
                let folder = folder.unwrap_or(Path::new("."));
                local::add_write_test(&host.name, folder, None, &test, sheet);
                found.written = Some(test.written);
            }
        }
        Ok(found)
    }
}

/// What is between the ends.
#[derive(Default)]
struct Between {
    one_machine: bool,
    one_disk: bool,
    link: Option<LinkRates>,
}

fn link_rates(flow: &Flow) -> LinkRates {
    LinkRates {
        rate: flow.received.rate(),
        sender_cpu: match flow.received.bytes {
            0 => 0.0,
            bytes => flow.sender_cpu.as_secs_f64() / float(bytes),
        },
        receiver_cpu: flow.received.cpu_per_byte(),
    }
}

fn read_there(host: &Host, remote: &Remote, way: Way, there: &FarRead) -> Bench {
    let bench = Bench {
        path: Some(remote.path.display().to_string()),
        chosen: Some(true),
        ..Bench::of(Stage::Read, &host.name, there.read.measured)
    };
    match way {
        Way::Cached => Bench {
            method: Some("page cache"),
            bytes_cached: Some(there.read.cached.bytes),
            ..bench
        },
        Way::Direct => Bench {
            method: Some("direct"),
            engine: Some(local::engine_word(match there.uring {
                true => IoEngine::Uring,
                false => IoEngine::Threads,
            })),
            ..bench
        },
    }
}

impl Found {
    fn side(&self) -> Side {
        let read_back = self.direct.map_or(0.0, |direct| direct.rate());
        Side {
            cores: float(self.cores as u64),
            hash_cpu: per_byte(self.cores, self.hash),
            scan: self.scan.map_or(0.0, |scan| scan_rate(&scan, read_back)),
            read_cpu: self.scan.map_or(0.0, |scan| scan.measured.cpu_per_byte()),
            read_back,
            write: match self.written {
                Some(written) => WriteRate::Measured(written.rate()),
                None => WriteRate::LikeReading,
            },
        }
    }
}

/// What was in memory says nothing of the rest of a volume, which comes from the disk.
fn scan_rate(scan: &DiskRead, direct: f64) -> f64 {
    let rate = scan.measured.rate();
    match scan.cached.all_data || direct <= 0.0 {
        true => rate,
        false => rate.min(direct),
    }
}

/// Processor seconds a byte of what keeps so many processors busy.
fn per_byte(threads: usize, measured: Measured) -> f64 {
    match measured.rate() {
        rate if rate > 0.0 => float(threads as u64) / rate,
        _ => 0.0,
    }
}

/// What could not be measured because of what is there is told and left out; what is lost is not.
fn unless_impossible<T>(result: Result<T, Failure>, sheet: &Sheet) -> Result<Option<T>, Failure> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(failure) if matches!(failure.kind, FailureKind::Usage | FailureKind::Preflight) => {
            sheet.note(&format!("not measured: {}", failure.message));
            Ok(None)
        }
        Err(failure) => Err(failure),
    }
}

fn not_there(name: &str) -> String {
    format!("{name} could not be read: it is taken to be read as the source is")
}

fn folder_of_missing(path: &Path) -> Result<PathBuf, Failure> {
    let canonical =
        canonical_target(path).map_err(|error| usage(chain(&error)).hint(error.hint()))?;
    Ok(canonical.parent().unwrap_or(Path::new("/")).to_owned())
}

/// Whether two paths are on one filesystem, as far as can be seen.
fn on_one_disk(source: &Path, target: &Path) -> bool {
    let folder = || folder_of_missing(target).ok()?.metadata().ok();
    let target = target.metadata().ok().or_else(folder);
    let source = source.metadata().ok();
    match (source, target) {
        (Some(source), Some(target)) if source.is_file() => source.dev() == target.dev(),
        _ => false,
    }
}

#[expect(clippy::cast_precision_loss, reason = "two digits are shown")]
fn float(value: u64) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests {
    use super::{per_byte, scan_rate};
    use lockstep_bench::{Cached, DiskRead, Measured};
    use std::time::Duration;

    fn second(bytes: u64) -> Measured {
        Measured {
            bytes,
            elapsed: Duration::from_secs(1),
            cpu: Duration::ZERO,
        }
    }

    #[test]
    fn a_part_that_was_in_memory_is_no_word_for_the_rest() {
        let mut scan = DiskRead {
            measured: second(10_000),
            cached: Cached {
                bytes: 10_000,
                all_data: false,
            },
        };
        assert!((scan_rate(&scan, 1000.0) - 1000.0).abs() < 1e-9);
        scan.cached.all_data = true;
        assert!((scan_rate(&scan, 1000.0) - 10_000.0).abs() < 1e-9);
    }

    #[test]
    fn work_on_all_processors_counts_for_each() {
        assert!((per_byte(4, second(1000)) - 0.004).abs() < 1e-9);
        assert!(per_byte(4, second(0)).abs() < 1e-9);
    }
}
