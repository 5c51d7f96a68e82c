//! The demo shows what it says, and leaves nothing behind.

use super::stand::Stand;

#[test]
fn the_demo_ends_well_and_cleans_up() {
    let stand = Stand::new();
    let mut command = stand.command(&["demo", "--size", "64M"]);
    let output = command.env("TMPDIR", stand.folder()).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{said}");
    for part in [
        "$ lockstep sync",
        "$ lockstep gate",
        "$ lockstep diff",
        "killed",
        "in lockstep",
    ] {
        assert!(said.contains(part), "{part} is missing: {said}");
    }
    assert_eq!(std::fs::read_dir(stand.folder()).unwrap().count(), 0);
}

#[test]
fn the_demo_with_json_ends_in_its_last_summary() {
    let stand = Stand::new();
    let mut command = stand.command(&["demo", "--size", "32M", "--json", "--keep"]);
    let output = command.env("TMPDIR", stand.folder()).output().unwrap();
    let events = super::stand::Events::from(super::stand::Ran::from(output)).exits(0);
    assert_eq!(
        events.summary()["targets"].as_array().map(Vec::len),
        Some(2)
    );
    let kept = std::fs::read_dir(stand.folder()).unwrap().count();
    assert_eq!(kept, 1, "--keep leaves the folder");
}
