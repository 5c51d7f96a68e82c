//! Whether a node is fit for its part, as `doctor` asks it: what runs would fail on.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use lockstep_cluster::file::{Moment, Primary, Volume};
use lockstep_cluster::roles::Role;
use lockstep_cluster::value::{AbsolutePath, NodeName};
use lockstep_protocol::{Failure, FailureKind};
use lockstep_transport::quic::route_mtu;
use lockstep_volume::{VolumeKind, identify};

use crate::config::Config;
use crate::echo;
use crate::primary::own_role;
use crate::reach::{Reach, out_of_turn, unheard};
use crate::talk::hear;
use crate::wire::{
    Answer, Ask, Check, Checkup, Finding, NodeStatus, PeerSeen, PlaceKind, PlaceSeen, RoleWord,
    WireFailure, Words,
};

/// Less than this left beside a state directory and ledgers cannot be written.
const LEAST_FREE_BYTES: u64 = 64 << 20;
/// How long another node may take to answer once it is reached.
const PEER_LIMIT: Duration = Duration::from_secs(5);
/// Looks at everything that a run on this node needs, and calls the others; changes nothing.
pub(crate) fn checkup(config: &Config, status: NodeStatus, reach: &dyn Reach) -> Checkup {
    let state_dir_free = free_at(&config.state_dir);
    let mut findings: Vec<Finding> = state_dir(config).into_iter().collect();
    let mut places = BTreeMap::new();
    for volume in &config.cluster.volumes {
        let Some(path) = volume.paths.get(&config.node) else {
            continue;
        };
        let role = role(config, volume);
        if let Err(why) = &role {
            findings.push(Finding {
                check: Check::Role,
                is_fatal: true,
                volume: Some(volume.name.clone()),
                what: Words::new(&format!("its role probe says no role: {why}")),
                fix: Words::new("run the `probe` of the cluster file by hand: it has to print `primary` or `replica`"),
            });
        }
        let seen = seen(config, volume, path, role.ok());
        findings.extend(device(volume, path, &seen));
        findings.extend(hooks(volume, seen.role));
        places.insert(volume.name.clone(), seen);
        let view = status.volumes.get(&volume.name);
        if view.is_some_and(|view| view.is_stopped && view.run.is_none()) {
            findings.push(Finding {
                check: Check::Services,
                is_fatal: false,
                volume: Some(volume.name.clone()),
                what: Words::new("its services were stopped by a run and are down still"),
                fix: Words::new(&format!("lockstep resync {}", volume.name)),
            });
        }
    }
    let checkup = Checkup {
        status,
        findings,
        findings_left_out: 0,
        places,
        state_dir_free,
        peers: peers(config, reach),
    };
    checkup.fitted()
}

fn state_dir(config: &Config) -> Option<Finding> {
    let dir = config.state_dir.display();
    let finding = |check, what: String, fix: &str| Finding {
        check,
        is_fatal: true,
        volume: None,
        what: Words::new(&what),
        fix: Words::new(fix),
    };
    match free_at(&config.state_dir) {
        None => Some(finding(
            Check::StateDir,
            format!("the state directory {dir} cannot be used"),
            "make it, or name another one with --state-dir",
        )),
        Some(free) if free < LEAST_FREE_BYTES => Some(finding(
            Check::Space,
            format!("only {free} bytes are free at {dir}"),
            "make room there: the ledger has to be written before any volume is",
        )),
        Some(_) => None,
    }
}

fn free_at(folder: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(folder).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// The node's role now; asks the probe where there is one.
fn role(config: &Config, volume: &Volume) -> Result<RoleWord, String> {
    let word = |role| match role {
        Role::Primary => RoleWord::Primary,
        Role::Replica => RoleWord::Replica,
    };
    match (own_role(config, volume), &volume.primary) {
        (Some(asked), _) => asked.map(word),
        (None, Primary::Node(primary)) if *primary == config.node => Ok(RoleWord::Primary),
        (None, _) => Ok(RoleWord::Replica),
    }
}

fn seen(
    config: &Config,
    volume: &Volume,
    path: &AbsolutePath,
    role: Option<RoleWord>,
) -> PlaceSeen {
    let place = path.as_path();
    let (kind, size) = match identify(place) {
        Ok(found) if found.kind == VolumeKind::BlockDevice => (PlaceKind::Device, found.size),
        Ok(found) => (PlaceKind::File, found.size),
        Err(_) if place.symlink_metadata().is_err() => (PlaceKind::Missing, 0),
        Err(_) => (PlaceKind::Unfit, 0),
    };
    let is_or_becomes_file = matches!(kind, PlaceKind::File | PlaceKind::Missing);
    let allowed = |node: &&NodeName| config.own.lets_overwrite(&volume.name, node);
    PlaceSeen {
        kind,
        size,
        allocated: match (kind, place.metadata()) {
            (PlaceKind::File, Ok(metadata)) => metadata.blocks().saturating_mul(512),
            _ => 0,
        },
        free: place
            .parent()
            .filter(|_| is_or_becomes_file)
            .and_then(free_at),
        role,
        may_be_overwritten: match &volume.primary {
            Primary::Node(primary) => config.own.lets_overwrite(&volume.name, primary),
            Primary::Probe(_) => (volume.paths.keys())
                .filter(|node| **node != config.node)
                .any(|node| allowed(&node)),
        },
    }
}

fn device(volume: &Volume, path: &AbsolutePath, seen: &PlaceSeen) -> Option<Finding> {
    let finding = |what: String, fix: &str| Finding {
        check: Check::Device,
        is_fatal: true,
        volume: Some(volume.name.clone()),
        what: Words::new(&what),
        fix: Words::new(fix),
    };
    match seen.kind {
        PlaceKind::File | PlaceKind::Device => None,
        PlaceKind::Missing if seen.role == Some(RoleWord::Replica) => {
            let folder = path.as_path().parent().filter(|folder| !folder.is_dir())?;
            Some(finding(
                format!("the folder {} is missing", folder.display()),
                "make the folder, or correct [volume.path] in the cluster file",
            ))
        }
        PlaceKind::Missing => Some(finding(
            format!("{} does not exist", path.as_str()),
            "make the volume, or correct [volume.path] in the cluster file",
        )),
        PlaceKind::Unfit => Some(finding(
            match identify(path.as_path()) {
                Err(error) => error.to_string(),
                Ok(_) => format!("{} cannot be used", path.as_str()),
            },
            "let [volume.path] in the cluster file name a block device or a regular file",
        )),
    }
}

/// Whether a hook is run on a node of this role; on one whose role cannot be said, any may be.
fn concerns(moment: Moment, role: Option<RoleWord>) -> bool {
    let of = match moment {
        Moment::Health | Moment::Freeze | Moment::Thaw => RoleWord::Primary,
        Moment::Stop | Moment::Configure | Moment::Start | Moment::Check => RoleWord::Replica,
    };
    role.is_none_or(|role| role == of)
}

fn hooks(volume: &Volume, role: Option<RoleWord>) -> Vec<Finding> {
    let missing = |moment: Moment| {
        let program = volume.hooks.at(moment)?.program();
        let is_there = match program.contains('/') {
            true => can_be_run(Path::new(program)),
            false => on_path(program),
        };
        (!is_there).then(|| Finding {
            check: Check::Hook,
            is_fatal: true,
            volume: Some(volume.name.clone()),
            what: Words::new(&format!(
                "the `{}` hook's program {program} is missing, or cannot be executed",
                moment.word(),
            )),
            fix: Words::new("install it there, or correct [volume.hooks] in the cluster file"),
        })
    };
    let moments = Moment::ALL.into_iter();
    moments
        .filter(|moment| concerns(*moment, role))
        .filter_map(missing)
        .collect()
}

fn can_be_run(program: &Path) -> bool {
    let metadata = program.metadata();
    metadata.is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| can_be_run(&folder.join(program)))
}

