//! The watchdog's own process.
//!
//! ```text
//!            freezing N             frozen N
//!   ┌ Idle ────────────► Freezing ───────────► Frozen ┐
//!   └───◄──────────────────┴──────────◄───────────────┘
//!        not-frozen N, or thawed by us after an alarm
//! ```
//!
//! An alarm is the end of the time limit, or the end of the freezer without the word `done`. From then
//! on whatever is not idle, or stops being so, is thawed. While a freeze is under way the kernel says
//! that there is nothing to thaw, so it is asked again until the freezer knows, or is gone.
//!
//! Each mount point has a thread, made beforehand: a filesystem whose thaw waits for another one's does
//! not keep that one frozen. Nothing here opens a file or writes to one once a freeze is announced.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::setsid;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};

use crate::point::{Thaw, thaw};
use crate::socket::{Received, listen, say, take_over};
use crate::words::{EXPIRED, HOLD, READY, Word};

/// Pause before a thaw is tried again.
const PAUSE: Duration = Duration::from_millis(10);
/// How long thawing is tried once the freezer is gone; a filesystem that has not thawed by then has a
/// dead disk below it.
const GIVE_UP_AFTER: Duration = Duration::from_secs(60);

/// The whole life of a thaw watchdog, for the hidden verb that [`crate::Quiesce::watchdog`] starts:
/// `stdin` is the socket that it was given as its input, `args` are what followed the verb.
///
/// Returns success if the freezer said that all is well, after a fraction of a second or after hours.
pub fn watchdog_main(stdin: impl AsFd, args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let result = limit_in(args).and_then(|limit| {
        let watch = begin(&stdin)?;
        Ok(run(&stdin, limit, &watch))
    });
    match result {
        Ok(Ending::Done) => ExitCode::SUCCESS,
        // Nobody reads our words any more, and a log might lie on what is frozen.
        Ok(Ending::Alarmed) | Err(_) => ExitCode::FAILURE,
    }
}

/// The first argument is the limit in milliseconds; the mount points that follow are for people who
/// look at the list of processes.
fn limit_in(args: impl IntoIterator<Item = OsString>) -> io::Result<Duration> {
    let first = args.into_iter().next();
    let milliseconds = first.and_then(|text| text.to_str()?.parse().ok());
    let milliseconds = milliseconds.ok_or(io::ErrorKind::InvalidInput)?;
    Ok(Duration::from_millis(milliseconds))
}

