//! The source as it is read: a frozen image of the volume, or the volume itself, held still.

use std::path::{Path, PathBuf};

use lockstep_index::IndexStore;
use lockstep_protocol::{Failure, FailureKind};
use lockstep_quiesce::Level;
use lockstep_snapshot::{
    Choice, Fitness, Health, Provider, Registry, Snapshot, SnapshotError, SnapshotName, Space,
    Told, Verdict, VolumeName, cautions, choose,
};
use lockstep_volume::{Held, Hold, HoldLost, Identity, OpenError, Source, open_source_with};

use super::still;
use crate::failures::{sentence, source_unopened, unfrozen_source};
use crate::monitor::{Monitor, Notice};
use crate::request::{Request, SnapshotChoice};
use crate::snapshots::{bases, is_read};

/// What a run reads, and what the volume is that it stands for.
pub(super) struct Frozen {
    /// What is read.
    pub(super) source: Source,
    identity: Identity,
    mode_bits: u32,
    volume: PathBuf,
    image: Option<FrozenImage>,
    warnings: Vec<String>,
    detail: String,
    level: Option<Level>,
}

/// An image that this run made, and has to release or to leave as a base.
pub(super) struct FrozenImage {
    registry: Registry,
    pub(super) snapshot: Snapshot,
    pub(super) space: Space,
    told: Told,
}

impl Frozen {
    /// Freezes, or holds, the source the way the request wants it. `run` names the snapshot.
    pub(super) fn open(request: &Request, run: &str) -> Result<Frozen, Failure> {
        let thawed = still::thaw_orphans(request);
        let mut frozen = Frozen::as_asked(request, run)?;
        frozen.warnings.extend(thawed);
        if frozen.image.is_none() && !request.stillness.is_none() {
            let message = format!(
                "source: no snapshot is made for which anything could be still: {}",
                frozen.detail
            );
            return Err(Failure::new(FailureKind::Preflight, message)
                .hint("leave --freeze and --snapshot-hook away, or choose a way to snapshot"));
        }
        Ok(frozen)
    }

    fn as_asked(request: &Request, run: &str) -> Result<Frozen, Failure> {
        match &request.snapshot {
            SnapshotChoice::None => Frozen::live(request, Hold::None),
            SnapshotChoice::Exclusive => Frozen::live(request, Hold::Exclusive),
            SnapshotChoice::Auto => Frozen::best(request, run),
            SnapshotChoice::Provider(name) => Frozen::by(request, run, Registry::system(), name),
            SnapshotChoice::Program(program) => {
                let registry = Registry::with_program(program.clone(), Vec::new());
                Frozen::by(request, run, registry, "exec")
            }
        }
    }

    /// The volume itself.
    fn live(request: &Request, hold: Hold) -> Result<Frozen, Failure> {
        let source = open_live(request, hold).map_err(|error| unheld(&error))?;
        let detail = match source.hold() {
            Held::Lease => "read lease held: nobody writes it".to_owned(),
            Held::ExclusiveDevice => "device opened exclusively".to_owned(),
            Held::Nothing { why } => why,
        };
        Ok(Frozen {
            identity: source.identity().clone(),
            mode_bits: source.mode_bits(),
            volume: source.path().to_path_buf(),
            source,
            image: None,
            warnings: Vec::new(),
            detail,
            level: None,
        })
    }

    /// The best image that is sound, or the volume held still where there is none.
    fn best(request: &Request, run: &str) -> Result<Frozen, Failure> {
        let live = open_live(request, Hold::None).map_err(|error| unheld(&error))?;
        let registry = Registry::system();
        let choice = choose(live.path(), &registry);
        let Some(chosen) = &choice.chosen else {
            drop(live);
            return Frozen::held(request, &choice, Vec::new());
        };
        let provider = chosen.provider;
        let mut warnings: Vec<String> = chosen.cautions.iter().map(ToString::to_string).collect();
        match freeze(request, registry, provider, &chosen.fitness, &live, run) {
            Ok(frozen) => Ok(Frozen {
                detail: format!("{}, by {provider}{}", frozen.detail, rejected(&choice)),
                warnings,
                ..frozen
            }),
            // Whoever asked for stillness does not want something else instead.
            Err(failure) if !request.stillness.is_none() => Err(failure),
            Err(failure) => {
                warnings.push(format!(
                    "no snapshot, the source is held instead: {}",
                    failure.message
                ));
                drop(live);
                Frozen::held(request, &choice, warnings)
            }
        }
    }

