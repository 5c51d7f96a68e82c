//! The called end.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_channel::{Receiver, Sender};
use bytes::Bytes;
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{AsyncUdpSocket, Endpoint, ServerConfig, TokioRuntime, VarInt};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::call::{Call, Line};
use super::error::{BUSY, CLOSED, CallError, DROPPED, REFUSED, TOO_LATE, cut};
use super::gate::{Handshakes, Origin, Verdict};
use super::held::{Held, Usage};
use super::key::NodeKey;
use super::limits::{
    CALLS_WAITING, FIRST_FRAME_LIMIT, HANDSHAKE_LIMIT, admit, bound_unseen, transport,
};
use crate::quic::options::endpoint_config;
use crate::quic::route::path_mtu;
use crate::quic::socket::{MeteredSocket, bind_at};
use crate::quic::{ListenError, MtuChoice, Trust, tls};

/// How long the closes may take to leave this machine and be heard.
const CLOSE_LIMIT: Duration = Duration::from_millis(500);
const NO_LONGER_TRUSTED: &str = "this key is no longer trusted";
const GAVE_WAY: &str = "this key has newer connections, and this one carried no call";

/// A call that came in, and what the caller said first.
#[derive(Debug)]
pub struct Incoming {
    /// The call, to answer and to receive what follows.
    pub call: Call,
    /// Its first frame, of 1 to [`MAX_FIRST_FRAME`](super::MAX_FIRST_FRAME) bytes.
    pub first: Bytes,
}

/// Listens on one UDP port for the calls of trusted keys. Dropping it closes all connections.
pub struct Server {
    endpoint: Endpoint,
    address: SocketAddr,
    shared: Arc<Shared>,
    calls: Receiver<(Line, Incoming)>,
}

impl Server {
    /// Listens at `address` from now on, within the tokio runtime that this is called in.
    ///
    /// # Errors
    /// If the port is not to be had.
    pub fn bind(
        address: SocketAddr,
        key: NodeKey,
        trust: Arc<dyn Trust>,
    ) -> Result<Self, ListenError> {
        let tls = Arc::new(tls::server(&key.0, Arc::clone(&trust))?);
        let socket = bind_at(address)?;
        let address = socket.local_addr()?;
        let socket: Arc<dyn AsyncUdpSocket> = MeteredSocket::new(socket, Arc::default())?;
        let (queue, calls) = async_channel::bounded(CALLS_WAITING);
        let shared = Arc::new(Shared {
            tls,
            trust,
            queue,
            handshakes: Mutex::default(),
            held: Mutex::default(),
        });
        let endpoint = Endpoint::new_with_abstract_socket(
            endpoint_config(),
            Some(shared.config(None)),
            socket,
            Arc::new(TokioRuntime),
        )?;
        tokio::spawn(Arc::clone(&shared).open_door(endpoint.clone()));
        Ok(Self {
            endpoint,
            address,
            shared,
            calls,
        })
    }

    /// Where it listens, with the port that was found if port 0 was asked for.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// The next call of any connection, once its first frame is there; `None` once the server is closed. Can be
    /// cancelled, and waited for by several tasks.
    pub async fn accept(&self) -> Option<Incoming> {
        loop {
            let (line, incoming) = self.calls.recv().await.ok()?;
            // It may have waited here for long.
            if self.shared.still_trusts(&line) {
                return Some(incoming);
            }
        }
    }

    /// Closes the connections of keys that are no longer trusted, which otherwise happens with their next call.
    pub fn recheck(&self) {
        for (_, line) in lock(&self.shared.held).all() {
            self.shared.still_trusts(line);
        }
    }

    /// Closes all connections with `reason`, and waits a moment for the callers to hear of it.
    pub async fn close(&self, reason: &str) {
        self.calls.close();
        self.endpoint
            .close(VarInt::from_u32(CLOSED), cut(reason).as_bytes());
        // Too late is no harm: the callers find out by themselves.
        let _ = timeout(CLOSE_LIMIT, self.endpoint.wait_idle()).await;
    }
}

#[cfg(test)]
impl Server {
    pub(super) fn connections(&self) -> usize {
        lock(&self.shared.held).all().count()
    }

    pub(super) fn calls_waiting(&self) -> usize {
        self.calls.len()
    }

    /// Connections of anybody, in whatever state.
    pub(super) fn open_connections(&self) -> usize {
        self.endpoint.open_connections()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.calls.close();
        self.endpoint
            .close(VarInt::from_u32(CLOSED), b"the server stopped");
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Server")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Shared {
    tls: Arc<QuicServerConfig>,
    trust: Arc<dyn Trust>,
    queue: Sender<(Line, Incoming)>,
    handshakes: Mutex<Handshakes>,
    held: Mutex<Held<Line>>,
}

impl Shared {
    /// Settings for a connection: the payload size depends on where it comes from.
    fn config(&self, from: Option<SocketAddr>) -> ServerConfig {
        let tls = Arc::clone(&self.tls) as Arc<dyn quinn::crypto::ServerConfig>;
        let mut config = ServerConfig::with_crypto(tls);
        bound_unseen(&mut config);
        if let Some(from) = from {
            config.transport_config(transport(path_mtu(from, MtuChoice::FromInterface)));
        }
        config
    }

