//! The runs that this node's agent carries out: one for a volume, each followed by any number.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lockstep_cluster::claim::{Epoch, RunName};
use lockstep_cluster::value::VolumeName;
use lockstep_engine::{Cancel, Cause, Limits};
use lockstep_protocol::{Failure, FailureKind};

use crate::talk::{Talk, TalkError, say};
use crate::wire::{Aim, Answer, Ended, Told};

/// Most things that are kept for those who follow late; progress is kept once.
const MAX_SAID: usize = 4096;
/// How often a follower looks whether its caller is still there.
const GLANCE: Duration = Duration::from_millis(500);
/// What is kept of runs that are over, so that their ends can still be read.
const ENDED_KEPT: usize = 16;

/// The runs of an agent.
#[derive(Default)]
pub struct Runs {
    live: Mutex<VecDeque<Arc<Live>>>,
}

/// A run, from its admission on.
pub struct Live {
    /// Its name.
    pub run: RunName,
    /// What it is for.
    pub aim: Aim,
    /// The volume's or group's name.
    pub name: String,
    /// Its volumes.
    pub volumes: Vec<VolumeName>,
    /// Ends it early.
    pub cancel: Arc<Cancel>,
    /// What it may use.
    pub limits: Arc<Limits>,
    head: Mutex<Answer>,
    said: Mutex<Said>,
    news: Condvar,
}

#[derive(Default)]
struct Said {
    next: u64,
    list: VecDeque<(u64, Answer)>,
    is_over: bool,
}

impl Runs {
    /// Lets a run in, unless one of its volumes has one already or there are too many.
    ///
    /// # Errors
    /// `Busy`, with the name of the run that is on.
    pub fn admit(&self, live: Live, most: usize) -> Result<Arc<Live>, Failure> {
        let mut runs = self.lock();
        let on: Vec<&Arc<Live>> = runs.iter().filter(|run| !run.is_over()).collect();
        if let Some(other) = on.iter().find(|other| other.shares_volume(&live)) {
            return Err(Failure::new(
                FailureKind::Busy,
                format!("run {} of `{}` is on", other.run, other.name),
            )
            .hint(format!(
                "follow it with `lockstep resync {0} --attach`, or end it with `lockstep cancel {0}`",
                other.name
            )));
        }
        if on.len() >= most {
            return Err(Failure::new(
                FailureKind::Busy,
                format!("{most} runs are on, and agent.toml allows no more"),
            )
            .hint("wait for one of them, or raise `runs` in [limits] of agent.toml"));
        }
        while runs.len() >= ENDED_KEPT && runs.front().is_some_and(|run| run.is_over()) {
            runs.pop_front();
        }
        let live = Arc::new(live);
        runs.push_back(Arc::clone(&live));
        Ok(live)
    }

    /// A run that was let in and did nothing after all.
    pub fn forget(&self, live: &Arc<Live>) {
        self.lock().retain(|run| !Arc::ptr_eq(run, live));
    }

