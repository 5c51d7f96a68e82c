//! The near side: starts the shell, agrees on keys, chooses the way.

use std::io::{Cursor, Read};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::process::{ChildStdin, ChildStdout};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use async_channel::Receiver;
use rustix::event::PollFlags;

use super::hello::{Decision, FarAddress, Greeting, HANDSHAKE, MAX_REPLY_LINE, NearHello, Reply};
use super::lines::{LineError, Lines, is_ready, write_line};
use super::shell::Shell;
use super::{DialRequest, Dialed, MAX_PAYLOAD, Policy, RemoteError, far};
use crate::end::End;
use crate::error::LinkError;
use crate::link::{Guard, Link, Via};
use crate::meter::Counters;
use crate::pipe::{self, Obituary, Timing};
use crate::quic::{self, Call, OneTimeKey};
use crate::wait::block_on_until;

/// How long UDP may take to get through.
const UDP_LIMIT: Duration = Duration::from_secs(3);
/// How long the host's name may still take to resolve once the far side is ready.
const RESOLVE_LIMIT: Duration = Duration::from_secs(1);
/// How long the far side may take to end by itself.
const REAP_LIMIT: Duration = Duration::from_secs(2);
/// How long a link may still end in its own words once the shell has ended.
const GRACE: Duration = Duration::from_millis(300);
/// How often the shell is asked whether it has ended, should somebody else keep its output open.
const WATCH: Duration = Duration::from_millis(250);
/// Bytes read at a time from a lifeline, on which nothing is expected.
const LIFELINE_BYTES: usize = 1024;

/// Starts a far side and links up with it.
///
/// # Errors
/// [`RemoteError`]; the shell has been ended then.
pub fn dial(request: DialRequest) -> Result<Dialed, RemoteError> {
    if request.payload.len() > MAX_PAYLOAD {
        let what = format!(
            "{} bytes are more than {MAX_PAYLOAD}",
            request.payload.len()
        );
        return Err(RemoteError::Request {
            host: request.host,
            what,
        });
    }
    let addresses = resolve(&request.host);
    let counters = Arc::new(Counters::default());
    let deadline = Instant::now() + request.start_timeout;
    let (shell, pipes) = Shell::start(&request.argv, &request.host)?;
    let talk = Talk {
        reaper: Reaper(Arc::clone(&shell)),
        lines: Lines::new(pipes.stdout, Arc::clone(&counters)),
        stdin: pipes.stdin,
        shell,
        counters,
        deadline,
        request,
    };
    talk.link_up(addresses)
}

/// Ends the shell if the talk with it does not lead to a link.
struct Reaper(Arc<Shell>);

impl Drop for Reaper {
    fn drop(&mut self) {
        self.0.reap(Duration::ZERO);
    }
}

/// The handshake in progress.
struct Talk {
    shell: Arc<Shell>,
    lines: Lines<ChildStdout>,
    stdin: ChildStdin,
    counters: Arc<Counters>,
    deadline: Instant,
    request: DialRequest,
    reaper: Reaper,
}

impl Talk {
    fn link_up(mut self, addresses: Receiver<Vec<IpAddr>>) -> Result<Dialed, RemoteError> {
        let greeting = self.greeting()?;
        let (key, token) = self.secrets()?;
        let hello = NearHello {
            version: self.request.app_version.clone(),
            key: key.public_key(),
            token,
            policy: self.request.policy,
            options: self.request.quic.clamped(),
            payload: std::mem::take(&mut self.request.payload),
        };
        self.say(&hello.line())?;
        let why_not = match self.reply()? {
            Reply::Pipe => None,
            Reply::NoUdp(reason) => {
                Some(format!("{} has no UDP socket: {reason}", self.request.host))
            }
            Reply::Listening(far) => match self.dial_quic(&far, &key, token, &addresses) {
                Ok(link) => return self.over_quic(link, greeting.version),
                Err(reason) => Some(reason),
            },
        };
        self.over_pipe(why_not, greeting.version)
    }

