//! The daemon: one UDP port, a thread for every call, and what goes on between calls.
//!
//! | thread | does |
//! | --- | --- |
//! | tokio's | packets, handshakes, calls on their way |
//! | one for each call | answers it, in blocking code |
//! | `tend` | looks after the node every second: what is known, what has expired |

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use lockstep_cluster::key::PrivateKey;
use lockstep_protocol::{Failure, FailureKind};
use lockstep_transport::control::{Incoming, PublicKey, Server, Trust};
use tokio::runtime::{Builder, Runtime};

use crate::answer::Answerer;
use crate::config::{Config, Current};
use crate::gate::PerKey;
use crate::host::Host;
use crate::net::{Net, NetTalk, addresses, usable};
use crate::primary::{Caller, EndSink, Primary, thaw_owed};
use crate::reach::Reach;

/// Threads that move packets of calls; the data of runs has its own.
const NET_THREADS: usize = 2;
/// Most calls that are answered at once, besides one for each volume here: that many are those of
/// runs that write. Who asks for more is told that the agent is busy.
const MAX_CALLS: usize = 256;
/// Most of them for one key, so that nobody can keep all others out; and one for each volume.
const MAX_CALLS_PER_KEY: usize = 32;
/// As many are left for operators and the node itself, whatever the other nodes do.
const KEPT_FOR_PEOPLE: usize = 64;
/// How often the node is looked after.
const TEND_EVERY: Duration = Duration::from_secs(1);
/// How often is looked for undos that have expired.
const EXPIRE_EVERY: Duration = Duration::from_secs(60);
/// How long an ending agent waits for runs to end.
const END_LIMIT: Duration = Duration::from_secs(90);

/// An agent at work.
pub struct Agent {
    current: Current,
    server: Arc<Server>,
    host: Arc<Host>,
    primary: Arc<Primary>,
    ending: Arc<Ending>,
    /// Last, for the others need it to end.
    runtime: Option<Runtime>,
}

#[derive(Default)]
struct Ending {
    is_asked: Mutex<bool>,
    news: Condvar,
    /// The node was looked after since somebody asked.
    is_alive: AtomicBool,
    calls: Mutex<Calls>,
}

/// The calls that are being answered.
#[derive(Default)]
struct Calls {
    counted: PerKey,
    of_nodes: usize,
}

/// Whoever has a key in the cluster file.
struct Known(Current);

impl Trust for Known {
    fn trusts(&self, key: &PublicKey) -> bool {
        let key = lockstep_cluster::key::PublicKey::from_bytes(key.0);
        Caller::of(&self.0.get(), &key).is_some()
    }
}

impl Agent {
    /// Looks after what an earlier process left, then listens.
    ///
    /// # Errors
    /// If the key is none, or the port or the state directory is not to be had.
    pub fn start(
        config: Config,
        key: &PrivateKey,
        sink: Box<dyn EndSink>,
    ) -> Result<Self, Failure> {
        let failed = |what: &str, error: std::io::Error| {
            Failure::new(FailureKind::Preflight, format!("{what}: {error}"))
        };
        let runtime = Builder::new_multi_thread()
            .worker_threads(NET_THREADS)
            .thread_name("net")
            .enable_all()
            .build()
            .map_err(|error| failed("no threads", error))?;
        let listen = listen_address(&config)?;
        let current = Current::new(config);
        let host = Arc::new(Host::new(current.clone()));
        host.recover();
        thaw_owed(&current.get());
        let named = current.clone();
        let net = Net::new(
            move || Arc::new(named.get().cluster.clone()),
            key,
            runtime.handle().clone(),
        )?;
        let net: Arc<dyn Reach> = Arc::new(net);
        host.ask_others_by(Arc::clone(&net));
        let primary = Arc::new(Primary::new(current.clone(), net, sink));
        let trust: Arc<dyn Trust> = Arc::new(Known(current.clone()));
        let server = {
            let _inside = runtime.enter();
            Server::bind(listen, usable(key)?, trust).map_err(|error| {
                let cause = std::error::Error::source(&error)
                    .map(|cause| format!(": {cause}"))
                    .unwrap_or_default();
                Failure::new(FailureKind::Preflight, format!("{listen}: {error}{cause}"))
                    .hint("see with `ss -lunp` who has that port, or set `listen` in agent.toml")
            })?
        };
        let agent = Self {
            current,
            server: Arc::new(server),
            host,
            primary,
            ending: Arc::default(),
            runtime: Some(runtime),
        };
        agent.open();
        agent.tend()?;
        Ok(agent)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> std::net::SocketAddr {
        self.server.local_addr()
    }

    /// From now on these files count; runs that are on go on by the earlier ones.
    pub fn reload(&self, config: Config) {
        self.current.set(config);
        self.host.refresh();
        if let Some(runtime) = &self.runtime {
            let _inside = runtime.enter();
            self.server.recheck();
        }
    }

    /// Whether the node was looked after since this was asked the last time.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.ending.is_alive.swap(false, Ordering::Relaxed)
    }

