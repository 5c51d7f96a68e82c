//! Peers that lie, ask for what they may not have, or say nothing, against an agent on a real port: each
//! is refused, and nothing of the volume, its files or its services is touched.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod ports;

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use lockstep_agent::config::Config;
use lockstep_agent::daemon::Agent;
use lockstep_agent::net::{NetTalk, usable};
use lockstep_agent::primary::{EndSink, Job};
use lockstep_agent::talk::{Talk, TalkError, hear, say};
use lockstep_agent::wire::{
    Answer, Ask, Ended, FileBytes, Hex32, HostBid, HostTell, LimitChange, PriorityWord, RateChange,
    ServeTerms, UndoWord, Words, WriteAsk,
};
use lockstep_cluster::claim::Epoch;
use lockstep_cluster::key::PrivateKey;
use lockstep_cluster::plan::{FileState, NodeState, Root};
use lockstep_cluster::value::VolumeName;
use lockstep_cluster::{AgentFile, ClusterFile};
use lockstep_transport::control::{Connection, PublicKey};
use tokio::runtime::Runtime;

use self::ports::free_port;

const DATA: &str = "0198f3b2-8c7e-7d11-9a51-2f6c0a1b9e77";
const OTHER: &str = "0198f3b2-8c7e-7d11-9a51-2f6c0a1b9e78";
const SOON: Duration = Duration::from_secs(20);
/// Calls that say nothing more after their first word.
const STALLED: usize = 12;

struct Nobody;

impl EndSink for Nobody {
    fn ended(&self, _: &Job, _: &Ended, _: u64, _: u64) {}
}

/// The agent of node `b`, a replica of `data`; its primary is `a`, and `c` is a node without a part.
struct Scene {
    folder: tempfile::TempDir,
    agent: Option<Agent>,
    address: SocketAddr,
    keys: BTreeMap<&'static str, PrivateKey>,
    runtime: Runtime,
}

