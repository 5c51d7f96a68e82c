//! Snapshots of any number of volumes, made while everything that is to be still is so.
//!
//! Promise: every volume has its snapshot, all of them made in one stretch of stillness, or none has one
//! that was made here; nothing stays frozen, and what a hook was told to get ready is told to go on.
//!
//! ```text
//!   probe all ─► clear up after killed runs ─► hooks `before` ─► watchdog ─► freeze, inner before outer
//!      │ one does not suit: nothing was touched                                     │
//!      ▼                                                                            ▼
//!   refused                  hooks `after` ◄─ thaw ◄──────────────── snapshot A, B, … in order
//!                                 │ one failed, or it was not still until the last was made
//!                                 └──► all that were made are released
//! ```
//! A kill in between leaves whole snapshots, which the next run of each volume finds and releases; what
//! is frozen is the watchdog's.

use std::cell::{Cell, RefCell};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lockstep_protocol::{Failure, FailureKind};
use lockstep_quiesce::{Hook, Level, Progress, Quiesce, Step, freeze_order, recover};
use lockstep_snapshot::{
    Image, Provider, Registry, Snapshot, SnapshotError, SnapshotName, Space, Told, Verdict,
    VolumeName, cautions, choose,
};

use crate::failures::{sentence, unfrozen, unfrozen_source};
use crate::request::{SnapshotChoice, StillHook, Stillness};
use crate::snapshots::release_leftovers;

/// How this program is started to watch over what is frozen.
const WATCHDOG: [&str; 2] = ["/proc/self/exe", "thaw-watchdog"];

/// Volumes whose snapshots are to be of one instant.
#[derive(Clone, Debug)]
pub struct Together {
    /// The volumes, each with how it is snapshotted: by a provider, a program, or the best there is.
    pub volumes: Vec<(PathBuf, SnapshotChoice)>,
    /// What is still meanwhile. Two volumes are of one instant only if something is.
    pub stillness: Stillness,
    /// Where it is written down what is frozen, and which snapshots are bases.
    pub state_dir: PathBuf,
    /// Name of the run; names the snapshots.
    pub run: String,
    /// How to start a program that calls [`crate::watchdog_main`].
    pub watchdog: Vec<OsString>,
}

/// The snapshots of all volumes, in their order.
#[derive(Debug)]
pub struct TakenTogether {
    /// One for each volume.
    pub snapshots: Vec<TakenSnapshot>,
    /// How still everything was, the same for all.
    pub level: Level,
    /// From the first freeze to the last thaw; zero if nothing was frozen.
    pub pause: Duration,
    /// What should be told, in sentences: what a killed run had left still, and what may surprise the
    /// volumes' writers.
    pub warnings: Vec<String>,
}

/// A snapshot, and the provider that made it.
///
/// It is to be opened soon, and kept open as long as it is read: another run of the volume takes one
/// that nobody has open, and that is no base, for what a killed run left.
#[derive(Debug)]
pub struct TakenSnapshot {
    /// What is known of it.
    pub snapshot: Snapshot,
    /// What it may come to cost in space.
    pub space: Space,
    /// How still everything was.
    pub level: Level,
    pub(crate) selected: Selected,
}

impl Together {
    /// How the program that runs now is started as a watchdog, if it is `lockstep`.
    #[must_use]
    pub fn own_watchdog() -> Vec<OsString> {
        WATCHDOG.iter().map(Into::into).collect()
    }