    /// Ends it: runs are cancelled, and what they stopped is started again where it may be.
    pub fn stop(mut self) {
        let begun = Instant::now();
        *(self.ending.is_asked.lock()).unwrap_or_else(PoisonError::into_inner) = true;
        self.ending.news.notify_all();
        self.primary.runs().cancel_all();
        self.host.end();
        while begun.elapsed() < END_LIMIT
            && !(self.primary.runs().are_over() && self.host.is_idle())
        {
            thread::sleep(Duration::from_millis(50));
        }
        if let Some(runtime) = self.runtime.take() {
            runtime.block_on(self.server.close("the agent ends"));
            runtime.shutdown_timeout(Duration::from_secs(2));
        }
    }

    /// Hands calls to threads.
    fn open(&self) {
        let Some(runtime) = &self.runtime else {
            return;
        };
        let answerer = Arc::new(Answerer::new(
            self.current.clone(),
            Arc::clone(&self.host),
            Arc::clone(&self.primary),
        ));
        let (server, ending) = (Arc::clone(&self.server), Arc::clone(&self.ending));
        let handle = runtime.handle().clone();
        let current = self.current.clone();
        runtime.spawn(async move {
            while let Some(incoming) = server.accept().await {
                let key = incoming.call.peer().0;
                let who = Who::of(&current.get(), key);
                let Some(counted) = Counted::new(&ending, who) else {
                    // Dropping the call says no; whoever comes again may find room.
                    tracing::warn!(from = %incoming.call.remote_address(), "too many calls at once");
                    continue;
                };
                let talk_on = handle.clone();
                let answerer = Arc::clone(&answerer);
                let spawned = thread::Builder::new()
                    .name("call".to_owned())
                    .spawn(move || {
                        let _counted = counted;
                        answer(&answerer, incoming, talk_on);
                    });
                if let Err(error) = spawned {
                    tracing::error!("a call is dropped, for there is no thread for it: {error}");
                }
            }
        });
    }

    fn tend(&self) -> Result<(), Failure> {
        let (host, ending) = (Arc::clone(&self.host), Arc::clone(&self.ending));
        let current = self.current.clone();
        let tend = move || {
            release_expired(&current.get());
            let mut expired = Instant::now();
            let mut asked = ending
                .is_asked
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            while !*asked {
                drop(asked);
                host.refresh();
                if expired.elapsed() >= EXPIRE_EVERY {
                    expired = Instant::now();
                    release_expired(&current.get());
                    host.settle_orphans();
                }
                ending.is_alive.store(true, Ordering::Relaxed);
                asked = ending
                    .is_asked
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                (asked, _) = (ending.news)
                    .wait_timeout_while(asked, TEND_EVERY, |asked| !*asked)
                    .unwrap_or_else(PoisonError::into_inner);
            }
        };
        (thread::Builder::new().name("tend".to_owned()).spawn(tend))
            .map(drop)
            .map_err(|error| Failure::new(FailureKind::Internal, error.to_string()))
    }
}

/// What was kept of overwritten volumes beyond its time goes without a run, too.
fn release_expired(config: &Config) {
    for volume in &config.cluster.volumes {
        if let Some((_, path)) = config.here(&volume.name) {
            lockstep_engine::release_expired_undos(&config.state_dir, path.as_path());
        }
    }
}

/// Whose call it is.
#[derive(Clone, Copy)]
struct Who {
    key: [u8; 32],
    /// An operator, or the node itself: not another node.
    is_person: bool,
    /// The volumes of the cluster file, each of which a run of the key may write.
    volumes: usize,
}

impl Who {
    fn of(config: &Config, key: [u8; 32]) -> Self {
        let owner = Caller::of(config, &lockstep_cluster::key::PublicKey::from_bytes(key));
        let is_person = match owner {
            Some(Caller::Operator(_)) => true,
            Some(Caller::Node(node)) => node == config.node,
            None => false,
        };
        Self {
            key,
            is_person,
            volumes: config.cluster.volumes.len(),
        }
    }
}

