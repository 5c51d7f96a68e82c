//! Options that several verbs have, each written once.

use clap::{Args, ValueEnum};
use lockstep_protocol::Failure;
use lockstep_volume::{IoEngine, probe_uring};

use crate::output::Output;
use crate::remote::{OverQuic, Reach, TransportChoice};
use crate::units;

/// Most threads that hash: what the engine takes.
const MAX_THREADS: usize = 256;
/// Most data connections of one target: what the transport takes.
const MAX_CONNECTIONS: u64 = 16;

/// How other machines are commanded.
#[derive(Args, Debug)]
pub(super) struct ShellOptions {
    /// Remote shell, with its options, that starts lockstep on another machine
    #[arg(
        short = 'e',
        long,
        value_name = "CMD",
        default_value = "ssh",
        env = "LOCKSTEP_RSH"
    )]
    pub(super) rsh: String,
    /// lockstep on the far side
    #[arg(
        long,
        value_name = "PROG",
        default_value = "lockstep",
        env = "LOCKSTEP_REMOTE_PATH"
    )]
    pub(super) remote_path: String,
}

/// How other machines are reached.
#[derive(Args, Debug)]
pub(super) struct ReachOptions {
    #[command(flatten)]
    shell: ShellOptions,
    /// What goes between here and another machine: auto falls back from QUIC to the remote shell's pipe
    #[arg(
        long,
        value_enum,
        value_name = "WAY",
        default_value = "auto",
        env = "LOCKSTEP_TRANSPORT"
    )]
    transport: TransportChoice,
}

/// How data gets there.
#[derive(Args, Debug)]
pub(super) struct LinkOptions {
    /// QUIC connections that carry data to each target, 1 to 16
    #[arg(long, value_name = "N", env = "LOCKSTEP_CONNECTIONS",
          value_parser = clap::value_parser!(u64).range(1..=MAX_CONNECTIONS))]
    connections: Option<u64>,
    #[command(flatten)]
    rate: RateOption,
}

/// What the link is known to carry.
#[derive(Args, Debug)]
pub(super) struct RateOption {
    /// Bytes a second that the link to each target is known to carry, such as 25MB/s: as much is kept
    /// under way, whatever gets lost. For long or lossy links; the default shares them fairly
    #[arg(long, value_name = "RATE", env = "LOCKSTEP_RATE", value_parser = units::parse_rate)]
    pub(super) rate: Option<u64>,
}

/// How many threads hash.
#[derive(Args, Debug)]
pub(super) struct ThreadsOption {
    /// Threads that hash [default: one for each core of the machine]
    #[arg(long, value_name = "N", env = "LOCKSTEP_THREADS",
          value_parser = clap::value_parser!(u64).range(1..=MAX_THREADS as u64))]
    threads: Option<u64>,
}

/// What reads and writes.
#[derive(Args, Debug)]
pub(super) struct IoOption {
    /// How disks are read and written
    #[arg(
        long,
        value_enum,
        value_name = "ENGINE",
        default_value = "auto",
        env = "LOCKSTEP_IO"
    )]
    io: IoChoice,
}

/// `--io`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(super) enum IoChoice {
    Auto,
    Uring,
    Threads,
}

impl ReachOptions {
    pub(super) fn reach(&self, over_quic: OverQuic) -> Result<Reach, Failure> {
        let ShellOptions { rsh, remote_path } = &self.shell;
        Reach::new(rsh, remote_path, self.transport, over_quic)
    }
}

impl LinkOptions {
    pub(super) fn over_quic(&self) -> OverQuic {
        OverQuic {
            connections: (self.connections)
                .and_then(|connections| usize::try_from(connections).ok()),
            rate: self.rate.rate,
        }
    }
}

impl ThreadsOption {
    /// What was asked for; another machine has other cores.
    pub(super) fn asked(&self) -> Option<u64> {
        self.threads
    }

    /// How many on this machine.
    pub(super) fn count(&self) -> usize {
        let asked = self
            .threads
            .and_then(|threads| usize::try_from(threads).ok());
        asked.unwrap_or_else(default_threads)
    }
}

impl IoOption {
    /// Whether another machine is to use io_uring: its kernel may allow what this one forbids.
    pub(super) fn uring_elsewhere(&self) -> bool {
        self.io != IoChoice::Threads
    }

    /// As of [`IoChoice::engine`].
    pub(super) fn engine(&self, output: &Output) -> IoEngine {
        self.io.engine(output)
    }
}

impl IoChoice {
    /// The engine to use; io_uring that the kernel forbids is said, and threads do the work.
    pub(super) fn engine(self, output: &Output) -> IoEngine {
        if self == IoChoice::Threads {
            return IoEngine::Threads;
        }
        let Err(why) = probe_uring() else {
            return IoEngine::Uring;
        };
        let said = format!("io_uring cannot be used, threads do its work: {why}");
        match self {
            IoChoice::Uring => output.warn(&said),
            IoChoice::Auto | IoChoice::Threads => tracing::info!("{said}"),
        }
        IoEngine::Threads
    }
}

/// Threads where nothing is said: one for each core.
pub(super) fn default_threads() -> usize {
    std::thread::available_parallelism()
        .map_or(1, usize::from)
        .min(MAX_THREADS)
}