    /// The volume itself, as no provider suits it.
    fn held(request: &Request, choice: &Choice, warnings: Vec<String>) -> Result<Frozen, Failure> {
        let why = rejected(choice);
        let frozen = Frozen::live(request, Hold::Exclusive).map_err(|failure| Failure {
            message: format!("{}; and no snapshot can be made{why}", failure.message),
            ..failure
        })?;
        Ok(Frozen {
            detail: format!("{}{why}", frozen.detail),
            warnings,
            ..frozen
        })
    }

    /// An image by one provider, or none at all.
    fn by(request: &Request, run: &str, registry: Registry, name: &str) -> Result<Frozen, Failure> {
        let live = open_live(request, Hold::None).map_err(|error| unheld(&error))?;
        let verdict = registry
            .named(name)
            .map(|provider| provider.probe(live.path()));
        let fitness = match verdict {
            Some(Verdict::Fit(fitness)) => fitness,
            Some(Verdict::Unfit { why }) => {
                let path = live.path().display();
                let message = format!("source: {name} cannot snapshot {path}: {why}");
                return Err(Failure::new(FailureKind::Preflight, message)
                    .hint("choose another way with --snapshot; auto takes the best there is"));
            }
            None => {
                let message = format!("there is no snapshot provider named {name}");
                return Err(Failure::new(FailureKind::Usage, message));
            }
        };
        let name = registry.named(name).map_or("", Provider::name);
        let warnings = cautions(&fitness).iter().map(ToString::to_string).collect();
        let frozen = freeze(request, registry, name, &fitness, &live, run)?;
        Ok(Frozen { warnings, ..frozen })
    }

    /// The volume's identity, not the image's.
    pub(super) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The volume's path without symbolic links.
    pub(super) fn volume(&self) -> &Path {
        &self.volume
    }

    /// The volume's permission bits.
    pub(super) fn mode_bits(&self) -> u32 {
        self.mode_bits
    }

    /// How still the volume's users were; `None` without a snapshot.
    pub(super) fn level(&self) -> Option<Level> {
        self.level
    }

    /// The image, where there is one.
    pub(super) fn image(&self) -> Option<&FrozenImage> {
        self.image.as_ref()
    }

    /// Whether nobody can change what is read unnoticed.
    pub(super) fn is_held(&self) -> bool {
        self.image.is_some() || !matches!(self.source.hold(), Held::Nothing { .. })
    }

    /// Whether what was read so far is of one instant.
    pub(super) fn still_held(&self) -> Result<(), HoldLost> {
        match &self.image {
            Some(_) if self.source.is_unchanged() => Ok(()),
            Some(_) => Err(HoldLost::Changed {
                path: self.source.path().to_path_buf(),
            }),
            None => self.source.still_held(),
        }
    }

    /// `--snapshot` as it came to be, for the summary.
    pub(super) fn provider(&self, request: &SnapshotChoice) -> &'static str {
        match &self.image {
            Some(image) => image.provider().map_or("none", Provider::name),
            None if self.is_held() && *request != SnapshotChoice::None => "exclusive",
            None => "none",
        }
    }

    /// Says how the source is frozen.
    pub(super) fn announce(&self, request: &SnapshotChoice, monitor: &dyn Monitor) {
        let provider = match (&self.image, self.source.hold()) {
            (None, Held::Nothing { .. }) => "none",
            (None, _) => "exclusive",
            (Some(_), _) => self.provider(request),
        };
        monitor.notice(Notice::Snapshot {
            provider,
            detail: self.detail.clone(),
        });
        for message in &self.warnings {
            monitor.notice(Notice::Warning {
                target: None,
                message: message.clone(),
            });
        }
    }

    /// Whether the image can be read to the end without harm to anybody; `None` if nobody can say
    /// now: reading finds out what matters.
    pub(super) fn health(&self) -> Option<Health> {
        let image = self.image.as_ref()?;
        image.provider()?.health(&image.snapshot).ok()
    }

    /// Releases the image, if there is one; says what stood in the way.
    pub(super) fn release(&self) -> Result<(), SnapshotError> {
        let Some(image) = &self.image else {
            return Ok(());
        };
        // Our own lease would keep the provider from giving the space back at once.
        self.source.release_hold();
        // And no image that is a device can be removed while it is open.
        self.source.close_device();
        image.release(&image.snapshot)
    }
}

