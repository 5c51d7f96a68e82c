//! Guards and I/O on real files, filesystems and devices.
//!
//! What needs root, a loop device or a program that is missing says so and is skipped.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod devices;
mod files;
mod filesystems;
mod lab;
mod sources;
mod stamps;
mod transfers;
