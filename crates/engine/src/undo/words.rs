//! What the two sides of a rollback say, and the near side.
//!
//! ```text
//!   near                         far: the target's machine
//!   ask(wish) ─────────────────►
//!             ◄───────────────── offer       guards passed, claimed, held until the end
//!   go        ─────────────────►             agreed; whatever reads the whole target comes after
//!             ◄───────────────── state       `inconsistent` is durable
//!             ◄───────────────── done        or failed, at any time
//! ```
//! Each is one JSON object in a control frame, which bounds its length. The near side takes each in its
//! turn only, waits a bounded time for the offer, and after it for as long as the link lives.

use std::time::{Duration, Instant};

use bytes::Bytes;
use lockstep_protocol::{Failure, FailureKind, Text, VolumeState};
use lockstep_transport::{Link, LinkError, LinkSender};
use serde::{Deserialize, Serialize};

use crate::failures::link_broke;
use crate::limits::{POLL, WELCOME_TIMEOUT};
use crate::request::Connect;

/// Most changes of a target's durable state in one rollback: unsafe, and what became of it.
const MAX_STATES: u8 = 2;
/// Hexadecimal digits of a run's name.
const RUN_DIGITS: usize = 32;
/// Hexadecimal digits of a root.
const ROOT_DIGITS: usize = 64;

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
    /// `reflink`, `thin` or `log`.
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
    ask_within(connect, wish, monitor, WELCOME_TIMEOUT)
}

/// The same; the far side has so long until it offers.
pub(super) fn ask_within(
    connect: Box<dyn Connect>,
    wish: Wish,
    monitor: &dyn RollbackMonitor,
    patience: Duration,
) -> Result<Asked, Failure> {
    let connected = connect.connect()?;
    if let Some(warning) = &connected.warning {
        monitor.warning(warning);
    }
    let link = connected.link;
    let asked = converse(&link, wish, monitor, patience);
    link.sender.close("it is over");
    drop(link);
    drop(connected.lifeline);
    asked
}

fn converse(
    link: &Link,
    wish: Wish,
    monitor: &dyn RollbackMonitor,
    patience: Duration,
) -> Result<Asked, Failure> {
    let temporary = |error: &LinkError| link_broke(error, false);
    say(&link.sender, &Near::Ask(wish)).map_err(|error| temporary(&error))?;
    let deadline = Instant::now() + patience;
    let mut told = Told::default();
    loop {
        let deadline = (!told.offered).then_some(deadline);
        let word = hear(link, deadline, told.states > 0)?;
        told.check(wish, &word)?;
        match word {
            Far::Offer(offer) => {
                monitor.offered(&offer, link.via.word())?;
                if wish == Wish::Look {
                    return Ok(Asked::Looked(offer));
                }
                // From here on the far side reads and writes the whole volume.
                say(&link.sender, &Near::Go).map_err(|error| temporary(&error))?;
            }
            Far::State(state) => monitor.state(known(&state)?),
            Far::Done(done) => return Ok(Asked::Done(done)),
            Far::Failed(failed) => return Err(failed.failure()),
        }
    }
}

/// What the far side has said, and so what it may say next.
#[derive(Default)]
struct Told {
    offered: bool,
    states: u8,
}

impl Told {
    fn check(&mut self, wish: Wish, word: &Far) -> Result<(), Failure> {
        match word {
            Far::Offer(offer) => {
                if self.offered || wish == Wish::Release {
                    return Err(broke("an offer out of turn"));
                }
                self.offered = true;
                offer.check()
            }
            Far::State(state) => {
                if !self.offered || self.states == MAX_STATES {
                    return Err(broke("a state out of turn"));
                }
                self.states += 1;
                known(state).map(drop)
            }
            Far::Done(done) => {
                let is_in_turn = match wish {
                    Wish::Look => false,
                    Wish::Restore => self.offered && done.root.is_some(),
                    Wish::Release => done.root.is_none(),
                };
                match is_in_turn {
                    true => done.check(),
                    false => Err(broke("an end out of turn")),
                }
            }
            Far::Failed(_) => Ok(()),
        }
    }
}

impl Rollback {
    /// What is shown is what it is taken for: nothing in it moves the cursor or turns the text round.
    fn check(&self) -> Result<(), Failure> {
        if !["reflink", "thin", "log"].contains(&self.kind.as_str()) {
            return Err(broke("a kind of undo that there is not"));
        }
        if !is_hex(&self.run, RUN_DIGITS) {
            return Err(broke("a run that is no name of one"));
        }
        known(&self.state)?;
        check_root(self.root.as_deref())
    }
}

impl RolledBack {
    fn check(&self) -> Result<(), Failure> {
        known(&self.state)?;
        check_root(self.root.as_deref())
    }
}

