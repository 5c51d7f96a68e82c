//! The dialing end.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use async_channel::{Receiver, Sender};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{AsyncUdpSocket, ClientConfig, Connection, Endpoint, TokioRuntime};
use tokio::task::JoinSet;

use super::admit::{Proven, show_token};
use super::carrier::{Carrier, Load, describe};
use super::key::{OneTimeKey, PublicKey};
use super::options::{Opener, QuicOptions, endpoint_config};
use super::route::path_mtu;
use super::socket::{MeteredSocket, bind_towards};
use super::tls::{self, TlsError};
use super::{TOKEN_LEN, runtime};
use crate::end::End;
use crate::link::{Guard, Link, Via};
use crate::meter::Counters;
use crate::wait::block_on_until;

/// Most addresses tried at once; more are not looked at.
const MAX_ADDRESSES: usize = 16;

/// Why there is no link to the listener.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The caller gave no address.
    #[error("no address to dial")]
    NoAddress,
    /// The number of ports does not fit the number of connections.
    #[error("{given} ports given, but {needed} are needed for the connections asked for")]
    Ports {
        /// Ports given.
        given: usize,
        /// Ports needed.
        needed: usize,
    },
    /// No address answered in time.
    #[error("no answer over UDP from {addresses} within {} s", .timeout.as_secs_f32())]
    TimedOut {
        /// The addresses tried, with ports.
        addresses: String,
        /// How long.
        timeout: Duration,
    },
    /// Something answered, or the network did, and it was not a link: wrong key, wrong token, no route.
    #[error("no link: {what}")]
    Refused {
        /// Each address, and what was observed there.
        what: String,
    },
    /// No socket or thread.
    #[error("cannot use UDP here")]
    Io(#[from] std::io::Error),
    /// The TLS configuration was not accepted.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// Dials the listener that has the private key of `peer`, on all `addresses` at once; the first to complete a
/// handshake wins. Only the hosts of `addresses` count: `ports` are the listener's, in its order.
///
/// # Errors
/// [`DialError`], after at most `timeout`.
pub fn dial(
    addresses: &[SocketAddr],
    ports: &[u16],
    key: OneTimeKey,
    peer: PublicKey,
    token: [u8; TOKEN_LEN],
    options: QuicOptions,
    timeout: Duration,
) -> Result<Link, DialError> {
    let call = Call {
        key: &key,
        peer,
        token,
        alpn: tls::ALPN,
    };
    dial_counted(addresses, ports, call, &options, timeout, Arc::default())
}

/// Who calls whom.
#[derive(Clone, Copy)]
pub(crate) struct Call<'a> {
    pub(crate) key: &'a OneTimeKey,
    pub(crate) peer: PublicKey,
    pub(crate) token: [u8; TOKEN_LEN],
    pub(crate) alpn: &'a [u8],
}

pub(crate) fn dial_counted(
    addresses: &[SocketAddr],
    ports: &[u16],
    call: Call<'_>,
    options: &QuicOptions,
    timeout: Duration,
    counters: Arc<Counters>,
) -> Result<Link, DialError> {
    let deadline = Instant::now() + timeout;
    let options = options.clamped();
    let (&first_port, more_ports) = ports.split_first().ok_or(DialError::Ports {
        given: 0,
        needed: options.ports(),
    })?;
    if ports.len() != options.ports() {
        return Err(DialError::Ports {
            given: ports.len(),
            needed: options.ports(),
        });
    }
    if addresses.is_empty() {
        return Err(DialError::NoAddress);
    }
    let end = End::carried(counters);
    let guard = Arc::new(Guard(Arc::clone(&end)));
    let (report, reports) = async_channel::bounded(ports.len());
    let dialer = Dialer {
        end,
        tls: Arc::new(tls::client(
            call.key.identity(),
            Arc::new(call.peer),
            call.alpn,
        )?),
        token: call.token,
        options,
        report,
    };
    let wait = |tried: &[SocketAddr]| await_report(&reports, deadline, tried, timeout);

    let candidates = with_port(addresses, first_port);
    dialer.spawn(0, ports.len(), candidates.clone())?;
    let answered = wait(&candidates)?;
    let mut rest = Vec::with_capacity(more_ports.len());
    for (index, &port) in (1..).zip(more_ports) {
        let target = SocketAddr::new(answered, port);
        dialer.spawn(index, ports.len(), vec![target])?;
        rest.push(target);
    }
    for _ in &rest {
        wait(&rest)?;
    }
    Ok(Link::new(guard, Via::Quic))
}

fn with_port(addresses: &[SocketAddr], port: u16) -> Vec<SocketAddr> {
    let mut candidates: Vec<SocketAddr> = Vec::new();
    for address in addresses {
        let mut candidate = *address;
        candidate.set_port(port);
        if !candidates.contains(&candidate) && candidates.len() < MAX_ADDRESSES {
            candidates.push(candidate);
        }
    }
    candidates
}

