//! A target on another machine: lockstep is started there over a remote shell.

use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::num::NonZeroU32;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use lockstep_engine::{
    Connect, Connected, FullScanEvery, KeepBase, Priority, Reuse, UndoMode, UndoPolicy,
};
use lockstep_protocol::{Failure, FailureKind};
use lockstep_transport::quic::QuicOptions;
use lockstep_transport::remote::{self, DialRequest, Dialed, Policy, RemoteError};
use serde::{Deserialize, Serialize};

use crate::failure::{chain, usage};
use crate::rsh;
use crate::target::Remote;

/// What both sides say they are; the protocol's own version is the transport's affair.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// How long the remote shell may take to start lockstep where nobody can type a password.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// The same where the shell may ask for a password or whether a host key is right.
const START_TIMEOUT_ATTENDED: Duration = Duration::from_secs(300);

/// Most bytes of a path on the wire: Linux's `PATH_MAX`.
const MAX_PATH_BYTES: usize = 4096;
/// Most bytes of the text that names who asks.
const MAX_WHO_BYTES: usize = 256;
/// Most threads that the far side is asked for.
const MAX_THREADS: u64 = 256;

/// `--transport`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(crate) enum TransportChoice {
    Auto,
    Quic,
    Ssh,
}

/// How far sides are started and spoken to.
#[derive(Clone)]
pub(crate) struct Reach {
    shell: Vec<String>,
    program: String,
    transport: TransportChoice,
    over_quic: OverQuic,
}

/// What was asked for of the way over QUIC.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct OverQuic {
    /// How many connections carry data.
    pub(crate) connections: Option<usize>,
    /// Bytes a second that the link is known to carry.
    pub(crate) rate: Option<u64>,
}

/// One target on another machine.
pub(crate) struct RemoteTarget {
    pub(crate) remote: Remote,
    pub(crate) reach: Reach,
    /// Only what the user named: otherwise the far side knows better.
    pub(crate) state_dir: Option<PathBuf>,
    pub(crate) who: String,
    pub(crate) memory: u64,
    pub(crate) threads: Option<u64>,
    pub(crate) priority: Priority,
    pub(crate) uring: bool,
    pub(crate) job: Job,
}

/// What the far side is there for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Job {
    /// To be made equal, to take over what it may from earlier runs, and to keep what is
    /// overwritten.
    Serve(Reuse, UndoPolicy),
    /// To be brought back.
    Rollback,
}

/// What the far side is told to do.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct Errand {
    pub(crate) path: PathBuf,
    pub(crate) state_dir: Option<PathBuf>,
    pub(crate) who: String,
    /// Bytes of buffers.
    pub(crate) memory: u64,
    /// Threads that hash; one for each core where nothing is said.
    pub(crate) threads: Option<usize>,
    /// What the threads that read and hash ask for.
    pub(crate) priority: Priority,
    /// io_uring, where the kernel there lets it be used.
    pub(crate) uring: bool,
    pub(crate) job: Job,
}

/// An errand on the wire. Paths are hexadecimal, since JSON has no place for bytes that are not
/// UTF-8.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    path: String,
    state_dir: Option<String>,
    who: String,
    memory: u64,
    threads: Option<u64>,
    #[serde(default)]
    priority: WirePriority,
    uring: bool,
    job: WireJob,
}

/// What threads ask for.
#[derive(Clone, Copy, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum WirePriority {
    #[default]
    Normal,
    Low,
    Idle,
}

/// A job on the wire.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum WireJob {
    Serve {
        delta: bool,
        full_scan_runs: NonZeroU32,
        full_scan_seconds: u64,
        keep_base: WireKeepBase,
        undo: WireUndo,
    },
    Rollback,
}

/// When the far side keeps a snapshot of the target.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum WireKeepBase {
    WhileThereIsRoom,
    AtMost(u64),
    Never,
}

/// What becomes of what is overwritten.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum WireUndo {
    /// Keep it if that can be, for so many milliseconds.
    KeepIfPossible(u64),
    /// Keep it, or overwrite nothing.
    Keep(u64),
    KeepNothing,
}

impl From<Priority> for WirePriority {
    fn from(priority: Priority) -> WirePriority {
        match priority {
            Priority::Normal => WirePriority::Normal,
            Priority::Low => WirePriority::Low,
            Priority::Idle => WirePriority::Idle,
        }
    }
}

impl From<WirePriority> for Priority {
    fn from(wire: WirePriority) -> Priority {
        match wire {
            WirePriority::Normal => Priority::Normal,
            WirePriority::Low => Priority::Low,
            WirePriority::Idle => Priority::Idle,
        }
    }
}

