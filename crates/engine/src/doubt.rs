//! Runs whose word does not count any more, as records name them.

use lockstep_ledger::Doubt;

/// A run's name as records have it.
pub(crate) fn run_name(run: &[u8; 16]) -> String {
    run.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The doubt about runs that inherited from a delta which was caught.
pub(crate) fn doubt_about(runs: &[[u8; 16]]) -> Doubt {
    Doubt {
        runs: runs.iter().map(run_name).collect(),
        reason: "it was proved on the word of a snapshot's delta that hid changes".to_owned(),
    }
}