/// Everything that may fail, before the freezer is told that it may begin.
fn begin(stdin: impl AsFd) -> io::Result<Arc<Watch>> {
    detach()?;
    let (word, fds) = take_over(&stdin)?;
    if word != HOLD || fds.is_empty() {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let watch = Arc::new(Watch::over(fds.len()));
    for (index, fd) in fds.into_iter().enumerate() {
        let watch = Arc::clone(&watch);
        thread::Builder::new().spawn(move || watch.keep_thawed(index, &fd))?;
    }
    say(stdin, READY)?;
    Ok(watch)
}

/// Leaves the group whose signals are meant for the freezer, and outlives those sent to everybody in a
/// control group; also what the kernel would end first when memory runs out.
fn detach() -> io::Result<()> {
    // It fails for who leads a group already, and such a one has nothing to leave.
    let _ = setsid();
    for signal in [SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2] {
        signal_hook::flag::register(signal, Arc::new(AtomicBool::new(false)))?;
    }
    std::env::set_current_dir("/")?;
    // Not in every container; then the odds are those of everybody.
    let _ = std::fs::write("/proc/self/oom_score_adj", "-1000");
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Ending {
    Done,
    Alarmed,
}

fn run(stdin: impl AsFd, limit: Duration, watch: &Watch) -> Ending {
    let mut clock = Clock::Unset;
    loop {
        match listen(&stdin, clock.left()) {
            Ok(Received::Record(record)) => match Word::parse(&record) {
                Some(Word::Done) => return Ending::Done,
                Some(word) => {
                    clock.begin(limit);
                    watch.note(word);
                }
                // A freezer of another version: nothing it says can be relied on.
                None => return watch.end(),
            },
            Ok(Received::Closed) | Err(_) => return watch.end(),
            Ok(Received::Nothing) => {}
        }
        if clock.left() == Some(Duration::ZERO) {
            clock = Clock::Over;
            // Said first: a freezer that finds its filesystem thawed then knows by whom.
            let _ = say(&stdin, EXPIRED);
            watch.alarm(Alarm::Expired);
        }
    }
}

/// The time for which anything may be frozen, from the first freeze on.
enum Clock {
    Unset,
    Until(Instant),
    /// Words still come, and are acted on at once.
    Over,
}

impl Clock {
    fn begin(&mut self, limit: Duration) {
        if matches!(self, Clock::Unset) {
            *self = Clock::Until(Instant::now() + limit);
        }
    }

    fn left(&self) -> Option<Duration> {
        match self {
            Clock::Until(at) => Some(at.saturating_duration_since(Instant::now())),
            Clock::Unset | Clock::Over => None,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Standing {
    Idle,
    Freezing,
    Frozen,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Alarm {
    None,
    /// The time is over; the freezer may still be at work.
    Expired,
    /// The freezer is gone: what is not frozen now will not be.
    Closed,
}

struct Watch {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    standings: Vec<Standing>,
    alarm: Alarm,
}

impl Watch {
    fn over(count: usize) -> Watch {
        Watch {
            state: Mutex::new(State {
                standings: vec![Standing::Idle; count],
                alarm: Alarm::None,
            }),
            changed: Condvar::new(),
        }
    }

    fn note(&self, word: Word) {
        let (index, standing) = match word {
            Word::Freezing(index) => (index, Standing::Freezing),
            Word::Frozen(index) => (index, Standing::Frozen),
            Word::NotFrozen(index) => (index, Standing::Idle),
            Word::Done => return,
        };
        self.settle(index, standing);
    }

    fn settle(&self, index: usize, standing: Standing) {
        if let Some(slot) = self.lock().standings.get_mut(index) {
            *slot = standing;
        }
        self.changed.notify_all();
    }

    fn alarm(&self, alarm: Alarm) {
        self.lock().alarm = alarm;
        self.changed.notify_all();
    }

    /// The freezer is gone: waits until everything is thawed, or until there is no hope of it.
    fn end(&self) -> Ending {
        self.alarm(Alarm::Closed);
        let is_busy = |state: &mut State| state.standings.iter().any(|s| *s != Standing::Idle);
        let waited = self
            .changed
            .wait_timeout_while(self.lock(), GIVE_UP_AFTER, is_busy);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
        Ending::Alarmed
    }

    /// A mount point's thread; ends with the process.
    fn keep_thawed(&self, index: usize, fd: &OwnedFd) {
        loop {
            let (standing, alarm) = self.wait_for_work(index);
            // If the freezer is gone, or was done with it, there is no freeze under way.
            let is_certain = standing == Standing::Frozen || alarm == Alarm::Closed;
            match thaw(fd) {
                Ok(Thaw::Done) => self.settle(index, Standing::Idle),
                Ok(Thaw::WasNotFrozen) if is_certain => self.settle(index, Standing::Idle),
                Ok(Thaw::WasNotFrozen) | Err(_) => thread::sleep(PAUSE),
            }
        }
    }

    fn wait_for_work(&self, index: usize) -> (Standing, Alarm) {
        let is_quiet = |state: &mut State| {
            state.alarm == Alarm::None || state.standings[index] == Standing::Idle
        };
        let waited = self.changed.wait_while(self.lock(), is_quiet);
        let state = waited.unwrap_or_else(PoisonError::into_inner);
        (state.standings[index], state.alarm)
    }

    /// A panic elsewhere is no reason to leave anything frozen.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
