//! `remote-bench`: the far side of a measurement, started over a remote shell by the near side.
//!
//! stdin and stdout belong to the conversation; everything for people goes to stderr, which the
//! near side reads.

use lockstep_bench::serve;
use lockstep_protocol::Failure;
use lockstep_transport::remote::answer;

use crate::failure::{chain, usage};
use crate::remote::VERSION;

pub(super) fn run() -> Result<u8, Failure> {
    let answered = answer(VERSION).map_err(|error| {
        usage(chain(&error)).hint("this verb is started by `lockstep bench` on another machine")
    })?;
    let served = match answered.near_version == VERSION {
        true => serve(answered.link),
        // The near side sees it too, and says so.
        false => Err(usage(format!(
            "lockstep {} there and lockstep {VERSION} here cannot measure together",
            answered.near_version
        ))),
    };
    drop(answered.lifeline);
    served.map(|()| 0)
}
