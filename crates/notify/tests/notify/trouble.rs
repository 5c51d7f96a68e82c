//! Receivers that are down, slow, or refuse: nothing is lost, nobody waits.

use std::io::Write;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use lockstep_notify::send_now;

use crate::receiver::{Receiver, free_port, need_python};
use crate::scene::{Scene, eventually, mail_to, notify, report, webhook_to};

/// More than a loaded machine needs for what waits for no network.
const AT_ONCE: Duration = Duration::from_secs(3);

/// Whether a file in the queue says that so many attempts failed.
fn failed(scene: &Scene, attempts: u32) -> bool {
    let wanted = format!("\"failed\":{attempts},");
    let listed = std::fs::read_dir(scene.path("queue")).unwrap();
    listed
        .filter_map(|entry| std::fs::read_to_string(entry.unwrap().path()).ok())
        .any(|text| text.contains(&wanted))
}

#[test]
fn a_dead_server_delays_nothing_and_gets_it_later() {
    need_python!();
    let scene = Scene::new();
    let port = free_port();
    let sender = scene.sender(&mail_to(port, &["a@b.c"]));
    let begun = Instant::now();
    sender.enqueue(&report("late-1")).unwrap();
    assert!(begun.elapsed() < AT_ONCE);
    eventually("an attempt fails", || failed(&scene, 1));
    let options = ["--port", &port.to_string()];
    let server = Receiver::start("smtp", &scene.path("mail"), &options);
    assert_eq!(server.takes(1)[0]["headers"]["Lockstep-Id"], "late-1");
    eventually("its file goes", || sender.waiting() == 0);
}

#[test]
fn a_mail_server_that_never_ends_its_line_is_given_up() {
    let endless = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = endless.local_addr().unwrap().port();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = endless.accept().unwrap();
        let mut sent = 0;
        while let Ok(length) = stream.write(&[b'2'; 65536]) {
            sent += length;
        }
        sent
    });
    let sent = send_now(&notify(&mail_to(port, &["a@b.c"])), &report("endless-1")).unwrap();
    let refusal = sent[0].result.as_ref().unwrap_err();
    assert!(refusal.what.as_str().contains("1 MiB"), "{refusal:?}");
    assert!(!refusal.is_for_good());
    let sent = server.join().unwrap();
    // What the kernel holds of it is no memory of ours.
    assert!((1 << 20..64 << 20).contains(&sent), "{sent}");
}

#[test]
fn a_silent_server_holds_up_neither_others_nor_the_end() {
    need_python!();
    let scene = Scene::new();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = Receiver::start("http", &scene.path("hook"), &[]);
    let mail = mail_to(silent.local_addr().unwrap().port(), &["a@b.c", "d@e.f"]);
    let sender = scene.sender(&(mail + &webhook_to(server.port)));
    for id in ["silent-1", "silent-2"] {
        assert_eq!(sender.enqueue(&report(id)).unwrap(), 3);
    }
    server.takes(2);
    eventually("those are done", || sender.waiting() == 4);
    let begun = Instant::now();
    sender.stop();
    assert!(begun.elapsed() < AT_ONCE);
    assert_eq!(scene.waiting(), 4, "the mails wait for the next start");
}

#[test]
fn a_refusal_for_now_is_tried_again_also_elsewhere() {
    need_python!();
    let scene = Scene::new();
    let busy = Receiver::start("smtp", &scene.path("busy"), &["--answer", "421 too busy"]);
    let good = Receiver::start("smtp", &scene.path("good"), &[]);
    let sender = scene.sender(&mail_to(busy.port, &["a@b.c"]));
    sender.enqueue(&report("busy-1")).unwrap();
    eventually("an attempt fails", || failed(&scene, 1));
    sender.reload(notify(&mail_to(good.port, &["a@b.c"])));
    assert_eq!(good.takes(1)[0]["headers"]["Lockstep-Id"], "busy-1");
}

