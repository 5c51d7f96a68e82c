//! `config check` tells every mistake with its place, and finds the file where it should.

use std::path::Path;

use super::stand::{Ran, Stand};

/// A stand with the examples of the documentation.
pub(crate) fn stand() -> Stand {
    let stand = Stand::new();
    for name in ["cluster.toml", "agent.toml"] {
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
        // Not a copy of its mode: root reads no file that others may write.
        stand.file(name, &std::fs::read(docs.join(name)).unwrap());
    }
    stand
}

/// Changes the cluster file of a stand.
pub(crate) fn change(stand: &Stand, old: &str, new: &str) {
    let text = String::from_utf8(stand.read("cluster.toml")).unwrap();
    assert!(text.contains(old));
    stand.file("cluster.toml", text.replace(old, new).as_bytes());
}

#[test]
fn the_examples_have_no_mistakes() {
    let stand = stand();
    let before = stand.contents();
    let ran = stand.run(&["config", "check"]).exits(0);
    assert_eq!(
        ran.stdout,
        "cluster.toml: no mistakes; cluster prod: 3 nodes, 1 operator, 3 volumes, 1 group\n"
    );
    assert!(
        ran.stderr.contains("agent.toml: no mistakes"),
        "{}",
        ran.stderr
    );
    let events = stand.events(&["config", "check", "--node", "db3"]).exits(0);
    assert_eq!(events.lines.len(), 1);
    assert_eq!(stand.contents(), before);
    assert!(!stand.path("state").exists(), "nothing is made");
}

#[test]
fn every_mistake_is_told_with_its_place_and_exit_2() {
    let stand = stand();
    change(
        &stand,
        "address = \"10.0.0.12:7801\"",
        "adress = \"10.0.0.12\"",
    );
    change(
        &stand,
        "[\"systemctl\", \"stop\", \"postgresql@15-main\"]",
        "\"systemctl stop postgresql@15-main\"",
    );
    let ran = stand.run(&["config", "check"]).exits(2);
    assert!(ran.stdout.is_empty());
    let told: Vec<&str> = ran.stderr.lines().collect();
    assert!(
        told[0].starts_with("cluster.toml:21:1: [[node]] `db2` has no `address`; add"),
        "{told:#?}"
    );
    assert!(
        told[1].starts_with("cluster.toml:23:1: unknown key `adress`"),
        "{told:#?}"
    );
    assert!(
        told[2].contains("no shell reads it; write a list of words: `[\"systemctl\", \"stop\""),
        "{told:#?}"
    );
    assert!(told[3].contains("cluster.toml has 3 mistakes"), "{told:#?}");

    let events = stand.events(&["config", "check"]).exits(2);
    let mistakes = events.of_type("mistake");
    assert_eq!(mistakes.len(), 3);
    assert_eq!(mistakes[1]["line"], 23);
    assert_eq!(mistakes[1]["column"], 1);
    assert_eq!(mistakes[1]["hint"], "write `address`, if that is meant");
    assert_eq!(events.summary()["error"]["code"], "usage");
}

#[test]
fn a_nodes_own_file_is_checked_against_the_clusters() {
    let stand = stand();
    stand.file(
        "agent.toml",
        b"format = 1\n[volume.pgdate]\nallow_overwrite = false\n",
    );
    let ran = stand.run(&["config", "check"]).exits(2);
    assert!(
        ran.stderr
            .contains("agent.toml:2:9: the cluster file has no volume `pgdate`"),
        "{}",
        ran.stderr
    );
    stand.file("own.toml", b"format = 1\nnode = \"db1\"\n");
    stand
        .run(&["config", "check", "--agent", "own.toml"])
        .exits(0);
    let other = stand
        .run(&["config", "check", "--agent", "own.toml", "--node", "db2"])
        .exits(2);
    assert!(
        other.stderr.contains("but agent.toml says `db1`"),
        "{}",
        other.stderr
    );
    let unknown = stand.run(&["config", "check", "--node", "db7"]).exits(2);
    assert!(
        unknown.stderr.contains("no node `db7`") && unknown.stderr.contains("db1, db2, db3"),
        "{}",
        unknown.stderr
    );
}

/// Runs `config check` where the only cluster files are those that the test made.
fn found(stand: &Stand, arguments: &[&str], variable: Option<&Path>) -> Ran {
    let mut command = stand.command(&["config", "check"]);
    command
        .args(arguments)
        .env("XDG_CONFIG_HOME", stand.path("xdg"));
    if let Some(path) = variable {
        command.env("LOCKSTEP_CLUSTER", path);
    }
    Ran::from(command.output().unwrap())
}

#[test]
fn flag_beats_variable_beats_folder_beats_xdg() {
    let stand = Stand::new();
    let place = |name: &str, cluster: &str| {
        let path = stand.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let text =
            include_str!("../../docs/cluster.toml").replace("\"prod\"", &format!("\"{cluster}\""));
        std::fs::write(&path, text).unwrap();
        path
    };
    let none = found(&stand, &[], None).exits(2);
    for looked in [
        "cluster.toml, ",
        "xdg/lockstep/cluster.toml, ",
        "/etc/lockstep/cluster.toml",
        "-c FILE",
    ] {
        assert!(none.stderr.contains(looked), "{looked}: {}", none.stderr);
    }
    let is = |ran: Ran, cluster: &str| {
        let ran = ran.exits(0);
        assert!(
            ran.stdout.contains(&format!("cluster {cluster}:")),
            "{}",
            ran.stdout
        );
    };
    place("xdg/lockstep/cluster.toml", "xdg");
    is(found(&stand, &[], None), "xdg");
    place("cluster.toml", "here");
    is(found(&stand, &[], None), "here");
    let variable = place("variable.toml", "variable");
    is(found(&stand, &[], Some(&variable)), "variable");
    place("flag.toml", "flag");
    is(found(&stand, &["-c", "flag.toml"], Some(&variable)), "flag");
    found(&stand, &["-c", "missing.toml"], Some(&variable)).exits(2);
}
