//! The two streams: results and events on stdout, text for people on stderr.
//!
//! Whoever reads may go away at any time; a closed stream never ends a run.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, PoisonError};

use indicatif::{MultiProgress, ProgressDrawTarget};
use lockstep_protocol::{Failure, disturbs};

use crate::events::{Event, Summary};
use crate::failure;

/// What is on the screen, and what may still come.
pub(crate) struct Output {
    json: bool,
    quiet: bool,
    color: bool,
    bars: MultiProgress,
    /// Set with the summary: nothing follows it on stdout.
    ended: Mutex<bool>,
}

/// How results are shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Format {
    /// Text for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// How much is said.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Loudness {
    /// Errors and results.
    Quiet,
    /// What is worth knowing.
    Normal,
}

/// Whether text is coloured.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(crate) enum Color {
    Auto,
    Always,
    Never,
}

impl Output {
    pub(crate) fn new(format: Format, loudness: Loudness, color: Color) -> Output {
        Output {
            json: format == Format::Json,
            quiet: loudness == Loudness::Quiet,
            color: color.wanted(),
            bars: MultiProgress::with_draw_target(ProgressDrawTarget::stderr()),
            ended: Mutex::new(false),
        }
    }

    /// How results are shown.
    pub(crate) fn format(&self) -> Format {
        match self.json {
            true => Format::Json,
            false => Format::Text,
        }
    }

    /// The place where bars are drawn; text of this output goes above them.
    pub(crate) fn bars(&self) -> &MultiProgress {
        &self.bars
    }

    /// Does something while no bar is drawn, however long it takes; bars still take in news.
    pub(crate) fn without_bars<T>(&self, action: impl FnOnce() -> T) -> T {
        // A stderr that cannot be cleared is no terminal, and has no bars.
        let _ = self.bars.clear();
        self.bars.set_draw_target(ProgressDrawTarget::hidden());
        let result = action();
        self.bars.set_draw_target(ProgressDrawTarget::stderr());
        result
    }

    /// One event, when events are asked for.
    pub(crate) fn event(&self, event: &Event) {
        if self.json {
            let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
            if !*ended {
                print(&event.line());
            }
        }
    }

    /// The last event; later ones are dropped, a second summary too.
    pub(crate) fn summary(&self, summary: Summary) {
        self.summary_line(&Event::Summary(summary).line());
    }

    /// The one object of a verb that prints nothing else; again and again while it is watched.
    pub(crate) fn only_line(&self, line: &str) {
        print(line);
    }

    /// A summary that another process has written.
    pub(crate) fn summary_line(&self, line: &str) {
        if self.json {
            let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
            if !std::mem::replace(&mut *ended, true) {
                print(line);
            }
        }
    }

    /// A result: on stdout, or on stderr when stdout carries events.
    pub(crate) fn result(&self, line: &str) {
        match self.json {
            true => self.say(line),
            false => self.bars.suspend(|| print(&visible(line))),
        }
    }

    /// A result for programs, on stdout as it stands; nothing when stdout carries events.
    pub(crate) fn datum(&self, line: &[u8]) {
        if !self.json {
            let mut stdout = io::stdout().lock();
            // The reader is gone: nobody is left to tell.
            let _ = stdout.write_all(line).and_then(|()| stdout.flush());
        }
    }

    /// A line for people, on stderr.
    pub(crate) fn say(&self, line: &str) {
        if !self.quiet {
            self.insist(line);
        }
    }

    /// A line for people that is shown even when all is to be quiet.
    pub(crate) fn insist(&self, line: &str) {
        self.write_stderr(format!("{}\n", visible(line)).as_bytes());
    }

    /// A warning, on stderr.
    pub(crate) fn warn(&self, message: &str) {
        let head = self.painted("33", "warning:");
        self.say_marked(&head, message);
    }

    /// A failure on stderr, with what it is about.
    pub(crate) fn fail(&self, failure: &Failure, about: Option<&dyn Display>) {
        let head = self.painted("1;31", "error:");
        for (number, line) in failure::lines(failure, about).iter().enumerate() {
            let text = match number {
                0 => format!("{head} {}\n", visible(line)),
                _ => format!("  {}\n", visible(line)),
            };
            self.write_stderr(text.as_bytes());
        }
    }

    /// Bytes for stderr, above the bars.
    pub(crate) fn write_stderr(&self, bytes: &[u8]) {
        self.bars.suspend(|| {
            let _ = io::stderr().lock().write_all(bytes);
        });
    }

    fn say_marked(&self, head: &str, message: &str) {
        if !self.quiet {
            self.write_stderr(format!("{head} {}\n", visible(message)).as_bytes());
        }
    }

    fn painted(&self, code: &str, text: &str) -> String {
        match self.color {
            true => format!("\x1b[{code}m{text}\x1b[0m"),
            false => text.to_owned(),
        }
    }
}

impl Color {
    /// Whether stderr is to be coloured, by <https://no-color.org> where nothing else is said.
    pub(crate) fn wanted(self) -> bool {
        let silenced = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        match self {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => !silenced && !dumb && io::stderr().is_terminal(),
        }
    }
}

fn print(line: &str) {
    let mut stdout = io::stdout().lock();
    // The reader is gone: the run goes on, and its exit code tells.
    let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
}

/// Names of files and words of peers may hold what would steer the terminal.
fn visible(line: &str) -> String {
    if !line.chars().any(disturbs) {
        return line.to_owned();
    }
    line.chars()
        .map(|c| match disturbs(c) {
            true => c.escape_default().to_string(),
            false => c.to_string(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::visible;

    #[test]
    fn nothing_in_a_name_steers_the_terminal() {
        assert_eq!(visible("a\x1b[2Jb\n"), "a\\u{1b}[2Jb\\n");
        assert_eq!(visible("a\u{2028}\u{2069}b"), "a\\u{2028}\\u{2069}b");
        assert_eq!(visible("größe"), "größe");
    }
}
