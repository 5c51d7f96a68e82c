//! How far a run is: bars on a terminal, a line now and then elsewhere.

use std::io::{self, IsTerminal};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use lockstep_engine::{Phase, TargetProgress};

use crate::output::Output;
use crate::units;

/// Without a terminal, the time between two lines while nothing else happens.
const PLAIN_INTERVAL: Duration = Duration::from_secs(60);
/// Longer names are cut on bars, so that a bar fits on a line.
const MAX_NAME_COLUMNS: usize = 32;
/// What a bar shows: the target, its phase, how far it is, rate and time left.
const BAR: &str =
    "{prefix} {msg:10} {bar:24} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left";
/// What is shown of a target that is neither read nor written.
const STILL: &str = "{prefix} {msg}";

/// `--progress`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(crate) enum Choice {
    /// Bars on a terminal, lines elsewhere.
    Auto,
    /// A line per phase and per minute.
    Plain,
    /// Nothing, except on SIGUSR1.
    None,
}

/// Shows how far each target is.
pub(crate) struct Progress {
    output: Arc<Output>,
    names: Vec<String>,
    style: Style,
    latest: Mutex<Latest>,
}

enum Style {
    Bars(Vec<ProgressBar>),
    Plain,
    Silent,
}

/// What was heard last, and shown last.
struct Latest {
    bytes_scanned: u64,
    size: u64,
    elapsed: Duration,
    targets: Vec<TargetProgress>,
    phases: Vec<Phase>,
    shown: Instant,
}

impl Progress {
    pub(crate) fn new(choice: Choice, names: Vec<String>, output: Arc<Output>) -> Progress {
        let style = match choice {
            Choice::None => Style::Silent,
            Choice::Auto if io::stderr().is_terminal() => Style::Bars(bars(&names, &output)),
            Choice::Auto | Choice::Plain => Style::Plain,
        };
        let latest = Latest {
            bytes_scanned: 0,
            size: 0,
            elapsed: Duration::ZERO,
            targets: Vec::new(),
            phases: vec![Phase::Connecting; names.len()],
            shown: Instant::now(),
        };
        Progress {
            output,
            names,
            style,
            latest: Mutex::new(latest),
        }
    }

    /// Takes in how far the run is, and shows it if it is time.
    pub(crate) fn update(
        &self,
        bytes_scanned: u64,
        size: u64,
        elapsed: Duration,
        targets: &[TargetProgress],
    ) {
        let mut latest = self.latest();
        latest.bytes_scanned = bytes_scanned;
        latest.size = size;
        latest.elapsed = elapsed;
        latest.targets = targets.to_vec();
        match &self.style {
            Style::Bars(bars) => move_bars(bars, &mut latest),
            Style::Plain => self.tell(&mut latest),
            Style::Silent => {}
        }
    }

    /// One line on stderr, whatever the style.
    pub(crate) fn line_now(&self) {
        let line = self.line(&self.latest());
        self.output.insist(&line);
    }

    /// Takes the bars away.
    pub(crate) fn clear(&self) {
        if let Style::Bars(bars) = &self.style {
            bars.iter().for_each(ProgressBar::finish_and_clear);
        }
    }

    fn tell(&self, latest: &mut Latest) {
        let targets = std::mem::take(&mut latest.targets);
        for line in &targets {
            if phase_changed(latest, line) {
                let name = self.name(line.target);
                self.output.say(&format!("{name}: {}", line.phase.word()));
            }
        }
        latest.targets = targets;
        if latest.shown.elapsed() >= PLAIN_INTERVAL {
            latest.shown = Instant::now();
            let line = self.line(latest);
            self.output.say(&line);
        }
    }

    fn line(&self, latest: &Latest) -> String {
        let scanned = format!(
            "{} of {} scanned in {}",
            units::volume_size(latest.bytes_scanned),
            units::volume_size(latest.size),
            units::span(latest.elapsed)
        );
        let targets = latest.targets.iter().map(|line| {
            let (done, all) = steps(line, latest.size);
            format!(
                "{}: {}, {} of {}, {} sent",
                self.name(line.target),
                line.phase.word(),
                units::amount(done),
                units::amount(all),
                units::amount(line.bytes_sent)
            )
        });
        std::iter::once(scanned)
            .chain(targets)
            .collect::<Vec<_>>()
            .join("; ")
    }

    fn name(&self, target: usize) -> &str {
        self.names.get(target).map_or("", String::as_str)
    }

