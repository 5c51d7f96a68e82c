//! Webhooks, as a real web server takes them.

use lockstep_notify::send_now;
use serde_json::Value;

use crate::receiver::{Certificates, Receiver, need_python};
use crate::scene::{Scene, eventually, notify, report, send_trusting, webhook_to};

#[test]
fn a_webhook_is_signed_json_with_an_id() {
    need_python!();
    let scene = Scene::new();
    let server = Receiver::start("http", &scene.path("hook"), &["--secret", "s3cret"]);
    let secret = format!("secret_file = {:?}\n", scene.secret("s3cret\n"));
    let sender = scene.sender(&(webhook_to(server.port) + &secret));
    let report = report("hook-1");
    assert_eq!(sender.enqueue(&report).unwrap(), 1);
    let request = &server.takes(1)[0];
    assert_eq!(request["path"], "/hook");
    assert_eq!(request["headers"]["Lockstep-Id"], "hook-1");
    assert_eq!(request["headers"]["Content-Type"], "application/json");
    assert_eq!(request["signed"], true, "Python's hmac agrees");
    assert_eq!(
        request["json"],
        serde_json::from_str::<Value>(&report.json()).unwrap()
    );
    assert_eq!(
        request["json"]["nodes"][1]["error"],
        "full??Bcc: x@y????body"
    );
    eventually("its file goes", || sender.waiting() == 0);
    sender.stop();
    assert_eq!(scene.waiting(), 0);
}

#[test]
fn another_secret_is_noticed() {
    need_python!();
    let scene = Scene::new();
    let server = Receiver::start("http", &scene.path("hook"), &["--secret", "s3cret"]);
    let secret = format!("secret_file = {:?}\n", scene.secret("another"));
    let with_another = notify(&(webhook_to(server.port) + &secret));
    let unsigned = notify(&webhook_to(server.port));
    for notify in [with_another, unsigned] {
        assert_eq!(
            send_now(&notify, &report("hook-2")).unwrap()[0].result,
            Ok(())
        );
    }
    let signed: Vec<_> = server
        .taken()
        .iter()
        .map(|request| request["signed"].clone())
        .collect();
    assert_eq!(signed, [false, false]);
}

#[test]
fn https_needs_a_certificate_that_this_machine_trusts() {
    need_python!();
    let scene = Scene::new();
    let (certificates, others) = (Certificates::make(), Certificates::make());
    let server = Receiver::start(
        "http",
        &scene.path("hook"),
        &["--cert", &certificates.server()],
    );
    let by_name = webhook_to(server.port).replace("http://127.0.0.1", "https://localhost");
    let by_number = webhook_to(server.port).replace("http://", "https://");
    let refused = send_trusting(&others.authority(), &by_name);
    assert!(
        refused[0].contains("certificate") && !refused[0].contains("/hook"),
        "{refused:?}"
    );
    assert!(server.taken().is_empty());
    for configuration in [by_name, by_number] {
        let told = send_trusting(&certificates.authority(), &configuration);
        assert!(told[0].ends_with("/... ok"), "{told:?}");
    }
    assert_eq!(server.taken().len(), 2);
}

#[test]
fn only_who_asked_for_this_ending_is_told() {
    need_python!();
    let scene = Scene::new();
    let server = Receiver::start("http", &scene.path("hook"), &[]);
    let failed_only = webhook_to(server.port) + "on = [\"failed\"]\n";
    let sender = scene.sender(&failed_only);
    assert_eq!(
        sender.enqueue(&report("hook-3")).unwrap(),
        0,
        "it was partial"
    );
    assert_eq!(sender.waiting(), 0);
    // A test goes to everybody.
    let sent = send_now(&notify(&failed_only), &report("hook-4")).unwrap();
    assert_eq!(sent[0].result, Ok(()));
    assert_eq!(server.taken().len(), 1);
}
