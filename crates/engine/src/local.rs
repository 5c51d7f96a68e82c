//! A target on this machine: its side runs on a thread of this process.

use std::path::Path;
use std::sync::Arc;

use lockstep_protocol::{Failure, FailureKind};
use lockstep_transport::memory_pair;

use crate::cancel::Cancel;
use crate::request::{Connect, Connected};
use crate::target::{ServeOptions, serve};

/// A target on this machine, reached over a link in memory.
pub struct LocalTarget(pub ServeOptions);

impl Connect for LocalTarget {
    fn connect(self: Box<Self>) -> Result<Connected, Failure> {
        let (near, far) = memory_pair();
        let options = self.0;
        let serving = std::thread::Builder::new()
            .name("target".to_owned())
            .spawn(move || {
                // The source hears of the failure over the link.
                let _ = serve(far, options, Arc::new(Cancel::new()));
            })
            .map_err(|error| Failure::new(FailureKind::Internal, error.to_string()))?;
        Ok(Connected {
            link: near,
            warning: None,
            lifeline: Box::new(Serving(Some(serving))),
        })
    }

    fn local_path(&self, state_dir: &Path) -> Option<&Path> {
        (self.0.state_dir == state_dir).then_some(&self.0.path)
    }
}

/// Waits for the target's side, which ends by itself once the link does.
pub(crate) struct Serving(Option<std::thread::JoinHandle<()>>);

impl Serving {
    pub(crate) fn of(thread: std::thread::JoinHandle<()>) -> Serving {
        Serving(Some(thread))
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        if let Some(serving) = self.0.take() {
            // A panic there was reported by its own thread.
            let _ = serving.join();
        }
    }
}
