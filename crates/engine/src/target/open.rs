//! Opens, guards and claims a target, or says why not.

use std::path::{Path, PathBuf};

use lockstep_ledger::{Identity as LedgerIdentity, Ledger, Record, RunFacts, Standing, VolumeKey};
use lockstep_merkle::{Geometry, Root};
use lockstep_protocol::limits::{NEWEST_VERSION, OLDEST_VERSION};
use lockstep_protocol::{
    Failure, FailureKind, Hello, Plan, Purpose, Scope, VerifyScope, VolumeState, Welcome,
};
use lockstep_snapshot::Registry;
use lockstep_volume::{
    Identity, OpenError, OtherWriters, Target, TargetPlan, TargetRequest, Volume, VolumeKind,
    canonical_target, identify, open_target,
};

use super::ServeOptions;
use super::keep::{Keep, Subject};
use super::mark::Marks;
use super::own::{Own, Past};
use super::place::Place;
use crate::doubt::run_name;
use crate::failures::{ledger_failed, sentence, target_unopened};
use crate::limits::WINDOW;
use crate::scan::ScanFrom;
use crate::undo::{Stores, lasting};

/// What a file that does not exist yet is agreed on as.
const MISSING: &str = "missing";

/// A target that is fit for its run.
pub(super) struct Opened {
    pub(super) volume: Box<dyn Place>,
    pub(super) marks: Marks,
    pub(super) keep: Keep,
    pub(super) welcome: Welcome,
    pub(super) from: ScanFrom,
    pub(super) geometry: Geometry,
    /// Nothing for what is only compared, and for devices.
    pub(super) own: Option<Own>,
}

/// A target that is not; nothing of it was touched.
pub(super) struct Refusal {
    pub(super) failure: Failure,
    pub(super) identity: Vec<u8>,
}

/// Opens the target with every guard, then claims it in the ledger.
pub(super) fn open(hello: &Hello, options: &ServeOptions) -> Result<Opened, Box<Refusal>> {
    open_and_claim(hello, options).map_err(|failure| {
        let identity = identify(&options.path).map(|identity| identity.to_bytes());
        Box::new(Refusal {
            failure,
            identity: identity.unwrap_or_default(),
        })
    })
}

fn open_and_claim(hello: &Hello, options: &ServeOptions) -> Result<Opened, Failure> {
    let version = agreed_version(hello)?;
    let source = Identity::from_bytes(&hello.identity).map_err(|error| {
        Failure::new(FailureKind::Internal, format!("source's identity: {error}"))
    })?;
    if options.only_compare && hello.purpose != Purpose::Compare {
        return Err(Failure::new(
            FailureKind::Auth,
            "the source may only compare here, and wants to write",
        ));
    }
    let path = canonical_target(&options.path).map_err(|error| target_unopened(&error))?;
    let image = frozen(&path, &source, hello, options)?;
    // Before the volume, so that an unusable ledger leaves no trace on it.
    let ledger = match hello.purpose {
        Purpose::Sync => Some(Ledger::open(&options.state_dir).map_err(|e| ledger_failed(&e))?),
        Purpose::Compare => None,
    };
    let volume = open_target(&TargetRequest {
        path: image.as_ref().map_or(&path, |image| &image.path),
        size: hello.size,
        source: Some(&source),
        allow_larger: hello.allow_larger,
        read_only: hello.purpose == Purpose::Compare,
        mode_bits: u32::from(hello.mode_bits),
        engine: options.io,
    })
    .map_err(|error| target_unopened(&error))?;
    if let Some(agreed) = &options.device {
        is_the_agreed_one(&volume, agreed)?;
    }
    let key = VolumeKey::from_path(&path)
        .map_err(|error| Failure::new(FailureKind::Usage, sentence(&error)))?;
    let identity = match &image {
        Some(image) => Some(image.of.clone()),
        None => volume.identity(),
    };
    let (standing, record) = standing(ledger.as_ref(), options, &key, &volume, identity.as_ref())?;
    let has_lost_writes = hello.purpose == Purpose::Sync && volume.has_lost_writes();
    let from = trusted(standing, has_lost_writes);
    let past = past(hello, &volume, from, record);
    let own = own(hello, options, &key, &volume, past);
    let (marks, keep) = match ledger {
        Some(ledger) => {
            let facts = facts(hello, options);
            let marks = Marks::claim(&ledger, &key, &facts)?;
            (marks, keep(&ledger, options, key, &volume, &facts)?)
        }
        None => (Marks::nothing(), Keep::nothing()),
    };
    let welcome = welcome(version, hello, &volume, standing, identity);
    Ok(Opened {
        from,
        geometry: Geometry::new(hello.size),
        volume: Box::new(volume),
        marks,
        keep,
        welcome,
        own,
    })
}