fn await_report(
    reports: &Receiver<Report>,
    deadline: Instant,
    tried: &[SocketAddr],
    timeout: Duration,
) -> Result<IpAddr, DialError> {
    match block_on_until(reports.recv(), deadline) {
        Some(Ok(report)) => report,
        Some(Err(_)) => Err(DialError::Refused {
            what: "the dialing threads stopped".to_owned(),
        }),
        None => Err(DialError::TimedOut {
            addresses: listed(tried),
            timeout,
        }),
    }
}

fn listed(addresses: &[SocketAddr]) -> String {
    let addresses: Vec<String> = addresses.iter().map(SocketAddr::to_string).collect();
    addresses.join(", ")
}

type Report = Result<IpAddr, DialError>;

#[derive(Clone)]
struct Dialer {
    end: Arc<End>,
    tls: Arc<QuicClientConfig>,
    token: [u8; TOKEN_LEN],
    options: QuicOptions,
    report: Sender<Report>,
}

impl Dialer {
    fn spawn(
        &self,
        index: usize,
        ports: usize,
        candidates: Vec<SocketAddr>,
    ) -> std::io::Result<()> {
        let dialer = self.clone();
        let load = Load::of(index, ports);
        let name = format!("lockstep-quic-{index}");
        thread::Builder::new()
            .name(name)
            .spawn(move || dialer.run(candidates, load))
            .map(drop)
    }

    fn run(self, candidates: Vec<SocketAddr>, load: Load) {
        let dialed = runtime()
            .map_err(DialError::from)
            .and_then(|runtime| runtime.block_on(self.connect_and_carry(candidates, load)));
        if let Err(error) = dialed {
            // Full or closed means that nobody waits for a report any more.
            let _ = self.report.try_send(Err(error));
        }
    }

    async fn connect_and_carry(
        &self,
        candidates: Vec<SocketAddr>,
        load: Load,
    ) -> Result<(), DialError> {
        let (endpoint, proven) = tokio::select! {
            connected = self.connect(candidates) => connected?,
            // The caller has given up waiting for the report.
            _ = self.end.ended() => return Ok(()),
        };
        let address = proven.connection.remote_address().ip();
        let end = Arc::clone(&self.end);
        let carrier = Carrier::new(end, endpoint, proven, load, self.options.admitted(load));
        let _ = self.report.send(Ok(address)).await;
        carrier.run().await;
        Ok(())
    }

    async fn connect(&self, candidates: Vec<SocketAddr>) -> Result<(Endpoint, Proven), DialError> {
        let (endpoint, connection) = self.race(candidates).await?;
        let address = connection.remote_address();
        let proven = show_token(connection, &self.token).await;
        let proven = proven.map_err(|what| DialError::Refused {
            what: format!("{address}: {what}"),
        })?;
        Ok((endpoint, proven))
    }

    /// The first of `candidates` to complete a handshake; the others are dropped.
    async fn race(&self, candidates: Vec<SocketAddr>) -> Result<(Endpoint, Connection), DialError> {
        let mut attempts = JoinSet::new();
        for candidate in candidates {
            let dialer = self.clone();
            attempts.spawn(async move { dialer.attempt(candidate).await });
        }
        let mut failures = Vec::new();
        while let Some(done) = attempts.join_next().await {
            match done {
                Ok(Ok(won)) => return Ok(won),
                Ok(Err(failure)) => failures.push(failure),
                Err(panic) => failures.push(panic.to_string()),
            }
        }
        Err(DialError::Refused {
            what: failures.join("; "),
        })
    }

    async fn attempt(&self, address: SocketAddr) -> Result<(Endpoint, Connection), String> {
        let failed = |what: String| format!("{address}: {what}");
        let (endpoint, config) = self
            .prepare(address)
            .map_err(|error| failed(error.to_string()))?;
        let connecting = endpoint
            .connect_with(config, address, tls::SERVER_NAME)
            .map_err(|error| failed(error.to_string()))?;
        let connection = connecting.await.map_err(|error| failed(describe(&error)))?;
        Ok((endpoint, connection))
    }

    fn prepare(&self, address: SocketAddr) -> std::io::Result<(Endpoint, ClientConfig)> {
        let mtu = path_mtu(address, self.options.mtu);
        let socket = MeteredSocket::new(bind_towards(address)?, Arc::clone(&self.end.counters))?;
        socket.clamp_to(mtu.largest());
        let socket: Arc<dyn AsyncUdpSocket> = socket;
        let runtime = Arc::new(TokioRuntime);
        let endpoint =
            Endpoint::new_with_abstract_socket(endpoint_config(), None, socket, runtime)?;
        let mut config =
            ClientConfig::new(Arc::clone(&self.tls) as Arc<dyn quinn::crypto::ClientConfig>);
        config.transport_config(self.options.transport(mtu, Opener::Us));
        Ok((endpoint, config))
    }
}
