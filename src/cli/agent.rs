//! `agent`: the daemon of a node.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use lockstep_agent::config::Config;
use lockstep_agent::daemon::Agent;
use lockstep_cluster::key::KeyStore;
use lockstep_cluster::value::NodeName;
use lockstep_cluster::{AgentFile, ClusterFile};
use lockstep_protocol::{Failure, FailureKind};
use sd_notify::NotifyState;
use signal_hook::consts::signal::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::Context;
use super::notifications::Notifier;
use super::request::state_dir;
use crate::cluster_file;
use crate::events::Summary;
use crate::failure::{chain, usage};

/// Run this node's agent in the foreground, logging to stderr.
///
/// SIGHUP reads the cluster file and agent.toml again. SIGTERM and SIGINT end it: runs are cancelled, and
/// services that were stopped are started where their data is consistent.
#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// This node's own settings [default: agent.toml beside the cluster file, if it is there]
    #[arg(long, value_name = "FILE", env = "LOCKSTEP_AGENT")]
    agent: Option<PathBuf>,
}

pub(super) fn run(arguments: &Arguments, context: &Context) -> Result<u8, Failure> {
    let state_dir = state_dir(context.state_dir.as_deref())?;
    let mut files = Files {
        cluster: cluster_file::locate(context.cluster.as_deref())?,
        own: arguments.agent.clone(),
        node: context.node.clone(),
        state_dir,
    };
    // Before anything is started, so that no signal is lost.
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM]).map_err(|error| {
        Failure::new(FailureKind::Internal, format!("signal handlers: {error}"))
    })?;
    let config = files.read(context)?;
    if files.own.is_none() {
        tracing::info!("there is no agent.toml beside the cluster file: the defaults count");
    }
    let keys = KeyStore::at(&files.state_dir)
        .open()
        .map_err(|error| usage(chain(&error)).hint(error.remedy()))?;
    known_key(&config, keys.current.public())?;
    let notifier = Notifier::start(&config, &files.state_dir)?;
    let node = config.node.clone();
    let agent = Agent::start(config, &keys.current, Box::new(notifier.clone()))?;
    tracing::info!(%node, address = %agent.address(), "the agent is ready");
    context
        .output
        .say(&format!("{node} listens at {}", agent.address()));
    tell_service_manager(&[NotifyState::Ready]);
    let watchdog = sd_notify::watchdog_enabled();
    loop {
        for signal in signals.pending() {
            if signal == SIGHUP {
                reload(&mut files, &agent, &notifier, context);
            } else {
                tell_service_manager(&[NotifyState::Stopping]);
                tracing::info!(signal, "the agent ends");
                agent.stop();
                context.output.summary(Summary::blank());
                return Ok(0);
            }
        }
        if agent.is_alive() && watchdog.is_some() {
            tell_service_manager(&[NotifyState::Watchdog]);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Files with mistakes change nothing.
fn reload(files: &mut Files, agent: &Agent, notifier: &Notifier, context: &Context) {
    tell_service_manager(&[NotifyState::Reloading]);
    match files.read(context) {
        Ok(config) => {
            notifier.reload(&config);
            agent.reload(config);
            tracing::info!("the cluster file was read again");
        }
        Err(failure) => tracing::error!("the files that counted before go on to count: {failure}"),
    }
    tell_service_manager(&[NotifyState::Ready]);
}

fn tell_service_manager(states: &[NotifyState<'_>]) {
    // Without a service manager there is nobody to tell.
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!("the service manager cannot be told: {error}");
    }
}

/// Where an agent's configuration comes from.
struct Files {
    cluster: PathBuf,
    /// Once it was there, an agent never goes on without it: what it forbids would be allowed.
    own: Option<PathBuf>,
    node: Option<String>,
    state_dir: PathBuf,
}

impl Files {
    fn read(&mut self, context: &Context) -> Result<Config, Failure> {
        let output = &context.output;
        let cluster = cluster_file::read(&self.cluster, output)?;
        let own = match self.own_file() {
            Some(path) => AgentFile::read(&path, &cluster)
                .map_err(|error| cluster_file::failed(error, output))?,
            None => AgentFile::default(),
        };
        Ok(Config {
            node: self.node(&cluster, &own)?,
            fingerprint: fingerprint(&self.cluster)?,
            cluster,
            own,
            state_dir: self.state_dir.clone(),
        })
    }

    fn own_file(&mut self) -> Option<PathBuf> {
        if self.own.is_none() {
            let beside = self.cluster.with_file_name("agent.toml");
            self.own = beside.try_exists().unwrap_or(true).then_some(beside);
        }
        self.own.clone()
    }

    fn node(&self, cluster: &ClusterFile, own: &AgentFile) -> Result<NodeName, Failure> {
        let known: Vec<&str> = cluster
            .nodes
            .iter()
            .map(|node| node.name.as_str())
            .collect();
        let named = match (&self.node, &own.node) {
            (Some(text), Some(own)) if text != own.as_str() => {
                return Err(
                    usage(format!("--node says `{text}`, and agent.toml says `{own}`"))
                        .hint("leave one of the two away"),
                );
            }
            (Some(text), _) => text.as_str(),
            (None, Some(own)) => own.as_str(),
            (None, None) => {
                return Err(usage("which node this is has not been said").hint(format!(
                    "give --node NAME, or `node` in agent.toml; there are {}",
                    known.join(", ")
                )));
            }
        };
        let found = cluster
            .nodes
            .iter()
            .find(|node| node.name.as_str() == named);
        found.map(|node| node.name.clone()).ok_or_else(|| {
            usage(format!("the cluster file has no node `{named}`"))
                .hint(format!("there are {}", known.join(", ")))
        })
    }
}

/// What is read is hashed as it lies there: a comment more is another file.
fn fingerprint(path: &Path) -> Result<String, Failure> {
    let bytes = std::fs::read(path)
        .map_err(|error| usage(format!("cannot read {}: {error}", path.display())))?;
    Ok(lockstep_agent::config::fingerprint(&bytes))
}

/// An agent whose key nobody knows would only be refused.
fn known_key(config: &Config, key: lockstep_cluster::key::PublicKey) -> Result<(), Failure> {
    let node = config.cluster.node(&config.node);
    match node.is_some_and(|node| node.keys.accept(&key)) {
        true => Ok(()),
        false => Err(Failure::new(
            FailureKind::Auth,
            format!("the cluster file has another key for `{}` than {}", config.node, config.state_dir.display()),
        )
        .hint(format!(
            "this one is {key}: put it into the cluster file on every node, or name the right --state-dir"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::Files;
    use lockstep_cluster::{AgentFile, ClusterFile};

    #[test]
    fn an_agent_does_not_forget_its_own_file() {
        let folder = tempfile::tempdir().unwrap();
        let (cluster, own) = (
            folder.path().join("cluster.toml"),
            folder.path().join("agent.toml"),
        );
        std::fs::write(&cluster, include_str!("../../docs/cluster.toml")).unwrap();
        let mut files = Files {
            cluster: cluster.clone(),
            own: None,
            node: None,
            state_dir: folder.path().join("state"),
        };
        assert_eq!(files.own_file(), None);
        std::fs::write(&own, "format = 1\n").unwrap();
        assert_eq!(files.own_file(), Some(own.clone()));
        std::fs::remove_file(&own).unwrap();
        let gone = files.own_file().unwrap();
        let cluster = ClusterFile::read(&cluster).unwrap();
        assert!(AgentFile::read(&gone, &cluster).is_err());
    }
}
