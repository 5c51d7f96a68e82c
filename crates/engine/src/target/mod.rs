//! A target's whole part of a run.
//!
//! | thread | does |
//! | --- | --- |
//! | `hear` | frames from the source into the session |
//! | scan pool | own chaining values, unless everything is shipped anyway |
//! | `want` | asks for what differs |
//! | `apply` × n | checks arriving pages against the promise, then writes them, or keeps what they overwrite |
//! | `commit`, `write` × n | where that is kept in a log: makes it durable, then writes |
//! | `flush` | makes stretches of writes durable |
//! | `check` × n | reads them back from the medium |
//! | the caller's | tells progress, and finishes: root, flush, seal, mark |

mod apply;
mod check;
mod finish;
mod inherit;
mod keep;
mod mark;
mod open;
mod own;
mod place;
mod stage;
#[cfg(test)]
mod tests;
mod values;
mod want;
mod work;
mod written;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use lockstep_merkle::Root;
use lockstep_protocol::{Failure, FailureKind, Hello, SourceFrame, TargetFrame, VolumeState};
use lockstep_transport::{Link, LinkError};
use lockstep_volume::{IoEngine, Priority};

use self::finish::Finished;
use self::inherit::Legacy;
use self::open::Opened;
use self::work::Work;
use crate::cancel::Cancel;
use crate::failures::{link_broke, sentence};
use crate::hash::hashing_pool;
use crate::limits::{APPLY_THREADS, CHECK_THREADS, HELLO_TIMEOUT, LINK_POLL, POLL};
use crate::priority::Lowering;
use crate::request::Reuse;
use crate::undo::UndoPolicy;

/// Where and how a target is served.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// The volume; named by whoever started this side, never by the link.
    pub path: PathBuf,
    /// Where the ledger is.
    pub state_dir: PathBuf,
    /// Who asked, for the ledger; the source's own word is used when empty.
    pub who: String,
    /// Bytes of buffers.
    pub memory: u64,
    /// Threads that hash.
    pub threads: usize,
    /// How much the threads that read and hash ask for.
    pub priority: Priority,
    /// How the disk is read and written.
    pub io: IoEngine,
    /// What is taken over from earlier runs.
    pub reuse: Reuse,
    /// What becomes of what is overwritten.
    pub undo: UndoPolicy,
    /// The cluster's epoch, for the ledger; 0 for an ad hoc run.
    pub epoch: u64,
    /// Whether a source that wants to write is refused.
    pub only_compare: bool,
    /// A frozen image of the volume, which a comparison reads instead; who the volume is, and what
    /// the ledger says of it, stays its own affair.
    pub image: Option<PathBuf>,
    /// The file or device that was agreed on, by its identity without its size, or `missing`: another
    /// one in its place is not written. Not looked at if none is named.
    pub device: Option<String>,
}

/// How a target ended that ended well.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Served {
    /// What it holds; none if it was only compared and not all of it was measured.
    pub root: Option<Root>,
}

/// Serves one run on a link, to its end.
///
/// # Errors
/// Why the target did not end equal; the source has been told as far as the
/// link allows.
pub fn serve(link: Link, options: ServeOptions, cancel: Arc<Cancel>) -> Result<Served, Failure> {
    let hello = greeted(&link, &cancel)?;
    match open::open(&hello, &options) {
        Ok(opened) => attend(&link, &options, &hello, opened, &cancel),
        Err(refusal) => refuse(&link, refusal.failure, refusal.identity),
    }
}

fn refuse<T>(link: &Link, failure: Failure, identity: Vec<u8>) -> Result<T, Failure> {
    let frame = TargetFrame::Refused {
        failure: failure.clone(),
        identity,
    };
    // The source may be gone; the refusal stands all the same.
    let _ = link.sender.control(Bytes::from(frame.encode()));
    link.sender.finish();
    Err(failure)
}

fn greeted(link: &Link, cancel: &Cancel) -> Result<Hello, Failure> {
    let deadline = Instant::now() + HELLO_TIMEOUT;
    let bytes = loop {
        match link.control.recv_timeout(POLL) {
            Ok(Some(bytes)) => break bytes,
            Ok(None) => {}
            Err(error) => return Err(link_broke(&error, false)),
        }
        if let Some(cause) = cancel.cause() {
            let failure = finish::cancelled(cause);
            link.sender.close(&failure.message);
            return Err(failure);
        }
        if Instant::now() >= deadline {
            return Err(silent(link, "the source said nothing in time"));
        }
    };
    match SourceFrame::decode(&bytes) {
        Ok(SourceFrame::Hello(hello)) => Ok(hello),
        Ok(other) => Err(silent(
            link,
            &format!("the source sent {} first", other.name()),
        )),
        Err(malformed) => Err(silent(link, &sentence(&malformed))),
    }
}

fn silent(link: &Link, reason: &str) -> Failure {
    link.sender.close(reason);
    Failure::new(FailureKind::Temporary, reason)
}

