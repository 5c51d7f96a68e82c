//! Bad wires between two hosts: no UDP, cut for a while, cut for good. Root only.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use super::judge::{Watched, clock, gone_within, pid_in, same};
use super::lab::{FAR, Sshd, Wire, root_lab, script};
use super::stand::{Events, LOCKSTEP, Stand, drifted, eventually, volume};

const SIZE: usize = 32 << 20;

/// Two hosts, ssh between them, and a drifted target `b` at the far one.
struct Lab {
    // Dropped in this order: sessions, wire, folder.
    sshd: Sshd,
    wire: Wire,
    a: PathBuf,
    b: PathBuf,
    far: PathBuf,
    stand: Stand,
}

impl Lab {
    fn new() -> Option<Lab> {
        root_lab().then(Lab::build)
    }

    fn build() -> Lab {
        let stand = Stand::new();
        let bytes = volume(SIZE, 1);
        let pages: Vec<usize> = (0..SIZE / 4096).step_by(2).collect();
        let a = stand.file("a", &bytes);
        let b = stand.file("b", &drifted(&bytes, &pages));
        let pid = stand.path("pid");
        let lines = format!("echo $$ >{}\nexec {LOCKSTEP} \"$@\"", pid.display());
        let far = script(&stand, "far", &lines);
        let wire = Wire::up();
        let sshd = wire.sshd(&stand);
        Lab {
            sshd,
            wire,
            a,
            b,
            far,
            stand,
        }
    }

    /// `sync a FAR:b` from the near host.
    fn sync(&self, more: &[&str]) -> Command {
        let target = format!("{FAR}:{}", self.b.display());
        let far = self.far.to_str().unwrap();
        let mut command = self.stand.command(&[
            "sync",
            "a",
            &target,
            "--yes",
            "--compress",
            "off",
            "-e",
            &self.sshd.command,
            "--remote-path",
            far,
        ]);
        command.args(more);
        self.wire.near(&command)
    }

    /// The same, far enough on that the target is being written.
    fn begun(&self, rate: &str) -> Watched {
        let mut command = self.sync(&["--limit-rate", rate]);
        let mut watched = Watched::start(&mut command, self.stand.folder());
        watched.until_written(0);
        watched
    }

    fn finishes(&self, more: &[&str]) -> Events {
        Watched::start(&mut self.sync(more), self.stand.folder())
            .end_within(Duration::from_secs(60))
            .exits(0)
    }
}

#[test]
fn without_udp_the_ssh_pipe_carries_the_data_and_it_is_said() {
    let Some(lab) = Lab::new() else { return };
    lab.wire.lab("drop-udp", &["on"]);
    let events = lab.finishes(&[]);
    let warnings = events.of_type("warning");
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    // Starting the far side is not part of the three seconds.
    let waited = clock(warnings[0]) - clock(&events.lines[0]);
    assert!((0.0..5.0).contains(&waited), "said after {waited} s");
    assert_eq!(events.summary()["targets"][0]["transport"], "ssh");
    assert!(same(&lab.a, &lab.b));
    lab.stand.run(&["gate", "b"]).exits(0);
}

#[test]
fn without_udp_a_run_that_wants_quic_is_told_so() {
    let Some(lab) = Lab::new() else { return };
    lab.wire.lab("drop-udp", &["on"]);
    let begun = Instant::now();
    let mut command = lab.sync(&["--transport", "quic"]);
    let watched = Watched::start(&mut command, lab.stand.folder());
    let events = watched.end_within(Duration::from_secs(20)).exits(20);
    assert!(begun.elapsed() < Duration::from_secs(10));
    assert_eq!(events.summary()["changed"], false);
    assert!(!same(&lab.a, &lab.b));
}

#[test]
fn a_cut_of_ten_seconds_is_waited_out() {
    let Some(lab) = Lab::new() else { return };
    let watched = lab.begun("3M");
    lab.wire.lab("cut", &["on"]);
    std::thread::sleep(Duration::from_secs(10));
    lab.wire.lab("cut", &["off"]);
    let events = watched.end_within(Duration::from_secs(60)).exits(0);
    assert_eq!(events.summary()["targets"][0]["state"], "consistent");
    assert!(same(&lab.a, &lab.b));
    lab.stand.run(&["gate", "b"]).exits(0);
}

#[test]
fn a_cut_for_good_ends_both_sides_and_the_same_command_resumes() {
    let Some(lab) = Lab::new() else { return };
    let watched = lab.begun("3M");
    let far = pid_in(&lab.stand.path("pid"));
    lab.wire.lab("cut", &["on"]);
    let events = watched.end_within(Duration::from_secs(65)).exits(21);
    let target = &events.summary()["targets"][0];
    assert_eq!(target["error"]["retriable"], true);
    assert_ne!(target["state"], "consistent");
    assert!(
        gone_within(far, Duration::from_secs(65)),
        "the far side waits for ever"
    );
    assert!(!same(&lab.a, &lab.b));
    eventually("the ledger says so", || {
        lab.stand.run(&["gate", "b"]).code == 10
    });

    lab.wire.lab("cut", &["off"]);
    let again = lab.finishes(&[]);
    assert!(again.count("bytes_written") < SIZE as u64 / 2);
    assert!(same(&lab.a, &lab.b));
    lab.stand.run(&["gate", "b"]).exits(0);
}
