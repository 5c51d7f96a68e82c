//! The secondary's part of a run: claim, stop, serve, mark, configure, start.
//!
//! Promise: a volume of this node is written only by the newest run that was let in, of a node that
//! may be its primary; `configure` and `start` run only on data that is consistent, or that nothing
//! was done to, whatever crashed; and what was stopped is started again as soon as that holds.
//!
//! ```text
//!  ask ─► permit ─► role ─► adopted? ─► gatekeeper ─► Granted
//!            │ no      │       │ no        │ older, other
//!            └─────────┴───────┴───────────┴──► Refused: nothing was touched
//!
//!  Granted ─► files put aside ─► note, `stop` ─► port, engine ─► Served ─► Conclude
//!     │             │                │                │             │         │
//!     └─────────────┴────────────────┴────────────────┴─────────────┴─────────┤
//!        the call is lost, or a newer run waits: the engine ends first        ▼
//!                                                       fate: what may run (`fate.rs`)
//!                                                             │
//!                          files ─► `configure` ─► `start` ─► note removed ─► `check`
//! ```
//!
//! | what is durable | services | what happens to them at the agent's start |
//! | --- | --- | --- |
//! | no note | up | nothing |
//! | a note, the ledger as it was | may be down | `start`, `check`, if the data was neither inconsistent nor failed, and they had been up before |
//! | a note, consistent by its run | down | files, `configure`, `start`, `check`; in a group only if each volume of it is |
//! | a note, anything else | down | nothing: the next run that makes the data consistent starts them |
//! | a note that is damaged | down | nothing, and a warning |
//!
//! Who may write is `lockstep_cluster::claim`'s table; its effects are carried out in `seat`.

mod compare;
mod facts;
mod fate;
mod ground;
mod note;
mod permit;
mod seat;
mod serve;
mod session;
mod settle;
mod turn;
mod undo;
mod view;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use lockstep_cluster::claim::{Claim, Epoch, Refusal, RunName};
use lockstep_cluster::file::{Group, Primary, Volume};
use lockstep_cluster::plan::NodeState;
use lockstep_cluster::roles::Role;
use lockstep_cluster::value::{AbsolutePath, NodeName, VolumeId, VolumeName};
use lockstep_engine::{Reuse, ServeOptions, UndoPolicy};
use lockstep_protocol::{Failure, FailureKind};
use lockstep_volume::{IoEngine, Priority, probe_uring};

pub use view::VolumeView;

use self::ground::{Ground, Look};
use self::note::Found;
use self::permit::{guard, may_write, static_role};
use self::seat::{Held, NotIn, Seat};
use self::session::Session;
use self::settle::Services;
use self::turn::Turn;
use crate::config::{Config, Current};
use crate::hook::{About, end_leftovers};
use crate::reach::Reach;
use crate::talk::{Talk, say};
use crate::wire::{CLAIM_IN_LINE, HostTell, WireFailure, WriteAsk};

/// Most threads that hash in one run.
const MAX_THREADS: usize = 256;

/// A node's volumes, as other nodes' runs find them; one for each agent.
pub struct Host {
    current: Current,
    seats: Mutex<HashMap<VolumeId, Arc<Seat>>>,
    views: Mutex<BTreeMap<VolumeName, VolumeView>>,
    /// Runs that are served now, and comparisons.
    served: Arc<AtomicUsize>,
    compared: Arc<AtomicUsize>,
    /// How the other nodes are asked for their roles.
    others: OnceLock<Arc<dyn Reach>>,
    is_ending: AtomicBool,
}

/// Why a run is not let in.
struct Refused {
    failure: Failure,
    promised: Option<Epoch>,
}

impl From<Failure> for Refused {
    fn from(failure: Failure) -> Self {
        Self {
            failure,
            promised: None,
        }
    }
}

