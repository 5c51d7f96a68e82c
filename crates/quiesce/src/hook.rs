//! A user's program before or after a snapshot: an argv array, never a shell.

use std::ffi::OsString;
use std::io::{self, PipeReader, PipeWriter, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

use crate::leftover::{HookLog, Noted, TOKEN};
use crate::progress::Progress;
use crate::socket::timespec;

/// Bytes of a hook's output that are kept: the last ones, which say why it ended.
pub const MAX_OUTPUT: usize = 8 * 1024;

/// What the service manager says to us alone, for a hook that used it could speak in our name; and
/// what tells an earlier hook, that started us perhaps.
const OURS_ALONE: [&str; 4] = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", TOKEN];
/// Most bytes of output in a message.
const MAX_SHOWN: usize = 200;
/// Pause between two looks at whether to stop.
const GLANCE: Duration = Duration::from_millis(50);
/// How long a killed hook may take to go: one that waits for a dead disk cannot be killed.
const GONE_WITHIN: Duration = Duration::from_secs(5);

/// A program that gets an application ready for a snapshot, or lets it go on afterwards.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hook {
    /// For messages, and what ties an `after` hook to the `before` hook that it undoes.
    pub name: String,
    /// The program and its arguments.
    pub argv: Vec<OsString>,
    /// Variables besides our own environment; their names begin with `LOCKSTEP_`.
    pub environment: Vec<(String, OsString)>,
    /// Longest that it may run before it is killed with all its children.
    pub limit: Duration,
}

/// A hook that did not do its work.
#[derive(Debug, thiserror::Error)]
#[error("hook {name} {end}{}", shown(output))]
pub struct HookFailure {
    /// The hook.
    pub name: String,
    /// How it ended.
    pub end: HookEnd,
    /// The last [`MAX_OUTPUT`] bytes that it wrote to its standard output and error, control
    /// characters replaced.
    pub output: String,
}

/// How a hook ended.
#[derive(Debug, thiserror::Error)]
pub enum HookEnd {
    /// It could not be started or watched.
    #[error("could not be run: {0}")]
    NotRun(io::Error),
    /// It ended badly.
    #[error("failed, {0}")]
    Failed(ExitStatus),
    /// It took too long, and was killed.
    #[error("was killed after {} s", .0.as_secs_f64())]
    TimedOut(Duration),
    /// The caller wanted to stop, so it was killed.
    #[error("was killed because the run was cancelled")]
    Cancelled,
}

impl HookFailure {
    /// What it exited with; none if it was killed, or did not run.
    #[must_use]
    pub fn exit_code(&self) -> Option<i32> {
        match &self.end {
            HookEnd::Failed(status) => status.code(),
            HookEnd::NotRun(_) | HookEnd::TimedOut(_) | HookEnd::Cancelled => None,
        }
    }
}

impl Hook {
    /// Runs the hook to its end. Blocks.
    ///
    /// # Errors
    /// [`HookFailure`] if it did not exit with 0 within its limit.
    pub fn run(&self, progress: &dyn Progress) -> Result<(), HookFailure> {
        self.run_with(progress, Output::Together, None).map(drop)
    }

    /// Runs the hook to its end, written down for [`crate::end_leftovers()`]. Blocks.
    ///
    /// One that cannot be written down is run all the same: it may be what lets an application go on.
    ///
    /// # Errors
    /// As [`Hook::run`].
    pub fn run_noted(&self, log: HookLog<'_>, progress: &dyn Progress) -> Result<(), HookFailure> {
        let noted = Noted::begin(log, &self.name)
            .inspect_err(|error| tracing::warn!("hook {} is not written down: {error}", self.name));
        self.run_with(progress, Output::Together, noted.ok())
            .map(drop)
    }

    /// Runs it to its end; the last [`MAX_OUTPUT`] bytes of its standard output.
    ///
    /// # Errors
    /// As [`Hook::run`].
    pub fn answer(&self, progress: &dyn Progress) -> Result<Vec<u8>, HookFailure> {
        self.run_with(progress, Output::Apart, None)
    }

