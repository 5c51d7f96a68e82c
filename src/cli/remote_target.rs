//! `remote-target`: the far side of a run, started over a remote shell by the near side.
//!
//! stdin and stdout belong to the conversation; everything for people goes to stderr, which the
//! near side reads.

use std::sync::Arc;

use lockstep_engine::{Cancel, RollbackOptions, ServeOptions, serve, serve_rollback};
use lockstep_protocol::Failure;
use lockstep_transport::remote::answer;
use lockstep_volume::{IoEngine, probe_uring};

use super::Context;
use super::options::default_threads;
use super::request::state_dir;
use crate::failure::{chain, usage};
use crate::remote::{Errand, Job, VERSION};
use crate::signals::{self, Reaction};

pub(super) fn run(context: &Context) -> Result<u8, Failure> {
    let cancel = Arc::new(Cancel::new());
    signals::watch(
        Reaction::Cancel(Arc::clone(&cancel)),
        Arc::clone(&context.output),
        || {},
    )?;
    let answered = answer(VERSION).map_err(|error| {
        usage(chain(&error)).hint("this verb is started by `lockstep sync` on another machine")
    })?;
    let errand = Errand::decode(&answered.payload).map_err(usage)?;
    let explicit = errand.state_dir.as_deref().or(context.state_dir.as_deref());
    let (state_dir, path, who) = (state_dir(explicit)?, errand.path, errand.who);
    let threads = errand.threads.unwrap_or_else(default_threads);
    let io = match errand.uring && probe_uring().is_ok() {
        true => IoEngine::Uring,
        false => IoEngine::Threads,
    };
    let served = match errand.job {
        Job::Serve(reuse, undo) => {
            let memory = errand.memory;
            let options = ServeOptions {
                path,
                state_dir,
                who,
                memory,
                threads,
                priority: errand.priority,
                io,
                reuse,
                undo,
                epoch: 0,
                only_compare: false,
                image: None,
                device: None,
            };
            serve(answered.link, options, cancel).map(drop)
        }
        Job::Rollback => {
            let options = RollbackOptions {
                path,
                state_dir,
                who,
                threads,
                io,
            };
            serve_rollback(answered.link, &options)
        }
    };
    drop(answered.lifeline);
    served.map(|()| 0)
}
