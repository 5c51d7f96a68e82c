//! Frames from memory to memory over a link, in one direction.

use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use lockstep_merkle::EXTENT_SIZE;
use lockstep_protocol::{Failure, FailureKind};
use lockstep_transport::{Bulk, ControlReceiver, Link, LinkSender, PathStats, Via};

use super::word::{Word, hear, hear_within, say};
use crate::failures::{defect, link_broke, out_of_turn};
use crate::measured::{Measured, Stopwatch};

/// Bytes of a frame once the link has shown that it is fast, and before.
const FRAME: usize = EXTENT_SIZE;
const SMALL_FRAME: usize = 64 << 10;
/// Bytes that show it.
const FAST_AFTER: u64 = 8 << 20;
/// Most bytes that were sent and not yet acknowledged, as many as a run has; and how many there may
/// be at first. In between, as many as have arrived already: so what is under way when the time is
/// over takes no longer than the flow did.
const WINDOW: u64 = 32 * EXTENT_SIZE as u64;
const FIRST_WINDOW: u64 = 256 << 10;
/// How long a flow may take beyond twice its time: what is under way has to arrive.
const GRACE: Duration = Duration::from_secs(15);
/// How long the receiver waits for a frame before it looks whether there are no more.
const GLANCE: Duration = Duration::from_millis(20);
/// No limit is longer, whoever asks.
pub(super) const LONGEST: Duration = Duration::from_secs(60);

/// Which way bytes went, as seen from here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// To the other machine.
    To,
    /// From it.
    From,
}

impl Direction {
    /// Its word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Direction::To => "to",
            Direction::From => "from",
        }
    }
}

/// One direction measured.
#[derive(Clone, PartialEq, Debug)]
pub struct Flow {
    /// Which.
    pub direction: Direction,
    /// What carried it.
    pub via: Via,
    /// Bytes that arrived and the time from the first frame to the last, at the receiver; its
    /// processor time.
    pub received: Measured,
    /// Processor time of the sender.
    pub sender_cpu: Duration,
    /// What the sender's connections saw meanwhile; nothing where they are the remote shell's.
    pub paths: Vec<PathStats>,
}

/// How long both ends allow a flow of this limit to take.
fn patience(limit: Duration) -> Duration {
    2 * limit.min(LONGEST) + GRACE
}

/// What came of sending.
pub(super) struct Gave {
    pub(super) received: Measured,
    pub(super) cpu: Duration,
    pub(super) paths: Vec<PathStats>,
}

/// How much has arrived, by the receiver's word.
#[derive(Default)]
struct Arrived {
    bytes: u64,
    /// Set when no more is to be sent.
    ended: bool,
}

#[derive(Default)]
struct Progress {
    arrived: Mutex<Arrived>,
    changed: Condvar,
}