/// Calls every other node, all at once.
fn peers(config: &Config, reach: &dyn Reach) -> BTreeMap<NodeName, PeerSeen> {
    let others = || {
        let nodes = config.cluster.nodes.iter().map(|node| &node.name);
        nodes.filter(|name| **name != config.node)
    };
    std::thread::scope(|scope| {
        let calls: Vec<_> = others()
            .map(|name| {
                let call = move || peer(config, reach, name);
                let thread = std::thread::Builder::new().spawn_scoped(scope, call);
                (name, thread)
            })
            .collect();
        calls
            .into_iter()
            .map(|(name, thread)| {
                let seen = thread.ok().and_then(|thread| thread.join().ok());
                let lost = || {
                    let what = "it could not be called: no thread";
                    let failure = Failure::new(FailureKind::Internal, what);
                    PeerSeen {
                        failure: Some(WireFailure::from(&failure)),
                        mtu: None,
                        data_port: None,
                    }
                };
                (name.clone(), seen.unwrap_or_else(lost))
            })
            .collect()
    })
}

fn peer(config: &Config, reach: &dyn Reach, name: &NodeName) -> PeerSeen {
    let mut seen = PeerSeen {
        failure: None,
        mtu: None,
        data_port: None,
    };
    let asked = reach.call(name, &Ask::Status).and_then(|mut reached| {
        match hear::<Answer>(&mut *reached.talk, PEER_LIMIT) {
            Ok(Answer::Status(_)) => Ok(reached.host),
            Ok(Answer::Failed(failure)) => Err(failure.into()),
            Ok(_) => Err(out_of_turn(name)),
            Err(error) => Err(unheard(name, &error)),
        }
    });
    match asked {
        Ok(host) => seen.mtu = route_mtu(host).ok(),
        Err(failure) => {
            seen.failure = Some(WireFailure::from(&failure));
            return seen;
        }
    }
    if ships_to(config, name) {
        // What cannot be tried is not known to be closed.
        seen.data_port = echo::is_reached(reach, name).ok();
    }
    seen
}

/// Whether this node can be the primary of a volume that the other has a replica of.
fn ships_to(config: &Config, other: &NodeName) -> bool {
    config.cluster.volumes.iter().any(|volume| {
        let can_lead = match &volume.primary {
            Primary::Node(primary) => *primary == config.node,
            Primary::Probe(_) => volume.paths.contains_key(&config.node),
        };
        can_lead && volume.replicas.contains(other)
    })
}

#[cfg(test)]
mod tests {
    use super::{can_be_run, concerns, on_path};
    use crate::wire::RoleWord;
    use lockstep_cluster::file::Moment;
    use std::path::Path;

    #[test]
    fn hooks_concern_the_nodes_that_run_them() {
        let primary = Some(RoleWord::Primary);
        assert!(concerns(Moment::Health, primary) && !concerns(Moment::Stop, primary));
        let replica = Some(RoleWord::Replica);
        assert!(concerns(Moment::Stop, replica) && !concerns(Moment::Freeze, replica));
        assert!(Moment::ALL.into_iter().all(|moment| concerns(moment, None)));
    }

    #[test]
    fn a_program_is_a_file_that_can_be_executed() {
        assert!(on_path("sh") && !on_path("no-such-program-anywhere"));
        assert!(can_be_run(Path::new("/bin/sh")));
        assert!(!can_be_run(Path::new("/etc/passwd")) && !can_be_run(Path::new("/etc")));
    }
}