impl FrozenImage {
    /// Whether the next run could learn from it what has changed: else it would only cost the
    /// volume's writers time and space.
    pub(super) fn can_be_a_base(&self) -> bool {
        self.told == Told::Changes
    }

    /// The provider that made it.
    pub(super) fn provider(&self) -> Option<&dyn Provider> {
        self.registry.named(&self.snapshot.provider)
    }

    /// Releases a snapshot of the same volume, whoever made it.
    pub(super) fn release(&self, snapshot: &Snapshot) -> Result<(), SnapshotError> {
        match self.registry.named(&snapshot.provider) {
            Some(provider) => provider.release(snapshot),
            None => Ok(()),
        }
    }
}

/// Why not the other providers, in parentheses.
fn rejected(choice: &Choice) -> String {
    let why: Vec<String> = choice
        .others
        .iter()
        .map(|other| format!("{}: {}", other.provider, other.why))
        .collect();
    match why.is_empty() {
        true => String::new(),
        false => format!(" (not {})", why.join("; not ")),
    }
}

fn open_live(request: &Request, hold: Hold) -> Result<Source, OpenError> {
    open_source_with(&request.source, hold, request.io)
}

fn unheld(error: &OpenError) -> Failure {
    let failure = source_unopened(error);
    if failure.kind == FailureKind::Preflight && failure.hint.is_empty() {
        return failure.hint("stop the writer, or take what is there with --snapshot none");
    }
    failure
}

/// Cleans up after runs that were killed, then makes the image and opens it.
fn freeze(
    request: &Request,
    registry: Registry,
    provider: &'static str,
    fitness: &Fitness,
    live: &Source,
    run: &str,
) -> Result<Frozen, Failure> {
    let unfit = |why: String| SnapshotError::Unfit {
        provider,
        volume: live.path().to_path_buf(),
        why,
    };
    let maker = registry
        .named(provider)
        .ok_or_else(|| unfrozen_source(&unfit("it is not known".to_owned())))?;
    let volume = VolumeName::of_path(live.path());
    let name = SnapshotName::new(&volume, run)
        .map_err(|error| unfrozen_source(&unfit(error.to_string())))?;
    recover(request, maker, live.path(), &volume);
    // Whoever writes the volume is not to wait for the lease that came with opening it.
    live.release_hold();
    let (snapshot, level) = still::snapshot(request, maker, live.path(), &name)?;
    let opened = maker.open(&snapshot).and_then(|image| {
        open_source_with(&image.path, Hold::None, request.io)
            .map_err(|error| unfit(sentence(&error)))
    });
    let source = match opened {
        Ok(source) => source,
        Err(error) => {
            // The first failure is the one to report; the next run finds what stays.
            let _ = maker.release(&snapshot);
            return Err(unfrozen_source(&error));
        }
    };
    Ok(Frozen {
        identity: live.identity().clone(),
        mode_bits: live.mode_bits(),
        volume: live.path().to_path_buf(),
        source,
        detail: format!("snapshot {name}"),
        warnings: Vec::new(),
        level: Some(level),
        image: Some(FrozenImage {
            registry,
            snapshot,
            space: fitness.space,
            told: fitness.delta,
        }),
    })
}

/// Releases what killed runs left: images that nobody reads and that no index names.
fn recover(request: &Request, provider: &dyn Provider, volume: &Path, name: &VolumeName) {
    let found = match provider.recover(volume, name) {
        Ok(found) => found,
        Err(error) => {
            tracing::warn!(
                "earlier snapshots were not looked for: {}",
                sentence(&error)
            );
            return;
        }
    };
    let bases = match bases(&IndexStore::at(&request.state_dir)) {
        Ok(bases) => bases,
        Err(failure) => {
            tracing::warn!("earlier snapshots are left alone: {}", failure.message);
            return;
        }
    };
    for snapshot in found.whole {
        let is_base = bases.iter().any(|(_, base)| base.name == snapshot.name);
        if is_base || is_read(provider, &snapshot) {
            continue;
        }
        match provider.release(&snapshot) {
            Ok(()) => tracing::info!("released {}, which a run left behind", snapshot.name),
            Err(error) => tracing::warn!("{} stays: {}", snapshot.name, sentence(&error)),
        }
    }
}
