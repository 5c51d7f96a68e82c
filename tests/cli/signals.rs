//! Ends by signal: truthful, resumable, and with a summary.

use rustix::process::Signal;

use super::stand::{Events, Running, Stand, eventually, shell, volume};

/// Starts a `sync` that takes half a minute, and waits until it has begun to write.
fn slow_sync(stand: &Stand, remote: bool) -> Running {
    stand.file("a", &volume(32 << 20, 1));
    let target = match remote {
        true => format!("127.0.0.1:{}", stand.path("b").display()),
        false => "b".to_owned(),
    };
    let shell = shell();
    let mut arguments = vec![
        "sync",
        "a",
        &target,
        "--json",
        "--limit-rate",
        "1M",
        "--compress",
        "off",
    ];
    if remote {
        arguments.extend(shell.iter().map(String::as_str));
    }
    let running = Running::start(&mut stand.command(&arguments));
    let partial = stand.path(".b.lockstep-partial");
    eventually("the target is being written", || {
        use std::os::unix::fs::MetadataExt;
        partial.metadata().is_ok_and(|meta| meta.blocks() > 0)
    });
    running
}

#[test]
fn a_signal_ends_a_run_truthfully_and_the_next_one_resumes() {
    for (signal, code, remote) in [
        (Signal::INT, 130, false),
        (Signal::TERM, 143, true),
        (Signal::HUP, 129, true),
    ] {
        let stand = Stand::new();
        let mut running = slow_sync(&stand, remote);
        running.signal(signal);
        let events = Events::from(running.end()).exits(code);
        let target = &events.summary()["targets"][0];
        assert_eq!(target["result"], "failed");
        assert_ne!(target["state"], "consistent");
        assert!(!stand.path("b").exists());
        stand.run(&["gate", "b"]).exits(10);
        let events = stand.events(&["sync", "a", "b"]).exits(0);
        assert_eq!(events.of_type("preflight")[0]["plan"], "resume");
        assert!(
            events.count("bytes_written") < 32 << 20,
            "nothing was resumed"
        );
        assert_eq!(stand.read("b"), stand.read("a"));
        stand.run(&["gate", "b"]).exits(0);
    }
}

#[test]
fn a_second_interrupt_ends_at_once() {
    let stand = Stand::new();
    let mut running = slow_sync(&stand, false);
    running.signal(Signal::INT);
    running.signal(Signal::INT);
    // Signals of one kind may be taken for one while they are pending.
    let ended = running.end();
    assert_eq!(Events::from(ended).code, 130);
}

#[test]
fn sigusr1_prints_one_line_and_the_run_goes_on() {
    let stand = Stand::new();
    let mut running = slow_sync(&stand, false);
    running.signal(Signal::USR1);
    std::thread::sleep(std::time::Duration::from_millis(1500));
    running.signal(Signal::USR1);
    std::thread::sleep(std::time::Duration::from_millis(200));
    running.signal(Signal::TERM);
    let events = Events::from(running.end()).exits(143);
    let lines = events
        .stderr
        .lines()
        .filter(|line| line.contains("scanned in"));
    assert_eq!(lines.count(), 2, "{}", events.stderr);
}

#[test]
fn a_killed_near_side_takes_the_far_side_with_it() {
    let stand = Stand::new();
    let mut running = slow_sync(&stand, true);
    running.signal(Signal::KILL);
    assert_eq!(running.end().code, -9);
    stand.run(&["gate", "b"]).exits(10);
    // The far side lets go of its partial file as soon as it has noticed.
    eventually("the far side ends", || {
        let events = stand.events(&["sync", "a", "b"]);
        assert!([0, 7, 22].contains(&events.code), "{:#}", events.summary());
        events.code == 0
    });
    assert_eq!(stand.read("b"), stand.read("a"));
}
