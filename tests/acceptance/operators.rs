//! What an operator does around the agents: `init`, `doctor`, `gate VOLUME`.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::lab::{Sshd, missing};
use super::stand::{Events, LOCKSTEP, Stand, drifted, eventually, skip, volume};

const NODES: [&str; 3] = ["db1", "db2", "db3"];
const SIZE: usize = 4 << 20;

/// Three agents on this machine.
struct Fleet {
    stand: Stand,
    ports: Vec<u16>,
    agents: Vec<Option<Child>>,
}

/// Ports that nobody has now.
fn free_ports() -> Vec<u16> {
    let sockets: Vec<UdpSocket> = (NODES.iter())
        .map(|_| UdpSocket::bind("127.0.0.1:0").unwrap())
        .collect();
    let ports = sockets.iter();
    ports
        .map(|socket| socket.local_addr().unwrap().port())
        .collect()
}

impl Fleet {
    /// A primary with two drifted replicas, and no agent yet.
    fn new() -> Fleet {
        let stand = Stand::new();
        let bytes = volume(SIZE, 1);
        stand.file("db1.img", &bytes);
        stand.file("db2.img", &drifted(&bytes, &[1, 2, 3]));
        stand.file("db3.img", &volume(SIZE, 2));
        Fleet {
            stand,
            ports: free_ports(),
            agents: vec![None, None, None],
        }
    }

    /// The arguments of `init` for nodes at this host.
    fn init(&self, host: &str) -> Vec<String> {
        let mut arguments = vec!["init".to_owned()];
        for (name, port) in NODES.iter().zip(&self.ports) {
            arguments.push(format!("{name}={host}:{port}"));
        }
        for name in NODES {
            let image = self.stand.path(&format!("{name}.img"));
            arguments.push("--volume".to_owned());
            arguments.push(format!("pg={name}:{}", image.display()));
            arguments.push("--dir".to_owned());
            arguments.push(format!("{name}={}", self.stand.path(name).display()));
        }
        arguments
    }

    /// Three nodes, their agents running.
    fn up() -> Fleet {
        let mut fleet = Fleet::new();
        let mut arguments = fleet.init("local");
        arguments.push("--yes".to_owned());
        fleet.stand.run(&arguments).exits(0);
        for number in 0..NODES.len() {
            fleet.start(number);
        }
        fleet
    }

    fn file(&self, name: &str) -> PathBuf {
        self.stand.path(&format!("{name}/cluster.toml"))
    }

    fn start(&mut self, number: usize) {
        let name = NODES[number];
        let log = self.stand.path(&format!("{name}.log"));
        let file = self.file(name);
        let state = self.stand.path(&format!("{name}/state"));
        let arguments: [&OsStr; 5] = [
            "agent".as_ref(),
            "-c".as_ref(),
            file.as_os_str(),
            "--state-dir".as_ref(),
            state.as_os_str(),
        ];
        let child = self
            .stand
            .command(&arguments)
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        self.agents[number] = Some(child);
        eventually("the agent listens", || {
            fs::read_to_string(&log).unwrap().contains("listens at")
        });
    }

    fn stop(&mut self, number: usize) {
        if let Some(mut child) = self.agents[number].take() {
            kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
            child.wait().unwrap();
        }
    }

    /// Stops and starts them all.
    fn restart(&mut self) {
        for number in 0..NODES.len() {
            self.stop(number);
            self.start(number);
        }
    }

    fn doctor(&self, more: &[&str]) -> Events {
        let mut arguments = vec!["doctor"];
        arguments.extend(more);
        self.stand.events(&arguments)
    }

    /// The exit code of `gate` on a node.
    #[track_caller]
    fn gates(&self, name: &str, more: &[&str], code: i32) {
        let (file, state) = (self.file(name), self.stand.path(&format!("{name}/state")));
        let mut arguments = vec!["gate", "pg", "-c", file.to_str().unwrap()];
        arguments.extend(["--state-dir", state.to_str().unwrap()]);
        arguments.extend(more);
        self.stand.events(&arguments).exits(code);
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for child in self.agents.iter_mut().flatten() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn word<'a>(event: &'a Value, name: &str) -> &'a str {
    event[name].as_str().unwrap()
}

