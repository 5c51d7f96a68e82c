//! Whether a node is fit for its part, as `doctor` asks it: what runs would fail on.

use std::path::Path;

use lockstep_cluster::file::{Moment, Volume};
use lockstep_cluster::value::AbsolutePath;
use lockstep_volume::identify;

use crate::config::Config;
use crate::wire::{Checkup, Finding, NodeStatus, Words};

/// Less than this left beside a state directory and ledgers cannot be written.
const LEAST_FREE_BYTES: u64 = 64 << 20;

/// Looks at everything that a run on this node needs; changes nothing.
pub(crate) fn checkup(config: &Config, status: NodeStatus) -> Checkup {
    let mut findings = state_dir(&config.state_dir);
    for volume in &config.cluster.volumes {
        let Some(path) = volume.paths.get(&config.node) else {
            continue;
        };
        findings.extend(device(config, volume, path));
        findings.extend(hooks(config, volume));
        let view = status.volumes.get(&volume.name);
        if view.is_some_and(|view| view.is_stopped) {
            findings.push(Finding {
                is_fatal: false,
                volume: Some(volume.name.clone()),
                what: Words::new("its services were stopped by a run and are down still"),
                fix: Words::new(&format!("lockstep resync {}", volume.name)),
            });
        }
    }
    Checkup { status, findings }
}

fn state_dir(dir: &Path) -> Vec<Finding> {
    let finding = |is_fatal, what: String, fix: &str| Finding {
        is_fatal,
        volume: None,
        what: Words::new(&what),
        fix: Words::new(fix),
    };
    match rustix::fs::statvfs(dir) {
        Err(error) => vec![finding(
            true,
            format!(
                "the state directory {} cannot be used: {error}",
                dir.display()
            ),
            "make it, or name another one with --state-dir",
        )],
        Ok(stat) => {
            let free = stat.f_bavail.saturating_mul(stat.f_frsize);
            match free < LEAST_FREE_BYTES {
                true => vec![finding(
                    true,
                    format!("only {free} bytes are free at {}", dir.display()),
                    "make room there: the ledger has to be written before any volume is",
                )],
                false => Vec::new(),
            }
        }
    }
}

fn device(config: &Config, volume: &Volume, path: &AbsolutePath) -> Option<Finding> {
    let finding = |is_fatal, what: String, fix: &str| Finding {
        is_fatal,
        volume: Some(volume.name.clone()),
        what: Words::new(&what),
        fix: Words::new(fix),
    };
    let is_primary = matches!(&volume.primary, lockstep_cluster::file::Primary::Node(node) if *node == config.node);
    match identify(path.as_path()) {
        Ok(_) => None,
        Err(_) if !is_primary && !path.as_path().exists() => {
            let folder = path.as_path().parent().filter(|folder| !folder.is_dir())?;
            Some(finding(
                true,
                format!("the folder {} is missing", folder.display()),
                "make the folder, or correct [volume.path] in the cluster file",
            ))
        }
        Err(error) => Some(finding(
            true,
            format!("{} cannot be used: {error}", path.as_str()),
            "correct [volume.path] in the cluster file, or make the volume",
        )),
    }
}

fn hooks(config: &Config, volume: &Volume) -> Vec<Finding> {
    let missing = |moment: Moment| {
        let argv = volume.hooks.at(moment)?;
        let is_there = match Path::new(argv.program()) {
            program if argv.program().contains('/') => program.exists(),
            program => on_path(program),
        };
        (!is_there).then(|| Finding {
            is_fatal: true,
            volume: Some(volume.name.clone()),
            what: Words::new(&format!(
                "the `{}` hook's program {} is missing on `{}`",
                moment.word(),
                argv.program(),
                config.node
            )),
            fix: Words::new("install it there, or correct [volume.hooks] in the cluster file"),
        })
    };
    Moment::ALL.into_iter().filter_map(missing).collect()
}

fn on_path(program: &Path) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}
