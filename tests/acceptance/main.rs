//! Acceptance: what the program promises, on volumes, disks, shells and wires as they are in use.
//! What it says of itself is never the judge: `cmp`, `b3sum` and `tools/differing` are.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod bench;
mod cluster;
mod cluster_consent;
mod cluster_epochs;
mod cluster_groups;
mod cluster_guards;
mod cluster_kill;
mod cluster_layout;
mod cluster_notify;
mod cluster_verbs;
mod devices;
mod docs;
mod judge;
mod kill;
mod lab;
mod liars;
mod limits;
mod notify;
mod operators;
mod own_index;
mod postgres;
mod remote;
mod several;
mod snapshots;
#[expect(dead_code, reason = "the tests of the command line need more of it")]
#[path = "../cli/stand.rs"]
mod stand;
mod sync;
mod undo;
mod wire;
mod writers;
