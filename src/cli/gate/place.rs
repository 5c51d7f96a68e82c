//! What `gate` is asked about: a path, or the cluster file's volumes on this node.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use lockstep_cluster::file::Volume;
use lockstep_cluster::selection::select;
use lockstep_cluster::value::VolumeId;
use lockstep_cluster::{AgentFile, ClusterFile};
use lockstep_protocol::Failure;

use crate::cli::Context;
use crate::cluster_file;
use crate::failure::usage;

/// A volume on this machine.
pub(super) struct Place {
    pub(super) name: String,
    /// None: it has no place here that is there.
    pub(super) path: Option<PathBuf>,
    /// Of the cluster file's volumes.
    pub(super) id: Option<VolumeId>,
}

/// What the argument stands for: one path, or a name's volumes on this node.
pub(super) fn places(argument: &OsStr, context: &Context) -> Result<Vec<Place>, Failure> {
    if argument.is_empty() {
        return Err(usage("the VOLUME is empty"));
    }
    let path = Path::new(argument);
    let as_path = || Place {
        name: path.display().to_string(),
        path: Some(path.to_owned()),
        id: None,
    };
    let is_path = argument.as_encoded_bytes().contains(&b'/') || path.symlink_metadata().is_ok();
    let Some(name) = argument.to_str().filter(|_| !is_path) else {
        return Ok(vec![as_path()]);
    };
    let file = match cluster_file::locate(context.cluster.as_deref()) {
        Ok(file) => file,
        // Without a cluster there are only paths.
        Err(_) => return Ok(vec![as_path()]),
    };
    let cluster = cluster_file::read(&file, &context.output)?;
    let Ok(selection) = select(&cluster, name, &[]) else {
        return Ok(vec![as_path()]);
    };
    let node = this_node(&file, &cluster, context)?;
    (selection.volumes.iter())
        .map(|volume| place(volume, node.as_deref()))
        .collect()
}

/// Who this machine is, if anybody said so.
fn this_node(
    file: &Path,
    cluster: &ClusterFile,
    context: &Context,
) -> Result<Option<String>, Failure> {
    let name = match &context.node {
        Some(name) => Some(name.clone()),
        None => {
            let beside = file.with_file_name("agent.toml");
            match beside.try_exists().unwrap_or(true) {
                true => AgentFile::read(&beside, cluster)
                    .map_err(|error| cluster_file::failed(error, &context.output))?
                    .node
                    .map(|node| node.to_string()),
                false => None,
            }
        }
    };
    match &name {
        Some(name) if !cluster.nodes.iter().any(|node| node.name.as_str() == name) => {
            Err(usage(format!("the cluster file has no node `{name}`")))
        }
        _ => Ok(name),
    }
}

/// A volume's path on the node; without a node, its only path that is there.
fn place(volume: &Volume, node: Option<&str>) -> Result<Place, Failure> {
    let paths = || volume.paths.iter();
    let path = match node {
        Some(node) => {
            let own = paths().find(|(name, _)| name.as_str() == node);
            let (_, path) = own.ok_or_else(|| {
                usage(format!("`{}` has no path on `{node}`", volume.name))
                    .hint("see [volume.path] in the cluster file")
            })?;
            Some(path.as_path().to_owned())
        }
        None => {
            let mut there: Vec<&Path> = paths()
                .map(|(_, path)| path.as_path())
                .filter(|path| path.exists())
                .collect();
            there.sort_unstable();
            there.dedup();
            match there.as_slice() {
                [] => None,
                [one] => Some((*one).to_owned()),
                _ => {
                    let message = format!("several paths of `{}` are here", volume.name);
                    return Err(usage(message)
                        .hint("say with --node, or `node` in agent.toml, which node this is"));
                }
            }
        }
    };
    Ok(Place {
        name: volume.name.to_string(),
        path,
        id: Some(volume.id),
    })
}
