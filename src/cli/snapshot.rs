//! `snapshot`: what runs have left frozen, and letting it go.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use lockstep_engine::{
    ListedSnapshot, SnapshotUse, list_snapshots, release_snapshot, volumes_with_bases,
};
use lockstep_protocol::Failure;
use lockstep_snapshot::Registry;

use super::Context;
use super::request::state_dir;
use crate::events::{self, Event, Listed, Summary};
use crate::failure::usage;
use crate::units;

/// List or release the snapshots of volumes.
///
/// A source's snapshot stays after a run, and so does one of a target file, so that the next run reads
/// only what changed since. One that a killed run left is released by the next run of its volume, or
/// here.
#[derive(Args, Debug)]
pub(super) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// List the snapshots of volumes; without VOLUME, of all that have a base
    List {
        /// Volumes: block devices and image files
        #[arg(value_name = "VOLUME")]
        volumes: Vec<PathBuf>,
    },
    /// Release snapshots of a volume; the next run of it reads everything
    Release {
        /// The volume
        #[arg(value_name = "VOLUME")]
        volume: PathBuf,
        /// Only these, by name [default: all that no run reads now]
        #[arg(value_name = "NAME")]
        names: Vec<String>,
    },
}

pub(super) fn run(arguments: &Arguments, context: &Context) -> Result<u8, Failure> {
    let state_dir = state_dir(context.state_dir.as_deref())?;
    match &arguments.verb {
        Verb::List { volumes } => list(volumes, &state_dir, context)?,
        Verb::Release { volume, names } => release(volume, names, &state_dir, context)?,
    }
    context.output.summary(Summary::blank());
    Ok(0)
}

fn list(volumes: &[PathBuf], state_dir: &Path, context: &Context) -> Result<(), Failure> {
    let registry = Registry::system();
    let known = match volumes {
        [] => volumes_with_bases(state_dir)?,
        _ => Vec::new(),
    };
    for volume in &known {
        // A volume with a base may be gone by now; its base is listed when it is back.
        if !volume.exists() {
            context
                .output
                .warn(&format!("{} is not there", volume.display()));
            continue;
        }
        list_one(volume, state_dir, &registry, context)?;
    }
    volumes
        .iter()
        .try_for_each(|volume| list_one(volume, state_dir, &registry, context))
}

fn list_one(
    volume: &Path,
    state_dir: &Path,
    registry: &Registry,
    context: &Context,
) -> Result<(), Failure> {
    for listed in list_snapshots(state_dir, volume, registry)? {
        tell(&listed, context);
    }
    Ok(())
}

fn tell(listed: &ListedSnapshot, context: &Context) {
    let snapshot = &listed.snapshot;
    let output = &context.output;
    output.event(&Event::Listed(Listed {
        volume: snapshot.volume.display().to_string(),
        name: snapshot.name.to_string(),
        snapshot: snapshot.provider.clone(),
        size: snapshot.size,
        made: events::time(snapshot.made_unix_ms),
        used: listed.used.word(),
        until: None,
    }));
    let used = match listed.used {
        SnapshotUse::Run => "being read by a run",
        SnapshotUse::Base => "base of the next run",
        SnapshotUse::Nothing => "left behind",
    };
    output.result(&format!(
        "{}  {}  {}  {}  {}  {used}",
        snapshot.name,
        snapshot.provider,
        units::volume_size(snapshot.size),
        events::time(snapshot.made_unix_ms),
        snapshot.volume.display(),
    ));
}

fn release(
    volume: &Path,
    names: &[String],
    state_dir: &Path,
    context: &Context,
) -> Result<(), Failure> {
    let registry = Registry::system();
    let found = list_snapshots(state_dir, volume, &registry)?;
    let unknown: Vec<&str> = names
        .iter()
        .filter(|name| {
            !found
                .iter()
                .any(|one| one.snapshot.name.to_string() == **name)
        })
        .map(String::as_str)
        .collect();
    if !unknown.is_empty() {
        let message = format!(
            "{} has no snapshot {}",
            volume.display(),
            unknown.join(", ")
        );
        return Err(usage(message).hint("see `lockstep snapshot list VOLUME`"));
    }
    for listed in &found {
        let name = listed.snapshot.name.to_string();
        let wanted = match names {
            [] => listed.used != SnapshotUse::Run,
            names => names.contains(&name),
        };
        if wanted {
            release_snapshot(state_dir, listed, &registry)?;
            context.output.say(&format!("released {name}"));
        }
    }
    Ok(())
}
