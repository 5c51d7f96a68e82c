//! What a resync refuses, with which exit code, and that nothing was touched then.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::cluster::{Cluster, agreed, probed, random};
use super::lab::root_lab;
use super::stand::Stand;

#[test]
fn data_that_lockstep_never_wrote_is_lost_only_by_name() {
    let cluster = Cluster::new();
    cluster.resync(&[]).exits(7);
    cluster.assert_untouched();
    // One may be lost, the other not.
    let done = cluster.resync(&["--adopt", "db3"]).exits(8);
    let targets = done.summary()["targets"].as_array().unwrap();
    assert_eq!(targets[0]["error"]["exit_code"], 7);
    let hint = targets[0]["error"]["hint"].as_str().unwrap();
    assert!(hint.contains("--adopt db2"), "{hint}");
    cluster.assert_equal("db1", "db3");
    assert!(fs::read(cluster.image("db2", "pg")).unwrap() == random(2));
    assert_eq!(cluster.moments("db2"), Vec::<String>::new());
    // The primary is no secondary, whoever names it.
    cluster
        .events(&["resync", "pg", "db1", "--yes", "--confirm", "pg"])
        .exits(2);
}

#[test]
fn a_nodes_own_word_counts_most() {
    let cluster = Cluster::laid_out(|text| text);
    cluster.write_file(
        "agent-db2.toml",
        "format = 1\nallow_overwrite = false\n".to_owned(),
    );
    let cluster = cluster.started();
    let adopt = ["--adopt", "db2", "--adopt", "db3"];
    let done = cluster.resync(&adopt).exits(8);
    let targets = done.summary()["targets"].as_array().unwrap();
    assert_eq!(targets[0]["error"]["exit_code"], 7, "{targets:?}");
    let message = targets[0]["error"]["message"].as_str().unwrap();
    assert!(message.contains("agent.toml of `db2`"), "{message}");
    assert!(fs::read(cluster.image("db2", "pg")).unwrap() == random(2));
    assert_eq!(cluster.moments("db2"), Vec::<String>::new());
    // The primary's own key has no more to say there.
    let mut words = agreed("pg", &adopt);
    words.insert(2, "db2");
    cluster.at("db1", &words).exits(7);
    assert!(fs::read(cluster.image("db2", "pg")).unwrap() == random(2));
}

#[test]
fn who_has_no_right_is_refused() {
    let cluster =
        Cluster::with(|text| text.replace("replicas = [", "operators = [\"ops\"]\nreplicas = ["));
    let eve = cluster.key("eve");
    let adopt = ["--adopt", "db2", "--adopt", "db3"];
    let words = agreed("pg", &adopt);
    // A key that nobody knows.
    for words in [
        &words[..],
        &["plan", "pg"],
        &["verify", "pg"],
        &["cancel", "pg"],
        &["limit", "pg", "--limit-rate", "off"],
    ] {
        let ran = cluster.at("eve", words).exits(5);
        assert!(ran.stderr.contains("db1"), "{}", ran.stderr);
    }
    // A node that is not the primary.
    for words in [
        &words[..],
        &["plan", "pg"],
        &["verify", "pg"],
        &["cancel", "pg"],
        &["limit", "pg", "--limit-rate", "off"],
    ] {
        let ran = cluster.at("db2", words).exits(5);
        assert!(
            ran.stderr.contains("node `db2` has no such right"),
            "{}",
            ran.stderr
        );
    }
    // An operator of other volumes.
    let file = fs::read_to_string(cluster.stand.path("cluster.toml")).unwrap();
    let section = format!("[[operator]]\nname = \"eve\"\nkey = \"{eve}\"\n[[volume]]");
    cluster.write_file("cluster.toml", file.replace("[[volume]]", &section));
    super::cluster::NODES
        .iter()
        .for_each(|node| cluster.reload(node));
    cluster.hand_out("cluster.toml");
    let ran = cluster.at("eve", &words).exits(5);
    assert!(
        ran.stderr.contains("operator `eve` has no such right"),
        "{}",
        ran.stderr
    );
    cluster.at("eve", &["cancel", "pg"]).exits(5);
    cluster.at("eve", &["status"]).exits(10);
    cluster.assert_untouched();
    // The node's own key, on the node itself.
    cluster.at("db1", &words).exits(0);
}