    /// The run with this volume's or group's name; one that is on before one that is over.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<Arc<Live>> {
        let runs = self.lock();
        let mut newest_first = runs.iter().rev().filter(|run| run.is_called(name));
        let newest = newest_first.clone().next().cloned();
        newest_first.find(|run| !run.is_over()).cloned().or(newest)
    }

    /// The run that is on for a volume.
    #[must_use]
    pub fn of_volume(&self, volume: &VolumeName) -> Option<Arc<Live>> {
        let runs = self.lock();
        let on = |run: &&Arc<Live>| !run.is_over() && run.volumes.contains(volume);
        runs.iter().find(on).cloned()
    }

    /// Asks all that are on to end.
    pub fn cancel_all(&self) {
        for run in self.lock().iter() {
            run.cancel.request(Cause::Abandoned);
        }
    }

    /// Whether none is on.
    #[must_use]
    pub fn are_over(&self) -> bool {
        self.lock().iter().all(|run| run.is_over())
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Arc<Live>>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Live {
    /// A run without limits that has said nothing yet; `head` is what its followers hear first.
    #[must_use]
    pub fn new(
        run: RunName,
        aim: Aim,
        name: String,
        volumes: Vec<VolumeName>,
        head: Answer,
    ) -> Self {
        Self {
            run,
            aim,
            name,
            volumes,
            cancel: Arc::new(Cancel::new()),
            limits: Arc::default(),
            head: Mutex::new(head),
            said: Mutex::default(),
            news: Condvar::new(),
        }
    }

    fn is_called(&self, name: &str) -> bool {
        self.name == name || self.volumes.iter().any(|volume| volume.as_str() == name)
    }

    fn shares_volume(&self, other: &Self) -> bool {
        self.volumes
            .iter()
            .any(|volume| other.volumes.contains(volume))
    }

    /// From now on this is its epoch.
    pub fn has_epoch(&self, number: Option<Epoch>) {
        if let Answer::Run { epoch, .. } = &mut *self.head() {
            *epoch = number;
        }
    }

    fn head(&self) -> MutexGuard<'_, Answer> {
        self.head.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it is over.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.lock().is_over
    }

    /// Says something to all who follow.
    pub fn say(&self, volume: &VolumeName, told: Told) {
        let mut said = self.lock();
        if matches!(told, Told::Progress { .. }) {
            // Only the newest says anything.
            said.list
                .retain(|(_, answer)| !is_progress_of(answer, volume));
        }
        let answer = Answer::Told {
            volume: volume.clone(),
            told,
        };
        said.push(answer);
        drop(said);
        self.news.notify_all();
    }

    /// The last words: each volume's, then the run's.
    pub fn end(&self, mut ended: Ended) {
        let volumes = std::mem::take(&mut ended.volumes);
        let mut said = self.lock();
        for volume in volumes {
            said.push(Answer::VolumeEnded(Box::new(volume.fitted())));
        }
        said.push(Answer::Ended(ended));
        said.is_over = true;
        drop(said);
        self.news.notify_all();
    }

    /// Passes on everything that is said, to the end of the run or of the call.
    ///
    /// # Errors
    /// [`TalkError`] if the caller is gone; the run goes on.
    pub fn follow(&self, talk: &mut dyn Talk, attached: bool) -> Result<(), TalkError> {
        let mut head = self.head().clone();
        if let Answer::Run {
            attached: is_attached,
            ..
        } = &mut head
        {
            *is_attached = attached;
        }
        say(talk, &head)?;
        let mut heard = 0;
        loop {
            let (news, is_over) = self.wait(heard);
            if news.is_empty() && !is_over {
                // Nothing is due from the caller; an ended call is found out here.
                match talk.recv(Duration::ZERO) {
                    Err(TalkError::Silent(_)) | Ok(_) => continue,
                    Err(error) => return Err(error),
                }
            }
            for (number, answer) in news {
                heard = number + 1;
                say(talk, &answer)?;
            }
            if is_over {
                return Ok(());
            }
        }
    }

    /// What was said since number `heard`, and whether that was all.
    fn wait(&self, heard: u64) -> (Vec<(u64, Answer)>, bool) {
        let said = self.lock();
        let nothing_new = |said: &mut Said| said.next <= heard && !said.is_over;
        let (said, _) = self
            .news
            .wait_timeout_while(said, GLANCE, nothing_new)
            .unwrap_or_else(PoisonError::into_inner);
        let since = said.list.iter().filter(|(number, _)| *number >= heard);
        (since.cloned().collect(), said.is_over)
    }

    fn lock(&self) -> MutexGuard<'_, Said> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Said {
    fn push(&mut self, answer: Answer) {
        if self.list.len() >= MAX_SAID {
            self.list.pop_front();
        }
        self.list.push_back((self.next, answer));
        self.next += 1;
    }
}

