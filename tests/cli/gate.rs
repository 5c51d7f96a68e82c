//! `gate` says yes only of what was proved, and makes nothing.

use super::stand::{Stand, volume};

#[test]
fn nothing_is_usable_before_it_was_proved() {
    let stand = Stand::new();
    stand.file("b", b"b");
    let before = stand.contents();
    for path in ["b", "missing", "no/such/folder", "."] {
        let ran = stand.run(&["gate", path]).exits(10);
        assert_eq!(
            ran.stderr.lines().count(),
            1,
            "one line says why: {}",
            ran.stderr
        );
        assert!(ran.stderr.contains("unknown"), "{}", ran.stderr);
    }
    assert_eq!(stand.contents(), before);
    assert!(!stand.path("state").exists(), "a question makes no ledger");
}

#[test]
fn a_proved_volume_is_usable_until_it_is_replaced() {
    let stand = Stand::new();
    stand.file("a", &volume(100_000, 1));
    stand.run(&["sync", "a", "b"]).exits(0);
    let yes = stand.run(&["gate", "b"]).exits(0);
    assert!(yes.stderr.contains("consistent since 20"), "{}", yes.stderr);
    std::os::unix::fs::symlink(stand.path("b"), stand.path("link")).unwrap();
    stand.run(&["gate", "link"]).exits(0);
    stand.run(&["gate", "-q", "b"]).exits(0);

    std::fs::remove_file(stand.path("b")).unwrap();
    stand.run(&["gate", "b"]).exits(10);
    stand.file("b", &volume(100_000, 1));
    let replaced = stand.run(&["gate", "b"]).exits(10);
    assert!(
        replaced.stderr.contains("not the file"),
        "{}",
        replaced.stderr
    );
}

#[test]
fn another_state_directory_knows_nothing() {
    let stand = Stand::new();
    stand.file("a", b"a");
    stand.run(&["sync", "a", "b"]).exits(0);
    stand.run(&["gate", "b", "--state-dir", "other"]).exits(10);
    assert!(!stand.path("other").exists());
}

#[test]
fn the_answer_is_there_for_programs() {
    let stand = Stand::new();
    stand.file("a", b"a");
    let no = stand.events(&["gate", "a"]).exits(10);
    assert_eq!(no.summary()["targets"][0]["state"], "unknown");
    assert_eq!(no.summary()["targets"][0]["error"]["code"], "not-usable");
    stand.run(&["sync", "a", "b"]).exits(0);
    let yes = stand.events(&["gate", "b"]).exits(0);
    assert_eq!(yes.of_type("state")[0]["state"], "consistent");
    // Read without a snapshot.
    assert_eq!(yes.summary()["level"], serde_json::Value::Null);
}

#[test]
fn a_damaged_ledger_is_no_proof() {
    let stand = Stand::new();
    stand.file("a", b"a");
    stand.run(&["sync", "a", "b"]).exits(0);
    for entry in std::fs::read_dir(stand.path("state")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            std::fs::write(path, b"not a ledger").unwrap();
        }
    }
    stand.run(&["gate", "b"]).exits(10);
}
