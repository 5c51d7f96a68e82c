//! What a call's first word leads to.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use lockstep_cluster::file::Volume;
use lockstep_cluster::key::PublicKey;
use lockstep_cluster::plan::{NodeState, differences};
use lockstep_cluster::roles::Role;
use lockstep_cluster::value::{AbsolutePath, VolumeName};
use lockstep_ledger::{Ledger, ProofLevel, Record, State, VolumeKey};
use lockstep_protocol::{Failure, FailureKind};

use crate::align;
use crate::checkup::checkup;
use crate::config::{Config, Current};
use crate::echo::Echoes;
use crate::gate::Gate;
use crate::host::{Host, VolumeView};
use crate::once::Once;
use crate::primary::{Caller, Primary, now, too_long_a_plan};
use crate::talk::{Talk, hear, say};
use crate::wire::{
    Answer, Ask, FileStates, NodeStatus, PastRun, RoleWord, VERSION, VolumeFacts, VolumeStatus,
    Words, fits, read,
};

/// How long what follows a first word may take to arrive.
const REST_LIMIT: Duration = Duration::from_secs(10);

/// How old the answer of a probe may be: a role that moved must be seen at once.
const ROLE_KEPT: Duration = Duration::ZERO;

/// Most checkups at once, for one key and for all: each calls every other node.
const CHECKUPS: (usize, usize) = (2, 8);
/// How long one waits for its turn.
const CHECKUP_PATIENCE: Duration = Duration::from_secs(20);
/// Most comparisons of files at once, for one key and for all: each reads all of a volume's.
const FILES: (usize, usize) = (2, 8);
/// How long one waits for its turn: less than whoever asks does for the answer.
const FILES_PATIENCE: Duration = Duration::from_secs(60);

/// Answers calls.
pub(crate) struct Answerer {
    current: Current,
    host: Arc<Host>,
    primary: Arc<Primary>,
    checkups: Gate,
    files: Gate,
    echoes: Echoes,
    roles: Once<Result<RoleWord, Words>>,
    facts: Once<Result<VolumeFacts, Failure>>,
}

impl Answerer {
    pub(crate) fn new(current: Current, host: Arc<Host>, primary: Arc<Primary>) -> Self {
        Self {
            current,
            host,
            primary,
            checkups: Gate::new(
                "looking at a node",
                CHECKUPS.0,
                CHECKUPS.1,
                CHECKUP_PATIENCE,
            ),
            files: Gate::new("comparing files", FILES.0, FILES.1, FILES_PATIENCE),
            echoes: Echoes::default(),
            roles: Once::new(ROLE_KEPT),
            // What a plan rests on is never older than its question.
            facts: Once::new(Duration::ZERO),
        }
    }

    /// Answers one call to its end.
    pub(crate) fn answer(
        &self,
        talk: &mut dyn Talk,
        key: &PublicKey,
        from: SocketAddr,
        first: &[u8],
    ) {
        let config = self.current.get();
        let Some(caller) = Caller::of(&config, key) else {
            // The endpoint asked the same file before; it was changed in between.
            return refuse(talk, &unknown_key());
        };
        let ask = match read::<Ask>(first) {
            Ok(ask) => ask,
            Err(unread) => {
                tracing::warn!(%caller, %from, "{unread}");
                let failure = Failure::new(FailureKind::Usage, unread.to_string())
                    .hint("install the same release of lockstep on every node");
                return refuse(talk, &failure);
            }
        };
        if let Err(failure) = self.carry_out(talk, &config, (&caller, key), ask) {
            let why = Words::new(&failure.to_string());
            tracing::info!(%caller, %from, "refused: {why}");
            refuse(talk, &failure);
        }
    }

    fn carry_out(
        &self,
        talk: &mut dyn Talk,
        config: &Arc<Config>,
        (caller, key): (&Caller, &PublicKey),
        ask: Ask,
    ) -> Result<(), Failure> {
        let answer = match ask {
            Ask::Status => Answer::Status(self.status(config)),
            Ask::History { volume } => {
                let (of, path) = here(config, &volume)?;
                caller.may_know(config, of)?;
                Answer::History {
                    records: history(config, path)?,
                }
            }
            Ask::Role { volume } => {
                let (of, path) = here(config, &volume)?;
                caller.may_know(config, of)?;
                let look = || role(&self.host, config, of, path);
                Answer::Role {
                    role: self.roles.of(config, &volume, look),
                }
            }
            Ask::Files { volume } => {
                let (of, _) = here(config, &volume)?;
                caller.may_compare(config, of)?;
                let wanted = wanted(talk)?;
                // Whoever says nothing takes nobody's turn.
                let _turn = self.files.enter(key)?;
                differing(&wanted, of)?
            }
            Ask::Facts { volume } => {
                let (of, _) = here(config, &volume)?;
                caller.may_compare(config, of)?;
                let look = || self.host.facts(&volume);
                Answer::Facts(self.facts.of(config, &volume, look)?)
            }
            Ask::Checkup => {
                caller.may_check_up(config)?;
                let _turn = self.checkups.enter(key)?;
                let status = self.status(config);
                Answer::Checkup(checkup(config, status, self.primary.reach()))
            }
            Ask::Echo { word } => {
                node(caller)?;
                return self.echoes.serve(talk, config, word);
            }
            Ask::Undo {
                volumes,
                who,
                dry_run,
            } => {
                for volume in &volumes {
                    let (of, _) = here(config, volume)?;
                    caller.may_run(config, of)?;
                }
                let who = format!("{caller} ({who})");
                self.host.undo(&volumes, &who, dry_run)?
            }
            Ask::Run(ask) => {
                self.primary.run(talk, caller, ask);
                return Ok(());
            }
            Ask::Attach { name } => {
                self.primary.attach(talk, caller, name.as_str());
                return Ok(());
            }
            Ask::Cancel { name } => {
                self.primary.cancel(talk, caller, name.as_str());
                return Ok(());
            }
            Ask::Limit { name, change } => {
                self.primary.limit(talk, caller, name.as_str(), change);
                return Ok(());
            }
            Ask::Write(ask) => {
                self.host.write(talk, node(caller)?, &ask);
                return Ok(());
            }
            Ask::Compare(ask) => {
                self.host.compare(talk, node(caller)?, &ask);
                return Ok(());
            }
        };
        // A caller that is gone needs no answer.
        let _ = say(talk, &answer);
        Ok(())
    }