impl Calls {
    fn has_room(&self, who: Who) -> bool {
        let all = MAX_CALLS + who.volumes;
        self.counted.all < all
            && self.counted.of(&who.key) < MAX_CALLS_PER_KEY + who.volumes
            && (who.is_person || self.of_nodes < all - KEPT_FOR_PEOPLE)
    }

    fn begin(&mut self, who: Who) {
        self.counted.begin(who.key);
        self.of_nodes += usize::from(!who.is_person);
    }

    fn end(&mut self, who: Who) {
        self.counted.end(who.key);
        self.of_nodes -= usize::from(!who.is_person);
    }
}

/// One call that is being answered.
struct Counted {
    ending: Arc<Ending>,
    who: Who,
}

impl Counted {
    /// A place for a call, if there is one.
    fn new(ending: &Arc<Ending>, who: Who) -> Option<Self> {
        let mut calls = ending.calls.lock().unwrap_or_else(PoisonError::into_inner);
        if !calls.has_room(who) {
            return None;
        }
        calls.begin(who);
        drop(calls);
        Some(Self {
            ending: Arc::clone(ending),
            who,
        })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut calls = (self.ending.calls.lock()).unwrap_or_else(PoisonError::into_inner);
        calls.end(self.who);
    }
}

fn answer(answerer: &Answerer, incoming: Incoming, runtime: tokio::runtime::Handle) {
    let key = lockstep_cluster::key::PublicKey::from_bytes(incoming.call.peer().0);
    let from = incoming.call.remote_address();
    let mut talk = NetTalk::new(incoming.call, runtime);
    answerer.answer(&mut talk, &key, from, &incoming.first);
    talk.finish();
}

/// Where the agent listens: its own file's word, else its address in the cluster file.
fn listen_address(config: &Config) -> Result<std::net::SocketAddr, Failure> {
    let address = match (&config.own.listen, config.cluster.node(&config.node)) {
        (Some(listen), _) => listen,
        (None, Some(node)) => &node.address,
        (None, None) => {
            return Err(Failure::new(
                FailureKind::Usage,
                format!("the cluster file has no node `{}`", config.node),
            ));
        }
    };
    let found = addresses(address).map_err(|error| {
        Failure::new(
            FailureKind::Preflight,
            format!("cannot listen at {address}: {error}"),
        )
        .hint("set `listen` in agent.toml to an address of this machine")
    })?;
    found
        .first()
        .copied()
        .ok_or_else(|| Failure::new(FailureKind::Preflight, format!("{address} has no address")))
}

#[cfg(test)]
mod tests {
    use super::{Calls, KEPT_FOR_PEOPLE, MAX_CALLS, MAX_CALLS_PER_KEY, Who};
    use lockstep_cluster::file::MAX_VOLUMES;

    fn who(number: u8, is_person: bool, volumes: usize) -> Who {
        Who {
            key: [number; 32],
            is_person,
            volumes,
        }
    }

    /// How many calls of a key are let in.
    fn filled(calls: &mut Calls, who: Who) -> usize {
        let mut count = 0;
        while calls.has_room(who) {
            calls.begin(who);
            count += 1;
        }
        count
    }

    #[test]
    fn a_run_of_every_volume_there_may_be_has_room_beside_what_else_a_node_asks() {
        let node = who(1, false, MAX_VOLUMES);
        let mut calls = Calls::default();
        assert_eq!(filled(&mut calls, node), MAX_VOLUMES + MAX_CALLS_PER_KEY);
        // Another primary may wait for all of it, too.
        let other = who(2, false, MAX_VOLUMES);
        assert!(filled(&mut calls, other) >= MAX_VOLUMES);
        calls.end(node);
        assert!(calls.has_room(node));
    }

    #[test]
    fn nobody_keeps_all_others_out_and_nodes_never_keep_people_out() {
        let mut calls = Calls::default();
        let of_nodes: usize = (0..64)
            .map(|it| filled(&mut calls, who(it, false, 2)))
            .sum();
        assert_eq!(of_nodes, MAX_CALLS + 2 - KEPT_FOR_PEOPLE);
        let person = who(100, true, 2);
        assert_eq!(filled(&mut calls, person), MAX_CALLS_PER_KEY + 2);
        let others: usize = (101..120)
            .map(|it| filled(&mut calls, who(it, true, 2)))
            .sum();
        assert_eq!(of_nodes + MAX_CALLS_PER_KEY + 2 + others, MAX_CALLS + 2);
        (0..MAX_CALLS_PER_KEY + 2).for_each(|_| calls.end(person));
        assert!(
            !calls.counted.by_key.contains_key(&person.key),
            "what ended leaves nothing"
        );
    }
}