#[test]
fn too_much_change_and_stale_plans_change_nothing() {
    let mut cluster = Cluster::synced(|text| text);
    cluster.rewrite("db1", 9);
    let before = fs::read(cluster.image("db2", "pg")).unwrap();
    let refused = cluster.resync(&["--max-change", "5%"]).exits(7);
    let error = &refused.summary()["targets"][0]["error"];
    assert!(
        error["message"]
            .as_str()
            .unwrap()
            .contains("--max-change 5 %"),
        "{error}"
    );
    for node in ["db2", "db3"] {
        assert!(
            fs::read(cluster.image(node, "pg")).unwrap() == before,
            "{node}"
        );
        assert!(
            cluster.gate(node, "pg"),
            "{node} is as consistent as before"
        );
        // What was stopped for it is up again, and was not pointed elsewhere.
        assert_eq!(cluster.moments(node), ["stop", "start", "check"]);
    }
    cluster.forget_hooks();

    cluster.events(&["plan", "pg", "--out", "p.json"]).exits(10);
    cluster.drift("db2", &[3]);
    cluster.drift("db1", &[7]);
    let refused = cluster
        .events(&["resync", "pg", "--plan", "p.json"])
        .exits(7);
    let message = refused.summary()["error"]["message"].as_str().unwrap();
    assert!(message.contains("stale"), "{message}");
    assert_eq!(cluster.hooks(), Vec::<String>::new());
    cluster.events(&["plan", "pg", "--out", "p.json"]).exits(10);
    cluster
        .events(&["resync", "pg", "--plan", "p.json"])
        .exits(0);
    cluster.assert_equal("db1", "db2");
    cluster.assert_equal("db1", "db3");
    // Carried out, it is stale: another epoch is promised.
    cluster
        .events(&["resync", "pg", "--plan", "p.json"])
        .exits(7);
    // The agents forget nothing of it.
    cluster.kill("db2");
    cluster.restart("db2");
    assert!(cluster.gate("db2", "pg"));
    cluster
        .events(&["resync", "pg", "--plan", "p.json"])
        .exits(7);
}

#[test]
fn a_sick_primary_is_copied_nowhere() {
    let cluster = Cluster::new();
    cluster.sign("fail-db1-health", true);
    let adopt = ["--adopt", "db2", "--adopt", "db3"];
    let refused = cluster.resync(&adopt).exits(3);
    let message = refused.summary()["error"]["message"].as_str().unwrap();
    assert!(
        message.contains("not healthy") && message.contains("on purpose"),
        "{message}"
    );
    cluster.assert_untouched();
    // Looking is not copying.
    cluster.events(&["plan", "pg"]).exits(10);
    cluster.sign("fail-db1-health", false);
    cluster.resync(&adopt).exits(0);
}

