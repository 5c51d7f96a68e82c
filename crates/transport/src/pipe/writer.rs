//! The thread that writes frames onto a pipe.

use std::io::{self, BufWriter, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_channel::Receiver;
use bytes::Bytes;

use super::Obituary;
use super::frame::{Header, Lane};
use crate::bulk::Bulk;
use crate::end::{BulkCarrier, ClosingCarrier, End};
use crate::error::LinkError;
use crate::meter::Counters;
use crate::wait::block_on_until;

/// Small frames are gathered up to this many bytes; chunks at least this large are written as they are.
const WRITE_BEHIND: usize = 64 * 1024;
/// How long a failed write waits for the reader to find the better reason: a close frame, the end of the stream.
const REASON_LIMIT: Duration = Duration::from_millis(300);

pub(super) struct Writer<W: Write> {
    end: Arc<End>,
    stream: BufWriter<Metered<W>>,
    receipts: Receiver<()>,
    ping_after: Duration,
    obituary: Arc<Obituary>,
    /// `None` once the bulk lane has run dry.
    bulk: Option<BulkCarrier>,
    control: Option<Receiver<Bytes>>,
    said_goodbye: bool,
    /// Registered before the callers have the link, so that whoever closes at once waits for it.
    _closing: ClosingCarrier,
}

/// What to write next.
enum Outgoing {
    Control(Bytes),
    ControlDry,
    Bulk(Bulk),
    BulkDry,
    Received,
    Ended(LinkError),
}

impl<W: Write> Writer<W> {
    pub(super) fn new(
        end: Arc<End>,
        write: W,
        receipts: Receiver<()>,
        ping_after: Duration,
        obituary: Arc<Obituary>,
    ) -> Self {
        let metered = Metered {
            write,
            counters: Arc::clone(&end.counters),
        };
        Self {
            stream: BufWriter::with_capacity(WRITE_BEHIND, metered),
            bulk: Some(end.bulk_carrier()),
            _closing: end.closing_carrier(),
            control: Some(end.outbound.control.rx.clone()),
            end,
            receipts,
            ping_after,
            obituary,
            said_goodbye: false,
        }
    }

    pub(super) fn run(mut self) {
        if let Err(error) = self.write_frames() {
            self.end.await_end_until(Instant::now() + REASON_LIMIT);
            let what = format!("cannot write to the pipe: {error}");
            self.end.stop_with(self.obituary.lost(&what));
        }
    }

    fn write_frames(&mut self) -> io::Result<()> {
        loop {
            match self.next()? {
                None => self.frame(Lane::Ping, &[])?,
                Some(Outgoing::Control(frame)) => self.frame(Lane::Control, &[frame])?,
                Some(Outgoing::Bulk(frame)) => self.frame(Lane::Bulk, frame.chunks())?,
                Some(Outgoing::Received) => self.frame(Lane::Received, &[])?,
                Some(Outgoing::ControlDry) => self.control = None,
                Some(Outgoing::BulkDry) => self.bulk = None,
                Some(Outgoing::Ended(error)) => return self.last_word(&error),
            }
            self.goodbye_when_dry()?;
        }
    }

    /// What to write next, or `None` when there was nothing for long enough to ping. Flushes before it waits.
    fn next(&mut self) -> io::Result<Option<Outgoing>> {
        let now = Instant::now();
        if let Some(outgoing) = block_on_until(self.outgoing(), now) {
            return Ok(Some(outgoing));
        }
        self.stream.flush()?;
        Ok(block_on_until(self.outgoing(), now + self.ping_after))
    }

    async fn outgoing(&self) -> Outgoing {
        let control = async {
            match &self.control {
                Some(control) => control
                    .recv()
                    .await
                    .map_or(Outgoing::ControlDry, Outgoing::Control),
                None => std::future::pending().await,
            }
        };
        let bulk = async {
            match &self.bulk {
                Some(bulk) => bulk.next().await.map_or(Outgoing::BulkDry, Outgoing::Bulk),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            error = self.end.ended() => Outgoing::Ended(error),
            Ok(()) = self.receipts.recv() => Outgoing::Received,
            outgoing = control => outgoing,
            outgoing = bulk => outgoing,
        }
    }

    fn goodbye_when_dry(&mut self) -> io::Result<()> {
        if self.said_goodbye || self.control.is_some() || self.bulk.is_some() {
            return Ok(());
        }
        self.said_goodbye = true;
        let bulk_frames = self.end.bulk_sent();
        self.frame(
            Lane::Goodbye,
            &[Bytes::copy_from_slice(&bulk_frames.to_le_bytes())],
        )
    }

    fn last_word(&mut self, error: &LinkError) -> io::Result<()> {
        let reason = error.last_word();
        self.frame(Lane::Close, &[Bytes::from(reason)])?;
        self.stream.flush()
    }

    fn frame(&mut self, lane: Lane, chunks: &[Bytes]) -> io::Result<()> {
        let len = chunks.iter().map(Bytes::len).sum();
        self.stream.write_all(&Header { lane, len }.encode())?;
        chunks
            .iter()
            .try_for_each(|chunk| self.stream.write_all(chunk))
    }
}

/// A stream that counts what it took.
struct Metered<W> {
    write: W,
    counters: Arc<Counters>,
}

impl<W: Write> Write for Metered<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let len = self.write.write(bytes)?;
        self.counters.add_sent(len);
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.write.flush()
    }
}
