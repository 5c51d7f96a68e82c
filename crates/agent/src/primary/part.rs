//! A secondary's part of a run, as the primary sees it: one call, from the claim to the end.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lockstep_cluster::claim::Epoch;
use lockstep_cluster::file::{Limits, Moment};
use lockstep_cluster::plan::NodeState;
use lockstep_cluster::value::NodeName;
use lockstep_engine::{Cancel, Connect, Connected};
use lockstep_protocol::{Failure, FailureKind};
use lockstep_transport::quic::{OneTimeKey, PublicKey, QuicOptions, dial};

use crate::reach::{Reached, out_of_turn, said_by, tell, unheard};
use crate::talk::{Talk, TalkError, hear};
use crate::wire::{Aftermath, CLAIM_ANSWER, HostBid, HostTell, RunTerms, ServingAt};

/// How often is looked whether a run that waits for an answer was cancelled.
const GLANCE: Duration = Duration::from_millis(500);
/// How long it may take to open a port.
const SERVE_LIMIT: Duration = Duration::from_secs(60);
/// How long the data's connection may take.
const DIAL_LIMIT: Duration = Duration::from_secs(10);
/// How long it may take to say how its part ended, once the data's connection has.
const SERVED_LIMIT: Duration = Duration::from_secs(120);
/// What a hook may take beyond its limit: killing it, and telling.
const GRACE: Duration = Duration::from_secs(30);

/// What a secondary answers a run that wants in.
pub(super) enum Opened {
    /// The run may write.
    Granted(Part),
    /// It may not; the epoch is what fences it, if that is why.
    Refused(Failure, Option<Epoch>),
}

/// A call to a secondary.
pub(super) struct Part {
    node: NodeName,
    host: IpAddr,
    talk: Mutex<Box<dyn Talk>>,
    served: Mutex<Option<Served>>,
}

/// How the data's part ended there.
#[derive(Clone, Debug)]
pub(super) struct Served {
    pub(super) state: NodeState,
    pub(super) root: Option<[u8; 32]>,
    pub(super) failure: Option<Failure>,
}

impl Part {
    /// A call whose first word asked for a part in a run: waits for the answer, unless the run is
    /// cancelled.
    pub(super) fn opened(
        node: &NodeName,
        reached: Reached,
        cancel: &Cancel,
    ) -> Result<Opened, Failure> {
        let part = Part {
            node: node.clone(),
            host: reached.host,
            talk: Mutex::new(reached.talk),
            served: Mutex::default(),
        };
        match part.answer(cancel)? {
            HostTell::Granted { .. } => Ok(Opened::Granted(part)),
            HostTell::Refused { failure, promised } => {
                Ok(Opened::Refused(said_by(node, failure.into()), promised))
            }
            _ => Err(out_of_turn(node)),
        }
    }

    pub(super) fn node(&self) -> &NodeName {
        &self.node
    }

    /// Says something and waits for what is said to that.
    pub(super) fn bid(&self, bid: &HostBid, limit: Duration) -> Result<HostTell, Failure> {
        tell(&self.node, &mut **self.talk(), bid)?;
        self.hear(limit)
    }

    /// Says something.
    pub(super) fn say(&self, bid: &HostBid) -> Result<(), Failure> {
        tell(&self.node, &mut **self.talk(), bid)
    }

    /// Sends bytes that follow what was said.
    pub(super) fn send(&self, bytes: bytes::Bytes) -> Result<(), Failure> {
        (self.talk().send(bytes)).map_err(|error| unheard(&self.node, &error))
    }

    /// Lets the services stop.
    pub(super) fn stop(&self, limits: &Limits, aftermath: &mut Aftermath) -> Result<(), Failure> {
        let limit = limits.at(Moment::Stop) + GRACE;
        match self.bid(&HostBid::Stop, limit)? {
            HostTell::Stopped { hooks, failure } => {
                aftermath.ran(hooks);
                failure.map_or(Ok(()), |failure| Err(said_by(&self.node, failure.into())))
            }
            _ => Err(out_of_turn(&self.node)),
        }
    }

    /// How the data's part ended there; asked for once the engine has heard, or given up.
    pub(super) fn served(&self) -> Result<Served, Failure> {
        let mut served = self.served.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(served) = &*served {
            return Ok(served.clone());
        }
        let heard = match self.hear(SERVED_LIMIT)? {
            HostTell::Served {
                state,
                root,
                failure,
            } => Served {
                state,
                root: root.map(|root| root.0),
                failure: failure.map(|failure| said_by(&self.node, failure.into())),
            },
            _ => return Err(out_of_turn(&self.node)),
        };
        *served = Some(heard.clone());
        Ok(heard)
    }

    /// The end: files, `configure`, `start` and `check` where the data may be used.
    pub(super) fn conclude(
        &self,
        usable: bool,
        limits: &Limits,
        aftermath: &mut Aftermath,
    ) -> Result<(), Failure> {
        let hooks = [Moment::Configure, Moment::Start, Moment::Check];
        let limit = hooks
            .map(|moment| limits.at(moment))
            .into_iter()
            .sum::<Duration>()
            + GRACE;
        match self.bid(&HostBid::Conclude { usable }, limit)? {
            HostTell::Concluded {
                files,
                files_left_out,
                hooks,
                downtime_seconds,
                failure,
                state: _,
            } => {
                aftermath.placed(files, files_left_out);
                aftermath.ran(hooks);
                aftermath.downtime_seconds = downtime_seconds;
                failure.map_or(Ok(()), |failure| Err(said_by(&self.node, failure.into())))
            }
            _ => Err(out_of_turn(&self.node)),
        }
    }

