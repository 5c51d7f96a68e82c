//! Agents end at every point of a run, as by a power cut: nothing that is a mixture is called consistent or
//! served, services come back where they may, and the same command makes all good.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod ports;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use lockstep_agent::config::Config;
use lockstep_agent::crash;
use lockstep_agent::daemon::Agent;
use lockstep_agent::net::Net;
use lockstep_agent::primary::{EndSink, Job};
use lockstep_agent::reach::{Reach, Reached, ask_once};
use lockstep_agent::talk::{TalkError, hear};
use lockstep_agent::wire::{
    Aim, Answer, Ask, CompressWord, Ended, PriorityWord, RunAsk, RunTerms, UndoWord, VolumeStatus,
    Words,
};
use lockstep_cluster::key::{KeyStore, PrivateKey};
use lockstep_cluster::plan::NodeState;
use lockstep_cluster::value::{NodeName, VolumeName};
use lockstep_cluster::{AgentFile, ClusterFile};
use tokio::runtime::Runtime;

use self::ports::free_port;

const NODES: [&str; 3] = ["a", "b", "c"];
const SIZE: usize = 1 << 20;
const FOLDER: &str = "LOCKSTEP_TEST_FOLDER";
const NODE: &str = "LOCKSTEP_TEST_NODE";
/// A peer that is gone is missed after half a minute.
const PATIENCE: Duration = Duration::from_secs(100);

/// Writes down what it is told; `configure` and `start` on anything but an image of `allowed` are a
/// violation.
const HOOK: &str = r#"#!/bin/sh
cd "$(dirname "$0")" || exit 1
echo "$LOCKSTEP_NODE $LOCKSTEP_MOMENT" >> log
if [ "$LOCKSTEP_MOMENT" = stop ] && [ -e "slow-$LOCKSTEP_NODE" ]; then
  sleep 5; echo "$LOCKSTEP_NODE stopped" >> log