#[test]
fn a_refusal_for_good_is_given_up_at_once() {
    need_python!();
    let scene = Scene::new();
    let mail = Receiver::start(
        "smtp",
        &scene.path("mail"),
        &["--answer", "550 not from you"],
    );
    let hook = Receiver::start("http", &scene.path("hook"), &["--answer", "404"]);
    let sender = scene.sender(&(mail_to(mail.port, &["a@b.c"]) + &webhook_to(hook.port)));
    sender.enqueue(&report("no-1")).unwrap();
    eventually("both are given up", || sender.waiting() == 0);
    assert_eq!((mail.taken().len(), hook.taken().len()), (0, 1));
}

#[test]
fn a_repetition_has_the_same_id() {
    need_python!();
    let scene = Scene::new();
    // Takes it, and says that it did not.
    let server = Receiver::start("http", &scene.path("hook"), &["--answer", "503"]);
    let sender = scene.sender(&webhook_to(server.port));
    sender.enqueue(&report("again-1")).unwrap();
    let requests = server.takes(2);
    assert_eq!(requests[0]["headers"]["Lockstep-Id"], "again-1");
    assert_eq!(requests[0]["json"], requests[1]["json"]);
    assert_eq!(requests[0]["headers"], requests[1]["headers"]);
    assert_eq!(sender.waiting(), 1);
}

#[test]
fn a_receiver_that_asks_for_a_pause_gets_it() {
    need_python!();
    let scene = Scene::new();
    let options = ["--answer", "429", "--header", "Retry-After:900"];
    let server = Receiver::start("http", &scene.path("hook"), &options);
    let sender = scene.sender(&webhook_to(server.port));
    sender.enqueue(&report("pause-1")).unwrap();
    eventually("an attempt fails", || failed(&scene, 1));
    // The second would come after 5 s at most.
    std::thread::sleep(Duration::from_secs(7));
    assert_eq!(server.taken().len(), 1);
}

#[test]
fn a_redirect_is_not_followed() {
    need_python!();
    let scene = Scene::new();
    let target = Receiver::start("http", &scene.path("target"), &[]);
    let header = format!("Location:http://127.0.0.1:{}/", target.port);
    let options = ["--answer", "307", "--header", &header];
    let server = Receiver::start("http", &scene.path("hook"), &options);
    let sent = send_now(&notify(&webhook_to(server.port)), &report("to-1")).unwrap();
    let refusal = sent[0].result.as_ref().unwrap_err();
    assert!(
        refusal.is_for_good() && refusal.remedy.contains("redirect"),
        "{refusal:?}"
    );
    // An answer of 100 kB that tries to steer the terminal.
    let what = refusal.what.as_str();
    assert!(
        what.len() < 300 && what.contains("because??of ?[31mthis"),
        "{what}"
    );
    assert!(target.taken().is_empty());
}

#[test]
fn a_server_that_takes_a_mail_and_never_says_good_bye_has_it() {
    need_python!();
    let scene = Scene::new();
    let server = Receiver::start("smtp", &scene.path("mail"), &["--hang-after"]);
    let begun = Instant::now();
    let sent = send_now(&notify(&mail_to(server.port, &["a@b.c"])), &report("bye-1")).unwrap();
    assert_eq!(sent[0].result, Ok(()));
    assert!(begun.elapsed() < Duration::from_secs(10));
    assert_eq!(server.taken().len(), 1);
}

#[test]
fn what_the_cluster_file_names_no_longer_is_dropped() {
    let scene = Scene::new();
    let sender = scene.sender(&webhook_to(free_port()));
    sender.enqueue(&report("old-1")).unwrap();
    eventually("an attempt fails", || failed(&scene, 1));
    sender.reload(notify(""));
    eventually("it is dropped", || sender.waiting() == 0);
}

#[test]
fn a_missing_secret_loses_nothing() {
    need_python!();
    let scene = Scene::new();
    let server = Receiver::start("http", &scene.path("hook"), &["--secret", "s"]);
    let secret = scene.path("secret");
    let sender = scene.sender(&format!(
        "{}secret_file = {secret:?}\n",
        webhook_to(server.port)
    ));
    sender.enqueue(&report("secret-1")).unwrap();
    eventually("an attempt fails", || failed(&scene, 1));
    assert!(server.taken().is_empty(), "nothing goes out unsigned");
    std::fs::write(&secret, "s").unwrap();
    assert_eq!(server.takes(1)[0]["signed"], true);
}
