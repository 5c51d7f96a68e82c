//! `bench`: how fast each stage is here, or with another machine, and what a resync would take.

mod all;
mod disk;
mod host;
mod local;
mod net;
mod options;
mod sheet;

use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use lockstep_bench::HashKind;
use lockstep_protocol::Failure;

use self::options::Measuring;
use self::sheet::Sheet;
use super::Context;
use super::options::ThreadsOption;
use crate::signals::{self, Reaction};

/// Measure each stage of a run, here or with another machine, name the bottleneck and predict a resync.
///
/// Nothing that exists is written: disks are read, and only --write-test writes, to a new file without
/// a name.
#[derive(Args, Debug)]
pub(super) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Hashing, page digests and the zero test, in memory, by the number of threads
    Hash(HashArguments),
    /// Reading a volume: through the page cache as scans do, and from the medium by each I/O engine
    Disk(disk::Arguments),
    /// Moving memory to and from another machine, over the connections that runs use
    Net(net::Arguments),
    /// Every stage, then the time of a full and of a differential resync and what holds it back
    All(all::Arguments),
}

#[derive(Args, Debug)]
struct HashArguments {
    #[command(flatten)]
    threads: ThreadsOption,
    #[command(flatten)]
    measuring: Measuring,
}

/// How long one measurement takes where nothing is said: memory, and what waits for something.
const MEMORY_SECONDS: Duration = Duration::from_secs(1);
const DEVICE_SECONDS: Duration = Duration::from_secs(3);

pub(super) fn run(arguments: &Arguments, context: &Context) -> Result<u8, Failure> {
    let output = &context.output;
    // What a write test makes has no name: however this ends, nothing stays.
    signals::watch(Reaction::Exit, Arc::clone(output), || {})?;
    let started = Instant::now();
    let measuring = match &arguments.verb {
        Verb::Hash(arguments) => &arguments.measuring,
        Verb::Disk(arguments) => &arguments.measuring,
        Verb::Net(arguments) => &arguments.measuring,
        Verb::All(arguments) => &arguments.measuring,
    };
    measuring.check_plot()?;
    let mut sheet = Sheet::new(Arc::clone(output));
    match &arguments.verb {
        Verb::Hash(arguments) => hash(arguments, &mut sheet),
        Verb::Disk(arguments) => disk::run(arguments, &mut sheet)?,
        Verb::Net(arguments) => net::run(arguments, context, &mut sheet)?,
        Verb::All(arguments) => all::run(arguments, context, &mut sheet)?,
    }
    measuring.plot(&sheet)?;
    output.summary(sheet.summary(started.elapsed()));
    Ok(0)
}

/// What scans do by every number of threads, the rest by one and by all.
fn hash(arguments: &HashArguments, sheet: &mut Sheet) {
    let (most, limit) = (
        arguments.threads.count(),
        arguments.measuring.limit(MEMORY_SECONDS),
    );
    for threads in lockstep_bench::thread_counts(most) {
        local::hash(HashKind::Pages, threads, limit, sheet);
    }
    let mut few = vec![1, most];
    few.dedup();
    for kind in [HashKind::Groups, HashKind::Digests, HashKind::Zeros] {
        for threads in &few {
            local::hash(kind, *threads, limit, sheet);
        }
    }
}
