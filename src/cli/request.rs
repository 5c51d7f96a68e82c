//! What `sync` and `diff` have in common: their options, the request made of them, and the run.

use std::ffi::OsStr;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use lockstep_engine::{
    Cancel, Compression, Consent, FullScanEvery, KeepBase, Limits, LocalTarget, MIN_MEMORY,
    Outcome, Purpose, Request, Reuse, Scope, ServeOptions, SnapshotChoice, StillHook, Stillness,
    TargetSpec, UndoPolicy, VerifyScope, run as run_engine,
};
use lockstep_protocol::{Failure, FailureKind};
use lockstep_volume::IoEngine;

use super::Context;
use super::options::{IoOption, LinkOptions, ReachOptions, ThreadsOption};
use super::throttle::ThrottleOptions;
use crate::events::{RunNames, Summary};
use crate::failure::{chain, usage};
use crate::listener::{Listener, RangeList};
use crate::output::Output;
use crate::place;
use crate::progress::{Choice, Progress};
use crate::remote::{self, Reach, RemoteTarget};
use crate::report::{self, Place};
use crate::signals::{self, Reaction};
use crate::target::Target;
use crate::units;

/// Options of verbs that read a source and reach targets.
#[derive(Args, Debug)]
pub(super) struct RunOptions {
    #[command(flatten)]
    reach: ReachOptions,
    #[command(flatten)]
    link: LinkOptions,
    /// How the source is frozen: auto (the best there is), reflink, btrfs, lvm, zfs, exec:PROG,
    /// exclusive (nobody may write it meanwhile), none (take what is there)
    #[arg(
        long,
        value_name = "HOW",
        default_value = "auto",
        env = "LOCKSTEP_SNAPSHOT"
    )]
    snapshot: String,
    /// Freeze the filesystem mounted there while the snapshot is made; may be given several times
    #[arg(long, value_name = "MOUNTPOINT")]
    freeze: Vec<PathBuf>,
    /// Call this program with `before` and `after` around the snapshot, to make an application ready
    #[arg(long, value_name = "PROGRAM")]
    snapshot_hook: Option<PathBuf>,
    /// Longest that anything is frozen, such as 10s; then it is thawed, and the run ends
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = units::parse_time)]
    freeze_limit: Duration,
    /// Read everything, whatever a snapshot says of what has not changed since the last run
    #[arg(long, env = "LOCKSTEP_NO_DELTA")]
    no_delta: bool,
    /// Read everything in one run of so many
    #[arg(
        long,
        value_name = "N",
        default_value = "10",
        env = "LOCKSTEP_FULL_SCAN_RUNS"
    )]
    full_scan_runs: NonZeroU32,
    /// Read everything when that was so many days ago
    #[arg(
        long,
        value_name = "DAYS",
        default_value = "7",
        env = "LOCKSTEP_FULL_SCAN_DAYS"
    )]
    full_scan_days: u16,
    /// Keep a snapshot at each end, so that the next run reads only what changed: auto (while there is
    /// room), never, or SIZE, the most that one may come to hold
    #[arg(long, value_name = "SIZE", default_value = "auto", env = "LOCKSTEP_KEEP_BASE",
          value_parser = keep_base)]
    keep_base: KeepBase,
    #[command(flatten)]
    io: IoOption,
    /// Bytes of buffers, at each end
    #[arg(long, value_name = "SIZE", default_value = "128M", env = "LOCKSTEP_MEMORY", value_parser = memory)]
    memory: u64,
    #[command(flatten)]
    threads: ThreadsOption,
    /// Bytes a second on the link, such as 5M or 5MB/s, for all targets together
    #[arg(long, value_name = "RATE", env = "LOCKSTEP_LIMIT_RATE", value_parser = units::parse_rate)]
    limit_rate: Option<u64>,
    #[command(flatten)]
    throttle: ThrottleOptions,
    /// Give up after this time, such as 90s, 15m or 1h30m
    #[arg(long, value_name = "TIME", env = "LOCKSTEP_MAX_DURATION", value_parser = units::parse_time)]
    max_duration: Option<Duration>,
    /// Take block devices that are larger than the source; only their first bytes are made equal
    #[arg(long)]
    allow_larger_target: bool,
    /// How far the run is: bars on a terminal, else lines
    #[arg(
        long,
        value_enum,
        value_name = "HOW",
        default_value = "auto",
        env = "LOCKSTEP_PROGRESS"
    )]
    progress: Choice,
}

/// What only one of the two verbs lets the user choose.
pub(super) struct Job {
    pub(super) purpose: Purpose,
    pub(super) scope: Scope,
    pub(super) verify: VerifyScope,
    pub(super) compression: Compression,
    pub(super) consent: ConsentFrom,
    pub(super) ranges: RangeList,
    pub(super) report: Place,
    pub(super) reading: Reading,
    pub(super) undo: UndoPolicy,
}

