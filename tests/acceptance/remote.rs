//! Targets behind a real sshd, and logins that do not lead to lockstep.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::judge::{b3sum, differing, gone_within, pid_in, same};
use super::lab::{Sshd, missing, script};
use super::stand::{Events, LOCKSTEP, Running, Stand, drifted, volume};

const SIZE: usize = 12 * (1 << 20) + 77;

/// A stand with a source `a` and a drifted target `b`.
fn stand() -> (Stand, PathBuf, PathBuf) {
    let stand = Stand::new();
    let bytes = volume(SIZE, 1);
    let pages: Vec<usize> = (0..SIZE / 4096).step_by(11).collect();
    let a = stand.file("a", &bytes);
    let b = stand.file("b", &drifted(&bytes, &pages));
    (stand, a, b)
}

fn sshd(stand: &Stand, options: &[&str]) -> Option<Sshd> {
    let there = Path::new("/usr/sbin/sshd").exists() || missing("sshd is not installed");
    there.then(|| Sshd::start(stand, options))
}

/// `sync a HOST:…/b` over this remote shell, with these further arguments.
fn sync(stand: &Stand, host: &str, shell: &str, more: &[&str]) -> Events {
    let target = format!("{host}:{}", stand.path("b").display());
    let mut arguments = vec!["sync", "a", &target, "--yes", "-e", shell];
    if !more.contains(&"--remote-path") {
        arguments.extend(["--remote-path", LOCKSTEP]);
    }
    arguments.extend(more);
    stand.events(&arguments)
}

#[test]
fn over_ssh_the_data_goes_over_quic_and_is_proved() {
    let (stand, a, b) = stand();
    let Some(sshd) = sshd(&stand, &[]) else {
        return;
    };
    let left = differing(&a, &b);
    let events = sync(&stand, "127.0.0.1", &sshd.command, &[]).exits(0);
    assert!(same(&a, &b));
    assert_eq!(events.summary()["targets"][0]["transport"], "quic");
    assert_eq!(events.summary()["root"], b3sum(&a));
    assert_eq!(events.count("bytes_written"), left);
    assert_eq!(events.of_type("warning").len(), 0, "{:?}", events.lines);
    stand.run(&["gate", "b"]).exits(0);

    let events = sync(&stand, "127.0.0.1", &sshd.command, &[]).exits(0);
    assert_eq!(events.count("bytes_written"), 0);
}

#[test]
fn noise_of_a_login_shell_is_not_data() {
    let (stand, a, b) = stand();
    let noisy = script(
        &stand,
        "noisy",
        "echo 'Welcome to db2!'; printf 'no end of line: '; echo; echo 'You have mail.' >&2\n\
         exec sh -c \"$SSH_ORIGINAL_COMMAND\"",
    );
    let option = format!("ForceCommand={}", noisy.display());
    let Some(sshd) = sshd(&stand, &[&option]) else {
        return;
    };
    let events = sync(&stand, "127.0.0.1", &sshd.command, &[]).exits(0);
    assert!(same(&a, &b));
    assert_eq!(events.summary()["targets"][0]["transport"], "quic");
}

#[test]
fn the_ssh_pipe_alone_carries_everything() {
    let (stand, a, b) = stand();
    let Some(sshd) = sshd(&stand, &[]) else {
        return;
    };
    let left = differing(&a, &b);
    let more = ["--transport", "ssh"];
    let events = sync(&stand, "127.0.0.1", &sshd.command, &more).exits(0);
    assert!(same(&a, &b));
    assert_eq!(events.summary()["targets"][0]["transport"], "ssh");
    assert_eq!(events.count("bytes_written"), left);
    stand.run(&["gate", "b"]).exits(0);
}

#[test]
fn logins_that_lead_nowhere_have_their_own_codes_and_write_nothing() {
    let (stand, _, _) = stand();
    let Some(sshd) = sshd(&stand, &[]) else {
        return;
    };
    let stranger = sshd.folder().join("stranger");
    let made = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-f"])
        .arg(&stranger)
        .status()
        .unwrap();
    assert!(made.success());
    let key = sshd.folder().join("user");
    let refused = sshd
        .command
        .replace(key.to_str().unwrap(), stranger.to_str().unwrap());
    assert_ne!(refused, sshd.command);
    let before = stand.contents();
    let good = sshd.command.as_str();
    let program = |path| ["--remote-path", path];
    for (host, shell, more, code) in [
        ("no-such-host.invalid", good, &[][..], 20),
        ("127.0.0.1", &refused, &[], 5),
        ("127.0.0.1", good, &program("/nonexistent"), 2),
        ("127.0.0.1", good, &program("/bin/cat"), 2),
        ("127.0.0.1", good, &program("/bin/true"), 2),
        ("127.0.0.1", good, &program("/bin/yes"), 2),
    ] {
        let events = sync(&stand, host, shell, more).exits(code);
        assert_eq!(events.summary()["changed"], false);
        let error = &events.summary()["targets"][0]["error"];
        assert_eq!(error["retriable"], code == 20);
        assert!(!error["message"].as_str().unwrap().contains('\n'));
    }
    assert_eq!(stand.contents(), before);
}

#[test]
fn the_source_is_never_its_own_target_by_any_path() {
    let (stand, a, _) = stand();
    let Some(sshd) = sshd(&stand, &[]) else {
        return;
    };
    std::fs::hard_link(&a, stand.path("twin")).unwrap();
    std::os::unix::fs::symlink(&a, stand.path("link")).unwrap();
    let before = stand.contents();
    for name in ["a", "twin", "link"] {
        let target = format!("127.0.0.1:{}", stand.path(name).display());
        let events = stand
            .events(&[
                "sync",
                "a",
                &target,
                "--yes",
                "-e",
                &sshd.command,
                "--remote-path",
                LOCKSTEP,
            ])
            .exits(7);
        assert_eq!(events.summary()["changed"], false);
    }
    assert_eq!(stand.contents(), before);
}

#[test]
fn the_far_side_does_not_outlive_the_near_side() {
    let (stand, _, _) = stand();
    let Some(sshd) = sshd(&stand, &[]) else {
        return;
    };
    let pid_file = stand.path("pid");
    let lines = format!("echo $$ >{}\nexec {LOCKSTEP} \"$@\"", pid_file.display());
    let far = script(&stand, "far", &lines);
    for transport in ["quic", "ssh"] {
        let target = format!("127.0.0.1:{}", stand.path("b").display());
        let mut running = Running::start(&mut stand.command(&[
            "sync",
            "a",
            &target,
            "--yes",
            "-e",
            &sshd.command,
            "--remote-path",
            far.to_str().unwrap(),
            "--transport",
            transport,
            "--limit-rate",
            "100k",
        ]));
        let pid = pid_in(&pid_file);
        std::thread::sleep(Duration::from_millis(1500));
        running.child().kill().unwrap();
        running.end();
        assert!(
            gone_within(pid, Duration::from_secs(5)),
            "the far side of {transport} is still there"
        );
        std::fs::remove_file(&pid_file).unwrap();
    }
}
