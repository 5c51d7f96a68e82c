//! The agents of a cluster, as the command line asks them.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use lockstep_agent::net::Net;
use lockstep_agent::primary::roles;
use lockstep_agent::reach::Reach;
use lockstep_agent::talk::{TalkError, hear, say};
use lockstep_agent::wire::{Answer, Ask, Ended, RunAsk, Told, VolumeEnded};
use lockstep_cluster::ClusterFile;
use lockstep_cluster::claim::RunName;
use lockstep_cluster::key::KeyStore;
use lockstep_cluster::plan::Plan;
use lockstep_cluster::selection::{Selection, select};
use lockstep_cluster::value::{NodeName, VolumeName};
use lockstep_engine::Cancel;
use lockstep_protocol::{Failure, FailureKind};
use tokio::runtime::{Builder, Runtime};

use crate::cluster_file;
use crate::failure::{chain, usage};
use crate::output::Output;
use crate::signals::by_cause;

/// How often a wait looks whether a signal came.
const GLANCE: Duration = Duration::from_millis(200);
/// How long a primary may take to begin: probes and its health hook have their own limits.
const BEGIN_LIMIT: Duration = Duration::from_secs(120);

/// A cluster's agents, asked with the key of a state directory.
pub(crate) struct Agents {
    pub(crate) cluster: Arc<ClusterFile>,
    net: Net,
    /// Last: the calls need it to their end.
    _runtime: Runtime,
}

/// What a run says on its way.
pub(crate) trait Follower {
    /// The run has begun, or is followed from here on.
    fn begun(&mut self, head: &Answer);
    /// It says something about a volume.
    fn told(&mut self, volume: &VolumeName, told: &Told);
}

impl Agents {
    /// Reads the cluster file and the key; asks nobody yet.
    pub(crate) fn open(
        named: Option<&Path>,
        state_dir: &Path,
        output: &Output,
    ) -> Result<Agents, Failure> {
        let path = cluster_file::locate(named)?;
        let cluster = Arc::new(cluster_file::read(&path, output)?);
        let keys = KeyStore::at(state_dir)
            .open()
            .map_err(|error| usage(chain(&error)).hint(error.remedy()))?;
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .map_err(|error| Failure::new(FailureKind::Internal, format!("no threads: {error}")))?;
        let named = Arc::clone(&cluster);
        let net = Net::new(
            move || Arc::clone(&named),
            &keys.current,
            runtime.handle().clone(),
        )?;
        Ok(Agents {
            cluster,

            net,
            _runtime: runtime,
        })
    }

    pub(crate) fn reach(&self) -> &dyn Reach {
        &self.net
    }

    /// What names stand for; all unknown ones at once.
    pub(crate) fn select(&self, name: &str, nodes: &[String]) -> Result<Selection<'_>, Failure> {
        select(&self.cluster, name, nodes)
            .map_err(|unknown| usage(unknown.to_string()).hint(unknown.remedy()))
    }

    /// The primary of what a name stands for, by the file or by the nodes' probes.
    pub(crate) fn primary(&self, selection: &Selection<'_>) -> Result<NodeName, Failure> {
        let first = selection.volumes.first();
        let first = first.ok_or_else(|| usage("there is no volume"))?;
        Ok(roles(first, &self.net, None)?.primary)
    }

    /// The names of all nodes.
    pub(crate) fn nodes(&self) -> Vec<NodeName> {
        self.cluster
            .nodes
            .iter()
            .map(|node| node.name.clone())
            .collect()
    }

    /// Has the primary carry something out, and hears it to the end.
    pub(crate) fn run(
        &self,
        primary: &NodeName,
        ask: RunAsk,
        plans: &[Plan],
        follower: &mut dyn Follower,
        cancel: &Cancel,
    ) -> Result<Ended, Failure> {
        self.follow(primary, &Ask::Run(ask), plans, follower, cancel)
    }

    /// Asks for a run, or for one that is on, and hears it to the end.
    pub(crate) fn follow(
        &self,
        primary: &NodeName,
        ask: &Ask,
        plans: &[Plan],
        follower: &mut dyn Follower,
        cancel: &Cancel,
    ) -> Result<Ended, Failure> {
        let mut reached = self.net.call(primary, ask)?;
        let talk = &mut *reached.talk;
        let lost = |error: TalkError| lost(primary, &error);
        for plan in plans {
            say(talk, plan).map_err(lost)?;
        }
        let mut volumes: Vec<VolumeEnded> = Vec::new();
        loop {
            if let Some(cause) = cancel.cause() {
                return Err(by_cause(cause));
            }
            match hear::<Answer>(talk, GLANCE) {
                Err(TalkError::Silent(_)) => {}
                Err(error) => return Err(lost(error)),
                Ok(Answer::Failed(failure)) => return Err(failure.into()),
                Ok(Answer::Ended(ended)) => return Ok(Ended { volumes, ..ended }),
                Ok(Answer::VolumeEnded(ended)) if self.is_news(&ended, &volumes) => {
                    volumes.push(*ended);
                }
                Ok(Answer::Told { volume, told }) => follower.told(&volume, &told),
                Ok(head @ Answer::Run { .. }) => follower.begun(&head),
                Ok(_) => {
                    let message = format!("{primary}: its agent answered something else");
                    return Err(Failure::new(FailureKind::Internal, message)
                        .hint("install the same release of lockstep on every node"));
                }
            }
        }
    }
}

impl Agents {
    /// A volume of the cluster, and once: a peer cannot go on for ever.
    fn is_news(&self, ended: &VolumeEnded, heard: &[VolumeEnded]) -> bool {
        self.cluster.volume(&ended.volume).is_some()
            && !heard.iter().any(|earlier| earlier.volume == ended.volume)
    }

    /// Has the primary begin something, and hears no more than its name.
    pub(crate) fn begin(
        &self,
        primary: &NodeName,
        ask: RunAsk,
        plans: &[Plan],
    ) -> Result<RunName, Failure> {
        let mut reached = self.net.call(primary, &Ask::Run(ask))?;
        let talk = &mut *reached.talk;
        for plan in plans {
            say(talk, plan).map_err(|error| lost(primary, &error))?;
        }
        match hear::<Answer>(talk, BEGIN_LIMIT).map_err(|error| lost(primary, &error))? {
            Answer::Run { run, .. } => Ok(run),
            Answer::Failed(failure) => Err(failure.into()),
            _ => Err(lockstep_agent::reach::out_of_turn(primary)),
        }
    }
}

/// A run is its agent's: losing the call does not end it.
fn lost(primary: &NodeName, error: &TalkError) -> Failure {
    Failure::new(
        FailureKind::Temporary,
        format!("the agent of {primary} was lost: {error}"),
    )
    .hint("a run that was on may go on: see `lockstep status`")
}
