//! What an agent goes by: the cluster file, the node's own file, and who it is.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use lockstep_cluster::file::Volume;
use lockstep_cluster::value::{AbsolutePath, Host, NodeName, VolumeName};
use lockstep_cluster::{AgentFile, ClusterFile};

/// What an agent goes by until it is told to read its files again.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// Which node this is; one of the cluster file's.
    pub node: NodeName,
    /// The cluster file.
    pub cluster: ClusterFile,
    /// The node's own settings.
    pub own: AgentFile,
    /// BLAKE3 of the cluster file's bytes, so that nodes with different ones are seen.
    pub fingerprint: String,
    /// Where the node keeps what it knows.
    pub state_dir: PathBuf,
}

impl Config {
    /// A volume and its place on this node; none if the volume is unknown, or has no place here.
    #[must_use]
    pub fn here(&self, volume: &VolumeName) -> Option<(&Volume, &AbsolutePath)> {
        let volume = self.cluster.volume(volume)?;
        Some((volume, volume.paths.get(&self.node)?))
    }
}

impl Config {
    /// The address that the agent listens on, if it is one of the machine's; ports for data are there
    /// too.
    #[must_use]
    pub fn data_address(&self) -> Option<IpAddr> {
        match self.own.listen.as_ref()?.host {
            Host::Ip(ip) if !ip.is_unspecified() => Some(ip),
            _ => None,
        }
    }
}

/// What tells one cluster file from another: its BLAKE3, in hexadecimal.
#[must_use]
pub fn fingerprint(file: &[u8]) -> String {
    blake3::hash(file).to_hex().to_string()
}

/// The configuration that counts now. What a run began with stays as it is for that run.
#[derive(Clone, Debug)]
pub struct Current(Arc<RwLock<Arc<Config>>>);

impl Current {
    /// Begins with this one.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(config))))
    }

    /// The one that counts now.
    #[must_use]
    pub fn get(&self) -> Arc<Config> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// From now on this one counts.
    pub fn set(&self, config: Config) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
    }
}
