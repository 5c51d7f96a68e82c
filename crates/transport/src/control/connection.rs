//! The calling end.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use quinn::crypto::rustls::QuicClientConfig;
use quinn::{
    AsyncUdpSocket, ClientConfig, ConnectionError, Endpoint, RecvStream, SendStream, TokioRuntime,
};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::call::{Call, Line};
use super::error::{CLOSED, CallError, is_busy};
use super::key::NodeKey;
use super::limits::{transport, widen};
use crate::quic::carrier::describe;
use crate::quic::options::endpoint_config;
use crate::quic::route::path_mtu;
use crate::quic::socket::{MeteredSocket, bind_towards};
use crate::quic::{ALPN, MtuChoice, PublicKey, Trust, tls};

/// Most addresses tried at once; more are not looked at.
const MAX_ADDRESSES: usize = 16;
/// How soon, and how rarely at last, a server that had no place is asked again.
const BUSY_PAUSE: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(50)..=Duration::from_secs(1);
/// How long a close may take to leave this machine.
const CLOSE_LIMIT: Duration = Duration::from_millis(100);

/// A connection to a server that has accepted our key, and has one of the keys that we accept.
pub struct Connection {
    line: Line,
    /// The stream that showed that we were admitted; the first call takes it.
    spare: Mutex<Option<Streams>>,
}

type Streams = (SendStream, RecvStream);

/// The keys that the other end may have, and the one that it showed instead.
struct Expected {
    peers: Vec<PublicKey>,
    other: Mutex<Option<PublicKey>>,
}