/// What a comparison reads in place of a volume.
struct Frozen {
    path: PathBuf,
    /// The volume's identity, not the image's.
    of: Identity,
}

/// The image to be compared, if there is one. The volume itself is not opened then, so that it is
/// asked here whether it is the source.
fn frozen(
    path: &Path,
    source: &Identity,
    hello: &Hello,
    options: &ServeOptions,
) -> Result<Option<Frozen>, Failure> {
    let (Purpose::Compare, Some(image)) = (hello.purpose, &options.image) else {
        return Ok(None);
    };
    let of = identify(path).map_err(|error| target_unopened(&error))?;
    if of.same_place(source) {
        let path = path.to_path_buf();
        return Err(target_unopened(&OpenError::SameVolume { path }));
    }
    let path = image.clone();
    Ok(Some(Frozen { path, of }))
}

/// What was looked at before may have been replaced since, or a link moved.
fn is_the_agreed_one(volume: &Target, agreed: &str) -> Result<(), Failure> {
    let found = match volume.plan() {
        TargetPlan::Create | TargetPlan::ResumePartial => MISSING.to_owned(),
        _ => (volume.identity()).map_or_else(String::new, |found| lasting(&found.durable_text())),
    };
    match found == agreed {
        true => Ok(()),
        false => Err(Failure::new(
            FailureKind::Guard,
            format!("the target is {found}, and {agreed} was agreed on"),
        )
        .hint("something else was put in its place: look what it is, then run the command again")),
    }
}

fn agreed_version(hello: &Hello) -> Result<u16, Failure> {
    let version = hello.newest.min(NEWEST_VERSION);
    if version < hello.oldest.max(OLDEST_VERSION) {
        return Err(Failure::new(
            FailureKind::Usage,
            format!(
                "the source speaks protocol versions {} to {}, the target {OLDEST_VERSION} to {NEWEST_VERSION}",
                hello.oldest, hello.newest
            ),
        )
        .hint("install the same release of lockstep on both sides"));
    }
    Ok(version)
}

/// What a run that died, or a write that the disk refused, may have left in memory
/// and never on the medium must not be taken for good: such a target is scanned
/// from the medium.
fn trusted(standing: VolumeState, has_lost_writes: bool) -> ScanFrom {
    match standing {
        _ if has_lost_writes => ScanFrom::Medium,
        VolumeState::Inconsistent | VolumeState::Failed => ScanFrom::Medium,
        VolumeState::Unknown | VolumeState::Consistent => ScanFrom::Cache,
    }
}

fn standing(
    ledger: Option<&Ledger>,
    options: &ServeOptions,
    key: &VolumeKey,
    volume: &Target,
    identity: Option<&Identity>,
) -> Result<(VolumeState, Option<Record>), Failure> {
    let Some(identity) = identity else {
        return Ok((VolumeState::Unknown, None));
    };
    if volume.plan() == TargetPlan::ResumePartial {
        return Ok((VolumeState::Inconsistent, None));
    }
    let identity = LedgerIdentity::new(identity.durable_text());
    let standing = match ledger {
        Some(ledger) => ledger
            .standing(key, &identity)
            .map_err(|error| ledger_failed(&error))?,
        None => lockstep_ledger::peek(&options.state_dir, key, &identity),
    };
    Ok(match standing {
        Standing::Unknown { .. } => (VolumeState::Unknown, None),
        Standing::Consistent(record) => (VolumeState::Consistent, Some(record)),
        Standing::Inconsistent(_) => (VolumeState::Inconsistent, None),
        Standing::Failed(_) => (VolumeState::Failed, None),
    })
}

