//! The handles of a link that callers hold.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_channel::Receiver;
use bytes::Bytes;

use crate::bulk::Bulk;
use crate::end::End;
use crate::error::LinkError;
use crate::meter::Meter;
use crate::path::PathStats;
use crate::wait::{block_on, block_on_until};
use crate::{MAX_BULK_FRAME, MAX_CONTROL_FRAME};

/// One end of a link. Its parts work on from different threads; the link closes when all handles but the meter are
/// dropped.
#[derive(Debug)]
pub struct Link {
    /// Sends on both lanes, and ends the link.
    pub sender: LinkSender,
    /// Receives control frames in the order they were sent.
    pub control: ControlReceiver,
    /// Receives bulk frames, each whole, in any order.
    pub bulk: BulkReceiver,
    /// Counts what crossed the link.
    pub meter: Meter,
    /// What carries it.
    pub via: Via,
}

/// What carries a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// QUIC over UDP.
    Quic,
    /// The pipes of a remote shell.
    Ssh,
    /// Queues inside one process.
    Memory,
}

impl Via {
    /// The word for summaries and logs: `quic`, `ssh` or `memory`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Quic => "quic",
            Self::Ssh => "ssh",
            Self::Memory => "memory",
        }
    }
}

impl Link {
    pub(crate) fn new(guard: Arc<Guard>, via: Via) -> Self {
        Self {
            meter: Meter(Arc::clone(&guard.0.counters)),
            sender: LinkSender {
                guard: Arc::clone(&guard),
            },
            control: ControlReceiver {
                guard: Arc::clone(&guard),
            },
            bulk: BulkReceiver { guard },
            via,
        }
    }

    /// What each connection has seen of its path, in an order that stays; nothing where no connection
    /// is this program's own: a remote shell's pipe, memory.
    pub fn paths(&self) -> Vec<PathStats> {
        self.sender.guard.0.paths()
    }

    /// The state behind the handles, for those who watch the other end by other means.
    pub(crate) fn end(&self) -> Arc<End> {
        Arc::clone(&self.sender.guard.0)
    }
}

/// Closes the link when the last handle goes.
pub(crate) struct Guard(pub(crate) Arc<End>);

impl std::fmt::Debug for Guard {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Guard")
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.close("the other end let go of the link");
    }
}

/// Sends frames on both lanes; clones share the link.
#[derive(Clone)]
pub struct LinkSender {
    guard: Arc<Guard>,
}

impl LinkSender {
    /// Queues a control frame of at most [`MAX_CONTROL_FRAME`] bytes; blocks while the lane is full.
    ///
    /// # Errors
    /// [`LinkError::TooLarge`] for the frame; otherwise why the link has ended, also if it ends while this blocks.
    pub fn control(&self, frame: Bytes) -> Result<(), LinkError> {
        let end = &self.guard.0;
        let len = checked_len("control", frame.len(), MAX_CONTROL_FRAME)?;
        block_on(end.outbound.control.tx.send(frame)).map_err(|_| end.error())?;
        self.count(len);
        Ok(())
    }

    /// Queues a bulk frame of at most [`MAX_BULK_FRAME`] bytes; blocks while the lane is full.
    ///
    /// # Errors
    /// [`LinkError::TooLarge`] for the frame; otherwise why the link has ended, also if it ends while this blocks.
    pub fn bulk(&self, frame: Bulk) -> Result<(), LinkError> {
        let end = &self.guard.0;
        let len = checked_len("bulk", frame.len(), MAX_BULK_FRAME)?;
        block_on(end.outbound.bulk.tx.send(frame)).map_err(|_| end.error())?;
        self.count(len);
        Ok(())
    }

    /// Ends the link now: blocked calls on both ends wake with an error that carries `reason`, queued frames are
    /// dropped. Waits up to 250 ms for the other end to be told.
    pub fn close(&self, reason: &str) {
        self.guard.0.close(reason);
    }

    /// Delivers everything queued, waits until the other end acknowledges that it has received all of it (at most
    /// 10 s), then closes the link. What the other end has not sent by then is lost: finish when all answers are in.
    pub fn finish(&self) {
        self.guard.0.finish();
    }

    fn count(&self, frame_len: usize) {
        if !self.guard.0.has_wire() {
            self.guard.0.counters.add_sent(frame_len);
        }
    }
}

fn checked_len(lane: &'static str, len: usize, limit: usize) -> Result<usize, LinkError> {
    if len > limit {
        return Err(LinkError::TooLarge { lane, len, limit });
    }
    Ok(len)
}

/// Receives control frames; clones take turns.
#[derive(Clone)]
pub struct ControlReceiver {
    guard: Arc<Guard>,
}

impl ControlReceiver {
    /// The next control frame; blocks until there is one.
    ///
    /// # Errors
    /// Why the link has ended, once everything received before that has been handed out.
    pub fn recv(&self) -> Result<Bytes, LinkError> {
        receive(&self.guard.0, &self.guard.0.inbound.control.rx, Bytes::len)
    }

    /// The next control frame, or `None` if none comes within `timeout`.
    ///
    /// # Errors
    /// As [`ControlReceiver::recv`].
    pub fn recv_timeout(&self, timeout: Duration) -> Result<Option<Bytes>, LinkError> {
        receive_within(
            &self.guard.0,
            &self.guard.0.inbound.control.rx,
            Bytes::len,
            timeout,
        )
    }
}

/// Receives bulk frames; several threads may, each frame goes to one of them.
#[derive(Clone)]
pub struct BulkReceiver {
    guard: Arc<Guard>,
}

impl BulkReceiver {
    /// The next bulk frame; blocks until there is one.
    ///
    /// # Errors
    /// Why the link has ended, once everything received before that has been handed out.
    pub fn recv(&self) -> Result<Bulk, LinkError> {
        receive(&self.guard.0, &self.guard.0.inbound.bulk.rx, Bulk::len)
    }

    /// The next bulk frame, or `None` if none comes within `timeout`.
    ///
    /// # Errors
    /// As [`BulkReceiver::recv`].
    pub fn recv_timeout(&self, timeout: Duration) -> Result<Option<Bulk>, LinkError> {
        receive_within(
            &self.guard.0,
            &self.guard.0.inbound.bulk.rx,
            Bulk::len,
            timeout,
        )
    }
}

fn receive<T>(end: &End, queue: &Receiver<T>, len: fn(&T) -> usize) -> Result<T, LinkError> {
    if let Some(error) = end.own_ending() {
        return Err(error);
    }
    let frame = block_on(queue.recv()).map_err(|_| end.error())?;
    Ok(counted(end, frame, len))
}

fn receive_within<T>(
    end: &End,
    queue: &Receiver<T>,
    len: fn(&T) -> usize,
    timeout: Duration,
) -> Result<Option<T>, LinkError> {
    if let Some(error) = end.own_ending() {
        return Err(error);
    }
    match block_on_until(queue.recv(), Instant::now() + timeout) {
        None => Ok(None),
        Some(Ok(frame)) => Ok(Some(counted(end, frame, len))),
        Some(Err(_)) => Err(end.error()),
    }
}

fn counted<T>(end: &End, frame: T, len: fn(&T) -> usize) -> T {
    if !end.has_wire() {
        end.counters.add_received(len(&frame));
    }
    frame
}

macro_rules! opaque_debug {
    ($($handle:ident),*) => {$(
        impl std::fmt::Debug for $handle {
            fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                out.debug_struct(stringify!($handle)).finish_non_exhaustive()
            }
        }
    )*};
}
opaque_debug!(LinkSender, ControlReceiver, BulkReceiver);
