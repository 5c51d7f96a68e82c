//! The demo's commands, run as a user would run them: this same program, in processes of its own.

use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use lockstep_engine::Cancel;
use lockstep_protocol::{Failure, FailureKind};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::PIDS_VARIABLE;
use crate::output::Output;
use crate::rsh;

/// How often a signal is looked for while a command runs.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// No event of a demo's run is longer.
const MAX_LINE_BYTES: u64 = 16 << 20;

/// Runs commands in the demo's folder and shows each one.
pub(super) struct Children<'a> {
    pub(super) program: &'a Path,
    pub(super) folder: &'a Path,
    pub(super) output: &'a Output,
    pub(super) cancel: &'a Cancel,
}

/// How a command ended.
pub(super) struct Ended {
    pub(super) code: u8,
    /// Whether its far side was killed.
    pub(super) killed: bool,
    /// Its last event.
    pub(super) summary: Value,
    pub(super) summary_line: String,
    diffs: Vec<Value>,
}

impl Ended {
    /// Differing ranges that were listed.
    pub(super) fn ranges(&self) -> usize {
        self.diffs
            .iter()
            .filter_map(|event| event["ranges"].as_array())
            .map(Vec::len)
            .sum()
    }
}

/// A child that does not outlive the demo.
struct Guarded(Child);

impl Drop for Guarded {
    fn drop(&mut self) {
        // Both fail on a child that has ended: then there is nothing to do.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Children<'_> {
    /// Runs `lockstep` with these arguments to its end.
    pub(super) fn run(&self, arguments: &[OsString]) -> Result<Ended, Failure> {
        self.run_watched(arguments, |_| Ok(false))
    }

    /// Runs `lockstep`, and kills the process named in `victim` once an event is the `moment`.
    pub(super) fn run_and_kill(
        &self,
        arguments: &[OsString],
        victim: &Path,
        moment: impl Fn(&Value) -> bool,
    ) -> Result<Ended, Failure> {
        self.run_watched(arguments, |event| match moment(event) {
            true => self.kill(victim).map(|()| true),
            false => Ok(false),
        })
    }

    /// What `b3sum` prints about the files, if it is installed.
    pub(super) fn b3sum(&self, files: &[&str]) -> Result<Option<String>, Failure> {
        let names = files.iter().map(OsStr::new);
        let shown = shown("b3sum", names);
        match Command::new("b3sum")
            .args(files)
            .current_dir(self.folder)
            .output()
        {
            Ok(output) if output.status.success() => {
                self.output.say(&format!("$ {shown}"));
                let printed = String::from_utf8_lossy(&output.stdout).into_owned();
                printed.lines().for_each(|line| self.output.say(line));
                Ok(Some(printed))
            }
            Ok(output) => Err(defect(format!("b3sum ended with {}", output.status))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(defect(format!("b3sum: {error}"))),
        }
    }

    /// Runs a command; `watch` sees each event until it says that it has killed something.
    fn run_watched(
        &self,
        arguments: &[OsString],
        watch: impl Fn(&Value) -> Result<bool, Failure>,
    ) -> Result<Ended, Failure> {
        let all = self.with_shell(arguments)?;
        self.output.say(&format!(
            "$ {}",
            shown("lockstep", all.iter().map(OsString::as_os_str))
        ));
        let mut child = self.spawn(&all)?;
        let lines = lines_of(&mut child.0)?;
        let mut ended = Ended {
            code: 0,
            killed: false,
            summary: Value::Null,
            summary_line: String::new(),
            diffs: Vec::new(),
        };
        while let Some(line) = self.next(&lines)? {
            let event: Value = serde_json::from_str(&line)
                .map_err(|error| defect(format!("an event is not JSON: {error}")))?;
            if !ended.killed && watch(&event)? {
                self.output.say("  killed the second far side (SIGKILL)");
                ended.killed = true;
            }
            if event["type"] == "diff" {
                ended.diffs.push(event.clone());
            }
            ended.summary = event;
            ended.summary_line = line;
        }
        let status = child
            .0
            .wait()
            .map_err(|error| defect(format!("waiting: {error}")))?;
        ended.code = status
            .code()
            .and_then(|code| u8::try_from(code).ok())
            .ok_or_else(|| defect(format!("a command ended with {status}")))?;
        Ok(ended)
    }

    /// The next line, or nothing at the end.
    fn next(&self, lines: &mpsc::Receiver<String>) -> Result<Option<String>, Failure> {
        while self.cancel.cause().is_none() {
            match lines.recv_timeout(LOOK_INTERVAL) {
                Ok(line) => return Ok(Some(line)),
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => return Ok(None),
            }
        }
        Err(defect("the demo was interrupted".to_owned()))
    }

    /// The arguments, with this program as remote shell and as far side where one is needed.
    fn with_shell(&self, arguments: &[OsString]) -> Result<Vec<OsString>, Failure> {
        let mut all = arguments.to_vec();
        if matches!(arguments.first(), Some(verb) if verb == "sync" || verb == "diff") {
            let program = self
                .program
                .to_str()
                .ok_or_else(|| defect("this program's path is not UTF-8".to_owned()))?;
            let shell = format!("{} demo-shell", rsh::quoted(program));
            all.extend(["-e", &shell, "--remote-path", program].map(OsString::from));
        }
        Ok(all)
    }

    fn spawn(&self, arguments: &[OsString]) -> Result<Guarded, Failure> {
        let mut command = Command::new(self.program);
        // Settings of the user's own must not change the story.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("LOCKSTEP_") {
                command.env_remove(name);
            }
        }
        command
            .args(arguments)
            .current_dir(self.folder)
            .env(PIDS_VARIABLE, self.folder)
            .env("LOCKSTEP_PROGRESS", "none")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map(Guarded)
            .map_err(|error| defect(format!("{}: {error}", self.program.display())))
    }

    fn kill(&self, victim: &Path) -> Result<(), Failure> {
        let text = std::fs::read_to_string(victim)
            .map_err(|error| defect(format!("{}: {error}", victim.display())))?;
        let pid = text
            .trim()
            .parse()
            .ok()
            .and_then(Pid::from_raw)
            .ok_or_else(|| defect(format!("{} names no process", victim.display())))?;
        kill_process(pid, Signal::KILL).map_err(|error| defect(format!("kill: {error}")))
    }
}

/// The child's lines, read by a thread so that signals are seen while it is silent.
fn lines_of(child: &mut Child) -> Result<mpsc::Receiver<String>, Failure> {
    let stdout = child
        .stdout
        .take()
        .ok_or_else(|| defect("a command has no stdout".to_owned()))?;
    let (sender, receiver) = mpsc::sync_channel(64);
    std::thread::spawn(move || {
        let mut reader = BufReader::new(stdout);
        loop {
            let mut line = String::new();
            match (&mut reader).take(MAX_LINE_BYTES).read_line(&mut line) {
                Ok(1..) if sender.send(line.trim_end().to_owned()).is_ok() => {}
                _ => return,
            }
        }
    });
    Ok(receiver)
}

fn shown<'a>(program: &str, arguments: impl Iterator<Item = &'a OsStr>) -> String {
    let arguments = arguments.map(|argument| rsh::quoted(&argument.to_string_lossy()));
    std::iter::once(program.to_owned())
        .chain(arguments)
        .collect::<Vec<_>>()
        .join(" ")
}

fn defect(message: String) -> Failure {
    Failure::new(FailureKind::Internal, message)
}
