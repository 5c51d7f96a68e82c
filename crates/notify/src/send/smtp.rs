//! A conversation with a mail server, step by step: what a refusal means depends on the step.

use std::sync::Arc;
use std::time::Duration;

use lettre::Address;
use lettre::transport::smtp::Error;
use lettre::transport::smtp::authentication::{Credentials, Mechanism};
use lettre::transport::smtp::client::{
    AsyncSmtpConnection, AsyncTokioStream, Certificate, CertificateStore, TlsParameters,
};
use lettre::transport::smtp::commands::{Data, Mail, Rcpt};
use lettre::transport::smtp::extension::ClientId;
use lockstep_cluster::value::{Host, MailServer};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::stream::Bounded;
use super::{Refusal, chain, tls};

/// How long a server that has taken the mail may take to say good-bye.
const FAREWELL: Duration = Duration::from_secs(2);

const NO_TLS: &str = "see whether the server's certificate is for this host, and of an authority that this machine trusts";
const NO_SERVER: &str = "see whether the mail server runs, and whether this machine reaches it";

pub(super) struct Conversation {
    connection: AsyncSmtpConnection,
    is_encrypted: bool,
}

/// Who a mail is from and to, for the server.
pub(super) struct Envelope {
    pub(super) from: Address,
    pub(super) to: Address,
}

/// Whose certificate is good enough.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Trust {
    /// The host's, of an authority that this machine trusts.
    Verified,
    /// Anybody's. Whoever could forge one could as well hide that STARTTLS is offered, and many
    /// a relay has a certificate that nobody signed; encrypted to somebody is more than plain.
    Anybody,
}

impl Conversation {
    /// Connects, and encrypts where that is asked for or offered.
    pub(super) async fn begin(server: &MailServer, with_login: bool) -> Result<Self, Refusal> {
        let host = match &server.address.host {
            Host::Ip(ip) => ip.to_string(),
            Host::Name(name) => name.clone(),
        };
        let trust = match server.tls || with_login {
            true => Trust::Verified,
            false => Trust::Anybody,
        };
        let stream = Bounded::connect(&host, server.address.port).await;
        let stream = stream.map_err(|error| unreached(&error))?;
        let hello = hello();
        let stream: Box<dyn AsyncTokioStream> = match server.tls {
            true => encrypted(stream, &host).await?,
            false => Box::new(stream),
        };
        let mut connection = AsyncSmtpConnection::connect_with_transport(stream, &hello)
            .await
            .map_err(|error| unfit(&error))?;
        if !server.tls && connection.can_starttls() {
            let parameters = parameters(host, trust).await?;
            connection
                .starttls(parameters, &hello)
                .await
                .map_err(|error| unfit(&error))?;
        }
        Ok(Self {
            is_encrypted: server.tls || connection.is_encrypted(),
            connection,
        })
    }

    pub(super) fn is_encrypted(&self) -> bool {
        self.is_encrypted
    }

    pub(super) async fn log_in(&mut self, credentials: &Credentials) -> Result<(), Refusal> {
        let mechanisms = [Mechanism::Plain, Mechanism::Login];
        let answer = self.connection.auth(&mechanisms, credentials).await;
        answer.map(drop).map_err(|error| {
            Refusal::for_now(
                format!("the server does not let this user in: {}", chain(&error)),
                "correct `user` in the cluster file, or the password in `password_file`",
            )
        })
    }

    /// The mail itself; once this returns, the server answers for it.
    pub(super) async fn hand_over(
        &mut self,
        envelope: Envelope,
        message: &str,
    ) -> Result<(), Refusal> {
        let Envelope { from, to } = envelope;
        let step = |answer: Result<_, Error>| answer.map(drop).map_err(|error| refused(&error));
        let connection = &mut self.connection;
        step(connection.command(Mail::new(Some(from), vec![])).await)?;
        step(connection.command(Rcpt::new(to, vec![])).await)?;
        step(connection.command(Data).await)?;
        step(connection.message(message.as_bytes()).await)
    }

    /// Takes leave; the mail is delivered whatever the server says to that.
    pub(super) async fn end(mut self) {
        let _ = tokio::time::timeout(FAREWELL, self.connection.quit()).await;
    }
}

/// TLS from the first byte on, with the host that is meant.
async fn encrypted(
    stream: Bounded<TcpStream>,
    host: &str,
) -> Result<Box<dyn AsyncTokioStream>, Refusal> {
    let name = ServerName::try_from(host.to_owned())
        .map_err(|_| Refusal::for_now("the mail server's name is none for TLS", NO_TLS))?;
    let server = stream.server();
    let connector = TlsConnector::from(Arc::new(tls::client().await?));
    let stream = connector.connect(name, stream).await;
    let stream = stream.map_err(|error| {
        Refusal::for_now(
            format!("TLS with the mail server: {}", chain(&error)),
            NO_TLS,
        )
    })?;
    Ok(Box::new(Bounded::<()>::over(stream, server)))
}

async fn parameters(host: String, trust: Trust) -> Result<TlsParameters, Refusal> {
    let mut builder = TlsParameters::builder(host)
        .certificate_store(CertificateStore::None)
        .dangerous_accept_invalid_certs(trust == Trust::Anybody)
        .dangerous_accept_invalid_hostnames(trust == Trust::Anybody);
    let roots = match trust {
        Trust::Verified => tls::roots().await?,
        Trust::Anybody => Vec::new(),
    };
    for root in roots {
        let certificate = Certificate::from_der(root.to_vec()).map_err(|error| unfit(&error))?;
        builder = builder.add_root_certificate(certificate);
    }
    builder.build().map_err(|error| unfit(&error))
}

/// This machine's name, as it introduces itself.
fn hello() -> ClientId {
    let system = rustix::system::uname();
    let name = system.nodename().to_string_lossy();
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
    match !name.is_empty() && name.bytes().all(fits) {
        true => ClientId::Domain(name.into_owned()),
        false => ClientId::Ipv4(std::net::Ipv4Addr::LOCALHOST),
    }
}

/// Before the mail: whatever is wrong concerns the server or the cluster file, which may be
/// corrected, and no mail is lost meanwhile.
fn unfit(error: &Error) -> Refusal {
    let remedy = match error.is_tls() {
        true => NO_TLS,
        false => NO_SERVER,
    };
    Refusal::for_now(chain(error), remedy)
}

fn unreached(error: &std::io::Error) -> Refusal {
    Refusal::for_now(format!("cannot connect: {}", chain(error)), NO_SERVER)
}

/// The mail is refused: for good with a code of 5xx.
fn refused(error: &Error) -> Refusal {
    match error.is_permanent() {
        true => Refusal::for_good(
            format!("the mail server refuses it: {}", chain(error)),
            "correct `from` or `to` in the cluster file, or the mail server",
        ),
        false => unfit(error),
    }
}
