//! A database that works on while its volume is copied: `tests/lab/postgres`.

use std::path::Path;
use std::process::Command;

use super::lab::root_lab;
use super::stand::LOCKSTEP;

/// `LOCKSTEP_POSTGRES_ROUNDS` says how many copies are made under load; 10 for the whole figure.
const ROUNDS: &str = "3";

#[test]
fn a_live_postgresql_is_copied_recovers_every_commit_and_streams_to_its_copy() {
    if !root_lab() {
        return;
    }
    let rounds = std::env::var("LOCKSTEP_POSTGRES_ROUNDS").unwrap_or_else(|_| ROUNDS.to_owned());
    let output = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lab/postgres"))
        .args([LOCKSTEP, &rounds])
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{}{}",
        text(&output.stdout),
        text(&output.stderr)
    );
    print!("{}", text(&output.stdout));
}