    /// What is noted goes when the hook has ended.
    fn run_with(
        &self,
        progress: &dyn Progress,
        how: Output,
        mut noted: Option<Noted>,
    ) -> Result<Vec<u8>, HookFailure> {
        let mut tails = Tails::default();
        let end = match self.start(how, noted.as_mut()) {
            Ok(running) => running.watch(self.limit, progress, &mut tails),
            Err(error) => Err(HookEnd::NotRun(error)),
        };
        match end {
            Ok(()) => Ok(tails.answer.bytes),
            Err(end) => Err(HookFailure {
                name: self.name.clone(),
                end,
                output: tails.output.into_text(),
            }),
        }
    }

    fn start(&self, how: Output, noted: Option<&mut Noted>) -> io::Result<Running> {
        let missing = || io::Error::new(io::ErrorKind::InvalidInput, "no program is named");
        let (program, arguments) = self.argv.split_first().ok_or_else(missing)?;
        let (reader, writer) = pipe()?;
        let (answer, said) = match how {
            Output::Together => (None, writer.try_clone()?),
            Output::Apart => {
                let (reader, writer) = pipe()?;
                (Some(reader), writer)
            }
        };
        let mut command = self.command(program, arguments);
        command.stdin(Stdio::null()).stdout(said).stderr(writer);
        if let Some(noted) = &noted {
            command.env(TOKEN, noted.token());
        }
        let child = command.spawn()?;
        let number = child.id();
        let running = Running::new(child, reader, answer)?;
        // Without it the token tells.
        if let Some(Err(error)) = noted.map(|noted| noted.is(number)) {
            tracing::warn!(
                "the process of hook {} is not written down: {error}",
                self.name
            );
        }
        Ok(running)
    }
}

impl Hook {
    /// The program in an environment and a process group of its own.
    fn command(&self, program: &OsString, arguments: &[OsString]) -> Command {
        let mut command = Command::new(program);
        command.args(arguments).process_group(0);
        for name in OURS_ALONE {
            command.env_remove(name);
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }
}

/// Where a hook's standard output goes.
#[derive(Clone, Copy)]
enum Output {
    /// Where its standard error goes.
    Together,
    /// To whoever asked.
    Apart,
}

/// A pipe that can be read without waiting.
fn pipe() -> io::Result<(PipeReader, PipeWriter)> {
    let (reader, writer) = io::pipe()?;
    fcntl_setfl(&reader, fcntl_getfl(&reader)? | OFlags::NONBLOCK)?;
    Ok((reader, writer))
}

/// A hook at work, in a process group of its own.
struct Running {
    child: Child,
    group: Pid,
    /// Becomes readable when the process ends.
    process: OwnedFd,
    output: PipeReader,
    answer: Option<PipeReader>,
}

impl Running {
    fn new(
        mut child: Child,
        output: PipeReader,
        answer: Option<PipeReader>,
    ) -> io::Result<Running> {
        let group = Pid::from_child(&child);
        match pidfd_open(group, PidfdFlags::empty()) {
            Ok(process) => Ok(Running {
                child,
                group,
                process,
                output,
                answer,
            }),
            Err(error) => {
                // It would run without anybody who ends it.
                let _ = kill_process_group(group, Signal::KILL);
                let _ = child.wait();
                Err(error.into())
            }
        }
    }