impl Progress {
    fn update(&self, change: impl FnOnce(&mut Arrived)) {
        change(&mut self.arrived.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_all();
    }

    /// Waits until a frame may follow the `sent` bytes; the bytes that have arrived, or `None` if
    /// that comes to nothing in time.
    fn room(&self, sent: u64, deadline: Instant) -> Option<u64> {
        let mut arrived = self.arrived.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if arrived.ended {
                return None;
            }
            let window = arrived.bytes.clamp(FIRST_WINDOW, WINDOW);
            if sent.saturating_sub(arrived.bytes) < window {
                return Some(arrived.bytes);
            }
            let left = deadline.checked_duration_since(Instant::now())?;
            (arrived, _) = self
                .changed
                .wait_timeout(arrived, left)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Sends for so long, and waits until all of it has arrived.
pub(super) fn give(link: &Link, limit: Duration) -> Result<Gave, Failure> {
    let limit = limit.min(LONGEST);
    let content = content()?;
    let before = link.paths();
    let watch = Stopwatch::start();
    let progress = Progress::default();
    let (sent, taken) = thread::scope(|scope| {
        // Frames that are not taken out of the control lane would hold up the other end.
        let listening = scope.spawn(|| {
            let taken = listen(&link.control, &progress, patience(limit));
            progress.update(|arrived| arrived.ended = true);
            if taken.is_err() {
                // Whoever sends may be waiting for room that nobody makes.
                link.sender.close("the measurement failed");
            }
            taken
        });
        let sent = send(&link.sender, &content, &progress, limit);
        if sent.is_err() {
            // The listener need not wait for what will not come.
            link.sender.close("the measurement failed");
        }
        (sent, listening.join().unwrap_or_else(|_| Err(defect())))
    });
    let (bytes, received) = taken?;
    if bytes != sent? {
        return Err(out_of_turn());
    }
    Ok(Gave {
        received,
        cpu: watch.cpu(),
        paths: since(&before, link.paths()),
    })
}

/// Bytes that no part of the way could shrink.
fn content() -> Result<Bytes, Failure> {
    let mut bytes = vec![0; FRAME];
    getrandom::fill(&mut bytes)
        .map_err(|error| Failure::new(FailureKind::Internal, format!("no randomness: {error}")))?;
    Ok(Bytes::from(bytes))
}

/// Sends frames until the time is over, then says how many bytes they were.
fn send(
    sender: &LinkSender,
    content: &Bytes,
    progress: &Progress,
    limit: Duration,
) -> Result<u64, Failure> {
    let deadline = Instant::now() + limit;
    let mut sent = 0;
    while Instant::now() < deadline || sent == 0 {
        let Some(arrived) = progress.room(sent, deadline) else {
            break;
        };
        let length = match arrived >= FAST_AFTER {
            true => FRAME,
            false => SMALL_FRAME,
        };
        let frame = Bulk::new(Bytes::new(), content.slice(..length));
        sender.bulk(frame).map_err(|error| link_broke(&error))?;
        sent += length as u64;
    }
    say(sender, &Word::Sent { bytes: sent })?;
    Ok(sent)
}

/// Takes in acknowledgements until the receiver says that it has everything.
fn listen(
    control: &ControlReceiver,
    progress: &Progress,
    patience: Duration,
) -> Result<(u64, Measured), Failure> {
    let deadline = Instant::now() + patience;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match hear(control, left).map_err(|failure| too_slow(failure, left))? {
            Word::Ack { bytes } => {
                progress.update(|arrived| arrived.bytes = arrived.bytes.max(bytes));
            }
            Word::Taken { bytes, measured } => return Ok((bytes, measured)),
            _ => return Err(out_of_turn()),
        }
    }
}

fn too_slow(failure: Failure, left: Duration) -> Failure {
    match left.is_zero() {
        true => Failure::new(
            FailureKind::Temporary,
            "the link is too slow: what was sent did not arrive in time",
        ),
        false => failure,
    }
}

/// Receives until the sender says that there is no more, copying every byte to where a run would have
/// it; then says what it took.
pub(super) fn take(link: &Link, limit: Duration) -> Result<Measured, Failure> {
    let deadline = Instant::now() + patience(limit);
    let mut buffer = vec![0; FRAME];
    let mut bytes = 0;
    // The first frame starts the clock: what it took to come is not the link's rate.
    let mut begun: Option<(Stopwatch, u64)> = None;
    let mut latest = Measured::default();
    let mut announced = None;
    while announced != Some(bytes) {
        if Instant::now() >= deadline {
            return Err(too_slow(defect(), Duration::ZERO));
        }
        let frame = link.bulk.recv_timeout(GLANCE);
        match frame.map_err(|error| link_broke(&error))? {
            Some(frame) => {
                bytes += frame.copy_to(0, &mut buffer) as u64;
                let (watch, first) = begun.get_or_insert_with(|| (Stopwatch::start(), bytes));
                latest = watch.stop(bytes - *first);
                say(&link.sender, &Word::Ack { bytes })?;
            }
            None => match hear_within(&link.control, Duration::ZERO)? {
                Some(Word::Sent { bytes }) => announced = Some(bytes),
                Some(_) => return Err(out_of_turn()),
                None => {}
            },
        }
        if announced.is_some_and(|all| bytes > all) {
            return Err(out_of_turn());
        }
    }
    let measured = latest;
    say(&link.sender, &Word::Taken { bytes, measured })?;
    Ok(measured)
}

/// What happened on each path between two looks.
fn since(before: &[PathStats], after: Vec<PathStats>) -> Vec<PathStats> {
    let mut after = after;
    for (now, then) in after.iter_mut().zip(before) {
        now.packets_sent = now.packets_sent.saturating_sub(then.packets_sent);
        now.packets_lost = now.packets_lost.saturating_sub(then.packets_lost);
        now.bytes_lost = now.bytes_lost.saturating_sub(then.bytes_lost);
        now.congestion_events = now.congestion_events.saturating_sub(then.congestion_events);
        now.bytes_sent = now.bytes_sent.saturating_sub(then.bytes_sent);
        now.bytes_received = now.bytes_received.saturating_sub(then.bytes_received);
    }
    after
}
