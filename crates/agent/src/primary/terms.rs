//! What a run was asked to be, as the engine takes it; the node's own limits count first.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use lockstep_cluster::file::{Moment, Volume};
use lockstep_cluster::value::{Argv, SnapshotWord};
use lockstep_engine::{Compression, SnapshotChoice, StillHook, Stillness};

use super::owed::hook_name;
use crate::wire::{CompressWord, Hex32, RunTerms, ServeTerms};

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

    /// The lower one of what was asked for and what the node allows.
    pub(super) fn rate(&self, own: Option<u64>) -> Option<u64> {
        match (self.limit_rate, own) {
            (Some(asked), Some(own)) => Some(asked.min(own)),
            (asked, own) => asked.or(own),
        }
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
        }
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
