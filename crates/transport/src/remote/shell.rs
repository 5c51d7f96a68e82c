//! The remote shell as a child process.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use async_channel::Receiver;

use super::{LastWords, RemoteError};
use crate::error::quoted;
use crate::wait::block_on_until;

/// Bytes kept of what the shell wrote to its standard error.
const KEPT_STDERR: usize = 4096;
/// Longest line taken at once from standard error.
const MAX_STDERR_LINE: u64 = 1024;
/// Lines of standard error quoted in a message.
const QUOTED_LINES: usize = 3;
/// How long to wait for the shell's last words and status once its output has ended.
const LAST_WORDS_LIMIT: Duration = Duration::from_secs(2);
/// How often a child is asked whether it has ended.
const POLL: Duration = Duration::from_millis(5);

/// A shell that is running or has ended; shared by the lifeline and those who explain why a pipe ended.
pub(super) struct Shell {
    host: String,
    child: Mutex<Child>,
    stderr: Stderr,
}

/// The pipes to the far side.
pub(super) struct Pipes {
    pub(super) stdin: ChildStdin,
    pub(super) stdout: ChildStdout,
}

impl Shell {
    pub(super) fn start(argv: &[OsString], host: &str) -> Result<(Arc<Self>, Pipes), RemoteError> {
        let missing = |program: &OsString, source| RemoteError::ShellMissing {
            program: quoted(&program.to_string_lossy()),
            source,
        };
        let no_pipe = || std::io::Error::other("the child has no pipes");
        let empty = OsString::new();
        let (program, arguments) = argv.split_first().unwrap_or((&empty, &[]));
        let mut command = Command::new(program);
        command
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|source| missing(program, source))?;
        let pipes = child
            .stdin
            .take()
            .zip(child.stdout.take())
            .zip(child.stderr.take());
        let Some(((stdin, stdout), stderr)) = pipes else {
            return Err(missing(program, no_pipe()));
        };
        let shell = Self {
            host: host.to_owned(),
            child: Mutex::new(child),
            stderr: Stderr::collect(stderr),
        };
        Ok((Arc::new(shell), Pipes { stdin, stdout }))
    }

    /// The exit status, waiting for it up to `limit`.
    pub(super) fn status_within(&self, limit: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            if let Ok(Some(status)) = self.lock().try_wait() {
                return Some(status);
            }
            if Instant::now() >= deadline {
                return None;
            }
            thread::sleep(POLL);
        }
    }

    /// Ends the child and collects its status: gently until `patience` is over.
    pub(super) fn reap(&self, patience: Duration) {
        if self.status_within(patience).is_none() {
            let mut child = self.lock();
            if let Err(error) = child.kill().and_then(|()| child.wait().map(drop)) {
                tracing::warn!("cannot end the remote shell: {error}");
            }
        }
    }

    /// What the shell said last, once its standard error has ended or a moment has passed.
    pub(super) fn last_words(&self) -> LastWords {
        self.stderr.last_words()
    }

    /// Why the far side's output ended, in one clause.
    pub(super) fn obituary(&self) -> String {
        let status = match self.status_within(LAST_WORDS_LIMIT) {
            Some(status) => format!("the remote shell to {} ended ({status})", self.host),
            None => format!("the remote shell to {} closed its output", self.host),
        };
        format!("{status}{}", self.last_words())
    }

    /// Why the output ended before the far side greeted, told by status and last words.
    pub(super) fn failure(&self) -> RemoteError {
        let status = self.status_within(LAST_WORDS_LIMIT);
        let said = self.last_words();
        let host = self.host.clone();
        match status.and_then(|status| status.code()) {
            Some(255) => connection_failure(host, said),
            Some(126 | 127) => RemoteError::NoProgram { host, said },
            _ => RemoteError::WrongProgram {
                host,
                what: match status {
                    Some(status) => format!("it ended without a greeting ({status})"),
                    None => "it closed its output without a greeting".to_owned(),
                },
                said,
            },
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// ssh(1) exits with 255 for every failure of its own; only its words tell them apart.
fn connection_failure(host: String, said: LastWords) -> RemoteError {
    const UNKNOWN: [&str; 3] = [
        "Could not resolve hostname",
        "Name or service not known",
        "No address associated",
    ];
    const REFUSED: [&str; 5] = [
        "Permission denied",
        "Host key verification failed",
        "REMOTE HOST IDENTIFICATION HAS CHANGED",
        "Too many authentication failures",
        "No supported authentication methods",
    ];
    let says_one_of = |phrases: &[&str]| phrases.iter().any(|phrase| said.0.contains(phrase));
    if says_one_of(&REFUSED) {
        RemoteError::AuthRefused { host, said }
    } else if says_one_of(&UNKNOWN) {
        RemoteError::UnknownHost { host, said }
    } else {
        RemoteError::Unreachable { host, said }
    }
}

/// Standard error, read by a thread so that the child never blocks on it; only the end is kept.
struct Stderr {
    kept: Arc<Mutex<Vec<u8>>>,
    ended: Receiver<()>,
}

impl Stderr {
    fn collect(stderr: ChildStderr) -> Self {
        let kept = Arc::new(Mutex::new(Vec::new()));
        let (open, ended) = async_channel::bounded(1);
        let keep = Arc::clone(&kept);
        let collecting = thread::Builder::new()
            .name("lockstep-shell-stderr".to_owned())
            .spawn(move || {
                keep_tail(stderr, &keep);
                drop(open);
            });
        if let Err(error) = collecting {
            tracing::warn!("the remote shell's messages are lost: {error}");
        }
        Self { kept, ended }
    }

    fn last_words(&self) -> LastWords {
        let _ = block_on_until(self.ended.recv(), Instant::now() + LAST_WORDS_LIMIT / 4);
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let text = String::from_utf8_lossy(&kept);
        let lines: Vec<&str> = text
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .collect();
        let last = &lines[lines.len().saturating_sub(QUOTED_LINES)..];
        let quoted: Vec<String> = last.iter().map(|line| quoted(line)).collect();
        LastWords(quoted.join(" / "))
    }
}

fn keep_tail(stderr: ChildStderr, kept: &Mutex<Vec<u8>>) {
    let mut stderr = BufReader::new(stderr);
    let mut line = Vec::new();
    loop {
        line.clear();
        match (&mut stderr)
            .take(MAX_STDERR_LINE)
            .read_until(b'\n', &mut line)
        {
            Ok(0) | Err(_) => return,
            Ok(_) => tracing::debug!(
                "remote shell: {}",
                quoted(String::from_utf8_lossy(&line).trim_end())
            ),
        }
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend_from_slice(&line);
        let excess = kept.len().saturating_sub(KEPT_STDERR);
        kept.drain(..excess);
    }
}
