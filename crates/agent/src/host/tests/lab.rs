//! Two nodes of a cluster in one folder: `a` is the test, `b` the host.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use lockstep_cluster::claim::Epoch;
use lockstep_cluster::key::PublicKey as NodeKey;
use lockstep_cluster::plan::NodeState;
use lockstep_cluster::{AgentFile, ClusterFile};
use lockstep_engine::{
    Cancel, Compression, Connect, Connected, Consent, Limits, MIN_MEMORY, Monitor, Notice, Outcome,
    Pace, Priority, Purpose, Request, Reuse, Scope, SnapshotChoice, Stillness, TargetSpec,
    UndoPolicy, VerifyScope, run,
};
use lockstep_protocol::{Failure, FailureKind};
use lockstep_transport::quic::{self, OneTimeKey, PublicKey, QuicOptions};
use lockstep_volume::IoEngine;

use super::super::Host;
use super::super::ground::Ground;
use crate::config::{Config, Current};
use crate::talk::pair::{End, pair};
use crate::talk::{hear, say};
use crate::wire::{
    CompareAsk, Hex32, HostBid, HostTell, PriorityWord, ServeTerms, ServingAt, UndoWord,
    WireFailure, Words, WriteAsk,
};

pub(super) const DATA: &str = "0198f3b2-8c7e-7d11-9a51-2f6c0a1b9e77";
const WAL: &str = "0198f3b2-8c7e-7d11-9a51-2f6c0a1b9e78";
const PAGE: usize = 4096;
const PAGES: usize = 512;
const SOON: Duration = Duration::from_secs(60);

/// Each hook writes down what it was told, and fails if it is to.
const HOOK: &str = r#"#!/bin/sh
cd "$(dirname "$0")"
echo "$LOCKSTEP_MOMENT $LOCKSTEP_STATE $LOCKSTEP_EPOCH $LOCKSTEP_RUN $LOCKSTEP_PRIMARY $LOCKSTEP_NODE $LOCKSTEP_VOLUME" >> log
test "$(cat "fail" 2>/dev/null)" != "$LOCKSTEP_MOMENT" || { echo "on purpose" >&2; exit 1; }
"#;

pub(super) struct Lab {
    folder: PathBuf,
    /// Removed with the lab.
    temporary: Option<tempfile::TempDir>,
    host: Arc<Host>,
    pub(super) current: Current,
    seed: AtomicU8,
}

#[derive(Clone, Copy)]
pub(super) enum Rate {
    Full,
    Slow,
}

impl Lab {
    pub(super) fn new() -> Self {
        Self::with("a")
    }

    /// With this primary, or a probe.
    pub(super) fn with(primary: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        Self::lay_out(at);
        let mut lab = Self::over(at, primary);
        lab.change_source();
        lab.host.recover();
        lab.temporary = Some(folder);
        lab
    }

    /// The same folder once more, as another process finds it.
    pub(super) fn over(at: &Path, primary: &str) -> Self {
        let config = Config {
            fingerprint: String::new(),
            node: "b".parse().unwrap(),
            cluster: cluster(at, primary),
            own: AgentFile::default(),
            state_dir: at.join("state"),
        };
        let current = Current::new(config);
        Self {
            host: Arc::new(Host::new(current.clone())),
            current,
            seed: AtomicU8::new(1),
            folder: at.to_path_buf(),
            temporary: None,
        }
    }

    fn lay_out(at: &Path) {
        for name in ["a", "b", "conf"] {
            fs::create_dir(at.join(name)).unwrap();
        }
        for name in ["hook", "probe"] {
            let text = match name {
                "hook" => HOOK,
                _ => "#!/bin/sh\ncat \"$(dirname \"$0\")/role\"\n",
            };
            fs::write(at.join(name), text).unwrap();
            fs::set_permissions(at.join(name), fs::Permissions::from_mode(0o755)).unwrap();
        }
    }

