//! The primary's part: whatever is asked of a volume as a whole is asked here.
//!
//! ```text
//! names ─► may the caller? ─► roles: am I it? ─► healthy? ─► admitted: one run for a volume
//!   ─► every secondary lets the run in ─► files ─► stop ─► snapshot, scan, ship, verify, mark
//!   ─► files in place, configure, start, check ─► told, and remembered
//! ```
//!
//! | file | what it does |
//! | --- | --- |
//! | `authority` | who may ask what |
//! | `job` | what the names mean now: volumes, roles, secondaries |
//! | `runs` | the runs that are on, and who follows them |
//! | `part` | a secondary's part of a run |
//! | `resync` | overwrites; `compare`: plans and verifies |
//! | `files` | configuration files, from here to there |
//! | `owed` | what a killed agent left still |
//! | `rates` | how fast it went the last time |

mod authority;
mod compare;
mod files;
mod job;
mod owed;
mod part;
mod rates;
mod resync;
mod runs;
mod tell;
mod terms;

use std::sync::Arc;
use std::time::Duration;

use lockstep_cluster::claim::{Epoch, RunName};
use lockstep_cluster::plan::Plan;
use lockstep_engine::Cause;
use lockstep_protocol::{Failure, FailureKind};

pub use authority::Caller;
pub(crate) use compare::too_long_a_plan;
pub use job::{Job, own_role, roles};
pub(crate) use owed::thaw_owed;
pub use runs::{Live, Runs};
pub(crate) use terms::snapshot_choice;

use crate::config::Current;
use crate::crash;
use crate::reach::Reach;
use crate::talk::{Talk, hear, say};
use crate::wire::{Aim, Answer, Ended, LimitChange, MAX_PLANS, RunAsk, WireFailure};

/// How long a plan may take to arrive.
const PLAN_LIMIT: Duration = Duration::from_secs(10);

/// Hears how every resync ended; must return soon.
pub trait EndSink: Send + Sync {
    /// A resync is over.
    fn ended(&self, job: &Job, ended: &Ended, begun_unix_ms: u64, ended_unix_ms: u64);
}

/// A node's part as the primary of volumes.
pub struct Primary {
    current: Current,
    reach: Arc<dyn Reach>,
    runs: Runs,
    sink: Box<dyn EndSink>,
}

impl Primary {
    /// Of the node that this configuration names.
    #[must_use]
    pub fn new(current: Current, reach: Arc<dyn Reach>, sink: Box<dyn EndSink>) -> Self {
        Self {
            current,
            reach,
            runs: Runs::default(),
            sink,
        }
    }

    /// The way to the other nodes.
    #[must_use]
    pub fn reach(&self) -> &dyn Reach {
        &*self.reach
    }

    /// The runs that are on.
    #[must_use]
    pub fn runs(&self) -> &Runs {
        &self.runs
    }

    /// Carries out what is asked, and tells it over the call; a resync goes on without its caller.
    pub fn run(self: &Arc<Self>, talk: &mut dyn Talk, caller: &Caller, ask: RunAsk) {
        let begun = self
            .permit(caller, &ask)
            .and_then(|volumes| read_plans(talk, &ask, volumes))
            .and_then(|plans| self.begin(caller, ask, plans));
        match begun {
            Ok(live) => {
                // A caller that is gone misses the rest; what it cannot wait for any more may end.
                if live.follow(talk, false).is_err() && live.aim != Aim::Resync {
                    live.cancel.request(Cause::Abandoned);
                }
            }
            Err(failure) => refuse(talk, &failure),
        }
    }

    /// Follows the run of a volume or group.
    pub fn attach(&self, talk: &mut dyn Talk, caller: &Caller, name: &str) {
        let found = self.permitted(caller, name);
        match found {
            // Whether it could be told is the caller's affair.
            Ok(live) => drop(live.follow(talk, true)),
            Err(failure) => refuse(talk, &failure),
        }
    }

    /// Ends the run of a volume or group.
    pub fn cancel(&self, talk: &mut dyn Talk, caller: &Caller, name: &str) {
        match self.permitted_and_on(caller, name) {
            Ok(live) => {
                tracing::info!(run = %live.run, %caller, "cancelled");
                live.cancel.request(Cause::Abandoned);
                let _ = say(talk, &Answer::Done);
            }
            Err(failure) => refuse(talk, &failure),
        }
    }

    /// Changes what the run of a volume or group may use.
    pub fn limit(&self, talk: &mut dyn Talk, caller: &Caller, name: &str, change: LimitChange) {
        match self.permitted_and_on(caller, name) {
            Ok(live) => {
                tracing::info!(run = %live.run, %caller, ?change, "limits changed");
                change.apply(&live.limits, &self.current.get().own);
                let _ = say(talk, &Answer::Done);
            }
            Err(failure) => refuse(talk, &failure),
        }
    }

    fn permitted_and_on(&self, caller: &Caller, name: &str) -> Result<Arc<Live>, Failure> {
        let live = self.permitted(caller, name)?;
        match live.is_over() {
            false => Ok(live),
            true => Err(Failure::new(
                FailureKind::Usage,
                format!("no run of `{name}` is on"),
            )),
        }
    }

