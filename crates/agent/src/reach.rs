//! How agents are reached by those who ask them something.

use std::net::IpAddr;
use std::time::Duration;

use lockstep_cluster::claim::RunName;
use lockstep_cluster::value::NodeName;
use lockstep_protocol::{Failure, FailureKind};

use crate::talk::{Talk, TalkError, hear, say};
use crate::wire::{Answer, Ask};

/// A call that was opened, and its first word said.
pub struct Reached {
    /// The call.
    pub talk: Box<dyn Talk>,
    /// Where the node was found.
    pub host: IpAddr,
}

/// A way to the agents of the cluster file.
pub trait Reach: Send + Sync {
    /// Opens a call to a node and says its first word.
    ///
    /// # Errors
    /// `Auth` if one of the two does not know the other's key, `Temporary` if the node does not answer.
    fn call(&self, node: &NodeName, ask: &Ask) -> Result<Reached, Failure>;

    /// The same for one of many calls of a run: those of one run to one node share connections, of
    /// which a key has few. They may end together.
    ///
    /// # Errors
    /// As [`Reach::call`].
    fn call_in(&self, run: &RunName, node: &NodeName, ask: &Ask) -> Result<Reached, Failure> {
        let _ = run;
        self.call(node, ask)
    }
}

/// Asks something that has one answer.
///
/// # Errors
/// What the node says, or why nothing was heard from it.
pub fn ask_once(
    reach: &dyn Reach,
    node: &NodeName,
    ask: &Ask,
    limit: Duration,
) -> Result<Answer, Failure> {
    let mut reached = reach.call(node, ask)?;
    match hear(&mut *reached.talk, limit) {
        Ok(Answer::Failed(failure)) => Err(said_by(node, failure.into())),
        Ok(answer) => Ok(answer),
        Err(error) => Err(unheard(node, &error)),
    }
}

/// Asks several nodes at once; the answers in their order.
pub fn ask_all(
    reach: &dyn Reach,
    nodes: &[NodeName],
    ask: &Ask,
    limit: Duration,
) -> Vec<Result<Answer, Failure>> {
    std::thread::scope(|scope| {
        let asked: Vec<_> = nodes
            .iter()
            .map(|node| scope.spawn(move || ask_once(reach, node, ask, limit)))
            .collect();
        asked
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| Err(defect())))
            .collect()
    })
}

fn defect() -> Failure {
    Failure::new(FailureKind::Internal, "a thread of lockstep panicked")
}

/// A failure that a node told, with its name.
#[must_use]
pub fn said_by(node: &NodeName, failure: Failure) -> Failure {
    Failure {
        message: format!("{node}: {}", failure.message),
        ..failure
    }
}

/// Why nothing more is heard from a node.
#[must_use]
pub fn unheard(node: &NodeName, error: &TalkError) -> Failure {
    let kind = match error {
        TalkError::Unread(_) => FailureKind::Internal,
        TalkError::Ended(_) | TalkError::Silent(_) => FailureKind::Temporary,
    };
    Failure::new(kind, format!("{node}: {error}")).hint(match kind {
        FailureKind::Internal => "install the same release of lockstep on every node",
        _ => "see that the agent runs there: `lockstep doctor` says what is wrong",
    })
}

/// An answer that does not belong to what was asked.
#[must_use]
pub fn out_of_turn(node: &NodeName) -> Failure {
    Failure::new(
        FailureKind::Internal,
        format!("{node}: the agent answered something else than it was asked"),
    )
    .hint("install the same release of lockstep on every node")
}

/// Says a message to a node.
///
/// # Errors
/// [`unheard`].
pub fn tell<T: serde::Serialize>(
    node: &NodeName,
    talk: &mut dyn Talk,
    message: &T,
) -> Result<(), Failure> {
    say(talk, message).map_err(|error| unheard(node, &error))
}
