//! `hash`: prints the root of each volume, as `b3sum` does.

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use lockstep_engine::hash_volume;
use lockstep_protocol::{Failure, FailureKind};

use super::Context;
use super::options::{IoOption, ThreadsOption};
use crate::events::{self, Event, Hashed, SourceCounts, Summary};
use crate::output::Output;
use crate::progress::reading_bar;
use crate::signals::{self, Reaction};

/// Print the root and the path of each volume, as b3sum does.
#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// Block devices and image files
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    threads: ThreadsOption,
    #[command(flatten)]
    io: IoOption,
}

/// Volumes below this size are hashed before a bar could be looked at.
const BAR_FROM_BYTES: u64 = 1 << 30;

/// What came of all paths.
#[derive(Default)]
struct Tally {
    roots: Vec<String>,
    size: u64,
    worst: Option<Failure>,
}

pub(super) fn run(arguments: &Arguments, context: &Context) -> Result<u8, Failure> {
    let output = &context.output;
    signals::watch(Reaction::Exit, Arc::clone(output), || {})?;
    let started = Instant::now();
    let mut tally = Tally::default();
    for path in &arguments.paths {
        hash_one(path, arguments, output, &mut tally);
    }
    let code = tally.exit_code();
    output.summary(tally.summary(started.elapsed()));
    Ok(code)
}

/// Hashes one volume; a bad one is told and the next one is hashed all the same.
fn hash_one(path: &Path, arguments: &Arguments, output: &Output, tally: &mut Tally) {
    let started = Instant::now();
    let threads = arguments.threads.count();
    let name = path.display().to_string();
    let bar = bar(path, output);
    let hashed = hash_volume(path, threads, arguments.io.engine(output), &|bytes| {
        bar.iter().for_each(|bar| bar.set_position(bytes));
    });
    bar.iter()
        .for_each(indicatif::ProgressBar::finish_and_clear);
    match hashed {
        Ok((root, size)) => {
            output.datum(&line(&root.to_string(), path));
            output.event(&Event::Hashed(Hashed {
                path: Some(name),
                root: root.to_string(),
                size,
                seconds: started.elapsed().as_secs_f64(),
            }));
            tally.roots.push(root.to_string());
            tally.size = tally.size.saturating_add(size);
        }
        Err(failure) => {
            output.fail(&failure, None);
            output.event(&Event::Error(events::Error {
                target: Some(name).filter(|name| !name.is_empty()),
                error: (&failure).into(),
            }));
            tally.failed(failure);
        }
    }
}

fn bar(path: &Path, output: &Output) -> Option<indicatif::ProgressBar> {
    let size = path.metadata().map_or(0, |meta| meta.len());
    let wanted = size >= BAR_FROM_BYTES && io::stderr().is_terminal();
    wanted.then(|| reading_bar(&path.display().to_string(), size, output))
}

/// `b3sum`'s line: a name that would break it is escaped, and the line begins with a backslash.
fn line(root: &str, path: &Path) -> Vec<u8> {
    let name = path.to_string_lossy();
    match name.contains(['\\', '\n']) {
        true => {
            let name = name.replace('\\', "\\\\").replace('\n', "\\n");
            format!("\\{root}  {name}\n").into_bytes()
        }
        false => format!("{root}  {name}\n").into_bytes(),
    }
}

impl Tally {
    fn failed(&mut self, failure: Failure) {
        let worse = self
            .worst
            .as_ref()
            .is_none_or(|worst| badness(failure.kind) > badness(worst.kind));
        if worse {
            self.worst = Some(failure);
        }
    }

    /// The code of the worst failure.
    fn exit_code(&self) -> u8 {
        self.worst
            .as_ref()
            .map_or(0, |failure| failure.kind.exit_code())
    }

    fn summary(self, elapsed: Duration) -> Summary {
        let root = match self.roots.as_slice() {
            [only] => Some(only.clone()),
            _ => None,
        };
        let counts = SourceCounts {
            bytes_read: self.size,
            bytes_hashed: self.size,
        };
        let ended = match &self.worst {
            Some(failure) => Summary::failed(failure),
            None => Summary::blank(),
        };
        Summary {
            root,
            size: self.size,
            seconds: elapsed.as_secs_f64(),
            source: counts,
            ..ended
        }
    }
}

/// A disk that fails is worse than a path that is wrong.
fn badness(kind: FailureKind) -> u8 {
    match kind {
        FailureKind::Usage => 0,
        FailureKind::Preflight | FailureKind::Temporary | FailureKind::Guard => 1,
        FailureKind::Io => 2,
        _ => 3,
    }
}

#[cfg(test)]
mod tests {
    use super::{Tally, line};
    use lockstep_protocol::{Failure, FailureKind};
    use std::path::Path;

    #[test]
    fn lines_are_those_of_b3sum() {
        assert_eq!(line("ab", Path::new("a b")), b"ab  a b\n");
        assert_eq!(line("ab", Path::new("a\nb\\")), b"\\ab  a\\nb\\\\\n");
    }

    #[test]
    fn the_worst_failure_decides() {
        let mut tally = Tally::default();
        assert_eq!(tally.exit_code(), 0);
        for kind in [FailureKind::Usage, FailureKind::Io, FailureKind::Usage] {
            tally.failed(Failure::new(kind, "x"));
        }
        assert_eq!(tally.exit_code(), 12);
    }
}
