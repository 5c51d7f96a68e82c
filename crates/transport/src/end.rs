//! One end of a link: its four bounded queues, and how it stops.
//!
//! ```text
//!                 outbound control ─┐                      ┌─► inbound control
//!   callers ───►  outbound bulk  ───┴─► carriers ··· wire ─┴─► inbound bulk      ───► callers
//!                                       (tasks or threads of one transport)
//! ```
//!
//! How an end finishes, on every transport with a wire:
//! 1. `finish` closes the outbound queues: what is queued still leaves, nothing joins it.
//! 2. When the bulk carriers have run dry, the control carrier sends a goodbye with the number of bulk frames sent.
//! 3. The other end waits until that many have arrived in its inbound queue, notes the goodbye and acknowledges it.
//! 4. The acknowledgement ends this end as closed; whatever takes the wire down afterwards is no loss for the other.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_channel::{Receiver, Sender};
use bytes::Bytes;
use tokio::sync::watch;

use crate::bulk::Bulk;
use crate::error::LinkError;
use crate::meter::Counters;
use crate::path::PathStats;
use crate::wait::{block_on, block_on_until};

/// Control frames queued in one direction.
const CONTROL_QUEUE_FRAMES: usize = 64;
/// Bulk frames queued in one direction.
const BULK_QUEUE_FRAMES: usize = 4;
/// How long `close` waits for its word to be handed to the wire.
const PARTING_LIMIT: Duration = Duration::from_millis(250);
/// How long `finish` waits for the other end to have everything.
const FINISH_LIMIT: Duration = Duration::from_secs(10);

/// The reason an end gives after `finish`.
pub(crate) const FINISHED: &str = "finished";

pub(crate) struct Queue<T> {
    pub(crate) tx: Sender<T>,
    pub(crate) rx: Receiver<T>,
}

impl<T> Clone for Queue<T> {
    fn clone(&self) -> Self {
        Self {
            tx: self.tx.clone(),
            rx: self.rx.clone(),
        }
    }
}

impl<T> Queue<T> {
    fn bounded(frames: usize) -> Self {
        let (tx, rx) = async_channel::bounded(frames);
        Self { tx, rx }
    }
}

/// The two queues of one direction.
#[derive(Clone)]
pub(crate) struct Lanes {
    pub(crate) control: Queue<Bytes>,
    pub(crate) bulk: Queue<Bulk>,
}

impl Lanes {
    pub(crate) fn new() -> Self {
        Self {
            control: Queue::bounded(CONTROL_QUEUE_FRAMES),
            bulk: Queue::bounded(BULK_QUEUE_FRAMES),
        }
    }

    fn close(&self) {
        self.control.tx.close();
        self.bulk.tx.close();
    }
}

/// How an end stopped, and whether by its own word.
#[derive(Clone)]
struct Ending {
    error: LinkError,
    own: bool,
}

/// What the other end has said about finishing.
#[derive(Clone, Copy, Default)]
struct Farewell {
    peer_has_finished: bool,
    peer_has_everything: bool,
}

type EndHook = Box<dyn FnOnce(&LinkError) + Send>;
type PathWatch = Box<dyn Fn() -> PathStats + Send>;

/// State shared by the handles and the carriers of one end.
pub(crate) struct End {
    pub(crate) outbound: Lanes,
    pub(crate) inbound: Lanes,
    pub(crate) counters: Arc<Counters>,
    wire: Wire,
    ending: watch::Sender<Option<Ending>>,
    farewell: watch::Sender<Farewell>,
    bulk_sent: AtomicU64,
    bulk_arrived: watch::Sender<u64>,
    /// Carriers that still take bulk frames out of the outbound queue.
    bulk_carriers: watch::Sender<usize>,
    /// Carriers that have not yet told the other end that the link is over.
    open_carriers: watch::Sender<usize>,
    hooks: Mutex<Vec<EndHook>>,
    /// One for each connection, in the order in which they came up.
    paths: Mutex<Vec<PathWatch>>,
}

/// What is between the two ends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wire {
    /// Nothing: the outbound queues of one end are the inbound ones of the other.
    None,
    /// Carriers, which register with [`End::bulk_carrier`] and [`End::closing_carrier`].
    Carried,
}

impl End {
    pub(crate) fn new(
        outbound: Lanes,
        inbound: Lanes,
        wire: Wire,
        counters: Arc<Counters>,
    ) -> Self {
        Self {
            outbound,
            inbound,
            counters,
            wire,
            ending: watch::Sender::new(None),
            farewell: watch::Sender::default(),
            bulk_sent: AtomicU64::new(0),
            bulk_arrived: watch::Sender::new(0),
            bulk_carriers: watch::Sender::new(0),
            open_carriers: watch::Sender::new(0),
            hooks: Mutex::new(Vec::new()),
            paths: Mutex::new(Vec::new()),
        }
    }