    fn status(&self, config: &Config) -> NodeStatus {
        let mut volumes = BTreeMap::new();
        for volume in &config.cluster.volumes {
            let Some(view) = self.host.view(&volume.name) else {
                continue;
            };
            let mut status = view_status(view);
            if let Some(live) = self.primary.runs().of_volume(&volume.name) {
                status.run = Some(live.run.clone());
            }
            volumes.insert(volume.name.clone(), status);
        }
        NodeStatus {
            node: config.node.clone(),
            protocol: VERSION,
            release: Words::new(env!("CARGO_PKG_VERSION")),
            now_unix_ms: now(),
            cluster_file: Words::new(&config.fingerprint),
            volumes,
        }
    }
}

fn wanted(talk: &mut dyn Talk) -> Result<FileStates, Failure> {
    hear(talk, REST_LIMIT).map_err(|error| {
        Failure::new(
            FailureKind::Temporary,
            format!("the files to compare: {error}"),
        )
    })
}

fn differing(FileStates(wanted): &FileStates, volume: &Volume) -> Result<Answer, Failure> {
    let own = align::states(&volume.files)?;
    let files = differences(wanted, &own);
    let count = files.len();
    let answer = Answer::Differing { files };
    match fits(&answer) {
        true => Ok(answer),
        false => Err(too_long_a_plan(count)),
    }
}

fn view_status(view: VolumeView) -> VolumeStatus {
    VolumeStatus {
        role: view.role.map(|role| match role {
            Role::Primary => RoleWord::Primary,
            Role::Replica => RoleWord::Replica,
        }),
        state: view.state,
        epoch: view.epoch.max(view.data_epoch),
        root: view.root.map(|root| Words::new(&root.to_string())),
        verified_unix_ms: view.verified_at,
        run: view.run,
        is_stopped: view.stopped,
    }
}

fn refuse(talk: &mut dyn Talk, failure: &Failure) {
    let _ = say(talk, &Answer::Failed(failure.into()));
}

fn unknown_key() -> Failure {
    Failure::new(FailureKind::Auth, "the cluster file has no such key")
        .hint("add the key of `lockstep node show` to the cluster file on every node")
}

/// Only nodes have a part in runs.
fn node(caller: &Caller) -> Result<&lockstep_cluster::value::NodeName, Failure> {
    match caller {
        Caller::Node(node) => Ok(node),
        Caller::Operator(_) => Err(Failure::new(
            FailureKind::Auth,
            format!("{caller} is no node: only a primary may do that"),
        )),
    }
}

fn here<'a>(
    config: &'a Config,
    volume: &VolumeName,
) -> Result<(&'a Volume, &'a AbsolutePath), Failure> {
    config.here(volume).ok_or_else(|| {
        Failure::new(
            FailureKind::Usage,
            format!("`{}` has no volume `{volume}`", config.node),
        )
        .hint("see that the cluster file is the same on every node")
    })
}

fn role(
    host: &Host,
    config: &Config,
    volume: &Volume,
    path: &AbsolutePath,
) -> Result<RoleWord, Words> {
    match host.role_of(config, volume, path) {
        Ok(Role::Primary) => Ok(RoleWord::Primary),
        Ok(Role::Replica) => Ok(RoleWord::Replica),
        Err(why) => Err(Words::new(&why)),
    }
}

fn history(config: &Config, path: &AbsolutePath) -> Result<Vec<PastRun>, Failure> {
    let failed = |error: &dyn std::error::Error| {
        Failure::new(
            FailureKind::Io,
            format!("the ledger of `{}`: {error}", config.node),
        )
    };
    // A place that is gone has the records of its name.
    let canonical = path.as_path().canonicalize();
    let canonical = canonical.unwrap_or_else(|_| path.as_path().to_path_buf());
    let key = VolumeKey::from_path(&canonical).map_err(|error| failed(&error))?;
    let ledger = Ledger::open(&config.state_dir).map_err(|error| failed(&error))?;
    let records = ledger.history(&key).map_err(|error| failed(&error))?;
    Ok(records.iter().map(past).collect())
}

fn past(record: &Record) -> PastRun {
    PastRun {
        run: Words::new(&record.run),
        epoch: record.epoch,
        state: match record.state {
            State::Consistent => NodeState::Consistent,
            State::Inconsistent => NodeState::Inconsistent,
            State::Failed => NodeState::Failed,
        },
        source: Words::new(&record.source),
        who: Words::new(&record.who),
        started_unix_ms: record.started_unix_ms,
        ended_unix_ms: record.ended_unix_ms,
        root: (record.root)
            .map(|root| Words::new(blake3::Hash::from_bytes(root).to_hex().as_str())),
        size: record.size,
        bytes_written: record.bytes_written,
        proof: Words::new(match record.proof {
            ProofLevel::Full => "full",
            ProofLevel::Delta => "delta",
        }),
        why: record.reason.as_deref().map(Words::new),
    }
}