/// What was found: on which node, of what, how bad.
fn found(events: &Events) -> Vec<(&str, &str, &str)> {
    let findings = events.of_type("finding").into_iter();
    findings
        .map(|event| {
            (
                word(event, "node"),
                word(event, "check"),
                word(event, "severity"),
            )
        })
        .collect()
}

fn replace(path: &Path, old: &str, new: &str) {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.contains(old), "{text}");
    fs::write(path, text.replace(old, new)).unwrap();
}

#[track_caller]
fn assert_status_has_its_schema(stand: &Stand, verdict: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/events.schema.json");
    let mut schema: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let defs = schema["$defs"].take();
    let schema = serde_json::json!({ "$ref": "#/$defs/status", "$defs": defs });
    let validator = jsonschema::validator_for(&schema).unwrap();
    let ran = stand.run(&["status", "--json"]);
    let status: Value = serde_json::from_str(&ran.stdout).unwrap();
    let errors: Vec<String> = (validator.iter_errors(&status))
        .map(|error| error.to_string())
        .collect();
    assert!(errors.is_empty(), "{status}: {errors:?}");
    assert_eq!(status["verdict"], verdict);
}

#[test]
fn from_nothing_to_a_cluster_whose_gates_open_after_a_resync() {
    let fleet = Fleet::up();
    let well = fleet.doctor(&[]).exits(0);
    assert!(found(&well).is_empty(), "{:?}", found(&well));
    for name in NODES {
        fleet.gates(name, &[], 10);
    }
    assert_status_has_its_schema(&fleet.stand, "broken");
    let plan = fleet.stand.events(&["plan", "pg"]).exits(10);
    assert_eq!(plan.of_type("plan").len(), 1);
    let resync = ["resync", "pg", "--yes", "--confirm", "pg"];
    let adopt = ["--adopt", "db2", "--adopt", "db3"];
    let events = fleet.stand.events(&[&resync[..], &adopt[..]].concat());
    assert_eq!(events.exits(0).summary()["epoch"], 1);
    for name in ["db2", "db3"] {
        fleet.gates(name, &[], 0);
        fleet.gates(name, &["--for", "promote"], 0);
    }
    assert_status_has_its_schema(&fleet.stand, "ok");
    let history = fleet.stand.events(&["history", "pg"]).exits(0);
    assert_eq!(history.of_type("past").len(), 2);
    // A primary is proved by nobody.
    fleet.gates("db1", &[], 10);

    // The caller's own file says of no node that it is this machine.
    let stand = &fleet.stand;
    let state = stand.path("db2/state");
    let at = |more: &[&str]| {
        let start = ["gate", "pg", "--state-dir", state.to_str().unwrap()];
        stand.run(&[&start[..], more].concat())
    };
    let several = at(&[]).exits(2);
    assert!(several.stderr.contains("--node"), "{}", several.stderr);
    at(&["--node", "db2"]).exits(0);
    at(&["--node", "db4"]).exits(2);
    for name in ["db1.img", "db3.img"] {
        fs::remove_file(stand.path(name)).unwrap();
    }
    at(&[]).exits(0);
    // What is here by that name is a path, as ever.
    stand.file("pg", b"a file");
    at(&[]).exits(10);
    at(&["--for", "promote"]).exits(2);
}