    fn answer(&self, cancel: &Cancel) -> Result<HostTell, Failure> {
        let deadline = Instant::now() + CLAIM_ANSWER;
        loop {
            match hear(&mut **self.talk(), GLANCE) {
                Err(TalkError::Silent(_)) if cancel.cause().is_some() => {
                    let why = format!("{}: the run was cancelled while it waited", self.node);
                    return Err(Failure::new(FailureKind::Temporary, why));
                }
                Err(TalkError::Silent(_)) if Instant::now() < deadline => {}
                heard => return heard.map_err(|error| unheard(&self.node, &error)),
            }
        }
    }

    fn hear(&self, limit: Duration) -> Result<HostTell, Failure> {
        hear(&mut **self.talk(), limit).map_err(|error| unheard(&self.node, &error))
    }

    fn talk(&self) -> MutexGuard<'_, Box<dyn Talk>> {
        self.talk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The data's way to a secondary: a port that its agent opens for this run alone.
pub(super) struct Way {
    pub(super) part: Arc<Part>,
    pub(super) terms: RunTerms,
}

impl Connect for Way {
    fn connect(self: Box<Self>) -> Result<Connected, Failure> {
        let key = OneTimeKey::generate()
            .map_err(|error| Failure::new(FailureKind::Internal, error.to_string()))?;
        let bid = HostBid::Serve(self.terms.for_target(key.public_key().0));
        let at = match self.part.bid(&bid, SERVE_LIMIT)? {
            HostTell::Serving(at) => at,
            HostTell::Served { failure, .. } => return Err(self.unserved(failure.map(Into::into))),
            _ => return Err(out_of_turn(&self.part.node)),
        };
        self.dial(key, &at)
    }
}

impl Way {
    fn unserved(&self, failure: Option<Failure>) -> Failure {
        let silent = || Failure::new(FailureKind::Internal, "it serves nothing, and says not why");
        said_by(&self.part.node, failure.unwrap_or_else(silent))
    }

    fn dial(&self, key: OneTimeKey, at: &ServingAt) -> Result<Connected, Failure> {
        let connections = at.ports.len().saturating_sub(1).max(1);
        let options = QuicOptions {
            connections,
            rate: self.terms.rate,
            ..QuicOptions::default()
        };
        // The port is the listener's; what stands here is not looked at.
        let address = SocketAddr::new(self.part.host, 0);
        let (peer, token) = (PublicKey(at.key.0), at.token.0);
        let link = dial(&[address], &at.ports, key, peer, token, options, DIAL_LIMIT);
        let link = link.map_err(|error| {
            Failure::new(
                FailureKind::Temporary,
                format!(
                    "{}: the data's port cannot be reached: {error}",
                    self.part.node
                ),
            )
            .hint("let UDP to that node through on every port, then run the same command again")
        })?;
        Ok(Connected {
            link,
            warning: None,
            lifeline: Box::new(()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{Opened, Part};
    use crate::reach::Reached;
    use crate::talk::pair::pair;
    use crate::talk::say;
    use crate::wire::{CLAIM_ANSWER, CLAIM_IN_LINE, HostTell, WireFailure, Words};
    use lockstep_engine::{Cancel, Cause};
    use lockstep_protocol::FailureKind;
    use std::net::{IpAddr, Ipv4Addr};
    use std::sync::Arc;
    use std::thread;
    use std::time::{Duration, Instant};

    #[test]
    fn who_waits_for_a_secondary_hears_its_answer_or_that_the_run_was_cancelled() {
        const { assert!(CLAIM_ANSWER.as_secs() > CLAIM_IN_LINE.as_secs()) };
        let node = "b".parse().unwrap();
        let reached = |end| Reached {
            talk: Box::new(end),
            host: IpAddr::V4(Ipv4Addr::LOCALHOST),
        };
        let (near, mut far) = pair();
        let refusing = thread::spawn(move || {
            thread::sleep(Duration::from_millis(1200));
            let failure = WireFailure {
                exit_code: 22,
                message: Words::new("the earlier run did not end in time"),
                hint: Words::default(),
            };
            let promised = None;
            say(&mut far, &HostTell::Refused { failure, promised }).unwrap();
        });
        match Part::opened(&node, reached(near), &Cancel::new()).unwrap() {
            Opened::Refused(failure, None) => assert_eq!(failure.kind, FailureKind::Busy),
            _ => panic!("let in"),
        }
        refusing.join().unwrap();

        let (near, _silent) = pair();
        let cancel = Arc::new(Cancel::new());
        let begun = Instant::now();
        let cancelling = {
            let cancel = Arc::clone(&cancel);
            thread::spawn(move || cancel.request(Cause::Abandoned))
        };
        let failure = Part::opened(&node, reached(near), &cancel).err().unwrap();
        assert!(failure.message.contains("cancelled"), "{failure}");
        assert!(begun.elapsed() < CLAIM_IN_LINE);
        cancelling.join().unwrap();
    }
}
