//! What there is to tell of a resync that ended.

mod line;
mod render;

pub use line::{Line, MAX_LINE_BYTES};

use lockstep_cluster::file::Ending;
use serde::{Deserialize, Serialize};

/// Most nodes that one report tells of; those beyond are left out.
pub const MAX_NODES: usize = 256;
const MAX_ID_BYTES: usize = 64;

/// How a resync ended.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Report {
    /// The same in every delivery and every repetition of this report, and in no other.
    pub id: ReportId,
    /// A trial of the delivery: nothing was resynced.
    pub test: bool,
    /// The cluster's name.
    pub cluster: Line,
    /// The volume's or group's name.
    pub volume: Line,
    /// How it ended.
    #[serde(with = "ending")]
    pub verdict: Ending,
    /// The exit code that the command had.
    pub exit_code: u8,
    /// The run's name.
    pub run: Line,
    /// The run's epoch, once it had one.
    pub epoch: Option<u64>,
    /// The node whose bytes were copied.
    pub primary: Line,
    /// Who asked for it.
    pub who: Line,
    /// Why, if that was said.
    pub reason: Option<Line>,
    /// When it began.
    pub started_unix_ms: u64,
    /// When it ended.
    pub ended_unix_ms: u64,
    /// How long it took.
    pub seconds: f64,
    /// The root that the secondaries have now, if it got so far.
    pub root: Option<Line>,
    /// Bytes of the volume, or of the group's volumes together.
    pub size: u64,
    /// Each secondary.
    pub nodes: Vec<NodeReport>,
    /// What ended the run as a whole, apart from its nodes' own errors.
    pub error: Option<Line>,
    /// The command to type next, if something failed.
    pub next: Option<Line>,
}

/// What became of one secondary.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct NodeReport {
    /// The node's name; of a group with the volume's.
    pub node: Line,
    /// Whether it is in lockstep now.
    pub result: NodeResult,
    /// What its ledger says.
    pub state: Line,
    /// Bytes that differed.
    pub bytes_differing: u64,
    /// Bytes that were overwritten.
    pub bytes_written: u64,
    /// Bytes that crossed the link to it.
    pub bytes_sent: u64,
    /// How long it took.
    pub seconds: f64,
    /// How long its application was down, if it was stopped.
    pub downtime_seconds: Option<f64>,
    /// Why it failed.
    pub error: Option<Line>,
    /// The command to type next for it.
    pub next: Option<Line>,
}

/// Whether a secondary is in lockstep.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeResult {
    /// It is.
    Ok,
    /// It is not.
    Failed,
}

/// The id of a report: letters, digits and hyphens, so that it fits in headers and names of files.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ReportId(String);

impl ReportId {
    /// An id that no other report has.
    ///
    /// # Errors
    ///
    /// If the kernel gives no random numbers.
    pub fn random() -> Result<Self, getrandom::Error> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes)?;
        Ok(Self(hex(&bytes)))
    }

    /// This text as an id; `None` if it does not fit.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        let good = !text.is_empty() && text.len() <= MAX_ID_BYTES && text.bytes().all(fits);
        good.then(|| Self(text.to_owned()))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for ReportId {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::new(&text).ok_or("an id has letters, digits and hyphens, at most 64")
    }
}

impl From<ReportId> for String {
    fn from(id: ReportId) -> Self {
        id.0
    }
}

impl Report {
    /// A report of nothing, to try the delivery with.
    #[must_use]
    pub fn of_test(
        id: ReportId,
        cluster: &str,
        machine: &str,
        who: &str,
        now_unix_ms: u64,
    ) -> Self {
        Self {
            id,
            test: true,
            cluster: Line::new(cluster),
            volume: Line::new("none"),
            verdict: Ending::Ok,
            exit_code: 0,
            run: Line::new("none"),
            epoch: None,
            primary: Line::new(machine),
            who: Line::new(who),
            reason: Some(Line::new("lockstep notify test")),
            started_unix_ms: now_unix_ms,
            ended_unix_ms: now_unix_ms,
            seconds: 0.0,
            root: None,
            size: 0,
            nodes: Vec::new(),
            error: None,
            next: None,
        }
    }

    /// The same within bounds, and with nothing in it that JSON cannot hold.
    pub(crate) fn tidy(&self) -> Self {
        let finite = |seconds: f64| if seconds.is_finite() { seconds } else { 0.0 };
        let mut tidy = self.clone();
        tidy.seconds = finite(tidy.seconds);
        tidy.nodes.truncate(MAX_NODES);
        for node in &mut tidy.nodes {
            node.seconds = finite(node.seconds);
            node.downtime_seconds = node.downtime_seconds.map(finite);
        }
        tidy
    }
}

/// Bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An [`Ending`] as the word that the cluster file has for it.
mod ending {
    use lockstep_cluster::file::Ending;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(ending: &Ending, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(ending.word())
    }

    pub(super) fn deserialize<'a, D: Deserializer<'a>>(from: D) -> Result<Ending, D::Error> {
        let word = String::deserialize(from)?;
        word.parse().map_err(D::Error::custom)
    }
}