    /// Makes the snapshots. Blocks.
    ///
    /// # Errors
    /// [`Failure`] that names the volume or the filesystem that stood in the way; then no snapshot
    /// that was made here is left, unless its provider failed to release it too.
    pub fn take(&self) -> Result<TakenTogether, Failure> {
        let mut warnings = thaw_orphans(&self.state_dir);
        let mut volumes = Vec::with_capacity(self.volumes.len());
        for (path, choice) in &self.volumes {
            let path = path.canonicalize().map_err(|error| {
                Failure::new(FailureKind::Usage, format!("{}: {error}", path.display()))
            })?;
            let selected = select(&path, choice).map_err(|failure| failure.refused(&path))?;
            warnings.extend(selected.cautions.iter().cloned());
            volumes.push((path, selected));
        }
        let members: Vec<Member<'_>> = volumes
            .iter()
            .map(|(path, selected)| Member { path, selected })
            .collect();
        let taken = take(
            &members,
            &Surroundings {
                stillness: &self.stillness,
                state_dir: &self.state_dir,
                watchdog: self.watchdog.clone(),
            },
            &self.run,
        )?;
        let snapshots = taken.snapshots.into_iter().zip(volumes);
        Ok(TakenTogether {
            snapshots: snapshots
                .map(|(snapshot, (_, selected))| TakenSnapshot {
                    snapshot,
                    space: selected.space,
                    level: taken.level,
                    selected,
                })
                .collect(),
            level: taken.level,
            pause: taken.pause,
            warnings,
        })
    }
}

impl TakenSnapshot {
    /// Opens the image for reading.
    ///
    /// # Errors
    /// Whatever its provider says.
    pub fn open(&self) -> Result<Image, Failure> {
        let image = self
            .selected
            .provider()
            .and_then(|it| it.open(&self.snapshot));
        image.map_err(|error| unfrozen(&error))
    }

    /// Releases it.
    ///
    /// # Errors
    /// Whatever its provider says; calling it again goes on where it ended.
    pub fn release(&self) -> Result<(), Failure> {
        let released = self
            .selected
            .provider()
            .and_then(|it| it.release(&self.snapshot));
        released.map_err(|error| unfrozen(&error))
    }
}

/// A provider that suits a volume.
#[derive(Debug)]
pub(crate) struct Selected {
    pub(crate) registry: Registry,
    pub(crate) name: &'static str,
    pub(crate) space: Space,
    /// What it tells of the changes between two of its images.
    pub(crate) told: Told,
    /// What may surprise the volume's writers.
    pub(crate) cautions: Vec<String>,
    /// Why not the other providers, in parentheses; empty if there was no choice.
    pub(crate) why: String,
}

/// Why no provider can be used.
#[derive(Debug)]
pub(crate) enum NotSelected {
    /// None suits the volume, for these reasons, in parentheses.
    NoneSuits(String),
    /// The one that was asked for does not suit it, or there is no such one.
    Refused(Failure),
}

impl NotSelected {
    pub(crate) fn refused(self, volume: &Path) -> Failure {
        match self {
            NotSelected::Refused(failure) => failure,
            NotSelected::NoneSuits(why) => {
                let message = format!("no snapshot of {} can be made{why}", volume.display());
                Failure::new(FailureKind::Preflight, message)
            }
        }
    }
}

impl Selected {
    pub(crate) fn provider(&self) -> Result<&dyn Provider, SnapshotError> {
        let unknown = || SnapshotError::Unfit {
            provider: self.name,
            volume: PathBuf::new(),
            why: "it is not known".to_owned(),
        };
        self.registry.named(self.name).ok_or_else(unknown)
    }
}

/// Asks the providers; changes nothing that lasts.
pub(crate) fn select(volume: &Path, choice: &SnapshotChoice) -> Result<Selected, NotSelected> {
    match choice {
        SnapshotChoice::Auto => best(volume),
        SnapshotChoice::Provider(name) => named(volume, Registry::system(), name),
        SnapshotChoice::Program(program) => {
            let registry = Registry::with_program(program.clone(), Vec::new());
            named(volume, registry, "exec")
        }
        SnapshotChoice::Exclusive | SnapshotChoice::None => {
            let message = format!("{} is to be read without a snapshot", volume.display());
            Err(NotSelected::Refused(Failure::new(
                FailureKind::Usage,
                message,
            )))
        }
    }
}

