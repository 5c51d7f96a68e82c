//! The words of a cluster file as types: each can only hold what makes sense, and says what does not.

mod address;
mod amount;
mod argv;
mod duration;
mod id;
mod mail;
mod name;
mod path;
mod snapshot;
mod url;

pub use address::{Address, Host};
pub use amount::{ByteCount, ByteRate};
pub use argv::{Argv, MAX_ARGUMENT_BYTES, MAX_ARGUMENTS};
pub use id::VolumeId;
pub use mail::Mailbox;
pub use name::{ClusterName, GroupName, MAX_NAME_BYTES, NodeName, OperatorName, VolumeName};
pub use path::{AbsolutePath, MAX_PATH_BYTES};
pub use snapshot::SnapshotWord;
pub use url::{MailServer, WebhookUrl};

pub(crate) use argv::instead_of_line;
pub(crate) use duration::time;

/// Why a text is not what it should be, and what would be.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{what}")]
pub struct Unfit {
    /// What is wrong, as a lowercase fragment.
    pub what: String,
    /// What to write instead.
    pub remedy: String,
}

impl Unfit {
    pub(crate) fn new(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            remedy: remedy.into(),
        }
    }
}

/// A text as it is shown in a message: cut, and with nothing that steers a terminal.
pub(crate) fn shown(text: &str) -> String {
    const MAX_SHOWN: usize = 80;
    let short: String = text.chars().take(MAX_SHOWN).collect();
    let cut = if short.len() < text.len() { "…" } else { "" };
    format!(
        "`{}{cut}`",
        short.replace(lockstep_protocol::disturbs, "\u{fffd}")
    )
}
