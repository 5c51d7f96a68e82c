//! Far sides started over a shell. The shells are `sh -c`, the far side is this test binary itself: the test harness's
//! own output is the noise of a login shell.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use lockstep_transport::remote::{self, DialRequest, Dialed, Policy, RemoteError};
use lockstep_transport::{Bulk, LinkError, Via};

use support::{Noise, joined, options};

const FAR_VERSION: &str = "9.8.7-far";

/// Not a test: the far side's process. Its payload says what it does.
#[test]
#[ignore = "the far side's process, started by the other tests"]
fn far_side() {
    let code = match far_side_process() {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("far side: {error}");
            4
        }
    };
    std::process::exit(code);
}

fn far_side_process() -> Result<(), Box<dyn std::error::Error>> {
    let answered = remote::answer(FAR_VERSION)?;
    let link = &answered.link;
    match answered.payload.split(|byte| *byte == b' ').next() {
        Some(b"close") => link.sender.close("the far side has had enough"),
        Some(b"finish") => {
            link.sender.control(Bytes::from_static(b"last words"))?;
            link.sender
                .bulk(Bulk::new(Bytes::new(), Bytes::from(vec![7; 1 << 20])))?;
            link.sender.finish();
        }
        Some(b"vanish") => {
            eprintln!("out of memory");
            std::process::exit(3);
        }
        Some(b"note-the-end") => {
            let file = std::str::from_utf8(&answered.payload)?
                .split_once(' ')
                .ok_or("no file")?
                .1;
            std::fs::write(file, std::process::id().to_string())?;
            link.sender.control(Bytes::from_static(b"noted"))?;
            while link.control.recv().is_ok() {}
        }
        _ => {
            link.sender.control(answered.payload.clone().into())?;
            echo(&answered);
        }
    }
    Ok(())
}

fn echo(answered: &remote::Answered) {
    let link = &answered.link;
    thread::scope(|scope| {
        scope.spawn(|| {
            while link
                .bulk
                .recv()
                .and_then(|frame| link.sender.bulk(frame))
                .is_ok()
            {}
        });
        while link
            .control
            .recv()
            .and_then(|frame| link.sender.control(frame))
            .is_ok()
        {}
    });
}

/// Not a test: a near side's process, to be killed. Its file is in the environment.
#[test]
#[ignore = "a near side's process, started by another test"]
fn near_side() {
    let payload = format!("note-the-end {}", std::env::var("NOTE").unwrap());
    let policy = if std::env::var("POLICY").unwrap() == "ssh" {
        Policy::Ssh
    } else {
        Policy::Quic
    };
    let dialed = remote::dial(request(far_argv("exec"), policy, payload.as_bytes())).unwrap();
    dialed.link.control.recv().unwrap();
    let _ = dialed.link.control.recv();
}

/// A command line that starts the far side after `prologue`, a shell's words that end in `exec` or stand before a
/// command.
fn far_argv(prologue: &str) -> Vec<OsString> {
    let exe = std::env::current_exe().unwrap();
    let script =
        format!("{prologue} \"$0\" far_side --exact --ignored --nocapture --test-threads=2");
    vec!["sh".into(), "-c".into(), script.into(), exe.into()]
}

fn shell_argv(script: &str) -> Vec<OsString> {
    vec!["sh".into(), "-c".into(), script.into()]
}

fn request(argv: Vec<OsString>, policy: Policy, payload: &[u8]) -> DialRequest {
    DialRequest {
        argv,
        host: "somebody@127.0.0.1".to_owned(),
        payload: payload.to_vec(),
        policy,
        quic: options(1),
        app_version: "1.2.3-near".to_owned(),
        start_timeout: Duration::from_secs(20),
    }
}

fn dial(argv: Vec<OsString>, policy: Policy, payload: &[u8]) -> Dialed {
    remote::dial(request(argv, policy, payload)).unwrap()
}

fn dial_error(argv: Vec<OsString>) -> RemoteError {
    remote::dial(request(argv, Policy::Auto, b"")).unwrap_err()
}

