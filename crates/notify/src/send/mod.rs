//! One delivery, now.

mod mail;
mod message;
mod smtp;
mod stream;
mod tls;
mod webhook;

use std::path::Path;
use std::time::Duration;

use lockstep_cluster::file::Notify;
use lockstep_cluster::value::AbsolutePath;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;

use crate::destination::{Destination, all_destinations};
use crate::report::{Line, Report};

/// Longest wait for a connection.
const CONNECT: Duration = Duration::from_secs(10);
/// Longest delivery as a whole.
const WHOLE: Duration = Duration::from_secs(60);
/// Threads for what cannot be waited for otherwise: names, and files.
const MAX_BLOCKING_THREADS: usize = 8;
/// Longest file that is read as a password or secret.
const MAX_SECRET_BYTES: u64 = 4096;

/// Why a report was not taken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// What happened; may hold text of the receiver.
    pub what: Line,
    /// What to do about it.
    pub remedy: String,
    /// Whether trying again is of no use.
    pub(crate) for_good: bool,
    /// The pause that the receiver asks for.
    pub(crate) pause: Option<Duration>,
}

/// How one delivery of [`send_now`] ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sent {
    /// Where to.
    pub destination: Destination,
    /// Whether it was taken.
    pub result: Result<(), Refusal>,
}

impl Refusal {
    fn for_now(what: impl AsRef<str>, remedy: impl Into<String>) -> Self {
        Self {
            what: Line::new(what.as_ref()),
            remedy: remedy.into(),
            for_good: false,
            pause: None,
        }
    }

    fn for_good(what: impl AsRef<str>, remedy: impl Into<String>) -> Self {
        Self {
            for_good: true,
            ..Self::for_now(what, remedy)
        }
    }

    /// Whether trying again is of no use.
    #[must_use]
    pub fn is_for_good(&self) -> bool {
        self.for_good
    }

    /// Something in this program ended the delivery.
    pub(crate) fn defect() -> Self {
        Self::for_now(
            "a defect of lockstep ended this delivery",
            "please report this",
        )
    }
}

/// Sends a report to every destination at once, whatever its endings are, and waits for all.
/// Nothing is queued.
///
/// # Errors
///
/// If this machine has no thread or socket to spare.
pub fn send_now(notify: &Notify, report: &Report) -> std::io::Result<Vec<Sent>> {
    let destinations = all_destinations(notify);
    let runtime = runtime()?;
    let results = runtime.block_on(async {
        let mut flights = JoinSet::new();
        for (number, destination) in destinations.iter().enumerate() {
            let delivery = deliver(notify.clone(), destination.clone(), report.clone());
            flights.spawn(async move { (number, delivery.await) });
        }
        let mut results = vec![Err(Refusal::defect()); destinations.len()];
        while let Some(ended) = flights.join_next().await {
            if let Ok((number, result)) = ended {
                results[number] = result;
            }
        }
        results
    });
    // A name that is still being looked up holds nobody back.
    runtime.shutdown_background();
    let sent = destinations.into_iter().zip(results);
    Ok(sent
        .map(|(destination, result)| Sent {
            destination,
            result,
        })
        .collect())
}

/// What deliveries run on: one thread, the caller's.
pub(crate) fn runtime() -> std::io::Result<Runtime> {
    Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(MAX_BLOCKING_THREADS)
        .thread_name("lockstep-notify-wait")
        .build()
}

/// Delivers one report within the time that a delivery has.
pub(crate) async fn deliver(
    notify: Notify,
    destination: Destination,
    report: Report,
) -> Result<(), Refusal> {
    deliver_within(WHOLE, notify, destination, report).await
}

async fn deliver_within(
    limit: Duration,
    notify: Notify,
    destination: Destination,
    report: Report,
) -> Result<(), Refusal> {
    let delivery = async {
        match &destination {
            Destination::Mail(to) => match &notify.mail {
                Some(mail) if mail.to.contains(to) => mail::send(mail, to, &report).await,
                _ => Err(not_configured()),
            },
            Destination::Webhook(url) => {
                match notify.webhooks.iter().find(|webhook| webhook.url == *url) {
                    Some(webhook) => webhook::send(webhook, &report).await,
                    None => Err(not_configured()),
                }
            }
        }
    };
    match tokio::time::timeout(limit, delivery).await {
        Ok(result) => result,
        Err(_) => Err(Refusal::for_now(
            format!("no answer within {} s", limit.as_secs()),
            "see whether the receiver is overloaded, or a firewall drops what is sent to it",
        )),
    }
}

