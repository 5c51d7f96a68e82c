//! `bench`: it measures, it predicts, and it changes nothing.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use super::judge::{gone_within, kill, pid_in};
use super::lab::{Disk, Sshd, missing, root_lab, script};
use super::stand::{Events, LOCKSTEP, Running, Stand, eventually, is_root, skip, volume};

const SIZE: usize = 6 * (1 << 20) + 77;
/// Short: what is tested is not how fast this machine is.
const SHORT: [&str; 2] = ["--seconds", "0.1"];

/// A stand with a volume `a`.
fn stand() -> Stand {
    let stand = Stand::new();
    stand.file("a", &volume(SIZE, 1));
    stand
}

/// The events of a measurement of 0.1 s.
fn bench(stand: &Stand, arguments: &[&str]) -> Events {
    stand.events(&[&["bench"], arguments, &SHORT].concat())
}

/// The measurements of a stage.
#[track_caller]
fn stage<'a>(events: &'a Events, name: &str) -> Vec<&'a Value> {
    let found: Vec<&Value> = (events.of_type("bench").into_iter())
        .filter(|event| event["stage"] == name)
        .collect();
    for event in &found {
        assert!(event["bytes_per_second"].as_f64().unwrap() > 0.0, "{event}");
    }
    found
}

/// Whether the stand is on a disk: elsewhere a write test is refused, rightly.
fn on_a_disk(stand: &Stand) -> bool {
    const TMPFS: u64 = 0x0102_1994;
    let stat = rustix::fs::statfs(stand.folder()).unwrap();
    stat.f_type as u64 & 0xFFFF_FFFF != TMPFS || missing("the tests' folder is in memory")
}

fn sshd(stand: &Stand) -> Option<Sshd> {
    let there = Path::new("/usr/sbin/sshd").exists() || missing("sshd is not installed");
    there.then(|| Sshd::start(stand, &[]))
}

#[test]
fn hashing_is_measured_by_threads_and_kinds() {
    let stand = Stand::new();
    let events = bench(&stand, &["hash", "--threads", "2"]).exits(0);
    let threads: Vec<u64> = (stage(&events, "hash").iter())
        .filter(|event| event["method"] == "pages")
        .map(|event| event["threads"].as_u64().unwrap())
        .collect();
    assert_eq!(threads, [1, 2]);
    assert_eq!(stage(&events, "digest").len(), 2);
    assert_eq!(stage(&events, "zero-test").len(), 2);
    assert_eq!(events.summary()["changed"], false);
    assert!(!stand.path("state").exists(), "no ledger was made");

    let ran = stand
        .run(&[&["bench", "hash"][..], &SHORT].concat())
        .exits(0);
    assert!(ran.stdout.contains("hash, pages, 1 thread") && ran.stdout.contains("/s"));
    assert!(ran.stderr.is_empty(), "{}", ran.stderr);
}

#[test]
fn reading_a_disk_changes_nothing_of_it() {
    let stand = stand();
    let before = stand.contents();
    let events = bench(&stand, &["disk", "a"]).exits(0);
    let reads = stage(&events, "read");
    assert_eq!(reads[0]["method"], "page cache");
    assert_eq!(reads[0]["chosen"], true);
    // It was written a moment ago.
    let number = |name: &str| reads[0][name].as_u64().unwrap();
    assert!(number("bytes_cached") * 2 > number("bytes"), "{}", reads[0]);
    if on_a_disk(&stand) {
        let chosen = |event: &&&Value| event["chosen"] == true;
        let direct: Vec<&&Value> = (reads.iter())
            .filter(|event| event["method"] == "direct")
            .collect();
        assert!(!direct.is_empty());
        assert_eq!(direct.into_iter().filter(|event| chosen(event)).count(), 1);
        let threads = bench(&stand, &["disk", "a", "--io", "threads"]).exits(0);
        assert_eq!(stage(&threads, "read")[1]["engine"], "threads");
    }
    assert_eq!(events.summary()["size"], SIZE);
    assert_eq!(events.summary()["changed"], false);
    assert_eq!(stand.contents(), before);
    assert!(!stand.path("state").exists());
}

