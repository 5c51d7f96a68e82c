//! Points at which a test ends the process, as a power cut would.
//!
//! They exist only with the feature `crash-points`: then the process aborts at the point that
//! `LOCKSTEP_CRASH_AT` names. Without it, a point is nothing.

/// The variable that names a point.
pub const VARIABLE: &str = "LOCKSTEP_CRASH_AT";

/// Every point on a secondary, in the order in which a good run passes them.
pub const HOST: [&str; 16] = [
    "host.claimed",
    "host.promised",
    "host.granted",
    "host.staged",
    "host.noted",
    "host.stopping",
    "host.stopped",
    "host.listening",
    "host.served",
    "host.usable",
    "host.aligning",
    "host.aligned",
    "host.configured",
    "host.started",
    "host.checked",
    "host.concluded",
];

/// Every point on a primary, in the order in which a good run passes them; what comes after `hashed` of
/// several secondaries is interleaved.
pub const PRIMARY: [&str; 11] = [
    "primary.admitted",
    "primary.claimed",
    "primary.files",
    "primary.stopped",
    "primary.snapshot",
    "primary.hashed",
    "primary.writing",
    "primary.proved",
    "primary.concluding",
    "primary.shipped",
    "primary.ended",
];

/// Ends the process here if a test wants it.
#[cfg(feature = "crash-points")]
pub fn point(name: &'static str) {
    if std::env::var_os(VARIABLE).is_some_and(|at| at == name) {
        std::process::abort();
    }
}

/// Nothing.
#[cfg(not(feature = "crash-points"))]
pub fn point(_name: &'static str) {}