fn attend(
    link: &Link,
    options: &ServeOptions,
    hello: &Hello,
    opened: Opened,
    cancel: &Cancel,
) -> Result<Served, Failure> {
    let welcome = TargetFrame::Welcome(opened.welcome.clone());
    let ready = hashing_pool(options.threads)
        .and_then(|pool| Ok((pool, Work::new(link, options, hello, opened)?)));
    let (pool, work) = match ready {
        Ok(ready) => ready,
        Err(failure) => return refuse(link, failure, Vec::new()),
    };
    if let Err(error) = link.sender.control(Bytes::from(welcome.encode())) {
        work.stop(link_broke(&error, false));
    }
    let lowering = Lowering::new(options.priority);
    let lower = || log_refusal(lowering.here());
    log_refusal(lowering.pool(&pool));
    let result = std::thread::scope(|scope| {
        scope.spawn(|| work.guard(|| hear(&work, link)));
        scope.spawn(|| work.guard(|| work.scan(&pool)));
        scope.spawn(|| work.guard(|| want::want(&work)));
        let staged = work.keep.may_log().then(|| stage::start(scope, &work));
        for _ in 0..APPLY_THREADS {
            let (work, staged) = (&work, staged.clone());
            scope.spawn(move || {
                lower();
                work.guard(|| apply::apply(work, &link.bulk, staged));
            });
        }
        drop(staged);
        scope.spawn(|| work.guard(|| check::flush(&work)));
        for _ in 0..CHECK_THREADS {
            scope.spawn(|| {
                lower();
                work.guard(|| check::check(&work));
            });
        }
        let result = finish::wait(&work, cancel);
        work.end();
        result
    });
    let result = result.and_then(|()| finish::mark(&work, &pool));
    let kept = match &result {
        Ok(_) => work.keep_is_finished(),
        Err(_) => work.kept(),
    };
    let (frame, legacy, result) = last_word(&work, result);
    // Whoever opens a sealed file waits until it is let go: not for the link.
    drop(work);
    if let Some(legacy) = legacy {
        legacy.leave(&link.sender);
    }
    if let Some(frame) = frame {
        // A source that is gone finds the state in the ledger.
        if let Some(note) = kept {
            let _ = link
                .sender
                .control(Bytes::from(TargetFrame::Undo(note).encode()));
        }
        let _ = link.sender.control(Bytes::from(frame.encode()));
        link.sender.finish();
    }
    result
}

/// The far side's log is what the user sees of this.
fn log_refusal(refusal: Option<String>) {
    if let Some(refusal) = refusal {
        tracing::warn!("{refusal}");
    }
}

/// What the source is told in the end, once every thread has ended, and what
/// the next run is.
fn last_word(
    work: &Work<'_>,
    result: Result<Finished, Failure>,
) -> (Option<TargetFrame>, Option<Legacy>, Result<Served, Failure>) {
    match result {
        Ok(Finished::Compared(root)) => (None, None, Ok(Served { root })),
        Ok(Finished::Proved {
            root,
            identity,
            state,
        }) => {
            let stats = work.stats();
            let frame = TargetFrame::Verified { root, state, stats };
            let served = Served { root: Some(root) };
            (Some(frame), work.legacy(root, identity), Ok(served))
        }
        Err(failure) => {
            let (failure, state) = finish::give_up(work, failure);
            let frame = TargetFrame::Failed {
                failure: failure.clone(),
                state,
                stats: work.stats(),
            };
            (Some(frame), None, Err(failure))
        }
    }
}

/// Hears the source until the run is over.
fn hear(work: &Work<'_>, link: &Link) {
    while !work.is_over() {
        match link.control.recv_timeout(LINK_POLL) {
            Ok(Some(bytes)) => {
                if let Err(failure) = heard(work, &bytes) {
                    return work.stop(failure);
                }
            }
            Ok(None) => {}
            Err(error) => return gone(work, &error),
        }
    }
}

/// A source that only compared hangs up when it knows enough.
fn gone(work: &Work<'_>, error: &LinkError) {
    if work.compares() {
        work.end();
    } else {
        work.stop(link_broke(error, work.is_writing()));
    }
}

fn heard(work: &Work<'_>, bytes: &[u8]) -> Result<(), Failure> {
    let broke = |error: &dyn std::error::Error| {
        Failure::new(
            FailureKind::Internal,
            format!("the source broke the protocol: {error}"),
        )
    };
    let frame = SourceFrame::decode(bytes).map_err(|malformed| broke(&malformed))?;
    let name = frame.name();
    let done = match frame {
        SourceFrame::Digests { first, cvs } => work.update(|session| session.digests(first, &cvs)),
        SourceFrame::Counted { extent } => work.update(|session| session.counted(extent)),
        SourceFrame::Proceed => work.update(|session| session.proceed()),
        SourceFrame::Done(word) => work.update(|session| session.done(word)),
        SourceFrame::Abort(failure) => return Err(failure),
        SourceFrame::Doubt { runs } => return work.doubt(&runs),
        SourceFrame::Hello(_) => Err(lockstep_protocol::Violation::OutOfTurn {
            frame: name,
            stage: "being served",
        }),
    };
    done.map_err(|violation| broke(&violation))
}

/// What the source is told of the ledger's state.
pub(crate) fn state_frame(state: VolumeState) -> Bytes {
    Bytes::from(TargetFrame::State(state).encode())
}
