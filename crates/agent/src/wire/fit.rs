//! Lists that may be long, cut to what a frame holds; what is left out is counted. Pure.

use lockstep_cluster::value::AbsolutePath;
use lockstep_transport::control::MAX_CALL_FRAME;
use serde::Serialize;

/// Most bytes of one list on its way: two of them and what else there is to say fit into a frame.
const LIST_BYTES: usize = 384 << 10;
/// Most files that are named where nothing depends on them.
pub(super) const MAX_FILES: usize = 100;

/// Whether one frame holds a message.
pub(crate) fn fits<T: Serialize>(message: &T) -> bool {
    super::frame(message).len() <= MAX_CALL_FRAME
}

/// The first of a list, as many as there is room for, and how many there are more.
pub(crate) fn first<T: Serialize>(mut list: Vec<T>) -> (Vec<T>, u64) {
    let mut bytes = 0;
    let is_beyond = |item: &T| {
        // With the comma.
        bytes += super::frame(item).len() + 1;
        bytes > LIST_BYTES
    };
    let room = list.iter().position(is_beyond).unwrap_or(list.len());
    let left_out = list.len() - room;
    list.truncate(room);
    (list, u64::try_from(left_out).unwrap_or(u64::MAX))
}

/// The first files of a list that only tells.
pub(super) fn named(mut files: Vec<AbsolutePath>) -> (Vec<AbsolutePath>, u64) {
    let more = files.len().saturating_sub(MAX_FILES);
    files.truncate(MAX_FILES);
    let (files, left_out) = first(files);
    let more = u64::try_from(more).unwrap_or(u64::MAX);
    (files, left_out.saturating_add(more))
}

#[cfg(test)]
mod tests {
    use super::super::{
        Answer, Checkup, Finding, HookReport, HostTell, NodeStatus, PastRun, PeerSeen, PlaceKind,
        PlaceSeen, VERSION, VolumeStatus, WireFailure, Words, frame,
    };
    use super::{MAX_CALL_FRAME, MAX_FILES, fits};
    use crate::wire::{Check, RoleWord};
    use lockstep_cluster::file::{MAX_NODES, MAX_VOLUMES};
    use lockstep_cluster::plan::NodeState;
    use lockstep_cluster::value::{AbsolutePath, MAX_NAME_BYTES, NodeName, VolumeName};
    use proptest::collection::vec;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// What takes most room on its way, and what takes least.
    fn text(bytes: usize) -> impl Strategy<Value = String> {
        let letter = prop_oneof![Just('"'), Just('\\'), Just('a'), Just('ä'), Just('\u{1}')];
        (letter, 0..=bytes).prop_map(|(letter, bytes)| {
            std::iter::repeat_n(letter, bytes / letter.len_utf8()).collect()
        })
    }

    fn words() -> impl Strategy<Value = Words> {
        text(4096).prop_map(|text| Words::new(&text))
    }

    fn path(number: usize, text: &str) -> AbsolutePath {
        let text = text.replace(|c: char| c.is_control(), "\"");
        format!("/{number}{text}").parse().unwrap()
    }

    fn paths() -> impl Strategy<Value = Vec<AbsolutePath>> {
        (0..5000_usize, text(4000))
            .prop_map(|(count, text)| (0..count).map(|number| path(number, &text)).collect())
    }

    fn failure() -> impl Strategy<Value = WireFailure> {
        (words(), words()).prop_map(|(message, hint)| WireFailure {
            exit_code: 75,
            message,
            hint,
        })
    }

    fn hooks() -> impl Strategy<Value = Vec<HookReport>> {
        (0..1000_usize, words(), proptest::option::of(words())).prop_map(
            |(count, moment, error)| {
                let hook = HookReport {
                    moment,
                    seconds: 1e9,
                    exit: Some(i32::MIN),
                    error,
                };
                vec![hook; count]
            },
        )
    }

    fn name(number: usize) -> String {
        let digits = number.to_string();
        "v".repeat(MAX_NAME_BYTES - digits.len()) + &digits
    }

    fn status() -> NodeStatus {
        let volume = |number: usize| -> (VolumeName, VolumeStatus) {
            let status = VolumeStatus {
                role: Some(RoleWord::Primary),
                state: NodeState::Inconsistent,
                epoch: lockstep_cluster::claim::Epoch::new(u64::MAX),
                root: Some(Words::new(&"f".repeat(64))),
                verified_unix_ms: Some(u64::MAX),
                run: Some("r".repeat(32).parse().unwrap()),
                is_stopped: false,
            };
            (name(number).parse().unwrap(), status)
        };
        NodeStatus {
            node: name(0).parse().unwrap(),
            protocol: VERSION,
            release: Words::new("1"),
            now_unix_ms: u64::MAX,
            cluster_file: Words::new(&"f".repeat(64)),
            volumes: (0..MAX_VOLUMES).map(volume).collect(),
        }
    }

