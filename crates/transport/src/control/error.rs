//! Why a call came to nothing.

use std::time::Duration;

use quinn::{ConnectionError, ReadError, StoppedError, TransportErrorCode, VarInt, WriteError};

use super::frame::Fault;
use crate::error::{MAX_QUOTE, quoted};
use crate::quic::carrier::describe;
use crate::quic::{PublicKey, TlsError};

/// Application error codes of a connection's close.
pub(super) const CLOSED: u32 = 0;
pub(super) const VIOLATION: u32 = 1;
pub(super) const REFUSED: u32 = 2;
pub(super) const BUSY: u32 = 3;
/// Application error codes of a stream: nobody needs the rest, or the first frame did not come in time.
pub(super) const DROPPED: u32 = 0;
pub(super) const TOO_LATE: u32 = 1;

/// TLS alerts about the key of an end (RFC 8446, section 6.2): everything about certificates, an unknown authority,
/// access denied, a signature that does not fit, no key shown.
const KEY_ALERTS: [u64; 9] = [42, 43, 44, 45, 46, 48, 49, 51, 116];
const NO_APPLICATION_PROTOCOL: u64 = 120;
/// Crypto errors are alerts with this added (RFC 9001, section 4.8).
const ALERTS: u64 = 0x100;

/// Why a call came to nothing. Texts from the other end are escaped and cut to 300 characters.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// One end does not accept the other's key, or the other cannot sign with it. Trying again does not help.
    #[error("authentication refused: {what}")]
    Refused {
        /// Who refused whom, and where.
        what: String,
        /// The key that the other end shows instead of one that is expected. It has not signed with it.
        shown: Option<PublicKey>,
    },
    /// Nobody answered, or nobody had a place for us, until the time was over. Trying again may help.
    #[error("unreachable: {what}")]
    Unreachable {
        /// The addresses, and what was observed there.
        what: String,
    },
    /// The other end is there, and sent nothing for as long as it was waited for. The call goes on.
    #[error("nothing received within {} s", .waited.as_secs_f32())]
    TimedOut {
        /// How long.
        waited: Duration,
    },
    /// The other end was there, and vanished without a word.
    #[error("connection lost: {what}")]
    Lost {
        /// What was observed.
        what: String,
    },
    /// One of the two ends closed the connection or gave up the call on purpose.
    #[error("closed: {reason}")]
    Closed {
        /// What that end gave as its reason.
        reason: String,
    },
    /// The other end sent what it must not send, speaks another protocol, or says so of this end.
    #[error("the protocol was broken: {what}")]
    Protocol {
        /// The rule and the offending value.
        what: String,
    },
    /// This end's frame is empty or too large; nothing was sent and the call is unharmed.
    #[error("a frame of {len} bytes cannot be sent: 1 to {limit} can")]
    FrameSize {
        /// Length of the frame in bytes.
        len: usize,
        /// [`MAX_CALL_FRAME`](super::MAX_CALL_FRAME), or [`MAX_FIRST_FRAME`](super::MAX_FIRST_FRAME).
        limit: usize,
    },
    /// This machine has no socket for it, or this build no cipher.
    #[error("cannot use UDP here: {what}")]
    Local {
        /// What was observed.
        what: String,
    },
}

impl CallError {
    pub(super) fn local(error: impl ToString) -> Self {
        let what = error.to_string();
        Self::Local { what }
    }

    pub(super) fn closed(reason: &str) -> Self {
        let reason = quoted(reason);
        Self::Closed { reason }
    }
}

impl From<TlsError> for CallError {
    fn from(error: TlsError) -> Self {
        Self::local(error)
    }
}

impl From<Fault> for CallError {
    fn from(fault: Fault) -> Self {
        let what = fault.to_string();
        Self::Protocol { what }
    }
}

impl From<ConnectionError> for CallError {
    fn from(error: ConnectionError) -> Self {
        let what = describe(&error);
        match error {
            ConnectionError::ApplicationClosed(close) => {
                let reason = quoted(&String::from_utf8_lossy(&close.reason));
                match u32::try_from(close.error_code.into_inner()) {
                    Ok(REFUSED) => Self::Refused {
                        what: format!("the other end says: {reason}"),
                        shown: None,
                    },
                    Ok(VIOLATION) => Self::Protocol {
                        what: format!("the other end says: {reason}"),
                    },
                    _ => Self::Closed { reason },
                }
            }
            ConnectionError::TransportError(error) => match alert(error.code) {
                Some(alert) if KEY_ALERTS.contains(&alert) => Self::Refused {
                    what: "the other end does not have the key that is expected".to_owned(),
                    shown: None,
                },
                _ => Self::Protocol { what },
            },
            ConnectionError::ConnectionClosed(close) => match alert(close.error_code) {
                Some(alert) if KEY_ALERTS.contains(&alert) => Self::Refused {
                    what: "the other end does not trust this key".to_owned(),
                    shown: None,
                },
                Some(NO_APPLICATION_PROTOCOL) => Self::Protocol {
                    what: "the other end speaks another protocol".to_owned(),
                },
                // Gave up before there were keys to say why (RFC 9000, section 10.2.3).
                None if close.error_code == TransportErrorCode::APPLICATION_ERROR => {
                    Self::Lost { what }
                }
                _ => Self::Protocol { what },
            },
            ConnectionError::VersionMismatch => Self::Protocol { what },
            ConnectionError::LocallyClosed => Self::closed("closed by this end"),
            ConnectionError::Reset | ConnectionError::TimedOut | ConnectionError::CidsExhausted => {
                Self::Lost { what }
            }
        }
    }
}

/// Whether the other end had no place for us just now.
pub(super) fn is_busy(error: &ConnectionError) -> bool {
    match error {
        ConnectionError::ConnectionClosed(close) => {
            close.error_code == TransportErrorCode::CONNECTION_REFUSED
        }
        ConnectionError::ApplicationClosed(close) => close.error_code == VarInt::from_u32(BUSY),
        _ => false,
    }
}

fn alert(code: TransportErrorCode) -> Option<u64> {
    let alert = u64::from(code).checked_sub(ALERTS)?;
    (alert <= 0xff).then_some(alert)
}

impl From<ReadError> for CallError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::ConnectionLost(error) => error.into(),
            ReadError::Reset(code) => given_up(code),
            other => Self::closed(&other.to_string()),
        }
    }
}

impl From<WriteError> for CallError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::ConnectionLost(error) => error.into(),
            WriteError::Stopped(code) => given_up(code),
            other => Self::closed(&other.to_string()),
        }
    }
}

impl From<StoppedError> for CallError {
    fn from(error: StoppedError) -> Self {
        match error {
            StoppedError::ConnectionLost(error) => error.into(),
            other => Self::closed(&other.to_string()),
        }
    }
}

/// The other end has reset or stopped a stream.
pub(super) fn given_up(code: VarInt) -> CallError {
    match u32::try_from(code.into_inner()) {
        Ok(TOO_LATE) => CallError::closed("the first frame did not come in time"),
        _ => CallError::closed("the other end gave up the call"),
    }
}

/// `reason` as it fits a close.
pub(super) fn cut(reason: &str) -> String {
    reason.chars().take(MAX_QUOTE).collect()
}
