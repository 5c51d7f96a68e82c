//! One volume's seat: the gatekeeper, whose effects are carried out here.
//!
//! Every call that wants in waits on its own thread; whoever makes something happen (a claim, the
//! end of a run) carries out what follows from it, and wakes the others.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lockstep_cluster::claim::{Claim, Effect, Epoch, Gatekeeper, Outcome, Refusal};
use lockstep_cluster::roles::Role;
use lockstep_engine::{Cancel, Cause};
use lockstep_protocol::Failure;

use super::ground::Ground;

/// Tells a call that a newer run waits for the volume.
#[derive(Debug, Default)]
pub(super) struct Fence {
    is_up: AtomicBool,
    is_abandoned: AtomicBool,
    serving: Mutex<Option<Arc<Cancel>>>,
}

impl Fence {
    pub(super) fn is_up(&self) -> bool {
        self.is_up.load(Ordering::SeqCst)
    }

    /// What is to end once the fence is up.
    pub(super) fn guards(&self, cancel: &Arc<Cancel>) {
        *self.serving() = Some(Arc::clone(cancel));
        if self.is_up() {
            cancel.request(Cause::Fenced);
        }
        if self.is_abandoned() {
            cancel.request(Cause::Abandoned);
        }
    }

    /// Whether the agent ends, and with it the call.
    pub(super) fn is_abandoned(&self) -> bool {
        self.is_abandoned.load(Ordering::SeqCst)
    }

    /// The agent ends: so does the call, and what is being served.
    fn abandon(&self) {
        self.is_abandoned.store(true, Ordering::SeqCst);
        if let Some(cancel) = &*self.serving() {
            cancel.request(Cause::Abandoned);
        }
    }

    fn raise(&self) {
        self.is_up.store(true, Ordering::SeqCst);
        if let Some(cancel) = &*self.serving() {
            cancel.request(Cause::Fenced);
        }
    }

    fn serving(&self) -> MutexGuard<'_, Option<Arc<Cancel>>> {
        self.serving.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a run is not let in.
#[derive(Debug)]
pub(super) enum NotIn {
    Refused(Refusal),
    /// This very run is in, or waits, over another call.
    Twice,
    /// The earlier run did not end in time.
    TimedOut,
    /// The volume is being brought back to what it was.
    Reserved,
}

struct Caller {
    claim: Claim,
    fence: Arc<Fence>,
    answer: Option<Result<(), Refusal>>,
}

struct State {
    keeper: Gatekeeper,
    waiting: Vec<Caller>,
    holder: Option<(Claim, Arc<Fence>)>,
    /// Nobody is let in: something else than a run writes the volume.
    is_reserved: bool,
}

pub(super) struct Seat {
    state: Mutex<State>,
    changed: Condvar,
    /// Held while services are brought back.
    hands: Mutex<()>,
}

impl Seat {
    /// From the promise that is durable.
    ///
    /// # Errors
    /// If that cannot be read: then nobody is let in.
    pub(super) fn restore(ground: &Ground, role: Role) -> Result<Arc<Self>, Failure> {
        let (keeper, effects) = Gatekeeper::restore(ground.id, role, ground.promised()?);
        let seat = Arc::new(Self {
            state: Mutex::new(State {
                keeper,
                waiting: Vec::new(),
                holder: None,
                is_reserved: false,
            }),
            changed: Condvar::new(),
            hands: Mutex::new(()),
        });
        seat.carry_out(effects, ground);
        Ok(seat)
    }

    /// Waits until the run may write, for at most `limit`.
    pub(super) fn enter(
        self: &Arc<Self>,
        claim: &Claim,
        device: &str,
        ground: &Ground,
        limit: Duration,
    ) -> Result<Held, NotIn> {
        let deadline = Instant::now() + limit;
        let fence = Arc::new(Fence::default());
        let effects = {
            let mut state = self.state();
            if state.is_reserved {
                return Err(NotIn::Reserved);
            }
            let in_line = state.waiting.iter().any(|caller| caller.claim == *claim);
            let holds = state.holder.as_ref().is_some_and(|(held, _)| held == claim);
            if in_line || holds {
                return Err(NotIn::Twice);
            }
            state.waiting.push(Caller {
                claim: claim.clone(),
                fence: Arc::clone(&fence),
                answer: None,
            });
            state.keeper.claim(claim.clone(), device)
        };
        self.carry_out(effects, ground);
        self.answer(claim, deadline)?;
        Ok(Held {
            seat: Arc::clone(self),
            claim: claim.clone(),
            fence,
            ground: ground.clone(),
        })
    }

