//! A comparison: nothing is claimed, stopped or written.

use lockstep_cluster::claim::RunName;
use lockstep_cluster::value::{NodeName, SnapshotWord};
use lockstep_engine::{ServeOptions, SnapshotChoice, Stillness, TakenSnapshot, Together};
use lockstep_protocol::Failure;

use super::ground::Ground;
use super::permit::may_read;
use super::serve::Serving;
use super::{Host, ground_of, serve_options};
use crate::config::Config;
use crate::primary::snapshot_choice;
use crate::talk::{Talk, TalkError, hear, say};
use crate::wire::{CompareAsk, Hex32, HostBid, HostTell, ServeTerms, WireFailure, Words};

/// Longest that the dialogue of a comparison pauses.
const BID_LIMIT: std::time::Duration = std::time::Duration::from_secs(120);

impl Host {
    /// Lets a volume be compared: `Granted`, then `Serve` is answered by `Serving` and, once it is
    /// over, by `Served`, which ends the call.
    pub fn compare(&self, talk: &mut dyn Talk, caller: &NodeName, ask: &CompareAsk) {
        let config = self.current().get();
        let refuse = |talk: &mut dyn Talk, failure: &Failure| {
            let failure = WireFailure::from(failure);
            let promised = None;
            say(talk, &HostTell::Refused { failure, promised })
        };
        let ended = match self.may_compare(&config, caller, ask) {
            Err(failure) => refuse(talk, &failure),
            Ok((ground, word)) => match (ground.look(), Self::slot(&self.compared, &config)) {
                (Err(failure), _) | (_, Err(failure)) => refuse(talk, &failure),
                (Ok(look), Ok(_slot)) => {
                    let granted = HostTell::Granted {
                        state: look.state,
                        device: Words::new(&look.device),
                    };
                    say(talk, &granted).and_then(|()| compared(talk, &config, &ground, &word, ask))
                }
            },
        };
        if let Err(error) = ended {
            tracing::warn!(volume = %ask.volume, "the call of a comparison is over: {error}");
        }
    }

    fn may_compare(
        &self,
        config: &Config,
        caller: &NodeName,
        ask: &CompareAsk,
    ) -> Result<(Ground, SnapshotWord), Failure> {
        let (volume, path) = may_read(config, caller, &ask.volume, ask.id)?;
        Ok((ground_of(config, volume, path), volume.snapshot.clone()))
    }
}

fn compared(
    talk: &mut dyn Talk,
    config: &Config,
    ground: &Ground,
    word: &SnapshotWord,
    ask: &CompareAsk,
) -> Result<(), TalkError> {
    let HostBid::Serve(terms) = hear(talk, BID_LIMIT)? else {
        return Err(TalkError::Unread(
            "something was said out of turn".to_owned(),
        ));
    };
    let frozen = Frozen::take(ground, word, ask);
    let (result, lost) = match open(config, ground, &frozen, &terms) {
        Ok((serving, at)) => {
            say(talk, &HostTell::Serving(at))?;
            let ended = serving.wait(talk);
            (ended.result, ended.lost)
        }
        Err(failure) => (Err(failure), None),
    };
    drop(frozen);
    if let Some(error) = lost {
        return Err(error);
    }
    let look = ground.look();
    let served = HostTell::Served {
        state: look.map_or(lockstep_cluster::plan::NodeState::Unknown, |look| {
            look.state
        }),
        root: (result.as_ref().ok()).and_then(|served| Some(Hex32(*served.root?.as_bytes()))),
        failure: result.as_ref().err().map(WireFailure::from),
    };
    say(talk, &served)
}

fn open(
    config: &Config,
    ground: &Ground,
    frozen: &Frozen,
    terms: &ServeTerms,
) -> Result<(Serving, crate::wire::ServingAt), Failure> {
    let options = ServeOptions {
        only_compare: true,
        image: frozen.image()?,
        priority: terms.priority.into(),
        ..serve_options(config, ground, String::new())
    };
    Serving::open(config, terms.key, options)
}

/// A snapshot that goes with the comparison, where one can be made. The agent's own start, or the
/// next run, releases one that a crash leaves.
struct Frozen(Option<TakenSnapshot>);

impl Frozen {
    fn take(ground: &Ground, word: &SnapshotWord, ask: &CompareAsk) -> Self {
        let Some(choice) = choice(word) else {
            return Self(None);
        };
        let together = Together {
            volumes: vec![(ground.path.clone(), choice)],
            stillness: Stillness::default(),
            state_dir: ground.state_dir.clone(),
            run: snapshot_run(&ask.run),
            watchdog: Together::own_watchdog(),
        };
        match together.take() {
            Ok(taken) => Self(taken.snapshots.into_iter().next()),
            // The volume itself, which must be still then.
            Err(failure) => {
                tracing::info!(volume = %ask.volume, "no snapshot: {}", failure.message);
                Self(None)
            }
        }
    }

    /// The engine opens it anew, and has it alone.
    fn image(&self) -> Result<Option<std::path::PathBuf>, Failure> {
        let opened = self.0.as_ref().map(TakenSnapshot::open).transpose()?;
        Ok(opened.map(|image| image.path))
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let released = self.0.as_ref().map(TakenSnapshot::release);
        if let Some(Err(failure)) = released {
            tracing::warn!("a snapshot stays: {}", failure.message);
        }
    }
}

/// Names of snapshots have no room for everything that a run's name may hold.
fn snapshot_run(run: &RunName) -> String {
    let mut hash = blake3::hash(run.as_str().as_bytes()).to_hex().to_string();
    hash.truncate(32);
    hash
}

/// How this node's volume is frozen: as it would be if the node were primary.
fn choice(word: &SnapshotWord) -> Option<SnapshotChoice> {
    match snapshot_choice(word) {
        SnapshotChoice::Exclusive | SnapshotChoice::None => None,
        choice => Some(choice),
    }
}