    fn checkup(findings: usize, what: &Words, failure: &WireFailure) -> Checkup {
        let finding = |number: usize| Finding {
            check: Check::ClusterFile,
            is_fatal: number == findings - 1,
            volume: Some(name(0).parse().unwrap()),
            what: what.clone(),
            fix: what.clone(),
        };
        let place = PlaceSeen {
            kind: PlaceKind::Missing,
            size: u64::MAX,
            allocated: u64::MAX,
            free: Some(u64::MAX),
            role: Some(RoleWord::Primary),
            may_be_overwritten: false,
        };
        let peer = PeerSeen {
            failure: Some(failure.clone()),
            mtu: Some(u32::MAX),
            data_port: Some(false),
        };
        let node = |number: usize| -> NodeName { name(number).parse().unwrap() };
        Checkup {
            status: status(),
            findings: (0..findings).map(finding).collect(),
            findings_left_out: 0,
            places: (0..MAX_VOLUMES)
                .map(|number| (name(number).parse().unwrap(), place.clone()))
                .collect::<BTreeMap<_, _>>(),
            state_dir_free: Some(u64::MAX),
            peers: (0..MAX_NODES).map(|it| (node(it), peer.clone())).collect(),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn the_end_of_a_part_fits_and_counts_every_file(
            files in paths(),
            hooks in hooks(),
            failure in proptest::option::of(failure()),
        ) {
            let all = files.len();
            let told = HostTell::concluded(NodeState::Failed, files, hooks, Some(1e9), failure);
            prop_assert!(fits(&told));
            let HostTell::Concluded { files, files_left_out, .. } = told else { unreachable!() };
            prop_assert_eq!(files.len() as u64 + files_left_out, all as u64);
            prop_assert!(files.len() <= MAX_FILES);
        }

        #[test]
        fn the_files_that_differ_fit_and_are_counted(files in paths()) {
            let (all, first) = (files.len(), files.first().cloned());
            let told = HostTell::differing(files);
            prop_assert!(fits(&told));
            let HostTell::Differing { files, left_out } = told else { unreachable!() };
            prop_assert_eq!(files.len() as u64 + left_out, all as u64);
            prop_assert_eq!(files.first().cloned(), first);
        }

        #[test]
        fn an_undo_of_everything_fits(
            hooks in hooks(),
            what in vec(words(), 0..=MAX_VOLUMES),
            failure in proptest::option::of(failure()),
        ) {
            let (ran, volumes) = (hooks.len(), what.len());
            let told = Answer::undone(NodeState::Failed, u64::MAX, hooks, what, failure);
            prop_assert!(fits(&told));
            let Answer::Undone { hooks, hooks_left_out, what, .. } = told else { unreachable!() };
            prop_assert_eq!(hooks.len() as u64 + hooks_left_out, ran as u64);
            // Each volume has its sentence, or is counted in the last one.
            prop_assert!(what.len() <= volumes);
        }

        #[test]
        fn a_checkup_fits_and_tells_what_is_fatal(
            findings in 1..2000_usize,
            what in words(),
            failure in failure(),
        ) {
            let fitted = checkup(findings, &what, &failure).fitted();
            prop_assert!(frame(&Answer::Checkup(fitted.clone())).len() <= MAX_CALL_FRAME);
            prop_assert!(fitted.findings[0].is_fatal);
            let told = fitted.findings.len() as u64 + fitted.findings_left_out;
            prop_assert_eq!(told, findings as u64);
            prop_assert_eq!(fitted.peers.len(), MAX_NODES);
        }

        #[test]
        fn every_record_that_a_ledger_keeps_fits(text in text(4096)) {
            // As the ledger cuts them.
            let cut = |bytes: usize| {
                let mut end = text.len().min(bytes);
                while !text.is_char_boundary(end) { end -= 1; }
                Words::new(&text[..end])
            };
            let record = PastRun {
                run: cut(128),
                epoch: u64::MAX,
                state: NodeState::Inconsistent,
                source: cut(4096),
                who: cut(256),
                started_unix_ms: u64::MAX,
                ended_unix_ms: Some(u64::MAX),
                root: Some(cut(64)),
                size: u64::MAX,
                bytes_written: u64::MAX,
                proof: Words::new("delta"),
                why: Some(cut(1024)),
            };
            let records = vec![record; lockstep_ledger::MAX_RECORDS_PER_VOLUME];
            let told = Answer::History { records };
            prop_assert!(fits(&told));
        }
    }

    #[test]
    fn a_status_of_every_volume_fits() {
        assert!(fits(&Answer::Status(status())));
    }

    #[test]
    fn nothing_is_left_out_without_need() {
        let files: Vec<_> = (0..MAX_FILES).map(|number| path(number, "x")).collect();
        let told = HostTell::differing(files.clone());
        let left_out = 0;
        assert_eq!(told, HostTell::Differing { files, left_out });
    }
}
