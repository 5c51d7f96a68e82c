//! The freezer's side of its watchdog: starting it, telling it, letting it go.

use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::QuiesceError;
use crate::point::MountPoint;
use crate::socket::{Received, hand_over, listen, pair, say};
use crate::words::{EXPIRED, HOLD, READY, Word};

/// Longest wait for a watchdog to be ready.
const READY_WITHIN: Duration = Duration::from_secs(10);
/// Longest wait for one that was told that all is done, or that thaws in our place.
const GONE_WITHIN: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(5);

/// A process that thaws when this is dropped without [`Word::Done`], or when the time is over.
pub(crate) struct Watchdog {
    child: Child,
    /// `None` once it was let go.
    socket: Option<OwnedFd>,
}

impl Watchdog {
    /// Starts it and waits until it is ready; nothing may be frozen before.
    pub(crate) fn start(
        argv: &[OsString],
        points: &[MountPoint],
        limit: Duration,
    ) -> Result<Watchdog, QuiesceError> {
        let no = |reason: String| QuiesceError::NoWatchdog { reason };
        let (ours, theirs) = pair().map_err(|error| no(error.to_string()))?;
        let child = spawn(argv, points, limit, theirs).map_err(no)?;
        let mut watchdog = Watchdog {
            child,
            socket: Some(ours),
        };
        match watchdog.make_ready(points) {
            Ok(()) => Ok(watchdog),
            Err(reason) => {
                // It holds nothing that is frozen, so it can be ended by force.
                let _ = watchdog.child.kill();
                Err(no(reason))
            }
        }
    }

    fn make_ready(&mut self, points: &[MountPoint]) -> Result<(), String> {
        let Some(socket) = &self.socket else {
            return Err("it is gone".to_owned());
        };
        let fds: Vec<_> = points.iter().map(AsFd::as_fd).collect();
        hand_over(socket, HOLD, &fds).map_err(|error| format!("it does not listen: {error}"))?;
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match listen(socket, Some(left)) {
                Ok(Received::Record(word)) if word == READY => return Ok(()),
                Ok(Received::Record(_)) => return Err("it speaks another language".to_owned()),
                Ok(Received::Closed) => return Err("it ended at once".to_owned()),
                Ok(Received::Nothing) if left.is_zero() => {
                    return Err(format!(
                        "it was not ready after {} s",
                        READY_WITHIN.as_secs()
                    ));
                }
                Ok(Received::Nothing) => {}
                Err(error) => return Err(error.to_string()),
            }
        }
    }

    pub(crate) fn process(&self) -> u32 {
        self.child.id()
    }

    /// Whether it heard.
    pub(crate) fn tell(&self, word: Word) -> bool {
        let told = |socket| say(socket, &word.to_string()).is_ok();
        self.socket.as_ref().is_some_and(told)
    }

    /// Whether the watchdog has begun to thaw because the time was over.
    pub(crate) fn is_expired(&self) -> bool {
        let Some(socket) = &self.socket else {
            return false;
        };
        let heard = listen(socket, Some(Duration::ZERO));
        matches!(heard, Ok(Received::Record(word)) if word == EXPIRED)
    }
}

/// Closes the socket, on which a watchdog that was not told `done` thaws, and gives it a moment to do
/// so. It is never killed: that would be the end of the last who thaws.
impl Drop for Watchdog {
    fn drop(&mut self) {
        self.socket = None;
        let deadline = Instant::now() + GONE_WITHIN;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            thread::sleep(PAUSE);
        }
    }
}

/// Without output: whoever reads ours may not be read from, or may write to what is frozen.
fn spawn(
    argv: &[OsString],
    points: &[MountPoint],
    limit: Duration,
    socket: OwnedFd,
) -> Result<Child, String> {
    let (program, first) = argv.split_first().ok_or("no program is named")?;
    let mut command = Command::new(program);
    command
        .args(first)
        .arg(limit.as_millis().to_string())
        .args(points.iter().map(|point| &point.path))
        .stdin(Stdio::from(socket))
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let said = |error| format!("{}: {error}", program.to_string_lossy());
    // The command keeps a copy of the watchdog's end, so it is dropped here and now: else the end of
    // the watchdog would not be seen.
    command.spawn().map_err(said)
}