    fn greeting(&mut self) -> Result<Greeting, RemoteError> {
        let greeting = self
            .lines
            .greeting(self.deadline)
            .map_err(|error| self.failed(error))?;
        if greeting.handshake != HANDSHAKE {
            return Err(RemoteError::VersionMismatch {
                host: self.request.host.clone(),
                near: self.request.app_version.clone(),
                far: greeting.version,
            });
        }
        Ok(greeting)
    }

    fn secrets(&self) -> Result<(OneTimeKey, [u8; quic::TOKEN_LEN]), RemoteError> {
        let no_randomness = |what: String| RemoteError::Request {
            host: self.request.host.clone(),
            what,
        };
        let key = OneTimeKey::generate().map_err(|error| no_randomness(error.to_string()))?;
        let mut token = [0; quic::TOKEN_LEN];
        aws_lc_rs::rand::fill(&mut token)
            .map_err(|_| no_randomness("no randomness for a token".to_owned()))?;
        Ok((key, token))
    }

    fn say(&mut self, line: &str) -> Result<(), RemoteError> {
        let said = write_line(&mut self.stdin, line, &self.counters, self.deadline);
        said.map_err(|error| self.failed(error))
    }

    fn reply(&mut self) -> Result<Reply, RemoteError> {
        let line = self
            .lines
            .line(MAX_REPLY_LINE, self.deadline)
            .map_err(|error| self.failed(error))?;
        Reply::parse(&line).map_err(|error| RemoteError::WrongProgram {
            host: self.request.host.clone(),
            what: error.to_string(),
            said: self.shell.last_words(),
        })
    }

    fn failed(&self, error: LineError) -> RemoteError {
        let host = self.request.host.clone();
        match error {
            LineError::Ended | LineError::Io(_) => self.shell.failure(),
            LineError::TimedOut => RemoteError::TimedOut {
                host,
                timeout: self.request.start_timeout,
                said: self.shell.last_words(),
            },
            LineError::TooLong { .. } => RemoteError::WrongProgram {
                host,
                what: error.to_string(),
                said: self.shell.last_words(),
            },
        }
    }

    fn dial_quic(
        &self,
        far: &FarAddress,
        key: &OneTimeKey,
        token: [u8; quic::TOKEN_LEN],
        resolved: &Receiver<Vec<IpAddr>>,
    ) -> Result<Link, String> {
        let resolved = block_on_until(resolved.recv(), Instant::now() + RESOLVE_LIMIT);
        let mut addresses = resolved.and_then(Result::ok).unwrap_or_default();
        addresses.extend(far.address);
        if !far.boot_id.is_empty() && far.boot_id == far::boot_id() {
            addresses.push(Ipv4Addr::LOCALHOST.into());
        }
        let addresses: Vec<SocketAddr> = addresses
            .into_iter()
            .map(|address| (address, 0).into())
            .collect();
        let call = Call {
            key,
            peer: far.key,
            token,
            alpn: quic::ALPN,
        };
        let counters = Arc::clone(&self.counters);
        quic::dial_counted(
            &addresses,
            &far.ports,
            call,
            &self.request.quic,
            UDP_LIMIT,
            counters,
        )
        .map_err(|error| chain(&error))
    }

    fn over_quic(mut self, link: Link, far_version: String) -> Result<Dialed, RemoteError> {
        self.say(Decision::Quic.line())?;
        let end = link.end();
        let (_, stdout) = self.lines.into_rest();
        let watched = (Arc::clone(&end), Arc::clone(&self.shell));
        let watching = thread::Builder::new()
            .name("lockstep-lifeline".to_owned())
            .spawn(move || watch(&watched.0, &watched.1, stdout));
        if let Err(error) = watching {
            return Err(RemoteError::Request {
                host: self.request.host,
                what: error.to_string(),
            });
        }
        let child = Lifeline {
            shell: self.reaper,
            end,
            stdin: Some(self.stdin),
        };
        Ok(Dialed {
            link,
            warning: None,
            far_version,
            child,
        })
    }

