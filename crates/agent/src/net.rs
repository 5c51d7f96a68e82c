//! Calls over the network: what blocking code says and hears, carried by the control endpoint.

use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lockstep_cluster::key::PrivateKey;
use lockstep_cluster::value::{Address, NodeName};
use lockstep_cluster::{ClusterFile, file::Node};
use lockstep_protocol::{Failure, FailureKind};
use lockstep_transport::control::{Call, CallError, Connection, NodeKey, PublicKey};
use tokio::runtime::Handle;

use crate::reach::{Reach, Reached, unheard};
use crate::talk::{Talk, TalkError, say};
use crate::wire::Ask;

/// How long a node may take to answer a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// How long the other end may leave a frame untaken.
const SEND_LIMIT: Duration = Duration::from_secs(30);
/// How long a goodbye may take to leave.
const PARTING: Duration = Duration::from_millis(5);

/// A call, for a thread that blocks.
pub struct NetTalk {
    /// None once it is over.
    call: Option<Call>,
    runtime: Handle,
}

impl NetTalk {
    /// A call that the threads of this runtime carry.
    #[must_use]
    pub fn new(call: Call, runtime: Handle) -> Self {
        Self {
            call: Some(call),
            runtime,
        }
    }

    /// Ends the call in order: what was said arrives before its end.
    pub fn finish(mut self) {
        let Some(mut call) = self.call.take() else {
            return;
        };
        if call.finish().is_ok() {
            // A caller that is gone has heard enough.
            let _ = self
                .runtime
                .block_on(async { tokio::time::timeout(CONNECT_LIMIT, call.delivered()).await });
        }
    }
}

impl Talk for NetTalk {
    fn send(&mut self, frame: Bytes) -> Result<(), TalkError> {
        // Whoever does not read any more must not hold this thread.
        let call = self.call.as_mut().ok_or_else(over)?;
        let sent = async { tokio::time::timeout(SEND_LIMIT, call.send(frame)).await };
        match self.runtime.block_on(sent) {
            Ok(sent) => sent.map_err(|error| ended(&error)),
            Err(_) => Err(TalkError::Ended(format!(
                "the other end has taken nothing for {} s",
                SEND_LIMIT.as_secs()
            ))),
        }
    }

    fn recv(&mut self, limit: Duration) -> Result<Bytes, TalkError> {
        let call = self.call.as_mut().ok_or_else(over)?;
        match self.runtime.block_on(call.recv_within(limit)) {
            Ok(Some(frame)) => Ok(frame),
            Ok(None) => Err(TalkError::Ended("the other end has finished".to_owned())),
            Err(CallError::TimedOut { .. }) => Err(TalkError::Silent(limit)),
            Err(error) => Err(ended(&error)),
        }
    }
}

/// A process that ends at once would leave its connection to the other end's patience, which is
/// bounded: what says goodbye needs a moment.
impl Drop for NetTalk {
    fn drop(&mut self) {
        if self.call.take().is_some() {
            std::thread::sleep(PARTING);
        }
    }
}

fn over() -> TalkError {
    TalkError::Ended("this end has finished".to_owned())
}

fn ended(error: &CallError) -> TalkError {
    TalkError::Ended(error.to_string())
}

/// The nodes of a cluster file, by this key.
pub struct Net {
    cluster: Box<dyn Fn() -> Arc<ClusterFile> + Send + Sync>,
    key: NodeKey,
    runtime: Handle,
}

impl Net {
    /// The nodes of the file that counts when they are called.
    ///
    /// # Errors
    /// If the key cannot be used.
    pub fn new(
        cluster: impl Fn() -> Arc<ClusterFile> + Send + Sync + 'static,
        key: &PrivateKey,
        runtime: Handle,
    ) -> Result<Self, Failure> {
        Ok(Self {
            cluster: Box::new(cluster),
            key: usable(key)?,
            runtime,
        })
    }

    async fn connect(&self, node: &Node) -> Result<Connection, CallError> {
        let addresses = addresses(&node.address).map_err(|error| CallError::Unreachable {
            what: error.to_string(),
        })?;
        let peers: Vec<PublicKey> = (node.keys.iter())
            .map(|key| PublicKey(*key.as_bytes()))
            .collect();
        Connection::connect(&addresses, &self.key, &peers, CONNECT_LIMIT).await
    }

    async fn open(&self, node: &Node) -> Result<Call, CallError> {
        self.connect(node).await?.call().await
    }
}

/// A node's key as the control endpoint takes it.
///
/// # Errors
/// If it is none that TLS can use.
pub fn usable(key: &PrivateKey) -> Result<NodeKey, Failure> {
    NodeKey::from_pkcs8(&key.to_pkcs8())
        .map_err(|error| Failure::new(FailureKind::Internal, error.to_string()))
}

/// Where a node may be reached.
///
/// # Errors
/// If its name cannot be resolved.
pub fn addresses(address: &Address) -> std::io::Result<Vec<SocketAddr>> {
    let found: Vec<SocketAddr> = address.to_string().to_socket_addrs()?.collect();
    match found.is_empty() {
        true => Err(std::io::Error::other(format!("{address} has no address"))),
        false => Ok(found),
    }
}

impl Reach for Net {
    fn call(&self, name: &NodeName, ask: &Ask) -> Result<Reached, Failure> {
        let cluster = (self.cluster)();
        let node = cluster.node(name).ok_or_else(|| {
            Failure::new(
                FailureKind::Usage,
                format!("the cluster file has no node `{name}`"),
            )
        })?;
        let call = self.runtime.block_on(self.open(node));
        let call = call.map_err(|error| self.unreached(node, &error))?;
        let host = call.remote_address().ip();
        let mut talk = NetTalk::new(call, self.runtime.clone());
        say(&mut talk, ask).map_err(|error| unheard(name, &error))?;
        Ok(Reached {
            talk: Box::new(talk),
            host,
        })
    }
}

impl Net {
    fn unreached(&self, node: &Node, error: &CallError) -> Failure {
        let (name, address) = (&node.name, &node.address);
        match error {
            CallError::Refused {
                shown: Some(shown), ..
            } => {
                let shown = key(shown);
                let expected: Vec<String> = node.keys.iter().map(ToString::to_string).collect();
                let what = format!(
                    "{name} ({address}): it shows the key {shown}, and {} is expected",
                    expected.join(" or ")
                );
                Failure::new(FailureKind::Auth, what).hint(format!(
                    "if `lockstep node show` on {name} prints the first: `lockstep node trust --only {name} {shown}` on every machine"
                ))
            }
            CallError::Refused { .. } => {
                let own = key(&self.key.public());
                let what = format!("{name} ({address}): {error}: this one's is {own}");
                Failure::new(FailureKind::Auth, what).hint(format!(
                    "put {own} into the cluster file on {name}, and reload its agent"
                ))
            }
            _ => Failure::new(
                FailureKind::Temporary,
                format!("{name} ({address}): {error}"),
            )
            .hint(format!(
                "on {name}: start the agent, and let UDP to {address} through; `lockstep doctor` looks at both"
            )),
        }
    }
}

fn key(key: &PublicKey) -> lockstep_cluster::key::PublicKey {
    lockstep_cluster::key::PublicKey::from_bytes(key.0)
}
