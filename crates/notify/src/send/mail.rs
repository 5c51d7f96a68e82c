//! A report as mail to one of its mailboxes. Each has a delivery of its own, so that one that is
//! wrong or slow keeps the report from nobody else.

use lettre::Address;
use lettre::transport::smtp::authentication::Credentials;
use lockstep_cluster::file::{Login, Mail};
use lockstep_cluster::value::{Host, Mailbox};

use super::message::message;
use super::smtp::{Conversation, Envelope};
use super::{Refusal, secret};
use crate::report::Report;

pub(super) async fn send(mail: &Mail, to: &Mailbox, report: &Report) -> Result<(), Refusal> {
    let envelope = Envelope {
        from: address(&mail.from, "from")?,
        to: address(to, "to")?,
    };
    let credentials = match &mail.login {
        Some(login) => Some(credentials(login).await?),
        None => None,
    };
    let message = message(mail, report);
    let mut conversation = Conversation::begin(&mail.smtp, credentials.is_some()).await?;
    if let Some(credentials) = &credentials {
        if !conversation.is_encrypted() && !is_this_machine(&mail.smtp.address.host) {
            return Err(Refusal::for_now(
                "the server offers no TLS, and the password is not sent without",
                "write smtps:// in the cluster file, or switch on STARTTLS on the server",
            ));
        }
        conversation.log_in(credentials).await?;
    }
    conversation.hand_over(envelope, &message).await?;
    conversation.end().await;
    Ok(())
}

fn address(mailbox: &Mailbox, key: &str) -> Result<Address, Refusal> {
    mailbox.as_str().parse().map_err(|error| {
        Refusal::for_good(
            format!("{} is no address of mail: {error}", mailbox.as_str()),
            format!("correct `{key}` in the cluster file"),
        )
    })
}

async fn credentials(login: &Login) -> Result<Credentials, Refusal> {
    let password = String::from_utf8(secret(&login.password_file).await?).map_err(|_| {
        Refusal::for_now(
            format!("the password in {} is not UTF-8", login.password_file),
            "correct that file",
        )
    })?;
    Ok(Credentials::new(login.user.clone(), password))
}

/// Whether what is sent there leaves this machine.
fn is_this_machine(host: &Host) -> bool {
    match host {
        Host::Ip(ip) => ip.is_loopback(),
        Host::Name(name) => name == "localhost",
    }
}
