//! Every provider that runs here, on real filesystems.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod conformance;
mod cost;
mod crashes;
mod lab;
mod stage;
mod unsound;
mod volumes;
mod without_rights;
mod writers;
