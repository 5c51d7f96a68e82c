//! Talking over a call, as blocking code sees it.

use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::wire;

/// Why a call cannot go on.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TalkError {
    /// The other end is gone, or ended the call.
    #[error("the call ended: {0}")]
    Ended(String),
    /// Nothing was heard in time.
    #[error("nothing was heard for {} s", .0.as_secs_f32())]
    Silent(Duration),
    /// It said what cannot be said.
    #[error("{0}")]
    Unread(String),
}

/// One end of a call: frames both ways, in order.
pub trait Talk: Send {
    /// Sends a frame.
    ///
    /// # Errors
    /// [`TalkError::Ended`].
    fn send(&mut self, frame: Bytes) -> Result<(), TalkError>;

    /// The next frame; [`TalkError::Silent`] if none comes within the limit, and the call goes on.
    ///
    /// # Errors
    /// [`TalkError`].
    fn recv(&mut self, limit: Duration) -> Result<Bytes, TalkError>;
}

/// Says a message.
///
/// # Errors
/// [`TalkError::Ended`].
pub fn say<T: Serialize>(talk: &mut dyn Talk, message: &T) -> Result<(), TalkError> {
    talk.send(wire::frame(message))
}

/// Hears a message.
///
/// # Errors
/// [`TalkError`].
pub fn hear<T: DeserializeOwned>(talk: &mut dyn Talk, limit: Duration) -> Result<T, TalkError> {
    wire::read(&talk.recv(limit)?).map_err(|unread| TalkError::Unread(unread.to_string()))
}

/// Two ends of a call within a process, for tests.
#[cfg(test)]
pub(crate) mod pair {
    use super::{Talk, TalkError};
    use bytes::Bytes;
    use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
    use std::time::Duration;

    pub(crate) struct End {
        to: Sender<Bytes>,
        from: Receiver<Bytes>,
    }

    pub(crate) fn pair() -> (End, End) {
        let (to_b, from_a) = channel();
        let (to_a, from_b) = channel();
        let a = End {
            to: to_b,
            from: from_b,
        };
        let b = End {
            to: to_a,
            from: from_a,
        };
        (a, b)
    }

    impl Talk for End {
        fn send(&mut self, frame: Bytes) -> Result<(), TalkError> {
            let ended = |_| TalkError::Ended("the other end is gone".to_owned());
            self.to.send(frame).map_err(ended)
        }

        fn recv(&mut self, limit: Duration) -> Result<Bytes, TalkError> {
            self.from.recv_timeout(limit).map_err(|error| match error {
                RecvTimeoutError::Timeout => TalkError::Silent(limit),
                RecvTimeoutError::Disconnected => {
                    TalkError::Ended("the other end is gone".to_owned())
                }
            })
        }
    }
}