    /// With both volumes made equal by a run of this epoch.
    pub(super) fn synced(epoch: u64) -> Self {
        let lab = Self::new();
        for ask in [lab.ask(epoch), lab.ask_wal(epoch)] {
            let mut call = lab.call(WriteAsk {
                group: false,
                ..ask
            });
            call.granted();
            call.stop();
            assert_eq!(call.sync(&lab, Rate::Full).0, NodeState::Consistent);
            call.conclude(true);
        }
        lab.clear_log();
        lab
    }

    pub(super) fn dir(&self) -> &Path {
        &self.folder
    }

    pub(super) fn host(&self) -> &Host {
        &self.host
    }

    pub(super) fn restarted(&self) -> Host {
        Host::new(self.current.clone())
    }

    pub(super) fn target(&self) -> PathBuf {
        self.dir().join("b/data.img")
    }

    pub(super) fn ground(&self) -> Ground {
        Ground {
            id: DATA.parse().unwrap(),
            path: self.target(),
            state_dir: self.dir().join("state"),
            node: "b".parse().unwrap(),
        }
    }

    /// Every page of the source becomes another.
    pub(super) fn change_source(&self) {
        let seed = self.seed.fetch_add(1, Ordering::SeqCst);
        let mut random = blake3::Hasher::new().update(&[seed]).finalize_xof();
        let mut bytes = vec![0; PAGES * PAGE];
        random.fill(&mut bytes);
        for name in ["a/data.img", "a/wal.img"] {
            fs::write(self.dir().join(name), &bytes).unwrap();
        }
    }

    pub(super) fn dirty_target(&self) {
        let file = fs::File::create(self.target()).unwrap();
        file.set_len((PAGES * PAGE) as u64).unwrap();
        file.write_all_at(b"precious", 8192).unwrap();
    }

    /// Everything beside the volumes, and the volumes.
    pub(super) fn files_of_b(&self) -> Vec<PathBuf> {
        let mut found = vec![self.dir().join("b")];
        let mut at = 0;
        while let Some(path) = found.get(at) {
            at += 1;
            let inner = fs::read_dir(path).into_iter().flatten();
            found.extend(inner.map(|entry| entry.unwrap().path()).collect::<Vec<_>>());
        }
        found.sort();
        found
    }

    pub(super) fn is_equal(&self) -> bool {
        fs::read(self.dir().join("a/data.img")).unwrap() == fs::read(self.target()).unwrap()
    }