#[test]
fn roles_that_are_not_clear_stop_everything() {
    let mut cluster = Cluster::laid_out(probed);
    let roles = |cluster: &Cluster, all: [&str; 3]| {
        for (node, role) in super::cluster::NODES.iter().zip(all) {
            cluster.role(node, role);
        }
    };
    roles(&cluster, ["replica", "replica", "replica"]);
    cluster = cluster.started();
    let adopt = ["--adopt", "db2", "--adopt", "db3"];
    for (all, said) in [
        (["replica", "replica", "replica"], "has no primary"),
        (["primary", "primary", "replica"], "`db1`, `db2` all say"),
        (["primary", "replica", "unsure"], "something else than"),
    ] {
        roles(&cluster, all);
        let refused = cluster.resync(&adopt).exits(3);
        let message = refused.summary()["error"]["message"].as_str().unwrap();
        assert!(message.contains(said), "{message}");
        cluster.events(&["plan", "pg"]).exits(3);
    }
    roles(&cluster, ["primary", "replica", "replica"]);
    cluster.kill("db3");
    let refused = cluster.resync(&adopt).exits(3);
    let message = refused.summary()["error"]["message"].as_str().unwrap();
    assert!(message.contains("db3"), "{message}");
    cluster.assert_untouched();
    cluster.restart("db3");
    cluster.resync(&adopt).exits(0);
    // Nobody has to tell the direction: it has moved.
    roles(&cluster, ["replica", "primary", "replica"]);
    cluster.rewrite("db2", 9);
    let done = cluster.resync(&["--adopt", "db1"]).exits(0);
    assert_eq!(done.summary()["epoch"], 2);
    cluster.assert_equal("db2", "db1");
    cluster.assert_equal("db2", "db3");
}

#[test]
fn files_are_made_as_on_the_primary_and_the_earlier_ones_kept() {
    if !root_lab() {
        return;
    }
    let stand = Stand::new();
    let folder = stand.path("conf");
    fs::create_dir(&folder).unwrap();
    let files = format!("files = [\"{}\"]\n[volume.path]", folder.display());
    let cluster = Cluster::on(stand, |text| text.replace("[volume.path]", &files));
    for (node, text) in [
        ("db1", "port = 1\n"),
        ("db2", "port = 2\n"),
        ("db3", "port = 1\n"),
    ] {
        fs::create_dir(cluster.conf(node)).unwrap();
        let file = cluster.conf(node).join("main.conf");
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    }
    fs::write(cluster.conf("db1").join("more.conf"), "x\n").unwrap();
    let cluster = cluster.started();

    let plan = cluster.events(&["plan", "pg"]).exits(10);
    let nodes = &plan.of_type("plan")[0]["plan"]["nodes"];
    assert_eq!(nodes[0]["files"].as_array().unwrap().len(), 2, "{nodes}");
    assert_eq!(nodes[1]["files"].as_array().unwrap().len(), 1, "{nodes}");
    assert_eq!(
        fs::read(cluster.conf("db2").join("main.conf")).unwrap(),
        b"port = 2\n"
    );

    let done = cluster
        .resync(&["--adopt", "db2", "--adopt", "db3"])
        .exits(0);
    let placed = &done.summary()["targets"][0]["files"];
    assert_eq!(placed.as_array().unwrap().len(), 2, "{placed}");
    for node in ["db2", "db3"] {
        let file = cluster.conf(node).join("main.conf");
        assert_eq!(fs::read(&file).unwrap(), b"port = 1\n");
        assert_eq!(
            fs::metadata(&file).unwrap().permissions().mode() & 0o777,
            0o640
        );
        assert_eq!(
            fs::read(cluster.conf(node).join("more.conf")).unwrap(),
            b"x\n"
        );
    }
    let listed = fs::read_dir(cluster.conf("db2"))
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let kept = listed.filter(|path| fs::read(path).is_ok_and(|bytes| bytes == b"port = 2\n"));
    assert_eq!(kept.count(), 1, "the earlier version is kept");
    cluster.run(&["plan", "pg"]).exits(0);

    // A mode alone is a difference too.
    let file = cluster.conf("db3").join("more.conf");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    cluster.run(&["plan", "pg"]).exits(10);
    cluster.resync(&[]).exits(0);
    assert_eq!(
        fs::metadata(&file).unwrap().permissions().mode() & 0o777,
        0o644
    );
}

