//! The connections that this end's calls go over: a run's calls to a node share them.
//!
//! A node allows few connections to a key, and a run has a call for each volume of a group. Calls
//! that belong to no run have a connection of their own: one that has died without a word would
//! hold them up for as long as that takes to come out.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use lockstep_cluster::claim::RunName;
use lockstep_cluster::value::NodeName;
use lockstep_transport::control::{CALLS_PER_CONNECTION, Call, CallError, Connection, PublicKey};
use tokio::runtime::Handle;

/// How long the end of everything waits for goodbyes to leave.
const PARTING: Duration = Duration::from_millis(200);

/// The open connections of each run to each node.
type OfRuns = HashMap<(RunName, NodeName), Vec<Weak<Line>>>;

/// Connections with calls on them; each is closed when its last call is over.
pub(crate) struct Lines {
    runtime: Handle,
    of_runs: Mutex<OfRuns>,
    leaving: Arc<Leaving>,
}

struct Line {
    /// None once it is being closed.
    connection: Option<Connection>,
    calls: AtomicUsize,
    runtime: Handle,
    leaving: Arc<Leaving>,
}

/// A call's place on a connection.
pub(crate) struct Place(Arc<Line>);

/// Goodbyes that are on their way out.
#[derive(Default)]
struct Leaving {
    count: Mutex<usize>,
    fewer: Condvar,
}

impl Lines {
    pub(crate) fn new(runtime: Handle) -> Self {
        Self {
            runtime,
            of_runs: Mutex::default(),
            leaving: Arc::default(),
        }
    }

    /// A place on a connection of the run's to a node that has one of its keys still.
    pub(crate) fn place(
        &self,
        run: &RunName,
        node: &NodeName,
        is_peer: impl Fn(PublicKey) -> bool,
    ) -> Option<Place> {
        let of_runs = self.of_runs();
        let lines = of_runs.get(&(run.clone(), node.clone()))?;
        let mut open = lines.iter().filter_map(Weak::upgrade);
        open.find_map(|line| line.place(&is_peer))
    }

    /// The first place on a new connection, which is the run's if there is one.
    pub(crate) fn begin(
        &self,
        connection: Connection,
        run: Option<&RunName>,
        node: &NodeName,
    ) -> Place {
        let line = Arc::new(Line {
            connection: Some(connection),
            calls: AtomicUsize::new(1),
            runtime: self.runtime.clone(),
            leaving: Arc::clone(&self.leaving),
        });
        if let Some(run) = run {
            let mut of_runs = self.of_runs();
            of_runs.retain(|_, lines| {
                lines.retain(|line| line.strong_count() > 0);
                !lines.is_empty()
            });
            let lines = of_runs.entry((run.clone(), node.clone())).or_default();
            lines.push(Arc::downgrade(&line));
        }
        Place(line)
    }

    fn of_runs(&self) -> MutexGuard<'_, OfRuns> {
        self.of_runs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A process that ends at once would leave its connections to the other ends' patience.
impl Drop for Lines {
    fn drop(&mut self) {
        self.leaving.wait();
    }
}

impl Line {
    fn place(self: Arc<Self>, is_peer: &impl Fn(PublicKey) -> bool) -> Option<Place> {
        let connection = self.connection.as_ref()?;
        if !connection.is_open() || !is_peer(connection.peer()) {
            return None;
        }
        let one_more = |calls| (calls < CALLS_PER_CONNECTION).then_some(calls + 1);
        let (set, get) = (Ordering::SeqCst, Ordering::SeqCst);
        (self.calls.fetch_update(set, get, one_more))
            .is_ok()
            .then(|| Place(Arc::clone(&self)))
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            let leaving = self.leaving.one_more();
            self.runtime.spawn(async move {
                connection.close("done").await;
                drop(leaving);
            });
        }
    }
}

impl Place {
    /// Begins its call.
    pub(crate) async fn call(&self) -> Result<Call, CallError> {
        match &self.0.connection {
            Some(connection) => connection.call().await,
            None => Err(CallError::Closed {
                reason: "the connection was closed here".to_owned(),
            }),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.calls.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A goodbye that has left, or will not, when it is dropped.
struct Goodbye(Arc<Leaving>);

impl Leaving {
    fn one_more(self: &Arc<Self>) -> Goodbye {
        *self.count() += 1;
        Goodbye(Arc::clone(self))
    }

    fn wait(&self) {
        let count = self.count();
        // Too late is no harm: the other ends find out by themselves.
        let _ = (self.fewer).wait_timeout_while(count, PARTING, |count| *count > 0);
    }

    fn count(&self) -> MutexGuard<'_, usize> {
        self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Goodbye {
    fn drop(&mut self) {
        *self.0.count() -= 1;
        self.0.fewer.notify_all();
    }
}
