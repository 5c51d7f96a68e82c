//! Who is told how a resync through agents ended: a real mail server and web servers take what comes.

use serde_json::Value;

use super::cluster::Cluster;
use super::notify::{Receiver, assert_documented_check_agrees, has_mail_server};
use super::stand::{Events, Stand, eventually};

/// A mail server that is told of everything, a web server that is told of everything, and one that is
/// told of what did not end well.
struct Told {
    mail: Receiver,
    all: Receiver,
    bad: Receiver,
}

impl Told {
    fn beside(stand: &Stand) -> Told {
        Told {
            mail: Receiver::named(stand, "mail", "smtp", &[]),
            all: Receiver::named(stand, "all", "http", &[]),
            bad: Receiver::named(stand, "bad", "http", &[]),
        }
    }

    fn sections(&self, secret: &str) -> String {
        let hook = |port: u16, on: &str| {
            format!(
                "[[notify.webhook]]\nurl = \"http://127.0.0.1:{port}/hook\"\n\
                 secret_file = \"{secret}\"\non = [{on}]\n"
            )
        };
        format!(
            "[notify.mail]\nto = [\"sre@example.org\"]\nfrom = \"l@example.org\"\n\
             smtp = \"smtp://127.0.0.1:{}\"\non = [\"ok\", \"partial\", \"failed\", \"fenced\"]\n",
            self.mail.port
        ) + &hook(self.all.port, "\"ok\", \"partial\", \"failed\", \"fenced\"")
            + &hook(self.bad.port, "\"partial\", \"failed\"")
    }

    /// So many mails, requests, and requests about what ended badly.
    fn counts(&self) -> [usize; 3] {
        [&self.mail, &self.all, &self.bad].map(|it| it.taken().len())
    }

    fn await_counts(&self, counts: [usize; 3]) {
        eventually("all were told", || self.counts() == counts);
        // One too many would come at once.
        std::thread::sleep(std::time::Duration::from_millis(500));
        assert_eq!(self.counts(), counts);
    }
}

/// What everybody was told last is how this run ended.
#[track_caller]
fn assert_tells(told: &[Value], done: &Events, verdict: &str) {
    let summary = done.summary();
    for report in told {
        assert_eq!(report["run"], summary["run"]);
        assert_eq!(report["epoch"], summary["epoch"]);
        assert_eq!(report["verdict"], verdict);
        assert_eq!(report["exit_code"], done.code);
        assert_eq!(report["volume"], "pg");
        assert_eq!(report["root"], summary["root"]);
        assert_eq!(report["test"], false);
        let nodes = report["nodes"].as_array().unwrap();
        let targets = summary["targets"].as_array().unwrap();
        assert_eq!(nodes.len(), targets.len());
        for (node, target) in nodes.iter().zip(targets) {
            for (of_node, of_target) in
                [("node", "target"), ("result", "result"), ("state", "state")]
            {
                assert_eq!(node[of_node], target[of_target]);
            }
            assert_eq!(node["bytes_written"], target["bytes_written"]);
        }
    }
}

#[test]
fn one_mail_and_one_signed_request_tell_how_each_resync_ended() {
    if !has_mail_server() {
        return;
    }
    let stand = Stand::new();
    let told = Told::beside(&stand);
    let secret = stand.file("secret", b"of the test\n");
    let sections = told.sections(secret.to_str().unwrap());
    let mut cluster = Cluster::on(stand, |text| text + &sections).started();

    let reason = "db2 and db3 have drifted";
    let done = cluster
        .resync(&["--adopt", "db2", "--adopt", "db3", "--reason", reason])
        .exits(0);
    told.await_counts([1, 1, 0]);
    let (mail, request) = (&told.mail.taken()[0], &told.all.taken()[0]);
    assert_tells(
        &[mail["json"].clone(), request["json"].clone()],
        &done,
        "ok",
    );
    assert_eq!(mail["json"]["reason"], reason);
    assert_eq!(request["json"], mail["json"]);
    let subject = mail["headers"]["Subject"].as_str().unwrap();
    assert!(subject.starts_with("[lockstep] OK"), "{subject}");
    assert_eq!(
        request["headers"]["Lockstep-Id"],
        mail["headers"]["Lockstep-Id"]
    );
    assert_documented_check_agrees(request);

    // One secondary is dead: those who want to know of that are told, too.
    cluster.rewrite("db1", 9);
    cluster.kill("db3");
    let done = cluster.resync(&[]).exits(8);
    told.await_counts([2, 2, 1]);
    let last = |receiver: &Receiver| receiver.taken().pop().unwrap()["json"].clone();
    let all = [&told.mail, &told.all, &told.bad].map(last);
    assert_tells(&all, &done, "partial");
    assert_ne!(all[0]["id"], mail["json"]["id"]);
    assert!(
        all[0]["next"].as_str().unwrap().contains("doctor"),
        "{}",
        all[0]["next"]
    );
    assert_documented_check_agrees(&told.bad.taken()[0]);
    // A comparison is nothing to tell of.
    cluster.run(&["verify", "pg", "db2"]).exits(0);
    told.await_counts([2, 2, 1]);
}
