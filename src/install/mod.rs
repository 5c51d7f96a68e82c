//! A node's files, put there by a shell script that this machine's shell or a remote one reads.
//!
//! Each script says its results in lines that begin with a mark, since a login may print anything.

pub(crate) mod draft;
pub(crate) mod wanted;

use std::io::{Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use lockstep_cluster::key::PublicKey;
use lockstep_protocol::{Failure, FailureKind};

use crate::failure::usage;
use crate::remote::start_timeout;

const MARK: &str = "@lockstep@ ";
/// Most that is read of what a script prints.
const MAX_OUTPUT: u64 = 64 << 10;
const GLANCE: Duration = Duration::from_millis(20);
const UNIT_NAME: &str = "lockstep-agent";

/// Where a node's shell is, and where its files go.
pub(crate) struct Place {
    /// The node's name, for messages.
    pub(crate) node: String,
    /// `[USER@]HOST`, and the words that reach it; none for this machine.
    pub(crate) remote: Option<(String, Vec<String>)>,
    /// lockstep there.
    pub(crate) program: String,
    pub(crate) dir: String,
    pub(crate) state_dir: String,
}

/// What was found on a node.
pub(crate) struct Seen {
    pub(crate) program: String,
    pub(crate) version: String,
    pub(crate) key: PublicKey,
    /// Files that are there already.
    pub(crate) there: Vec<String>,
    pub(crate) has_systemd: bool,
}

/// What goes onto a node.
pub(crate) struct Files {
    pub(crate) cluster: String,
    pub(crate) agent: String,
    /// Where there is systemd.
    pub(crate) unit: Option<String>,
}

/// How far an installation got.
#[derive(Default)]
pub(crate) struct Done {
    pub(crate) files: bool,
    pub(crate) started: bool,
    pub(crate) failure: Option<Failure>,
}

impl Place {
    pub(crate) fn cluster_file(&self) -> String {
        format!("{}/cluster.toml", self.dir)
    }

    /// The command that runs the agent there.
    pub(crate) fn agent_command(&self, program: &str) -> String {
        format!(
            "{} agent -c {} --state-dir {}",
            word(program),
            word(&self.cluster_file()),
            word(&self.state_dir)
        )
    }

    /// Looks at a node; makes its key, and nothing else.
    pub(crate) fn look(&self) -> Result<Seen, Failure> {
        let script = format!(
            "set -u\nsay() {{ printf '{MARK}%s\\n' \"$1\"; }}\n\
             program=$(command -v {program}) || {{ say missing; exit 0; }}\n\
             say \"program $program\"\n\
             say \"version $(\"$program\" --version)\"\n\
             key=$(\"$program\" node show --state-dir {state}) || exit 1\n\
             say \"key $key\"\n\
             for file in {dir}/cluster.toml {dir}/agent.toml; do\n\
             if [ -e \"$file\" ]; then say \"there $file\"; fi\ndone\n\
             if command -v systemctl >/dev/null 2>&1 && [ -d /run/systemd/system ] && [ \"$(id -u)\" = 0 ]\n\
             then say systemd; fi\nsay end\n",
            program = word(&self.program),
            state = word(&self.state_dir),
            dir = word(&self.dir),
        );
        let ran = self.run(&script)?;
        let said = ran.said();
        let one = |name: &str| {
            let found = said.iter().find_map(|line| line.strip_prefix(name));
            found.map(|text| text.trim().to_owned())
        };
        if said.contains(&"missing") {
            let message = format!("{}: there is no {} there", self.node, self.program);
            return Err(usage(message)
                .hint("install lockstep there, or say with --remote-path where it is"));
        }
        let (true, Some(program), Some(version), Some(key)) = (
            said.contains(&"end"),
            one("program "),
            one("version "),
            one("key "),
        ) else {
            return Err(self.failed(&ran, "its key could not be read"));
        };
        let key = key.parse::<PublicKey>().map_err(|unfit| {
            usage(format!("{}: {}", self.node, unfit.what))
                .hint("let --remote-path name lockstep itself")
        })?;
        Ok(Seen {
            program,
            version,
            key,
            there: (said.iter())
                .filter_map(|line| line.strip_prefix("there "))
                .map(str::to_owned)
                .collect(),
            has_systemd: said.contains(&"systemd"),
        })
    }

    /// Puts the files in place, each whole or not at all, once lockstep there has found no mistake in
    /// them; then starts the service.
    pub(crate) fn install(&self, program: &str, files: &Files) -> Done {
        let dir = word(&self.dir);
        let mut script = format!(
            "set -eu\numask 022\nsay() {{ printf '{MARK}%s\\n' \"$1\"; }}\nmkdir -p {dir}\n\
             new=$(mktemp -d {dir}/.init.XXXXXX)\ntrap 'rm -rf \"$new\"' EXIT\n\
             printf '%s' {cluster} >\"$new/cluster.toml\"\nprintf '%s' {agent} >\"$new/agent.toml\"\n\
             {program} config check -q -c \"$new/cluster.toml\" --agent \"$new/agent.toml\" >/dev/null\n\
             sync \"$new/cluster.toml\" \"$new/agent.toml\" 2>/dev/null || sync\nmv -fT \"$new/agent.toml\" {dir}/agent.toml\nmv -fT \"$new/cluster.toml\" {dir}/cluster.toml\nsay files\n",
            cluster = word(&files.cluster),
            agent = word(&files.agent),
            program = word(program),
        );
        if let Some(unit) = &files.unit {
            let path = format!("/etc/systemd/system/{UNIT_NAME}.service");
            script.push_str(&format!(
                "printf '%s' {unit} >{path}.new\nmv -f {path}.new {path}\nsystemctl daemon-reload >&2\n\
                 systemctl enable {UNIT_NAME} >&2\nsystemctl restart {UNIT_NAME} >&2\nsay started\n",
                unit = word(unit),
            ));
        }
        script.push_str("say end\n");
        match self.run(&script) {
            Err(failure) => Done {
                failure: Some(failure),
                ..Done::default()
            },
            Ok(ran) => {
                let said = ran.said();
                let failure = (!said.contains(&"end")).then(|| {
                    let what = match said.contains(&"files") {
                        true => "its service could not be installed",
                        false => "its files could not be installed",
                    };
                    self.failed(&ran, what)
                });
                Done {
                    files: said.contains(&"files"),
                    started: said.contains(&"started"),
                    failure,
                }
            }
        }
    }

    fn failed(&self, ran: &Ran, what: &str) -> Failure {
        let last = ran
            .stderr
            .lines()
            .map(str::trim)
            .filter(|it| !it.is_empty());
        let last: Vec<&str> = last.collect();
        let last = last[last.len().saturating_sub(3)..].join(" / ");
        let message = format!("{}: {what} ({}): {last}", self.node, ran.status);
        // ssh(1) ends with 255 for whatever failed of its own.
        let is_ssh = self.remote.is_some() && ran.status.code() == Some(255);
        match is_ssh {
            true if ran.stderr.contains("ermission denied")
                || ran.stderr.contains("verification failed") =>
            {
                Failure::new(FailureKind::Auth, message)
                    .hint("log in once by hand with the same remote shell and user")
            }
            true => Failure::new(FailureKind::Temporary, message)
                .hint("try the same remote shell by hand, then run the same command again"),
            false => Failure::new(FailureKind::Preflight, message)
                .hint(format!("run it as a user who may write {} there", self.dir)),
        }
    }

    fn run(&self, script: &str) -> Result<Ran, Failure> {
        let mut command = match &self.remote {
            None => Command::new("sh"),
            Some((login, shell)) => {
                let (program, arguments) = shell
                    .split_first()
                    .ok_or_else(|| usage("the remote shell (-e) is empty"))?;
                let mut command = Command::new(program);
                command.args(arguments).arg(login).arg("sh");
                command
            }
        };
        for (name, _) in std::env::vars_os() {
            if name.as_encoded_bytes().starts_with(b"LOCKSTEP_") {
                command.env_remove(name);
            }
        }
        command
            .arg("-s")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| {
            let program = command.get_program().to_string_lossy().into_owned();
            usage(format!("{}: cannot start {program}: {error}", self.node))
                .hint("let -e name a remote shell that is installed here")
        })?;
        let stdin = child.stdin.take();
        let readers = (child.stdout.take().map(read), child.stderr.take().map(read));
        if let Some(mut stdin) = stdin {
            // A shell that reads no further tells by its end.
            let _ = stdin.write_all(script.as_bytes());
        }
        let status = end_within(&mut child, start_timeout()).ok_or_else(|| {
            Failure::new(FailureKind::Temporary, format!("{}: timed out", self.node))
                .hint("try the same remote shell by hand, then run the same command again")
        })?;
        let text = |reader: Option<JoinHandle<String>>| {
            reader
                .and_then(|reader| reader.join().ok())
                .unwrap_or_default()
        };
        Ok(Ran {
            status,
            stdout: text(readers.0),
            stderr: text(readers.1),
        })
    }
}