/// Whether a snapshot's word for what has not changed may stand for reading it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Reading {
    WhatMayHaveChanged,
    Everything,
}

/// Makes the run's consent once its cancellation is known.
pub(super) type ConsentFrom = Box<dyn Fn(&Arc<Output>, &Arc<Cancel>) -> Consent>;

/// Checks the arguments, runs the engine, and tells how it ended.
pub(super) fn run(
    source: &OsStr,
    targets: &[&OsStr],
    options: &RunOptions,
    job: Job,
    context: &Context,
) -> Result<u8, Failure> {
    let snapshot = snapshot_choice(&options.snapshot)?;
    let source = place::source(source)?;
    let targets = place::targets(targets)?;
    let reach = options.reach()?;
    let io = options.io.engine(&context.output);
    let names: Vec<String> = targets.iter().map(Target::to_string).collect();
    let reuse = options.reuse(job.reading);
    let specs = options.specs(targets, &reach, io, reuse, job.undo, context)?;

    let output = &context.output;
    let cancel = Arc::new(Cancel::new());
    let choice = match context.quiet {
        true => Choice::None,
        false => options.progress,
    };
    let progress = Arc::new(Progress::new(choice, names.clone(), Arc::clone(output)));
    let on_usr1 = Arc::clone(&progress);
    signals::watch(
        Reaction::Cancel(Arc::clone(&cancel)),
        Arc::clone(output),
        move || on_usr1.line_now(),
    )?;
    let dry_run = job.purpose == Purpose::Compare;
    let run_names = RunNames {
        source: source.display().to_string(),
        targets: names,
        dry_run,
    };
    let listener = Listener::new(
        run_names,
        job.ranges,
        Arc::clone(&progress),
        Arc::clone(output),
    );
    let request = Request {
        source,
        targets: specs,
        purpose: job.purpose,
        snapshot,
        taken: None,
        run: None,
        stillness: Stillness {
            freeze: options.freeze.clone(),
            hooks: (options.snapshot_hook.iter())
                .map(|program| StillHook::program(program))
                .collect(),
            limit: options.freeze_limit,
        },
        scope: job.scope,
        verify: job.verify,
        compression: job.compression,
        io,
        limits: Arc::new(Limits::new(
            options.limit_rate,
            options.throttle.limit_read,
            options.throttle.pace(),
        )),
        priority: options.throttle.priority(),
        memory: options.memory,
        threads: options.threads.count(),
        consent: (job.consent)(output, &cancel),
        allow_larger_target: options.allow_larger_target,
        max_duration: options.max_duration,
        scratch: scratch_folder(),
        state_dir: state_dir(context.state_dir.as_deref())?,
        reuse,
        undo: job.undo,
        who: who(),
    };
    let outcome = run_engine(request, Arc::new(listener), cancel);
    progress.clear();
    Ok(tell(&outcome, job.purpose, job.report, output))
}

fn tell(outcome: &Outcome, purpose: Purpose, place: Place, output: &Output) -> u8 {
    report::report(outcome, purpose, place, None, output);
    output.summary(Summary::of_run(outcome, purpose == Purpose::Compare));
    outcome.exit_code()
}

impl RunOptions {
    fn reach(&self) -> Result<Reach, Failure> {
        self.reach.reach(self.link.over_quic())
    }

    fn reuse(&self, reading: Reading) -> Reuse {
        Reuse {
            delta: !self.no_delta && reading == Reading::WhatMayHaveChanged,
            full_scan_every: FullScanEvery {
                runs: self.full_scan_runs,
                age: Duration::from_secs(u64::from(self.full_scan_days) * 24 * 3600),
            },
            keep_base: self.keep_base,
        }
    }

    fn specs(
        &self,
        targets: Vec<Target>,
        reach: &Reach,
        io: IoEngine,
        reuse: Reuse,
        undo: UndoPolicy,
        context: &Context,
    ) -> Result<Vec<TargetSpec>, Failure> {
        targets
            .into_iter()
            .map(|target| {
                Ok(TargetSpec {
                    name: target.to_string(),
                    connect: match target {
                        Target::Local(path) => Box::new(LocalTarget(
                            self.local_options(path, io, reuse, undo, context)?,
                        )),
                        Target::Remote(remote) => Box::new(RemoteTarget {
                            remote,
                            reach: reach.clone(),
                            state_dir: context.state_dir.clone(),
                            who: who(),
                            memory: self.memory,
                            threads: self.threads.asked(),
                            priority: self.throttle.priority(),
                            uring: self.io.uring_elsewhere(),
                            job: remote::Job::Serve(reuse, undo),
                        }),
                    },
                })
            })
            .collect()
    }

