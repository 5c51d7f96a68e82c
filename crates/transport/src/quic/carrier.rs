//! Carries frames between one QUIC connection and the queues of an end.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quinn::{Connection, ConnectionError, Endpoint, ReadError, RecvStream, VarInt, WriteError};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::admit::Proven;
use super::control;
use super::options::Admitted;
use crate::MAX_BULK_FRAME;
use crate::bulk::Bulk;
use crate::end::{BulkCarrier, ClosingCarrier, End};
use crate::error::{LinkError, quoted};
use crate::path::PathStats;

/// Application error codes of a connection's close.
const CODE_CLOSED: u32 = 0;
const CODE_VIOLATION: u32 = 1;
pub(super) const CODE_REFUSED: u32 = 2;

/// Bulk frames of one connection that are read at the same time; more wait in their streams.
const FRAMES_BEING_READ: usize = 8;
/// Chunks taken from a stream at a time.
const CHUNKS_AT_A_TIME: usize = 64;
/// How long the socket stays after the close, to answer the other end's last packets.
const DRAIN_LIMIT: Duration = Duration::from_millis(500);
/// Turns given to the connection's driver to send the close.
const TURNS_TO_SEND_CLOSE: usize = 8;

/// Which lanes a connection carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Load {
    Control,
    Bulk,
    Both,
}

impl Load {
    /// The load of connection `index` of a link with `ports` connections.
    pub(super) fn of(index: usize, ports: usize) -> Self {
        match (index, ports) {
            (_, 1) => Self::Both,
            (0, _) => Self::Control,
            _ => Self::Bulk,
        }
    }
}

/// One connection at work for an end. Registered with the end from the start.
pub(super) struct Carrier {
    end: Arc<End>,
    endpoint: Endpoint,
    proven: Proven,
    load: Load,
    bulk: Option<BulkCarrier>,
    closing: ClosingCarrier,
}

impl Carrier {
    pub(super) fn new(
        end: Arc<End>,
        endpoint: Endpoint,
        proven: Proven,
        load: Load,
        limits: Admitted,
    ) -> Self {
        proven
            .connection
            .set_max_concurrent_uni_streams(limits.bulk_streams);
        proven.connection.set_receive_window(limits.window);
        let watched = proven.connection.clone();
        end.watch_path(move || path_stats(&watched, load));
        let bulk = (load != Load::Control).then(|| end.bulk_carrier());
        let closing = end.closing_carrier();
        Self {
            end,
            endpoint,
            proven,
            load,
            bulk,
            closing,
        }
    }

    /// Carries frames until the link ends, then tells the other end.
    pub(super) async fn run(self) {
        let Self {
            end,
            endpoint,
            proven,
            load,
            bulk,
            closing,
        } = self;
        let Proven {
            connection,
            send,
            recv,
        } = proven;
        let mut tasks = JoinSet::new();
        if load != Load::Bulk {
            let (received, receipts) = async_channel::bounded(1);
            tasks.spawn(control::write(Arc::clone(&end), send, receipts));
            tasks.spawn(control::read(Arc::clone(&end), recv, received));
        }
        if let Some(bulk) = bulk {
            tasks.spawn(write_bulk(bulk, connection.clone()));
            tasks.spawn(read_bulk(Arc::clone(&end), connection.clone()));
        }
        let error = watch(&end, &connection, &mut tasks).await;
        connection.close(
            VarInt::from_u32(code_of(&error)),
            error.last_word().as_bytes(),
        );
        for _ in 0..TURNS_TO_SEND_CLOSE {
            tokio::task::yield_now().await;
        }
        drop(closing);
        drop(tasks);
        drop(connection);
        let _ = timeout(DRAIN_LIMIT, endpoint.wait_idle()).await;
    }
}

fn path_stats(connection: &Connection, load: Load) -> PathStats {
    let stats = connection.stats();
    PathStats {
        carries_bulk: load != Load::Control,
        mtu: stats.path.current_mtu,
        rtt: stats.path.rtt,
        window: stats.path.cwnd,
        packets_sent: stats.path.sent_packets,
        packets_lost: stats.path.lost_packets,
        bytes_lost: stats.path.lost_bytes,
        congestion_events: stats.path.congestion_events,
        bytes_sent: stats.udp_tx.bytes,
        bytes_received: stats.udp_rx.bytes,
    }
}

