//! The other machine of a measurement: how it is named, and how it is reached.

use std::ffi::{OsStr, OsString};

use clap::Args;
use lockstep_bench::Far;
use lockstep_cluster::ClusterFile;
use lockstep_cluster::value::NodeName;
use lockstep_protocol::Failure;
use lockstep_transport::remote::Lifeline;

use super::sheet::Sheet;
use crate::cli::Context;
use crate::cli::options::{LinkOptions, ReachOptions};
use crate::cluster_file;
use crate::failure::usage;
use crate::target::Target;

// How another machine is reached; as of `sync`.
#[derive(Args, Debug)]
pub(super) struct HostOptions {
    #[command(flatten)]
    reach: ReachOptions,
    #[command(flatten)]
    link: LinkOptions,
}

/// The other machine, measuring with this one as long as this lives.
pub(super) struct Host {
    pub(super) name: String,
    pub(super) far: Far,
    _lifeline: Lifeline,
}

/// Where a machine is, for the remote shell.
pub(super) struct Address {
    name: String,
    login: String,
    host: String,
}

impl HostOptions {
    /// Starts the far side.
    pub(super) fn host(&self, address: Address, sheet: &Sheet) -> Result<Host, Failure> {
        let reach = self.reach.reach(self.link.over_quic())?;
        let dialed = reach.measuring(&address.login, &address.host)?;
        if let Some(warning) = &dialed.warning {
            sheet.note(warning);
        }
        Ok(Host {
            name: address.name,
            far: Far::new(dialed.link),
            _lifeline: dialed.child,
        })
    }
}

impl Host {
    /// Lets the other machine go.
    pub(super) fn leave(self) {
        self.far.leave();
    }
}

impl Address {
    /// A host of a target.
    pub(super) fn of(remote: &crate::target::Remote) -> Address {
        Address {
            name: remote.host.clone(),
            login: remote.login(),
            host: remote.host.clone(),
        }
    }

    /// A node of the cluster file, by its `ssh`, or else `[USER@]HOST`.
    pub(super) fn parse(text: &str, context: &Context) -> Result<Address, Failure> {
        if let Some(address) = node(text, context)? {
            return Ok(address);
        }
        let no_host = || {
            usage(format!(
                "`{text}` is no host: write [USER@]HOST, without a path"
            ))
            .hint("`lockstep bench all SOURCE HOST:PATH` measures with a path")
        };
        if text.is_empty() || text.contains('/') {
            return Err(no_host());
        }
        if let Ok(Target::Remote(_)) = Target::parse(OsStr::new(text)) {
            return Err(no_host());
        }
        let mut with_path = OsString::from(text);
        with_path.push(":.");
        match Target::parse(&with_path) {
            Ok(Target::Remote(remote)) => Ok(Address::of(&remote)),
            _ => Err(no_host()),
        }
    }
}

/// The node of this name, if there is a cluster file that has it. Its agent is not asked: what carries
/// a measurement is a remote shell.
fn node(text: &str, context: &Context) -> Result<Option<Address>, Failure> {
    let Ok(name) = text.parse::<NodeName>() else {
        return Ok(None);
    };
    let path = match cluster_file::locate(context.cluster.as_deref()) {
        Ok(path) => path,
        Err(_) => return Ok(None),
    };
    let cluster = match context.cluster {
        Some(_) => cluster_file::read(&path, &context.output)?,
        // One that nobody named need not be good: the host may be no node.
        None => match ClusterFile::read(&path) {
            Ok(cluster) => cluster,
            Err(_) => return Ok(None),
        },
    };
    let Some(node) = cluster.node(&name) else {
        return Ok(None);
    };
    let Some(ssh) = &node.ssh else {
        return Err(usage(format!(
            "node {name} has no `ssh` in {}, by which bench reaches it",
            path.display()
        ))
        .hint("add `ssh = \"USER@HOST\"` to the node, or name the host itself"));
    };
    let login = ssh.as_str().to_owned();
    let host = match login.rsplit_once('@') {
        Some((_, host)) => host.to_owned(),
        None => login.clone(),
    };
    context
        .output
        .say(&format!("node {name} is reached by ssh, as {login}"));
    Ok(Some(Address {
        name: text.to_owned(),
        login,
        host,
    }))
}
