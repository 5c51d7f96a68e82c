//! `remote-target`: the far side of a run, started over a remote shell by the near side.
//!
//! stdin and stdout belong to the conversation; everything for people goes to stderr, which the
//! near side reads.

use std::sync::Arc;

use lockstep_engine::{Cancel, ServeOptions, serve};
use lockstep_protocol::Failure;
use lockstep_transport::remote::answer;
use lockstep_volume::{IoEngine, probe_uring};

use super::Context;
use super::request::{default_threads, state_dir};
use crate::failure::{chain, usage};
use crate::remote::{Errand, VERSION};
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
    let options = ServeOptions {
        path: errand.path,
        state_dir: state_dir(explicit)?,
        who: errand.who,
        memory: errand.memory,
        threads: errand.threads.unwrap_or_else(default_threads),
        io: match errand.uring && probe_uring().is_ok() {
            true => IoEngine::Uring,
            false => IoEngine::Threads,
        },
        reuse: errand.reuse,
    };
    let served = serve(answered.link, options, cancel);
    drop(answered.lifeline);
    served.map(|()| 0)
}
