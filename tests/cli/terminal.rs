//! On a terminal: the question, and what answers it. `script` of util-linux lends the terminal.

use std::io::{Read, Write};
use std::process::{Command, Stdio};

use super::stand::{LOCKSTEP, Stand, drifted, skip, volume};

/// Runs `lockstep sync a b` on a terminal and types an answer; the exit code and what was seen.
fn answered(stand: &Stand, answer: &str) -> Option<(i32, String)> {
    let command = format!("'{LOCKSTEP}' sync a b --state-dir state");
    let mut child = Command::new("script")
        .args(["-qec", &command, "/dev/null"])
        .current_dir(stand.folder())
        .env_remove("LOCKSTEP_STATE_DIR")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let mut stdin = child.stdin.take().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut seen = Vec::new();
    // What is typed before the question may be lost while the terminal is being set up.
    while !String::from_utf8_lossy(&seen).contains("Type `yes`") {
        let mut part = [0; 256];
        let length = stdout.read(&mut part).unwrap();
        assert_ne!(length, 0, "no question: {}", String::from_utf8_lossy(&seen));
        seen.extend_from_slice(&part[..length]);
    }
    stdin.write_all(answer.as_bytes()).unwrap();
    stdout.read_to_end(&mut seen).unwrap();
    let status = child.wait().unwrap();
    let seen = String::from_utf8_lossy(&seen).into_owned();
    Some((status.code().unwrap(), seen))
}

fn stand() -> Stand {
    let stand = Stand::new();
    let bytes = volume(1_000_000, 1);
    stand.file("a", &bytes);
    stand.file("b", &drifted(&bytes, &[1, 2, 3]));
    stand
}

#[test]
fn anything_but_yes_means_no() {
    for answer in ["\n", "y\n", "no\n", "YES\n", "b\n", "yes please\n"] {
        let stand = stand();
        let before = stand.contents();
        let Some((code, seen)) = answered(&stand, answer) else {
            return skip("script is not installed");
        };
        assert_eq!(code, 4, "{answer:?}: {seen}");
        assert!(seen.contains("12 kB of 977 KiB differ"), "{seen}");
        let after = seen.split("to go on: ").nth(1).unwrap();
        assert!(
            !after.contains("connecting"),
            "a bar hides the question: {seen}"
        );
        assert_eq!(stand.contents(), before);
    }
}

#[test]
fn yes_goes_on_with_what_was_compared() {
    let stand = stand();
    let Some((code, seen)) = answered(&stand, "yes\n") else {
        return skip("script is not installed");
    };
    assert_eq!(code, 0, "{seen}");
    assert_eq!(stand.read("b"), stand.read("a"));
    assert!(seen.contains("of a full copy"), "{seen}");
}

#[test]
fn an_interrupt_is_an_answer_too() {
    let stand = stand();
    let before = stand.contents();
    let Some((code, seen)) = answered(&stand, "\x03") else {
        return skip("script is not installed");
    };
    // Nobody agreed, and a signal came: either is true, and nothing was touched.
    assert!([4, 130].contains(&code), "{code}: {seen}");
    assert_eq!(stand.contents(), before);
}
