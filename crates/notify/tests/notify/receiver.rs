//! `receiver.py` as a child of the test, and certificates made by openssl.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use serde_json::Value;
use tempfile::TempDir;

use crate::scene::eventually;

/// Debian's: its aiosmtpd is not seen by others.
const PYTHON: &str = "/usr/bin/python3";
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/notify/receiver.py");

/// Ends the test, saying why, where there is no mail server.
macro_rules! need_python {
    () => {
        if !crate::receiver::is_there() {
            crate::receiver::skip("needs python3, python3-aiosmtpd and openssl");
            return;
        }
    };
}
pub(crate) use need_python;

pub(crate) fn is_there() -> bool {
    let works = |program: &str, arguments: &[&str]| {
        let mut command = Command::new(program);
        command.args(arguments).stdout(Stdio::null());
        command
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    };
    works(PYTHON, &["-c", "import aiosmtpd"]) && works("openssl", &["version"])
}

pub(crate) fn skip(why: &str) {
    assert!(std::env::var_os("LOCKSTEP_REQUIRE_LABS").is_none(), "{why}");
    eprintln!("skipped: {why}");
}

/// A server that ends with the test.
pub(crate) struct Receiver {
    child: Child,
    folder: PathBuf,
    pub(crate) port: u16,
}

impl Receiver {
    /// `kind` is smtp or http; it writes down in this folder.
    pub(crate) fn start(kind: &str, folder: &Path, options: &[&str]) -> Receiver {
        let mut child = Command::new(PYTHON)
            .args([SCRIPT, kind])
            .arg(folder)
            .args(options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let port = line.trim().parse().unwrap_or_else(|_| {
            panic!("the receiver does not start with {options:?}");
        });
        Receiver {
            child,
            folder: folder.to_owned(),
            port,
        }
    }

    /// Everything that arrived so far.
    pub(crate) fn taken(&self) -> Vec<Value> {
        taken(&self.folder)
    }

    /// Waits until so much has arrived.
    #[track_caller]
    pub(crate) fn takes(&self, count: usize) -> Vec<Value> {
        eventually("it arrives", || self.taken().len() >= count);
        self.taken()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn taken(folder: &Path) -> Vec<Value> {
    let listed = std::fs::read_dir(folder).unwrap();
    let mut paths: Vec<PathBuf> = listed
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|kind| kind == "json"))
        .collect();
    paths.sort();
    paths
        .iter()
        .map(|path| serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap())
        .collect()
}

/// An authority, and a server's certificate of it for localhost and 127.0.0.1.
pub(crate) struct Certificates {
    folder: TempDir,
}

impl Certificates {
    pub(crate) fn make() -> Certificates {
        const SCRIPT: &str = r#"
            new='req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes'
            openssl $new -x509 -days 2 -subj /CN=authority -keyout ca.key -out ca.pem
            openssl $new -subj /CN=localhost -keyout server.key -out server.csr
            echo 'subjectAltName=DNS:localhost,IP:127.0.0.1' >names
            openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial \
                -days 2 -extfile names -out server.crt
            cat server.crt server.key >server.pem"#;
        let folder = tempfile::tempdir().unwrap();
        let made = Command::new("sh")
            .args(["-ec", SCRIPT])
            .current_dir(folder.path())
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert!(made.success());
        Certificates { folder }
    }

    /// What a server needs.
    pub(crate) fn server(&self) -> String {
        self.path("server.pem")
    }

    /// What a client has to trust.
    pub(crate) fn authority(&self) -> String {
        self.path("ca.pem")
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }
}

/// A port where nobody listens: it was just given up.
pub(crate) fn free_port() -> u16 {
    static PORT: OnceLock<u16> = OnceLock::new();
    *PORT.get_or_init(|| {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port()
    })
}
