//! What is said over a call: one JSON object a frame.
//!
//! ```text
//! caller                          agent
//! Ask ─────────────────────────►  (the first frame of a call)
//!          ◄───────────────────── Answer, or Failed
//!
//! primary's agent                 secondary's agent
//! Ask::Host(WriteAsk) ─────────►
//!          ◄───────────────────── Granted, or Refused
//! Files, File + its bytes ─────►
//!          ◄───────────────────── Differing; Staged
//! Stop ────────────────────────►
//!          ◄───────────────────── Stopped
//! Serve ───────────────────────►
//!          ◄───────────────────── Serving: where the data goes; then Served
//! Conclude ────────────────────►
//!          ◄───────────────────── Concluded
//! ```
//! Every text is bounded when it is read; a frame is bounded by the call that carries it, and a list that
//! may be long is cut to fit (`fit`), or what it is about refused. A peer that says something else than
//! what is its turn ends the call.

mod ask;
mod checkup;
mod ended;
mod fit;
mod host;
mod run;
mod text;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use ask::{
    Aim, Answer, Ask, CompressWord, FileStates, LimitChange, MAX_PLANS, NodeStatus, PastRun,
    PriorityWord, RateChange, RoleWord, RunAsk, RunTerms, VolumeFacts, VolumeStatus,
};
pub use checkup::{Check, Checkup, Finding, PeerSeen, PlaceKind, PlaceSeen};
pub use ended::{Aftermath, Ended, VolumeEnded};
pub(crate) use fit::fits;
pub(crate) use host::{CLAIM_ANSWER, CLAIM_IN_LINE};
pub use host::{
    CompareAsk, FileBytes, Hex32, HookReport, HostBid, HostTell, ServeTerms, ServingAt, UndoWord,
    WireFailure, WriteAsk,
};
pub use run::{Far, Told, WireOutcome};
pub use text::Words;

/// The only version of what is said, so far.
pub const VERSION: u8 = 1;

/// What a peer said is not what can be said.
#[derive(Debug, thiserror::Error)]
#[error("what the peer said cannot be read: {0}")]
pub struct Unread(Words);

impl From<serde_json::Error> for Unread {
    /// The error quotes the peer.
    fn from(error: serde_json::Error) -> Self {
        Self(Words::new(&error.to_string()))
    }
}

/// A message as a frame.
///
/// # Panics
/// Never: nothing that is said has a map whose keys are no texts.
#[must_use]
pub fn frame<T: Serialize>(message: &T) -> Bytes {
    let bytes = serde_json::to_vec(message).unwrap_or_default();
    Bytes::from(bytes)
}

/// A frame as a message.
///
/// # Errors
/// [`Unread`] if it is none.
pub fn read<T: DeserializeOwned>(frame: &[u8]) -> Result<T, Unread> {
    Ok(serde_json::from_slice(frame)?)
}

#[cfg(test)]
mod tests {
    use super::{Ask, read};

    #[test]
    fn what_a_peer_is_quoted_with_is_cut_and_plain() {
        let strange = format!(
            "{{\"ask\":\"\\u001b[2J\\n\\u202e{}\"}}",
            "x".repeat(100_000)
        );
        let unread = read::<Ask>(strange.as_bytes()).unwrap_err().to_string();
        assert!(unread.len() < 3000, "{}", unread.len());
        assert!(!unread.contains(lockstep_protocol::disturbs), "{unread}");
        assert!(unread.contains("[2J"), "{unread}");
    }
}