/// Room for one run; let go when it is dropped.
struct Slot(Arc<AtomicUsize>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Host {
    /// The host of an agent. [`Host::recover`] comes before the first call.
    #[must_use]
    pub fn new(current: Current) -> Self {
        Self {
            current,
            seats: Mutex::default(),
            views: Mutex::default(),
            served: Arc::default(),
            compared: Arc::default(),
            others: OnceLock::new(),
            is_ending: AtomicBool::new(false),
        }
    }

    /// Who is primary is asked of the other nodes this way, where probes decide.
    pub fn ask_others_by(&self, reach: Arc<dyn Reach>) {
        // Only the first way counts.
        let _ = self.others.set(reach);
    }

    fn current(&self) -> &Current {
        &self.current
    }

    /// Carries a run's call to its end. Blocks for as long as the run lasts.
    pub fn write(&self, talk: &mut dyn Talk, caller: &NodeName, ask: &WriteAsk) {
        let config = self.current.get();
        match self.let_in(&config, caller, ask) {
            Ok(entered) => {
                self.see(&config, &ask.volume);
                let session = Session {
                    host: self,
                    services: Services {
                        config: &config,
                        volume: entered.volume,
                        path: entered.path,
                        ground: &entered.ground,
                    },
                    held: entered.held,
                    ask,
                    device: entered.look.device,
                    turn: Turn::Granted,
                    differing: Vec::new(),
                    staged: Vec::new(),
                    unstaged: None,
                    note: None,
                };
                session.run(talk, entered.look.state, &|| self.see(&config, &ask.volume));
            }
            Err(Refused { failure, promised }) => {
                let why = &failure.message;
                tracing::warn!(volume = %ask.volume, "run {} of `{caller}` is refused: {why}", ask.run);
                let failure = WireFailure::from(&failure);
                // Whoever is gone needs no answer.
                let _ = say(talk, &HostTell::Refused { failure, promised });
            }
        }
        self.see(&config, &ask.volume);
    }

    fn let_in<'a>(
        &self,
        config: &'a Config,
        caller: &NodeName,
        ask: &WriteAsk,
    ) -> Result<Entered<'a>, Refused> {
        let (volume, path) = may_write(config, caller, &ask.volume, ask.id)?;
        if self.is_ending.load(Ordering::SeqCst) {
            let why = format!("the agent of `{}` ends", config.node);
            return Err(Failure::new(FailureKind::Temporary, why).into());
        }
        if ask.group && !(config.cluster.groups.iter()).any(|it| it.volumes.contains(&ask.volume)) {
            let why = format!("`{}` is in no group here", ask.volume);
            return Err(guard(why, "lay the same cluster file on both nodes").into());
        }
        let ground = ground_of(config, volume, path);
        let seat = self.seat(config, volume, &ground)?;
        let promised = seat.newest_epoch().filter(|promised| ask.epoch < *promised);
        if let Some(promised) = promised {
            return Err(refusal(Refusal::Fenced { promised }));
        }
        let look = ground.look()?;
        self.refuse_a_primary(config, volume, path, &ground)?;
        self.refuse_another_primary(volume, caller, config)?;
        // A newer run takes the place of the one that it fences, and a group has one.
        let slot = match seat.holder().is_some() || (ask.group && self.has_part(&ask.run, caller)) {
            true => None,
            false => Some(Self::slot(&self.served, config)?),
        };
        refuse_foreign_data(config, ask, &ground, &look)?;
        let claim = Claim {
            epoch: ask.epoch,
            run: ask.run.clone(),
            source: caller.clone(),
            volume: ask.id,
        };
        let held = seat
            .enter(&claim, &look.device, &ground, CLAIM_IN_LINE)
            .map_err(not_in)?;
        // The run before it may have changed what it says.
        let look = Look {
            device: look.device,
            ..ground.look()?
        };
        Ok(Entered {
            volume,
            path,
            ground,
            held,
            look,
            _slot: slot,
        })
    }

    /// The volume's seat, from what was promised before.
    fn seat(
        &self,
        config: &Config,
        volume: &Volume,
        ground: &Ground,
    ) -> Result<Arc<Seat>, Failure> {
        let mut seats = self.seats.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(seat) = seats.get(&volume.id) {
            return Ok(Arc::clone(seat));
        }
        let role = static_role(config, volume).unwrap_or(Role::Replica);
        let seat = Seat::restore(ground, role)?;
        seats.insert(volume.id, Arc::clone(&seat));
        Ok(seat)
    }

    /// Whether a run of that node has another volume here already.
    fn has_part(&self, run: &RunName, caller: &NodeName) -> bool {
        let seats = self.seats.lock().unwrap_or_else(PoisonError::into_inner);
        let mut holders = seats.values().filter_map(|seat| seat.holder());
        holders.any(|claim| claim.run == *run && claim.source == *caller)
    }

    /// Room for one more run or comparison, if `agent.toml` has it.
    fn slot(count: &Arc<AtomicUsize>, config: &Config) -> Result<Slot, Failure> {
        let slot = Slot(Arc::clone(count));
        if count.fetch_add(1, Ordering::SeqCst) >= config.own.runs {
            let why = format!("`{}` serves {} runs already", config.node, config.own.runs);
            return Err(Failure::new(FailureKind::Busy, why)
                .hint("wait for one to end, or raise `runs` in its agent.toml"));
        }
        Ok(slot)
    }

    /// Ends what is being served; each call brings its services back as far as they may run.
    pub fn end(&self) {
        self.is_ending.store(true, Ordering::SeqCst);
        let seats = self.seats.lock().unwrap_or_else(PoisonError::into_inner);
        seats.values().for_each(|seat| seat.abandon());
    }

    /// Whether nothing is being served.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        let seats = self.seats.lock().unwrap_or_else(PoisonError::into_inner);
        self.served.load(Ordering::SeqCst) == 0
            && seats.values().all(|seat| seat.holder().is_none())
    }

    /// Ends the hooks that a crash left at work, then brings back the services that it left down, as far
    /// as their data lets them run. Before the first call; what it did is in the log.
    pub fn recover(&self) {
        end_leftovers(&self.current.get().state_dir);
        self.settle_orphans();
        self.refresh();
    }

    /// Brings back services whose run is over, and whose fate could not be decided then.
    pub fn settle_orphans(&self) {
        let config = self.current.get();
        let notes = note::Notes::at(&config.state_dir);
        for id in notes.volumes() {
            let Found::Whole(note) = notes.read(id) else {
                continue;
            };
            let volume = config.cluster.volumes.iter().find(|it| it.id == id);
            let Some((volume, path)) = volume.and_then(|volume| config.here(&volume.name)) else {
                tracing::warn!(
                    "services of `{}` stay stopped: the cluster file has no such volume here",
                    note.volume
                );
                continue;
            };
            let ground = ground_of(&config, volume, path);
            let seat = match self.seat(&config, volume, &ground) {
                Ok(seat) => seat,
                Err(failure) => {
                    tracing::error!("{}", failure.message);
                    continue;
                }
            };
            let services = Services {
                config: &config,
                volume,
                path,
                ground: &ground,
            };
            // A run that is on, or waits, has its own word on them.
            let Some(_reserved) = seat.reserve() else {
                continue;
            };
            let _hands = seat.hands();
            let Found::Whole(note) = notes.read(id) else {
                continue;
            };
            match self.role_of(&config, volume, path) {
                Ok(Role::Replica) => {
                    services.settle(*note, false, &|| false);
                }
                Ok(Role::Primary) => services.leave_to_primary(&note),
                Err(why) => tracing::warn!(volume = %volume.name, "services stay stopped: {why}"),
            }
        }
    }

    /// This node's role: by the file, by its probe, or that of a replica where the probe cannot
    /// answer because a run of ours stopped what it asks.
    pub fn role_of(
        &self,
        config: &Config,
        volume: &Volume,
        path: &AbsolutePath,
    ) -> Result<Role, String> {
        let Primary::Probe(argv) = &volume.primary else {
            return Ok(static_role(config, volume).unwrap_or(Role::Replica));
        };
        let about = About {
            volume,
            path,
            node: &config.node,
            primary: None,
            run: None,
            state: NodeState::Unknown,
            state_dir: &config.state_dir,
        };
        about.probe(argv).or_else(
            |why| match note::Notes::at(&config.state_dir).read(volume.id) {
                Found::Nothing => Err(why),
                Found::Whole(_) | Found::Damaged => Ok(Role::Replica),
            },
        )
    }

    /// Whoever is primary is never overwritten, and whoever does not know is not either.
    fn refuse_a_primary(
        &self,
        config: &Config,
        volume: &Volume,
        path: &AbsolutePath,
        ground: &Ground,
    ) -> Result<(), Failure> {
        match self.role_of(config, volume, path) {
            Ok(role) => {
                self.seat(config, volume, ground)?.set_role(role, ground);
                match role {
                    Role::Replica => Ok(()),
                    Role::Primary => Err(guard(
                        format!(
                            "`{}` says that it is the primary of `{}`",
                            config.node, volume.name
                        ),
                        "a primary is never overwritten; look who is primary, then run the command there",
                    )),
                }
            }
            Err(why) => Err(guard(
                format!(
                    "`{}` does not know whether it is the primary of `{}`: {why}",
                    config.node, volume.name
                ),
                "run the probe there by hand; it has to print `replica` and exit 0",
            )),
        }
    }

    /// Where probes decide, a caller is the primary only if every other node says so too.
    fn refuse_another_primary(
        &self,
        volume: &Volume,
        caller: &NodeName,
        config: &Config,
    ) -> Result<(), Failure> {
        let (Primary::Probe(_), Some(reach)) = (&volume.primary, self.others.get()) else {
            return Ok(());
        };
        let own = Some((&config.node, Ok(Role::Replica)));
        let found = crate::primary::roles(volume, &**reach, own)?;
        match found.primary == *caller {
            true => Ok(()),
            false => Err(Failure::new(
                FailureKind::Auth,
                format!(
                    "`{caller}` is not the primary of `{}`: `{}` is",
                    volume.name, found.primary
                ),
            )
            .hint("run the command again: the primary's agent is found by itself")),
        }
    }
}

