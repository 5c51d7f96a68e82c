//! What the two sides of a rollback say, and the near side.
//!
//! ```text
//!   near                         far: the target's machine
//!   ask(wish) ─────────────────►
//!             ◄───────────────── offer       guards passed, claimed, held until the end
//!   go        ─────────────────►             agreed
//!             ◄───────────────── state       `inconsistent` is durable
//!             ◄───────────────── done        or failed, at any time
//! ```
//! Each is one JSON object in a control frame, which bounds its length.

use std::time::{Duration, Instant};

use bytes::Bytes;
use lockstep_protocol::{Failure, FailureKind, Text, VolumeState};
use lockstep_transport::{Link, LinkError, LinkSender};
use serde::{Deserialize, Serialize};

use crate::failures::link_broke;
use crate::limits::{POLL, WELCOME_TIMEOUT};
use crate::request::Connect;

/// What is wanted of a target's undo.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wish {
    /// To know what there is.
    Look,
    /// To have the target back as it was.
    Restore,
    /// To let go of what is kept.
    Release,
}

/// What there is of a target. Times are in milliseconds since the Unix epoch.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rollback {
    /// `reflink` or `log`.
    pub kind: String,
    /// The run before which the target was what would be restored.
    pub run: String,
    /// Bytes of the target before the run.
    pub size: u64,
    /// Bytes of it now.
    pub present_size: u64,
    /// When it was begun.
    pub created_unix_ms: u64,
    /// When it is released.
    pub until_unix_ms: u64,
    /// Root of the target before the run, in hexadecimal, if it was measured.
    pub root: Option<String>,
    /// The ledger's word on the target now.
    pub state: String,
}

/// What became of a target.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RolledBack {
    /// Its root, read back from the medium, in hexadecimal.
    pub root: Option<String>,
    /// Its size.
    pub size: u64,
    /// The ledger's word on it now.
    pub state: String,
    /// Bytes that were put back; of a clone all of them.
    pub bytes_written: u64,
}

/// Hears a rollback, and agrees to it.
pub trait RollbackMonitor: Sync {
    /// What would be brought back, and over which link. The rollback ends with the failure, if one is
    /// returned.
    ///
    /// # Errors
    /// That nobody agreed, or a signal.
    fn offered(&self, offer: &Rollback, transport: &'static str) -> Result<(), Failure>;

    /// The target's durable state changed.
    fn state(&self, state: &str);

    /// Worth knowing; the rollback goes on.
    fn warning(&self, message: &str);
}

/// How it ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Asked {
    /// It was only looked at.
    Looked(Rollback),
    /// The target is what it was, or its undo was released.
    Done(RolledBack),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Near {
    Ask(Wish),
    Go,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Far {
    Offer(Rollback),
    State(String),
    Done(RolledBack),
    Failed(Failed),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Failed {
    code: u8,
    message: String,
    hint: String,
}

impl Failed {
    pub(super) fn of(failure: &Failure) -> Failed {
        Failed {
            code: failure.kind.exit_code(),
            message: failure.message.clone(),
            hint: failure.hint.clone(),
        }
    }

    fn failure(&self) -> Failure {
        let kind = FailureKind::from_exit_code(self.code).unwrap_or(FailureKind::Internal);
        let line = |text: &str| Text::new(text).as_str().to_owned();
        Failure::new(kind, line(&self.message)).hint(line(&self.hint))
    }
}

/// Asks a target's side for something, to its end.
///
/// # Errors
/// Why it was not done; what the far side says of it, as it says it.
pub fn ask_rollback(
    connect: Box<dyn Connect>,
    wish: Wish,
    monitor: &dyn RollbackMonitor,
) -> Result<Asked, Failure> {
    let connected = connect.connect()?;
    if let Some(warning) = &connected.warning {
        monitor.warning(warning);
    }
    let link = connected.link;
    let asked = converse(&link, wish, monitor);
    link.sender.close("it is over");
    drop(link);
    drop(connected.lifeline);
    asked
}

fn converse(link: &Link, wish: Wish, monitor: &dyn RollbackMonitor) -> Result<Asked, Failure> {
    let temporary = |error: &LinkError| link_broke(error, false);
    say(&link.sender, &Near::Ask(wish)).map_err(|error| temporary(&error))?;
    let deadline = Instant::now() + WELCOME_TIMEOUT;
    let mut writing = false;
    loop {
        let patience = (!writing).then_some(deadline);
        match hear(link, patience, writing)? {
            Far::Offer(offer) => {
                monitor.offered(&offer, link.via.word())?;
                if wish == Wish::Look {
                    return Ok(Asked::Looked(offer));
                }
                say(&link.sender, &Near::Go).map_err(|error| temporary(&error))?;
                // From here on the far side reads and writes the whole volume.
                writing = true;
            }
            Far::State(state) => monitor.state(known(&state)?),
            Far::Done(done) => {
                known(&done.state)?;
                return Ok(Asked::Done(done));
            }
            Far::Failed(failed) => return Err(failed.failure()),
        }
    }
}

fn known(state: &str) -> Result<&'static str, Failure> {
    let states = [
        VolumeState::Unknown,
        VolumeState::Consistent,
        VolumeState::Inconsistent,
        VolumeState::Failed,
    ];
    let known = states.into_iter().map(VolumeState::word);
    known
        .into_iter()
        .find(|word| *word == state)
        .ok_or_else(|| broke("a state that there is not"))
}

fn hear(link: &Link, deadline: Option<Instant>, writing: bool) -> Result<Far, Failure> {
    let bytes = next(link, deadline).map_err(|error| match error {
        Some(error) => link_broke(&error, writing),
        None => Failure::new(
            FailureKind::Temporary,
            "the target did not open its volume in time",
        ),
    })?;
    serde_json::from_slice(&bytes).map_err(|error| broke(&error.to_string()))
}

/// What the near side wants, or that it agrees.
pub(super) fn heard(link: &Link, timeout: Option<Duration>) -> Result<Near, Failure> {
    let deadline = timeout.map(|timeout| Instant::now() + timeout);
    let bytes = next(link, deadline).map_err(|error| match error {
        Some(error) => link_broke(&error, false),
        None => Failure::new(FailureKind::Temporary, "the near side said nothing in time"),
    })?;
    serde_json::from_slice(&bytes).map_err(|error| broke(&error.to_string()))
}

/// The next frame; nothing once the time is over.
fn next(link: &Link, deadline: Option<Instant>) -> Result<Bytes, Option<LinkError>> {
    loop {
        match link.control.recv_timeout(POLL) {
            Ok(Some(bytes)) => return Ok(bytes),
            Ok(None) if deadline.is_some_and(|deadline| Instant::now() > deadline) => {
                return Err(None);
            }
            Ok(None) => {}
            Err(error) => return Err(Some(error)),
        }
    }
}

pub(super) fn say<T: Serialize>(sender: &LinkSender, word: &T) -> Result<(), LinkError> {
    // Strings and numbers alone: there is nothing in a word that JSON cannot hold.
    sender.control(Bytes::from(serde_json::to_vec(word).unwrap_or_default()))
}

fn broke(what: &str) -> Failure {
    Failure::new(
        FailureKind::Internal,
        format!("the other side broke the protocol: {what}"),
    )
}
