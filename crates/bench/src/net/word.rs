//! What is said on the control lane: JSON, each word within one control frame.

use std::time::Duration;

use bytes::Bytes;
use lockstep_protocol::{Failure, FailureKind};
use lockstep_transport::{ControlReceiver, LinkSender, MAX_CONTROL_FRAME, PathStats};
use serde::{Deserialize, Serialize};

use crate::disk::{DiskRead, Way};
use crate::failures::{link_broke, out_of_turn};
use crate::measured::Measured;
use crate::write::WriteTest;

/// Most connections of a link, with the one for control.
const MAX_PATHS: usize = 17;
/// Most bytes of a path: Linux's `PATH_MAX`.
pub(super) const MAX_PATH_BYTES: usize = 4096;
/// Most characters of another end's sentence.
const MAX_SENTENCE: usize = 600;

/// One word.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Word {
    Echo {
        number: u32,
    },
    /// Receive for at most so long.
    Take {
        limit: Duration,
    },
    /// Send for so long.
    Give {
        limit: Duration,
    },
    Ack {
        bytes: u64,
    },
    Sent {
        bytes: u64,
    },
    /// All that arrived, and what of it came behind the first frame, in which time.
    Taken {
        bytes: u64,
        measured: Measured,
    },
    Done {
        cpu: Duration,
        paths: Vec<Path>,
    },
    Hash {
        kind: Scan,
        limit: Duration,
    },
    Hashed {
        boot: String,
        cores: u32,
        measured: Measured,
    },
    Read {
        path: Vec<u8>,
        way: Way,
        uring: bool,
        limit: Duration,
    },
    Found(Found),
    /// A nameless file beside `path`.
    Write {
        path: Vec<u8>,
        uring: bool,
        limit: Duration,
    },
    Wrote(WriteTest),
    Failed {
        code: u8,
        message: String,
        hint: String,
    },
    Bye,
}

/// A volume that was measured at the far end.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Found {
    pub(super) size: u64,
    pub(super) data: u64,
    pub(super) has_medium: bool,
    pub(super) uring: bool,
    pub(super) read: DiskRead,
}

/// How a scan hashes.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Scan {
    Groups,
    Pages,
}

/// [`PathStats`] on the wire.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Path {
    carries_bulk: bool,
    mtu: u16,
    rtt: Duration,
    window: u64,
    packets_sent: u64,
    packets_lost: u64,
    bytes_lost: u64,
    congestion_events: u64,
    bytes_sent: u64,
    bytes_received: u64,
}

impl From<PathStats> for Path {
    fn from(stats: PathStats) -> Path {
        Path {
            carries_bulk: stats.carries_bulk,
            mtu: stats.mtu,
            rtt: stats.rtt,
            window: stats.window,
            packets_sent: stats.packets_sent,
            packets_lost: stats.packets_lost,
            bytes_lost: stats.bytes_lost,
            congestion_events: stats.congestion_events,
            bytes_sent: stats.bytes_sent,
            bytes_received: stats.bytes_received,
        }
    }
}

impl From<Path> for PathStats {
    fn from(path: Path) -> PathStats {
        PathStats {
            carries_bulk: path.carries_bulk,
            mtu: path.mtu,
            rtt: path.rtt,
            window: path.window,
            packets_sent: path.packets_sent,
            packets_lost: path.packets_lost,
            bytes_lost: path.bytes_lost,
            congestion_events: path.congestion_events,
            bytes_sent: path.bytes_sent,
            bytes_received: path.bytes_received,
        }
    }
}

impl From<Failure> for Word {
    fn from(failure: Failure) -> Word {
        Word::Failed {
            code: failure.kind.exit_code(),
            message: failure.message,
            hint: failure.hint,
        }
    }
}

/// Says a word.
pub(super) fn say(sender: &LinkSender, word: &Word) -> Result<(), Failure> {
    let bytes = serde_json::to_vec(word)
        .map_err(|error| Failure::new(FailureKind::Internal, error.to_string()))?;
    if bytes.len() > MAX_CONTROL_FRAME {
        return Err(out_of_turn());
    }
    sender
        .control(Bytes::from(bytes))
        .map_err(|error| link_broke(&error))
}

/// The next word, or `None` if none comes in time. A failure that the other end tells is one here.
pub(super) fn hear_within(
    control: &ControlReceiver,
    limit: Duration,
) -> Result<Option<Word>, Failure> {
    match control.recv_timeout(limit) {
        Ok(None) => Ok(None),
        Ok(Some(frame)) => understood(&frame).map(Some),
        Err(error) => Err(link_broke(&error)),
    }
}

/// The next word, which has to come in time.
pub(super) fn hear(control: &ControlReceiver, limit: Duration) -> Result<Word, Failure> {
    hear_within(control, limit)?.ok_or_else(|| {
        let message = format!("the other end said nothing for {} s", limit.as_secs());
        Failure::new(FailureKind::Temporary, message)
    })
}

fn understood(frame: &[u8]) -> Result<Word, Failure> {
    let word: Word = serde_json::from_slice(frame).map_err(|_| out_of_turn())?;
    match word {
        Word::Failed {
            code,
            message,
            hint,
        } => {
            let kind = FailureKind::from_exit_code(code).unwrap_or(FailureKind::Internal);
            let message = match message.is_empty() {
                true => "the other end failed and did not say why".to_owned(),
                false => cut(&message),
            };
            Err(Failure::new(kind, message).hint(cut(&hint)))
        }
        Word::Done { ref paths, .. } if paths.len() > MAX_PATHS => Err(out_of_turn()),
        Word::Read { ref path, .. } | Word::Write { ref path, .. }
            if path.is_empty() || path.len() > MAX_PATH_BYTES || path.contains(&0) =>
        {
            Err(out_of_turn())
        }
        word => Ok(word),
    }
}

/// Another end's text, cut and without what would steer a terminal.
fn cut(text: &str) -> String {
    text.chars()
        .map(|c| {
            if lockstep_protocol::disturbs(c) {
                '\u{fffd}'
            } else {
                c
            }
        })
        .take(MAX_SENTENCE)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{Word, understood};
    use lockstep_protocol::{Failure, FailureKind};
    use proptest::prelude::{any, proptest};
    use std::time::Duration;

    fn again(word: &Word) -> Result<Word, Failure> {
        understood(&serde_json::to_vec(word).unwrap())
    }

    #[test]
    fn words_come_back_as_they_were() {
        let limit = Duration::from_millis(1500);
        for word in [Word::Echo { number: 7 }, Word::Take { limit }, Word::Bye] {
            assert_eq!(again(&word).unwrap(), word);
        }
    }

    #[test]
    fn a_failure_of_the_other_end_keeps_its_kind_and_is_cut() {
        let told = Failure::new(FailureKind::Io, "x\u{1b}[2J".repeat(1000)).hint("look");
        let heard = again(&Word::from(told)).unwrap_err();
        assert_eq!(heard.kind, FailureKind::Io);
        assert_eq!(heard.message.chars().count(), 600);
        assert!(!heard.message.contains('\u{1b}'));
        assert_eq!(heard.hint, "look");
    }

    #[test]
    fn paths_that_are_none_are_refused() {
        for path in [vec![], vec![b'a'; 5000], b"a\0b".to_vec()] {
            let word = Word::Write {
                path,
                uring: false,
                limit: Duration::ZERO,
            };
            assert!(again(&word).is_err());
        }
    }

    proptest! {
        #[test]
        fn no_bytes_break_the_decoder(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = understood(&bytes);
        }
    }
}
