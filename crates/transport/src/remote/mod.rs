//! A far side started over a remote shell.
//!
//! The near side starts a command such as `ssh host lockstep remote-target` and talks over its pipes, a line each:
//!
//! ```text
//! far   LOCKSTEP-REMOTE 1 0.1.0                            at once; whatever a login shell printed before is skipped
//! near  LOCKSTEP-NEAR 1 0.1.0 9f04…                        hex: key, token, policy, options, payload
//! far   LOCKSTEP-FAR key=… ports=… address=… boot=…        or `LOCKSTEP-FAR pipe`, or `LOCKSTEP-FAR no-udp REASON`
//! near  QUIC                                               or `PIPE`
//! ```
//!
//! After `QUIC` the frames go over UDP and the pipes stay open as a lifeline: when either ends, so does the link, and
//! with it the far side. After `PIPE` they carry the frames themselves. Keys and token live for one run and go over
//! standard input only, never in arguments or the environment.

mod far;
mod hello;
mod lines;
mod near;
mod shell;

use std::ffi::OsString;
use std::time::Duration;

use crate::link::Link;
use crate::quic::QuicOptions;

pub use self::far::{AnswerError, FarLifeline, answer, boot_id};
pub use self::near::{Lifeline, dial};

/// Largest payload delivered to the far side, in bytes.
pub const MAX_PAYLOAD: usize = 32 * 1024;

/// How the frames are to travel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// QUIC, or the shell's pipes if UDP does not get through within 3 s.
    #[default]
    Auto,
    /// QUIC or not at all.
    Quic,
    /// The shell's pipes; no UDP socket is opened.
    Ssh,
}

/// A far side to start, and what to tell it.
#[derive(Clone, Debug)]
pub struct DialRequest {
    /// The whole command, such as `ssh -p 2222 user@host lockstep remote-target`.
    pub argv: Vec<OsString>,
    /// The host as typed, `[USER@]HOST`: for its addresses and for messages.
    pub host: String,
    /// Delivered to the far side as it is; at most 32 KiB.
    pub payload: Vec<u8>,
    /// How the frames are to travel.
    pub policy: Policy,
    /// For QUIC; the far side uses the same.
    pub quic: QuicOptions,
    /// This program's version, one word.
    pub app_version: String,
    /// How long the shell may take until the far side has greeted and answered.
    pub start_timeout: Duration,
}

/// The near end of a link to a far side.
#[derive(Debug)]
pub struct Dialed {
    /// The link.
    pub link: Link,
    /// What the user should know: why the data does not go over QUIC.
    pub warning: Option<String>,
    /// The far side's program version, escaped and cut.
    pub far_version: String,
    /// Keeps the far side; dropping it ends the link, and the shell.
    pub child: Lifeline,
}

/// The far end of a link to the side that started this process.
#[derive(Debug)]
pub struct Answered {
    /// The link.
    pub link: Link,
    /// What the near side had to tell.
    pub payload: Vec<u8>,
    /// The near side's program version, escaped and cut.
    pub near_version: String,
    /// Watches for the near side to go; the link ends when it does.
    pub lifeline: FarLifeline,
}

/// Why there is no far side. Each message is one sentence, followed by the shell's last words where they help.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// The host's name has no address.
    #[error("the host {host} is not known{said}")]
    UnknownHost {
        /// The host as typed.
        host: String,
        /// The shell's last words, or nothing.
        said: LastWords,
    },
    /// The shell found no way to the host, or lost it.
    #[error("{host} cannot be reached{said}")]
    Unreachable {
        /// The host as typed.
        host: String,
        /// The shell's last words, or nothing.
        said: LastWords,
    },
    /// The host refused the user, or the user's shell refused the host's key.
    #[error("{host} refused the login, or its host key is not trusted{said}")]
    AuthRefused {
        /// The host as typed.
        host: String,
        /// The shell's last words, or nothing.
        said: LastWords,
    },
    /// There is no such program on the far side.
    #[error("{host} has no lockstep where it was looked for{said}")]
    NoProgram {
        /// The host as typed.
        host: String,
        /// The shell's last words, or nothing.
        said: LastWords,
    },
    /// Something ran on the far side, and it was not lockstep, or it gave up at once.
    #[error("what was started on {host} is not lockstep, or it stopped at once: {what}{said}")]
    WrongProgram {
        /// The host as typed.
        host: String,
        /// What was observed: its exit status, or what it sent.
        what: String,
        /// The shell's last words, or nothing.
        said: LastWords,
    },
    /// The two programs do not speak the same handshake.
    #[error(
        "lockstep {near} here and lockstep {far} on {host} do not understand each other: install the same version"
    )]
    VersionMismatch {
        /// The host as typed.
        host: String,
        /// This program's version.
        near: String,
        /// The far side's version.
        far: String,
    },
    /// The remote shell command itself cannot be started.
    #[error("the remote shell {program} cannot be started")]
    ShellMissing {
        /// The command's first word.
        program: String,
        /// Why not.
        source: std::io::Error,
    },
    /// The far side did not come up in time.
    #[error("{host} did not answer through the remote shell within {} s{said}", .timeout.as_secs_f32())]
    TimedOut {
        /// The host as typed.
        host: String,
        /// How long was waited.
        timeout: Duration,
        /// The shell's last words, or nothing.
        said: LastWords,
    },
    /// QUIC was demanded, and UDP does not get through.
    #[error("UDP to {host} did not get through, and the transport is set to quic: {why}")]
    QuicRequired {
        /// The host as typed.
        host: String,
        /// What was tried and observed.
        why: String,
    },
    /// The caller's request cannot be sent.
    #[error("the request to {host} cannot be sent: {what}")]
    Request {
        /// The host as typed.
        host: String,
        /// What is wrong with it.
        what: String,
    },
}

/// The last lines that a shell wrote to its standard error, escaped; shown after a colon, or not at all if empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LastWords(pub String);

impl std::fmt::Display for LastWords {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0.as_str() {
            "" => Ok(()),
            words => write!(out, ": {words}"),
        }
    }
}
