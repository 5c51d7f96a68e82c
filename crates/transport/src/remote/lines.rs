//! Lines over pipes, with deadlines and limits.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::hello::Greeting;
use crate::meter::Counters;

/// Most bytes of noise before the far side's greeting.
const MAX_NOISE: usize = 64 * 1024;
/// Bytes read or written at a time. A pipe that is ready takes this many without blocking (pipe(7), `PIPE_BUF`).
const STEP: usize = 4096;

/// Why there is no line.
#[derive(Debug, thiserror::Error)]
pub(super) enum LineError {
    #[error("the pipe was closed")]
    Ended,
    #[error("nothing came in time")]
    TimedOut,
    #[error("more than {limit} bytes came without {wanted}")]
    TooLong { limit: usize, wanted: &'static str },
    #[error("the pipe failed")]
    Io(#[from] io::Error),
}

/// Reads lines, and keeps what came after the last one.
pub(super) struct Lines<R> {
    source: R,
    heard: Vec<u8>,
    counters: Arc<Counters>,
}

impl<R: Read + AsFd> Lines<R> {
    pub(super) fn new(source: R, counters: Arc<Counters>) -> Self {
        Self {
            source,
            heard: Vec::new(),
            counters,
        }
    }

    /// Skips noise up to the far side's greeting.
    pub(super) fn greeting(&mut self, deadline: Instant) -> Result<Greeting, LineError> {
        loop {
            if let Some((greeting, end)) = Greeting::find(&self.heard) {
                self.consume(end);
                return Ok(greeting);
            }
            if self.heard.len() > MAX_NOISE {
                return Err(LineError::TooLong {
                    limit: MAX_NOISE,
                    wanted: "a greeting",
                });
            }
            self.hear_more(deadline)?;
        }
    }

    /// The next line, without its end, of at most `limit` bytes.
    pub(super) fn line(&mut self, limit: usize, deadline: Instant) -> Result<String, LineError> {
        let mut searched = 0;
        loop {
            if let Some(found) = self.heard[searched..]
                .iter()
                .position(|byte| *byte == b'\n')
            {
                let line = self.consume(searched + found + 1);
                return Ok(String::from_utf8_lossy(&line).trim_end().to_owned());
            }
            searched = self.heard.len();
            if searched > limit {
                return Err(LineError::TooLong {
                    limit,
                    wanted: "the end of a line",
                });
            }
            self.hear_more(deadline)?;
        }
    }

    /// The source, and what was read from it after the last line.
    pub(super) fn into_rest(self) -> (Vec<u8>, R) {
        (self.heard, self.source)
    }

    fn consume(&mut self, len: usize) -> Vec<u8> {
        self.counters.add_received(len);
        self.heard.drain(..len).collect()
    }

    fn hear_more(&mut self, deadline: Instant) -> Result<(), LineError> {
        if !is_ready(&self.source, PollFlags::IN, deadline)? {
            return Err(LineError::TimedOut);
        }
        let mut step = [0; STEP];
        match self.source.read(&mut step)? {
            0 => Err(LineError::Ended),
            len => {
                self.heard.extend_from_slice(&step[..len]);
                Ok(())
            }
        }
    }
}

/// Writes all of `text` unless the reader stops reading until `deadline`.
pub(super) fn write_line<W: Write + AsFd>(
    sink: &mut W,
    text: &str,
    counters: &Counters,
    deadline: Instant,
) -> Result<(), LineError> {
    for step in text.as_bytes().chunks(STEP) {
        if !is_ready(sink, PollFlags::OUT, deadline)? {
            return Err(LineError::TimedOut);
        }
        sink.write_all(step)?;
        counters.add_sent(step.len());
    }
    Ok(sink.flush()?)
}

/// Waits until `pipe` is ready or broken, or `deadline` has passed; whether it is.
pub(super) fn is_ready(pipe: &impl AsFd, wanted: PollFlags, deadline: Instant) -> io::Result<bool> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(pipe, wanted)], Some(&timeout)) {
            Ok(ready) => return Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