/// Over a real way to another machine or namespace: `LOCKSTEP_TEST_RSH` is the shell's command line, such as
/// `ssh -p 2222 127.0.0.1`, and `LOCKSTEP_TEST_HOST` the host. This binary must be there under the same path.
#[test]
#[ignore = "needs a remote shell in LOCKSTEP_TEST_RSH"]
fn a_real_shell_does_as_well() {
    let (rsh, host) = (
        std::env::var("LOCKSTEP_TEST_RSH").unwrap(),
        std::env::var("LOCKSTEP_TEST_HOST").unwrap(),
    );
    for (policy, via) in [(Policy::Auto, Via::Quic), (Policy::Ssh, Via::Ssh)] {
        let mut argv: Vec<OsString> = rsh.split_whitespace().map(OsString::from).collect();
        argv.push(std::env::current_exe().unwrap().into());
        argv.extend(
            [
                "far_side",
                "--exact",
                "--ignored",
                "--nocapture",
                "--test-threads=2",
            ]
            .map(OsString::from),
        );
        let mut request = request(argv, policy, b"hello");
        request.host.clone_from(&host);
        let dialed = remote::dial(request).unwrap();
        assert_eq!((dialed.link.via, dialed.warning.as_deref()), (via, None));
        assert_echoes(&dialed, b"hello");
    }
}

/// Sends frames there and back on both lanes.
fn assert_echoes(dialed: &Dialed, payload: &[u8]) {
    let link = &dialed.link;
    assert_eq!(link.control.recv().unwrap(), payload);
    let mut noise = Noise::new(11);
    let (control, bulk) = (noise.bytes(5000), noise.bytes(1 << 20));
    link.sender.control(control.clone()).unwrap();
    link.sender
        .bulk(Bulk::new(Bytes::new(), bulk.clone()))
        .unwrap();
    assert_eq!(link.control.recv().unwrap(), control);
    assert!(joined(&link.bulk.recv().unwrap()) == bulk);
    assert!(link.meter.bytes_sent() > 1 << 20 && link.meter.bytes_received() > 1 << 20);
}

#[test]
fn a_far_side_is_started_told_and_reached_over_quic() {
    let payload = Noise::new(3).bytes(remote::MAX_PAYLOAD);
    let dialed = dial(far_argv("exec"), Policy::Auto, &payload);
    assert_eq!(dialed.link.via, Via::Quic);
    assert_eq!(dialed.warning, None);
    assert_eq!(dialed.far_version, FAR_VERSION);
    assert_echoes(&dialed, &payload);
}

#[test]
fn several_connections_are_asked_for_on_the_near_side_only() {
    let mut request = request(far_argv("exec"), Policy::Quic, b"hello");
    request.quic = options(3);
    assert_echoes(&remote::dial(request).unwrap(), b"hello");
}

#[test]
fn the_noise_of_login_shells_is_skipped() {
    for noise in [
        r"echo 'Welcome to the machine'; printf 'no newline'; exec",
        r"printf 'LOCKSTEP-REMOTE is what you asked for\n\033[0m\000\377'; exec",
        r"head -c 60000 /dev/zero; exec",
        r"echo complaints >&2; exec",
    ] {
        assert_echoes(&dial(far_argv(noise), Policy::Auto, b"hello"), b"hello");
    }
}

#[test]
fn the_shells_pipes_carry_the_frames_when_they_are_asked_to() {
    let dialed = dial(far_argv("exec"), Policy::Ssh, b"hello");
    assert_eq!(
        (dialed.link.via, dialed.warning.as_deref()),
        (Via::Ssh, None)
    );
    assert_echoes(&dialed, b"hello");
}

/// Lets the far side announce a port at which nobody listens, as a firewall does.
const UDP_BLOCKED: &str = r#"
block() {
    while IFS= read -r line; do
        case "$line" in
            LOCKSTEP-FAR*) printf '%s\n' "$line" | sed 's/ports=[0-9]*/ports=1/'; exec cat ;;
            *) printf '%s\n' "$line" ;;
        esac
    done
}
far() { "$@" far_side --exact --ignored --nocapture --test-threads=2; }
far "$0" | block
"#;

fn blocked_argv() -> Vec<OsString> {
    let mut argv = shell_argv(UDP_BLOCKED);
    argv.push(std::env::current_exe().unwrap().into());
    argv
}

