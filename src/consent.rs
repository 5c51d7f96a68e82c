//! Asking whether existing data may be overwritten.

use std::io::{self, BufRead, IsTerminal, Read};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use lockstep_engine::{Cancel, Consent, PlanLine, PlannedUndo};
use lockstep_protocol::disturbs;

use crate::output::Output;
use crate::units;

/// How often a signal is looked for while the user thinks.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// Longer answers are not `yes` either.
const MAX_ANSWER_BYTES: u64 = 64;

/// Who is asked: nobody when `--yes` was given, the user on a terminal, else nobody can be.
pub(crate) fn consent(yes: Agreement, output: &Arc<Output>, cancel: &Arc<Cancel>) -> Consent {
    match yes {
        Agreement::GivenBeforehand => Consent::Given,
        Agreement::ToBeAsked if somebody_is_there() => {
            let (output, cancel) = (Arc::clone(output), Arc::clone(cancel));
            Consent::Ask(Box::new(move |plan| ask(plan, &output, &cancel)))
        }
        Agreement::ToBeAsked => Consent::Refused,
    }
}

/// Whether `--yes` was among the arguments.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Agreement {
    GivenBeforehand,
    ToBeAsked,
}

/// The question must be seen and the answer must be typed: a redirected stderr hides the table.
pub(crate) fn somebody_is_there() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

fn ask(plan: &[PlanLine], output: &Output, cancel: &Cancel) -> bool {
    is_answered_yes(&question(plan), output, cancel)
}

/// Puts the question, whose text is made safe for the terminal, and waits for the answer.
pub(crate) fn is_answered_yes(question: &str, output: &Output, cancel: &Cancel) -> bool {
    is_answered(question, "yes", output, cancel)
}

/// The table of what will be overwritten, and the question.
/// Shows a question; `true` if this is typed.
pub(crate) fn is_answered(question: &str, wanted: &str, output: &Output, cancel: &Cancel) -> bool {
    let answer = output.without_bars(|| {
        output.write_stderr(question.as_bytes());
        typed_line(cancel)
    });
    answer.is_some_and(|line| line.trim() == wanted)
}

fn question(plan: &[PlanLine]) -> String {
    let columns = plan
        .iter()
        .map(|line| line.target.chars().count())
        .max()
        .unwrap_or(0);
    let mut text = String::from("Existing data will be overwritten:\n");
    for line in plan {
        let name = plain(&line.target);
        let resized = match line.resized_from {
            Some(from) => format!(
                ", resized from {} to {}",
                units::volume_size(from),
                units::volume_size(line.size)
            ),
            None => String::new(),
        };
        text.push_str(&format!(
            "  {name:columns$}  {} of {} differ{resized}\n  {:columns$}  {}\n",
            units::amount(line.bytes_differing),
            units::volume_size(line.size),
            "",
            fate(&name, &line.undo)
        ));
    }
    text.push_str("Type `yes` to go on: ");
    text
}

/// What becomes of the data that is overwritten.
fn fate(name: &str, undo: &PlannedUndo) -> String {
    match undo {
        PlannedUndo::Kept(time) => format!(
            "kept for {}: `lockstep undo {name}` brings it back",
            units::span(*time)
        ),
        PlannedUndo::Lost(why) => format!("NOT kept, lost for good: {}", plain(why)),
        PlannedUndo::Unwanted => "not kept (--undo off), lost for good".to_owned(),
    }
}

/// Text that neither steers the terminal nor is shown in another order than it has.
pub(crate) fn plain(text: &str) -> String {
    text.chars()
        .flat_map(|c| match disturbs(c) {
            true => c.escape_default().collect(),
            false => vec![c],
        })
        .collect()
}

/// The line that is typed, or nothing once the run is to end.
///
/// Reading happens on a thread that may outlive the question: a read from a terminal cannot be
/// called off, and the process ends soon after a signal anyway.
fn typed_line(cancel: &Cancel) -> Option<String> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut line = String::new();
        let read = io::stdin()
            .lock()
            .take(MAX_ANSWER_BYTES)
            .read_line(&mut line);
        let _ = sender.send(read.map(|_| line));
    });
    while cancel.cause().is_none() {
        match receiver.recv_timeout(LOOK_INTERVAL) {
            Ok(line) => return line.ok(),
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => return None,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::{plain, question};
    use lockstep_engine::{PlanLine, PlannedUndo};
    use std::time::Duration;

    #[test]
    fn no_name_turns_the_question_around() {
        assert_eq!(
            plain("a\u{202e}b\u{2066}\u{1b}"),
            "a\\u{202e}b\\u{2066}\\u{1b}"
        );
        assert_eq!(plain("größe"), "größe");
    }

    #[test]
    fn the_table_says_what_is_lost() {
        let plan = [
            PlanLine {
                target: "db2:/dev/vg0/pg".to_owned(),
                bytes_differing: 479_612_928,
                size: 4 << 30,
                resized_from: None,
                undo: PlannedUndo::Kept(Duration::from_secs(24 * 3600)),
            },
            PlanLine {
                target: "/srv/x.img".to_owned(),
                bytes_differing: 4096,
                size: 4 << 30,
                resized_from: Some(1 << 30),
                undo: PlannedUndo::Lost("no room".to_owned()),
            },
        ];
        assert_eq!(
            question(&plan),
            "Existing data will be overwritten:\n\
             \x20 db2:/dev/vg0/pg  480 MB of 4.0 GiB differ\n\
             \x20                  kept for 24 h 0 min: `lockstep undo db2:/dev/vg0/pg` brings it back\n\
             \x20 /srv/x.img       4.1 kB of 4.0 GiB differ, resized from 1.0 GiB to 4.0 GiB\n\
             \x20                  NOT kept, lost for good: no room\n\
             Type `yes` to go on: "
        );
    }
}