    /// An end with a wire between it and the other.
    pub(crate) fn carried(counters: Arc<Counters>) -> Arc<Self> {
        Arc::new(Self::new(
            Lanes::new(),
            Lanes::new(),
            Wire::Carried,
            counters,
        ))
    }

    pub(crate) fn has_wire(&self) -> bool {
        self.wire != Wire::None
    }

    /// Ends the link by this end's own word, and waits a moment for the other end to be told.
    pub(crate) fn close(&self, reason: &str) {
        self.stop(LinkError::closed(reason), true);
        self.await_parting();
    }

    /// Ends the link because of something that was observed. Only the first ending counts.
    pub(crate) fn stop_with(&self, error: LinkError) {
        self.stop(error, false);
    }

    fn stop(&self, error: LinkError, own: bool) {
        let error = match error {
            LinkError::Lost { .. } if self.farewell.borrow().peer_has_finished => {
                LinkError::closed(FINISHED)
            }
            error => error,
        };
        let is_first = self.ending.send_if_modified(|ending| {
            let is_first = ending.is_none();
            if is_first {
                *ending = Some(Ending {
                    error: error.clone(),
                    own,
                });
            }
            is_first
        });
        if is_first {
            let hooks = std::mem::take(&mut *self.lock_hooks());
            for hook in hooks {
                hook(&error);
            }
            self.outbound.close();
            self.inbound.close();
        }
    }

    /// Runs `hook` when the link ends, or at once if it has.
    pub(crate) fn on_end(&self, hook: impl FnOnce(&LinkError) + Send + 'static) {
        let mut hooks = self.lock_hooks();
        match self.ending() {
            None => hooks.push(Box::new(hook)),
            Some(ending) => {
                drop(hooks);
                hook(&ending.error);
            }
        }
    }

    /// What the connections have seen of their paths; nothing without any.
    pub(crate) fn paths(&self) -> Vec<PathStats> {
        let watches = self.paths.lock().unwrap_or_else(PoisonError::into_inner);
        watches.iter().map(|watch| watch()).collect()
    }

    fn lock_hooks(&self) -> std::sync::MutexGuard<'_, Vec<EndHook>> {
        self.hooks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Delivers what is queued, waits until the other end has it, then ends the link.
    pub(crate) fn finish(&self) {
        self.outbound.close();
        if self.has_wire() {
            let deadline = Instant::now() + FINISH_LIMIT;
            let mut farewell = self.farewell.subscribe();
            let delivered = async {
                tokio::select! {
                    _ = farewell.wait_for(|farewell| farewell.peer_has_everything) => {}
                    _ = self.ended() => {}
                }
            };
            if block_on_until(delivered, deadline).is_none() {
                tracing::warn!("the other end did not acknowledge everything in 10 s; closing");
            }
        }
        self.close(FINISHED);
    }

    fn ending(&self) -> Option<Ending> {
        self.ending.borrow().clone()
    }

    /// The error for a caller whose queue is closed.
    pub(crate) fn error(&self) -> LinkError {
        self.ending()
            .map_or_else(|| LinkError::closed(FINISHED), |ending| ending.error)
    }

    /// The error of an end that this end closed itself: nothing more is handed out.
    pub(crate) fn own_ending(&self) -> Option<LinkError> {
        self.ending()
            .filter(|ending| ending.own)
            .map(|ending| ending.error)
    }