    fn latest(&self) -> MutexGuard<'_, Latest> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One bar a target, in the targets' order.
fn bars(names: &[String], output: &Output) -> Vec<ProgressBar> {
    let columns = names
        .iter()
        .map(|name| name.chars().count())
        .max()
        .unwrap_or(0)
        .min(MAX_NAME_COLUMNS);
    names
        .iter()
        .map(|name| {
            let bar = output.bars().add(ProgressBar::new(0));
            bar.set_style(style(STILL));
            bar.set_prefix(format!("{:columns$}", short(name)));
            bar.set_message(Phase::Connecting.word());
            bar
        })
        .collect()
}

/// The bar of one volume that is only read.
pub(crate) fn reading_bar(name: &str, size: u64, output: &Output) -> ProgressBar {
    let bar = output.bars().add(ProgressBar::new(size));
    bar.set_style(style(BAR));
    bar.set_prefix(short(name));
    bar.set_message("hashing");
    bar
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// The end of a long name tells more than its beginning.
fn short(name: &str) -> String {
    let length = name.chars().count();
    let printable = name.chars().map(|c| if c.is_control() { '?' } else { c });
    if length <= MAX_NAME_COLUMNS {
        return printable.collect();
    }
    let tail = printable.skip(length - MAX_NAME_COLUMNS + 1);
    std::iter::once('…').chain(tail).collect()
}

fn move_bars(bars: &[ProgressBar], latest: &mut Latest) {
    let targets = std::mem::take(&mut latest.targets);
    for line in &targets {
        let Some(bar) = bars.get(line.target) else {
            continue;
        };
        if phase_changed(latest, line) {
            // Each phase has a pace of its own.
            bar.reset();
            bar.set_style(style(template(line.phase)));
            bar.set_message(line.phase.word());
        }
        let (done, all) = steps(line, latest.size);
        bar.set_length(all);
        bar.set_position(done);
    }
    latest.targets = targets;
}

fn template(phase: Phase) -> &'static str {
    match phase {
        Phase::Comparing | Phase::Shipping | Phase::Verifying => BAR,
        Phase::Connecting | Phase::Waiting | Phase::Done => STILL,
    }
}

fn phase_changed(latest: &mut Latest, line: &TargetProgress) -> bool {
    match latest.phases.get_mut(line.target) {
        Some(phase) => std::mem::replace(phase, line.phase) != line.phase,
        None => false,
    }
}

/// Bytes done and bytes in all, in the target's present phase.
///
/// Reading back overlaps writing, so that both are one way to go, each byte twice.
fn steps(line: &TargetProgress, size: u64) -> (u64, u64) {
    match line.phase {
        Phase::Connecting => (0, size),
        Phase::Comparing => (line.bytes_compared, size),
        Phase::Waiting | Phase::Shipping | Phase::Verifying => {
            let written = line.bytes_differing.max(line.bytes_written);
            // More than was written is read back when all is verified.
            let verified = written.max(line.bytes_verified);
            let done = line.bytes_written.saturating_add(line.bytes_verified);
            (done, written.saturating_add(verified))
        }
        Phase::Done => (size, size),
    }
}

#[cfg(test)]
mod tests {
    use super::{BAR, MAX_NAME_COLUMNS, Phase, ProgressStyle, STILL, TargetProgress, short, steps};

    #[test]
    fn long_names_keep_their_ends() {
        assert_eq!(short("db2:/x"), "db2:/x");
        let long = format!("db2:/{}/pg.img", "d".repeat(80));
        assert_eq!(short(&long).chars().count(), MAX_NAME_COLUMNS);
        assert!(short(&long).ends_with("/pg.img"));
        assert_eq!(short("a\x1b[2J"), "a?[2J");
    }

    #[test]
    fn a_target_is_through_once_all_is_read_back() {
        let line = |phase, bytes_written, bytes_verified| TargetProgress {
            target: 0,
            phase,
            bytes_compared: 50,
            bytes_differing: 40,
            bytes_written,
            bytes_verified,
            bytes_sent: 0,
            bytes_received: 0,
        };
        assert_eq!(steps(&line(Phase::Comparing, 10, 0), 100), (50, 100));
        assert_eq!(steps(&line(Phase::Shipping, 20, 10), 100), (30, 80));
        assert_eq!(steps(&line(Phase::Verifying, 40, 40), 100), (80, 80));
        assert_eq!(steps(&line(Phase::Verifying, 40, 100), 100), (140, 140));
        assert_eq!(steps(&line(Phase::Done, 40, 40), 100), (100, 100));
    }

    #[test]
    fn bars_are_not_default_ones() {
        // A template that does not parse would silently become the default.
        assert!(ProgressStyle::with_template(BAR).is_ok());
        assert!(ProgressStyle::with_template(STILL).is_ok());
    }
}