    fn answer(&self, claim: &Claim, deadline: Instant) -> Result<(), NotIn> {
        let mut state = self.state();
        loop {
            let Some(at) = state.waiting.iter().position(|it| it.claim == *claim) else {
                return Err(NotIn::TimedOut);
            };
            if let Some(answer) = state.waiting[at].answer.take() {
                state.waiting.swap_remove(at);
                return answer.map_err(NotIn::Refused);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                // A grant that still comes finds nobody, and is given back.
                state.waiting.swap_remove(at);
                return Err(NotIn::TimedOut);
            }
            state = self
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// The node's role changed.
    pub(super) fn set_role(&self, role: Role, ground: &Ground) {
        let effects = self.state().keeper.set_role(role);
        self.carry_out(effects, ground);
    }

    /// The newest epoch that was admitted or promised.
    pub(super) fn newest_epoch(&self) -> Option<Epoch> {
        self.state().keeper.newest_epoch()
    }

    /// The run that may write now.
    pub(super) fn holder(&self) -> Option<Claim> {
        self.state().holder.as_ref().map(|(claim, _)| claim.clone())
    }

    /// Keeps all runs out, if none is in or waits.
    pub(super) fn reserve(self: &Arc<Self>) -> Option<Reserved> {
        let mut state = self.state();
        if state.is_reserved || state.holder.is_some() || !state.waiting.is_empty() {
            return None;
        }
        state.is_reserved = true;
        drop(state);
        Some(Reserved(Arc::clone(self)))
    }

    /// Ends the run that writes now, if it is being served.
    pub(super) fn abandon(&self) {
        if let Some((_, fence)) = &self.state().holder {
            fence.abandon();
        }
    }

    /// To be held while services are brought back: by one at a time.
    pub(super) fn hands(&self) -> MutexGuard<'_, ()> {
        self.hands.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn report(&self, outcome: Outcome, ground: &Ground) {
        let effects = self.state().keeper.report(outcome);
        self.carry_out(effects, ground);
    }

    fn carry_out(&self, effects: Vec<Effect>, ground: &Ground) {
        let mut queue = VecDeque::from(effects);
        while let Some(effect) = queue.pop_front() {
            let outcome = match effect {
                Effect::Stop(claim) => {
                    self.stop(&claim);
                    None
                }
                Effect::Flush => Some(match ground.flush() {
                    Ok(()) => Outcome::Flushed,
                    Err(error) => {
                        tracing::error!("{} was not flushed: {error}", ground.path.display());
                        Outcome::FlushFailed
                    }
                }),
                Effect::Persist(promise) => Some(match ground.persist(&promise) {
                    Ok(()) => Outcome::Persisted,
                    Err(why) => {
                        tracing::error!("no promise was made: {why}");
                        Outcome::PersistFailed
                    }
                }),
                Effect::Grant(claim) => self.grant(claim),
                Effect::Refuse(claim, why) => {
                    self.tell(&claim, Err(why));
                    None
                }
            };
            if let Some(outcome) = outcome {
                queue.extend(self.state().keeper.report(outcome));
            }
        }
    }

    fn stop(&self, claim: &Claim) {
        if let Some((held, fence)) = &self.state().holder
            && held == claim
        {
            fence.raise();
        }
    }

    /// Nobody may be there any more.
    fn grant(&self, claim: Claim) -> Option<Outcome> {
        let mut state = self.state();
        let Some(at) = state.waiting.iter().position(|it| it.claim == claim) else {
            return Some(Outcome::Drained(claim));
        };
        let fence = Arc::clone(&state.waiting[at].fence);
        if !state.keeper.permits(&claim) {
            // A newer one came between the promise and this.
            fence.raise();
        }
        state.holder = Some((claim, fence));
        state.waiting[at].answer = Some(Ok(()));
        drop(state);
        self.changed.notify_all();
        None
    }

    fn tell(&self, claim: &Claim, answer: Result<(), Refusal>) {
        let mut state = self.state();
        let unanswered = |it: &&mut Caller| it.claim == *claim && it.answer.is_none();
        if let Some(caller) = state.waiting.iter_mut().find(unanswered) {
            caller.answer = Some(answer);
        }
        drop(state);
        self.changed.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// No run is let in as long as this lives.
pub(super) struct Reserved(Arc<Seat>);

impl Drop for Reserved {
    fn drop(&mut self) {
        self.0.state().is_reserved = false;
    }
}

/// The right to write a volume; dropped once none of the run's writes is in flight any more.
pub(super) struct Held {
    pub(super) seat: Arc<Seat>,
    pub(super) claim: Claim,
    pub(super) fence: Arc<Fence>,
    ground: Ground,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.seat.state().holder = None;
        let outcome = Outcome::Drained(self.claim.clone());
        self.seat.report(outcome, &self.ground);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;
    use std::thread;

    fn ground(folder: &std::path::Path) -> Ground {
        let path = folder.join("v.img");
        std::fs::write(&path, b"").unwrap();
        Ground {
            id: "0198f3b2-8c7e-7d11-9a51-2f6c0a1b9e77".parse().unwrap(),
            path,
            state_dir: folder.join("state"),
            node: "b".parse().unwrap(),
        }
    }

    fn claim(ground: &Ground, epoch: u64, run: &str) -> Claim {
        Claim {
            epoch: Epoch::new(epoch).unwrap(),
            run: run.parse().unwrap(),
            source: "a".parse().unwrap(),
            volume: ground.id,
        }
    }

    const SOON: Duration = Duration::from_secs(10);

    #[test]
    fn a_newer_run_waits_until_the_older_one_has_let_go() {
        let folder = tempfile::tempdir().unwrap();
        let ground = ground(folder.path());
        let seat = Seat::restore(&ground, Role::Replica).unwrap();
        let older = seat.enter(&claim(&ground, 5, "r5"), "d", &ground, SOON);
        let older = older.ok().unwrap();
        let same = seat.enter(&claim(&ground, 5, "r5"), "d", &ground, SOON);
        assert!(matches!(same, Err(NotIn::Twice)));
        let other = seat.enter(&claim(&ground, 5, "x"), "d", &ground, SOON);
        assert!(matches!(other, Err(NotIn::Refused(Refusal::Taken { .. }))));
        let (told, hears) = channel();
        thread::scope(|scope| {
            scope.spawn(|| {
                let newer = seat.enter(&claim(&ground, 6, "r6"), "d", &ground, SOON);
                told.send(newer.is_ok()).unwrap();
                drop(newer);
            });
            while !older.fence.is_up() {
                thread::sleep(Duration::from_millis(5));
            }
            assert!(hears.try_recv().is_err(), "the older one still writes");
            drop(older);
            assert_eq!(hears.recv_timeout(SOON), Ok(true));
        });
        assert_eq!(seat.newest_epoch(), Epoch::new(6));
        let restored = Seat::restore(&ground, Role::Replica).unwrap();
        let stale = restored.enter(&claim(&ground, 5, "r5"), "d", &ground, SOON);
        assert!(matches!(stale, Err(NotIn::Refused(Refusal::Fenced { .. }))));
        assert!(
            restored
                .enter(&claim(&ground, 6, "r6"), "d", &ground, SOON)
                .is_ok(),
            "the newest may come again"
        );
    }

    #[test]
    fn one_that_stopped_waiting_leaves_the_seat_free() {
        let folder = tempfile::tempdir().unwrap();
        let ground = ground(folder.path());
        let seat = Seat::restore(&ground, Role::Replica).unwrap();
        let older = seat.enter(&claim(&ground, 5, "r5"), "d", &ground, SOON);
        let gone = seat.enter(
            &claim(&ground, 6, "r6"),
            "d",
            &ground,
            Duration::from_millis(50),
        );
        assert!(matches!(gone, Err(NotIn::TimedOut)));
        drop(older);
        assert_eq!(seat.holder(), None);
        assert!(
            seat.enter(&claim(&ground, 7, "r7"), "d", &ground, SOON)
                .is_ok()
        );
    }
}
