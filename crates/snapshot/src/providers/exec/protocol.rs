//! The lines that a snapshot program reads and writes: pure.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::changed::Changed;
use crate::name::{SnapshotName, VolumeName};
use crate::program::printable;
use crate::provider::{Atomicity, Cost, Fitness, Space, Told};

const VERSION: u32 = 1;
/// Longest line of an answer.
const MAX_LINE_BYTES: usize = 64 * 1024;

/// A request: one line.
#[derive(Clone, Serialize, Debug)]
pub(super) struct Request<'a> {
    pub(super) v: u32,
    pub(super) verb: &'static str,
    pub(super) volume: &'a str,
    /// `create`: the name that the snapshot is to bear.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) name: Option<&'a SnapshotName>,
    /// `open`, `release`, `health`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) snapshot: Option<&'a Described>,
    /// `delta`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) base: Option<&'a Described>,
    /// `delta`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) now: Option<&'a Described>,
    /// `recover`: the volume's part of the names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) of_volume: Option<&'a VolumeName>,
}

impl<'a> Request<'a> {
    pub(super) fn about(verb: &'static str, volume: &'a str) -> Self {
        Self {
            v: VERSION,
            verb,
            volume,
            name: None,
            snapshot: None,
            base: None,
            now: None,
            of_volume: None,
        }
    }
}

/// A snapshot, as the program told of it.
#[derive(Clone, PartialEq, Serialize, Deserialize, Debug)]
#[serde(deny_unknown_fields)]
pub(super) struct Described {
    pub(super) name: SnapshotName,
    pub(super) size: u64,
    /// Whatever the program wants to be given back.
    #[serde(default)]
    pub(super) handle: Value,
}

/// What `create` ends with.
#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
pub(super) struct Created {
    pub(super) size: u64,
    #[serde(default)]
    pub(super) handle: Value,
}

/// What `open` ends with.
#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
pub(super) struct Opened {
    pub(super) path: PathBuf,
}

/// What `release` ends with.
#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
pub(super) struct Done {}

/// What `health` ends with.
#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
pub(super) struct Room {
    pub(super) room: u64,
}

/// What `delta` and `recover` end with: how many lines came before, so that none can be lost.
#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
pub(super) struct Counted {
    count: usize,
}

impl Counted {
    pub(super) fn check(&self, lines: usize) -> Result<(), String> {
        if self.count == lines {
            return Ok(());
        }
        let count = self.count;
        Err(format!("it says that it told {count}, and {lines} came"))
    }
}

/// What `probe` ends with.
#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
pub(super) struct Fit {
    atomicity: Instant,
    delta: bool,
    pause_ms: u64,
    space_at_risk: u64,
    space_free: u64,
}

#[derive(Deserialize, Debug)]
#[serde(rename_all = "kebab-case")]
enum Instant {
    Instant,
    PowerCut,
}

impl From<Fit> for Fitness {
    fn from(fit: Fit) -> Self {
        Self {
            atomicity: match fit.atomicity {
                Instant::Instant => Atomicity::Instant,
                Instant::PowerCut => Atomicity::PowerCut,
            },
            cost: Cost {
                extents: None,
                pause: Duration::from_millis(fit.pause_ms),
            },
            space: Space {
                at_risk: fit.space_at_risk,
                free: fit.space_free,
            },
            delta: if fit.delta {
                Told::Changes
            } else {
                Told::Nothing
            },
        }
    }
}

#[derive(Deserialize, Debug)]
#[serde(rename_all = "kebab-case")]
enum Line {
    /// Start and length of a range that may have changed.
    Changed(u64, u64),
    Found(Described),
    Removed(String),
    Ok(Value),
    Error(String),
    Unsupported(String),
    Unfit(String),
    Doubt(String),
    Lost(String),
}

/// How an answer ended.
#[derive(PartialEq, Debug)]
pub(super) enum End {
    Ok(Value),
    Error(String),
    Unsupported(String),
    Unfit(String),
    Doubt(String),
    Lost(String),
}

impl End {
    /// Why it did not end well.
    pub(super) fn why(&self) -> String {
        match self {
            Self::Ok(_) => "it answered what was not asked".to_owned(),
            Self::Error(why)
            | Self::Unsupported(why)
            | Self::Unfit(why)
            | Self::Doubt(why)
            | Self::Lost(why) => printable(why.as_bytes()),
        }
    }
}

/// A whole answer.
#[derive(PartialEq, Debug)]
pub(super) struct Answer {
    pub(super) changed: Vec<(u64, u64)>,
    pub(super) found: Vec<Described>,
    pub(super) removed: Vec<String>,
    pub(super) end: End,
}