fn group_of<'a>(config: &'a Config, volume: &VolumeName) -> Option<&'a Group> {
    let mut groups = config.cluster.groups.iter();
    groups.find(|group| group.volumes.contains(volume))
}

/// A run that may write.
struct Entered<'a> {
    volume: &'a Volume,
    path: &'a AbsolutePath,
    ground: Ground,
    held: Held,
    look: Look,
    _slot: Option<Slot>,
}

fn ground_of(config: &Config, volume: &Volume, path: &AbsolutePath) -> Ground {
    Ground {
        id: volume.id,
        path: path.as_path().to_path_buf(),
        state_dir: config.state_dir.clone(),
        node: config.node.clone(),
    }
}

/// What every run and comparison here has in common.
fn serve_options(config: &Config, ground: &Ground, who: String) -> ServeOptions {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    ServeOptions {
        path: ground.path.clone(),
        state_dir: ground.state_dir.clone(),
        who,
        memory: config.own.memory.0,
        threads: threads.min(MAX_THREADS),
        priority: Priority::Normal,
        io: match probe_uring() {
            Ok(()) => IoEngine::Uring,
            Err(_) => IoEngine::Threads,
        },
        reuse: Reuse::default(),
        undo: UndoPolicy::default(),
        epoch: 0,
        only_compare: false,
        image: None,
        device: None,
    }
}

