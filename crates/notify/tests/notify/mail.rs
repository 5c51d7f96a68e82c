//! Mail, as a real server takes it.

use lockstep_notify::send_now;
use serde_json::Value;

use crate::receiver::{Certificates, Receiver, need_python};
use crate::scene::{Scene, eventually, mail_to, notify, report, send_trusting};

#[test]
fn a_mail_has_verdict_text_and_json() {
    need_python!();
    let scene = Scene::new();
    let server = Receiver::start("smtp", &scene.path("mail"), &[]);
    let sender = scene.sender(&mail_to(
        server.port,
        &["sre@example.org", "dba@example.org"],
    ));
    let report = report("mail-1");
    assert_eq!(sender.enqueue(&report).unwrap(), 2);
    let mails = server.takes(2);
    for mail in &mails {
        assert_eq!(mail["defects"], serde_json::json!([]), "{mail}");
        let headers = &mail["headers"];
        assert_eq!(headers["Subject"], report.subject());
        assert_eq!(headers["From"], "lockstep@example.org");
        assert_eq!(headers["To"], "sre@example.org, dba@example.org");
        assert_eq!(headers["Message-ID"], "<mail-1@example.org>");
        assert_eq!(headers["Lockstep-Id"], "mail-1");
        assert_eq!(headers["Date"], "Tue, 14 Nov 2023 22:13:22 -0000");
        assert!(headers.get("Bcc").is_none() && mail["names"].as_array().unwrap().len() == 9);
        assert_eq!(
            mail["text"].as_str().unwrap().replace("\r\n", "\n"),
            report.text()
        );
        assert_eq!(
            (&mail["attachments"], &mail["type"]),
            (&1.into(), &"application/json".into())
        );
        assert_eq!(
            mail["json"],
            serde_json::from_str::<Value>(&report.json()).unwrap()
        );
        assert_eq!(mail["mail_from"], "lockstep@example.org");
    }
    let mut recipients: Vec<&str> = mails
        .iter()
        .map(|mail| mail["rcpt_tos"][0].as_str().unwrap())
        .collect();
    recipients.sort_unstable();
    assert_eq!(
        recipients,
        ["dba@example.org", "sre@example.org"],
        "one mail each"
    );
    eventually("its file goes", || sender.waiting() == 0);
    sender.stop();
    assert_eq!(scene.waiting(), 0);
}

#[test]
fn one_unknown_mailbox_keeps_the_report_from_nobody_else() {
    need_python!();
    let scene = Scene::new();
    let server = Receiver::start(
        "smtp",
        &scene.path("mail"),
        &["--refuse", "gone@example.org"],
    );
    let both = notify(&mail_to(
        server.port,
        &["gone@example.org", "sre@example.org"],
    ));
    let sent = send_now(&both, &report("mail-2")).unwrap();
    let refusal = sent[0].result.as_ref().unwrap_err();
    assert!(
        refusal.is_for_good() && refusal.what.as_str().contains("550"),
        "{refusal:?}"
    );
    assert!(sent[1].result.is_ok());
    assert_eq!(server.taken().len(), 1);
}

#[test]
fn starttls_is_used_where_it_is_offered() {
    need_python!();
    let scene = Scene::new();
    let certificates = Certificates::make();
    let options = ["--starttls", "--cert", &certificates.server()];
    let server = Receiver::start("smtp", &scene.path("mail"), &options);
    // Nobody here trusts its certificate, and no password is at stake.
    let sent = send_now(
        &notify(&mail_to(server.port, &["a@b.c"])),
        &report("mail-3"),
    )
    .unwrap();
    assert_eq!(sent[0].result, Ok(()));
    assert_eq!(server.taken()[0]["tls"], true);
}

#[test]
fn smtps_needs_a_certificate_that_this_machine_trusts() {
    need_python!();
    let scene = Scene::new();
    let (certificates, others) = (Certificates::make(), Certificates::make());
    let server = Receiver::start(
        "smtp",
        &scene.path("mail"),
        &["--cert", &certificates.server()],
    );
    let configuration =
        mail_to(server.port, &["a@b.c"]).replace("smtp://127.0.0.1", "smtps://localhost");
    let refused = send_trusting(&others.authority(), &configuration);
    assert!(refused[0].contains("certificate"), "{refused:?}");
    assert!(server.taken().is_empty());
    assert_eq!(
        send_trusting(&certificates.authority(), &configuration),
        ["mailto:a@b.c ok"]
    );
    assert_eq!(server.taken()[0]["tls"], true);
}

#[test]
fn a_password_goes_only_over_tls_to_whom_this_machine_trusts() {
    need_python!();
    let scene = Scene::new();
    let (certificates, others) = (Certificates::make(), Certificates::make());
    let password = scene.secret("pass word\n");
    let login = format!("user = \"lockstep\"\npassword_file = {password:?}\n");
    let options = [
        "--starttls",
        "--auth",
        "lockstep:pass word",
        "--cert",
        &certificates.server(),
    ];
    let server = Receiver::start("smtp", &scene.path("mail"), &options);
    let configuration = mail_to(server.port, &["a@b.c"]) + &login;
    let refused = send_trusting(&others.authority(), &configuration);
    assert!(refused[0].contains("certificate"), "{refused:?}");
    assert!(server.taken().is_empty());
    assert_eq!(
        send_trusting(&certificates.authority(), &configuration),
        ["mailto:a@b.c ok"]
    );
    let mail = &server.taken()[0];
    assert_eq!(
        (&mail["login"], &mail["tls"]),
        (&"lockstep".into(), &true.into())
    );

    std::fs::write(&password, "wrong").unwrap();
    let refused = send_trusting(&certificates.authority(), &configuration);
    assert!(
        refused[0].contains("does not let this user in"),
        "{refused:?}"
    );
}

#[test]
fn a_password_may_stay_on_this_machine_without_tls() {
    need_python!();
    let scene = Scene::new();
    let login = format!("user = \"u\"\npassword_file = {:?}\n", scene.secret("p"));
    let server = Receiver::start(
        "smtp",
        &scene.path("mail"),
        &["--auth", "u:p", "--plain-auth"],
    );
    let here = mail_to(server.port, &["a@b.c"]) + &login;
    assert_eq!(
        send_now(&notify(&here), &report("mail-4")).unwrap()[0].result,
        Ok(())
    );
    // Leads here too, which the program does not count on.
    let elsewhere = here.replace("127.0.0.1", "0.0.0.0");
    let sent = send_now(&notify(&elsewhere), &report("mail-4")).unwrap();
    let refusal = sent[0].result.as_ref().unwrap_err();
    assert!(
        refusal.what.as_str().contains("offers no TLS"),
        "{refusal:?}"
    );
    assert_eq!(server.taken().len(), 1);
}
