//! Every command that the documentation shows with a prompt works as it is shown.

use std::fs::{self, File};
use std::net::UdpSocket;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use super::stand::{LOCKSTEP, Stand};

/// Where a block of commands for a terminal begins.
const FENCE: &str = "```console";
/// The document whose blocks are one session of a shell.
const SESSION: &str = "docs/tutorial.md";
/// What stands for anything in the output that it shows; alone, for any lines.
const ANYTHING: &str = "…";
/// Nothing in it takes longer.
const SESSION_LIMIT: Duration = Duration::from_secs(180);
/// The demo's least size: it is shown here, not measured.
const DEMO_SIZE: &str = "32M";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Documents with commands in them.
fn documents() -> Vec<PathBuf> {
    let in_docs = fs::read_dir(root().join("docs"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .filter(|path| !path.ends_with(SESSION));
    std::iter::once(root().join("README.md"))
        .chain(in_docs)
        .collect()
}

/// The commands of a document's console blocks, without their prompts and without what they print.
#[track_caller]
fn commands(document: &Path) -> Vec<String> {
    let text = fs::read_to_string(document).unwrap();
    let mut lines = text.lines();
    let mut found = Vec::new();
    while lines.any(|line| line == FENCE) {
        let block: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
        let shown = block.iter().filter_map(|line| line.strip_prefix("$ "));
        let first = block.first().copied().unwrap_or_default();
        assert!(
            first.starts_with("$ "),
            "{}: `{first}` has no prompt",
            document.display()
        );
        found.extend(shown.map(str::to_owned));
    }
    found
}

/// Commands that are known, and what proves each.
fn proof(command: &str) -> Option<fn()> {
    match command {
        "cargo run --release --locked -- demo" => Some(the_demo_runs),
        "cargo run --release --locked -- bench hash" => Some(hashing_is_measured),
        "tools/test" => Some(ci_runs_tools_test),
        _ => None,
    }
}

#[test]
fn every_command_shown_works() {
    let mut shown: Vec<(PathBuf, String)> = documents()
        .into_iter()
        .flat_map(|path| commands(&path).into_iter().map(move |c| (path.clone(), c)))
        .collect();
    assert!(
        shown.iter().any(|(path, _)| path.ends_with("README.md")),
        "the README shows how to begin"
    );
    shown.sort_by(|a, b| a.1.cmp(&b.1));
    shown.dedup_by(|a, b| a.1 == b.1);
    for (document, command) in shown {
        let Some(proof) = proof(&command) else {
            panic!(
                "{} shows `{command}`, which no test runs",
                document.display()
            );
        };
        proof();
    }
}

/// The program is the one that `cargo run --release` would start.
fn the_demo_runs() {
    let stand = Stand::new();
    let ran = stand.run(&["demo", "--size", DEMO_SIZE]).exits(0);
    assert!(
        ran.stdout.contains("root ") || ran.stderr.contains("lockstep"),
        "{}{}",
        ran.stdout,
        ran.stderr
    );
    assert!(root().join("Cargo.lock").exists(), "--locked needs one");
}

/// The same, for a shorter time.
fn hashing_is_measured() {
    let stand = Stand::new();
    let ran = stand.run(&["bench", "hash", "--seconds", "0.05"]).exits(0);
    assert!(ran.stdout.contains("hash, pages"), "{}", ran.stdout);
}

/// It would run this test again.
fn ci_runs_tools_test() {
    let mode = root().join("tools/test").metadata().unwrap().permissions();
    assert_ne!(mode.mode() & 0o111, 0, "tools/test cannot be executed");
    let ci = fs::read_to_string(root().join(".ci/run")).unwrap();
    assert!(
        ci.lines().any(|line| line.trim() == "tools/test"),
        ".ci/run does not call tools/test"
    );
}

/// A command of the session, and what the document shows of its output.
struct Step {
    command: String,
    shown: Vec<String>,
}

fn steps() -> Vec<Step> {
    let text = fs::read_to_string(root().join(SESSION)).unwrap();
    let mut steps: Vec<Step> = Vec::new();
    let mut lines = text.lines();
    while lines.any(|line| line == FENCE) {
        for line in lines.by_ref().take_while(|line| *line != "```") {
            match line.strip_prefix("$ ") {
                Some(command) => steps.push(Step {
                    command: command.to_owned(),
                    shown: Vec::new(),
                }),
                None => steps.last_mut().unwrap().shown.push(line.to_owned()),
            }
        }
    }
    steps
}

/// A shell with everything that it has started, ended with its guard.
struct Session(Child);

impl Drop for Session {
    fn drop(&mut self) {
        let _ = kill_process_group(Pid::from_child(&self.0), Signal::KILL);
        let _ = self.0.wait();
    }
}

/// Ports that nobody has now, in place of those that the document names.
fn with_free_ports(script: String) -> String {
    let ports = ["7811", "7812", "7813"];
    let sockets = ports.map(|_| UdpSocket::bind("127.0.0.1:0").unwrap());
    let mut script = script;
    for (port, socket) in ports.iter().zip(&sockets) {
        let free = socket.local_addr().unwrap().port();
        let named = format!(":{port}");
        assert!(script.contains(&named));
        script = script.replace(&named, &format!(":{free}"));
    }
    script
}

#[test]
fn the_tutorial_runs_as_it_is_written() {
    let steps = steps();
    assert!(steps.len() > 10, "{SESSION} has lost its commands");
    let script: String = (steps.iter())
        .map(|step| format!("{}\nprintf '\\n@@%s\\n' $?\n", step.command))
        .collect();
    let stand = Stand::new();
    fs::create_dir(stand.path("bin")).unwrap();
    symlink(LOCKSTEP, stand.path("bin/lockstep")).unwrap();
    stand.file("session.sh", with_free_ports(script).as_bytes());
    let path = std::env::var("PATH").unwrap();
    let mut command = Command::new("bash");
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("LOCKSTEP_") {
            command.env_remove(name);
        }
    }
    command
        .arg("session.sh")
        .current_dir(stand.folder())
        .env("PATH", format!("{}:{path}", stand.path("bin").display()))
        .stdin(Stdio::null())
        .stdout(File::create(stand.path("out")).unwrap())
        .stderr(File::create(stand.path("err")).unwrap())
        .process_group(0);
    let mut session = Session(command.spawn().unwrap());
    let deadline = Instant::now() + SESSION_LIMIT;
    while session.0.try_wait().unwrap().is_none() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(50));
    }
    let out = String::from_utf8(stand.read("out")).unwrap();
    let err = String::from_utf8(stand.read("err")).unwrap();
    let mut outputs = out.split("\n@@");
    let mut output = outputs.next().unwrap().to_owned();
    for step in &steps {
        let command = &step.command;
        let Some((code, next)) = outputs.next().and_then(|rest| rest.split_once('\n')) else {
            panic!("`{command}` did not end:\n{out}\n{err}");
        };
        assert_eq!(code, "0", "`{command}`:\n{output}\n{err}");
        assert!(
            step.shown.is_empty() || is_shown(&step.shown, &output),
            "`{command}` prints:\n{output}\n{SESSION} shows:\n{}",
            step.shown.join("\n")
        );
        output = next.to_owned();
    }
}

