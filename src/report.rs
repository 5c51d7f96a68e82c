//! The end of a run, for people.

use std::time::Duration;

use lockstep_engine::{Consistency, Outcome, Purpose, TargetOutcome, Verdict};
use lockstep_protocol::Failure;

use crate::events::time;
use crate::output::Output;
use crate::units;

/// Where the sentences about good targets go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    /// stdout: they are the result.
    Result,
    /// stderr: stdout holds something for programs.
    Aside,
}

/// Says how a run ended: a line per target, and what to do about each failure.
pub(crate) fn report(
    outcome: &Outcome,
    purpose: Purpose,
    place: Place,
    volume: Option<&str>,
    output: &Output,
) {
    let say = |line: &str| match place {
        Place::Result => output.result(line),
        Place::Aside => output.say(line),
    };
    if let Some(failure) = &outcome.error {
        output.fail(failure, None);
    }
    match outcome.targets.as_slice() {
        [target] => {
            say_only(outcome, target, purpose, &say);
            say_undo(target, volume, &say);
            if let Some(failure) = own_failure(outcome, target) {
                output.fail(failure, Some(&target.target));
            }
        }
        targets => {
            say_root(outcome, &say);
            for target in targets {
                say(&format!(
                    "{}: {}",
                    target.target,
                    fate(outcome, target, purpose)
                ));
                say_undo(target, volume, &say);
            }
        }
    }
    if outcome.consistency == Consistency::Fuzzy && outcome.targets.iter().any(is_good) {
        output.warn(
            "the source may have changed while it was read: what was read is not one instant of it",
        );
    }
}

/// The root and everything else of a run with one target, on one line.
fn say_only(outcome: &Outcome, target: &TargetOutcome, purpose: Purpose, say: &dyn Fn(&str)) {
    if let (true, Some(root)) = (is_good(target), &outcome.root) {
        say(&format!(
            "root {root}, {}",
            sentence(target, outcome.size, purpose, outcome.elapsed)
        ));
    }
}

/// How what was overwritten comes back.
/// In a cluster a target is a node, and the volume has to be named too.
fn say_undo(target: &TargetOutcome, volume: Option<&str>, say: &dyn Fn(&str)) {
    if let Some(kept) = &target.undo {
        say(&format!(
            "what was overwritten is kept until {}: `lockstep undo {}{}` brings it back",
            time(kept.until_unix_ms),
            volume
                .map(|volume| format!("{volume} "))
                .unwrap_or_default(),
            target.target
        ));
    }
}

fn say_root(outcome: &Outcome, say: &dyn Fn(&str)) {
    if let Some(root) = &outcome.root {
        say(&format!(
            "root {root}, {}, {}",
            units::volume_size(outcome.size),
            units::span(outcome.elapsed)
        ));
    }
}

/// How one of several targets ended. Its failure was told in full when it happened.
fn fate(outcome: &Outcome, target: &TargetOutcome, purpose: Purpose) -> String {
    if is_good(target) {
        return work(target, outcome.size, purpose);
    }
    let state = target.state.word();
    match own_failure(outcome, target) {
        Some(failure) => format!("not made equal, {state}: {}", failure.message),
        None => format!("not made equal, {state}"),
    }
}

fn work(target: &TargetOutcome, size: u64, purpose: Purpose) -> String {
    format!(
        "{}, {}",
        match (purpose, target.verdict) {
            (Purpose::Compare, Verdict::Ok) => "equal",
            (Purpose::Compare, _) => "different",
            (Purpose::Sync, _) => target.state.word(),
        },
        sentence(target, size, purpose, target.elapsed)
    )
}

/// What differed, what was sent, and how long it took.
fn sentence(target: &TargetOutcome, size: u64, purpose: Purpose, time: Duration) -> String {
    let differing = match target.bytes_differing {
        0 => format!("nothing differed of {}", units::volume_size(size)),
        bytes => format!(
            "{} differed of {}",
            units::amount(bytes),
            units::volume_size(size)
        ),
    };
    let sent = match purpose {
        Purpose::Compare => "nothing written".to_owned(),
        Purpose::Sync => format!(
            "{} sent{}",
            units::amount(target.bytes_sent),
            share(target.bytes_sent, size)
        ),
    };
    format!("{differing}, {sent}, {}", units::span(time))
}

/// What was sent, against a full copy.
fn share(sent: u64, size: u64) -> String {
    if size == 0 {
        return String::new();
    }
    #[expect(clippy::cast_precision_loss, reason = "one decimal is shown")]
    let percent = sent as f64 * 100.0 / size as f64;
    format!(" ({percent:.1} % of a full copy)")
}

fn is_good(target: &TargetOutcome) -> bool {
    matches!(target.verdict, Verdict::Ok | Verdict::Different)
}

/// A target's failure, unless the run's own says the same.
fn own_failure<'a>(outcome: &Outcome, target: &'a TargetOutcome) -> Option<&'a Failure> {
    target
        .error
        .as_ref()
        .filter(|failure| outcome.error.as_ref() != Some(failure))
}

#[cfg(test)]
mod tests {
    use super::{Purpose, sentence, share};
    use lockstep_engine::{TargetOutcome, Verdict};
    use lockstep_protocol::VolumeState;
    use std::time::Duration;

    fn target(bytes_differing: u64, bytes_sent: u64) -> TargetOutcome {
        TargetOutcome {
            target: "db2:/x".to_owned(),
            verdict: Verdict::Ok,
            state: VolumeState::Consistent,
            bytes_differing,
            bytes_written: bytes_differing,
            bytes_read: 0,
            bytes_inherited: 0,
            bytes_sent,
            bytes_received: 0,
            elapsed: Duration::from_millis(2_000),
            transport: Some("quic"),
            undo: None,
            error: None,
        }
    }

    #[test]
    fn the_end_says_what_was_not_sent() {
        let time = Duration::from_millis(2_100);
        assert_eq!(
            sentence(
                &target(479_612_928, 168_000_000),
                4 << 30,
                Purpose::Sync,
                time
            ),
            "480 MB differed of 4.0 GiB, 168 MB sent (3.9 % of a full copy), 2.1 s"
        );
        assert_eq!(
            sentence(&target(0, 2_200_000), 4 << 30, Purpose::Sync, time),
            "nothing differed of 4.0 GiB, 2.2 MB sent (0.1 % of a full copy), 2.1 s"
        );
        assert_eq!(
            sentence(&target(4096, 0), 8192, Purpose::Compare, time),
            "4.1 kB differed of 8.0 KiB, nothing written, 2.1 s"
        );
    }

    #[test]
    fn an_empty_volume_has_no_share() {
        assert_eq!(share(100, 0), "");
    }
}
