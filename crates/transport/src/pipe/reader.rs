//! The thread that reads frames off a pipe.

use std::io::{self, BufReader, Read};
use std::sync::Arc;
use std::time::Instant;

use async_channel::Sender;
use bytes::Bytes;

use super::frame::{GOODBYE_LEN, HEADER_LEN, Header, Lane};
use super::{Ear, Obituary};
use crate::bulk::Bulk;
use crate::end::End;
use crate::error::LinkError;
use crate::meter::Counters;
use crate::wait::block_on_until;

/// Bytes read ahead of a frame.
const READ_AHEAD: usize = 64 * 1024;

pub(super) struct Reader<R> {
    end: Arc<End>,
    stream: BufReader<Listening<R>>,
    received: Sender<()>,
    ear: Arc<Ear>,
    obituary: Arc<Obituary>,
}

impl<R: Read> Reader<R> {
    pub(super) fn new(
        end: Arc<End>,
        read: R,
        received: Sender<()>,
        ear: Arc<Ear>,
        obituary: Arc<Obituary>,
    ) -> Self {
        let listening = Listening {
            read,
            ear: Arc::clone(&ear),
            counters: Arc::clone(&end.counters),
        };
        let stream = BufReader::with_capacity(READ_AHEAD, listening);
        Self {
            end,
            stream,
            received,
            ear,
            obituary,
        }
    }

    pub(super) fn run(mut self) {
        while !self.end.has_ended() {
            if let Err(error) = self.take_frame() {
                return self.end.stop_with(error);
            }
        }
    }

    fn take_frame(&mut self) -> Result<(), LinkError> {
        let mut header = [0; HEADER_LEN];
        self.stream
            .read_exact(&mut header)
            .map_err(|error| self.lost(&error))?;
        let Header { lane, len } = Header::decode(header)?;
        let payload = self.payload(len)?;
        self.ear.stops_listening();
        self.handle(lane, payload)?;
        self.ear.hears_something();
        Ok(())
    }

    fn payload(&mut self, len: usize) -> Result<Bytes, LinkError> {
        let mut payload = Vec::with_capacity(len);
        let limited = (&mut self.stream)
            .take(len as u64)
            .read_to_end(&mut payload);
        limited.map_err(|error| self.lost(&error))?;
        if payload.len() < len {
            return Err(self.lost(&io::ErrorKind::UnexpectedEof.into()));
        }
        Ok(payload.into())
    }

    fn handle(&self, lane: Lane, payload: Bytes) -> Result<(), LinkError> {
        match lane {
            Lane::Control => self.end.deliver_control(payload),
            Lane::Bulk => self.end.deliver_bulk(Bulk::from_chunks(vec![payload])),
            Lane::Ping => Ok(()),
            Lane::Goodbye => self.goodbye(&payload),
            Lane::Received => {
                self.end.peer_has_everything();
                Ok(())
            }
            Lane::Close => Err(LinkError::closed(String::from_utf8_lossy(&payload))),
        }
    }

    fn goodbye(&self, payload: &[u8]) -> Result<(), LinkError> {
        let mut bulk_frames = [0; GOODBYE_LEN];
        bulk_frames.copy_from_slice(payload);
        // On one byte stream the frames are here already, or never will be.
        let finished = self.end.peer_finished(u64::from_le_bytes(bulk_frames));
        block_on_until(finished, Instant::now()).unwrap_or_else(|| {
            Err(LinkError::violation(
                "a goodbye that counts bulk frames never sent",
            ))
        })?;
        match self.received.try_send(()) {
            Ok(()) => Ok(()),
            Err(_) => Err(LinkError::violation("a second goodbye")),
        }
    }

    fn lost(&self, error: &io::Error) -> LinkError {
        self.obituary.lost(&match error.kind() {
            io::ErrorKind::UnexpectedEof => "the pipe from the other end was closed".to_owned(),
            _ => format!("cannot read from the pipe: {error}"),
        })
    }
}

/// A stream that notes that and how much was heard.
struct Listening<R> {
    read: R,
    ear: Arc<Ear>,
    counters: Arc<Counters>,
}

impl<R: Read> Read for Listening<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let len = self.read.read(into)?;
        self.counters.add_received(len);
        self.ear.hears_something();
        Ok(len)
    }
}