impl Expected {
    fn other(&self) -> Option<PublicKey> {
        *self.other.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Trust for Expected {
    fn trusts(&self, key: &PublicKey) -> bool {
        let is_expected = self.peers.contains(key);
        if !is_expected {
            *self.other.lock().unwrap_or_else(PoisonError::into_inner) = Some(*key);
        }
        is_expected
    }
}

impl Connection {
    /// Connects to whichever of `addresses` first answers with one of the keys in `peers`, all of them tried at once.
    /// Several keys are for a peer that is changing its own. Needs a tokio runtime.
    ///
    /// # Errors
    /// [`CallError::Refused`] as soon as every address has refused or failed, or at the end of `timeout` if any has
    /// refused; otherwise [`CallError::Unreachable`] or what was observed.
    pub async fn connect(
        addresses: &[SocketAddr],
        key: &NodeKey,
        peers: &[PublicKey],
        timeout: Duration,
    ) -> Result<Self, CallError> {
        let expected = Arc::new(Expected {
            peers: peers.to_vec(),
            other: Mutex::new(None),
        });
        let tls = tls::client(&key.0, Arc::clone(&expected) as Arc<dyn Trust>, ALPN)?;
        let connected = Self::connect_with(addresses, Arc::new(tls), timeout).await;
        connected.map_err(|error| match error {
            CallError::Refused { what, .. } => CallError::Refused {
                what,
                shown: expected.other(),
            },
            error => error,
        })
    }

    pub(super) async fn connect_with(
        addresses: &[SocketAddr],
        tls: Arc<QuicClientConfig>,
        timeout: Duration,
    ) -> Result<Self, CallError> {
        let deadline = Instant::now() + timeout;
        let mut attempts = JoinSet::new();
        let mut tried: Vec<SocketAddr> = Vec::new();
        for &address in addresses {
            if !tried.contains(&address) && tried.len() < MAX_ADDRESSES {
                tried.push(address);
                let attempt = attempt(address, Arc::clone(&tls), deadline);
                attempts.spawn(async move { attempt.await.map_err(|error| (address, error)) });
            }
        }
        let mut failures = Vec::new();
        while let Some(done) = attempts.join_next().await {
            match done.map_err(CallError::local)? {
                Ok(connection) => return Ok(connection),
                Err(failure) => failures.push(failure),
            }
        }
        Err(verdict(&failures, timeout))
    }

    /// Begins a call. May wait while [`CALLS_PER_CONNECTION`](super::CALLS_PER_CONNECTION) of this connection go on; the
    /// server sees it with its first frame.
    ///
    /// # Errors
    /// Why the connection is no more.
    pub async fn call(&self) -> Result<Call, CallError> {
        let spare = self
            .spare
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let streams = match spare {
            // It may have been closed since; then its first use would only say that the stream is.
            Some(streams) if self.line.connection.close_reason().is_none() => streams,
            _ => self.line.connection.open_bi().await?,
        };
        Ok(Call::outgoing(&self.line, streams))
    }

    /// The server's key: one of those that were accepted.
    #[must_use]
    pub fn peer(&self) -> PublicKey {
        self.line.peer
    }

    /// Which address answered.
    #[must_use]
    pub fn remote_address(&self) -> SocketAddr {
        self.line.remote_address()
    }

    /// Waits until the connection is no more, and says why.
    pub async fn closed(&self) -> CallError {
        self.line.connection.closed().await.into()
    }

    /// Whether calls can begin on it still.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.line.connection.close_reason().is_none()
    }

    /// Closes the connection with all calls on it, and waits a moment until the goodbye has left: a
    /// program that ends at once would otherwise leave it to that end's patience.
    pub async fn close(self, reason: &str) {
        if self.is_open() {
            self.line.close(CLOSED, reason);
            // Too late is no harm: the other end finds out by itself.
            let _ = timeout(CLOSE_LIMIT, self.line.goodbye_sent()).await;
        }
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Connection")
            .field("peer", &self.peer())
            .field("remote_address", &self.remote_address())
            .finish_non_exhaustive()
    }
}

/// What to tell the caller when no address has worked: a refusal before anything else, as trying again is no use.
fn verdict(failures: &[(SocketAddr, CallError)], timeout: Duration) -> CallError {
    let refused = failures.iter().find_map(|(address, error)| match error {
        CallError::Refused { what, .. } => Some(format!("{address}: {what}")),
        _ => None,
    });
    if let Some(what) = refused {
        return CallError::Refused { what, shown: None };
    }
    if let [(_, error)] = failures
        && !matches!(error, CallError::Unreachable { .. })
    {
        return error.clone();
    }
    let each = |(address, error): &(SocketAddr, CallError)| match error {
        CallError::Unreachable { what } => format!("{address}: {what}"),
        other => format!("{address}: {other}"),
    };
    let what = match failures {
        [] => "no address to connect to".to_owned(),
        some => {
            let each: Vec<String> = some.iter().map(each).collect();
            format!("{}, within {} s", each.join("; "), timeout.as_secs_f32())
        }
    };
    CallError::Unreachable { what }
}

/// Connects to one address, again and again while the server there has no place.
async fn attempt(
    address: SocketAddr,
    tls: Arc<QuicClientConfig>,
    deadline: Instant,
) -> Result<Connection, CallError> {
    let (endpoint, config) = prepare(address, tls).map_err(CallError::local)?;
    let mut pause = *BUSY_PAUSE.start();
    let mut seen = "no answer over UDP".to_owned();
    loop {
        let once = timeout_at(deadline, connect_once(&endpoint, &config, address)).await;
        match once {
            Ok(Ok((line, streams))) => {
                return Ok(Connection {
                    line,
                    spare: Mutex::new(Some(streams)),
                });
            }
            Ok(Err(Failure::Connection(error))) if is_busy(&error) => seen = describe(&error),
            Ok(Err(Failure::Connection(ConnectionError::TimedOut))) | Err(_) => {
                return Err(CallError::Unreachable { what: seen });
            }
            Ok(Err(Failure::Connection(error))) => return Err(error.into()),
            Ok(Err(Failure::Other(error))) => return Err(error),
        }
        sleep(pause).await;
        pause = (pause * 2).min(*BUSY_PAUSE.end());
    }
}

enum Failure {
    Connection(ConnectionError),
    Other(CallError),
}

impl From<ConnectionError> for Failure {
    fn from(error: ConnectionError) -> Self {
        Self::Connection(error)
    }
}

async fn connect_once(
    endpoint: &Endpoint,
    config: &ClientConfig,
    address: SocketAddr,
) -> Result<(Line, Streams), Failure> {
    let connecting = endpoint
        .connect_with(config.clone(), address, tls::SERVER_NAME)
        .map_err(|error| {
            let what = error.to_string();
            Failure::Other(CallError::Unreachable { what })
        })?;
    let connection = connecting.await?;
    let peer = tls::peer_key(&connection).ok_or_else(|| {
        let what = "the other end has no key".to_owned();
        Failure::Other(CallError::Protocol { what })
    })?;
    // For the caller TLS is done before the server has looked at its key. Streams come after that.
    let streams = connection.open_bi().await?;
    widen(&connection);
    Ok((Line { connection, peer }, streams))
}

fn prepare(
    address: SocketAddr,
    tls: Arc<QuicClientConfig>,
) -> std::io::Result<(Endpoint, ClientConfig)> {
    let socket: Arc<dyn AsyncUdpSocket> =
        MeteredSocket::new(bind_towards(address)?, Arc::default())?;
    let runtime = Arc::new(TokioRuntime);
    let endpoint = Endpoint::new_with_abstract_socket(endpoint_config(), None, socket, runtime)?;
    let mut config = ClientConfig::new(tls as Arc<dyn quinn::crypto::ClientConfig>);
    config.transport_config(transport(path_mtu(address, MtuChoice::FromInterface)));
    Ok((endpoint, config))
}
