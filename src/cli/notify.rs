//! `notify test`: whether mail and webhooks arrive.

use clap::{Args, Subcommand};
use lockstep_cluster::ClusterFile;
use lockstep_notify::{Refusal, Report, ReportId, Sent, all_destinations, send_now};
use lockstep_protocol::{Failure, FailureKind};

use super::Context;
use super::request::who;
use crate::cluster_file;
use crate::events::{ErrorInfo, Event, Notified, Summary};
use crate::failure::usage;

/// Tell people and programs how a resync ended.
#[derive(Args, Debug)]
pub(super) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Send a report, marked as a test, to every mailbox and webhook of the cluster file
    ///
    /// It goes out now and from this machine, whatever their `on` says.
    Test,
}

pub(super) fn run(arguments: &Arguments, context: &Context) -> Result<u8, Failure> {
    let Verb::Test = &arguments.verb;
    let path = cluster_file::locate(context.cluster.as_deref())?;
    let cluster = cluster_file::read(&path, &context.output)?;
    if all_destinations(&cluster.notify).is_empty() {
        let message = format!("{} names nobody to tell", path.display());
        return Err(usage(message)
            .hint("add [notify.mail] or [[notify.webhook]]; docs/cluster.toml shows both"));
    }
    let report = test_report(&cluster)?;
    let sent = send_now(&cluster.notify, &report).map_err(|error| {
        Failure::new(
            FailureKind::Internal,
            format!("cannot send anything: {error}"),
        )
        .hint("see whether this machine has threads and file descriptors to spare")
    })?;
    for sent in &sent {
        tell(sent, context);
    }
    let failed = sent.iter().filter(|sent| sent.result.is_err()).count();
    if failed > 0 {
        let message = format!("{failed} of {} could not be told", sent.len());
        return Err(Failure::new(FailureKind::Temporary, message)
            .hint("each is named above, with why and what to do"));
    }
    context.output.summary(Summary::blank());
    Ok(0)
}

fn test_report(cluster: &ClusterFile) -> Result<Report, Failure> {
    let id = ReportId::random().map_err(|error| {
        Failure::new(
            FailureKind::Internal,
            format!("the kernel gives no random numbers: {error}"),
        )
    })?;
    let system = rustix::system::uname();
    let machine = system.nodename().to_string_lossy();
    let now = jiff::Timestamp::now().as_millisecond();
    Ok(Report::of_test(
        id,
        cluster.name.as_str(),
        &machine,
        &who(),
        u64::try_from(now).unwrap_or_default(),
    ))
}

fn tell(sent: &Sent, context: &Context) {
    let destination = sent.destination.to_string();
    match &sent.result {
        Ok(()) => context.output.result(&format!("{destination}: ok")),
        Err(refusal) => context.output.result(&format!(
            "{destination}: {}; {}",
            refusal.what, refusal.remedy
        )),
    }
    context.output.event(&Event::Notified(Notified {
        destination,
        result: if sent.result.is_ok() { "ok" } else { "failed" },
        error: sent.result.as_ref().err().map(info),
    }));
}

fn info(refusal: &Refusal) -> ErrorInfo {
    let message = refusal.what.to_string();
    let failure = Failure::new(FailureKind::Temporary, message).hint(&refusal.remedy);
    ErrorInfo {
        retriable: !refusal.is_for_good(),
        ..ErrorInfo::from(&failure)
    }
}
