//! The source as it is read: a frozen image of the volume, or the volume itself, held still.

use std::path::{Path, PathBuf};

use lockstep_protocol::{Failure, FailureKind};
use lockstep_quiesce::Level;
use lockstep_snapshot::{Health, Provider, Registry, Snapshot, SnapshotError, Space, Told};
use lockstep_volume::{Held, Hold, HoldLost, Identity, OpenError, Source, open_source_with};

use crate::failures::{sentence, source_unopened, unfrozen_source};
use crate::monitor::{Monitor, Notice};
use crate::request::{Request, SnapshotChoice};
use crate::together::{
    Member, NotSelected, Selected, Surroundings, TakenSnapshot, Together, select, take,
    thaw_orphans,
};

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
    pub(super) fn open(
        request: &Request,
        taken: Option<TakenSnapshot>,
        run: &str,
    ) -> Result<Frozen, Failure> {
        if let Some(taken) = taken {
            return Frozen::of(request, taken);
        }
        let thawed = thaw_orphans(&request.state_dir);
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
            SnapshotChoice::Provider(_) | SnapshotChoice::Program(_) => Frozen::by(request, run),
        }
    }

    /// What was frozen before this run, with other volumes.
    fn of(request: &Request, taken: TakenSnapshot) -> Result<Frozen, Failure> {
        let opened = open_live(request, Hold::None)
            .map_err(|error| unheld(&error))
            .and_then(|live| {
                live.release_hold();
                let source = open_image(request, &taken.selected, &taken.snapshot, live.path());
                Ok((source.map_err(|error| unfrozen_source(&error))?, live))
            });
        let (source, live) = opened.inspect_err(|_| {
            // The failure to report is this one; the next run releases what stays.
            let _ = taken.release();
        })?;
        Ok(Frozen {
            identity: live.identity().clone(),
            mode_bits: live.mode_bits(),
            volume: live.path().to_path_buf(),
            source,
            detail: format!("snapshot {}, made with others", taken.snapshot.name),
            warnings: Vec::new(),
            level: Some(taken.level),
            image: Some(FrozenImage {
                registry: taken.selected.registry,
                snapshot: taken.snapshot,
                space: taken.space,
                told: taken.selected.told,
            }),
        })
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
        let selected = match select(live.path(), &request.snapshot) {
            Ok(selected) => selected,
            Err(NotSelected::NoneSuits(why)) => {
                drop(live);
                return Frozen::held(request, &why, Vec::new());
            }
            Err(NotSelected::Refused(failure)) => return Err(failure),
        };
        let (name, why) = (selected.name, selected.why.clone());
        let mut warnings = selected.cautions.clone();
        match freeze(request, selected, &live, run) {
            Ok(frozen) => Ok(Frozen {
                detail: format!("{}, by {name}{why}", frozen.detail),
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
                Frozen::held(request, &why, warnings)
            }
        }
    }

    /// The volume itself, as no provider suits it.
    fn held(request: &Request, why: &str, warnings: Vec<String>) -> Result<Frozen, Failure> {
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

    /// An image by the provider that was asked for, or none at all.
    fn by(request: &Request, run: &str) -> Result<Frozen, Failure> {
        let live = open_live(request, Hold::None).map_err(|error| unheld(&error))?;
        match select(live.path(), &request.snapshot) {
            Ok(selected) => freeze(request, selected, &live, run),
            Err(not) => Err(not.refused(live.path())),
        }
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

    /// The providers that it came from.
    pub(super) fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Releases a snapshot of the same volume, whoever made it.
    pub(super) fn release(&self, snapshot: &Snapshot) -> Result<(), SnapshotError> {
        match self.registry.named(&snapshot.provider) {
            Some(provider) => provider.release(snapshot),
            None => Ok(()),
        }
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

/// Makes the image, and opens it.
fn freeze(
    request: &Request,
    selected: Selected,
    live: &Source,
    run: &str,
) -> Result<Frozen, Failure> {
    // Whoever writes the volume is not to wait for the lease that came with opening it.
    live.release_hold();
    let member = Member {
        path: live.path(),
        selected: &selected,
    };
    let surroundings = Surroundings {
        stillness: &request.stillness,
        state_dir: &request.state_dir,
        watchdog: Together::own_watchdog(),
    };
    let mut taken = take(&[member], &surroundings, run)?;
    let snapshot = taken
        .snapshots
        .pop()
        .ok_or_else(|| Failure::new(FailureKind::Internal, "no snapshot was made"))?;
    let source = match open_image(request, &selected, &snapshot, live.path()) {
        Ok(source) => source,
        Err(error) => {
            // The first failure is the one to report; the next run finds what stays.
            let _ = selected
                .provider()
                .and_then(|maker| maker.release(&snapshot));
            return Err(unfrozen_source(&error));
        }
    };
    let frozen_for = match taken.pause.is_zero() {
        true => String::new(),
        false => format!(", writers held up for {} ms", taken.pause.as_millis()),
    };
    Ok(Frozen {
        identity: live.identity().clone(),
        mode_bits: live.mode_bits(),
        volume: live.path().to_path_buf(),
        source,
        detail: format!("snapshot {}{frozen_for}", snapshot.name),
        warnings: selected.cautions,
        level: Some(taken.level),
        image: Some(FrozenImage {
            registry: selected.registry,
            snapshot,
            space: selected.space,
            told: selected.told,
        }),
    })
}

fn open_image(
    request: &Request,
    selected: &Selected,
    snapshot: &Snapshot,
    volume: &Path,
) -> Result<Source, SnapshotError> {
    let image = selected.provider()?.open(snapshot)?;
    open_source_with(&image.path, Hold::None, request.io).map_err(|error| SnapshotError::Unfit {
        provider: selected.name,
        volume: volume.to_path_buf(),
        why: sentence(&error),
    })
}
