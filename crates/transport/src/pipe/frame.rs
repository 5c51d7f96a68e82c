//! The header of a frame on a pipe.

use crate::error::LinkError;
use crate::{MAX_BULK_FRAME, MAX_CONTROL_FRAME};

/// Length of a header: lane and length.
pub(super) const HEADER_LEN: usize = 5;
/// Longest reason in a close frame, in bytes: 300 characters in UTF-8.
const MAX_REASON: usize = 1200;
/// Length of a goodbye: one little-endian u64.
pub(super) const GOODBYE_LEN: usize = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    Control = 0,
    Bulk = 1,
    Ping = 2,
    Goodbye = 3,
    Received = 4,
    Close = 5,
}

impl Lane {
    fn from_wire(byte: u8) -> Option<Self> {
        [
            Self::Control,
            Self::Bulk,
            Self::Ping,
            Self::Goodbye,
            Self::Received,
            Self::Close,
        ]
        .into_iter()
        .find(|lane| *lane as u8 == byte)
    }

    fn may_have(self, len: usize) -> bool {
        match self {
            Self::Control => len <= MAX_CONTROL_FRAME,
            Self::Bulk => len <= MAX_BULK_FRAME,
            Self::Ping | Self::Received => len == 0,
            Self::Goodbye => len == GOODBYE_LEN,
            Self::Close => len <= MAX_REASON,
        }
    }
}

/// A checked header: `len` is one that its lane may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) lane: Lane,
    pub(super) len: usize,
}

impl Header {
    /// The wire form. The length fits: every lane's limit is far below 4 GiB.
    pub(super) fn encode(self) -> [u8; HEADER_LEN] {
        let len = u32::try_from(self.len).unwrap_or(u32::MAX).to_le_bytes();
        [self.lane as u8, len[0], len[1], len[2], len[3]]
    }

    pub(super) fn decode(wire: [u8; HEADER_LEN]) -> Result<Self, LinkError> {
        let [lane_byte, len @ ..] = wire;
        let len = u32::from_le_bytes(len);
        let Some(lane) = Lane::from_wire(lane_byte) else {
            return Err(LinkError::violation(format!(
                "frame on unknown lane {lane_byte}"
            )));
        };
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        if !lane.may_have(len) {
            return Err(LinkError::violation(format!(
                "{lane:?} frame of {len} bytes"
            )));
        }
        Ok(Self { lane, len })
    }
}