#[test]
fn doctor_names_the_node_that_is_not_reached_once_and_exits_with_20() {
    let mut fleet = Fleet::up();
    fleet.stop(2);
    let events = fleet.doctor(&[]).exits(20);
    assert_eq!(found(&events), [("db3", "reach", "fatal")]);
    assert_eq!(events.summary()["error"]["code"], "temporary");
    // Whoever is asked finds out too.
    let events = fleet.doctor(&["db1"]).exits(3);
    assert_eq!(found(&events), [("db3", "reach", "fatal")]);
    let message = events.of_type("finding")[0]["message"].as_str().unwrap();
    assert!(message.contains("from db1"), "{message}");
    fleet.doctor(&["db1", "db9", "db8"]).exits(2);

    let ran = fleet.stand.run(&["doctor"]).exits(20);
    let line = ran.stdout.lines().next().unwrap();
    assert!(line.starts_with("FATAL  db3: "), "{line}");
    assert!(line.contains("; on db3: start the agent"), "{line}");
}

#[test]
fn doctor_shows_which_key_is_expected_and_which_is_shown() {
    let fleet = Fleet::up();
    let key = |state: &str| {
        let ran = fleet.stand.run(&["node", "show", "--state-dir", state]);
        ran.exits(0).stdout.trim().to_owned()
    };
    let (right, wrong) = (key("db2/state"), key("elsewhere"));
    let stranger = fleet.doctor(&["--state-dir", "elsewhere"]).exits(3);
    let expected = NODES.map(|name| (name, "key", "fatal"));
    assert_eq!(found(&stranger), expected);
    for finding in stranger.of_type("finding") {
        assert!(word(finding, "fix").contains(&wrong));
    }

    replace(&fleet.stand.path("cluster.toml"), &right, &wrong);
    let events = fleet.doctor(&[]).exits(3);
    let finding = (events.of_type("finding").into_iter())
        .find(|finding| finding["check"] == "key")
        .unwrap();
    assert_eq!(finding["node"], "db2");
    let message = finding["message"].as_str().unwrap();
    let (shown, expected) = message.split_once(", and ").unwrap();
    assert!(shown.contains(&right), "{message}");
    assert!(expected.contains(&wrong), "{message}");
}

#[test]
fn doctor_finds_what_would_fail_before_it_does() {
    let mut fleet = Fleet::up();
    fs::write(
        fleet.stand.path("db3/agent.toml"),
        "format = 1\nnode = \"db3\"\nallow_overwrite = false\n",
    )
    .unwrap();
    for name in NODES {
        let hooks = "[volume.hooks]\nstop = [\"/no/such/hook\"]\n# [volume.hooks]";
        replace(&fleet.file(name), "# [volume.hooks]", hooks);
    }
    fs::remove_file(fleet.stand.path("db2.img")).unwrap();
    fs::create_dir(fleet.stand.path("db2.img")).unwrap();
    fleet.restart();
    let events = fleet.doctor(&[]).exits(3);
    let mut all = found(&events);
    all.sort_unstable();
    assert_eq!(
        all,
        [
            ("db1", "cluster-file", "warning"),
            ("db2", "cluster-file", "warning"),
            ("db2", "device", "fatal"),
            ("db2", "hook", "fatal"),
            ("db3", "cluster-file", "warning"),
            ("db3", "hook", "fatal"),
            ("db3", "rights", "warning"),
        ]
    );
    assert_eq!(events.summary()["error"]["exit_code"], 3);
}

fn sshd(stand: &Stand) -> Option<Sshd> {
    let there = Path::new("/usr/sbin/sshd").exists() || missing("sshd is not installed");
    there.then(|| Sshd::start(stand, &[]))
}

