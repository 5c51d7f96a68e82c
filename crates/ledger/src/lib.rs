//! A node's durable record of what its volumes hold.
//!
//! Promise: this is the only crate that can say `consistent`, it says so only of bytes that a
//! [`Proof`] stands for, and a crash at any point can only make it more pessimistic.
//!
//! ```text
//!            claim                 overwrite                    consistent(proof)
//! (anything) ─────► Claim ───────────────────────► Overwriting ───────────────────► consistent
//!                     │      inconsistent, durable      │ failed(reason)
//!                     │ confirm(proof)                  ├────────────────────────────► failed
//!                     ├──────────────────► consistent   │ abandon, drop, crash
//!                     │ release, drop, crash            └────────────────────────────► inconsistent
//!                     ├──────────────────► as before
//!                     │ doubt(runs), if the newest record is of one of them
//!                     └──────────────────► Overwriting, and `inconsistent`, durable
//! ```
//!
//! # Files of a state directory
//!
//! | file | content |
//! | --- | --- |
//! | `ledger.redb` | every record, a redb store; absent until the first change |
//! | `ledger.seq` | number of the last change that was reported as durable |
//! | `ledger.lock` | flock: exclusive for a change, shared for a look; never removed |
//! | `ledger.redb.damaged-N` | stores set aside, `N` from 1 to [`MAX_SET_ASIDE`] |
//! | `volumes/<hash of the key>.lock` | flock held for a whole run; its text names the holder |
//! | `promises/<volume>.promise` | which runs are too old to be let in, see `promise.rs` |
//! | `*.new` | a file being made; whoever makes the next one replaces it |
//!
//! # Recipe of a change
//!
//! 1. Take `ledger.lock` exclusively.
//! 2. Check the store in memory. A damaged one is renamed and the directory fsynced.
//! 3. Commit the record and the change's number to the store, durably. The first change makes the
//!    store as `ledger.redb.new`, and renames it once it is whole and fsynced.
//! 4. Write the number to `ledger.seq.new`, fsync, rename to `ledger.seq`, fsync the directory.
//! 5. Only now report success, and let go of the lock.
//!
//! Every look at the store reads it whole, into memory, and checks all its checksums there: a
//! reader never writes, and damage cannot spread. A crash between 3 and 4 leaves a store that is
//! ahead of `ledger.seq`, which is good. A store *behind* it lost a change that somebody relies on:
//! when a header decays after a crash, redb falls back to its previous commit, where what is
//! `inconsistent` today is still the `consistent` of yesterday. That is damage like any other, and
//! damage reads as `unknown`.
#![cfg_attr(
    test,
    expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")
)]

mod claim;
mod directory;
mod doubt;
mod error;
mod image;
#[cfg(test)]
mod interruptions;
mod key;
mod ledger;
mod lock;
mod promise;
mod proof;
mod record;
mod rows;
mod sequence;
mod store;

pub use claim::{Claim, Overwriting, RunFacts};
pub use directory::state_dir;
pub use doubt::{Doubt, Doubted, Downgrades};
pub use error::LedgerError;
pub use key::{Identity, VolumeKey};
pub use ledger::{Ledger, Standing, peek};
pub use promise::{Promise, PromiseError, peek_promise};
pub use proof::{Proof, ProofLevel, RootsDiffer, SourceLevel};
pub use record::{Record, State};
pub use rows::{MAX_RECORDS_PER_VOLUME, MAX_VOLUMES};
pub use store::MAX_SET_ASIDE;
