//! What a run was asked to be, as the engine takes it; the node's own limits count first.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use lockstep_cluster::file::{AgentFile, Moment, Volume};
use lockstep_cluster::value::{Argv, ByteRate, SnapshotWord};
use lockstep_engine::{Compression, Limits, Pace, SnapshotChoice, StillHook, Stillness};

use super::owed::hook_name;
use crate::wire::{CompressWord, Hex32, LimitChange, RateChange, RunTerms, ServeTerms};

const MIN_LEVEL: i32 = -7;
const MAX_LEVEL: i32 = 19;

impl RunTerms {
    pub(super) fn compression(&self) -> Compression {
        match self.compress {
            CompressWord::Auto => Compression::Auto,
            CompressWord::Off => Compression::Off,
            CompressWord::Level(level) => Compression::Level(level.clamp(MIN_LEVEL, MAX_LEVEL)),
        }
    }

    /// What a run may use at its beginning, on the node whose own settings these are.
    pub(super) fn limits(&self, own: &AgentFile) -> Limits {
        let pace = match self.pace {
            true => Pace::Auto,
            false => Pace::Off,
        };
        Limits::new(
            lower(self.limit_rate, own.rate),
            lower(self.limit_read, own.read),
            pace,
        )
    }

    pub(super) fn max_duration(&self) -> Option<Duration> {
        self.max_seconds.map(Duration::from_secs)
    }

    /// What a secondary is told; `key` is the dialer's.
    pub(super) fn for_target(&self, key: [u8; 32]) -> ServeTerms {
        ServeTerms {
            key: Hex32(key),
            delta: self.delta,
            full_scan_runs: self.full_scan_runs,
            full_scan_seconds: self.full_scan_seconds,
            undo: self.undo,
            keep_undo_seconds: self.keep_undo_seconds,
            priority: self.priority,
        }
    }
}

impl LimitChange {
    /// Changes what a run may use, within the node's own settings.
    pub(super) fn apply(&self, limits: &Limits, own: &AgentFile) {
        let asked = |change: RateChange| match change {
            RateChange::Off => None,
            RateChange::To(rate) => Some(rate),
        };
        if let Some(change) = self.rate {
            limits.set_link(lower(asked(change), own.rate));
        }
        if let Some(change) = self.read {
            limits.set_read(lower(asked(change), own.read));
        }
        match self.pace {
            Some(true) => limits.set_pace(Pace::Auto),
            Some(false) => limits.set_pace(Pace::Off),
            None => {}
        }
    }
}

/// The lower one of what was asked for and what the node allows; 0 asks for no limit.
fn lower(asked: Option<u64>, own: Option<ByteRate>) -> Option<u64> {
    let own = own.map(|rate| rate.0);
    match asked.filter(|rate| *rate > 0) {
        Some(asked) => Some(own.map_or(asked, |own| asked.min(own))),
        None => own,
    }
}

/// `snapshot` of the cluster file.
pub(crate) fn snapshot_choice(word: &SnapshotWord) -> SnapshotChoice {
    match word.as_str() {
        "auto" => SnapshotChoice::Auto,
        "exclusive" => SnapshotChoice::Exclusive,
        "none" => SnapshotChoice::None,
        other => match other.strip_prefix("exec:") {
            Some(program) => SnapshotChoice::Program(PathBuf::from(program)),
            None => SnapshotChoice::Provider(other.to_owned()),
        },
    }
}

/// What holds still while these volumes are snapshotted: their `freeze` and `thaw`, each pair once,
/// for the first volume that has it.
pub(super) fn stillness<'a>(
    volumes: impl IntoIterator<Item = &'a Volume>,
    environment: impl Fn(&Volume) -> Vec<(String, OsString)>,
) -> Stillness {
    let argv = |argv: Option<&Argv>| -> Vec<OsString> {
        argv.map(|argv| argv.words().iter().map(OsString::from).collect())
            .unwrap_or_default()
    };
    let mut stillness = Stillness::default();
    let mut limit = Duration::ZERO;
    for volume in volumes {
        let hook = StillHook {
            name: hook_name(&volume.name),
            before: argv(volume.hooks.at(Moment::Freeze)),
            after: argv(volume.hooks.at(Moment::Thaw)),
            environment: environment(volume),
        };
        let is_known = |other: &StillHook| other.before == hook.before && other.after == hook.after;
        let is_nothing = hook.before.is_empty() && hook.after.is_empty();
        if !is_nothing && !stillness.hooks.iter().any(is_known) {
            let limits = &volume.limits;
            limit = limit
                .max(limits.at(Moment::Freeze))
                .max(limits.at(Moment::Thaw));
            limit = limit.max(limits.frozen);
            stillness.hooks.push(hook);
        }
    }
    if !limit.is_zero() {
        stillness.limit = limit;
    }
    stillness
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(rate: Option<u64>, read: Option<u64>) -> AgentFile {
        AgentFile {
            rate: rate.map(ByteRate),
            read: read.map(ByteRate),
            ..AgentFile::default()
        }
    }

    fn change(rate: Option<RateChange>, read: Option<RateChange>) -> LimitChange {
        LimitChange {
            rate,
            read,
            pace: None,
        }
    }

    #[test]
    fn a_change_goes_no_further_than_the_node_allows() {
        let limits = Limits::new(Some(10), Some(10), Pace::Off);
        let own = own(Some(100), None);
        change(Some(RateChange::To(1000)), Some(RateChange::To(1000))).apply(&limits, &own);
        assert_eq!((limits.link(), limits.read()), (Some(100), Some(1000)));
        change(Some(RateChange::Off), Some(RateChange::Off)).apply(&limits, &own);
        assert_eq!((limits.link(), limits.read()), (Some(100), None));
        change(Some(RateChange::To(0)), None).apply(&limits, &own);
        assert_eq!((limits.link(), limits.read()), (Some(100), None));
    }

    #[test]
    fn what_is_not_named_stays() {
        let limits = Limits::new(Some(10), Some(20), Pace::Auto);
        change(None, None).apply(&limits, &own(Some(1), Some(1)));
        assert_eq!((limits.link(), limits.read()), (Some(10), Some(20)));
        assert_eq!(limits.pace(), Pace::Auto);
        let off = LimitChange {
            pace: Some(false),
            ..change(None, None)
        };
        off.apply(&limits, &own(None, None));
        assert_eq!(limits.pace(), Pace::Off);
    }
}