#[test]
fn init_over_ssh_installs_what_was_agreed_and_replaces_nothing() {
    let fleet = Fleet::new();
    let Some(sshd) = sshd(&fleet.stand) else {
        return;
    };
    let mut arguments = fleet.init("127.0.0.1");
    for word in ["-e", sshd.command.as_str(), "--remote-path", LOCKSTEP] {
        arguments.push(word.to_owned());
    }
    let run = |more: &[&str]| {
        let more = more.iter().map(ToString::to_string);
        let all: Vec<String> = arguments.iter().cloned().chain(more).collect();
        fleet.stand.events(&all)
    };
    let none = run(&[]).exits(4);
    assert!(
        none.stderr.contains("nothing was installed"),
        "{}",
        none.stderr
    );
    assert!(!fleet.stand.path("cluster.toml").exists());
    assert!(NODES.iter().all(|name| !fleet.file(name).exists()));

    let events = run(&["--yes", "--name", "prod"]).exits(0);
    assert_eq!(events.summary()["targets"].as_array().unwrap().len(), 3);
    let own = fleet.stand.read("cluster.toml");
    for name in NODES {
        assert_eq!(fs::read(fleet.file(name)).unwrap(), own);
        let file = fleet.file(name);
        let check = ["config", "check", "-c", file.to_str().unwrap()];
        let ran = fleet.stand.run(&check).exits(0);
        assert!(
            ran.stdout.contains("cluster prod: 3 nodes, 1 operator"),
            "{}",
            ran.stdout
        );
        let key = fleet
            .stand
            .run(&["node", "show", "--state-dir", &format!("{name}/state")]);
        let key = key.exits(0).stdout;
        assert!(String::from_utf8_lossy(&own).contains(key.trim()));
    }
    let again = run(&["--yes"]).exits(7);
    let message = again.summary()["error"]["message"].as_str().unwrap();
    assert!(message.contains("db3/cluster.toml on db3"), "{message}");
    assert_eq!(fleet.stand.read("cluster.toml"), own);
    run(&["--yes", "--force", "--name", "prod"]).exits(0);
    let same = fleet.stand.read("cluster.toml");
    assert_eq!(same, own, "keys and volumes stay who they are");
}

#[test]
fn init_says_what_is_half_installed() {
    let fleet = Fleet::new();
    let mut arguments = fleet.init("local");
    // A file where the folder should be.
    fleet.stand.file("db2", b"");
    let events = fleet.stand.events(&arguments).exits(3);
    assert!(
        events.stderr.contains("nothing was installed anywhere"),
        "{}",
        events.stderr
    );
    fs::remove_file(fleet.stand.path("db2")).unwrap();

    fs::create_dir_all(fleet.stand.path("db2/agent.toml/in the way")).unwrap();
    arguments.extend(["--yes", "--force"].map(str::to_owned));
    let events = fleet.stand.events(&arguments).exits(8);
    let results: Vec<&str> = (events.summary()["targets"].as_array().unwrap().iter())
        .map(|target| target["result"].as_str().unwrap())
        .collect();
    assert_eq!(results, ["ok", "failed", "ok"]);
    assert!(
        events.stderr.contains("db2: its files are not in place"),
        "{}",
        events.stderr
    );
    assert!(
        events.stderr.contains("half installed"),
        "{}",
        events.stderr
    );
    assert!(!fleet.file("db2").exists());
}

#[test]
fn init_tells_all_mistakes_before_it_does_anything() {
    let stand = Stand::new();
    let ran = stand
        .run(&["init", "a=local:0", "b/c=local", "--volume", "v=/v"])
        .exits(2);
    assert!(
        ran.stderr.contains("a=local:0") && ran.stderr.contains("b/c"),
        "{}",
        ran.stderr
    );
    stand
        .run(&["init", "a=local:1", "b=local:2", "--volume", "v=v"])
        .exits(2);
    assert!(!stand.path("state").exists());
}

#[test]
fn the_unit_is_one_that_systemd_takes() {
    let text = fs::read_to_string(
        Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/lockstep-agent.service"),
    )
    .unwrap();
    let stand = Stand::new();
    let text = text.replace("/usr/local/bin/lockstep", LOCKSTEP);
    let unit = stand.file("lockstep-agent.service", text.as_bytes());
    let output = Command::new("systemd-analyze")
        .arg("verify")
        .arg(&unit)
        .output();
    let Ok(output) = output else {
        return skip("systemd-analyze is not installed");
    };
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!said.contains("lockstep-agent.service"), "{said}");
}
