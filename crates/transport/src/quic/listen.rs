//! The listening end.

use std::net::{IpAddr, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use async_channel::{Receiver, Sender};
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Endpoint, Incoming, ServerConfig, TokioRuntime};
use tokio::task::JoinSet;

use super::admit::{Proven, admit};
use super::carrier::{Carrier, Load};
use super::key::{OneTimeKey, PublicKey};
use super::options::{Opener, QuicOptions, endpoint_config};
use super::route::path_mtu;
use super::socket::{MeteredSocket, bind};
use super::tls::{self, TlsError};
use super::{TOKEN_LEN, runtime};
use crate::end::End;
use crate::link::{Guard, Link, Via};
use crate::meter::Counters;
use crate::wait::block_on_until;

/// Connections that may be on their way to show a token, on each port; more are refused.
const STRANGERS: usize = 8;
/// Of these with addresses that may be forged: once so many wait, everybody has to prove theirs first, which keeps
/// nothing here. So the rest of the places is left to those who can answer.
const UNPROVED: usize = 4;
/// How often a listener that waits looks whether it is still to wait.
const GLANCE: Duration = Duration::from_millis(100);
/// Bytes kept of a connection that nobody has looked at yet, and of all of them.
const STRANGER_BYTES: u64 = 64 * 1024;

/// Why a listener could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// No socket, or no thread for it.
    #[error("cannot listen on UDP")]
    Io(#[from] std::io::Error),
    /// The TLS configuration was not accepted.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// Why no link came of listening.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// The deadline passed before all connections had proved themselves.
    #[error("nobody with the right key and token came in time{}", refusal_clause(.refusal.as_deref()))]
    TimedOut {
        /// The last one that was turned away, and why.
        refusal: Option<String>,
    },
    /// A socket failed, or the dialer went away again.
    #[error("the link failed while it was set up: {what}")]
    Failed {
        /// What was observed.
        what: String,
    },
}

fn refusal_clause(refusal: Option<&str>) -> String {
    refusal
        .map(|refusal| format!("; the last refused was {refusal}"))
        .unwrap_or_default()
}

/// Listens on one UDP port for each connection, for exactly one dialer: the one that has the private key of `peer`
/// and shows `token`. `bind` is the address, or `None` or `::` for all.
///
/// Dialers are taken from now on; [`Listening::accept`] only waits for the outcome. Dropping the result stops it.
///
/// # Errors
/// [`ListenError`] if there are no sockets to be had.
pub fn listen(
    bind: impl Into<Option<IpAddr>>,
    key: OneTimeKey,
    peer: PublicKey,
    token: [u8; TOKEN_LEN],
    options: QuicOptions,
) -> Result<Listening, ListenError> {
    listen_counted(bind.into(), &key, peer, token, &options, Arc::default())
}

pub(crate) fn listen_counted(
    address: Option<IpAddr>,
    key: &OneTimeKey,
    peer: PublicKey,
    token: [u8; TOKEN_LEN],
    options: &QuicOptions,
    counters: Arc<Counters>,
) -> Result<Listening, ListenError> {
    let options = options.clamped();
    let count = options.ports();
    let tls = Arc::new(tls::server(key.identity(), Arc::new(peer))?);
    let end = End::carried(counters);
    let guard = Arc::new(Guard(Arc::clone(&end)));
    let (arrived, arrivals) = async_channel::bounded(count);
    let last_refusal = LastRefusal::default();

    let mut ports = Vec::with_capacity(count);
    for index in 0..count {
        let socket = bind(address)?;
        ports.push(socket.local_addr()?.port());
        let door = Door {
            end: Arc::clone(&end),
            tls: Arc::clone(&tls),
            token,
            options: options.clone(),
            load: Load::of(index, count),
            arrived: arrived.clone(),
            last_refusal: last_refusal.clone(),
        };
        thread::Builder::new()
            .name(format!("lockstep-quic-{index}"))
            .spawn(move || door.run(socket))?;
    }
    let public_key = key.public_key();
    Ok(Listening {
        guard,
        ports,
        public_key,
        arrivals,
        last_refusal,
    })
}

/// A listener whose dialer has not come yet.
#[derive(Debug)]
pub struct Listening {
    guard: Arc<Guard>,
    ports: Vec<u16>,
    public_key: PublicKey,
    arrivals: Receiver<Result<(), String>>,
    last_refusal: LastRefusal,
}

impl Listening {
    /// The UDP ports, in the order in which the dialer needs them.
    pub fn ports(&self) -> Vec<u16> {
        self.ports.clone()
    }

    /// The key that the dialer must pin.
    pub fn public_key(&self) -> PublicKey {
        self.public_key
    }

    /// Waits until the dialer's connections are all there.
    ///
    /// # Errors
    /// [`AcceptError::TimedOut`] at `deadline`, [`AcceptError::Failed`] if it came and went.
    pub fn accept(self, deadline: Instant) -> Result<Link, AcceptError> {
        self.accept_unless(deadline, || false)
    }

