//! Hooks and their time limits.
//!
//! | hook | runs on | when |
//! | --- | --- | --- |
//! | `health` | the primary | before anything else; a failure stops everything |
//! | `stop` | each secondary | before its volume is overwritten |
//! | `freeze` | the primary | before the snapshot |
//! | `thaw` | the primary | after the snapshot, always, if `freeze` was begun |
//! | `configure` | each secondary | once it is consistent, before `start` |
//! | `start` | each secondary | after `stop`, always, but never on data that is not consistent |
//! | `check` | each secondary | after `start` |

use std::time::Duration;

use toml::Spanned;
use toml::de::DeValue;

use super::mistake::Notes;
use super::section::{Section, kind, word};
use crate::value::{Argv, Unfit, instead_of_line, shown, time};

/// The moments at which a volume's users are told something.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Moment {
    /// Whether the primary is fit.
    Health,
    /// A secondary's services stop.
    Stop,
    /// A secondary is pointed at its primary.
    Configure,
    /// A secondary's services start.
    Start,
    /// Whether a secondary works again.
    Check,
    /// The primary's services hold still.
    Freeze,
    /// The primary's services go on.
    Thaw,
}

impl Moment {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Health,
        Self::Stop,
        Self::Configure,
        Self::Start,
        Self::Check,
        Self::Freeze,
        Self::Thaw,
    ];

    /// The key in the file.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Health => "health",
            Self::Stop => "stop",
            Self::Configure => "configure",
            Self::Start => "start",
            Self::Check => "check",
            Self::Freeze => "freeze",
            Self::Thaw => "thaw",
        }
    }

    fn default_limit(self) -> Duration {
        Duration::from_secs(match self {
            Self::Health | Self::Freeze | Self::Thaw => 10,
            Self::Stop | Self::Start | Self::Check => 120,
            Self::Configure => 300,
        })
    }

    /// Nothing may hold a primary still for longer than a filesystem may stay frozen.
    fn longest(self) -> Duration {
        match self {
            Self::Freeze | Self::Thaw => MAX_STILL,
            _ => MAX_LIMIT,
        }
    }

    fn at(self) -> usize {
        self as usize
    }
}

/// Longest limit of anything.
pub const MAX_LIMIT: Duration = Duration::from_secs(24 * 60 * 60);
/// Longest that a primary may be held still, or a hook of it may take.
pub const MAX_STILL: Duration = Duration::from_secs(600);
const MIN_LIMIT: Duration = Duration::from_millis(100);
const DEFAULT_PROBE: Duration = Duration::from_secs(5);
const DEFAULT_FROZEN: Duration = Duration::from_secs(30);

/// A volume's hooks.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Hooks([Option<Argv>; 7]);

impl Hooks {
    /// What runs at a moment.
    #[must_use]
    pub fn at(&self, moment: Moment) -> Option<&Argv> {
        self.0[moment.at()].as_ref()
    }

    /// These, and the others' where there is none.
    fn or(self, others: &Self) -> Self {
        let mut hooks = self.0;
        for (hook, other) in hooks.iter_mut().zip(&others.0) {
            if hook.is_none() {
                hook.clone_from(other);
            }
        }
        Self(hooks)
    }
}

/// How long a volume's hooks may take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    hooks: [Duration; 7],
    /// The role probe.
    pub probe: Duration,
    /// From the end of `freeze` to the begin of `thaw`.
    pub frozen: Duration,
}

impl Limits {
    /// How long the hook of a moment may take.
    #[must_use]
    pub fn at(&self, moment: Moment) -> Duration {
        self.hooks[moment.at()]
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            hooks: Moment::ALL.map(Moment::default_limit),
            probe: DEFAULT_PROBE,
            frozen: DEFAULT_FROZEN,
        }
    }
}

pub(super) fn read(section: Option<Section<'_>>, defaults: &Hooks, notes: &mut Notes<'_>) -> Hooks {
    let Some(mut section) = section else {
        return defaults.clone();
    };
    let hooks = Hooks(Moment::ALL.map(|moment| {
        let value = section.take(moment.word())?;
        command(moment.word(), value, notes)
    }));
    section.finish(notes);
    hooks.or(defaults)
}

pub(super) fn read_limits(
    section: Option<Section<'_>>,
    defaults: &Limits,
    notes: &mut Notes<'_>,
) -> Limits {
    let Some(mut section) = section else {
        return *defaults;
    };
    let mut limits = *defaults;
    for moment in Moment::ALL {
        let limit = limit(&mut section, moment.word(), moment.longest(), notes);
        limits.hooks[moment.at()] = limit.unwrap_or(limits.hooks[moment.at()]);
    }
    limits.probe = limit(&mut section, "probe", MAX_LIMIT, notes).unwrap_or(limits.probe);
    limits.frozen = limit(&mut section, "frozen", MAX_STILL, notes).unwrap_or(limits.frozen);
    section.finish(notes);
    limits
}

struct Span(Duration);

impl std::str::FromStr for Span {
    type Err = Unfit;

    fn from_str(text: &str) -> Result<Self, Unfit> {
        time(text).map(Self)
    }
}

fn limit(
    section: &mut Section<'_>,
    key: &'static str,
    longest: Duration,
    notes: &mut Notes<'_>,
) -> Option<Duration> {
    let value = section.take(key)?;
    if matches!(value.get_ref(), DeValue::Integer(_)) {
        notes.wrong(
            &value.span(),
            format!("the limit `{key}` has no unit"),
            "write a text with a unit, such as `\"30s\"`",
        );
        return None;
    }
    let span = word::<Span>(key, value, notes)?;
    let Span(limit) = span.value;
    if (MIN_LIMIT..=longest).contains(&limit) {
        return Some(limit);
    }
    notes.wrong(
        &span.span,
        format!("the limit `{key}` is too short or too long"),
        format!("write a time from 100ms to {}s", longest.as_secs()),
    );
    None
}

/// A program and its arguments; a line for a shell is refused with what to write instead.
pub(super) fn command(
    key: &str,
    value: &Spanned<DeValue<'_>>,
    notes: &mut Notes<'_>,
) -> Option<Argv> {
    let span = value.span();
    let array = match value.get_ref() {
        DeValue::Array(array) => array,
        DeValue::String(line) => {
            notes.wrong(
                &span,
                format!("`{key}` is the text {}, but no shell reads it", shown(line)),
                instead_of_line(line),
            );
            return None;
        }
        other => {
            notes.wrong(
                &span,
                format!("`{key}` is {}, not a command", kind(other)),
                "write a list of words: `[\"PROGRAM\", \"ARGUMENT\"]`",
            );
            return None;
        }
    };
    let mut words = Vec::with_capacity(array.len());
    for value in array.iter() {
        match value.get_ref() {
            DeValue::String(word) => words.push(word.clone().into_owned()),
            other => {
                notes.wrong(
                    &value.span(),
                    format!("a word of `{key}` is {}, not a text", kind(other)),
                    "write it in quotes",
                );
                return None;
            }
        }
    }
    Argv::try_from(words)
        .map_err(|unfit| notes.unfit(&span, unfit))
        .ok()
}