    pub(super) fn log(&self) -> Vec<String> {
        let text = fs::read_to_string(self.dir().join("log")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    pub(super) fn moments(&self) -> Vec<String> {
        let first = |line: String| line.split(' ').next().unwrap().to_owned();
        self.log().into_iter().map(first).collect()
    }

    pub(super) fn clear_log(&self) {
        let _ = fs::remove_file(self.dir().join("log"));
    }

    pub(super) fn let_fail(&self, moment: &str) {
        fs::write(self.dir().join("fail"), moment).unwrap();
    }

    pub(super) fn ask(&self, epoch: u64) -> WriteAsk {
        WriteAsk {
            volume: "data".parse().unwrap(),
            id: DATA.parse().unwrap(),
            epoch: Epoch::new(epoch).unwrap(),
            run: format!("run-{epoch}").parse().unwrap(),
            who: Words::new("tester"),
            reason: Some(Words::new("a test")),
            adopt: false,
            hooks: true,
            group: false,
        }
    }

    pub(super) fn ask_wal(&self, epoch: u64) -> WriteAsk {
        WriteAsk {
            volume: "wal".parse().unwrap(),
            id: WAL.parse().unwrap(),
            hooks: false,
            group: true,
            ..self.ask(epoch)
        }
    }

    pub(super) fn call(&self, ask: WriteAsk) -> Call {
        self.call_of("a", ask)
    }

    pub(super) fn call_of(&self, caller: &str, ask: WriteAsk) -> Call {
        let (near, mut far) = pair();
        let (host, caller) = (Arc::clone(&self.host), caller.parse().unwrap());
        let source = self.dir().join(format!("a/{}.img", ask.volume));
        let thread = std::thread::spawn(move || host.write(&mut far, &caller, &ask));
        Call {
            end: near,
            thread,
            source,
        }
    }

    pub(super) fn wait_for(&self, state: NodeState) {
        let deadline = Instant::now() + SOON;
        while self.ground().look().unwrap().state != state {
            assert!(Instant::now() < deadline, "never {state:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Compares the two nodes; the exit code of the run.
    pub(super) fn compare(&self, purpose: Purpose) -> u8 {
        let (near, mut far) = pair();
        let host = Arc::clone(&self.host);
        let ask = CompareAsk {
            volume: "data".parse().unwrap(),
            id: DATA.parse().unwrap(),
            run: "verify-1".parse().unwrap(),
        };
        let thread =
            std::thread::spawn(move || host.compare(&mut far, &"a".parse().unwrap(), &ask));
        let source = self.dir().join("a/data.img");
        let mut call = Call {
            end: near,
            thread,
            source,
        };
        call.granted();
        let dial = call.serve();
        let outcome = run_to(&call.source, self.dir(), dial, Rate::Full, purpose);
        assert!(matches!(call.hear(), HostTell::Served { .. }));
        call.over();
        outcome.exit_code()
    }
}

fn cluster(at: &Path, primary: &str) -> ClusterFile {
    let key = |byte| NodeKey::from_bytes([byte; 32]);
    let replicas = match primary {
        "probe" => "\"a\", \"b\"",
        "a" => "\"b\"",
        _ => "\"a\"",
    };
    let primary = match primary {
        "probe" => format!("{{ probe = [\"{}/probe\"] }}", at.display()),
        node => format!("\"{node}\""),
    };
    let hooks: String = ["stop", "configure", "start", "check"]
        .iter()
        .map(|moment| format!("{moment} = [\"{}/hook\"]\n", at.display()))
        .collect();
    let node = |name: &str, number: u8| {
        format!(
            "[[node]]\nname = \"{name}\"\naddress = \"127.0.0.1:780{number}\"\nkey = \"{}\"\n",
            key(number)
        )
    };
    let volume = |name: &str, id: &str| {
        format!(
            "[[volume]]\nname = \"{name}\"\nid = \"{id}\"\nprimary = {primary}\nreplicas = [{replicas}]\nfiles = [\"{dir}/conf\"]\n[volume.path]\na = \"{dir}/a/{name}.img\"\nb = \"{dir}/b/{name}.img\"\n[volume.hooks]\n{hooks}",
            dir = at.display()
        )
    };
    let text = format!(
        "format = 1\ncluster = \"lab\"\n{}{}{}{}{}[[group]]\nname = \"pg\"\nvolumes = [\"data\", \"wal\"]\n",
        node("a", 1),
        node("b", 2),
        node("c", 3),
        volume("data", DATA),
        volume("wal", WAL),
    );
    ClusterFile::parse(text.as_bytes(), Path::new("lab.toml")).unwrap()
}

pub(super) fn terms(key: PublicKey) -> ServeTerms {
    ServeTerms {
        priority: PriorityWord::Normal,
        key: Hex32(key.0),
        delta: true,
        full_scan_runs: std::num::NonZeroU32::new(10).unwrap(),
        full_scan_seconds: 1_000_000,
        undo: UndoWord::Off,
        keep_undo_seconds: 60,
    }
}

/// The primary's end of a call.
pub(super) struct Call {
    end: End,
    thread: JoinHandle<()>,
    source: PathBuf,
}

impl Call {
    pub(super) fn say(&mut self, bid: &HostBid) {
        say(&mut self.end, bid).unwrap();
    }

    pub(super) fn send(&mut self, bytes: &[u8]) {
        crate::talk::Talk::send(&mut self.end, bytes::Bytes::copy_from_slice(bytes)).unwrap();
    }

    #[track_caller]
    pub(super) fn hear(&mut self) -> HostTell {
        hear(&mut self.end, SOON).unwrap()
    }

    #[track_caller]
    pub(super) fn granted(&mut self) -> NodeState {
        match self.hear() {
            HostTell::Granted { state, .. } => state,
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    pub(super) fn refused(mut self) -> (WireFailure, Option<Epoch>) {
        match self.hear() {
            HostTell::Refused { failure, promised } => (failure, promised),
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    pub(super) fn stop(&mut self) -> Option<WireFailure> {
        self.say(&HostBid::Stop);
        match self.hear() {
            HostTell::Stopped { failure, .. } => failure,
            other => panic!("{other:?}"),
        }
    }

    /// Where the data goes.
    #[track_caller]
    pub(super) fn serve(&mut self) -> Dial {
        let key = OneTimeKey::generate().unwrap();
        self.say(&HostBid::Serve(terms(key.public_key())));
        match self.hear() {
            HostTell::Serving(at) => Dial { at, key },
            other => panic!("{other:?}"),
        }
    }

    /// Begins a run; it goes on by itself.
    pub(super) fn begin(&mut self, lab: &Lab, rate: Rate) -> JoinHandle<Outcome> {
        let dial = self.serve();
        let (source, folder) = (self.source.clone(), lab.dir().to_path_buf());
        std::thread::spawn(move || run_to(&source, &folder, dial, rate, Purpose::Sync))
    }

    #[track_caller]
    pub(super) fn sync(&mut self, lab: &Lab, rate: Rate) -> (NodeState, Option<WireFailure>) {
        let outcome = self.begin(lab, rate).join().unwrap();
        assert_eq!(outcome.exit_code(), 0, "{outcome:?}");
        match self.hear() {
            HostTell::Served { state, failure, .. } => (state, failure),
            other => panic!("{other:?}"),
        }
    }

    /// Ends the call well; what did not work.
    #[track_caller]
    pub(super) fn conclude(mut self, usable: bool) -> Option<WireFailure> {
        self.say(&HostBid::Conclude { usable });
        let HostTell::Concluded { failure, .. } = self.hear() else {
            panic!("the end")
        };
        self.over();
        failure
    }

    /// Waits until the host is done with the call.
    pub(super) fn over(self) {
        self.thread.join().unwrap();
    }

    /// The connection breaks.
    pub(super) fn lose(self) {
        drop(self.end);
        self.thread.join().unwrap();
    }
}

/// Reaches the port of a run.
pub(super) struct Dial {
    at: ServingAt,
    key: OneTimeKey,
}

impl Connect for Dial {
    fn connect(self: Box<Self>) -> Result<Connected, Failure> {
        let link = quic::dial(
            &[SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0)],
            &self.at.ports,
            self.key.clone(),
            PublicKey(self.at.key.0),
            self.at.token.0,
            QuicOptions::default(),
            Duration::from_secs(10),
        )
        .map_err(|error| Failure::new(FailureKind::Temporary, error.to_string()))?;
        Ok(Connected {
            link,
            warning: None,
            lifeline: Box::new(()),
        })
    }
}

struct Deaf;

impl Monitor for Deaf {
    fn notice(&self, _notice: Notice) {}
}

fn run_to(source: &Path, folder: &Path, dial: Dial, rate: Rate, purpose: Purpose) -> Outcome {
    let request = Request {
        taken: None,
        run: None,
        source: source.to_path_buf(),
        targets: vec![TargetSpec {
            name: "b".to_owned(),
            connect: Box::new(dial),
        }],
        purpose,
        snapshot: SnapshotChoice::Exclusive,
        stillness: Stillness::default(),
        scope: Scope::Differences,
        verify: VerifyScope::Written,
        compression: Compression::Off,
        io: IoEngine::Threads,
        limits: Arc::new(match rate {
            Rate::Full => Limits::default(),
            Rate::Slow => Limits::new(Some(64 << 10), None, Pace::Off),
        }),
        priority: Priority::Normal,
        memory: MIN_MEMORY,
        threads: 1,
        consent: Consent::Given,
        allow_larger_target: false,
        max_duration: None,
        scratch: folder.to_path_buf(),
        state_dir: folder.join("state-a"),
        reuse: Reuse::default(),
        undo: UndoPolicy::default(),
        who: "test".to_owned(),
    };
    run(request, Arc::new(Deaf), Arc::new(Cancel::new()))
}
