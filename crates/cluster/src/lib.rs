//! A cluster that knows what is consistent: its file, keys, roles, claims and plans.
//!
//! Promise: nothing here overwrites anything. It says who may, from where to where, and what would
//! change; whatever is unclear is refused, with every mistake named at once.
//!
//! ```text
//! cluster.toml ─► file ──► ClusterFile ──► selection ─► volumes and nodes that a command means
//!                                     └──► roles ─────► one primary, its secondaries
//! agent.toml ───► file ──► AgentFile: what a node says for itself
//! state directory ► key ─► the node's or operator's key
//! claim: which run may write a volume here ── promises, durable in the ledger
//! plan: what a resync would do ── exactly that, or it is stale
//! ```
#![forbid(unsafe_code)]
#![cfg_attr(
    test,
    expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")
)]

pub mod claim;
pub mod file;
pub mod key;
pub mod plan;
pub mod roles;
pub mod selection;
pub mod value;

pub use file::{AgentFile, ClusterFile};
