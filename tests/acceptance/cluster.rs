//! A cluster on this machine: an agent for each node, on ports and in folders of its own, and a third
//! machine that has an operator's key and the cluster file, nothing else.

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::cluster_layout::{HOOK, free_port, number};
pub(crate) use super::cluster_layout::{NODES, SIZE, SLOW, agreed, probed, random, volume_section};
use super::judge::same;
use super::stand::{Events, Ran, Running, Stand, eventually};

const PAGE: u64 = 4096;
/// How long an agent may take to listen.
const READY: Duration = Duration::from_secs(30);

/// Three nodes, `db1` to `db3`, and the machine of `ops`.
pub(crate) struct Cluster {
    pub(crate) stand: Stand,
    agents: Vec<Option<Child>>,
}

impl Cluster {
    /// One volume, `pg`: its primary is db1, its replicas are the others, and it has every hook.
    pub(crate) fn new() -> Cluster {
        Cluster::with(|text| text)
    }

    /// With another cluster file.
    pub(crate) fn with(edit: impl Fn(String) -> String) -> Cluster {
        let cluster = Cluster::laid_out(edit);
        cluster.started()
    }

    /// All is there, and no agent is on.
    pub(crate) fn laid_out(edit: impl Fn(String) -> String) -> Cluster {
        Cluster::on(Stand::new(), edit)
    }

    /// The same, in a folder where some of it is there already.
    pub(crate) fn on(stand: Stand, edit: impl Fn(String) -> String) -> Cluster {
        let hook = stand.file("hook", HOOK.as_bytes());
        fs::set_permissions(hook, fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir(stand.path("ops")).unwrap();
        let cluster = Cluster {
            stand,
            agents: vec![None, None, None],
        };
        for (seed, node) in NODES.iter().enumerate() {
            fs::create_dir_all(cluster.stand.path(node)).unwrap();
            cluster.fill(node, "pg", seed as u64 + 1);
        }
        cluster.write_file("cluster.toml", edit(cluster.file()));
        cluster.hand_out("cluster.toml");
        cluster
    }

    pub(crate) fn started(mut self) -> Cluster {
        for node in NODES {
            self.start(node, "cluster.toml", &[]);
        }
        NODES.iter().for_each(|node| self.await_ready(node));
        self
    }

    /// As [`Cluster::new`], after a first run that made all equal.
    pub(crate) fn synced(edit: impl Fn(String) -> String) -> Cluster {
        let cluster = Cluster::with(edit);
        cluster
            .resync(&["--adopt", "db2", "--adopt", "db3"])
            .exits(0);
        cluster.forget_hooks();
        cluster
    }

    fn file(&self) -> String {
        let mut text = "format = 1\ncluster = \"test\"\n".to_owned();
        for node in NODES {
            text += &format!(
                "[[node]]\nname = \"{node}\"\naddress = \"127.0.0.1:{}\"\nkey = \"{}\"\n",
                free_port(),
                self.key(node)
            );
        }
        text += &format!(
            "[[operator]]\nname = \"ops\"\nkey = \"{}\"\n",
            self.key("ops")
        );
        text + &self.volume("pg", 0x77)
    }

    /// A volume's section of the cluster file.
    pub(crate) fn volume(&self, name: &str, number: u8) -> String {
        volume_section(self.stand.folder(), name, number)
    }

    /// A key, made on first use.
    pub(crate) fn key(&self, owner: &str) -> String {
        let state = self.state(owner);
        let shown = self
            .stand
            .run(&["node", "show", "--state-dir", state.to_str().unwrap()]);
        shown.exits(0).stdout.trim().to_owned()
    }

    fn state(&self, owner: &str) -> PathBuf {
        self.stand.path(&format!("{owner}.state"))
    }

    pub(crate) fn write_file(&self, name: &str, text: String) {
        self.stand.file(name, text.as_bytes());
    }

    /// The third machine has this cluster file from now on.
    pub(crate) fn hand_out(&self, name: &str) {
        fs::copy(self.stand.path(name), self.stand.path("ops/cluster.toml")).unwrap();
    }

    /// A node's volume is full of bytes of this seed.
    pub(crate) fn fill(&self, node: &str, volume: &str, seed: u64) {
        fs::write(self.image(node, volume), random(seed)).unwrap();
    }

    /// Some pages of a volume are written over, in place.
    pub(crate) fn drift(&self, node: &str, pages: &[u64]) {
        let file = fs::OpenOptions::new()
            .write(true)
            .open(self.image(node, "pg"))
            .unwrap();
        for page in pages {
            file.write_all_at(format!("{node} was here").as_bytes(), page * PAGE)
                .unwrap();
        }
    }

    /// All of a volume is written over, in place.
    pub(crate) fn rewrite(&self, node: &str, seed: u64) {
        let file = fs::OpenOptions::new()
            .write(true)
            .open(self.image(node, "pg"))
            .unwrap();
        file.write_all_at(&random(seed), 0).unwrap();
    }

    pub(crate) fn image(&self, node: &str, volume: &str) -> PathBuf {
        self.stand.path(&format!("{node}/{volume}.img"))
    }

    #[track_caller]
    pub(crate) fn assert_equal(&self, node: &str, other: &str) {
        let (a, b) = (self.image(node, "pg"), self.image(other, "pg"));
        assert!(same(&a, &b), "{node} and {other} differ");
    }

    /// Begins a node's agent, with variables of its own.
    pub(crate) fn start(&mut self, node: &str, file: &str, environment: &[(&str, &str)]) {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log_path(node))
            .unwrap();
        let mut command = self
            .stand
            .command(&["agent", "-v", "-c", file, "--node", node]);
        if self.conf(node).exists() {
            command = self.with_own_conf(node, &command);
        }
        let own = self.stand.path(&format!("agent-{node}.toml"));
        if own.exists() {
            command.arg("--agent").arg(own);
        }
        let child = command
            .arg("--state-dir")
            .arg(self.state(node))
            .envs(environment.iter().copied())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.agents[number(node)] = Some(child);
    }