fn best(volume: &Path) -> Result<Selected, NotSelected> {
    let registry = Registry::system();
    let choice = choose(volume, &registry);
    let others = choice.others.iter();
    let why: Vec<String> = others
        .map(|other| format!("{}: {}", other.provider, other.why))
        .collect();
    let why = match why.is_empty() {
        true => String::new(),
        false => format!(" (not {})", why.join("; not ")),
    };
    let Some(chosen) = choice.chosen else {
        return Err(NotSelected::NoneSuits(why));
    };
    Ok(Selected {
        name: chosen.provider,
        space: chosen.fitness.space,
        told: chosen.fitness.delta,
        cautions: chosen.cautions.iter().map(ToString::to_string).collect(),
        why,
        registry,
    })
}

fn named(volume: &Path, registry: Registry, name: &str) -> Result<Selected, NotSelected> {
    let Some(provider) = registry.named(name) else {
        let message = format!("there is no snapshot provider named {name}");
        let failure = Failure::new(FailureKind::Usage, message);
        return Err(NotSelected::Refused(failure));
    };
    let fitness = match provider.probe(volume) {
        Verdict::Fit(fitness) => fitness,
        Verdict::Unfit { why } => {
            let message = format!("source: {name} cannot snapshot {}: {why}", volume.display());
            let failure = Failure::new(FailureKind::Preflight, message)
                .hint("choose another way with --snapshot; auto takes the best there is");
            return Err(NotSelected::Refused(failure));
        }
    };
    Ok(Selected {
        name: provider.name(),
        space: fitness.space,
        told: fitness.delta,
        cautions: cautions(&fitness).iter().map(ToString::to_string).collect(),
        why: String::new(),
        registry,
    })
}

/// A volume, by its path without symbolic links, and its provider.
pub(crate) struct Member<'a> {
    pub(crate) path: &'a Path,
    pub(crate) selected: &'a Selected,
}

/// What surrounds the making of snapshots.
pub(crate) struct Surroundings<'a> {
    pub(crate) stillness: &'a Stillness,
    pub(crate) state_dir: &'a Path,
    pub(crate) watchdog: Vec<OsString>,
}

/// What [`take`] made.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) snapshots: Vec<Snapshot>,
    pub(crate) level: Level,
    pub(crate) pause: Duration,
}

