//! Databases that work on while their volumes are copied: `tests/lab/postgres`, and
//! `tests/lab/postgres-cluster` with the hooks of `docs/examples`.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::lab::{missing, root_lab};
use super::stand::LOCKSTEP;

/// `LOCKSTEP_POSTGRES_ROUNDS` says how many copies are made under load; 10 for the whole figure.
const ROUNDS: &str = "3";

/// Whether there is a PostgreSQL, and root's right to mount what it is on; says why not.
fn postgres_lab() -> bool {
    let versions = fs::read_dir("/usr/lib/postgresql");
    let has_server = versions.is_ok_and(|mut versions| {
        versions
            .any(|version| version.is_ok_and(|version| version.path().join("bin/initdb").exists()))
    });
    root_lab() && (has_server || missing("PostgreSQL is not installed: run tools/setup"))
}

/// Runs a script of `tests/lab` to success.
#[track_caller]
fn lab(script: &str, arguments: &[&str]) {
    let output = Command::new(
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/lab")
            .join(script),
    )
    .arg(LOCKSTEP)
    .args(arguments)
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

#[test]
fn a_live_postgresql_is_copied_recovers_every_commit_and_streams_to_its_copy() {
    if postgres_lab() {
        let rounds =
            std::env::var("LOCKSTEP_POSTGRES_ROUNDS").unwrap_or_else(|_| ROUNDS.to_owned());
        lab("postgres", &[rounds.as_str()]);
    }
}

#[test]
fn two_standbys_beyond_repair_stream_from_a_primary_that_was_never_stopped() {
    if postgres_lab() {
        lab("postgres-cluster", &[]);
    }
}

#[test]
fn two_members_of_patroni_beyond_repair_are_members_again() {
    let tools = ["/usr/bin/patroni", "/usr/bin/etcd", "/usr/bin/curl"];
    let absent = tools.iter().find(|tool| !Path::new(tool).exists());
    let has_tools =
        absent.is_none_or(|tool| missing(&format!("there is no {tool}: run tools/setup")));
    if has_tools && postgres_lab() {
        lab("postgres-cluster", &["patroni"]);
    }
}
