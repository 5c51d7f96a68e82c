//! Who is told how a resync ended.

use lockstep_agent::config::Config;
use lockstep_agent::primary::{EndSink, Job};
use lockstep_agent::wire::Ended;
use lockstep_protocol::Failure;

struct Log;

impl EndSink for Log {
    fn ended(&self, job: &Job, ended: &Ended, _begun_unix_ms: u64) {
        tracing::info!(run = %ended.run, name = %job.ask.name, "a resync is over");
    }
}

pub(super) fn sink(_config: &Config) -> Result<Box<dyn EndSink>, Failure> {
    Ok(Box::new(Log))
}
