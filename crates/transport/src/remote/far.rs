//! The far side: greets, listens, and ends when the near side goes.

use std::fs::File;
use std::io::{self, Cursor, Read};
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::hello::{Decision, FarAddress, Greeting, HelloError, MAX_NEAR_LINE, NearHello, Reply};
use super::lines::{LineError, Lines, write_line};
use super::{Answered, Policy};
use crate::end::End;
use crate::error::LinkError;
use crate::link::{Guard, Link, Via};
use crate::meter::Counters;
use crate::pipe::{self, Obituary, Timing};
use crate::quic::{self, AcceptError, Listening, OneTimeKey};

/// How long the near side may take for each of its lines.
const LINE_LIMIT: Duration = Duration::from_secs(60);
/// How long the connections may still take once the near side says that they are up.
const ACCEPT_LIMIT: Duration = Duration::from_secs(5);
/// How long a link may still end in its own words once the near side has gone.
const GRACE: Duration = Duration::from_millis(300);
/// Longest decision line.
const MAX_DECISION: usize = 64;

/// Why there is no near side.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    /// The near side went away, or somebody started this by hand.
    #[error("the near side went away while the link was set up")]
    NearGone,
    /// The near side said nothing for a minute.
    #[error("the near side said nothing within {} s", LINE_LIMIT.as_secs())]
    TimedOut,
    /// Standard input is not a near side.
    #[error("standard input does not come from lockstep: {what}")]
    NotNear {
        /// What came instead.
        what: String,
    },
    /// A near side of a version that this program does not understand.
    #[error("the near side speaks another handshake: {what}")]
    VersionMismatch {
        /// Its handshake and ours.
        what: String,
    },
    /// The link was agreed on and then failed.
    #[error(transparent)]
    Accept(#[from] AcceptError),
    /// Standard input or output failed, or there is no thread.
    #[error("cannot use standard input and output")]
    Io(#[from] io::Error),
}

/// Answers the near side on this process's standard input and output, which belong to the link from now on.
///
/// # Errors
/// [`AnswerError`] if there is no near side or no link to it.
pub fn answer(app_version: &str) -> Result<Answered, AnswerError> {
    let stdin = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let stdout = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let counters = Arc::new(Counters::default());
    let talk = Talk {
        lines: Lines::new(stdin, Arc::clone(&counters)),
        stdout,
        counters,
    };
    talk.link_up(app_version)
}

/// The handshake in progress.
struct Talk {
    lines: Lines<File>,
    stdout: File,
    counters: Arc<Counters>,
}

impl Talk {
    fn link_up(mut self, app_version: &str) -> Result<Answered, AnswerError> {
        self.say(&Greeting::line(app_version))?;
        let hello = NearHello::parse(&self.line(MAX_NEAR_LINE)?).map_err(|error| match error {
            HelloError::Handshake(_) => AnswerError::VersionMismatch {
                what: error.to_string(),
            },
            _ => AnswerError::NotNear {
                what: error.to_string(),
            },
        })?;
        let (reply, listening) = match hello.policy {
            Policy::Ssh => (Reply::Pipe, None),
            Policy::Auto | Policy::Quic => self.listen(&hello),
        };
        self.say(&reply.line())?;
        let decision = Decision::parse(&self.line(MAX_DECISION)?);
        match (decision, listening) {
            (Ok(Decision::Quic), Some(listening)) => self.over_quic(listening, hello),
            (Ok(Decision::Quic), None) => Err(AnswerError::NotNear {
                what: "QUIC was not on offer".to_owned(),
            }),
            (Ok(Decision::Pipe), listening) => {
                drop(listening);
                Ok(self.over_pipe(hello))
            }
            (Err(error), _) => Err(AnswerError::NotNear {
                what: error.to_string(),
            }),
        }
    }

    fn say(&mut self, line: &str) -> Result<(), AnswerError> {
        let deadline = Instant::now() + LINE_LIMIT;
        write_line(&mut self.stdout, line, &self.counters, deadline).map_err(failed)
    }

    fn line(&mut self, limit: usize) -> Result<String, AnswerError> {
        self.lines
            .line(limit, Instant::now() + LINE_LIMIT)
            .map_err(failed)
    }

    fn listen(&self, hello: &NearHello) -> (Reply, Option<Listening>) {
        let counters = Arc::clone(&self.counters);
        let listening = OneTimeKey::generate()
            .map_err(|error| error.to_string())
            .and_then(|key| {
                quic::listen_counted(None, &key, hello.key, hello.token, &hello.options, counters)
                    .map_err(|error| error.to_string())
            });
        match listening {
            Err(reason) => (Reply::NoUdp(reason), None),
            Ok(listening) => {
                let far = FarAddress {
                    key: listening.public_key(),
                    ports: listening.ports(),
                    address: ssh_server_address(),
                    boot_id: boot_id(),
                };
                (Reply::Listening(far), Some(listening))
            }
        }
    }

    fn over_quic(self, listening: Listening, hello: NearHello) -> Result<Answered, AnswerError> {
        let link = listening.accept(Instant::now() + ACCEPT_LIMIT)?;
        let (_, stdin) = self.lines.into_rest();
        let end = link.end();
        thread::Builder::new()
            .name("lockstep-lifeline".to_owned())
            .spawn(move || watch(&end, stdin))?;
        Ok(Answered {
            link,
            payload: hello.payload,
            near_version: hello.version,
            lifeline: FarLifeline {
                _stdout: Some(self.stdout),
            },
        })
    }

    fn over_pipe(self, hello: NearHello) -> Answered {
        let (rest, stdin) = self.lines.into_rest();
        let read = Cursor::new(rest).chain(stdin);
        let obituary = Obituary::new(|observed| format!("the near side went away: {observed}"));
        let end = pipe::start(
            read,
            self.stdout,
            self.counters,
            Timing::default(),
            obituary,
        );
        Answered {
            link: Link::new(Arc::new(Guard(end)), Via::Ssh),
            payload: hello.payload,
            near_version: hello.version,
            lifeline: FarLifeline { _stdout: None },
        }
    }
}

fn failed(error: LineError) -> AnswerError {
    match error {
        LineError::Ended => AnswerError::NearGone,
        LineError::TimedOut => AnswerError::TimedOut,
        LineError::TooLong { .. } => AnswerError::NotNear {
            what: error.to_string(),
        },
        LineError::Io(error) if error.kind() == io::ErrorKind::BrokenPipe => AnswerError::NearGone,
        LineError::Io(error) => AnswerError::Io(error),
    }
}

/// Keeps this side's end of the lifeline; the near side takes its disappearance for the end.
#[derive(Debug)]
pub struct FarLifeline {
    _stdout: Option<File>,
}

/// Ends the link when the near side has closed its end of the pipe. Nothing is expected on it.
fn watch(end: &End, mut stdin: File) {
    let mut unexpected = [0; 1024];
    loop {
        match stdin.read(&mut unexpected) {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    if !end.await_end_until(Instant::now() + GRACE) {
        end.stop_with(LinkError::lost("the near side went away"));
    }
}

/// The address at which sshd took the connection: `client-ip client-port server-ip server-port` (ssh(1)).
fn ssh_server_address() -> Option<IpAddr> {
    let connection = std::env::var("SSH_CONNECTION").ok()?;
    connection.split(' ').nth(2)?.parse().ok()
}

/// The kernel's boot id: equal on both sides if they are one machine, whatever it is called; may be
/// empty.
pub fn boot_id() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    id.map(|id| id.trim().to_owned()).unwrap_or_default()
}
