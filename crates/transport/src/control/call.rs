//! One call: frames both ways on one bidirectional stream.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quinn::{RecvStream, SendStream, VarInt};
use tokio::time::{sleep, timeout};

use super::error::{CallError, DROPPED, VIOLATION, cut, given_up};
use super::frame::{self, Fault, Partial};
use super::held::InUse;
use super::limits::{MAX_CALL_FRAME, MAX_FIRST_FRAME};
use crate::quic::PublicKey;

/// How often is looked whether a goodbye has left.
const GLANCE: Duration = Duration::from_millis(1);

/// The connection under a call, and whose it is.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub(super) connection: quinn::Connection,
    pub(super) peer: PublicKey,
}

impl Line {
    pub(super) fn remote_address(&self) -> SocketAddr {
        let address = self.connection.remote_address();
        SocketAddr::new(address.ip().to_canonical(), address.port())
    }

    /// Closes the connection of a peer that broke the rules.
    fn broken_by(&self, fault: Fault) -> CallError {
        let reason = cut(&fault.to_string());
        self.close(VIOLATION, &reason);
        fault.into()
    }

    /// Waits until a close has left this machine; does not end by itself if it cannot.
    pub(super) async fn goodbye_sent(&self) {
        while self.connection.stats().frame_tx.connection_close == 0 {
            sleep(GLANCE).await;
        }
    }

    pub(super) fn close(&self, code: u32, reason: &str) {
        let reason = cut(reason);
        self.connection
            .close(VarInt::from_u32(code), reason.as_bytes());
    }
}

/// One call, at either end of it.
#[derive(Debug)]
pub struct Call {
    sender: CallSender,
    receiver: CallReceiver,
}

impl Call {
    /// The caller's end of a new stream.
    pub(super) fn outgoing(line: &Line, streams: (SendStream, RecvStream)) -> Self {
        Self::new(line, streams, [MAX_FIRST_FRAME, MAX_CALL_FRAME], None)
    }

    /// The called one's end: what comes first may only be small.
    pub(super) fn incoming(line: &Line, streams: (SendStream, RecvStream), in_use: InUse) -> Self {
        let limits = [MAX_CALL_FRAME, MAX_FIRST_FRAME];
        Self::new(line, streams, limits, Some(Arc::new(in_use)))
    }

    fn new(
        line: &Line,
        (send, recv): (SendStream, RecvStream),
        [first_sent, first_received]: [usize; 2],
        in_use: Option<Arc<InUse>>,
    ) -> Self {
        Self {
            sender: CallSender {
                stream: send,
                line: line.clone(),
                limit: first_sent,
                state: Sending::Whole,
                _in_use: in_use.clone(),
            },
            receiver: CallReceiver {
                stream: recv,
                line: line.clone(),
                limit: first_received,
                partial: Partial::default(),
                ended: false,
                _in_use: in_use,
            },
        }
    }

    /// The other end's key.
    #[must_use]
    pub fn peer(&self) -> PublicKey {
        self.receiver.line.peer
    }

    /// Where the other end is now.
    #[must_use]
    pub fn remote_address(&self) -> SocketAddr {
        self.receiver.line.remote_address()
    }

    /// See [`CallSender::send`].
    ///
    /// # Errors
    /// The same.
    pub async fn send(&mut self, frame: Bytes) -> Result<(), CallError> {
        self.sender.send(frame).await
    }

    /// See [`CallReceiver::recv`].
    ///
    /// # Errors
    /// The same.
    pub async fn recv(&mut self) -> Result<Option<Bytes>, CallError> {
        self.receiver.recv().await
    }

    /// See [`CallReceiver::recv_within`].
    ///
    /// # Errors
    /// The same.
    pub async fn recv_within(&mut self, limit: Duration) -> Result<Option<Bytes>, CallError> {
        self.receiver.recv_within(limit).await
    }

    /// See [`CallSender::finish`].
    ///
    /// # Errors
    /// The same.
    pub fn finish(&mut self) -> Result<(), CallError> {
        self.sender.finish()
    }

    /// See [`CallSender::delivered`].
    ///
    /// # Errors
    /// The same.
    pub async fn delivered(&mut self) -> Result<(), CallError> {
        self.sender.delivered().await
    }

    /// The two directions, for two tasks.
    #[must_use]
    pub fn split(self) -> (CallSender, CallReceiver) {
        (self.sender, self.receiver)
    }

    /// Gives up both directions, and says why.
    pub(super) fn abandon(mut self, code: u32) {
        let code = VarInt::from_u32(code);
        // Closed already is as good.
        let _ = self.sender.stream.reset(code);
        let _ = self.receiver.stream.stop(code);
        self.sender.state = Sending::Finished;
    }
}