/// Waits for the end of the link; ends it when the connection ends or a task fails.
async fn watch(
    end: &End,
    connection: &Connection,
    tasks: &mut JoinSet<Result<(), LinkError>>,
) -> LinkError {
    loop {
        tokio::select! {
            biased;
            error = end.ended() => return error,
            error = connection.closed() => end.stop_with(link_error(error)),
            Some(done) = tasks.join_next() => match done {
                Ok(Ok(())) => {}
                Ok(Err(error)) => end.stop_with(error),
                Err(panic) => end.stop_with(LinkError::lost(format!("a task of the link failed: {panic}"))),
            },
        }
    }
}

async fn write_bulk(bulk: BulkCarrier, connection: Connection) -> Result<(), LinkError> {
    while let Some(frame) = bulk.next().await {
        let mut stream = connection.open_uni().await.map_err(link_error)?;
        let mut chunks = frame.into_chunks();
        stream
            .write_all_chunks(&mut chunks)
            .await
            .map_err(|error| write_error(error, "a bulk stream"))?;
        stream
            .finish()
            .map_err(|_| LinkError::violation("a bulk stream was closed from the other side"))?;
    }
    Ok(())
}

async fn read_bulk(end: Arc<End>, connection: Connection) -> Result<(), LinkError> {
    let mut frames = JoinSet::new();
    loop {
        tokio::select! {
            Some(done) = frames.join_next() => {
                done.unwrap_or_else(|panic| Err(LinkError::lost(format!("a task of the link failed: {panic}"))))?;
            }
            stream = connection.accept_uni(), if frames.len() < FRAMES_BEING_READ => {
                let (stream, end) = (stream.map_err(link_error)?, Arc::clone(&end));
                frames.spawn(async move { end.bulk_arrived(read_frame(stream).await?).await });
            }
        }
    }
}

async fn read_frame(mut stream: RecvStream) -> Result<Bulk, LinkError> {
    let mut chunks = Vec::new();
    let mut len = 0;
    loop {
        let filled = chunks.len();
        chunks.resize(filled + CHUNKS_AT_A_TIME, Bytes::new());
        let read = stream.read_chunks(&mut chunks[filled..]).await;
        let read = read.map_err(|error| read_error(error, "a bulk stream"))?;
        chunks.truncate(filled + read.unwrap_or(0));
        if read.is_none() {
            return Ok(Bulk::from_chunks(chunks));
        }
        len += chunks[filled..].iter().map(Bytes::len).sum::<usize>();
        if len > MAX_BULK_FRAME {
            return Err(LinkError::violation(format!(
                "bulk frame of more than {MAX_BULK_FRAME} bytes"
            )));
        }
    }
}

/// What the end of a connection means for its link.
pub(super) fn link_error(error: ConnectionError) -> LinkError {
    match error {
        ConnectionError::ApplicationClosed(close) => {
            LinkError::closed(String::from_utf8_lossy(&close.reason))
        }
        ConnectionError::LocallyClosed => LinkError::closed(crate::end::FINISHED),
        ConnectionError::TransportError(_) => LinkError::violation(describe(&error)),
        _ => LinkError::lost(describe(&error)),
    }
}

/// `error` in words, texts of the other end escaped.
pub(crate) fn describe(error: &ConnectionError) -> String {
    match error {
        ConnectionError::TimedOut => "nothing heard for the whole idle timeout".to_owned(),
        ConnectionError::Reset => {
            "reset by the other end, which no longer knows this link".to_owned()
        }
        ConnectionError::ApplicationClosed(close) => {
            let reason = quoted(&String::from_utf8_lossy(&close.reason));
            match close.error_code.into_inner() == u64::from(CODE_REFUSED) {
                true => format!("refused by the other end: {reason}"),
                false => format!("closed by the other end: {reason}"),
            }
        }
        other => quoted(&other.to_string()),
    }
}

pub(super) fn read_error(error: ReadError, stream: &str) -> LinkError {
    match error {
        ReadError::ConnectionLost(error) => link_error(error),
        ReadError::Reset(_) => LinkError::violation(format!("{stream} was reset")),
        other => LinkError::violation(format!("{stream}: {other}")),
    }
}

pub(super) fn write_error(error: WriteError, stream: &str) -> LinkError {
    match error {
        WriteError::ConnectionLost(error) => link_error(error),
        WriteError::Stopped(_) => LinkError::violation(format!("{stream} was stopped")),
        other => LinkError::violation(format!("{stream}: {other}")),
    }
}

fn code_of(error: &LinkError) -> u32 {
    match error {
        LinkError::Violation { .. } => CODE_VIOLATION,
        _ => CODE_CLOSED,
    }
}