    fn watch(
        mut self,
        limit: Duration,
        progress: &dyn Progress,
        output: &mut Tails,
    ) -> Result<(), HookEnd> {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(self.kill(HookEnd::TimedOut(limit), output));
            }
            if progress.is_cancelled() {
                return Err(self.kill(HookEnd::Cancelled, output));
            }
            match self.wait(left.min(GLANCE), output) {
                Ok(None) => {}
                Ok(Some(status)) if status.success() => return Ok(()),
                Ok(Some(status)) => return Err(HookEnd::Failed(status)),
                Err(error) => return Err(self.kill(HookEnd::NotRun(error), output)),
            }
        }
    }

    /// Waits a moment for output or the end. Whoever the hook leaves behind may hold its output open,
    /// so the end of the output is not waited for.
    fn wait(&mut self, limit: Duration, tails: &mut Tails) -> io::Result<Option<ExitStatus>> {
        let mut fds = vec![PollFd::from_borrowed_fd(
            self.process.as_fd(),
            PollFlags::IN,
        )];
        if !tails.output.is_closed {
            fds.push(PollFd::from_borrowed_fd(self.output.as_fd(), PollFlags::IN));
        }
        let answer = self.answer.as_ref().filter(|_| !tails.answer.is_closed);
        if let Some(answer) = answer {
            fds.push(PollFd::from_borrowed_fd(answer.as_fd(), PollFlags::IN));
        }
        match poll(&mut fds, Some(&timespec(limit))) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let status = self.child.try_wait()?;
        tails.output.read(&mut self.output)?;
        if let Some(answer) = &mut self.answer {
            tails.answer.read(answer)?;
        }
        Ok(status)
    }

    /// Ends it with all that it started, as far as that did not leave its group.
    fn kill(mut self, end: HookEnd, output: &mut Tails) -> HookEnd {
        // The leader is not reaped yet, so the group is still its own.
        let _ = kill_process_group(self.group, Signal::KILL);
        let deadline = Instant::now() + GONE_WITHIN;
        while Instant::now() < deadline && matches!(self.wait(GLANCE, output), Ok(None)) {}
        end
    }
}

/// The last bytes of what a hook prints.
#[derive(Default)]
struct Tails {
    output: Tail,
    /// Its standard output, where that is apart.
    answer: Tail,
}

/// The last bytes of an output.
#[derive(Default)]
struct Tail {
    bytes: Vec<u8>,
    is_closed: bool,
}

impl Tail {
    /// Reads what is there, but not for ever: its writer may be faster than we are.
    fn read(&mut self, pipe: &mut PipeReader) -> io::Result<()> {
        let mut buffer = [0; MAX_OUTPUT];
        for _ in 0..32 {
            match pipe.read(&mut buffer) {
                Ok(0) => {
                    self.is_closed = true;
                    return Ok(());
                }
                Ok(length) => self.push(&buffer[..length]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        let surplus = self.bytes.len().saturating_sub(MAX_OUTPUT);
        self.bytes.drain(..surplus);
    }

    fn into_text(self) -> String {
        let text = String::from_utf8_lossy(&self.bytes);
        let is_strange = |char: char| char.is_control() && char != '\n';
        text.replace(is_strange, "\u{FFFD}")
    }
}

/// The last line, cut to what a message bears.
fn shown(output: &str) -> String {
    let last = output
        .lines()
        .rev()
        .map(str::trim)
        .find(|line| !line.is_empty());
    match last {
        Some(line) => format!(": {}", line.chars().take(MAX_SHOWN).collect::<String>()),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::{Hook, OURS_ALONE};
    use std::ffi::{OsStr, OsString};
    use std::time::Duration;

    #[test]
    fn a_hook_cannot_speak_to_the_service_manager_in_our_name() {
        let hook = Hook {
            name: "stop".to_owned(),
            argv: vec!["true".into()],
            environment: vec![("LOCKSTEP_X".to_owned(), "y".into())],
            limit: Duration::from_secs(1),
        };
        let command = hook.command(&OsString::from("true"), &[]);
        let told: Vec<_> = command.get_envs().collect();
        for name in OURS_ALONE {
            assert!(told.contains(&(OsStr::new(name), None)), "{name}: {told:?}");
        }
        assert!(told.contains(&(OsStr::new("LOCKSTEP_X"), Some(OsStr::new("y")))));
    }
}
