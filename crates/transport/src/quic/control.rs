//! The control lane on its stream.

use std::sync::Arc;

use async_channel::{Receiver, Sender};
use bytes::Bytes;
use quinn::{ReadExactError, RecvStream, SendStream};
use tokio::task::JoinSet;

use super::carrier::{read_error, write_error};
use crate::MAX_CONTROL_FRAME;
use crate::end::End;
use crate::error::LinkError;

/// In place of a length: no frame follows, but the number of bulk frames sent in all.
const GOODBYE: u32 = u32::MAX;
/// In place of a length: everything before the goodbye has been received.
const RECEIVED: u32 = u32::MAX - 1;

/// Ahead of the bulk streams of the same connection, whose priority is 0.
const PRIORITY: i32 = 1;
const STREAM: &str = "the control stream";

/// Writes queued frames, a receipt when `receipts` asks for one, and a goodbye once both lanes have run dry.
pub(super) async fn write(
    end: Arc<End>,
    mut stream: SendStream,
    receipts: Receiver<()>,
) -> Result<(), LinkError> {
    // Without priority it is slower, not wrong.
    let _ = stream.set_priority(PRIORITY);
    let frames = end.outbound.control.rx.clone();
    let mut queue_is_open = true;
    let mut drained = std::pin::pin!(end.bulk_drained());
    let mut said_goodbye = false;
    loop {
        let mut chunks = tokio::select! {
            biased;
            receipt = receipts.recv() => match receipt {
                Ok(()) => vec![head(RECEIVED)],
                // The reading task has failed, and ends the link.
                Err(_) => return Ok(()),
            },
            frame = frames.recv(), if queue_is_open => match frame {
                Ok(frame) => vec![length(&frame), frame],
                Err(_) => {
                    queue_is_open = false;
                    continue;
                }
            },
            bulk_frames = &mut drained, if !queue_is_open && !said_goodbye => {
                said_goodbye = true;
                if end.has_ended() {
                    // Closed, not finished: frames were dropped, so there is nothing true to say.
                    continue;
                }
                vec![head(GOODBYE), Bytes::copy_from_slice(&bulk_frames.to_le_bytes())]
            }
        };
        stream
            .write_all_chunks(&mut chunks)
            .await
            .map_err(|error| write_error(error, STREAM))?;
    }
}

/// Reads frames; after the goodbye also waits for its bulk frames, then asks for a receipt.
pub(super) async fn read(
    end: Arc<End>,
    mut stream: RecvStream,
    received: Sender<()>,
) -> Result<(), LinkError> {
    let mut goodbye = JoinSet::new();
    loop {
        let head = tokio::select! {
            head = read_array(&mut stream) => u32::from_le_bytes(head?),
            Some(done) = goodbye.join_next() => {
                done.unwrap_or_else(|panic| Err(LinkError::lost(format!("a task of the link failed: {panic}"))))?;
                continue;
            }
        };
        match head {
            GOODBYE => {
                let bulk_frames = u64::from_le_bytes(read_array(&mut stream).await?);
                let (end, received) = (Arc::clone(&end), received.clone());
                if !goodbye.is_empty() {
                    return Err(LinkError::violation("a second goodbye"));
                }
                goodbye.spawn(async move {
                    end.peer_finished(bulk_frames).await?;
                    received.send(()).await.map_err(|_| end.error())
                });
            }
            RECEIVED => end.peer_has_everything(),
            len => {
                end.control_arrived(read_frame(&mut stream, len).await?)
                    .await?
            }
        }
    }
}

async fn read_frame(stream: &mut RecvStream, len: u32) -> Result<Bytes, LinkError> {
    let len = usize::try_from(len).unwrap_or(usize::MAX);
    if len > MAX_CONTROL_FRAME {
        return Err(LinkError::violation(format!(
            "control frame of {len} bytes"
        )));
    }
    let mut frame = vec![0; len];
    stream.read_exact(&mut frame).await.map_err(unread)?;
    Ok(frame.into())
}

async fn read_array<const LEN: usize>(stream: &mut RecvStream) -> Result<[u8; LEN], LinkError> {
    let mut bytes = [0; LEN];
    stream.read_exact(&mut bytes).await.map_err(unread)?;
    Ok(bytes)
}

fn unread(error: ReadExactError) -> LinkError {
    match error {
        ReadExactError::FinishedEarly(_) => LinkError::violation("the control stream ended"),
        ReadExactError::ReadError(error) => read_error(error, STREAM),
    }
}

/// The length of a frame, which is at most [`MAX_CONTROL_FRAME`].
fn length(frame: &Bytes) -> Bytes {
    head(u32::try_from(frame.len()).unwrap_or(u32::MAX))
}

fn head(value: u32) -> Bytes {
    Bytes::copy_from_slice(&value.to_le_bytes())
}