#[test]
fn a_device_is_read_and_never_written() {
    if !root_lab() {
        return;
    }
    let stand = Stand::new();
    stand.file("disk", &volume(16 << 20, 1));
    let disk = Disk::over(&stand.path("disk"));
    let before = stand.contents();
    let events = bench(&stand, &["disk", disk.name()]).exits(0);
    assert!(stage(&events, "read").len() >= 2);
    let refused = bench(&stand, &["disk", disk.name(), "--write-test"]).exits(2);
    let error = &refused.summary()["error"];
    assert!(error["message"].as_str().unwrap().contains("is a device"));
    drop(disk);
    assert_eq!(stand.contents(), before);
}

#[test]
fn a_write_test_leaves_nothing_behind() {
    let stand = stand();
    if !on_a_disk(&stand) {
        return;
    }
    let before = stand.contents();
    for path in [".", "a"] {
        let events = bench(&stand, &["disk", path, "--write-test"]).exits(0);
        assert_eq!(stage(&events, "write").len(), 1);
        let back = stage(&events, "read-back");
        assert!(back[0]["bytes"].as_u64().unwrap() > 0);
        assert_eq!(stand.contents(), before);
    }
}

/// What a process has open of this folder and nobody can find any more.
fn nameless(pid: u32, folder: &Path) -> usize {
    let Ok(open) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return 0;
    };
    let links = open.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    let folder = folder.canonicalize().unwrap();
    links
        .filter(|link| link.starts_with(&folder) && link.to_string_lossy().ends_with("(deleted)"))
        .count()
}

#[test]
fn a_write_test_that_is_ended_by_a_signal_leaves_nothing_either() {
    let stand = stand();
    if !on_a_disk(&stand) {
        return;
    }
    let before = stand.contents();
    for signal in [Signal::TERM, Signal::INT, Signal::KILL] {
        let arguments = [
            "bench",
            "disk",
            ".",
            "--write-test",
            "--seconds",
            "30",
            "--json",
        ];
        let mut running = Running::start(&mut stand.command(&arguments));
        let pid = running.child().id();
        eventually("it writes", || nameless(pid, stand.folder()) > 0);
        running.signal(signal);
        let ran = running.end();
        assert!(ran.code == 128 + signal.as_raw() || ran.code == -signal.as_raw());
        if signal != Signal::KILL {
            let told = Events::from(ran);
            assert_eq!(told.summary()["error"]["code"], "signal");
        }
        assert_eq!(stand.contents(), before);
    }
}

#[test]
fn arguments_that_name_nothing_to_measure_are_one_sentence() {
    let stand = stand();
    stand.file("empty", b"");
    let before = stand.contents();
    for arguments in [
        &["disk", "missing"][..],
        &["disk", "."],
        &["disk", "empty"],
        &["disk", "missing", "--write-test"],
        &["disk", "a", "--plot", "picture.png"],
        &["disk", "a", "--plot", "missing/picture.svg"],
        &["all", "missing"],
        &["all", "a", "missing/b"],
        &["all", "a", "."],
        &["all", "db1:a"],
        &["all", "a", "b", "--changed", "101"],
        &["all", "--write-test"],
        &["net", ""],
        &["net", "db2:/x"],
        &["net", "-oProxyCommand=x"],
        &["net", "db2", "--connections", "17"],
        &["net", "db2", "-e", "ssh 'x"],
        &["disk"],
    ] {
        let events = bench(&stand, arguments);
        assert_eq!(events.code, 2, "{arguments:?}: {}", events.stderr);
        let message = events.summary()["error"]["message"].as_str().unwrap();
        assert!(
            !message.contains('\n') && !message.is_empty(),
            "{arguments:?}"
        );
    }
    for arguments in [
        &["bench"][..],
        &["bench", "bogus"],
        &["bench", "hash", "--seconds", "0"],
    ] {
        stand.run(arguments).exits(2);
    }
    assert_eq!(stand.contents(), before);
}

#[test]
fn a_picture_is_well_formed_and_takes_only_a_pictures_place() {
    let stand = stand();
    let name = "<a> & \"b\".svg";
    for _ in 0..2 {
        bench(&stand, &["disk", "a", "--plot", name]).exits(0);
    }
    let parse = "import sys, xml.dom.minidom as x\n\
                 d = x.parse(sys.argv[1]).documentElement\n\
                 assert d.tagName == 'svg' and not d.getElementsByTagName('script')";
    let parsed = Command::new("python3")
        .args(["-c", parse])
        .arg(stand.path(name))
        .status()
        .unwrap();
    assert!(parsed.success());
    std::os::unix::fs::symlink(stand.path("a"), stand.path("link.svg")).unwrap();
    let before = stand.contents();
    bench(&stand, &["disk", "a", "--plot", "link.svg"]).exits(2);
    assert_eq!(stand.contents(), before);
}