    /// What a node sees at the place of the configuration files, which is the same for all.
    pub(crate) fn conf(&self, node: &str) -> PathBuf {
        self.stand.path(&format!("conf-{node}"))
    }

    /// On one machine a path is one place: a mount of the process's own makes it another.
    fn with_own_conf(&self, node: &str, command: &Command) -> Command {
        let mut inside = Command::new("unshare");
        inside
            .args(["--mount", "--propagation", "private", "sh", "-c"])
            .arg("mount --bind \"$1\" \"$2\" && shift 2 && exec \"$@\"")
            .arg("sh")
            .arg(self.conf(node))
            .arg(self.stand.path("conf"))
            .arg(command.get_program())
            .args(command.get_args())
            .current_dir(self.stand.folder())
            .stdin(Stdio::null());
        inside
    }

    fn log_path(&self, node: &str) -> PathBuf {
        self.stand.path(&format!("{node}.log"))
    }

    /// What a node's agent logged.
    pub(crate) fn log(&self, node: &str) -> String {
        fs::read_to_string(self.log_path(node)).unwrap_or_default()
    }

    /// Waits until a node's agent, started once more than it ended, listens.
    #[track_caller]
    pub(crate) fn await_ready(&self, node: &str) {
        let deadline = Instant::now() + READY;
        let asked = || self.at(node, &["history", "-q"]).code == 0;
        // A node can ask itself: with its own key.
        while !self.log(node).contains("listens at ") || !(self.is_listed(node) || asked()) {
            assert!(Instant::now() < deadline, "{node}: {}", self.log(node));
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn is_listed(&self, node: &str) -> bool {
        self.status_of(node)["link"] == "up"
    }

    /// Kills a node's agent.
    pub(crate) fn kill(&mut self, node: &str) {
        let mut child = self.agents[number(node)].take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        let _ = fs::remove_file(self.log_path(node));
    }

    /// Starts a killed one again.
    pub(crate) fn restart(&mut self, node: &str) {
        self.start(node, "cluster.toml", &[]);
        self.await_ready(node);
    }

    /// Reads the files again.
    pub(crate) fn reload(&self, node: &str) {
        let child = self.agents[number(node)].as_ref().unwrap();
        let pid = rustix::process::Pid::from_child(child);
        let before = self.log(node).matches("read again").count();
        rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
        eventually("the agent read its files again", || {
            self.log(node).matches("read again").count() > before
        });
    }

    /// The program on the third machine.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.stand.command(arguments);
        command
            .current_dir(self.stand.path("ops"))
            .env("LOCKSTEP_STATE_DIR", self.state("ops"));
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Ran {
        Ran::from(self.command(arguments).output().unwrap())
    }

    pub(crate) fn events(&self, arguments: &[&str]) -> Events {
        let output = self.command(arguments).arg("--json").output().unwrap();
        Events::from(Ran::from(output))
    }

    /// The program with the key of another owner: a node, or whoever.
    pub(crate) fn at(&self, owner: &str, arguments: &[&str]) -> Ran {
        let mut command = self.command(arguments);
        let command = command.env("LOCKSTEP_STATE_DIR", self.state(owner));
        Ran::from(command.output().unwrap())
    }

    /// A resync of `pg`, agreed to.
    pub(crate) fn resync(&self, more: &[&str]) -> Events {
        self.events(&agreed("pg", more))
    }

    /// One that goes on by itself.
    pub(crate) fn begin(&self, more: &[&str]) -> Running {
        Running::start(self.command(&agreed("pg", more)).arg("--json"))
    }

    pub(crate) fn status(&self) -> Value {
        let ran = self.run(&["status", "--json"]);
        serde_json::from_str(&ran.stdout).unwrap_or_else(|_| panic!("{ran:?}"))
    }

    /// What the status says of `pg` on a node.
    pub(crate) fn status_of(&self, node: &str) -> Value {
        let status = self.status();
        let nodes = status["volumes"][0]["nodes"].as_array().unwrap().clone();
        nodes
            .into_iter()
            .find(|it| it["node"] == node)
            .unwrap_or_default()
    }

    #[track_caller]
    pub(crate) fn await_state(&self, node: &str, state: &str) {
        eventually(&format!("{node} is {state}"), || {
            self.status_of(node)["state"] == state
        });
    }

    /// Whether the gate of a node lets its volume be used.
    pub(crate) fn gate(&self, node: &str, volume: &str) -> bool {
        let image = self.image(node, volume);
        match self.at(node, &["gate", image.to_str().unwrap()]).code {
            0 => true,
            10 => false,
            code => panic!("the gate exits {code}"),
        }
    }

    /// What hooks were told: node, moment, state, epoch, volume; probes and `health` are left out.
    pub(crate) fn hooks(&self) -> Vec<String> {
        let text = fs::read_to_string(self.stand.path("hooks.log")).unwrap_or_default();
        let counts = |line: &&str| !line.contains(" probe ") && !line.contains(" health ");
        text.lines().filter(counts).map(str::to_owned).collect()
    }

    /// Node and moment of each hook on a node.
    pub(crate) fn moments(&self, node: &str) -> Vec<String> {
        let hooks = self.hooks();
        let here = hooks
            .iter()
            .filter_map(|line| line.strip_prefix(&format!("{node} ")));
        here.map(|line| line.split(' ').next().unwrap().to_owned())
            .collect()
    }

    pub(crate) fn forget_hooks(&self) {
        let _ = fs::remove_file(self.stand.path("hooks.log"));
    }

    /// Waits until a node's hook of a moment was called so often.
    #[track_caller]
    pub(crate) fn await_hook(&self, node: &str, moment: &str, times: usize) {
        eventually(&format!("{moment} on {node}"), || {
            self.moments(node).iter().filter(|it| *it == moment).count() >= times
        });
    }

    /// Only these images may be configured or started on from now on, and be called consistent.
    pub(crate) fn allow(&self, name: &str, node: &str) {
        let folder = self.stand.path("allowed");
        fs::create_dir_all(&folder).unwrap();
        fs::copy(self.image(node, "pg"), folder.join(name)).unwrap();
    }

    /// No service began on a mixture, and no ledger calls one consistent.
    #[track_caller]
    pub(crate) fn assert_no_mixture(&self, when: &str) {
        let violations = fs::read_to_string(self.stand.path("violations")).unwrap_or_default();
        assert_eq!(violations, "", "{when}");
        for node in ["db2", "db3"] {
            // First the state: what is written while this looks is no mistake.
            let is_called_good = self.gate(node, "pg");
            let is_good = fs::read_dir(self.stand.path("allowed"))
                .unwrap()
                .any(|image| same(&image.unwrap().path(), &self.image(node, "pg")));
            assert!(is_good || !is_called_good, "{when}: {node} is a mixture");
        }
    }

    /// Nothing was stopped, and every volume is as it was made.
    #[track_caller]
    pub(crate) fn assert_untouched(&self) {
        assert_eq!(self.hooks(), Vec::<String>::new());
        for (node, seed) in [("db1", 1), ("db2", 2), ("db3", 3)] {
            let image = fs::read(self.image(node, "pg")).unwrap();
            assert!(image == random(seed), "{node} was written");
        }
    }

    /// Services are up on whole data, and stopped on what is half written.
    #[track_caller]
    pub(crate) fn assert_served_if_whole(&self, node: &str) {
        let status = self.status_of(node);
        let (services, last) = match status["state"].as_str().unwrap() {
            "consistent" => ("up", "check"),
            _ => ("stopped", "stop"),
        };
        assert_eq!(status["services"], services, "{node}: {status}");
        assert_eq!(self.moments(node).last().unwrap(), last, "{node}");
    }

    /// A file that tells the hook something is there, or not.
    pub(crate) fn sign(&self, name: &str, there: bool) {
        match there {
            true => drop(self.stand.file(name, b"")),
            false => fs::remove_file(self.stand.path(name)).unwrap(),
        }
    }

    pub(crate) fn role(&self, node: &str, role: &str) {
        self.stand.file(&format!("role-{node}"), role.as_bytes());
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for child in self.agents.iter_mut().flatten() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            for node in NODES {
                eprintln!("--- {node}\n{}", self.log(node));
            }
            eprintln!("--- hooks\n{}", self.hooks().join("\n"));
        }
    }
}