fn is_progress_of(answer: &Answer, volume: &VolumeName) -> bool {
    matches!(answer, Answer::Told { volume: of, told: Told::Progress { .. } } if of == volume)
}

#[cfg(test)]
mod tests {
    use super::{Live, Runs};
    use crate::talk::hear;
    use crate::talk::pair::pair;
    use crate::wire::{Aim, Answer, Ended, Told, Words};
    use lockstep_cluster::value::VolumeName;
    use lockstep_protocol::FailureKind;
    use std::sync::Arc;
    use std::time::Duration;

    fn volume(name: &str) -> VolumeName {
        name.parse().unwrap()
    }

    fn live(run: &str, volumes: &[&str]) -> Live {
        let head = Answer::Run {
            run: run.parse().unwrap(),
            epoch: None,
            attached: false,
            aim: Aim::Resync,
            primary: "a".parse().unwrap(),
            targets: Vec::new(),
        };
        let volumes = volumes.iter().map(|name| volume(name)).collect();
        Live::new(
            run.parse().unwrap(),
            Aim::Resync,
            "g".to_owned(),
            volumes,
            head,
        )
    }

    fn ended(run: &str) -> Ended {
        Ended {
            run: run.parse().unwrap(),
            epoch: None,
            volumes: Vec::new(),
            error: None,
        }
    }

    fn progress(bytes: u64) -> Told {
        Told::Progress {
            bytes_scanned: bytes,
            size: 10,
            seconds: 1.0,
            targets: Vec::new(),
        }
    }

    #[test]
    fn a_volume_has_one_run_at_a_time() {
        let runs = Runs::default();
        let first = runs.admit(live("1", &["a", "b"]), 2).unwrap();
        let busy = runs.admit(live("2", &["b"]), 2).err().unwrap();
        assert_eq!(busy.kind, FailureKind::Busy);
        assert!(busy.message.contains("run 1"), "{busy}");
        runs.admit(live("3", &["c"]), 2).unwrap();
        let many = runs.admit(live("4", &["d"]), 2).err().unwrap();
        assert!(many.message.contains("2 runs are on"), "{many}");
        assert_eq!(runs.named("b").unwrap().run, first.run);
        first.end(ended("1"));
        runs.admit(live("5", &["b"]), 2).unwrap();
        assert_eq!(runs.named("b").unwrap().run.as_str(), "5");
        assert_eq!(
            runs.named("a").unwrap().run.as_str(),
            "1",
            "its end can be read"
        );
    }

    #[test]
    fn who_comes_late_hears_what_counts_still() {
        let runs = Runs::default();
        let run = runs.admit(live("1", &["a"]), 2).unwrap();
        for bytes in 0..5 {
            run.say(&volume("a"), progress(bytes));
        }
        let warning = Told::Warning {
            target: None,
            message: Words::new("mind"),
        };
        run.say(&volume("a"), warning.clone());
        let (mut near, mut far) = pair();
        let follower = {
            let run = Arc::clone(&run);
            std::thread::spawn(move || run.follow(&mut far, true))
        };
        let mut hear = || hear::<Answer>(&mut near, Duration::from_secs(5)).unwrap();
        assert!(matches!(hear(), Answer::Run { attached: true, .. }));
        let told = |told| Answer::Told {
            volume: volume("a"),
            told,
        };
        assert_eq!(hear(), told(progress(4)));
        assert_eq!(hear(), told(warning));
        run.say(&volume("a"), progress(9));
        assert_eq!(hear(), told(progress(9)));
        run.end(ended("1"));
        assert_eq!(hear(), Answer::Ended(ended("1")));
        assert_eq!(follower.join().unwrap(), Ok(()));
    }

    #[test]
    fn a_caller_that_is_gone_is_no_follower_and_ends_nothing() {
        let runs = Runs::default();
        let run = runs.admit(live("1", &["a"]), 2).unwrap();
        let (near, mut far) = pair();
        drop(near);
        assert!(run.follow(&mut far, false).is_err());
        assert!(!run.is_over());
    }
}