impl From<Job> for WireJob {
    fn from(job: Job) -> WireJob {
        match job {
            Job::Rollback => WireJob::Rollback,
            Job::Serve(reuse, undo) => WireJob::Serve {
                delta: reuse.delta,
                full_scan_runs: reuse.full_scan_every.runs,
                full_scan_seconds: reuse.full_scan_every.age.as_secs(),
                keep_base: reuse.keep_base.into(),
                undo: undo.into(),
            },
        }
    }
}

impl From<WireJob> for Job {
    fn from(wire: WireJob) -> Job {
        match wire {
            WireJob::Rollback => Job::Rollback,
            WireJob::Serve {
                delta,
                full_scan_runs,
                full_scan_seconds,
                keep_base,
                undo,
            } => Job::Serve(
                Reuse {
                    delta,
                    full_scan_every: FullScanEvery {
                        runs: full_scan_runs,
                        age: Duration::from_secs(full_scan_seconds),
                    },
                    keep_base: keep_base.into(),
                },
                undo.into(),
            ),
        }
    }
}

impl From<KeepBase> for WireKeepBase {
    fn from(keep: KeepBase) -> WireKeepBase {
        match keep {
            KeepBase::WhileThereIsRoom => WireKeepBase::WhileThereIsRoom,
            KeepBase::AtMost(bytes) => WireKeepBase::AtMost(bytes),
            KeepBase::Never => WireKeepBase::Never,
        }
    }
}

impl From<WireKeepBase> for KeepBase {
    fn from(keep: WireKeepBase) -> KeepBase {
        match keep {
            WireKeepBase::WhileThereIsRoom => KeepBase::WhileThereIsRoom,
            WireKeepBase::AtMost(bytes) => KeepBase::AtMost(bytes),
            WireKeepBase::Never => KeepBase::Never,
        }
    }
}

impl From<UndoPolicy> for WireUndo {
    fn from(UndoPolicy { mode, keep }: UndoPolicy) -> WireUndo {
        let millis = u64::try_from(keep.as_millis()).unwrap_or(u64::MAX);
        match mode {
            UndoMode::Auto => WireUndo::KeepIfPossible(millis),
            UndoMode::Require => WireUndo::Keep(millis),
            UndoMode::Off => WireUndo::KeepNothing,
        }
    }
}

impl From<WireUndo> for UndoPolicy {
    fn from(wire: WireUndo) -> UndoPolicy {
        let (mode, millis) = match wire {
            WireUndo::KeepIfPossible(millis) => (UndoMode::Auto, millis),
            WireUndo::Keep(millis) => (UndoMode::Require, millis),
            WireUndo::KeepNothing => (UndoMode::Off, 0),
        };
        UndoPolicy {
            mode,
            keep: Duration::from_millis(millis),
        }
    }
}

impl Reach {
    /// # Errors
    /// The remote shell or the program names no command.
    pub(crate) fn new(
        shell: &str,
        program: &str,
        transport: TransportChoice,
        over_quic: OverQuic,
    ) -> Result<Reach, Failure> {
        let shell = rsh::split(shell).map_err(|error| {
            usage(error.to_string()).hint("name a command as for rsync, such as -e 'ssh -p 2222'")
        })?;
        if program.is_empty() {
            return Err(usage("--remote-path is empty"));
        }
        Ok(Reach {
            shell,
            program: program.to_owned(),
            transport,
            over_quic,
        })
    }

    /// The whole command that starts the far side with this verb.
    fn command(&self, login: &str, verb: &str) -> Vec<OsString> {
        self.shell
            .iter()
            .map(String::as_str)
            .chain([login, &self.program, verb])
            .map(OsString::from)
            .collect()
    }

    /// Starts a far side that measures with this one.
    ///
    /// # Errors
    /// It cannot be reached, or is of another version.
    pub(crate) fn measuring(&self, login: &str, host: &str) -> Result<Dialed, Failure> {
        let dialed = remote::dial(self.request(login, host, "remote-bench", Vec::new()));
        let dialed = dialed.map_err(|error| unmeasured(&error))?;
        match dialed.far_version == VERSION {
            true => Ok(dialed),
            false => Err(other_version(host, &dialed.far_version)),
        }
    }

    fn request(&self, login: &str, host: &str, verb: &str, payload: Vec<u8>) -> DialRequest {
        DialRequest {
            argv: self.command(login, verb),
            host: host.to_owned(),
            payload,
            policy: self.policy(),
            quic: self.quic(),
            app_version: VERSION.to_owned(),
            start_timeout: start_timeout(),
        }
    }

    fn quic(&self) -> QuicOptions {
        let default = QuicOptions::default();
        QuicOptions {
            connections: self.over_quic.connections.unwrap_or(default.connections),
            rate: self.over_quic.rate,
            ..default
        }
    }

    fn policy(&self) -> Policy {
        match self.transport {
            TransportChoice::Auto => Policy::Auto,
            TransportChoice::Quic => Policy::Quic,
            TransportChoice::Ssh => Policy::Ssh,
        }
    }
}

