//! What a run says, passed on: events to programs, lines and bars to people.

use std::sync::{Arc, Mutex, PoisonError};

use lockstep_engine::{Monitor, Notice};
use lockstep_protocol::FailureKind;

use crate::events::{Event, RunNames};
use crate::output::{Format, Output};
use crate::progress::Progress;
use crate::units;

/// Hears one run.
pub(crate) struct Listener {
    output: Arc<Output>,
    names: RunNames,
    progress: Arc<Progress>,
    ranges: Mutex<RangeList>,
}

/// Whether differing ranges are printed as they become known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum RangeList {
    /// `diff`: one `OFFSET LENGTH` line each.
    Printed,
    /// Everything else.
    Left,
}

impl Listener {
    pub(crate) fn new(
        names: RunNames,
        ranges: RangeList,
        progress: Arc<Progress>,
        output: Arc<Output>,
    ) -> Listener {
        Listener {
            output,
            names,
            progress,
            ranges: Mutex::new(ranges),
        }
    }

    fn tell(&self, notice: &Notice) {
        match notice {
            Notice::Preflight {
                target,
                transport,
                plan,
                present_size,
            } => {
                self.tell_reached(*target, transport, &self.fate(plan, *present_size));
            }
            Notice::Snapshot {
                provider: "none",
                detail,
            } => {
                self.output
                    .warn(&format!("the source is not held still: {detail}"));
            }
            Notice::Progress {
                bytes_scanned,
                size,
                elapsed,
                targets,
            } => self
                .progress
                .update(*bytes_scanned, *size, *elapsed, targets),
            Notice::Warning { target, message } => match target {
                Some(target) => {
                    let name = self.names.target(*target);
                    self.output.warn(&format!("{name}: {message}"));
                }
                None => self.output.warn(message),
            },
            // With one target the end of the run follows at once and says the same; so it does
            // when all targets end for one reason.
            Notice::Error {
                target: Some(target),
                failure,
            } if self.names.targets.len() > 1 && !ends_all(failure.kind) => {
                self.output.fail(failure, Some(&self.names.target(*target)));
            }
            _ => {}
        }
    }

    fn tell_reached(&self, target: usize, transport: &str, fate: &str) {
        let name = self.names.target(target);
        match transport {
            // On this machine there is nothing to reach.
            "memory" if fate.is_empty() => {}
            "memory" => self.output.say(&format!("{name}: {fate}")),
            _ if fate.is_empty() => self
                .output
                .say(&format!("{name}: reached over {transport}")),
            _ => self
                .output
                .say(&format!("{name}: reached over {transport}; {fate}")),
        }
    }

    /// What will become of a target's file, as a part of a sentence.
    fn fate(&self, plan: &str, present_size: Option<u64>) -> String {
        let verb = match self.names.dry_run {
            true => "would be",
            false => "will be",
        };
        match (plan, present_size) {
            ("create", _) => format!("it {verb} created"),
            ("resume", _) => "an earlier run left it unfinished".to_owned(),
            ("resize", Some(size)) => {
                format!("it {verb} resized, now {}", units::volume_size(size))
            }
            ("resize", None) => format!("it {verb} resized"),
            _ => String::new(),
        }
    }

    fn list_ranges(&self, notice: &Notice) {
        let Notice::Diff { ranges, .. } = notice else {
            return;
        };
        // Held while printing: two targets' lists must not mix.
        let list = self.ranges.lock().unwrap_or_else(PoisonError::into_inner);
        if *list == RangeList::Printed && self.output.format() == Format::Text {
            let mut text = Vec::new();
            for range in ranges {
                let length = range.end.saturating_sub(range.start);
                text.extend_from_slice(format!("{} {length}\n", range.start).as_bytes());
            }
            self.output.datum(&text);
        }
    }
}

/// Failures of the run as a whole, which each of its targets repeats.
fn ends_all(kind: FailureKind) -> bool {
    matches!(
        kind,
        FailureKind::NotConfirmed | FailureKind::Deadline | FailureKind::Signal(_)
    )
}

impl Monitor for Listener {
    fn notice(&self, notice: Notice) {
        self.output.event(&Event::from_notice(&notice, &self.names));
        self.list_ranges(&notice);
        self.tell(&notice);
    }
}