    /// Whether the link has ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.ending.borrow().is_some()
    }

    /// Waits for the end of the link.
    pub(crate) async fn ended(&self) -> LinkError {
        let mut ending = self.ending.subscribe();
        match ending.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(ending)) => ending.error.clone(),
            _ => LinkError::closed(FINISHED),
        }
    }

    /// Blocks until the link ends or `deadline` passes; whether it has ended.
    pub(crate) fn await_end_until(&self, deadline: Instant) -> bool {
        block_on_until(self.ended(), deadline).is_some()
    }

    // What follows is for carriers.

    /// Lets the callers see what a connection sees of its path.
    pub(crate) fn watch_path(&self, watch: impl Fn() -> PathStats + Send + 'static) {
        let mut watches = self.paths.lock().unwrap_or_else(PoisonError::into_inner);
        watches.push(Box::new(watch));
    }

    /// Registers a bulk carrier. All register before callers get hold of the link.
    pub(crate) fn bulk_carrier(self: &Arc<Self>) -> BulkCarrier {
        self.bulk_carriers.send_modify(|count| *count += 1);
        BulkCarrier {
            end: Arc::clone(self),
        }
    }

    /// Registers a carrier that will tell the other end when the link is over; dropping it says that it has.
    pub(crate) fn closing_carrier(self: &Arc<Self>) -> ClosingCarrier {
        self.open_carriers.send_modify(|count| *count += 1);
        ClosingCarrier {
            end: Arc::clone(self),
        }
    }

    /// Waits until every bulk carrier has run dry; the number of bulk frames they took.
    pub(crate) async fn bulk_drained(&self) -> u64 {
        let mut carriers = self.bulk_carriers.subscribe();
        let _ = carriers.wait_for(|left| *left == 0).await;
        self.bulk_sent()
    }

    /// The number of bulk frames that carriers have taken; final once all have run dry.
    pub(crate) fn bulk_sent(&self) -> u64 {
        self.bulk_sent.load(Ordering::Acquire)
    }

    /// Hands a received control frame to the callers.
    pub(crate) async fn control_arrived(&self, frame: Bytes) -> Result<(), LinkError> {
        self.inbound
            .control
            .tx
            .send(frame)
            .await
            .map_err(|_| self.error())
    }

    /// Hands a received bulk frame to the callers.
    pub(crate) async fn bulk_arrived(&self, frame: Bulk) -> Result<(), LinkError> {
        self.inbound
            .bulk
            .tx
            .send(frame)
            .await
            .map_err(|_| self.error())?;
        self.bulk_arrived.send_modify(|count| *count += 1);
        Ok(())
    }

    /// The other end has sent its last frame and `bulk_frames` bulk frames in all: waits until those are here.
    pub(crate) async fn peer_finished(&self, bulk_frames: u64) -> Result<(), LinkError> {
        let mut arrived = self.bulk_arrived.subscribe();
        let arrived = async {
            arrived
                .wait_for(|count| *count >= bulk_frames)
                .await
                .map(|count| *count)
        };
        let count = tokio::select! {
            count = arrived => count.unwrap_or(bulk_frames),
            error = self.ended() => return Err(error),
        };
        if count > bulk_frames {
            let what = format!("goodbye after {bulk_frames} bulk frames, but {count} arrived");
            return Err(LinkError::violation(what));
        }
        self.farewell
            .send_modify(|farewell| farewell.peer_has_finished = true);
        Ok(())
    }

    /// The other end has everything that this end sent.
    pub(crate) fn peer_has_everything(&self) {
        self.farewell
            .send_modify(|farewell| farewell.peer_has_everything = true);
    }

    fn await_parting(&self) {
        let mut open = self.open_carriers.subscribe();
        let parted = async {
            let _ = open.wait_for(|left| *left == 0).await;
        };
        let _ = block_on_until(parted, Instant::now() + PARTING_LIMIT);
    }

    /// Blocks until a received bulk frame is with the callers.
    pub(crate) fn deliver_bulk(&self, frame: Bulk) -> Result<(), LinkError> {
        block_on(self.bulk_arrived(frame))
    }

    /// Blocks until a received control frame is with the callers.
    pub(crate) fn deliver_control(&self, frame: Bytes) -> Result<(), LinkError> {
        block_on(self.control_arrived(frame))
    }
}

/// The right to take bulk frames out of the outbound queue.
pub(crate) struct BulkCarrier {
    end: Arc<End>,
}

impl BulkCarrier {
    /// The next frame to carry, or `None` when there will be no more.
    pub(crate) async fn next(&self) -> Option<Bulk> {
        let frame = self.end.outbound.bulk.rx.recv().await.ok()?;
        self.end.bulk_sent.fetch_add(1, Ordering::AcqRel);
        Some(frame)
    }
}

impl Drop for BulkCarrier {
    fn drop(&mut self) {
        self.end
            .bulk_carriers
            .send_modify(|left| *left = left.saturating_sub(1));
    }
}

/// The duty to tell the other end that the link is over.
pub(crate) struct ClosingCarrier {
    end: Arc<End>,
}

impl Drop for ClosingCarrier {
    fn drop(&mut self) {
        // No link outlives a carrier of it, not even one that panicked.
        self.end
            .stop_with(LinkError::lost("a thread of the link stopped"));
        self.end
            .open_carriers
            .send_modify(|left| *left = left.saturating_sub(1));
    }
}
