//! `bench disk`: how fast a volume is read, and a filesystem written.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use lockstep_bench::{Subject, folder_for_writing};
use lockstep_protocol::Failure;
use lockstep_volume::{IoEngine, probe_uring};

use super::options::Measuring;
use super::sheet::Sheet;
use super::{DEVICE_SECONDS, local};
use crate::cli::options::{IoChoice, ThreadsOption};

#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// A block device or an image file, which is only read; with --write-test also a folder
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// Also write a new file without a name in the folder, or beside the file, flush it, read it back
    /// and compare it: at most 1 GiB and a quarter of what is free, gone afterwards whatever happens
    #[arg(long)]
    write_test: bool,
    /// Which I/O engines read from the medium: auto (each that there is), uring, threads
    #[arg(
        long,
        value_enum,
        value_name = "ENGINE",
        default_value = "auto",
        env = "LOCKSTEP_IO"
    )]
    io: IoChoice,
    #[command(flatten)]
    threads: ThreadsOption,
    #[command(flatten)]
    pub(super) measuring: Measuring,
}

pub(super) fn run(arguments: &Arguments, sheet: &mut Sheet) -> Result<(), Failure> {
    let path = arguments.path.as_path();
    let limit = arguments.measuring.limit(DEVICE_SECONDS);
    let folder = match arguments.write_test {
        true => Some(folder_for_writing(path)?),
        false => None,
    };
    if !(arguments.write_test && path.is_dir()) {
        read(path, arguments, limit, sheet)?;
    }
    if let Some(folder) = folder {
        let engine = arguments.io.engine(sheet.output());
        local::write(&folder, engine, limit, sheet)?;
    }
    Ok(())
}

fn read(
    path: &Path,
    arguments: &Arguments,
    limit: Duration,
    sheet: &mut Sheet,
) -> Result<(), Failure> {
    let chosen = arguments.io.engine(sheet.output());
    let subject = Subject::open(path, chosen)?;
    sheet.is_about(subject.size());
    let scan = local::scan(&subject, path, arguments.threads.count(), limit, sheet)?;
    if scan.measured.bytes == 0 {
        sheet.note(&format!(
            "{} has no data: all of it is a hole",
            path.display()
        ));
        return Ok(());
    }
    if !subject.has_medium() {
        sheet.note(&format!(
            "{} is on a filesystem in memory: there is no medium to read from",
            path.display()
        ));
        return Ok(());
    }
    // A device that this process has already could not be held once more.
    drop(subject);
    for engine in engines(arguments.io, sheet) {
        let subject = Subject::open(path, engine)?;
        local::direct(&subject, path, engine, engine == chosen, limit, sheet)?;
    }
    Ok(())
}

/// The engines to measure; `auto` is each that there is.
fn engines(choice: IoChoice, sheet: &Sheet) -> Vec<IoEngine> {
    match choice {
        IoChoice::Threads => vec![IoEngine::Threads],
        IoChoice::Uring => vec![choice.engine(sheet.output())],
        IoChoice::Auto => match probe_uring() {
            Ok(()) => vec![IoEngine::Threads, IoEngine::Uring],
            Err(why) => {
                sheet.note(&format!("io_uring is not measured: {why}"));
                vec![IoEngine::Threads]
            }
        },
    }
}
