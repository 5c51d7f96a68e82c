//! `node`: a key made once and shown alone, rotated without a moment at which the node has none.

use std::os::unix::fs::PermissionsExt;

use super::config::{change, stand};
use super::stand::{Ran, Stand};

/// The key that a command printed, which is all that it printed on stdout.
#[track_caller]
fn key(ran: Ran) -> String {
    let ran = ran.exits(0);
    let key = ran.stdout.strip_suffix('\n').unwrap().to_owned();
    assert!(
        key.starts_with("lsk1:") && key.len() == 61 && !key.contains('\n'),
        "{key}"
    );
    key
}

/// A stand whose own key is that of db1 in the cluster file.
fn db1() -> (Stand, String) {
    let stand = stand();
    let own = key(stand.run(&["node", "show"]));
    let text = String::from_utf8(stand.read("cluster.toml")).unwrap();
    let example = text.lines().find_map(|line| {
        Some(
            line.strip_prefix("key     = \"")?
                .split('"')
                .next()?
                .to_owned(),
        )
    });
    change(&stand, &example.unwrap(), &own);
    (stand, own)
}

#[test]
fn the_key_is_made_on_first_use_and_stays() {
    let stand = Stand::new();
    let first = key(stand.run(&["node", "show", "--state-dir", "a"]));
    let again = stand.run(&["node", "show", "--state-dir", "a"]);
    assert!(again.stderr.contains("fingerprint "), "{}", again.stderr);
    assert_eq!(key(again), first);
    assert_ne!(key(stand.run(&["node", "show", "--state-dir", "b"])), first);
    let mode = |name: &str| stand.path(name).metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("a"), mode("a/node.key")), (0o700, 0o600));

    let events = stand.events(&["node", "show", "--state-dir", "a"]).exits(0);
    assert_eq!(events.of_type("key")[0]["key"], first.as_str());
    assert!(events.of_type("key")[0]["next"].is_null());
}

#[test]
fn an_exposed_or_damaged_key_is_refused_and_left_alone() {
    let stand = Stand::new();
    key(stand.run(&["node", "show"]));
    let path = stand.path("state/node.key");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    let exposed = stand.run(&["node", "show"]).exits(7);
    assert!(
        exposed.stderr.contains("0644") && exposed.stderr.contains("chmod 600"),
        "{}",
        exposed.stderr
    );
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::write(&path, "damaged").unwrap();
    stand.events(&["node", "show"]).exits(12);
    assert_eq!(std::fs::read(&path).unwrap(), b"damaged");
}

#[test]
fn a_rotation_from_its_beginning_to_its_end() {
    let (stand, old) = db1();
    let next = key(stand.run(&["node", "rotate-key"]));
    assert_ne!(next, old);
    assert_eq!(
        key(stand.run(&["node", "show"])),
        old,
        "the old one is used on"
    );
    assert_eq!(key(stand.run(&["node", "rotate-key"])), next, "begun once");
    assert_eq!(
        stand.events(&["node", "show"]).of_type("key")[0]["next"],
        next.as_str()
    );

    let early = stand.run(&["node", "rotate-key", "--finish"]).exits(7);
    assert!(
        early
            .stderr
            .contains(&format!("lockstep node trust db1 {next}")),
        "{}",
        early.stderr
    );
    assert_eq!(key(stand.run(&["node", "show"])), old);

    stand.run(&["node", "trust", "db1", &next]).exits(0);
    let text = String::from_utf8(stand.read("cluster.toml")).unwrap();
    assert!(
        text.contains(&format!("key     = [\"{old}\", \"{next}\"]    # what")),
        "{text}"
    );
    stand.run(&["config", "check"]).exits(0);
    assert_eq!(key(stand.run(&["node", "rotate-key", "--finish"])), next);
    assert_eq!(key(stand.run(&["node", "show"])), next);
    stand
        .run(&["node", "trust", "--only", "db1", &next])
        .exits(0);
    let text = String::from_utf8(stand.read("cluster.toml")).unwrap();
    assert!(!text.contains(&old) && text.contains(&next), "{text}");
    stand.run(&["node", "rotate-key", "--finish"]).exits(2);
}

#[test]
fn a_rotation_can_be_cancelled_or_finished_without_a_file() {
    let stand = Stand::new();
    stand.run(&["node", "rotate-key", "--cancel"]).exits(2);
    assert!(
        !stand.path("state").exists(),
        "nothing is made to be cancelled"
    );
    let old = key(stand.run(&["node", "show"]));
    key(stand.run(&["node", "rotate-key"]));
    assert_eq!(key(stand.run(&["node", "rotate-key", "--cancel"])), old);
    let next = key(stand.run(&["node", "rotate-key"]));
    let mut alone = stand.command(&["node", "rotate-key", "--finish"]);
    let alone = Ran::from(
        alone
            .env("XDG_CONFIG_HOME", stand.path("none"))
            .output()
            .unwrap(),
    )
    .exits(2);
    assert!(alone.stderr.contains("no cluster file"), "{}", alone.stderr);
    assert_eq!(
        key(stand.run(&["node", "rotate-key", "--finish", "--unlisted"])),
        next
    );
}

#[test]
fn trust_adds_nodes_and_operators_and_refuses_what_would_be_wrong() {
    let stand = stand();
    let new = key(stand.run(&["node", "show"]));
    stand.run(&["node", "trust", "db9", &new]).exits(2);
    let before = stand.contents();
    let refused: [(&[&str], &str); 6] = [
        (&["db9", &new], "--address"),
        (
            &["db9", "lsk1:abc", "--address", "h:1"],
            "lockstep node show",
        ),
        (&["db9", &new, "--address", "h"], "no port"),
        (
            &["db9", &new, "--address", "10.0.0.11:7801"],
            "already a node with the address",
        ),
        (&["db/9", &new, "--address", "h:1"], "name of a node"),
        (&["db3", &new], "two keys already"),
    ];
    for (arguments, words) in refused {
        let mut all = vec!["node", "trust"];
        all.extend_from_slice(arguments);
        let ran = stand.run(&all).exits(2);
        assert!(ran.stderr.contains(words), "{words}: {}", ran.stderr);
    }
    assert_eq!(stand.contents(), before, "nothing was changed");

    stand
        .run(&["node", "trust", "db9", &new, "--address", "10.0.0.19:7801"])
        .exits(0);
    let again = stand.run(&["node", "trust", "db9", &new]).exits(0);
    assert!(again.stderr.contains("says so already"), "{}", again.stderr);
    stand
        .run(&["node", "trust", "--operator", "eve", &new])
        .exits(2);
    let other = key(stand.run(&["node", "show", "--state-dir", "eve"]));
    stand
        .events(&["node", "trust", "--operator", "eve", &other])
        .exits(0);
    let checked = stand.run(&["config", "check"]).exits(0);
    assert!(
        checked.stdout.contains("4 nodes, 2 operators"),
        "{}",
        checked.stdout
    );
}