/// Data that Lockstep never wrote is somebody's.
fn refuse_foreign_data(
    config: &Config,
    ask: &WriteAsk,
    ground: &Ground,
    look: &Look,
) -> Result<(), Failure> {
    if ask.adopt || look.record.is_some() || !look.exists || ground.is_blank()? {
        return Ok(());
    }
    let why = format!(
        "`{}` on `{}` holds data that lockstep never wrote",
        ask.volume, config.node
    );
    let hint = format!("if it may be lost, add --adopt {}", config.node);
    Err(guard(why, &hint))
}

fn not_in(why: NotIn) -> Refused {
    let busy =
        |what: &str, hint: &str| Refused::from(Failure::new(FailureKind::Busy, what).hint(hint));
    match why {
        NotIn::Refused(why) => refusal(why),
        NotIn::Twice => busy(
            "this very run is being served already",
            "wait for it to end",
        ),
        NotIn::Reserved => busy(
            "the volume is being brought back to what it was",
            "wait for `lockstep undo` to end",
        ),
        NotIn::TimedOut => busy(
            "the earlier run did not end in time",
            "see what it waits for with `lockstep status`, then try again",
        ),
    }
}

fn refusal(why: Refusal) -> Refused {
    let (kind, hint, promised) = match &why {
        Refusal::Primary => (FailureKind::Guard, "a primary is never overwritten", None),
        Refusal::Fenced { promised } => (
            FailureKind::Fenced,
            "a newer run took over: look at `lockstep status`",
            Some(*promised),
        ),
        Refusal::Taken { epoch, .. } => (
            FailureKind::Fenced,
            "use a higher epoch; two runs never have the same",
            Some(*epoch),
        ),
        Refusal::OtherVolume | Refusal::OtherDevice => {
            (FailureKind::Guard, "run the same command again", None)
        }
        Refusal::NotReady => (
            FailureKind::Io,
            "look at the disk and the state directory of that node",
            None,
        ),
    };
    Refused {
        failure: Failure::new(kind, why.to_string()).hint(hint),
        promised,
    }
}

#[cfg(test)]
mod tests;
