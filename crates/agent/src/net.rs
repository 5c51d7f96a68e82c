//! Calls over the network: what blocking code says and hears, carried by the control endpoint.

use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lockstep_cluster::claim::RunName;
use lockstep_cluster::key::PrivateKey;
use lockstep_cluster::value::{Address, NodeName};
use lockstep_cluster::{ClusterFile, file::Node};
use lockstep_protocol::{Failure, FailureKind};
use lockstep_transport::control::{Call, CallError, Connection, NodeKey, PublicKey};
use tokio::runtime::Handle;

use crate::lines::{Lines, Place};
use crate::reach::{Reach, Reached, unheard};
use crate::talk::{Talk, TalkError, say};
use crate::wire::Ask;

/// How long a node may take to answer a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// How long the other end may leave a frame untaken.
const SEND_LIMIT: Duration = Duration::from_secs(30);
/// A call, for a thread that blocks.
pub struct NetTalk {
    /// None once it is over.
    call: Option<Call>,
    runtime: Handle,
    /// After the call: the last one on a connection ends it. None if the other end called.
    _place: Option<Place>,
}

impl NetTalk {
    /// A call that the threads of this runtime carry.
    #[must_use]
    pub fn new(call: Call, runtime: Handle) -> Self {
        Self {
            call: Some(call),
            runtime,
            _place: None,
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
    lines: Lines,
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
            lines: Lines::new(runtime.clone()),
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

    /// A call, on a connection of the run's if there is one with room.
    async fn open(&self, node: &Node, run: Option<&RunName>) -> Result<(Call, Place), CallError> {
        let peers = |key: PublicKey| node.keys.iter().any(|it| *it.as_bytes() == key.0);
        let place = run.and_then(|run| self.lines.place(run, &node.name, peers));
        let place = match place {
            Some(place) => place,
            None => {
                let connection = self.connect(node).await?;
                self.lines.begin(connection, run, &node.name)
            }
        };
        let begun = tokio::time::timeout(CONNECT_LIMIT, place.call()).await;
        let late = CallError::TimedOut {
            waited: CONNECT_LIMIT,
        };
        Ok((begun.unwrap_or(Err(late))?, place))
    }

    fn reached(
        &self,
        name: &NodeName,
        ask: &Ask,
        run: Option<&RunName>,
    ) -> Result<Reached, Failure> {
        let cluster = (self.cluster)();
        let node = cluster.node(name).ok_or_else(|| {
            Failure::new(
                FailureKind::Usage,
                format!("the cluster file has no node `{name}`"),
            )
        })?;
        let opened = self.runtime.block_on(self.open(node, run));
        let (call, place) = opened.map_err(|error| self.unreached(node, &error))?;
        let host = call.remote_address().ip();
        let mut talk = NetTalk {
            _place: Some(place),
            ..NetTalk::new(call, self.runtime.clone())
        };
        say(&mut talk, ask).map_err(|error| unheard(name, &error))?;
        Ok(Reached {
            talk: Box::new(talk),
            host,
        })
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
        self.reached(name, ask, None)
    }

    fn call_in(&self, run: &RunName, name: &NodeName, ask: &Ask) -> Result<Reached, Failure> {
        self.reached(name, ask, Some(run))
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

#[cfg(test)]
mod tests {
    use super::{Net, usable};
    use crate::reach::Reach;
    use crate::wire::Ask;
    use lockstep_cluster::ClusterFile;
    use lockstep_cluster::key::PrivateKey;
    use lockstep_transport::control::{
        CALLS_PER_CONNECTION, CONNECTIONS_PER_KEY, PublicKey, Server, Trust,
    };
    use std::collections::BTreeSet;
    use std::path::Path;
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    struct Everybody;

    impl Trust for Everybody {
        fn trusts(&self, _: &PublicKey) -> bool {
            true
        }
    }

    struct Lab {
        runtime: tokio::runtime::Runtime,
        server: Arc<Server>,
        net: Net,
    }

    /// A node `b` that takes calls, and the way to it.
    fn lab() -> Lab {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let (own, other) = (
            PrivateKey::generate().unwrap(),
            PrivateKey::generate().unwrap(),
        );
        let server = {
            let _inside = runtime.enter();
            let any = "127.0.0.1:0".parse().unwrap();
            Server::bind(any, usable(&other).unwrap(), Arc::new(Everybody)).unwrap()
        };
        let text = format!(
            "format = 1\ncluster = \"test\"\n[[node]]\nname = \"b\"\naddress = \"{}\"\nkey = \"{}\"\n",
            server.local_addr(),
            other.public(),
        );
        let cluster = Arc::new(ClusterFile::parse(text.as_bytes(), Path::new("x")).unwrap());
        let net = Net::new(move || Arc::clone(&cluster), &own, runtime.handle().clone()).unwrap();
        Lab {
            runtime,
            server: Arc::new(server),
            net,
        }
    }

    #[test]
    fn the_calls_of_a_run_share_connections_and_there_may_be_many() {
        let lab = lab();
        let node = "b".parse().unwrap();
        let count = CALLS_PER_CONNECTION * CONNECTIONS_PER_KEY / 2;
        let server = Arc::clone(&lab.server);
        let incoming = lab.runtime.spawn(async move {
            let mut calls = Vec::new();
            while calls.len() < count {
                calls.push(server.accept().await.unwrap().call);
            }
            calls
        });
        let run = "r-1".parse().unwrap();
        let calls: Vec<_> = (0..count)
            .map(|_| lab.net.call_in(&run, &node, &Ask::Status).unwrap())
            .collect();
        let incoming = lab.runtime.block_on(incoming).unwrap();
        let from: BTreeSet<_> = incoming.iter().map(|call| call.remote_address()).collect();
        assert_eq!(from.len(), count / CALLS_PER_CONNECTION);
        drop((calls, incoming));
        // Those of other runs, and of none, have their own.
        let other = "r-2".parse().unwrap();
        let _calls = [
            lab.net.call_in(&run, &node, &Ask::Status).unwrap(),
            lab.net.call_in(&other, &node, &Ask::Status).unwrap(),
            lab.net.call(&node, &Ask::Status).unwrap(),
        ];
        let from: BTreeSet<_> = (0..3)
            .map(|_| lab.runtime.block_on(lab.server.accept()).unwrap())
            .map(|incoming| incoming.call.remote_address())
            .collect();
        assert_eq!(from.len(), 3);
    }

    #[test]
    fn quick_commands_one_after_the_other_are_not_refused() {
        let lab = lab();
        let node = "b".parse().unwrap();
        let begun = Instant::now();
        for _ in 0..CONNECTIONS_PER_KEY * 4 {
            lab.net.call(&node, &Ask::Status).unwrap();
        }
        // Nobody had to wait for a place.
        assert!(begun.elapsed() < Duration::from_secs(20));
    }
}
