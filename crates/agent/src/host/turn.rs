//! Whose turn it is in a call.
//!
//! | after | may come |
//! | --- | --- |
//! | the grant | `Files`, `Stop`, `Conclude` |
//! | `Differing` | `File`, `FilesEnd`, `Stop`, `Conclude` |
//! | `Staged` | `Stop`, `Conclude` |
//! | `Stopped`, well | `Serve`, `Conclude` |
//! | `Stopped` with a failure, `Served` | `Conclude` |

use crate::wire::HostBid;

/// How far a call is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Turn {
    Granted,
    Differing,
    Staged,
    Stopped,
    /// Only the end can follow.
    Over,
}

/// What is asked, without its content.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Bid {
    Files,
    File,
    FilesEnd,
    Stop,
    Serve,
    Conclude,
}

impl Bid {
    pub(super) fn of(bid: &HostBid) -> Self {
        match bid {
            HostBid::Files { .. } => Self::Files,
            HostBid::File(_) => Self::File,
            HostBid::FilesEnd => Self::FilesEnd,
            HostBid::Stop => Self::Stop,
            HostBid::Serve(_) => Self::Serve,
            HostBid::Conclude { .. } => Self::Conclude,
        }
    }
}

impl Turn {
    /// Whether this may come now.
    pub(super) fn admits(self, bid: Bid) -> bool {
        match bid {
            Bid::Files => self == Self::Granted,
            Bid::File | Bid::FilesEnd => self == Self::Differing,
            Bid::Stop => matches!(self, Self::Granted | Self::Differing | Self::Staged),
            Bid::Serve => self == Self::Stopped,
            Bid::Conclude => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_what_is_admitted() {
        use Bid::{Conclude, File, Files, FilesEnd, Serve, Stop};
        let table: [(Turn, &[Bid]); 5] = [
            (Turn::Granted, &[Files, Stop, Conclude]),
            (Turn::Differing, &[File, FilesEnd, Stop, Conclude]),
            (Turn::Staged, &[Stop, Conclude]),
            (Turn::Stopped, &[Serve, Conclude]),
            (Turn::Over, &[Conclude]),
        ];
        for (turn, admitted) in table {
            for bid in [Files, File, FilesEnd, Stop, Serve, Conclude] {
                assert_eq!(
                    turn.admits(bid),
                    admitted.contains(&bid),
                    "{turn:?} {bid:?}"
                );
            }
        }
    }
}