impl RemoteTarget {
    fn errand(&self) -> Errand {
        Errand {
            path: self.remote.path.clone(),
            state_dir: self.state_dir.clone(),
            who: self.who.clone(),
            memory: self.memory,
            threads: self
                .threads
                .and_then(|threads| usize::try_from(threads).ok()),
            priority: self.priority,
            uring: self.uring,
            job: self.job,
        }
    }
}

impl Connect for RemoteTarget {
    fn connect(self: Box<Self>) -> Result<Connected, Failure> {
        let payload = self.errand().encode().map_err(usage)?;
        let (login, host) = (self.remote.login(), &self.remote.host);
        let request = self.reach.request(&login, host, "remote-target", payload);
        let dialed = remote::dial(request).map_err(|error| unreached(&error))?;
        tracing::info!(host = %self.remote.host, version = %dialed.far_version, "far side started");
        Ok(Connected {
            link: dialed.link,
            warning: dialed.warning,
            lifeline: Box::new(dialed.child),
        })
    }
}

pub(crate) fn start_timeout() -> Duration {
    match io::stdin().is_terminal() {
        true => START_TIMEOUT_ATTENDED,
        false => START_TIMEOUT,
    }
}

/// The same for a far side that is to measure: one from before it could does not know the verb.
fn unmeasured(error: &RemoteError) -> Failure {
    const UNKNOWN_VERB: &str = "unrecognized subcommand";
    match error {
        RemoteError::WrongProgram { host, said, .. } if said.0.contains(UNKNOWN_VERB) => {
            other_version(host, "from before `bench`")
        }
        error => unreached(error),
    }
}

/// Two versions may measure different things.
fn other_version(host: &str, far: &str) -> Failure {
    usage(format!(
        "lockstep {VERSION} here and lockstep {far} on {host} cannot measure together"
    ))
    .hint("install the same version on both machines")
}

/// What stands in the way of a far side, and what to do about it.
fn unreached(error: &RemoteError) -> Failure {
    let (kind, hint) = match error {
        RemoteError::UnknownHost { .. } => (
            FailureKind::Temporary,
            "check the host's name, then run the same command again",
        ),
        RemoteError::Unreachable { .. } | RemoteError::TimedOut { .. } => (
            FailureKind::Temporary,
            "try the same remote shell by hand, then run the same command again",
        ),
        RemoteError::QuicRequired { .. } => (
            FailureKind::Temporary,
            "open UDP to that host, or let --transport auto use the remote shell's pipe",
        ),
        RemoteError::AuthRefused { .. } => (
            FailureKind::Auth,
            "log in once by hand with the same remote shell and user",
        ),
        RemoteError::NoProgram { .. } => (
            FailureKind::Usage,
            "install lockstep there, or say with --remote-path where it is",
        ),
        RemoteError::WrongProgram { .. } => {
            (FailureKind::Usage, "let --remote-path name lockstep itself")
        }
        RemoteError::ShellMissing { .. } => (
            FailureKind::Usage,
            "let -e name a remote shell that is installed here",
        ),
        // Both sides have to change for these; the messages say how.
        RemoteError::VersionMismatch { .. } | RemoteError::Request { .. } => {
            (FailureKind::Usage, "")
        }
    };
    Failure::new(kind, chain(error)).hint(hint)
}

impl Errand {
    /// The errand as bytes; says why it cannot be sent.
    fn encode(&self) -> Result<Vec<u8>, String> {
        let wire = Wire {
            path: hex(&self.path)?,
            state_dir: self.state_dir.as_deref().map(hex).transpose()?,
            who: self.who.clone(),
            memory: self.memory,
            threads: self.threads.and_then(|threads| u64::try_from(threads).ok()),
            priority: self.priority.into(),
            uring: self.uring,
            job: self.job.into(),
        };
        serde_json::to_vec(&wire).map_err(|error| error.to_string())
    }

    /// The errand that the near side sent; every field is bounded.
    pub(crate) fn decode(payload: &[u8]) -> Result<Errand, String> {
        let wire: Wire = serde_json::from_slice(payload)
            .map_err(|error| format!("the near side's errand cannot be read: {error}"))?;
        if wire.who.len() > MAX_WHO_BYTES {
            return Err("the near side's name is too long".to_owned());
        }
        let threads = wire.threads.map(|threads| threads.clamp(1, MAX_THREADS));
        Ok(Errand {
            path: unhex(&wire.path)?,
            state_dir: wire.state_dir.as_deref().map(unhex).transpose()?,
            who: wire.who,
            memory: wire.memory,
            threads: threads.and_then(|threads| usize::try_from(threads).ok()),
            priority: wire.priority.into(),
            uring: wire.uring,
            job: wire.job.into(),
        })
    }
}

