//! Undos as their users and their accidents see them.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod damage;
mod rollback;
mod scene;
mod story;
