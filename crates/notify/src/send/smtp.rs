//! A conversation with a mail server, step by step: what a refusal means depends on the step.

use std::time::Duration;

use lettre::Address;
use lettre::transport::smtp::Error;
use lettre::transport::smtp::authentication::{Credentials, Mechanism};
use lettre::transport::smtp::client::{
    AsyncSmtpConnection, Certificate, CertificateStore, TlsParameters,
};
use lettre::transport::smtp::commands::{Data, Mail, Rcpt};
use lettre::transport::smtp::extension::ClientId;
use lockstep_cluster::value::{Host, MailServer};

use super::{CONNECT, Refusal, chain, tls};

/// How long a server that has taken the mail may take to say good-bye.
const FAREWELL: Duration = Duration::from_secs(2);

pub(super) struct Conversation {
    connection: AsyncSmtpConnection,
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
        let parameters = parameters(host.clone(), trust).await?;
        let wrapper = server.tls.then(|| parameters.clone());
        let hello = hello();
        let to = (host, server.address.port);
        let mut connection =
            AsyncSmtpConnection::connect_tokio1(to, Some(CONNECT), &hello, wrapper, None)
                .await
                .map_err(|error| unfit(&error))?;
        if connection.can_starttls() {
            connection
                .starttls(parameters, &hello)
                .await
                .map_err(|error| unfit(&error))?;
        }
        Ok(Self { connection })
    }

    pub(super) fn is_encrypted(&self) -> bool {
        self.connection.is_encrypted()
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
        true => {
            "see whether the server's certificate is for this host, and of an authority that this machine trusts"
        }
        false => "see whether the mail server runs, and whether this machine reaches it",
    };
    Refusal::for_now(chain(error), remedy)
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