fn hex(path: &Path) -> Result<String, String> {
    let bytes = path.as_os_str().as_bytes();
    if bytes.len() > MAX_PATH_BYTES {
        return Err(format!("a path is longer than {MAX_PATH_BYTES} bytes"));
    }
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn unhex(text: &str) -> Result<PathBuf, String> {
    let bad = || "the near side sent a path that is none".to_owned();
    if text.is_empty() || text.len() > 2 * MAX_PATH_BYTES || !text.len().is_multiple_of(2) {
        return Err(bad());
    }
    let digit = |byte: u8| {
        char::from(byte)
            .to_digit(16)
            .and_then(|d| u8::try_from(d).ok())
    };
    let bytes = text
        .as_bytes()
        .chunks_exact(2)
        .map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?))
        .collect::<Option<Vec<u8>>>()
        .ok_or_else(bad)?;
    match bytes.contains(&0) {
        true => Err(bad()),
        false => Ok(PathBuf::from(OsString::from_vec(bytes))),
    }
}

#[cfg(test)]
mod tests {
    use super::{Errand, Job, KeepBase, OverQuic, Priority, Reach, Reuse, TransportChoice};
    use crate::target::Target;
    use lockstep_engine::{UndoMode, UndoPolicy};
    use proptest::prelude::{any, prop_assert_eq, proptest};
    use std::ffi::{OsStr, OsString};
    use std::os::unix::ffi::OsStringExt;
    use std::path::PathBuf;
    use std::time::Duration;

    #[test]
    fn the_far_side_is_started_as_rsync_starts_its_own() {
        let reach = Reach::new(
            "ssh -p 2222",
            "/opt/lockstep",
            TransportChoice::Auto,
            OverQuic::default(),
        )
        .unwrap();
        let Ok(Target::Remote(remote)) = Target::parse(OsStr::new("me@[::1]:/x")) else {
            panic!("a remote target");
        };
        assert_eq!(
            reach.command(&remote.login(), "remote-target"),
            [
                "ssh",
                "-p",
                "2222",
                "me@::1",
                "/opt/lockstep",
                "remote-target"
            ]
        );
    }

    /// An errand with this in place of `path` and of what follows `uring`.
    fn errand(path: &str, rest: &str) -> String {
        format!(
            r#"{{"path":"{path}","state_dir":null,"who":"","memory":0,"threads":null,"uring":false,{rest}}}"#
        )
    }

    #[test]
    fn errands_that_are_none_are_refused() {
        let rollback = r#""job":"rollback""#;
        let serve = r#""job":{"serve":{"delta":true,"full_scan_runs":10,"full_scan_seconds":1,"keep_base":"never","undo":"keep_nothing"}}"#;
        assert!(Errand::decode(errand("2f61", rollback).as_bytes()).is_ok());
        assert!(Errand::decode(errand("2f61", serve).as_bytes()).is_ok());
        for payload in [
            String::new(),
            "{}".to_owned(),
            errand("", rollback),
            errand("2f0", rollback),
            errand("2f00", rollback),
            errand("zz", rollback),
            errand("2f61", &format!(r#"{rollback},"x":1"#)),
            errand("2f61", &serve.replace("10", "0")),
            errand("2f61", &serve.replace(r#""never""#, r#""always""#)),
            errand("2f61", &serve.replace("keep_nothing", "keep_it")),
            errand("2f61", &serve.replace(r#""delta":true,"#, "")),
            errand(
                "2f61",
                &serve.replace(r#""delta":true,"#, r#""delta":true,"x":1,"#),
            ),
        ] {
            assert!(Errand::decode(payload.as_bytes()).is_err(), "{payload}");
        }
    }

    proptest! {
        #[test]
        fn errands_come_back(
            path in proptest::collection::vec(1u8.., 1..4096),
            who in "[a-z]{0,20}",
            memory in any::<u64>(),
            threads in proptest::option::of(1usize..=256),
            delta in any::<bool>(),
            at_most in any::<u64>(),
            millis in any::<u64>(),
            require in any::<bool>(),
        ) {
            let mode = if require { UndoMode::Require } else { UndoMode::Auto };
            let keep = Duration::from_millis(millis);
            let errand = Errand {
                path: PathBuf::from(OsString::from_vec(path)),
                state_dir: Some("/s".into()),
                who,
                memory,
                threads,
                priority: if delta { Priority::Idle } else { Priority::Normal },
                uring: true,
                job: Job::Serve(
                    Reuse {
                        delta,
                        keep_base: KeepBase::AtMost(at_most),
                        ..Reuse::default()
                    },
                    UndoPolicy { mode, keep },
                ),
            };
            let payload = errand.encode().expect("it is short enough");
            assert!(payload.len() < 32 * 1024);
            prop_assert_eq!(Errand::decode(&payload), Ok(errand));
        }
    }
}