    fn local_options(
        &self,
        path: PathBuf,
        io: IoEngine,
        reuse: Reuse,
        undo: UndoPolicy,
        context: &Context,
    ) -> Result<ServeOptions, Failure> {
        Ok(ServeOptions {
            path,
            state_dir: state_dir(context.state_dir.as_deref())?,
            who: who(),
            memory: self.memory,
            threads: self.threads.count(),
            priority: self.throttle.priority(),
            io,
            reuse,
            undo,
            epoch: 0,
            only_compare: false,
            image: None,
            device: None,
        })
    }
}

/// The state directory of this machine.
pub(super) fn state_dir(explicit: Option<&Path>) -> Result<PathBuf, Failure> {
    lockstep_ledger::state_dir(explicit.map(Path::to_owned)).map_err(|error| {
        Failure::new(FailureKind::Io, chain(&error)).hint("name a writable folder with --state-dir")
    })
}

fn snapshot_choice(text: &str) -> Result<SnapshotChoice, Failure> {
    match text {
        "auto" => Ok(SnapshotChoice::Auto),
        "exclusive" => Ok(SnapshotChoice::Exclusive),
        "none" => Ok(SnapshotChoice::None),
        "reflink" | "btrfs" | "lvm" | "zfs" => Ok(SnapshotChoice::Provider(text.to_owned())),
        _ => match text.strip_prefix("exec:") {
            Some(program) if !program.is_empty() => {
                Ok(SnapshotChoice::Program(PathBuf::from(program)))
            }
            _ => Err(usage(format!(
                "--snapshot `{text}` is not known; accepted are auto, reflink, btrfs, lvm, zfs, exec:PROG, exclusive and none"
            ))),
        },
    }
}

fn keep_base(text: &str) -> Result<KeepBase, String> {
    match text {
        "auto" => Ok(KeepBase::WhileThereIsRoom),
        "never" => Ok(KeepBase::Never),
        _ => units::parse_size(text)
            .map(KeepBase::AtMost)
            .map_err(|error| format!("not auto, never or a size: {error}")),
    }
}

fn memory(text: &str) -> Result<u64, String> {
    let bytes = units::parse_size(text).map_err(|error| error.to_string())?;
    if bytes < MIN_MEMORY {
        return Err(format!(
            "at least {} are needed",
            units::volume_size(MIN_MEMORY)
        ));
    }
    Ok(bytes)
}

/// A place on a disk where there is one: the tree of a large volume must not fill the memory.
fn scratch_folder() -> PathBuf {
    const ON_DISK: &str = "/var/tmp";
    match std::env::var_os("TMPDIR") {
        Some(folder) if !folder.is_empty() => PathBuf::from(folder),
        _ if Path::new(ON_DISK).is_dir() => PathBuf::from(ON_DISK),
        _ => std::env::temp_dir(),
    }
}

/// Who asks for the run, as `USER@HOST`, for the ledgers.
pub(super) fn who() -> String {
    const MAX_NAME: usize = 64;
    let variable = |name| std::env::var(name).ok().filter(|text| !text.is_empty());
    let user = variable("SUDO_USER")
        .or_else(|| variable("USER"))
        .or_else(|| variable("LOGNAME"))
        .unwrap_or_else(|| format!("uid {}", rustix::process::getuid().as_raw()));
    let system = rustix::system::uname();
    let host = system.nodename().to_string_lossy();
    let plain = |text: &str| -> String {
        text.chars()
            .filter(|c| !c.is_control())
            .take(MAX_NAME)
            .collect()
    };
    format!("{}@{}", plain(&user), plain(&host))
}

#[cfg(test)]
mod tests {
    use super::{keep_base, memory, snapshot_choice};
    use lockstep_engine::{KeepBase, SnapshotChoice};
    use lockstep_protocol::FailureKind;

    #[test]
    fn ways_to_freeze_are_told_from_mistakes() {
        assert_eq!(snapshot_choice("auto").unwrap(), SnapshotChoice::Auto);
        assert_eq!(
            snapshot_choice("exec:/bin/x").unwrap(),
            SnapshotChoice::Program("/bin/x".into())
        );
        for text in ["bogus", "", "exec:", "Reflink"] {
            let failure = snapshot_choice(text).unwrap_err();
            assert_eq!(failure.kind, FailureKind::Usage);
            assert!(failure.message.contains("auto, reflink"), "{text}");
        }
    }

    #[test]
    fn bases_are_kept_by_room_by_size_or_never() {
        assert_eq!(keep_base("auto"), Ok(KeepBase::WhileThereIsRoom));
        assert_eq!(keep_base("never"), Ok(KeepBase::Never));
        assert_eq!(keep_base("2G"), Ok(KeepBase::AtMost(2 << 30)));
        assert!(keep_base("some").is_err());
    }

    #[test]
    fn too_little_memory_is_refused() {
        assert_eq!(memory("128M"), Ok(128 << 20));
        assert!(memory("15M").is_err());
        assert!(memory("lots").is_err());
    }
}
