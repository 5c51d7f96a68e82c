//! Who may do what here: everything that is not allowed is refused.

use lockstep_cluster::file::{Primary, Volume};
use lockstep_cluster::roles::Role;
use lockstep_cluster::value::{AbsolutePath, NodeName, VolumeId, VolumeName};
use lockstep_protocol::{Failure, FailureKind};

use crate::config::Config;

/// The volume and its place here, if a caller may read it: a node that can be its primary.
///
/// # Errors
/// 5 if the caller has no right, whatever else is wrong; 2 and 7 if the cluster files do not agree.
pub(super) fn may_read<'a>(
    config: &'a Config,
    caller: &NodeName,
    volume: &VolumeName,
    id: VolumeId,
) -> Result<(&'a Volume, &'a AbsolutePath), Failure> {
    let refused = |why: String| {
        Failure::new(FailureKind::Auth, why)
            .hint("compare the cluster files of both nodes: only a volume's primary may ask this")
    };
    if config.cluster.node(caller).is_none() || *caller == config.node {
        let why = format!("`{caller}` has no rights on `{}`", config.node);
        return Err(refused(why));
    }
    let Some(found) = config.cluster.volume(volume) else {
        let why = format!(
            "`{}` knows no volume `{volume}` of which `{caller}` is primary",
            config.node
        );
        return Err(refused(why));
    };
    let may = match &found.primary {
        Primary::Node(primary) => primary == caller,
        Primary::Probe(_) => found.paths.contains_key(caller),
    };
    if !may {
        let why = format!("`{caller}` is not the primary of `{volume}`");
        return Err(refused(why));
    }
    if found.id != id {
        return Err(guard(
            format!("`{volume}` has the id {} here, not {id}", found.id),
            "lay the same cluster file on both nodes",
        ));
    }
    let Some(path) = found.paths.get(&config.node) else {
        return Err(guard(
            format!("`{volume}` has no path on `{}`", config.node),
            "add the path to [volume.path]",
        ));
    };
    Ok((found, path))
}

/// The same, if the caller may also overwrite it.
///
/// # Errors
/// As [`may_read`]; 7 if this node is no replica, or its own file forbids it.
pub(super) fn may_write<'a>(
    config: &'a Config,
    caller: &NodeName,
    volume: &VolumeName,
    id: VolumeId,
) -> Result<(&'a Volume, &'a AbsolutePath), Failure> {
    let (found, path) = may_read(config, caller, volume, id)?;
    if !found.replicas.contains(&config.node) {
        return Err(guard(
            format!("`{}` is no replica of `{volume}`", config.node),
            "name it in `replicas` of the cluster file if it may be overwritten",
        ));
    }
    if !config.own.lets_overwrite(volume, caller) {
        return Err(guard(
            format!(
                "agent.toml of `{}` does not let `{caller}` overwrite `{volume}`",
                config.node
            ),
            "see `allow_overwrite` and `sources` there; nobody else's word counts",
        ));
    }
    if static_role(config, found) == Some(Role::Primary) {
        return Err(guard(
            format!("`{}` is the primary of `{volume}`", config.node),
            "a primary is never overwritten",
        ));
    }
    Ok((found, path))
}

/// This node's role, where the file says it.
pub(super) fn static_role(config: &Config, volume: &Volume) -> Option<Role> {
    match &volume.primary {
        Primary::Node(primary) if *primary == config.node => Some(Role::Primary),
        Primary::Node(_) => Some(Role::Replica),
        Primary::Probe(_) => None,
    }
}

pub(super) fn guard(message: impl Into<String>, hint: &str) -> Failure {
    Failure::new(FailureKind::Guard, message.into()).hint(hint)
}
