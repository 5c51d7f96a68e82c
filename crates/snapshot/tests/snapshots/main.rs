//! Every provider that runs here, on real filesystems.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod conformance;
mod crashes;
mod lab;
mod stage;
mod unsound;
mod without_rights;
mod writers;