/// How a script ended.
struct Ran {
    status: ExitStatus,
    stdout: String,
    stderr: String,
}

impl Ran {
    fn said(&self) -> Vec<&str> {
        let lines = self.stdout.lines();
        lines
            .filter_map(|line| line.trim_end().strip_prefix(MARK))
            .collect()
    }
}

fn read(stream: impl Read + Send + 'static) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let mut stream = stream;
        // What was read until an error is all that there is.
        let _ = stream.by_ref().take(MAX_OUTPUT).read_to_end(&mut bytes);
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// How the child ended; it is killed if it takes longer.
fn end_within(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let deadline = Instant::now() + limit;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            Ok(None) if Instant::now() < deadline => std::thread::sleep(GLANCE),
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                return None;
            }
        }
    }
}

/// A text as one word of a shell.
pub(crate) fn word(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-=:@,+".contains(c);
    match !text.is_empty() && text.chars().all(is_plain) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::word;
    use std::process::Command;

    #[test]
    fn a_word_stays_one_word_in_a_shell() {
        for text in [
            "",
            "a b",
            "it's",
            "$HOME `id` \\ \"",
            "a\nb",
            "/plain-1",
            "~root",
        ] {
            let script = format!("printf %s {}", word(text));
            let output = Command::new("sh").args(["-c", &script]).output().unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), text);
        }
    }
}