/// Reads an answer, which must be whole: it ends with exactly one line that says how it ended.
pub(super) fn read_answer(output: &[u8]) -> Result<Answer, String> {
    let (mut changed, mut found, mut removed) = (Vec::new(), Vec::new(), Vec::new());
    let mut end = None;
    for bytes in output.split(|byte| *byte == b'\n') {
        if bytes.trim_ascii().is_empty() {
            continue;
        }
        if end.is_some() {
            return Err("it went on after its last line".to_owned());
        }
        match read_line(bytes)? {
            Line::Changed(start, length) => changed.push((start, length)),
            Line::Found(described) => found.push(described),
            Line::Removed(name) => removed.push(name),
            Line::Ok(value) => end = Some(End::Ok(value)),
            Line::Error(why) => end = Some(End::Error(why)),
            Line::Unsupported(why) => end = Some(End::Unsupported(why)),
            Line::Unfit(why) => end = Some(End::Unfit(why)),
            Line::Doubt(why) => end = Some(End::Doubt(why)),
            Line::Lost(why) => end = Some(End::Lost(why)),
        }
    }
    // The last line is whole only with its newline.
    let end = end.filter(|_| output.ends_with(b"\n"));
    Ok(Answer {
        changed,
        found,
        removed,
        end: end.ok_or("its answer is cut off")?,
    })
}

fn read_line(bytes: &[u8]) -> Result<Line, String> {
    if bytes.len() > MAX_LINE_BYTES {
        return Err(format!("a line has more than {MAX_LINE_BYTES} bytes"));
    }
    serde_json::from_slice(bytes).map_err(|error| format!("a line is not understood: {error}"))
}

/// The ranges of a delta; what is beyond the base has changed whatever the program says.
pub(super) fn changed(ranges: &[(u64, u64)], base: u64, now: u64) -> Result<Changed, String> {
    let mut all = Vec::with_capacity(ranges.len() + 1);
    for (start, length) in ranges {
        let end = start.checked_add(*length);
        let end = end.ok_or("a range wraps around")?;
        all.push(*start..end);
    }
    all.push(base..now.max(base));
    Ok(Changed::new(all, now))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn why(output: &str) -> String {
        read_answer(output.as_bytes()).unwrap_err()
    }

    #[test]
    fn a_request_is_one_line_without_what_is_not_asked() {
        let name: SnapshotName = "lockstep-disk-r1".parse().unwrap();
        let described = Described {
            name: name.clone(),
            size: 7,
            handle: json!({"id": "snap-1"}),
        };
        let create = Request {
            name: Some(&name),
            ..Request::about("create", "/dev/x\n")
        };
        let line = serde_json::to_string(&create).unwrap();
        let expected = r#"{"v":1,"verb":"create","volume":"/dev/x\n","name":"lockstep-disk-r1"}"#;
        assert_eq!(line, expected);
        let open = Request {
            snapshot: Some(&described),
            ..Request::about("open", "/dev/x")
        };
        let line = serde_json::to_string(&open).unwrap();
        let expected = concat!(
            r#"{"v":1,"verb":"open","volume":"/dev/x","snapshot":"#,
            r#"{"name":"lockstep-disk-r1","size":7,"handle":{"id":"snap-1"}}}"#
        );
        assert_eq!(line, expected);
    }

    #[test]
    fn an_answer_is_whole_or_none() {
        let output = "{\"changed\":[0,10]}\n\n{\"changed\":[20,5]}\n{\"ok\":{\"count\":2}}\n";
        let answer = read_answer(output.as_bytes()).unwrap();
        assert_eq!(answer.changed, [(0, 10), (20, 5)]);
        assert_eq!(answer.end, End::Ok(json!({"count": 2})));
        for cut in 0..output.len() {
            assert!(read_answer(&output.as_bytes()[..cut]).is_err(), "{cut}");
        }
        assert!(why(&format!("{output}{output}")).contains("went on"));
        assert!(why("ok\n").contains("not understood"));
        assert!(why("{\"fine\":{}}\n").contains("not understood"));
        assert!(why("").contains("cut off"));
        let long = format!("{{\"error\":\"{}\"}}\n", "x".repeat(MAX_LINE_BYTES));
        assert!(why(&long).contains("more than"));
    }

    #[test]
    fn a_lost_line_is_noticed() {
        let counted = |value| serde_json::from_value::<Counted>(value);
        let two = counted(json!({"count": 2})).unwrap();
        assert_eq!(two.check(2), Ok(()));
        assert!(two.check(1).is_err());
        assert!(counted(json!({})).is_err());
        assert!(counted(json!({"count": 0, "more": 1})).is_err());
    }

    #[test]
    fn ranges_are_cut_and_growth_is_change() {
        let grown = changed(&[(50, 1000), (0, 10)], 80, 100).unwrap();
        assert_eq!(grown.ranges(), [0..10, 50..100]);
        let told_nothing = changed(&[], 80, 100).unwrap();
        assert_eq!(told_nothing.ranges(), [80..100]);
        assert_eq!(changed(&[], 100, 80).unwrap().bytes(), 0);
        assert!(changed(&[(u64::MAX, 2)], 80, 100).is_err());
    }
}