#[cfg(test)]
impl Call {
    /// Sends bytes that need be no frame, and the end.
    pub(super) async fn write_raw(mut self, bytes: Vec<u8>) {
        self.sender.stream.write_all(&bytes).await.unwrap();
        self.finish().unwrap();
        // Dropping the other direction would say that the call was given up.
        while let Ok(Some(_)) = self.recv().await {}
    }
}

/// What the stream holds so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sending {
    /// Whole frames.
    Whole,
    /// A frame whose sending was cancelled or failed.
    Torn,
    /// Whole frames, and the mark that there are no more.
    Finished,
}

/// The sending direction of a call. Dropped before [`CallSender::finish`], it tells the other end that the call was
/// given up.
#[derive(Debug)]
pub struct CallSender {
    stream: SendStream,
    line: Line,
    limit: usize,
    state: Sending,
    /// At the called one's end.
    _in_use: Option<Arc<InUse>>,
}

impl CallSender {
    /// Sends a frame, of 1 to [`MAX_CALL_FRAME`] bytes; the first one of a caller has at most [`MAX_FIRST_FRAME`].
    /// Waits while the other end does not receive. If this is cancelled, nothing more can be sent.
    ///
    /// # Errors
    /// [`CallError`] if the other end is gone or no longer receives, or the frame does not fit.
    pub async fn send(&mut self, frame: Bytes) -> Result<(), CallError> {
        let (len, limit) = (frame.len(), self.limit);
        let head = frame::head(len, limit).ok_or(CallError::FrameSize { len, limit })?;
        self.unfinished()?;
        self.state = Sending::Torn;
        self.stream.write_all_chunks(&mut [head, frame]).await?;
        self.state = Sending::Whole;
        self.limit = MAX_CALL_FRAME;
        Ok(())
    }

    /// Marks the end: the other end receives everything sent, then `None`. Does not wait for that.
    ///
    /// # Errors
    /// If a frame was torn, or the end marked before.
    pub fn finish(&mut self) -> Result<(), CallError> {
        self.unfinished()?;
        self.stream
            .finish()
            .map_err(|error| CallError::closed(&error.to_string()))?;
        self.state = Sending::Finished;
        Ok(())
    }

    /// After [`CallSender::finish`]: waits until the other machine has everything, which does not mean that somebody
    /// there has received it.
    ///
    /// # Errors
    /// If the other end is gone, or did not want the rest.
    pub async fn delivered(&mut self) -> Result<(), CallError> {
        match self.stream.stopped().await? {
            None => Ok(()),
            Some(code) => Err(given_up(code)),
        }
    }

    fn unfinished(&self) -> Result<(), CallError> {
        match self.state {
            Sending::Whole => Ok(()),
            Sending::Torn => Err(CallError::closed("a frame was not sent to its end")),
            Sending::Finished => Err(CallError::closed("this end has finished")),
        }
    }
}

impl Drop for CallSender {
    fn drop(&mut self) {
        // On a closed connection a reset is of no use, and quinn may hold back the close for it.
        if self.state != Sending::Finished && self.line.connection.close_reason().is_none() {
            // quinn would mark the end, and half an answer would look like a whole one.
            let _ = self.stream.reset(VarInt::from_u32(DROPPED));
        }
    }
}

/// The receiving direction of a call.
#[derive(Debug)]
pub struct CallReceiver {
    stream: RecvStream,
    line: Line,
    limit: usize,
    partial: Partial,
    ended: bool,
    _in_use: Option<Arc<InUse>>,
}

impl CallReceiver {
    /// The next frame; `None` once the other end has finished. Can be cancelled and called again, nothing is lost.
    ///
    /// # Errors
    /// [`CallError`] if the other end is gone, gave up the call or broke the rules; in the last case this end closes
    /// the connection.
    pub async fn recv(&mut self) -> Result<Option<Bytes>, CallError> {
        while !self.ended {
            let Some(chunk) = self.stream.read_chunk(self.partial.wanted(), true).await? else {
                self.ended = true;
                let end = self.partial.end();
                end.map_err(|fault| self.line.broken_by(fault))?;
                break;
            };
            let taken = self.partial.take(&chunk.bytes, self.limit);
            if let Some(frame) = taken.map_err(|fault| self.line.broken_by(fault))? {
                self.limit = MAX_CALL_FRAME;
                return Ok(Some(frame));
            }
        }
        Ok(None)
    }

    /// Like [`CallReceiver::recv`], for at most `limit`.
    ///
    /// # Errors
    /// Also [`CallError::TimedOut`]; the call goes on then.
    pub async fn recv_within(&mut self, limit: Duration) -> Result<Option<Bytes>, CallError> {
        let late = CallError::TimedOut { waited: limit };
        timeout(limit, self.recv()).await.unwrap_or(Err(late))
    }
}