/// Whether an output is what a document shows.
fn is_shown(shown: &[String], output: &str) -> bool {
    let mut lines = output.lines().filter(|line| !line.is_empty());
    let mut skips = false;
    for pattern in shown {
        if pattern == ANYTHING {
            skips = true;
        } else if skips {
            if !lines.any(|line| is_line(pattern, line)) {
                return false;
            }
            skips = false;
        } else if !lines.next().is_some_and(|line| is_line(pattern, line)) {
            return false;
        }
    }
    skips || lines.next().is_none()
}

fn is_line(pattern: &str, line: &str) -> bool {
    let mut parts = pattern.split(ANYTHING);
    let Some(mut rest) = parts.next().and_then(|first| line.strip_prefix(first)) else {
        return false;
    };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else {
        return rest.is_empty();
    };
    for part in middle {
        match rest.split_once(*part) {
            Some((_, after)) => rest = after,
            None => return false,
        }
    }
    rest.ends_with(*last)
}

#[test]
fn what_a_document_shows_is_compared() {
    let shown = |lines: &[&str], output: &str| {
        let lines: Vec<String> = lines.iter().map(ToString::to_string).collect();
        is_shown(&lines, output)
    };
    assert!(shown(&["a", "b…d"], "a\n\nbccd\n"));
    assert!(shown(&["…", "b", "…"], "a\nb\nc\n"));
    assert!(!shown(&["a"], "a\nb\n"));
    assert!(!shown(&["a", "b"], "a\n"));
    assert!(!shown(&["…", "b"], "b\nc\n"));
    assert!(!shown(&["b…d"], "bcde\n"));
}

/// Links of documents lead to files that are there.
#[test]
fn links_between_documents_lead_somewhere() {
    let mut all = documents();
    all.push(root().join(SESSION));
    for document in all {
        let text = fs::read_to_string(&document).unwrap();
        for link in text.split("](").skip(1) {
            let target = link.split([')', '#']).next().unwrap();
            if target.contains("://") || target.is_empty() {
                continue;
            }
            let path = document.parent().unwrap().join(target);
            assert!(path.exists(), "{}: {target}", document.display());
        }
    }
}