    fn permitted(&self, caller: &Caller, name: &str) -> Result<Arc<Live>, Failure> {
        let config = self.current.get();
        let selection = job::selected(&config, name, &[])?;
        for volume in &selection.volumes {
            caller.may_run(&config, volume)?;
        }
        let live = self.runs.named(name).ok_or_else(|| {
            Failure::new(FailureKind::Usage, format!("no run of `{name}` is on"))
                .hint("`lockstep history` tells of those that are over")
        })?;
        // A volume may be one of several of the run.
        for volume in &live.volumes {
            let known = config.cluster.volume(volume).ok_or_else(|| {
                let why = format!("`{volume}`, of the same run, is not in the cluster file now");
                Failure::new(FailureKind::Auth, why)
                    .hint("put it back, or let the run go to its end")
            })?;
            caller.may_run(&config, known)?;
        }
        Ok(live)
    }

    /// Names and rights, before anything else is heard; the number of volumes.
    fn permit(&self, caller: &Caller, ask: &RunAsk) -> Result<usize, Failure> {
        let config = self.current.get();
        let selection = job::selected(&config, ask.name.as_str(), &ask.nodes)?;
        for volume in &selection.volumes {
            caller.may_run(&config, volume)?;
        }
        Ok(selection.volumes.len())
    }

    /// Everything up to the point from which a run goes on by itself.
    fn begin(
        self: &Arc<Self>,
        caller: &Caller,
        ask: RunAsk,
        plans: Vec<Plan>,
    ) -> Result<Arc<Live>, Failure> {
        let config = self.current.get();
        let job = Job::resolve(&config, &*self.reach, caller, ask, plans)?;
        let (run, name) = random_run()?;
        if job.ask.aim == Aim::Resync {
            job.check_health(&run)?;
        }
        let mut live = Live::new(
            run.clone(),
            job.ask.aim,
            job.ask.name.to_string(),
            job.volumes
                .iter()
                .map(|volume| volume.name.clone())
                .collect(),
            Answer::Run {
                run: run.clone(),
                epoch: None,
                attached: false,
                aim: job.ask.aim,
                primary: config.node.clone(),
                targets: job.targets.clone(),
            },
        );
        live.limits = Arc::new(job.ask.terms.limits(&config.own));
        // Before the epoch is chosen: two runs of a volume would find the same one.
        let live = self.runs.admit(live, config.own.runs)?;
        let epoch = match job.ask.aim {
            Aim::Resync => match job.next_epoch(&*self.reach) {
                Ok(epoch) => Some(epoch),
                Err(failure) => {
                    self.runs.forget(&live);
                    return Err(failure);
                }
            },
            Aim::Plan | Aim::Verify => None,
        };
        live.has_epoch(epoch);
        let driven = Driven {
            primary: Arc::clone(self),
            live: Arc::clone(&live),
            job,
            name,
            epoch,
        };
        let spawned = std::thread::Builder::new()
            .name("run".to_owned())
            .spawn(move || driven.drive());
        if let Err(error) = spawned {
            let failure = Failure::new(FailureKind::Internal, error.to_string());
            live.end(Ended {
                run,
                epoch,
                volumes: Vec::new(),
                error: Some(WireFailure::from(&failure)),
            });
        }
        Ok(live)
    }
}

/// A run on its own thread.
struct Driven {
    primary: Arc<Primary>,
    live: Arc<Live>,
    job: Job,
    name: [u8; 16],
    epoch: Option<Epoch>,
}

impl Driven {
    fn drive(self) {
        let begun = now();
        crash::point("primary.admitted");
        // A defect must not leave the volume taken for ever.
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| match self.epoch {
            Some(epoch) => self.resync(epoch),
            None => self.compare(),
        }));
        let (volumes, error) = match ended {
            Ok(Ok(volumes)) => (volumes, None),
            Ok(Err(failure)) => (Vec::new(), Some(WireFailure::from(&failure))),
            Err(_) => {
                let failure = Failure::new(FailureKind::Internal, "a thread of the run panicked")
                    .hint("please report this with the agent's log");
                (Vec::new(), Some(WireFailure::from(&failure)))
            }
        };
        let ended = Ended {
            run: self.live.run.clone(),
            epoch: self.epoch,
            volumes,
            error,
        };
        if self.job.ask.aim == Aim::Resync {
            let sink = &self.primary.sink;
            let told = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                sink.ended(&self.job, &ended, begun, now());
            }));
            if told.is_err() {
                tracing::error!(run = %ended.run, "nobody is told of it: a thread panicked");
            }
            crash::point("primary.ended");
        }
        self.live.end(ended);
    }

    fn reach(&self) -> &dyn Reach {
        &*self.primary.reach
    }
}

/// The plans that follow what was asked.
fn read_plans(talk: &mut dyn Talk, ask: &RunAsk, volumes: usize) -> Result<Vec<Plan>, Failure> {
    let unread = |what: String| Failure::new(FailureKind::Usage, format!("a plan: {what}"));
    if ask.plans > MAX_PLANS || usize::from(ask.plans) > volumes {
        return Err(unread("there are too many".to_owned()));
    }
    (0..ask.plans)
        .map(|_| hear(talk, PLAN_LIMIT).map_err(|error| unread(error.to_string())))
        .collect()
}

fn refuse(talk: &mut dyn Talk, failure: &Failure) {
    // A caller that is gone needs no reason.
    let _ = say(talk, &Answer::Failed(failure.into()));
}

/// A name that no other run has.
fn random_run() -> Result<(RunName, [u8; 16]), Failure> {
    let mut bytes = [0; 16];
    let internal = |what: String| Failure::new(FailureKind::Internal, what);
    getrandom::fill(&mut bytes).map_err(|error| internal(format!("no random bytes: {error}")))?;
    let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let name = text
        .parse::<RunName>()
        .map_err(|_| internal("a bad name of a run".to_owned()))?;
    Ok((name, bytes))
}

/// Milliseconds since the Unix epoch.
pub(crate) fn now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}