#[test]
fn blocked_udp_means_a_warning_after_three_seconds_and_the_pipes() {
    let before = Instant::now();
    let dialed = dial(blocked_argv(), Policy::Auto, b"hello");
    assert!(before.elapsed() >= Duration::from_secs(3));
    assert_eq!(dialed.link.via, Via::Ssh);
    let warning = dialed.warning.clone().unwrap();
    assert!(
        warning.starts_with("UDP to somebody@127.0.0.1 did not get through in 3 s: "),
        "{warning}"
    );
    assert!(
        warning.ends_with("; carrying the data over the ssh pipe"),
        "{warning}"
    );
    assert!(warning.contains("127.0.0.1:1"), "{warning}");
    assert_echoes(&dialed, b"hello");
}

#[test]
fn blocked_udp_is_an_error_where_quic_is_demanded() {
    let error = remote::dial(request(blocked_argv(), Policy::Quic, b"")).unwrap_err();
    assert!(matches!(error, RemoteError::QuicRequired { .. }), "{error}");
}

#[test]
fn what_goes_wrong_before_the_greeting_is_told_apart() {
    let kind_of = |script: &str| {
        let error = dial_error(shell_argv(script));
        let kind = format!("{error:?}")
            .split_whitespace()
            .next()
            .unwrap()
            .to_owned();
        (kind, error.to_string())
    };
    let cases = [
        (
            "echo 'ssh: Could not resolve hostname nope: Name or service not known' >&2; exit 255",
            "UnknownHost",
            "nope",
        ),
        (
            "echo 'ssh: connect to host x port 22: Connection refused' >&2; exit 255",
            "Unreachable",
            "refused",
        ),
        (
            "echo 'ssh: connect to host x port 22: No route to host' >&2; exit 255",
            "Unreachable",
            "No route",
        ),
        (
            "echo 'u@x: Permission denied (publickey).' >&2; exit 255",
            "AuthRefused",
            "publickey",
        ),
        (
            "echo 'Host key verification failed.' >&2; exit 255",
            "AuthRefused",
            "Host key",
        ),
        (
            "no-such-program-anywhere",
            "NoProgram",
            "no-such-program-anywhere",
        ),
        ("exec /etc/passwd", "NoProgram", "denied"),
        ("echo hello", "WrongProgram", "exit status: 0"),
        (
            "echo \"error: unrecognized subcommand\" >&2; exit 2",
            "WrongProgram",
            "unrecognized subcommand",
        ),
        ("exec yes", "WrongProgram", "without a greeting"),
        (
            "printf 'LOCKSTEP-REMOTE 1 1.0\\n'; read -r hello; echo what",
            "WrongProgram",
            "`what`",
        ),
        (
            "printf 'LOCKSTEP-REMOTE 7 9.9.9\\n'; sleep 9",
            "VersionMismatch",
            "9.9.9",
        ),
        ("kill -9 $$", "WrongProgram", "signal"),
    ];
    for (script, kind, words) in cases {
        let (found, message) = kind_of(script);
        assert_eq!(found, kind, "{script}: {message}");
        assert!(message.contains(words), "{script}: {message}");
        assert!(!message.contains('\n'), "{script}: {message}");
    }
}

#[test]
fn what_the_far_side_prints_cannot_move_the_cursor() {
    let message = dial_error(shell_argv(r"printf '\033[2Jbad\r\n' >&2; exit 255")).to_string();
    assert!(message.contains(r"\u{1b}[2Jbad"), "{message}");
}

#[test]
fn a_shell_that_cannot_be_started_is_named() {
    let error = dial_error(vec!["/no/such/shell".into(), "host".into()]);
    assert!(
        matches!(&error, RemoteError::ShellMissing { program, .. } if program == "/no/such/shell"),
        "{error}"
    );
    assert!(matches!(
        dial_error(Vec::new()),
        RemoteError::ShellMissing { .. }
    ));
}

#[test]
fn a_shell_that_says_nothing_is_given_up_and_ended() {
    let folder = Scratch::new("silent");
    let note = folder.0.join("pid");
    let mut request = request(
        shell_argv(&format!("echo $$ > {}; exec sleep 60", note.display())),
        Policy::Auto,
        b"",
    );
    request.start_timeout = Duration::from_millis(500);
    let before = Instant::now();
    let error = remote::dial(request).unwrap_err();
    assert!(matches!(error, RemoteError::TimedOut { .. }), "{error}");
    assert!(before.elapsed() < Duration::from_secs(5));
    await_gone(pid_in(&note));
}

