//! SIGKILL at any moment: what was queued arrives.

use std::collections::HashSet;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use lockstep_notify::{Queue, Sender};

use crate::receiver::{Receiver, free_port, need_python};
use crate::scene::{Scene, eventually, notify, report, webhook_to};

const CHILD: &str = "LOCKSTEP_NOTIFY_KILL_CHILD";
const ROUNDS: u64 = 25;

/// The child's life. Does nothing when it runs as an ordinary test.
#[test]
fn child_queues_until_it_is_killed() {
    let Some(port) = std::env::var(CHILD).ok() else {
        return;
    };
    let folder = PathBuf::from(std::env::var_os("LOCKSTEP_NOTIFY_KILL_FOLDER").unwrap());
    let round = std::env::var("LOCKSTEP_NOTIFY_KILL_ROUND").unwrap();
    let queue = Queue::open(&folder.join("queue")).unwrap();
    let sender = Sender::start(queue, notify(&webhook_to(port.parse().unwrap()))).unwrap();
    let mut diary = OpenOptions::new()
        .append(true)
        .create(true)
        .open(folder.join("diary"))
        .unwrap();
    for number in 0.. {
        let id = format!("kill-{round}-{number}");
        sender.enqueue(&report(&id)).unwrap();
        diary.write_all(format!("{id}\n").as_bytes()).unwrap();
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn spawn_child(scene: &Scene, port: u16, round: u64) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "kill::child_queues_until_it_is_killed",
            "--nocapture",
        ])
        .env(CHILD, port.to_string())
        .env("LOCKSTEP_NOTIFY_KILL_FOLDER", scene.path(""))
        .env("LOCKSTEP_NOTIFY_KILL_ROUND", round.to_string())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// What the child knows to be queued; a kill can cut the last line.
fn queued(scene: &Scene) -> Vec<String> {
    let text = std::fs::read_to_string(scene.path("diary")).unwrap_or_default();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().map(str::to_owned).collect()
}

fn killed_after(scene: &Scene, port: u16, round: u64) {
    let before = queued(scene).len();
    let mut child = spawn_child(scene, port, round);
    eventually("the child queues", || queued(scene).len() > before);
    // Steps of a prime, so that the kills spread.
    std::thread::sleep(Duration::from_micros(round * 1709 % 20_000));
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn what_was_queued_before_a_kill_is_delivered_after_a_restart() {
    need_python!();
    let scene = Scene::new();
    let port = free_port();
    killed_after(&scene, port, 1);
    let ids = queued(&scene);
    assert!(scene.waiting() >= ids.len(), "nobody could take any");
    let options = ["--port", &port.to_string()];
    let server = Receiver::start("http", &scene.path("hook"), &options);
    let sender = scene.sender(&webhook_to(port));
    eventually("all are delivered", || sender.waiting() == 0);
    assert_all_arrived(&server, &ids);
}

#[test]
fn kills_at_any_moment_of_a_delivery_lose_nothing() {
    need_python!();
    let scene = Scene::new();
    let server = Receiver::start("http", &scene.path("hook"), &[]);
    for round in 0..ROUNDS {
        killed_after(&scene, server.port, round);
    }
    let ids = queued(&scene);
    assert!(ids.len() as u64 >= ROUNDS);
    let sender = scene.sender(&webhook_to(server.port));
    eventually("all are delivered", || sender.waiting() == 0);
    assert_all_arrived(&server, &ids);
    let damaged = std::fs::read_dir(scene.path("queue")).unwrap();
    for entry in damaged {
        let name = entry.unwrap().file_name();
        assert_eq!(
            name.to_string_lossy(),
            "lock",
            "a kill leaves nothing behind"
        );
    }
}

fn assert_all_arrived(server: &Receiver, ids: &[String]) {
    let arrived: HashSet<String> = server
        .taken()
        .iter()
        .map(|request| {
            request["headers"]["Lockstep-Id"]
                .as_str()
                .unwrap()
                .to_owned()
        })
        .collect();
    for id in ids {
        assert!(arrived.contains(id), "{id} was queued and did not arrive");
    }
}
