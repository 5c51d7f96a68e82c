//! Two volumes snapshotted as one: a database on one, its log on the other, both being written.
//!
//! Only loop mounts that a test made itself are ever frozen, and each has a keeper that thaws it when
//! the test is gone. What needs root or a program that is missing says so and is skipped; with
//! `LOCKSTEP_REQUIRE_LABS` set it fails instead.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod kill;
mod lab;
mod order;
mod whole;