fn not_configured() -> Refusal {
    Refusal::for_good(
        "the cluster file names it no longer",
        "nothing, if that is meant",
    )
}

/// Does something that blocks, where it holds up nobody.
async fn apart<T: Send + 'static>(
    action: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    let ended = tokio::task::spawn_blocking(action).await;
    ended.unwrap_or_else(|_| Err(Refusal::defect()))
}

/// What a file for passwords holds, without the end of its line.
async fn secret(path: &AbsolutePath) -> Result<Vec<u8>, Refusal> {
    let path = path.as_path().to_owned();
    apart(move || read_secret(&path)).await
}

fn read_secret(path: &Path) -> Result<Vec<u8>, Refusal> {
    use std::io::Read;
    let shown = path.display();
    let refused = |why: &str| {
        Refusal::for_now(
            format!("{shown} {why}"),
            format!("put the secret in {shown}, readable by the user that runs lockstep"),
        )
    };
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(MAX_SECRET_BYTES + 1).read_to_end(&mut bytes))
        .map_err(|error| refused(&format!("cannot be read: {error}")))?;
    if bytes.len() as u64 > MAX_SECRET_BYTES {
        return Err(refused("is too long for a secret"));
    }
    while bytes.last().is_some_and(|byte| b"\r\n".contains(byte)) {
        bytes.pop();
    }
    match bytes.is_empty() {
        true => Err(refused("is empty")),
        false => Ok(bytes),
    }
}

/// An error with its causes, outermost first.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let part = error.to_string();
        if !text.ends_with(&part) {
            text = format!("{text}: {part}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::time::{Duration, Instant};

    use lockstep_cluster::file::{Ending, Mail, Notify, Webhook};

    use super::{CONNECT, WHOLE, all_destinations, deliver_within, read_secret, runtime};
    use crate::report::{Report, ReportId};

    #[test]
    fn a_server_that_says_nothing_is_left() {
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = silent.local_addr().unwrap();
        let notify = Notify {
            mail: Some(Mail {
                to: vec!["a@b".parse().unwrap()],
                from: "c@d".parse().unwrap(),
                smtp: format!("smtp://{address}").parse().unwrap(),
                login: None,
                on: Ending::ALL.to_vec(),
            }),
            webhooks: vec![Webhook {
                url: format!("http://{address}/").parse().unwrap(),
                secret_file: None,
                on: Ending::ALL.to_vec(),
            }],
        };
        let report = Report::of_test(ReportId::new("a").unwrap(), "c", "m", "w", 0);
        let limit = Duration::from_secs(1);
        let runtime = runtime().unwrap();
        for to in all_destinations(&notify) {
            let begun = Instant::now();
            let ended = runtime.block_on(deliver_within(limit, notify.clone(), to, report.clone()));
            let refusal = ended.unwrap_err();
            assert_eq!(refusal.what.as_str(), "no answer within 1 s");
            assert!(!refusal.is_for_good() && begun.elapsed() < 5 * limit);
        }
        assert!(CONNECT < WHOLE && WHOLE == Duration::from_secs(60));
    }

    #[test]
    fn a_secret_is_the_file_without_its_last_line_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        let read = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            read_secret(&path)
        };
        assert_eq!(read(b" pa ss \r\n").unwrap(), b" pa ss ");
        assert_eq!(read(b"pass").unwrap(), b"pass");
        for bad in [&b""[..], b"\n", &[b'x'; 4097]] {
            let refusal = read(bad).unwrap_err();
            assert!(!refusal.for_good, "whoever corrects the file is heard");
        }
        std::fs::remove_file(&path).unwrap();
        assert!(
            read_secret(&path)
                .unwrap_err()
                .what
                .as_str()
                .contains("cannot be read")
        );
    }
}