    /// The same, given up as soon as `is_cancelled` says so; it is asked ten times a second.
    ///
    /// # Errors
    /// As [`Listening::accept`], and [`AcceptError::Failed`] if it was cancelled.
    pub fn accept_unless(
        self,
        deadline: Instant,
        is_cancelled: impl Fn() -> bool,
    ) -> Result<Link, AcceptError> {
        for _ in &self.ports {
            let arrived = loop {
                let glance = deadline.min(Instant::now() + GLANCE);
                let arrived = block_on_until(self.arrivals.recv(), glance);
                if arrived.is_some() || Instant::now() >= deadline {
                    break arrived;
                }
                if is_cancelled() {
                    let what = "it was cancelled".to_owned();
                    return Err(AcceptError::Failed { what });
                }
            };
            match arrived {
                Some(Ok(Ok(()))) => {}
                Some(Ok(Err(what))) => return Err(AcceptError::Failed { what }),
                Some(Err(_)) => {
                    return Err(AcceptError::Failed {
                        what: self.guard.0.error().to_string(),
                    });
                }
                None => {
                    return Err(AcceptError::TimedOut {
                        refusal: self.last_refusal.take(),
                    });
                }
            }
        }
        Ok(Link::new(self.guard, Via::Quic))
    }
}

#[derive(Clone, Debug, Default)]
struct LastRefusal(Arc<Mutex<Option<String>>>);

impl LastRefusal {
    fn note(&self, refusal: String) {
        tracing::debug!("turned away {refusal}");
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(refusal);
    }

    fn take(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// One port, which lets in one connection.
struct Door {
    end: Arc<End>,
    tls: Arc<QuicServerConfig>,
    token: [u8; TOKEN_LEN],
    options: QuicOptions,
    load: Load,
    arrived: Sender<Result<(), String>>,
    last_refusal: LastRefusal,
}

impl Door {
    fn run(self, socket: UdpSocket) {
        let served = runtime().and_then(|runtime| runtime.block_on(self.serve(socket)));
        if let Err(error) = served {
            // Full means that the listener has an answer already.
            let _ = self.arrived.try_send(Err(format!("UDP socket: {error}")));
        }
    }

    async fn serve(&self, socket: UdpSocket) -> std::io::Result<()> {
        let socket = MeteredSocket::new(socket, Arc::clone(&self.end.counters))?;
        let endpoint = Endpoint::new_with_abstract_socket(
            endpoint_config(),
            Some(ServerConfig::clone(&self.server_config_for(None))),
            Arc::clone(&socket) as Arc<dyn quinn::AsyncUdpSocket>,
            Arc::new(TokioRuntime),
        )?;
        let proven = tokio::select! {
            proven = self.first_admitted(&endpoint) => proven,
            _ = self.end.ended() => None,
        };
        let Some(proven) = proven else { return Ok(()) };
        endpoint.set_server_config(None);
        socket.clamp_to(path_mtu(proven.connection.remote_address(), self.options.mtu).largest());
        let end = Arc::clone(&self.end);
        let carrier = Carrier::new(
            end,
            endpoint,
            proven,
            self.load,
            self.options.admitted(self.load),
        );
        // A closed queue means that nobody waits any more; the carrier then ends with the link.
        let _ = self.arrived.send(Ok(())).await;
        carrier.run().await;
        Ok(())
    }

    async fn first_admitted(&self, endpoint: &Endpoint) -> Option<Proven> {
        let mut strangers = JoinSet::new();
        loop {
            tokio::select! {
                incoming = endpoint.accept() => {
                    let incoming = incoming?;
                    if strangers.len() >= UNPROVED && !incoming.remote_address_validated() {
                        // An address that is not proved can always be asked to.
                        drop(incoming.retry());
                        continue;
                    }
                    if strangers.len() >= STRANGERS {
                        incoming.refuse();
                        continue;
                    }
                    let config = self.server_config_for(Some(&incoming));
                    strangers.spawn(admit(incoming, config, self.token));
                }
                Some(done) = strangers.join_next() => match done {
                    Ok(Ok(proven)) => return Some(proven),
                    Ok(Err(refusal)) => self.last_refusal.note(refusal),
                    Err(panic) => self.last_refusal.note(panic.to_string()),
                },
            }
        }
    }

    /// Settings for a connection: the payload size depends on where it comes from.
    fn server_config_for(&self, incoming: Option<&Incoming>) -> Arc<ServerConfig> {
        let mut config = ServerConfig::with_crypto(
            Arc::clone(&self.tls) as Arc<dyn quinn::crypto::ServerConfig>
        );
        config
            .max_incoming(STRANGERS)
            .incoming_buffer_size(STRANGER_BYTES)
            .incoming_buffer_size_total(STRANGER_BYTES * STRANGERS as u64);
        if let Some(incoming) = incoming {
            let mtu = path_mtu(incoming.remote_address(), self.options.mtu);
            config.transport_config(self.options.transport(mtu, Opener::Peer));
        }
        Arc::new(config)
    }
}
