//! Reports, configurations, and a child process that sends.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use lockstep_cluster::ClusterFile;
use lockstep_cluster::file::{Ending, Notify};
use lockstep_notify::{Line, NodeReport, NodeResult, Queue, Report, ReportId, Sender, send_now};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(30);
const CHILD: &str = "LOCKSTEP_NOTIFY_TEST_CHILD";

#[track_caller]
pub(crate) fn eventually(what: &str, mut happened: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !happened() {
        assert!(Instant::now() < deadline, "this did not happen: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A folder with a queue and the diaries of receivers.
pub(crate) struct Scene {
    folder: TempDir,
}

impl Scene {
    pub(crate) fn new() -> Scene {
        Scene {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn queue(&self) -> Queue {
        Queue::open(&self.path("queue")).unwrap()
    }

    pub(crate) fn sender(&self, configuration: &str) -> Sender {
        Sender::start(self.queue(), notify(configuration)).unwrap()
    }

    /// A file whose path can stand in a configuration.
    pub(crate) fn secret(&self, text: &str) -> String {
        let path = self.path("secret");
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// Files that wait.
    pub(crate) fn waiting(&self) -> usize {
        let listed = std::fs::read_dir(self.path("queue")).unwrap();
        let names = listed.map(|entry| entry.unwrap().file_name());
        names
            .filter(|name| name.to_string_lossy().ends_with(".json"))
            .count()
    }
}

/// A cluster file's sections about notifications, read as the program reads them.
pub(crate) fn notify(configuration: &str) -> Notify {
    const EXAMPLE: &str = include_str!("../../../../docs/cluster.toml");
    let end = EXAMPLE.find("[notify.mail]").unwrap();
    let text = format!("{}\n{configuration}", &EXAMPLE[..end]);
    let file = ClusterFile::parse(text.as_bytes(), Path::new("cluster.toml"));
    file.unwrap_or_else(|mistakes| panic!("{mistakes}")).notify
}

pub(crate) fn mail_to(port: u16, to: &[&str]) -> String {
    format!(
        "[notify.mail]\nto = {to:?}\nfrom = \"lockstep@example.org\"\nsmtp = \"smtp://127.0.0.1:{port}\"\n"
    )
}

pub(crate) fn webhook_to(port: u16) -> String {
    format!("[[notify.webhook]]\nurl = \"http://127.0.0.1:{port}/hook\"\n")
}

/// A report of a resync of which one half failed, with an error that tries to add a header.
pub(crate) fn report(id: &str) -> Report {
    let node = |name: &str, result, error: Option<&str>| NodeReport {
        node: Line::new(name),
        result,
        state: Line::new(if error.is_some() {
            "inconsistent"
        } else {
            "consistent"
        }),
        bytes_differing: 479_612_928,
        bytes_written: 479_612_928,
        bytes_sent: 168_000_000,
        seconds: 2.0,
        downtime_seconds: Some(41.5),
        error: error.map(Line::new),
        next: error.map(|_| Line::new("lockstep resync pgdata db3")),
    };
    Report {
        id: ReportId::new(id).unwrap(),
        test: false,
        cluster: Line::new("prod"),
        volume: Line::new("pgdata"),
        verdict: Ending::Partial,
        exit_code: 8,
        run: Line::new("run-1"),
        epoch: Some(7),
        primary: Line::new("db1"),
        who: Line::new("ops (key lsk1:x)"),
        reason: Some(Line::new("nach dem Absturz: Überlauf")),
        started_unix_ms: 1_700_000_000_000,
        ended_unix_ms: 1_700_000_002_000,
        seconds: 2.0,
        root: Some(Line::new(&"ab".repeat(32))),
        size: 4 << 30,
        nodes: vec![
            node("db2", NodeResult::Ok, None),
            node(
                "db3",
                NodeResult::Failed,
                Some("full\r\nBcc: x@y\r\n\r\nbody"),
            ),
        ],
        error: None,
        next: Some(Line::new("lockstep resync pgdata db3")),
    }
}

/// Sends in a process of its own that trusts this authority; returns what it says of each
/// destination.
pub(crate) fn send_trusting(authority: &str, configuration: &str) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let (given, told) = (folder.path().join("given"), folder.path().join("told"));
    std::fs::write(&given, configuration).unwrap();
    let ended = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "scene::child_sends", "--nocapture"])
        .env(CHILD, folder.path())
        .env("SSL_CERT_FILE", authority)
        .env_remove("SSL_CERT_DIR")
        .status()
        .unwrap();
    assert!(ended.success());
    let told = std::fs::read_to_string(told).unwrap();
    told.lines().map(str::to_owned).collect()
}

/// The child's life. Does nothing when it runs as an ordinary test.
#[test]
fn child_sends() {
    let Some(folder) = std::env::var_os(CHILD).map(PathBuf::from) else {
        return;
    };
    let configuration = std::fs::read_to_string(folder.join("given")).unwrap();
    let sent = send_now(&notify(&configuration), &report("tls-1")).unwrap();
    let lines: Vec<String> = sent
        .iter()
        .map(|sent| match &sent.result {
            Ok(()) => format!("{} ok\n", sent.destination),
            Err(refusal) => format!("{} {}\n", sent.destination, refusal.what),
        })
        .collect();
    std::fs::write(folder.join("told"), lines.concat()).unwrap();
}
