//! Notifications as they arrive: at a real mail server (aiosmtpd) and at a web server, with and
//! without TLS, and at receivers that are down, slow, or refuse.
//!
//! Python's own libraries read what arrives and check the signatures. Where they are missing a
//! test says so and does nothing; with `LOCKSTEP_REQUIRE_LABS` set it fails instead.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod kill;
mod mail;
mod receiver;
mod scene;
mod trouble;
mod webhook;