/// The past and the future of a file.
fn own(
    hello: &Hello,
    options: &ServeOptions,
    key: &VolumeKey,
    volume: &Target,
    past: Past,
) -> Option<Own> {
    if volume.kind() != VolumeKind::File || hello.purpose != Purpose::Sync {
        return None;
    }
    Some(Own {
        path: volume.canonical_path().to_path_buf(),
        volume: key.as_str().to_owned(),
        state_dir: options.state_dir.clone(),
        run: run_name(&hello.run),
        reuse: options.reuse,
        registry: Registry::system(),
        past,
        is_new: matches!(
            volume.plan(),
            TargetPlan::Create | TargetPlan::ResumePartial
        ),
    })
}

/// Whether what an earlier run left of the file counts; `record` is that of a consistent one.
fn past(hello: &Hello, volume: &Target, from: ScanFrom, record: Option<Record>) -> Past {
    let everything = hello.scope == Scope::Everything || hello.verify == VerifyScope::Full;
    if everything || hello.full_scan {
        return Past::Unwanted;
    }
    match volume.plan() {
        TargetPlan::Create | TargetPlan::ResumePartial => return Past::Unwanted,
        TargetPlan::Resize { .. } => return Past::Doubtful("its size is not the source's"),
        TargetPlan::Keep => {}
    }
    let proved = record.and_then(|record| record.root);
    let (Some(root), Some(identity)) = (proved, volume.identity()) else {
        return Past::Doubtful("the ledger does not say that it was left consistent");
    };
    if from == ScanFrom::Medium {
        return Past::Doubtful("writes to it were lost");
    }
    if volume.other_writers() != OtherWriters::Nobody {
        return Past::Doubtful("nobody can tell who writes it during the run");
    }
    Past::Known {
        identity: identity.durable_text(),
        root: Root::from_bytes(root),
    }
}

/// What can be kept of a target that was there before.
fn keep(
    ledger: &Ledger,
    options: &ServeOptions,
    key: VolumeKey,
    volume: &Target,
    facts: &RunFacts,
) -> Result<Keep, Failure> {
    let (path, new_size) = (volume.canonical_path(), volume.size());
    let is_file = volume.kind() == VolumeKind::File;
    let stores = Stores::of(&options.state_dir, path, is_file);
    stores.release_expired();
    let size = match volume.plan() {
        TargetPlan::Keep => new_size,
        TargetPlan::Resize { from, .. } => from,
        // There was no file: nothing is overwritten.
        TargetPlan::Create | TargetPlan::ResumePartial => return Ok(Keep::nothing()),
    };
    let Some(identity) = volume.identity() else {
        return Ok(Keep::nothing());
    };
    Keep::of(Subject {
        policy: options.undo,
        path: path.to_path_buf(),
        interrupted: Subject::interrupted(ledger, &key)?,
        key,
        identity: lasting(&identity.durable_text()),
        is_file,
        size,
        new_size,
        run: facts.run.clone(),
        stores,
    })
}

fn facts(hello: &Hello, options: &ServeOptions) -> RunFacts {
    let who = match options.who.as_str() {
        "" => hello.who.as_str(),
        who => who,
    };
    RunFacts {
        run: run_name(&hello.run),
        source: hello.source.as_str().to_owned(),
        who: who.to_owned(),
        started_unix_ms: crate::clock::now(),
        epoch: options.epoch,
    }
}

fn welcome(
    version: u16,
    hello: &Hello,
    volume: &Target,
    standing: VolumeState,
    identity: Option<Identity>,
) -> Welcome {
    Welcome {
        version,
        window: hello.window.min(WINDOW),
        plan: match volume.plan() {
            TargetPlan::Create => Plan::Create,
            TargetPlan::Keep => Plan::Keep,
            TargetPlan::Resize { .. } => Plan::Resize,
            TargetPlan::ResumePartial => Plan::Resume,
        },
        present_size: match volume.plan() {
            TargetPlan::ResumePartial | TargetPlan::Create => None,
            _ => volume.present_size(),
        },
        standing,
        has_medium: volume.has_medium(),
        identity: identity
            .map(|identity| identity.to_bytes())
            .unwrap_or_default(),
    }
}