fn check_root(root: Option<&str>) -> Result<(), Failure> {
    match root.is_none_or(|root| is_hex(root, ROOT_DIGITS)) {
        true => Ok(()),
        false => Err(broke("a root that is none")),
    }
}

fn is_hex(text: &str, digits: usize) -> bool {
    let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    text.len() == digits && text.bytes().all(is_digit)
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

#[cfg(test)]
mod tests {
    use super::{Far, Rollback, RollbackMonitor, RolledBack, Wish, converse, say};
    use lockstep_protocol::{Failure, FailureKind};
    use lockstep_transport::memory_pair;
    use std::time::Duration;

    struct Agreeing;

    impl RollbackMonitor for Agreeing {
        fn offered(&self, _: &Rollback, _: &'static str) -> Result<(), Failure> {
            Ok(())
        }
        fn state(&self, _: &str) {}
        fn warning(&self, _: &str) {}
    }

    fn offer() -> Rollback {
        Rollback {
            kind: "log".to_owned(),
            run: "0123456789abcdef".repeat(2),
            size: 9,
            present_size: 9,
            created_unix_ms: 1,
            until_unix_ms: 2,
            root: Some("0123456789abcdef".repeat(4)),
            state: "consistent".to_owned(),
        }
    }

    fn done() -> RolledBack {
        RolledBack {
            root: Some("f".repeat(64)),
            size: 9,
            state: "inconsistent".to_owned(),
            bytes_written: 4,
        }
    }

    fn released() -> RolledBack {
        RolledBack {
            root: None,
            ..done()
        }
    }

    /// How a conversation ends whose far side says these words, whatever it hears.
    fn end(wish: Wish, words: &[Far]) -> Option<FailureKind> {
        let (near, far) = memory_pair();
        for word in words {
            say(&far.sender, word).unwrap();
        }
        let ended = converse(&near, wish, &Agreeing, Duration::from_secs(60));
        ended.err().map(|failure| failure.kind)
    }

    fn state() -> Far {
        Far::State("inconsistent".to_owned())
    }

    #[test]
    fn words_in_their_turn_are_heard() {
        let (offer, done) = (|| Far::Offer(offer()), || Far::Done(done()));
        assert_eq!(end(Wish::Look, &[offer()]), None);
        assert_eq!(end(Wish::Restore, &[offer(), done()]), None);
        let all = [offer(), state(), state(), done()];
        assert_eq!(end(Wish::Restore, &all), None);
        assert_eq!(end(Wish::Release, &[Far::Done(released())]), None);
    }

    #[test]
    fn a_far_side_that_offers_nothing_is_not_waited_for() {
        let (near, _far) = memory_pair();
        let ended = converse(&near, Wish::Look, &Agreeing, Duration::from_millis(1));
        let failure = ended.unwrap_err();
        assert_eq!(failure.kind, FailureKind::Temporary);
        assert!(failure.message.contains("in time"), "{failure:?}");
    }

    #[test]
    fn words_out_of_their_turn_break_the_protocol() {
        let (offer, done) = (|| Far::Offer(offer()), || Far::Done(done()));
        for (story, wish, words) in [
            ("offered twice", Wish::Restore, vec![offer(), offer()]),
            ("an end unasked", Wish::Restore, vec![done()]),
            ("an end of a look", Wish::Look, vec![done()]),
            ("a state unasked", Wish::Restore, vec![state()]),
            ("an offer of nothing", Wish::Release, vec![offer()]),
            ("a root of nothing", Wish::Release, vec![done()]),
            (
                "released instead",
                Wish::Restore,
                vec![offer(), Far::Done(released())],
            ),
            (
                "states without end",
                Wish::Restore,
                vec![offer(), state(), state(), state()],
            ),
        ] {
            assert_eq!(end(wish, &words), Some(FailureKind::Internal), "{story}");
        }
    }

    #[test]
    fn nothing_but_digits_is_shown_of_names_and_roots() {
        let turned = "\u{202e}".to_owned();
        let with = |change: &dyn Fn(&mut Rollback)| {
            let mut offer = offer();
            change(&mut offer);
            end(Wish::Look, &[Far::Offer(offer)])
        };
        let broken = Some(FailureKind::Internal);
        assert_eq!(with(&|offer| offer.root = None), None);
        assert_eq!(with(&|offer| offer.run = turned.repeat(32)), broken);
        assert_eq!(with(&|offer| offer.run.push('0')), broken);
        assert_eq!(with(&|offer| offer.root = Some(turned.clone())), broken);
        assert_eq!(with(&|offer| offer.root = Some("F".repeat(64))), broken);
        assert_eq!(with(&|offer| offer.kind.push('s')), broken);
        assert_eq!(with(&|offer| offer.state.clear()), broken);
        let done = RolledBack {
            root: Some(turned.repeat(64)),
            ..done()
        };
        let words = [Far::Offer(offer()), Far::Done(done)];
        assert_eq!(end(Wish::Restore, &words), broken);
    }
}
