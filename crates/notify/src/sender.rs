//! The thread that delivers what is queued.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use lockstep_cluster::file::Notify;
use tokio::task::{Id, JoinError, JoinSet};
use tracing::{error, info, warn};

use crate::destination::{Destination, destinations};
use crate::queue::{Name, Queue, QueueError};
use crate::report::Report;
use crate::send::{Refusal, deliver, runtime};
use crate::unix_ms;
use lanes::Lanes;

mod lanes;

/// How long it sleeps when nothing waits: a clock that was changed is noticed so late at most.
const MAX_SLEEP: Duration = Duration::from_secs(60);
/// How long deliveries that are under way have once it is stopped.
const GRACE: Duration = Duration::from_secs(1);

/// Delivers reports in a thread of its own until it is stopped or dropped.
#[derive(Debug)]
pub struct Sender {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    notify: Mutex<Notify>,
    /// Something was queued, the configuration changed, or the thread has to end.
    news: tokio::sync::Notify,
    stopping: AtomicBool,
}

type Flights = JoinSet<Result<(), Refusal>>;

impl Sender {
    /// Starts to deliver what waits in the queue.
    ///
    /// # Errors
    ///
    /// If this machine has no thread or socket to spare.
    pub fn start(queue: Queue, notify: Notify) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            queue: Mutex::new(queue),
            notify: Mutex::new(notify),
            news: tokio::sync::Notify::new(),
            stopping: AtomicBool::new(false),
        });
        let runtime = runtime()?;
        let of_thread = Arc::clone(&shared);
        let thread = Builder::new().name("notify".to_owned()).spawn(move || {
            runtime.block_on(run(&of_thread));
            // A name that is still being looked up holds nobody back.
            runtime.shutdown_background();
        })?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Queues a report for everybody who wants to know of its ending; returns for how many, once
    /// that is on disk. Never waits for a network.
    ///
    /// # Errors
    ///
    /// If it cannot be kept on disk; some of its destinations may have it then.
    pub fn enqueue(&self, report: &Report) -> Result<usize, QueueError> {
        let to = destinations(&locked(&self.shared.notify), report.verdict);
        if !to.is_empty() {
            locked(&self.shared.queue).put(report, &to, unix_ms())?;
            self.shared.news.notify_one();
        }
        Ok(to.len())
    }

    /// Delivers by this configuration from now on, what waits already too.
    pub fn reload(&self, notify: Notify) {
        *locked(&self.shared.notify) = notify;
        self.shared.news.notify_one();
    }

    /// How many deliveries wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        locked(&self.shared.queue).len()
    }

    /// Ends the thread, within about a second; what was not delivered waits on disk for the next start.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::Release);
        self.shared.news.notify_one();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            error!("a defect of lockstep ended the delivery of notifications; please report this");
        }
    }
}

/// Nothing that is guarded here is ever left half-changed.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn run(shared: &Shared) {
    let mut flights = Flights::new();
    let mut lanes = Lanes::default();
    while !shared.stopping.load(Ordering::Acquire) {
        let sleep = start_what_is_due(shared, &mut lanes, &mut flights);
        tokio::select! {
            () = shared.news.notified() => {}
            Some(ended) = flights.join_next_with_id() => settle(shared, &mut lanes, ended),
            () = tokio::time::sleep(sleep) => {}
        }
    }
    let land = async {
        while let Some(ended) = flights.join_next_with_id().await {
            settle(shared, &mut lanes, ended);
        }
    };
    // Those that take longer are repeated by the next start.
    let _ = tokio::time::timeout(GRACE, land).await;
}

/// Starts deliveries; returns how long until the next one is due.
fn start_what_is_due(shared: &Shared, lanes: &mut Lanes, flights: &mut Flights) -> Duration {
    let queue = locked(&shared.queue);
    let now = unix_ms();
    let choice = lanes.choose(queue.waiting(), now);
    for (name, destination) in choice.start {
        let Some(report) = queue.report(&name).cloned() else {
            continue;
        };
        let notify = locked(&shared.notify).clone();
        let flight = flights.spawn(deliver(notify, destination.clone(), report));
        lanes.started(flight.id(), name, destination);
    }
    choice.sleep.min(MAX_SLEEP)
}

/// A delivery ended: its file goes, or it is tried again.
fn settle(shared: &Shared, lanes: &mut Lanes, ended: Result<(Id, Result<(), Refusal>), JoinError>) {
    let (id, result) = match ended {
        Ok((id, result)) => (id, result),
        Err(error) => (error.id(), Err(Refusal::defect())),
    };
    let Some((name, to)) = lanes.ended(id) else {
        return;
    };
    let mut queue = locked(&shared.queue);
    match result {
        Ok(()) => {
            info!("notification {name} is delivered to {to}");
            lanes.reached(&to);
            queue.remove(&name);
        }
        Err(refusal) if refusal.for_good => {
            error!(
                "notification {name} is given up: {to}: {}; {}",
                refusal.what, refusal.remedy
            );
            queue.remove(&name);
        }
        Err(refusal) => put_off(&mut queue, lanes, &name, &to, &refusal),
    }
}

fn put_off(queue: &mut Queue, lanes: &mut Lanes, name: &Name, to: &Destination, why: &Refusal) {
    let (now, random) = (unix_ms(), random());
    lanes.missed(to, now, random);
    match queue.put_off(name, now, random, why.pause) {
        Some(next) => warn!(
            "notification {name} waits {} s, after {} attempts: {to}: {}; {}",
            next.wait(now).as_secs(),
            next.failed,
            why.what,
            why.remedy
        ),
        None => error!(
            "notification {name} is given up, it is too old: {to}: {}; {}",
            why.what, why.remedy
        ),
    }
}

/// For the jitter alone: without random numbers there is none.
fn random() -> u32 {
    getrandom::u32().unwrap_or(u32::MAX)
}