/// The whole of it, once every volume has its provider.
pub(crate) fn take(
    members: &[Member<'_>],
    surroundings: &Surroundings<'_>,
    run: &str,
) -> Result<Taken, Failure> {
    let stillness = surroundings.stillness;
    if members.len() > 1 && stillness.is_none() {
        return Err(Failure::new(
            FailureKind::Preflight,
            "snapshots of several volumes are of one instant only if their filesystems are frozen, or a hook keeps their application still",
        ));
    }
    let names = members
        .iter()
        .map(|member| name_of(member, run))
        .collect::<Result<Vec<_>, _>>()?;
    for member in members {
        // An unknown provider is refused below.
        if let Ok(provider) = member.selected.provider() {
            release_leftovers(surroundings.state_dir, provider, member.path);
        }
    }
    let made = RefCell::new(Vec::with_capacity(members.len()));
    let make_all = || {
        members.iter().zip(&names).try_for_each(|(member, name)| {
            let provider = member.selected.provider()?;
            made.borrow_mut().push(provider.create(member.path, name)?);
            Ok::<(), SnapshotError>(())
        })
    };
    let pause = Pause::default();
    let level = match stillness.is_none() {
        true => make_all()
            .map(|()| Level::CrashConsistent)
            .map_err(|error| unfrozen_source(&error)),
        false => quiesce(members, &names, surroundings).and_then(|quiesce| {
            match quiesce.around_watched(&pause, make_all) {
                Ok((Ok(()), level)) => Ok(level),
                Ok((Err(error), _)) => Err(unfrozen_source(&error)),
                Err(error) => Err(preflight(&error)),
            }
        }),
    };
    let snapshots = made.into_inner();
    match level {
        Ok(level) => Ok(Taken {
            snapshots,
            level,
            pause: pause.length(),
        }),
        Err(failure) => {
            release_all(members, &snapshots);
            Err(failure)
        }
    }
}

/// The first failure is the one to report; the next run finds what stays.
fn release_all(members: &[Member<'_>], snapshots: &[Snapshot]) {
    for (member, snapshot) in members.iter().zip(snapshots) {
        let provider = member.selected.provider();
        if let Err(error) = provider.and_then(|provider| provider.release(snapshot)) {
            tracing::warn!("{} stays: {}", snapshot.name, sentence(&error));
        }
    }
}

fn name_of(member: &Member<'_>, run: &str) -> Result<SnapshotName, Failure> {
    SnapshotName::new(&VolumeName::of_path(member.path), run).map_err(|error| {
        unfrozen_source(&SnapshotError::Unfit {
            provider: member.selected.name,
            volume: member.path.to_path_buf(),
            why: error.to_string(),
        })
    })
}

fn preflight(error: &dyn std::error::Error) -> Failure {
    Failure::new(
        FailureKind::Preflight,
        format!("source: {}", sentence(error)),
    )
}

/// The hook is called once for all, with one line for each volume.
fn quiesce(
    members: &[Member<'_>],
    names: &[SnapshotName],
    surroundings: &Surroundings<'_>,
) -> Result<Quiesce, Failure> {
    let stillness = surroundings.stillness;
    let volumes: Vec<OsString> = members.iter().map(|member| member.path.into()).collect();
    let names: Vec<OsString> = names.iter().map(|name| name.to_string().into()).collect();
    let named = [
        ("LOCKSTEP_VOLUME".to_owned(), volumes.join("\n".as_ref())),
        ("LOCKSTEP_SNAPSHOT".to_owned(), names.join("\n".as_ref())),
    ];
    let hooks = |moment: &str, when: fn(&StillHook) -> &Vec<OsString>| {
        let moment = [("LOCKSTEP_MOMENT".to_owned(), OsString::from(moment))];
        (stillness.hooks.iter())
            .filter(|hook| !when(hook).is_empty())
            .map(|hook| Hook {
                name: hook.name.clone(),
                argv: when(hook).clone(),
                // What the hook itself is told counts more: of the same name the last one stays.
                environment: (named.iter().chain(&hook.environment).chain(&moment))
                    .cloned()
                    .collect(),
                limit: stillness.limit,
            })
            .collect()
    };
    Ok(Quiesce {
        freeze: freeze_order(&stillness.freeze).map_err(|refusal| preflight(&refusal))?,
        before: hooks("freeze", |hook| &hook.before),
        after: hooks("thaw", |hook| &hook.after),
        limit: stillness.limit,
        state_dir: surroundings.state_dir.to_path_buf(),
        images: members
            .iter()
            .map(|member| member.path.to_path_buf())
            .collect(),
        watchdog: surroundings.watchdog.clone(),
    })
}

/// How long anything was frozen.
#[derive(Default)]
struct Pause {
    begun: Cell<Option<Instant>>,
    ended: Cell<Option<Instant>>,
}

impl Pause {
    fn length(&self) -> Duration {
        match (self.begun.get(), self.ended.get()) {
            (Some(begun), Some(ended)) => ended.duration_since(begun),
            _ => Duration::ZERO,
        }
    }
}

impl Progress for Pause {
    fn step(&self, step: Step<'_>) {
        match step {
            Step::Freezing(_) if self.begun.get().is_none() => {
                self.begun.set(Some(Instant::now()));
            }
            Step::Thawed(_) => self.ended.set(Some(Instant::now())),
            _ => {}
        }
    }
}

/// Thaws what a killed run left frozen; what was done, in sentences.
pub(crate) fn thaw_orphans(state_dir: &Path) -> Vec<String> {
    match recover(state_dir) {
        Ok(recovery) => {
            let mounts = recovery.mount_points.iter().map(ToString::to_string);
            let hooks = recovery.hooks.iter().map(|hook| {
                format!(
                    "an earlier run was killed before it called {hook} with `after`: do it by hand"
                )
            });
            mounts.chain(hooks).collect()
        }
        Err(error) => vec![format!(
            "whether something is still frozen is not known: {}",
            sentence(&error)
        )],
    }
}
