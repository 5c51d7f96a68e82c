//! Opens, guards and claims a target, or says why not.

use lockstep_ledger::{Identity as LedgerIdentity, Ledger, RunFacts, Standing, VolumeKey};
use lockstep_merkle::Geometry;
use lockstep_protocol::limits::{NEWEST_VERSION, OLDEST_VERSION};
use lockstep_protocol::{Failure, FailureKind, Hello, Plan, Purpose, VolumeState, Welcome};
use lockstep_volume::{
    Identity, Target, TargetPlan, TargetRequest, Volume, canonical_target, identify, open_target,
};

use super::ServeOptions;
use super::mark::Marks;
use super::place::Place;
use crate::doubt::run_name;
use crate::failures::{ledger_failed, sentence, target_unopened};
use crate::limits::WINDOW;
use crate::scan::ScanFrom;

/// A target that is fit for its run.
pub(super) struct Opened {
    pub(super) volume: Box<dyn Place>,
    pub(super) marks: Marks,
    pub(super) welcome: Welcome,
    pub(super) from: ScanFrom,
    pub(super) geometry: Geometry,
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
    let path = canonical_target(&options.path).map_err(|error| target_unopened(&error))?;
    // Before the volume, so that an unusable ledger leaves no trace on it.
    let ledger = match hello.purpose {
        Purpose::Sync => Some(Ledger::open(&options.state_dir).map_err(|e| ledger_failed(&e))?),
        Purpose::Compare => None,
    };
    let volume = open_target(&TargetRequest {
        path: &path,
        size: hello.size,
        source: Some(&source),
        allow_larger: hello.allow_larger,
        read_only: hello.purpose == Purpose::Compare,
        mode_bits: u32::from(hello.mode_bits),
        engine: options.io,
    })
    .map_err(|error| target_unopened(&error))?;
    let key = VolumeKey::from_path(&path)
        .map_err(|error| Failure::new(FailureKind::Usage, sentence(&error)))?;
    let standing = standing(ledger.as_ref(), options, &key, &volume)?;
    let marks = match ledger {
        Some(ledger) => Marks::claim(&ledger, &key, &facts(hello, options))?,
        None => Marks::nothing(),
    };
    let welcome = welcome(version, hello, &volume, standing);
    Ok(Opened {
        from: trusted(
            standing,
            hello.purpose == Purpose::Sync && volume.has_lost_writes(),
        ),
        geometry: Geometry::new(hello.size),
        volume: Box::new(volume),
        marks,
        welcome,
    })
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
) -> Result<VolumeState, Failure> {
    let Some(identity) = volume.identity() else {
        return Ok(VolumeState::Unknown);
    };
    if volume.plan() == TargetPlan::ResumePartial {
        return Ok(VolumeState::Inconsistent);
    }
    let identity = LedgerIdentity::new(identity.durable_text());
    let standing = match ledger {
        Some(ledger) => ledger
            .standing(key, &identity)
            .map_err(|error| ledger_failed(&error))?,
        None => lockstep_ledger::peek(&options.state_dir, key, &identity),
    };
    Ok(match standing {
        Standing::Unknown { .. } => VolumeState::Unknown,
        Standing::Consistent(_) => VolumeState::Consistent,
        Standing::Inconsistent(_) => VolumeState::Inconsistent,
        Standing::Failed(_) => VolumeState::Failed,
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
    }
}

fn welcome(version: u16, hello: &Hello, volume: &Target, standing: VolumeState) -> Welcome {
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
        identity: volume
            .identity()
            .map(|identity| identity.to_bytes())
            .unwrap_or_default(),
    }
}
