//! A link over two byte streams, such as the standard input and output of a remote shell.
//!
//! ```text
//! frame   lane: u8 │ length: u32, little endian │ payload
//! lane    0 control     ≤ 64 KiB
//!         1 bulk        ≤ 1 MiB + 4 KiB
//!         2 ping        empty; sent after 5 s of silence
//!         3 goodbye     u64: bulk frames sent in all; the last frame but for 4 and 5
//!         4 received    empty: everything before the goodbye is with this end's callers
//!         5 close       ≤ 1200 bytes of UTF-8: the reason
//! ```
//!
//! Encryption and the other end's identity are the shell's: this link adds none.

mod frame;
mod reader;
mod writer;

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::end::End;
use crate::error::LinkError;
use crate::link::{Guard, Link, Via};
use crate::meter::Counters;

/// A link over `read` and `write`, driven by threads of its own.
///
/// The link is lost when `read` ends, when either fails, or when nothing has been heard for 30 s; each end sends a
/// ping after 5 s of silence. A thread blocked in `read` stays until `read` returns.
pub fn pipe_link(read: impl Read + Send + 'static, write: impl Write + Send + 'static) -> Link {
    let counters = Arc::new(Counters::default());
    let end = start(
        read,
        write,
        counters,
        Timing::default(),
        Obituary::default(),
    );
    Link::new(Arc::new(Guard(end)), Via::Ssh)
}

/// When silence is broken, and when it is taken for the end.
#[derive(Clone, Copy)]
pub(crate) struct Timing {
    ping_after: Duration,
    lost_after: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            ping_after: Duration::from_secs(5),
            lost_after: Duration::from_secs(30),
        }
    }
}

/// Says why a stream ended, given what the stream itself reported.
pub(crate) struct Obituary(Box<dyn Fn(&str) -> String + Send + Sync>);

impl Obituary {
    pub(crate) fn new(explain: impl Fn(&str) -> String + Send + Sync + 'static) -> Self {
        Self(Box::new(explain))
    }

    fn lost(&self, observed: &str) -> LinkError {
        LinkError::lost((self.0)(observed))
    }
}

impl Default for Obituary {
    fn default() -> Self {
        Self::new(str::to_owned)
    }
}

/// Starts the threads of a pipe; all end with the link, the reading one when its stream next returns.
pub(crate) fn start(
    read: impl Read + Send + 'static,
    write: impl Write + Send + 'static,
    counters: Arc<Counters>,
    timing: Timing,
    obituary: Obituary,
) -> Arc<End> {
    let end = End::carried(counters);
    let ear = Arc::new(Ear::new());
    let obituary = Arc::new(obituary);
    let (received, receipts) = async_channel::bounded(1);

    let writer = writer::Writer::new(
        Arc::clone(&end),
        write,
        receipts,
        timing.ping_after,
        Arc::clone(&obituary),
    );
    let reader = reader::Reader::new(Arc::clone(&end), read, received, Arc::clone(&ear), obituary);
    let watched = Arc::clone(&end);
    let spawned = spawn("pipe-write", move || writer.run())
        .and_then(|()| spawn("pipe-read", move || reader.run()))
        .and_then(|()| {
            spawn("pipe-watch", move || {
                watch(&watched, &ear, timing.lost_after)
            })
        });
    if let Err(error) = spawned {
        end.stop_with(LinkError::lost(format!(
            "cannot start a thread for the pipe: {error}"
        )));
    }
    end
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    thread::Builder::new()
        .name(format!("lockstep-{name}"))
        .spawn(run)
        .map(drop)
}

/// Declares the link lost when the reader has waited too long for a byte.
fn watch(end: &End, ear: &Ear, lost_after: Duration) {
    loop {
        let silent = ear.silence();
        if silent >= lost_after {
            let what = format!("nothing heard over the pipe for {} s", silent.as_secs());
            return end.stop_with(LinkError::lost(what));
        }
        if end.await_end_until(Instant::now() + (lost_after - silent)) {
            return;
        }
    }
}

/// When the reader last heard something. A reader that waits for callers to take a frame is not listening, so time
/// does not count against the other end then.
pub(crate) struct Ear {
    started: Instant,
    /// Milliseconds after `started`, or [`Ear::NOT_LISTENING`].
    heard: AtomicU64,
}

impl Ear {
    const NOT_LISTENING: u64 = u64::MAX;

    fn new() -> Self {
        Self {
            started: Instant::now(),
            heard: AtomicU64::new(0),
        }
    }

    fn hears_something(&self) {
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX - 1);
        self.heard.store(now, Ordering::Relaxed);
    }

    fn stops_listening(&self) {
        self.heard.store(Self::NOT_LISTENING, Ordering::Relaxed);
    }

    fn silence(&self) -> Duration {
        match self.heard.load(Ordering::Relaxed) {
            Self::NOT_LISTENING => Duration::ZERO,
            heard => self
                .started
                .elapsed()
                .saturating_sub(Duration::from_millis(heard)),
        }
    }
}

#[cfg(test)]
mod tests;