#[test]
fn a_hook_that_fails_is_told_and_spoils_nothing_else() {
    let cluster = Cluster::synced(|text| text);
    let before = fs::read(cluster.image("db2", "pg")).unwrap();
    cluster.rewrite("db1", 9);
    cluster.sign("fail-db2-stop", true);
    let done = cluster.resync(&[]).exits(8);
    let targets = done.summary()["targets"].as_array().unwrap();
    let error = &targets[0]["error"];
    assert!(
        error["message"].as_str().unwrap().contains("on purpose"),
        "{error}"
    );
    assert_eq!(targets[1]["result"], "ok");
    assert!(
        fs::read(cluster.image("db2", "pg")).unwrap() == before,
        "db2 is untouched"
    );
    assert!(cluster.gate("db2", "pg"));
    cluster.assert_equal("db1", "db3");
    // Whatever `stop` has stopped is started again.
    assert_eq!(cluster.moments("db2"), ["stop", "start", "check"]);
    cluster.sign("fail-db2-stop", false);
    cluster.forget_hooks();

    cluster.sign("fail-db2-start", true);
    let done = cluster.resync(&[]).exits(8);
    let target = &done.summary()["targets"][0];
    assert_eq!(target["state"], "consistent");
    assert_ne!(target["result"], "ok");
    let message = target["error"]["message"].as_str().unwrap();
    assert!(
        message.contains("start") && message.contains("on purpose"),
        "{message}"
    );
    assert!(message.contains("the data is consistent"), "{message}");
    cluster.assert_equal("db1", "db2");
    assert!(cluster.gate("db2", "pg"));
    assert_eq!(cluster.moments("db2"), ["stop", "configure", "start"]);
    cluster.sign("fail-db2-start", false);

    // The same for `configure`, which no `start` follows.
    cluster.drift("db1", &[4]);
    cluster.forget_hooks();
    cluster.sign("fail-db3-configure", true);
    let done = cluster.resync(&[]).exits(8);
    assert_eq!(done.summary()["targets"][1]["state"], "consistent");
    assert_eq!(cluster.moments("db3"), ["stop", "configure"]);
    assert_eq!(cluster.status_of("db3")["services"], "stopped");
    cluster.sign("fail-db3-configure", false);
    cluster.resync(&[]).exits(0);
    assert_eq!(cluster.moments("db3").last().unwrap(), "check");
    assert_eq!(cluster.status()["verdict"], "ok");
}

#[test]
fn a_hook_that_fails_is_logged_once_and_each_is_told_of() {
    let cluster = Cluster::synced(|text| text);
    cluster.rewrite("db1", 9);
    cluster.sign("fail-db2-start", true);
    let done = cluster.resync(&[]).exits(8);
    let hooks = |target: usize| -> Vec<(String, i64)> {
        let hooks = done.summary()["targets"][target]["hooks"].clone();
        (hooks.as_array().unwrap().iter())
            .inspect(|hook| assert!(hook["seconds"].as_f64().unwrap() > 0.0))
            .map(|hook| {
                (
                    hook["hook"].as_str().unwrap().to_owned(),
                    hook["exit"].as_i64().unwrap(),
                )
            })
            .collect()
    };
    let ran = |moments: &[(&str, i64)]| -> Vec<(String, i64)> {
        moments
            .iter()
            .map(|(moment, exit)| ((*moment).to_owned(), *exit))
            .collect()
    };
    assert_eq!(
        hooks(0),
        ran(&[("stop", 0), ("configure", 0), ("start", 1)])
    );
    assert_eq!(
        hooks(1),
        ran(&[("stop", 0), ("configure", 0), ("start", 0), ("check", 0)])
    );
    let log = cluster.log("db2");
    assert_eq!(log.matches("on purpose").count(), 1, "{log}");
    cluster.sign("fail-db2-start", false);
    cluster.sign("fail-db1-health", true);
    let told = || cluster.log("db1").matches("on purpose").count();
    let before = told();
    cluster.resync(&[]).exits(3);
    assert_eq!(told(), before + 1, "{}", cluster.log("db1"));
}