#[test]
fn a_payload_too_large_is_refused_before_anything_is_started() {
    let payload = vec![0; remote::MAX_PAYLOAD + 1];
    let error = remote::dial(request(
        vec!["/no/such/shell".into()],
        Policy::Auto,
        &payload,
    ))
    .unwrap_err();
    assert!(matches!(error, RemoteError::Request { .. }), "{error}");
}

#[test]
fn a_far_side_that_vanishes_is_lost_at_once_with_its_last_words() {
    for policy in [Policy::Quic, Policy::Ssh] {
        let dialed = dial(far_argv("exec"), policy, b"vanish");
        let before = Instant::now();
        let error = dialed.link.control.recv().unwrap_err();
        assert!(
            before.elapsed() < Duration::from_secs(3),
            "{policy:?}: took {:?}",
            before.elapsed()
        );
        let LinkError::Lost { what } = &error else {
            panic!("{policy:?}: {error}")
        };
        assert!(
            what.contains("exit status: 3") && what.contains("out of memory"),
            "{policy:?}: {what}"
        );
    }
}

#[test]
fn a_far_side_that_finishes_is_heard_to_the_end() {
    for policy in [Policy::Quic, Policy::Ssh] {
        let Dialed { link, child, .. } = dial(far_argv("exec"), policy, b"finish");
        assert_eq!(link.control.recv().unwrap(), "last words");
        assert_eq!(link.bulk.recv().unwrap().len(), 1 << 20);
        let end = LinkError::Closed {
            reason: "finished".to_owned(),
        };
        assert_eq!(link.control.recv().unwrap_err(), end, "{policy:?}");
        drop((link, child));
    }
}

#[test]
fn a_far_side_that_closes_says_why() {
    for policy in [Policy::Quic, Policy::Ssh] {
        let dialed = dial(far_argv("exec"), policy, b"close");
        let reason = LinkError::Closed {
            reason: "the far side has had enough".to_owned(),
        };
        assert_eq!(dialed.link.bulk.recv().unwrap_err(), reason, "{policy:?}");
    }
}

#[test]
fn letting_go_of_the_near_side_ends_the_far_side() {
    for policy in [Policy::Quic, Policy::Ssh] {
        let folder = Scratch::new("let-go");
        let note = folder.0.join("pid");
        let payload = format!("note-the-end {}", note.display());
        let dialed = dial(far_argv("exec"), policy, payload.as_bytes());
        assert_eq!(dialed.link.control.recv().unwrap(), "noted");
        let Dialed { link, child, .. } = dialed;
        drop(child);
        assert!(
            link.control.recv().is_err(),
            "{policy:?}: a link without a lifeline"
        );
        await_gone(pid_in(&note));
    }
}

#[test]
fn killing_the_near_side_ends_the_far_side() {
    for policy in ["quic", "ssh"] {
        let folder = Scratch::new("killed");
        let note = folder.0.join("pid");
        let mut near = Command::new(std::env::current_exe().unwrap())
            .args(["near_side", "--exact", "--ignored", "--nocapture"])
            .env("NOTE", &note)
            .env("POLICY", policy)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let far = pid_in(&note);
        assert!(Path::new(&format!("/proc/{far}")).exists(), "{policy}");
        near.kill().unwrap();
        near.wait().unwrap();
        await_gone(far);
    }
}

/// A folder for one test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let unique = format!("lockstep-transport-{name}-{}-{count}", std::process::id());
        let folder = std::env::temp_dir().join(unique);
        std::fs::create_dir(&folder).unwrap();
        Self(folder)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn pid_in(note: &Path) -> u32 {
    let limit = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(pid) = std::fs::read_to_string(note)
            .ok()
            .and_then(|pid| pid.trim().parse().ok())
        {
            return pid;
        }
        assert!(Instant::now() < limit, "no process id was noted");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Waits until there is no such process, or only its remains (proc(5), state Z).
fn await_gone(pid: u32) {
    let limit = Instant::now() + Duration::from_secs(10);
    loop {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let state = stat.rsplit_once(") ").map_or("", |(_, state)| state);
        if state.is_empty() || state.starts_with('Z') {
            return;
        }
        assert!(
            Instant::now() < limit,
            "process {pid} is still there: {stat}"
        );
        thread::sleep(Duration::from_millis(20));
    }
}
