//! Makes the snapshot while filesystems and applications are still, and never longer.

use std::cell::RefCell;
use std::path::Path;

use lockstep_protocol::{Failure, FailureKind};
use lockstep_quiesce::{Hook, Level, Quiesce, recover};
use lockstep_snapshot::{Provider, Snapshot, SnapshotError, SnapshotName};

use crate::failures::{sentence, unfrozen_source};
use crate::request::Request;

/// How this program is started to watch over what is frozen.
pub(crate) const WATCHDOG: [&str; 2] = ["/proc/self/exe", "thaw-watchdog"];

/// Thaws what a killed run left frozen; what was done, in sentences.
pub(super) fn thaw_orphans(request: &Request) -> Vec<String> {
    match recover(&request.state_dir) {
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

/// Makes the snapshot, with what the request wants to be still being so.
pub(super) fn snapshot(
    request: &Request,
    provider: &dyn Provider,
    volume: &Path,
    name: &SnapshotName,
) -> Result<(Snapshot, Level), Failure> {
    let failed = |error: &SnapshotError| unfrozen_source(error);
    if request.stillness.is_none() {
        let made = provider
            .create(volume, name)
            .map_err(|error| failed(&error))?;
        return Ok((made, Level::CrashConsistent));
    }
    // What is made is needed outside too: an error that comes later drops what the closure returns.
    let made = RefCell::new(None);
    let still = quiesce(request, volume, name).around(|| {
        provider.create(volume, name).map(|snapshot| {
            made.replace(Some(snapshot));
        })
    });
    let made = made.take();
    match (still, made) {
        (Ok((Ok(()), level)), Some(snapshot)) => Ok((snapshot, level)),
        (Ok((Err(error), _)), _) => Err(failed(&error)),
        (Ok((Ok(()), _)), None) => Err(Failure::new(FailureKind::Internal, "no snapshot was made")),
        (Err(error), made) => {
            if let Some(snapshot) = made {
                // The first failure is the one to report; the next run finds what stays.
                let _ = provider.release(&snapshot);
            }
            Err(Failure::new(
                FailureKind::Preflight,
                format!("source: {}", sentence(&error)),
            ))
        }
    }
}

fn quiesce(request: &Request, volume: &Path, name: &SnapshotName) -> Quiesce {
    let stillness = &request.stillness;
    let hook = |when: &str| Hook {
        name: stillness
            .hook
            .iter()
            .map(|hook| hook.display().to_string())
            .collect(),
        argv: stillness
            .hook
            .iter()
            .map(Into::into)
            .chain([when.into()])
            .collect(),
        environment: vec![
            ("LOCKSTEP_VOLUME".to_owned(), volume.into()),
            ("LOCKSTEP_SNAPSHOT".to_owned(), name.to_string().into()),
        ],
        limit: stillness.limit,
    };
    let hooks = |when| stillness.hook.iter().map(|_| hook(when)).collect();
    Quiesce {
        freeze: stillness.freeze.clone(),
        before: hooks("before"),
        after: hooks("after"),
        limit: stillness.limit,
        state_dir: request.state_dir.clone(),
        images: vec![volume.to_path_buf()],
        watchdog: WATCHDOG.iter().map(Into::into).collect(),
    }
}