impl Scene {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let owners = ["a", "b", "c", "ops", "eve", "stranger"];
        let keys = owners.map(|owner| (owner, PrivateKey::generate().unwrap()));
        let keys = BTreeMap::from(keys);
        let port = u16::try_from(free_port()).unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        for name in ["conf", "outside"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        fs::write(folder.path().join("data.img"), image()).unwrap();
        let text = cluster(folder.path(), address, &keys);
        let config = Config {
            node: "b".parse().unwrap(),
            cluster: ClusterFile::parse(text.as_bytes(), Path::new("c.toml")).unwrap(),
            own: AgentFile::default(),
            fingerprint: String::new(),
            state_dir: folder.path().join("state"),
        };
        let agent = Agent::start(config, &keys["b"], Box::new(Nobody)).unwrap();
        Self {
            folder,
            agent: Some(agent),
            address,
            keys,
            runtime: Runtime::new().unwrap(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A call by this owner's key.
    fn call(&self, owner: &str) -> NetTalk {
        let key = usable(&self.keys[owner]).unwrap();
        let peer = PublicKey(*self.keys["b"].public().as_bytes());
        let call = self.runtime.block_on(async {
            let connection = Connection::connect(&[self.address], &key, &[peer], SOON)
                .await
                .unwrap();
            connection.call().await.unwrap()
        });
        NetTalk::new(call, self.runtime.handle().clone())
    }

    /// What is answered to a first word.
    fn answer(&self, owner: &str, first: &[u8]) -> Answer {
        let mut talk = self.call(owner);
        talk.send(Bytes::copy_from_slice(first)).unwrap();
        hear(&mut talk, SOON).unwrap()
    }

    fn ask(&self, owner: &str, ask: &Ask) -> Answer {
        self.answer(owner, &serde_json::to_vec(ask).unwrap())
    }

    /// Asks to write; the call, and what was told.
    fn write(&self, owner: &str, ask: WriteAsk) -> (NetTalk, HostTell) {
        let mut talk = self.call(owner);
        say(&mut talk, &Ask::Write(ask)).unwrap();
        let told = hear(&mut talk, SOON).unwrap();
        (talk, told)
    }

    /// A call of `a` that was let in.
    #[track_caller]
    fn granted(&self, epoch: u64) -> NetTalk {
        match self.write("a", write_ask(epoch)) {
            (talk, HostTell::Granted { .. }) => talk,
            (_, other) => panic!("{other:?}"),
        }
    }

    fn state(&self) -> NodeState {
        match self.ask("a", &Ask::Status) {
            Answer::Status(status) => status.volumes[&volume()].state,
            other => panic!("{other:?}"),
        }
    }

    /// The agent answers, nothing was written, and no hook has run.
    #[track_caller]
    fn assert_untouched(&self) {
        assert_eq!(self.state(), NodeState::Unknown);
        assert!(fs::read(self.path("data.img")).unwrap() == image());
        assert_eq!(fs::read_dir(self.path("outside")).unwrap().count(), 0);
        assert!(!self.path("hooks").exists(), "a hook has run");
        let conf: Vec<_> = fs::read_dir(self.path("conf")).unwrap().collect();
        assert!(conf.len() <= 1, "{conf:?}");
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if let Some(agent) = self.agent.take() {
            agent.stop();
        }
    }
}

fn volume() -> VolumeName {
    "data".parse().unwrap()
}

fn image() -> Vec<u8> {
    vec![7; 1 << 20]
}

fn cluster(at: &Path, address: SocketAddr, keys: &BTreeMap<&str, PrivateKey>) -> String {
    let mut text = "format = 1\ncluster = \"lab\"\n".to_owned();
    for (node, address) in [
        ("a", "127.0.0.1:9".to_owned()),
        ("b", address.to_string()),
        ("c", "127.0.0.1:11".to_owned()),
    ] {
        let key = keys[node].public();
        text += &format!("[[node]]\nname = \"{node}\"\naddress = \"{address}\"\nkey = \"{key}\"\n");
    }
    for owner in ["ops", "eve"] {
        let key = keys[owner].public();
        text += &format!("[[operator]]\nname = \"{owner}\"\nkey = \"{key}\"\n");
    }
    let at = at.display();
    text + &format!(
        "[[volume]]\nname = \"data\"\nid = \"{DATA}\"\nprimary = \"a\"\nreplicas = [\"b\"]\n\
         operators = [\"ops\"]\nfiles = [\"{at}/conf\"]\n[volume.path]\na = \"{at}/none.img\"\n\
         b = \"{at}/data.img\"\n[volume.hooks]\nconfigure = [\"touch\", \"{at}/hooks\"]\n\
         start = [\"touch\", \"{at}/hooks\"]\n"
    )
}

fn write_ask(epoch: u64) -> WriteAsk {
    WriteAsk {
        volume: "data".parse().unwrap(),
        id: DATA.parse().unwrap(),
        epoch: Epoch::new(epoch).unwrap(),
        run: format!("run-{epoch}").parse().unwrap(),
        who: Words::new("somebody"),
        reason: None,
        adopt: true,
        hooks: true,
        group: false,
    }
}

fn exit_code(answer: &Answer) -> u8 {
    match answer {
        Answer::Failed(failure) => failure.exit_code,
        other => panic!("{other:?}"),
    }
}

#[test]
fn first_words_that_mean_nothing_are_answered_with_why() {
    let scene = Scene::new();
    let nested = format!("{{\"ask\":{}1{}}}", "[".repeat(20_000), "]".repeat(20_000));
    let words: [&[u8]; 7] = [
        b"",
        b"\0\xff\xfe garbage",
        b"{\"ask\":\"format_disk\"}",
        b"{\"ask\":\"role\",\"volume\":\"data\",\"and\":1}",
        b"{\"ask\":\"history\",\"volume\":\"../../etc\"}",
        b"[]",
        nested.as_bytes(),
    ];
    for word in words {
        let shown = String::from_utf8_lossy(&word[..word.len().min(40)]).into_owned();
        let mut talk = scene.call("ops");
        // The wire itself may end a call with a frame that is none.
        let sent = talk.send(Bytes::copy_from_slice(word));
        match sent.and_then(|()| hear::<Answer>(&mut talk, SOON)) {
            Ok(answer) => assert_eq!(exit_code(&answer), 2, "{shown}"),
            Err(error) => assert!(matches!(error, TalkError::Ended(_)), "{shown}: {error}"),
        }
    }
    scene.assert_untouched();
}

#[test]
fn a_key_that_nobody_knows_gets_no_word() {
    let scene = Scene::new();
    let key = usable(&scene.keys["stranger"]).unwrap();
    let peer = PublicKey(*scene.keys["b"].public().as_bytes());
    let word = scene.runtime.block_on(async {
        let connection = Connection::connect(&[scene.address], &key, &[peer], SOON).await?;
        let mut call = connection.call().await?;
        call.send(Bytes::from_static(b"{\"ask\":\"status\"}"))
            .await?;
        call.recv_within(SOON).await
    });
    assert!(word.is_err(), "{word:?}");
    scene.assert_untouched();
}

#[test]
fn a_known_key_without_the_right_changes_nothing() {
    let scene = Scene::new();
    let undo = |who: &str| {
        let ask = Ask::Undo {
            volumes: vec!["data".parse().unwrap()],
            who: Words::new("x"),
            dry_run: false,
        };
        exit_code(&scene.ask(who, &ask))
    };
    for who in ["eve", "a", "c"] {
        assert_eq!(undo(who), 5, "{who}");
        for ask in [
            Ask::Cancel {
                name: Words::new("data"),
            },
            Ask::Attach {
                name: Words::new("data"),
            },
            Ask::Limit {
                name: Words::new("data"),
                change: LimitChange {
                    rate: Some(RateChange::Off),
                    read: None,
                    pace: None,
                },
            },
        ] {
            assert_eq!(exit_code(&scene.ask(who, &ask)), 5, "{who}: {ask:?}");
        }
    }
    // Whoever is no node has no part in a run.
    for who in ["eve", "ops"] {
        assert_eq!(
            exit_code(&scene.ask(who, &Ask::Write(write_ask(9)))),
            5,
            "{who}"
        );
    }
    // Nothing of this node is its affair.
    assert_eq!(exit_code(&scene.ask("c", &Ask::Checkup)), 5);
    // A node that is not the primary; the node itself; a volume that is another one.
    let other = WriteAsk {
        id: OTHER.parse().unwrap(),
        ..write_ask(9)
    };
    let unknown = WriteAsk {
        volume: "nothing".parse().unwrap(),
        ..write_ask(9)
    };
    let group = WriteAsk {
        group: true,
        ..write_ask(9)
    };
    for (who, ask, code) in [
        ("c", write_ask(9), 5),
        ("b", write_ask(9), 5),
        ("a", other, 7),
        ("a", unknown, 5),
        ("a", group, 7),
    ] {
        match scene.write(who, ask) {
            (_, HostTell::Refused { failure, .. }) => assert_eq!(failure.exit_code, code, "{who}"),
            (_, told) => panic!("{who}: {told:?}"),
        }
    }
    scene.assert_untouched();
    // None of them has left a promise that would keep an older epoch out.
    let mut talk = scene.granted(1);
    say(&mut talk, &HostBid::Conclude { usable: true }).unwrap();
    assert!(matches!(
        hear(&mut talk, SOON).unwrap(),
        HostTell::Concluded { .. }
    ));
    scene.assert_untouched();
}

fn terms() -> ServeTerms {
    ServeTerms {
        priority: PriorityWord::Normal,
        key: Hex32([1; 32]),
        delta: false,
        full_scan_runs: std::num::NonZeroU32::MIN,
        full_scan_seconds: 1,
        undo: UndoWord::Off,
        keep_undo_seconds: 1,
    }
}

fn state_of(bytes: &[u8]) -> FileState {
    FileState {
        hash: Root::from_bytes(*blake3::hash(bytes).as_bytes()),
        mode: 0o644,
        uid: rustix::process::getuid().as_raw(),
        gid: rustix::process::getgid().as_raw(),
    }
}

/// Whatever comes, the call is over soon, and did no harm.
#[track_caller]
fn assert_ends(talk: &mut dyn Talk, what: &str) {
    let begun = Instant::now();
    loop {
        match hear::<HostTell>(talk, SOON) {
            Ok(HostTell::Serving(_) | HostTell::Stopped { .. }) => panic!("{what} was done"),
            Ok(_) => assert!(begun.elapsed() < SOON, "{what} goes on"),
            Err(TalkError::Ended(_)) => return,
            Err(error) => panic!("{what}: {error}"),
        }
    }
}

#[test]
fn what_is_said_out_of_turn_ends_the_call() {
    let scene = Scene::new();
    let path = format!("{}/x", scene.path("conf").display());
    let file = HostBid::File(FileBytes {
        path: path.parse().unwrap(),
        state: Some(state_of(b"x")),
        bytes: 1,
    });
    let bids = [
        ("data before `stop`", HostBid::Serve(terms())),
        ("a file that nobody asked for", file),
        ("the end of files that never began", HostBid::FilesEnd),
    ];
    for (epoch, (what, bid)) in bids.into_iter().enumerate() {
        let mut talk = scene.granted(epoch as u64 + 1);
        say(&mut talk, &bid).unwrap();
        assert_ends(&mut talk, what);
    }
    for (epoch, word) in [
        &b"garbage"[..],
        b"{\"bid\":\"format\"}",
        b"{\"ask\":\"status\"}",
    ]
    .iter()
    .enumerate()
    {
        let mut talk = scene.granted(epoch as u64 + 11);
        talk.send(Bytes::copy_from_slice(word)).unwrap();
        assert_ends(&mut talk, "a word that is none");
    }
    scene.assert_untouched();
}

#[test]
fn files_go_nowhere_but_where_the_cluster_file_says() {
    let scene = Scene::new();
    std::os::unix::fs::symlink(scene.path("outside"), scene.path("conf/way")).unwrap();
    let places = [
        format!("{}/x", scene.path("outside").display()),
        format!("{}/way/x", scene.path("conf").display()),
        format!("{}-too/x", scene.path("conf").display()),
    ];
    for (epoch, place) in places.iter().enumerate() {
        let path = place.parse().unwrap();
        let mut talk = scene.granted(epoch as u64 + 1);
        let states = BTreeMap::from([(path, state_of(b"x"))]);
        say(&mut talk, &HostBid::Files { states }).unwrap();
        match hear(&mut talk, SOON).unwrap() {
            HostTell::Differing { .. } => {}
            other => panic!("{other:?}"),
        }
        let bytes = FileBytes {
            path: place.parse().unwrap(),
            state: Some(state_of(b"x")),
            bytes: 1,
        };
        say(&mut talk, &HostBid::File(bytes)).unwrap();
        // The call may be over already.
        let _ = talk.send(Bytes::from_static(b"x"));
        let _ = say(&mut talk, &HostBid::FilesEnd);
        match hear::<HostTell>(&mut talk, SOON) {
            Ok(HostTell::Staged { failure }) => assert!(failure.is_some(), "{place}"),
            Ok(HostTell::Concluded { files, .. }) => assert!(files.is_empty(), "{place}"),
            other => panic!("{place}: {other:?}"),
        }
        let _ = say(&mut talk, &HostBid::Conclude { usable: true });
        assert_ends(&mut talk, place);
    }
    // Larger than any.
    let place = format!("{}/big", scene.path("conf").display());
    let mut talk = scene.granted(20);
    let states = BTreeMap::from([(place.parse().unwrap(), state_of(b"x"))]);
    say(&mut talk, &HostBid::Files { states }).unwrap();
    hear::<HostTell>(&mut talk, SOON).unwrap();
    let big = FileBytes {
        path: place.parse().unwrap(),
        state: Some(state_of(b"x")),
        bytes: u64::MAX,
    };
    say(&mut talk, &HostBid::File(big)).unwrap();
    assert_ends(&mut talk, "a file without end");
    scene.assert_untouched();
}

#[test]
fn who_says_nothing_more_holds_up_nobody() {
    let scene = Scene::new();
    let mut stalled: Vec<NetTalk> = Vec::new();
    for _ in 0..STALLED {
        let mut talk = scene.call("a");
        let ask = Ask::Files {
            volume: "data".parse().unwrap(),
        };
        say(&mut talk, &ask).unwrap();
        stalled.push(talk);
    }
    // A run that was let in, and says nothing: a newer one takes over.
    let silent = scene.granted(1);
    let begun = Instant::now();
    let mut talk = scene.granted(2);
    say(&mut talk, &HostBid::Stop).unwrap();
    assert!(matches!(
        hear(&mut talk, SOON).unwrap(),
        HostTell::Stopped { failure: None, .. }
    ));
    say(&mut talk, &HostBid::Conclude { usable: false }).unwrap();
    assert!(matches!(
        hear(&mut talk, SOON).unwrap(),
        HostTell::Concluded { .. }
    ));
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "{:?}",
        begun.elapsed()
    );
    drop(silent);
    // Those that stalled are refused in the end, each with a reason.
    for talk in &mut stalled {
        match hear::<Answer>(talk, SOON) {
            Ok(answer) => assert_eq!(exit_code(&answer), 20),
            Err(error) => assert!(matches!(error, TalkError::Ended(_)), "{error}"),
        }
    }
}