#[test]
fn both_ends_here_are_predicted_and_stay_as_they_were() {
    let stand = stand();
    stand.file("b", &volume(SIZE, 3));
    let before = stand.contents();
    let events = bench(&stand, &["all", "a", "b", "--changed", "10"]).exits(0);
    let predictions = events.of_type("prediction");
    let kinds: Vec<&Value> = predictions.iter().map(|event| &event["kind"]).collect();
    assert_eq!(kinds, ["full", "differential"]);
    for prediction in predictions {
        assert!(prediction["seconds"].as_f64().unwrap() > 0.0);
        let parts: Vec<&str> = (prediction["parts"].as_array().unwrap().iter())
            .map(|part| part["part"].as_str().unwrap())
            .collect();
        // One machine and one filesystem: what both ends do adds up.
        assert!(parts.contains(&"processors") && parts.contains(&"disk"));
        assert_eq!(prediction["bottleneck"], parts[0]);
    }
    assert_eq!(stage(&events, "pack").len(), 2);
    assert_eq!(stand.contents(), before);

    // A target that is not there is one to be made.
    let events = bench(&stand, &["all", "a", "new"]).exits(0);
    assert!(
        events.of_type("prediction")[0]["assumed"]
            .to_string()
            .contains("new")
    );
    assert_eq!(stand.contents(), before);
    bench(&stand, &["all"]).exits(0);
}

#[test]
fn a_link_is_measured_both_ways_over_quic_and_over_the_shells_pipe() {
    let stand = Stand::new();
    let Some(sshd) = sshd(&stand) else { return };
    let net = |more: &[&str]| {
        let common = [
            "net",
            "127.0.0.1",
            "-e",
            &sshd.command,
            "--remote-path",
            LOCKSTEP,
        ];
        bench(&stand, &[&common, more].concat()).exits(0)
    };
    let directions = |events: &Events| -> Vec<Value> {
        let flows = stage(events, "net");
        flows
            .iter()
            .map(|event| event["direction"].clone())
            .collect()
    };
    let events = net(&["--transport", "quic", "--connections", "2"]);
    assert_eq!(directions(&events), ["to", "from"]);
    for flow in stage(&events, "net") {
        assert_eq!(flow["transport"], "quic");
        assert!(flow["mtu"].as_u64().unwrap() >= 1200);
        assert!(flow["packets_sent"].as_u64().unwrap() > 0);
        let carries: Vec<&Value> = (flow["connections"].as_array().unwrap().iter())
            .map(|connection| &connection["carries"])
            .collect();
        assert_eq!(carries.len(), 3);
        assert_eq!(carries.iter().filter(|it| **it == "data").count(), 2);
    }
    let events = net(&["--transport", "ssh"]);
    assert_eq!(directions(&events), ["to", "from"]);
    for flow in stage(&events, "net") {
        assert_eq!(flow["transport"], "ssh");
        assert!(flow["mtu"].is_null());
    }
    assert!(!stand.path("state").exists(), "no ledger was made");
}

#[test]
fn another_machines_volume_is_measured_where_it_is_and_stays_as_it_was() {
    let stand = stand();
    stand.file("b", &volume(SIZE, 3));
    let Some(sshd) = sshd(&stand) else { return };
    let before = stand.contents();
    let target = format!("127.0.0.1:{}", stand.path("b").display());
    let reach = ["-e", &sshd.command, "--remote-path", LOCKSTEP];
    let mut arguments = vec!["all", "a", &target];
    arguments.extend(reach);
    if on_a_disk(&stand) {
        arguments.push("--write-test");
    }
    let events = bench(&stand, &arguments).exits(0);
    let there = |name: &str| {
        let measured = stage(&events, name);
        measured
            .iter()
            .filter(|event| event["place"] == "127.0.0.1")
            .count()
    };
    assert_eq!((there("net"), there("hash")), (2, 1));
    assert!(there("read") >= 1);
    assert_eq!(there("write"), usize::from(on_a_disk(&stand)));
    let full = events.of_type("prediction")[0];
    assert!(full["bytes_on_link"].as_u64().unwrap() > 0);
    assert!(full["parts"].to_string().contains("link"));
    assert_eq!(stand.contents(), before);
}

