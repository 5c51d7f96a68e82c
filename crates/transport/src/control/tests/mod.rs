//! Calls as they should be, and what comes of those that are not.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use quinn::{Endpoint, TokioRuntime, VarInt};

use super::connection::Connection;
use super::{CallError, Incoming, NodeKey, PublicKey, Server, Trust};
use crate::quic::options::endpoint_config;
use crate::quic::{ALPN, OneTimeKey, tls};

mod calls;
mod flood;
mod rogue;
mod slow;
mod trust;

/// Long enough for anything that should happen at once, on a busy machine too.
const SOON: Duration = Duration::from_secs(10);

fn node() -> NodeKey {
    NodeKey(OneTimeKey::generate().unwrap().0)
}

/// A list of trusted keys that can be changed under a server.
#[derive(Default)]
struct List(Mutex<Vec<PublicKey>>);

impl List {
    fn set(&self, keys: &[&NodeKey]) {
        *self.0.lock().unwrap() = keys.iter().map(|key| key.public()).collect();
    }
}

impl Trust for List {
    fn trusts(&self, key: &PublicKey) -> bool {
        self.0.lock().unwrap().contains(key)
    }
}

/// A server that gives back what it is sent, a key that it trusts, and one that it does not.
struct Lab {
    server: Arc<Server>,
    list: Arc<List>,
    key: NodeKey,
    friend: NodeKey,
    stranger: NodeKey,
}

impl Lab {
    fn new() -> Self {
        let lab = Self::silent();
        tokio::spawn(echo(Arc::clone(&lab.server)));
        lab
    }

    /// Nobody accepts its calls.
    fn silent() -> Self {
        let (key, friend, stranger) = (node(), node(), node());
        let list = Arc::new(List::default());
        list.set(&[&friend]);
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let trust: Arc<dyn Trust> = Arc::clone(&list) as Arc<dyn Trust>;
        let server = Arc::new(Server::bind(any, key.clone(), trust).unwrap());
        Self {
            server,
            list,
            key,
            friend,
            stranger,
        }
    }

    fn address(&self) -> SocketAddr {
        self.server.local_addr()
    }

    async fn connect(&self) -> Connection {
        self.connect_as(&self.friend).await.unwrap()
    }

    async fn connect_as(&self, key: &NodeKey) -> Result<Connection, CallError> {
        Connection::connect(&[self.address()], key, &[self.key.public()], SOON).await
    }

    /// A connection of `key` without the manners of [`Connection`]; it need not be admitted.
    async fn raw(&self, key: &NodeKey) -> (Endpoint, quinn::Connection) {
        let peer = Arc::new(self.key.public());
        let tls = Arc::new(tls::client(&key.0, peer, ALPN).unwrap());
        let endpoint = raw_endpoint();
        let connection = endpoint
            .connect_with(
                quinn::ClientConfig::new(tls),
                self.address(),
                tls::SERVER_NAME,
            )
            .unwrap()
            .await
            .unwrap();
        (endpoint, connection)
    }
}

fn raw_endpoint() -> Endpoint {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    Endpoint::new(endpoint_config(), None, socket, Arc::new(TokioRuntime)).unwrap()
}

async fn echo(server: Arc<Server>) {
    while let Some(incoming) = server.accept().await {
        tokio::spawn(give_back(incoming));
    }
}

async fn give_back(incoming: Incoming) -> Result<(), CallError> {
    let Incoming { mut call, first } = incoming;
    call.send(first).await?;
    while let Some(frame) = call.recv().await? {
        call.send(frame).await?;
    }
    call.finish()
}

/// One whole call; how long it took.
async fn ask(connection: &Connection) -> Result<Duration, CallError> {
    let before = Instant::now();
    let mut call = connection.call().await?;
    call.send(Bytes::from_static(b"are you there?")).await?;
    call.finish()?;
    assert_eq!(call.recv_within(SOON).await?.unwrap(), "are you there?");
    assert_eq!(call.recv_within(SOON).await?, None);
    Ok(before.elapsed())
}

/// Waits until `there` says yes.
async fn eventually(what: &str, mut there: impl FnMut() -> bool) -> Duration {
    let before = Instant::now();
    while !there() {
        assert!(before.elapsed() < SOON * 2, "{what}: not in time");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    before.elapsed()
}

fn code(error: &quinn::ConnectionError) -> Option<VarInt> {
    match error {
        quinn::ConnectionError::ApplicationClosed(close) => Some(close.error_code),
        _ => None,
    }
}
