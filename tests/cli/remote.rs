//! Targets behind a remote shell: over QUIC between processes, over the pipe, and shells that fail.

use super::stand::{Events, LOCKSTEP, Stand, drifted, shell, volume};

const SIZE: usize = 3 * 1024 * 1024 + 99;

/// `sync a 127.0.0.1:…/b` with these further arguments.
fn sync(stand: &Stand, more: &[&str]) -> Events {
    let target = format!("127.0.0.1:{}", stand.path("b").display());
    let shell = shell();
    let mut arguments = vec!["sync", "a", &target, "--yes"];
    arguments.extend(shell.iter().map(String::as_str));
    arguments.extend(more);
    stand.events(&arguments)
}

/// `sync` over a remote shell that does only this.
fn sync_over(stand: &Stand, shell: &str) -> Events {
    let target = format!("db2:{}", stand.path("b").display());
    let shell = format!("sh -c '{}'", shell.replace('\'', "''"));
    stand.events(&["sync", "a", &target, "--yes", "-e", &shell])
}

fn stand() -> Stand {
    let stand = Stand::new();
    stand.file("a", &volume(SIZE, 1));
    stand
}

#[test]
fn a_far_file_is_made_over_quic_and_again_over_the_pipe() {
    let stand = stand();
    let events = sync(&stand, &[]).exits(0);
    assert_eq!(events.summary()["targets"][0]["transport"], "quic");
    assert_eq!(stand.read("b"), stand.read("a"));
    stand.run(&["gate", "b"]).exits(0);

    stand.file("b", &drifted(&stand.read("a"), &[5, 6]));
    let events = sync(&stand, &["--transport", "ssh"]).exits(0);
    assert_eq!(events.summary()["targets"][0]["transport"], "ssh");
    assert_eq!(events.count("bytes_written"), 2 * 4096);
    assert_eq!(stand.read("b"), stand.read("a"));
}

#[test]
fn an_equal_far_file_costs_next_to_nothing() {
    let stand = Stand::new();
    let bytes = volume(64 << 20, 1);
    stand.file("a", &bytes);
    stand.file("b", &bytes);
    let events = sync(&stand, &[]).exits(0);
    assert_eq!(events.count("bytes_written"), 0);
    let crossed = events.count("bytes_sent") + events.count("bytes_received");
    assert!(
        crossed <= (64 << 20) / 1000,
        "{crossed} bytes crossed the link"
    );
}

#[test]
fn diff_reaches_far_files() {
    let stand = stand();
    stand.file("b", &drifted(&stand.read("a"), &[5]));
    let target = format!("127.0.0.1:{}", stand.path("b").display());
    let shell = shell();
    let mut arguments = vec!["diff", "a", &target];
    arguments.extend(shell.iter().map(String::as_str));
    let ran = stand.run(&arguments).exits(10);
    assert_eq!(ran.stdout, "20480 4096\n");
}

#[test]
fn a_relative_state_directory_is_used_where_the_far_side_starts() {
    let stand = stand();
    sync(&stand, &["--state-dir", "far"]).exits(0);
    assert!(stand.path("far").is_dir());
    stand.run(&["gate", "b", "--state-dir", "far"]).exits(0);
}

#[test]
fn shells_that_fail_are_one_clear_sentence_each() {
    let stand = stand();
    let before = stand.contents();
    for (shell, code, part) in [
        (
            "echo ssh: Could not resolve hostname db2: Name or service not known >&2; exit 255",
            20,
            "not known",
        ),
        (
            "echo ssh: connect to host db2 port 22: Connection refused >&2; exit 255",
            20,
            "refused",
        ),
        (
            "echo Permission denied '(publickey).' >&2; exit 255",
            5,
            "Permission denied",
        ),
        (
            "echo Host key verification failed. >&2; exit 255",
            5,
            "host key",
        ),
        (
            "echo sh: lockstep: command not found >&2; exit 127",
            2,
            "no lockstep",
        ),
        ("echo Welcome; exit 0", 2, "not lockstep"),
        ("echo LOCKSTEP-REMOTE 99 9.9.9; sleep 5", 2, "same version"),
    ] {
        let events = sync_over(&stand, shell).exits(code);
        let message = events.summary()["targets"][0]["error"]["message"]
            .as_str()
            .unwrap();
        assert!(message.contains(part), "{shell}: {message}");
        assert!(!message.contains('\n'), "one line: {message}");
    }
    assert_eq!(stand.contents(), before);
}

#[test]
fn a_shell_that_is_not_installed_is_named() {
    let stand = stand();
    let events = stand
        .events(&["sync", "a", "db2:/x", "-e", "/no/such/shell -p 1"])
        .exits(2);
    let message = events.summary()["targets"][0]["error"]["message"].to_string();
    assert!(message.contains("/no/such/shell"), "{message}");
}

#[test]
fn far_failures_keep_their_exit_codes() {
    let stand = stand();
    stand.file("file", b"");
    sync(&stand, &["--state-dir", "file/state"]).exits(12);
    assert!(!stand.path("b").exists());
    let bytes = drifted(&stand.read("a"), &[0]);
    stand.file("b", &bytes);
    let held = std::fs::File::open(stand.path("b")).unwrap();
    sync(&stand, &[]).exits(7);
    drop(held);
    assert_eq!(stand.read("b"), bytes);
    // The same file on both sides is found out by what it is, not by its path.
    let target = format!("127.0.0.1:{}", stand.path("a").display());
    let shell = shell();
    let mut arguments = vec!["sync", "a", &target, "--yes"];
    arguments.extend(shell.iter().map(String::as_str));
    stand.events(&arguments).exits(7);
}

#[test]
fn words_before_the_greeting_are_no_harm() {
    let stand = stand();
    let program = LOCKSTEP;
    let shell =
        format!("echo Last login: never; printf motd; shift; exec '{program}' remote-target");
    let events = sync_over(&stand, &shell).exits(0);
    assert_eq!(events.summary()["targets"][0]["result"], "ok");
    assert_eq!(stand.read("b"), stand.read("a"));
}

#[test]
fn the_far_side_alone_says_what_it_is_for() {
    let stand = Stand::new();
    let ran = stand.run(&["remote-target"]);
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    assert!(ran.stderr.contains("lockstep sync"), "{}", ran.stderr);
}