    /// Whether the caller on `line` may go on; closes the connection if not.
    fn still_trusts(&self, line: &Line) -> bool {
        let trusted = self.trust.trusts(&line.peer);
        if !trusted {
            line.close(REFUSED, NO_LONGER_TRUSTED);
        }
        trusted
    }

    /// Decides about everybody who comes, until the endpoint is closed.
    async fn open_door(self: Arc<Self>, endpoint: Endpoint) {
        while let Some(incoming) = endpoint.accept().await {
            let origin = match incoming.remote_address_validated() {
                true => Origin::proved(incoming.remote_address().ip()),
                false => Origin::Unproved,
            };
            let verdict = lock(&self.handshakes).enter(origin);
            match verdict {
                Verdict::Begin => {
                    let handshake = Handshake {
                        shared: Arc::clone(&self),
                        origin,
                    };
                    tokio::spawn(serve(incoming, handshake));
                }
                // An address that is not proved can always be asked to.
                Verdict::Prove => drop(incoming.retry()),
                Verdict::Refuse => incoming.refuse(),
            }
            // Strangers must not keep this thread from the connections it serves.
            tokio::task::yield_now().await;
        }
    }
}

/// A handshake under way, counted while this lives.
struct Handshake {
    shared: Arc<Shared>,
    origin: Origin,
}

impl Drop for Handshake {
    fn drop(&mut self) {
        lock(&self.shared.handshakes).leave(self.origin);
    }
}

/// A connection that counts as one of its key's while this lives.
struct Place {
    shared: Arc<Shared>,
    number: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.shared.held).release(self.number);
    }
}

async fn serve(incoming: quinn::Incoming, handshake: Handshake) {
    let from = incoming.remote_address();
    let shared = Arc::clone(&handshake.shared);
    let greeted = timeout(HANDSHAKE_LIMIT, greet(&shared, incoming)).await;
    drop(handshake);
    let line = match greeted {
        Ok(Ok(line)) => line,
        Ok(Err(error)) => return tracing::debug!("turned away {from}: {error}"),
        Err(_) => return tracing::debug!("turned away {from}: no handshake in time"),
    };
    if !shared.still_trusts(&line) {
        return;
    }
    let usage = Usage::none();
    let taken = lock(&shared.held).take(line.peer, line.clone(), Arc::clone(&usage));
    let number = match taken {
        Ok(taken) => {
            if let Some(spare) = taken.instead_of {
                spare.close(BUSY, GAVE_WAY);
            }
            taken.number
        }
        Err(full) => {
            tracing::debug!("turned away {from}: {full}");
            return line.close(BUSY, &full.to_string());
        }
    };
    let place = Place {
        shared: Arc::clone(&shared),
        number,
    };
    admit(&line.connection);
    let why = take_calls(&shared, &line, &usage).await;
    tracing::debug!("connection of {from} ended: {why}");
    drop(place);
}

async fn greet(shared: &Shared, incoming: quinn::Incoming) -> Result<Line, CallError> {
    let config = shared.config(Some(incoming.remote_address()));
    let connection = incoming.accept_with(Arc::new(config))?.await?;
    let peer = tls::peer_key(&connection).ok_or_else(|| CallError::Refused {
        what: "no key".to_owned(),
        shown: None,
    })?;
    Ok(Line { connection, peer })
}

/// Takes calls until the connection ends; why it did.
async fn take_calls(shared: &Arc<Shared>, line: &Line, usage: &Arc<Usage>) -> CallError {
    let mut beginnings = JoinSet::new();
    loop {
        tokio::select! {
            streams = line.connection.accept_bi() => match streams {
                Ok(streams) if shared.still_trusts(line) => {
                    let call = Call::incoming(line, streams, usage.begin());
                    beginnings.spawn(begin(Arc::clone(shared), line.clone(), call));
                }
                // The next turn says why the connection was closed.
                Ok(_) => {}
                Err(error) => return error.into(),
            },
            Some(_) = beginnings.join_next() => {}
        }
    }
}

/// Waits for a call's first frame, then hands it out.
async fn begin(shared: Arc<Shared>, line: Line, mut call: Call) {
    match call.recv_within(FIRST_FRAME_LIMIT).await {
        Ok(Some(first)) => {
            // Closed means that the server is.
            let _ = shared.queue.send((line, Incoming { call, first })).await;
        }
        Ok(None) => call.abandon(DROPPED),
        Err(CallError::TimedOut { .. }) => call.abandon(TOO_LATE),
        // The caller gave it up, or the connection is closed.
        Err(error) => tracing::debug!("no call from {}: {error}", line.remote_address()),
    }
}