    fn over_pipe(
        mut self,
        why_not: Option<String>,
        far_version: String,
    ) -> Result<Dialed, RemoteError> {
        let host = self.request.host.clone();
        let warning = match (self.request.policy, why_not) {
            (Policy::Ssh, _) => None,
            (Policy::Quic, why) => {
                let why = why.unwrap_or_else(|| "the far side offers no UDP".to_owned());
                return Err(RemoteError::QuicRequired { host, why });
            }
            (Policy::Auto, why) => Some(format!(
                "UDP to {host} did not get through in {} s: {}; carrying the data over the ssh pipe",
                UDP_LIMIT.as_secs(),
                why.unwrap_or_else(|| "the far side offers no UDP".to_owned()),
            )),
        };
        // The start's deadline has paid for the attempt over UDP.
        self.deadline = self.deadline.max(Instant::now() + UDP_LIMIT);
        self.say(Decision::Pipe.line())?;
        let (rest, stdout) = self.lines.into_rest();
        let shell = Arc::clone(&self.shell);
        let obituary = Obituary::new(move |_| shell.obituary());
        let read = Cursor::new(rest).chain(stdout);
        let end = pipe::start(read, self.stdin, self.counters, Timing::default(), obituary);
        let link = Link::new(Arc::new(Guard(Arc::clone(&end))), Via::Ssh);
        let child = Lifeline {
            shell: self.reaper,
            end,
            stdin: None,
        };
        Ok(Dialed {
            link,
            warning,
            far_version,
            child,
        })
    }
}

/// Holds on to the far side: dropping it closes the link, lets go of the far side's standard input, waits up to 2 s
/// for the shell to end by itself, and then ends it.
pub struct Lifeline {
    shell: Reaper,
    end: Arc<End>,
    /// With QUIC: open for as long as the far side shall live. With a pipe, the link has it.
    stdin: Option<ChildStdin>,
}

impl Drop for Lifeline {
    fn drop(&mut self) {
        self.end.close("the remote shell was let go");
        self.stdin = None;
        self.shell.0.reap(REAP_LIMIT);
    }
}

impl std::fmt::Debug for Lifeline {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Lifeline").finish_non_exhaustive()
    }
}

/// Ends the link when the shell ends or closes its output. Nothing is expected on it.
fn watch(end: &End, shell: &Shell, mut stdout: ChildStdout) {
    let mut unexpected = [0; LIFELINE_BYTES];
    loop {
        let output_ended = match is_ready(&stdout, PollFlags::IN, Instant::now() + WATCH) {
            Ok(true) => matches!(stdout.read(&mut unexpected), Ok(0) | Err(_)),
            Ok(false) => false,
            Err(_) => true,
        };
        if output_ended || shell.status_within(Duration::ZERO).is_some() {
            if !end.await_end_until(Instant::now() + GRACE) {
                end.stop_with(LinkError::lost(shell.obituary()));
            }
            return;
        }
    }
}

/// Looks the host's name up in the background, while the shell starts.
fn resolve(host: &str) -> Receiver<Vec<IpAddr>> {
    let name = host.rsplit_once('@').map_or(host, |(_, host)| host);
    let name = name
        .trim_start_matches('[')
        .trim_end_matches(']')
        .to_owned();
    let (found, addresses) = async_channel::bounded(1);
    let looking = thread::Builder::new()
        .name("lockstep-resolve".to_owned())
        .spawn(move || {
            let resolved = (name.as_str(), 0).to_socket_addrs();
            let resolved =
                resolved.map(|addresses| addresses.map(|address| address.ip()).collect());
            // Closed means that the link came up or failed without it.
            let _ = found.try_send(resolved.unwrap_or_default());
        });
    if let Err(error) = looking {
        tracing::debug!("cannot look up {host}: {error}");
    }
    addresses
}

/// An error and its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
