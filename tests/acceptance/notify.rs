//! `notify test` against a real mail server (aiosmtpd) and a web server, both of them Python's.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use super::lab::missing;
use super::stand::Stand;

/// Debian's: its aiosmtpd is not seen by others.
const PYTHON: &str = "/usr/bin/python3";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

pub(crate) fn has_mail_server() -> bool {
    let found = Command::new(PYTHON)
        .args(["-c", "import aiosmtpd"])
        .stderr(Stdio::null())
        .status();
    found.is_ok_and(|status| status.success()) || missing("aiosmtpd is not installed")
}

/// A server that ends with the test, and the folder where it writes down what it takes.
pub(crate) struct Receiver {
    child: Child,
    folder: PathBuf,
    pub(crate) port: u16,
}

impl Receiver {
    fn start(stand: &Stand, kind: &str, options: &[&str]) -> Receiver {
        Receiver::named(stand, kind, kind, options)
    }

    /// One of several of a kind.
    pub(crate) fn named(stand: &Stand, name: &str, kind: &str, options: &[&str]) -> Receiver {
        let folder = stand.path(name);
        let mut child = Command::new(PYTHON)
            .arg(root().join("crates/notify/tests/notify/receiver.py"))
            .arg(kind)
            .arg(&folder)
            .args(options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let stdout = child.stdout.take().unwrap();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        Receiver {
            child,
            folder,
            port: line.trim().parse().unwrap(),
        }
    }

    pub(crate) fn taken(&self) -> Vec<Value> {
        let listed = std::fs::read_dir(&self.folder).unwrap();
        let mut paths: Vec<PathBuf> = listed.map(|entry| entry.unwrap().path()).collect();
        // What is being written is not there yet.
        paths.retain(|path| path.extension().is_some_and(|it| it == "json"));
        paths.sort();
        paths
            .iter()
            .map(|path| serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap())
            .collect()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The cluster file of the documentation with these sections about notifications.
fn cluster_file(stand: &Stand, notify: &str) {
    let example = std::fs::read_to_string(root().join("docs/cluster.toml")).unwrap();
    let end = example.find("[notify.mail]").unwrap();
    let text = format!("{}\n{notify}", &example[..end]);
    stand.file("cluster.toml", text.as_bytes());
}

fn mail(port: u16) -> String {
    format!(
        "[notify.mail]\nto = [\"sre@example.org\", \"gone@example.org\"]\nfrom = \"l@example.org\"\n\
         smtp = \"smtp://127.0.0.1:{port}\"\non = [\"failed\"]\n"
    )
}

fn webhook(port: u16) -> String {
    format!(
        "[[notify.webhook]]\nurl = \"http://127.0.0.1:{port}/T0/B1\"\nsecret_file = \"/secret\"\n"
    )
}

#[test]
fn a_test_reaches_everybody_and_cannot_be_taken_for_a_resync() {
    if !has_mail_server() {
        return;
    }
    let stand = Stand::new();
    let (smtp, http) = (
        Receiver::start(&stand, "smtp", &[]),
        Receiver::start(&stand, "http", &[]),
    );
    let secret = stand.file("secret", b"of the test\n");
    let hook = webhook(http.port).replace("/secret", secret.to_str().unwrap());
    cluster_file(&stand, &(mail(smtp.port) + &hook));

    let ran = stand.run(&["notify", "test"]).exits(0);
    let lines: Vec<&str> = ran.stdout.lines().collect();
    let host = format!("http://127.0.0.1:{}/...: ok", http.port);
    assert_eq!(
        lines,
        [
            "mailto:sre@example.org: ok",
            "mailto:gone@example.org: ok",
            &host
        ]
    );
    let mails = smtp.taken();
    assert_eq!(mails.len(), 2);
    let subject = mails[0]["headers"]["Subject"].as_str().unwrap();
    assert_eq!(
        subject,
        "[lockstep] TEST prod: this is only a test, nothing was resynced"
    );
    assert_eq!(mails[0]["json"]["test"], true);
    let request = &http.taken()[0];
    assert_eq!(request["json"], mails[0]["json"]);
    assert_eq!(
        request["headers"]["Lockstep-Id"],
        mails[0]["headers"]["Lockstep-Id"]
    );
    assert_documented_check_agrees(request);
    assert!(!stand.path("state").exists(), "nothing is queued");
}

/// The check that the documentation shows says yes to this request, and no to any other.
#[track_caller]
pub(crate) fn assert_documented_check_agrees(request: &Value) {
    let document = std::fs::read_to_string(root().join("docs/notifications.md")).unwrap();
    let (_, rest) = document.split_once("```python\n").unwrap();
    let (code, _) = rest.split_once("```").unwrap();
    let judged = format!(
        "{code}\nimport sys\nbody, told = sys.argv[1].encode(), sys.argv[2]\n\
         print(is_from_lockstep(b'of the test', body, told),\n\
         is_from_lockstep(b'of the test', body + b' ', told),\n\
         is_from_lockstep(b'another', body, told))"
    );
    let output = Command::new(PYTHON)
        .args(["-c", &judged])
        .arg(request["body"].as_str().unwrap())
        .arg(request["headers"]["Lockstep-Signature"].as_str().unwrap())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(said.trim(), "True False False");
}

#[test]
fn who_could_not_be_told_is_named_with_why_and_exit_20() {
    if !has_mail_server() {
        return;
    }
    let stand = Stand::new();
    let smtp = Receiver::start(&stand, "smtp", &["--refuse", "gone@example.org"]);
    let http = Receiver::start(&stand, "http", &["--answer", "503"]);
    let secret = stand.file("secret", b"x");
    let hook = webhook(http.port).replace("/secret", secret.to_str().unwrap());
    cluster_file(&stand, &(mail(smtp.port) + &hook));

    let ran = stand.run(&["notify", "test"]).exits(20);
    assert!(ran.stdout.contains("mailto:sre@example.org: ok\n"));
    assert!(
        ran.stdout.contains("550") && ran.stdout.contains("correct `from` or `to`"),
        "{}",
        ran.stdout
    );
    assert!(ran.stdout.contains("/...: the answer is 503"));
    assert!(!ran.stdout.contains("T0"), "{}", ran.stdout);

    let events = stand.events(&["notify", "test"]).exits(20);
    let notified = events.of_type("notified");
    let results: Vec<&str> = notified
        .iter()
        .map(|event| event["result"].as_str().unwrap())
        .collect();
    assert_eq!(results, ["ok", "failed", "failed"]);
    assert_eq!(notified[1]["error"]["retriable"], false);
    assert_eq!(notified[2]["error"]["retriable"], true);
    assert_eq!(events.summary()["error"]["code"], "temporary");
}

#[test]
fn nobody_to_tell_is_exit_2() {
    let stand = Stand::new();
    cluster_file(&stand, "");
    let ran = stand.run(&["notify", "test"]).exits(2);
    assert!(
        ran.stderr.contains("names nobody to tell"),
        "{}",
        ran.stderr
    );
    assert!(ran.stderr.contains("[[notify.webhook]]"), "{}", ran.stderr);
}
