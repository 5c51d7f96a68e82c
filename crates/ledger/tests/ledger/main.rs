//! The ledger as its users and its accidents see it.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod contention;
mod damage;
mod doubt;
mod golden;
mod kill;
mod promise;
mod scene;
mod story;