#[test]
fn hosts_that_cannot_measure_have_their_codes_and_one_sentence() {
    let stand = Stand::new();
    let Some(sshd) = sshd(&stand) else { return };
    let old = script(
        &stand,
        "old",
        "echo \"error: unrecognized subcommand 'remote-bench'\" >&2; exit 2",
    );
    let lines =
        format!("{LOCKSTEP} \"$@\" | sed -u 's/^LOCKSTEP-REMOTE 1 .*/LOCKSTEP-REMOTE 1 9.8.7/'");
    let other = script(&stand, "other", &lines);
    let (old, other) = (old.to_str().unwrap(), other.to_str().unwrap());
    for (host, program, code, says) in [
        ("no-such-host.invalid", LOCKSTEP, 20, "no-such-host"),
        ("127.0.0.1", "/nonexistent", 2, "no lockstep"),
        ("127.0.0.1", "/bin/cat", 2, "not lockstep"),
        ("127.0.0.1", old, 2, "cannot measure together"),
        ("127.0.0.1", other, 2, "9.8.7"),
    ] {
        let reach = ["net", host, "-e", &sshd.command, "--remote-path", program];
        let events = bench(&stand, &reach).exits(code);
        let error = &events.summary()["error"];
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(says), "{message}");
        assert!(!message.contains('\n'));
        assert_eq!(error["retriable"], code == 20);
    }
}

#[test]
fn a_node_is_reached_by_its_ssh() {
    let stand = Stand::new();
    let Some(sshd) = sshd(&stand) else { return };
    let key = stand.run(&["node", "show"]).exits(0).stdout;
    let node = |name: &str, port: u16, more: &str| {
        let key = key.trim();
        format!(
            "[[node]]\nname = \"{name}\"\naddress = \"127.0.0.1:{port}\"\nkey = \"{key}\"\n{more}\n"
        )
    };
    let with_ssh = node("db2", 7802, "ssh = \"127.0.0.1\"");
    let head = "format = 1\ncluster = \"lab\"\n";
    stand.file("cluster.toml", format!("{head}{with_ssh}").as_bytes());
    let reach = ["-e", &sshd.command, "--remote-path", LOCKSTEP];
    let events = bench(&stand, &[&["net", "db2"][..], &reach].concat()).exits(0);
    assert_eq!(stage(&events, "net")[0]["place"], "db2");

    let without = node("db2", 7802, "");
    stand.file("cluster.toml", format!("{head}{without}").as_bytes());
    let events = bench(&stand, &[&["net", "db2"][..], &reach].concat()).exits(2);
    let message = events.summary()["error"]["message"].as_str().unwrap();
    assert!(message.contains("no `ssh`"), "{message}");
}

#[test]
fn the_far_side_of_a_measurement_does_not_outlive_the_near_side() {
    let stand = Stand::new();
    let Some(sshd) = sshd(&stand) else { return };
    let pid_file = stand.path("pid");
    let lines = format!("echo $$ >{}\nexec {LOCKSTEP} \"$@\"", pid_file.display());
    let far = script(&stand, "far", &lines);
    let far = far.to_str().unwrap();
    for transport in ["quic", "ssh"] {
        let mut running = Running::start(&mut stand.command(&[
            "bench",
            "net",
            "127.0.0.1",
            "-e",
            &sshd.command,
            "--remote-path",
            far,
            "--transport",
            transport,
            "--seconds",
            "30",
        ]));
        let pid = pid_in(&pid_file);
        std::thread::sleep(Duration::from_secs(1));
        kill(running.child().id());
        running.end();
        assert!(
            gone_within(pid, Duration::from_secs(5)),
            "the far side of {transport} is still there"
        );
        fs::remove_file(&pid_file).unwrap();
    }
}

#[test]
fn a_folder_that_may_not_be_written_is_told() {
    let stand = stand();
    if is_root() {
        return skip("root may write everywhere");
    }
    let folder = stand.path("locked");
    fs::create_dir(&folder).unwrap();
    let mut mode = fs::metadata(&folder).unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut mode, 0o500);
    fs::set_permissions(&folder, mode).unwrap();
    bench(&stand, &["disk", "locked", "--write-test"]).exits(3);
}