fi
case "$LOCKSTEP_MOMENT" in configure | start)
  for image in allowed/*; do cmp -s "$image" "$LOCKSTEP_PATH" && exit 0; done
  echo "$LOCKSTEP_NODE $LOCKSTEP_MOMENT $LOCKSTEP_STATE" >> violations ;;
esac
exit 0
"#;

struct Nobody;

impl EndSink for Nobody {
    fn ended(&self, _: &Job, _: &Ended, _: u64, _: u64) {}
}

/// The agent of a node, until it is killed.
#[test]
#[ignore = "started by the tests below"]
fn child() {
    let folder = PathBuf::from(std::env::var_os(FOLDER).unwrap());
    let node = std::env::var(NODE).unwrap();
    let state_dir = folder.join(format!("{node}.state"));
    let key = KeyStore::at(&state_dir).open().unwrap().current;
    let config = Config {
        node: node.parse().unwrap(),
        cluster: read(&folder),
        own: AgentFile::default(),
        fingerprint: String::new(),
        state_dir,
    };
    let _agent = Agent::start(config, &key, Box::new(Nobody)).unwrap();
    loop {
        std::thread::park();
    }
}

fn read(folder: &Path) -> ClusterFile {
    ClusterFile::read(&folder.join("cluster.toml")).unwrap()
}

/// Three agents, each a process of its own; `a` is the primary of `data`.
struct Lab {
    folder: tempfile::TempDir,
    agents: Vec<Option<Child>>,
    net: Net,
    _runtime: Runtime,
}

impl Lab {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        fs::create_dir(at.join("allowed")).unwrap();
        fs::write(at.join("hook"), HOOK).unwrap();
        fs::set_permissions(at.join("hook"), fs::Permissions::from_mode(0o755)).unwrap();
        let operator = PrivateKey::generate().unwrap();
        fs::write(at.join("cluster.toml"), cluster(at, &operator)).unwrap();
        let file = Arc::new(read(at));
        let runtime = Runtime::new().unwrap();
        let net = Net::new(
            move || Arc::clone(&file),
            &operator,
            runtime.handle().clone(),
        );
        let mut lab = Self {
            agents: vec![None, None, None],
            net: net.unwrap(),
            _runtime: runtime,
            folder,
        };
        for (seed, node) in NODES.iter().enumerate() {
            fs::write(lab.image(node), random(seed as u64 + 1)).unwrap();
        }
        fs::copy(lab.image("a"), lab.path("allowed/first")).unwrap();
        NODES.iter().for_each(|node| lab.start(node, None));
        NODES.iter().for_each(|node| lab.await_up(node));
        lab
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn image(&self, node: &str) -> PathBuf {
        self.path(&format!("{node}.img"))
    }

    fn start(&mut self, node: &str, point: Option<&str>) {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["child", "--exact", "--ignored"])
            .env(FOLDER, self.folder.path())
            .env(NODE, node)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        if let Some(point) = point {
            command.env(crash::VARIABLE, point);
        }
        self.agents[number(node)] = Some(command.spawn().unwrap());
    }

    fn stop(&mut self, node: &str) {
        if let Some(mut child) = self.agents[number(node)].take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    fn restart(&mut self, node: &str, point: Option<&str>) {
        self.stop(node);
        self.start(node, point);
        self.await_up(node);
    }

    #[track_caller]
    fn await_up(&self, node: &str) {
        eventually(&format!("{node} is up"), || self.status(node).is_some());
    }

    fn status(&self, node: &str) -> Option<VolumeStatus> {
        let node: NodeName = node.parse().unwrap();
        let answer = ask_once(&self.net, &node, &Ask::Status, Duration::from_secs(5));
        match answer {
            Ok(Answer::Status(status)) => status.volumes.get(&volume()).cloned(),
            _ => None,
        }
    }

    /// A resync, to its end; none if the primary was lost.
    fn resync(&self) -> Option<Ended> {
        Self::to_end(self.begin())
    }

    fn begin(&self) -> Reached {
        let ask = RunAsk {
            aim: Aim::Resync,
            name: Words::new("data"),
            nodes: Vec::new(),
            who: Words::new("tester"),
            reason: None,
            epoch: None,
            adopt: vec!["b".parse().unwrap(), "c".parse().unwrap()],
            max_change: None,
            plans: 0,
            terms: terms(),
        };
        let primary = "a".parse().unwrap();
        self.net.call(&primary, &Ask::Run(ask)).unwrap()
    }

    fn to_end(mut reached: Reached) -> Option<Ended> {
        let deadline = Instant::now() + PATIENCE;
        let mut volumes = Vec::new();
        loop {
            match hear(&mut *reached.talk, PATIENCE) {
                Ok(Answer::VolumeEnded(ended)) => volumes.push(*ended),
                Ok(Answer::Ended(ended)) => return Some(Ended { volumes, ..ended }),
                Ok(Answer::Failed(failure)) => panic!("{failure:?}"),
                Ok(_) => assert!(Instant::now() < deadline, "a run without end"),
                Err(TalkError::Ended(_)) => return None,
                Err(error) => panic!("{error}"),
            }
        }
    }

    #[track_caller]
    fn resync_well(&self, when: &str) {
        let ended = self.resync().unwrap();
        let good = |it: &lockstep_engine::TargetOutcome| {
            it.error.is_none() && it.verdict == lockstep_engine::Verdict::Ok
        };
        let outcome = ended
            .volumes
            .first()
            .map(|volume| volume.outcome.to_outcome());
        let is_good =
            outcome.is_some_and(|it| it.targets.len() == 2 && it.targets.iter().all(good));
        assert!(is_good, "{when}: {ended:?}");
    }

    /// A new version of the primary's data; only it and the one before may be served.
    fn change(&self, seed: u64) {
        fs::write(self.image("a"), random(seed)).unwrap();
        fs::copy(self.image("a"), self.path(&format!("allowed/{seed}"))).unwrap();
    }

    fn moments(&self, node: &str) -> Vec<String> {
        let text = fs::read_to_string(self.path("log")).unwrap_or_default();
        let own = text
            .lines()
            .filter_map(|line| line.strip_prefix(&format!("{node} ")));
        own.map(str::to_owned).collect()
    }

    #[track_caller]
    fn assert_no_mixture(&self, when: &str) {
        let violations = fs::read_to_string(self.path("violations")).unwrap_or_default();
        assert_eq!(violations, "", "{when}");
        for node in ["b", "c"] {
            let is_called_good =
                (self.status(node)).is_some_and(|it| it.state == NodeState::Consistent);
            let image = fs::read(self.image(node)).unwrap();
            let is_good = fs::read_dir(self.path("allowed"))
                .unwrap()
                .any(|allowed| fs::read(allowed.unwrap().path()).unwrap() == image);
            assert!(is_good || !is_called_good, "{when}: {node} is a mixture");
        }
    }

    /// One node's agent ends at a point of a run; what that leaves, and what repairs it.
    fn crash_at(point: &str, node: &str) {
        let mut lab = Lab::new();
        lab.resync_well("the first run");
        lab.change(9);
        let _ = fs::remove_file(lab.path("log"));
        lab.restart(node, Some(point));
        let ended = lab.resync();
        let crashed = lab.agents[number(node)].as_mut().unwrap();
        eventually(&format!("{node} passes {point}"), || {
            crashed.try_wait().unwrap().is_some()
        });
        let signal = std::os::unix::process::ExitStatusExt::signal(&crashed.wait().unwrap());
        assert_eq!(signal, Some(6), "{point}");
        assert_eq!(ended.is_none(), node == "a", "{point}: {ended:?}");
        lab.assert_no_mixture(point);
        lab.restart(node, None);
        // Each service is up again as soon as its data is whole and the lost call was missed.
        eventually(&format!("{point}: all let go"), || {
            ["b", "c"].iter().all(|node| {
                lab.status(node).is_some_and(|it| {
                    let is_whole = it.state == NodeState::Consistent;
                    it.run.is_none() && it.is_stopped != is_whole
                })
            })
        });
        lab.assert_no_mixture(point);
        lab.resync_well(point);
        let primary = fs::read(lab.image("a")).unwrap();
        for node in ["b", "c"] {
            assert!(
                fs::read(lab.image(node)).unwrap() == primary,
                "{point}: {node}"
            );
            let status = lab.status(node).unwrap();
            assert_eq!(status.state, NodeState::Consistent, "{point}");
            assert!(!status.is_stopped, "{point}");
            assert_eq!(lab.moments(node).last().unwrap(), "check", "{point}");
        }
        lab.assert_no_mixture(point);
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        NODES.iter().for_each(|node| self.stop(node));
    }
}

fn number(node: &str) -> usize {
    NODES.iter().position(|it| *it == node).unwrap()
}

fn volume() -> VolumeName {
    "data".parse().unwrap()
}

fn terms() -> RunTerms {
    let nothing = std::num::NonZeroU32::MIN;
    RunTerms {
        full: false,
        verify_full: false,
        compress: CompressWord::Off,
        limit_rate: None,
        limit_read: None,
        rate: None,
        priority: PriorityWord::Normal,
        pace: false,
        max_seconds: None,
        delta: false,
        full_scan_runs: nothing,
        full_scan_seconds: 1,
        undo: UndoWord::Off,
        keep_undo_seconds: 1,
        allow_larger: false,
    }
}

fn random(seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; SIZE];
    let mut random = blake3::Hasher::new()
        .update(&seed.to_le_bytes())
        .finalize_xof();
    random.fill(&mut bytes);
    bytes
}

fn cluster(at: &Path, operator: &PrivateKey) -> String {
    let mut text = "format = 1\ncluster = \"lab\"\n".to_owned();
    for node in NODES {
        let address = format!("127.0.0.1:{}", free_port());
        let store = KeyStore::at(&at.join(format!("{node}.state")));
        let key = store.open().unwrap().current.public();
        text += &format!("[[node]]\nname = \"{node}\"\naddress = \"{address}\"\nkey = \"{key}\"\n");
    }
    let at = at.display();
    let mut volume = format!(
        "[[operator]]\nname = \"ops\"\nkey = \"{}\"\n[[volume]]\nname = \"data\"\n\
         id = \"0198f3b2-8c7e-7d11-9a51-2f6c0a1b9e77\"\nprimary = \"a\"\nreplicas = [\"b\", \"c\"]\n\
         files = [\"{at}/hook\"]\n[volume.path]\n",
        operator.public()
    );
    for node in NODES {
        volume += &format!("{node} = \"{at}/{node}.img\"\n");
    }
    volume += "[volume.hooks]\n";
    for moment in ["stop", "configure", "start", "check"] {
        volume += &format!("{moment} = [\"{at}/hook\"]\n");
    }
    text + &volume
}

#[track_caller]
fn eventually(what: &str, mut happened: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !happened() {
        assert!(Instant::now() < deadline, "this did not happen: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Nearly all of the time is spent waiting for a peer that is gone.
fn at_each(points: &[&str], node: &'static str) {
    std::thread::scope(|scope| {
        let all: Vec<_> = points
            .iter()
            .map(|&point| (point, scope.spawn(move || Lab::crash_at(point, node))))
            .collect();
        let failed: Vec<&str> = all
            .into_iter()
            .filter_map(|(point, thread)| thread.join().is_err().then_some(point))
            .collect();
        assert!(failed.is_empty(), "{failed:?}");
    });
}

#[test]
fn a_secondary_ends_at_any_point_and_all_is_repaired() {
    at_each(&crash::HOST, "b");
}

#[test]
fn a_primary_ends_at_any_point_and_all_is_repaired() {
    at_each(&crash::PRIMARY, "a");
}

/// It would stop what was started in the meantime.
#[test]
fn a_hook_of_a_killed_agent_does_nothing_more_once_another_one_is_run() {
    let mut lab = Lab::new();
    lab.resync_well("the first run");
    lab.change(9);
    let _ = fs::remove_file(lab.path("log"));
    fs::write(lab.path("slow-b"), b"").unwrap();
    lab.restart("b", Some("host.stopping"));
    let run = lab.begin();
    eventually("the hook is at work", || lab.moments("b") == ["stop"]);
    let crashed = lab.agents[number("b")].as_mut().unwrap();
    eventually("the agent is gone", || {
        crashed.try_wait().unwrap().is_some()
    });
    // Long before the run has missed it.
    lab.restart("b", None);
    eventually("it is served", || {
        lab.moments("b").last().is_some_and(|it| it == "check")
    });
    std::thread::sleep(Duration::from_secs(6));
    assert_eq!(lab.moments("b"), ["stop", "start", "check"]);
    assert!(Lab::to_end(run).is_some());
}
