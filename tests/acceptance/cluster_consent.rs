//! What has to be said, and rightly, before a resync begins.

use super::cluster::{Cluster, agreed, probed};

#[test]
fn without_a_terminal_the_volume_has_to_be_named_twice() {
    let cluster = Cluster::new();
    let adopt = ["--adopt", "db2", "--adopt", "db3"];
    for words in [
        &["--yes"][..],
        &[],
        &["--confirm", "pg"],
        &["--yes", "--confirm", "db2"],
    ] {
        let command = [&["resync", "pg"], words, &adopt].concat();
        let refused = cluster.events(&command).exits(4);
        assert_eq!(refused.summary()["changed"], false);
        let hint = refused.summary()["error"]["hint"].as_str().unwrap();
        assert!(hint.contains("--yes --confirm pg"), "{hint}");
    }
    cluster.assert_untouched();
    assert_eq!(cluster.run(&["history", "pg"]).exits(0).stdout, "");
}

#[test]
fn unknown_names_are_all_told_at_once_before_anything_else() {
    // No agent is on: nobody needs to be asked.
    let cluster = Cluster::laid_out(|text| text);
    let words = ["resync", "pgg", "db2", "db7", "--adopt", "db8", "db9"];
    let refused = cluster.events(&words).exits(2);
    let error = &refused.summary()["error"];
    for name in ["pgg", "db7", "db8", "db9"] {
        assert!(
            error["message"].as_str().unwrap().contains(name),
            "{name}: {error}"
        );
    }
    assert!(
        !error["message"].as_str().unwrap().contains("db2"),
        "{error}"
    );
    let hint = error["hint"].as_str().unwrap();
    assert!(
        hint.contains("pg") && hint.contains("db1, db2, db3"),
        "{hint}"
    );
    for verb in ["plan", "verify"] {
        let refused = cluster.events(&[verb, "pgg", "db7"]).exits(2);
        let message = refused.summary()["error"]["message"].as_str().unwrap();
        assert!(
            message.contains("pgg") && message.contains("db7"),
            "{message}"
        );
    }
    for verb in ["status", "history", "cancel"] {
        let ran = cluster.run(&[verb, "pgg"]).exits(2);
        assert!(ran.stderr.contains("pgg"), "{}", ran.stderr);
    }
}

#[test]
fn what_is_missing_for_a_resync_is_said() {
    for (from, to, said) in [
        (
            "replicas = [\"db2\", \"db3\"]",
            "replicas = []",
            "has no replica",
        ),
        ("primary = \"db1\"\n", "", "`primary`"),
    ] {
        let cluster = Cluster::laid_out(|text| text.replace(from, to));
        for words in [vec!["plan", "pg"], vec!["verify", "pg"], agreed("pg", &[])] {
            let refused = cluster.events(&words).exits(2);
            let mistakes = refused.of_type("mistake");
            assert_eq!(mistakes.len(), 1, "{mistakes:?}");
            assert!(
                mistakes[0]["message"].as_str().unwrap().contains(said),
                "{mistakes:?}"
            );
        }
        cluster.assert_untouched();
    }
    // A probe may find the only replica to be the primary.
    let only = |text| {
        probed(text).replace(
            "replicas = [\"db1\", \"db2\", \"db3\"]",
            "replicas = [\"db1\"]",
        )
    };
    let cluster = Cluster::laid_out(only);
    for (node, role) in [("db1", "primary"), ("db2", "replica"), ("db3", "replica")] {
        cluster.role(node, role);
    }
    let cluster = cluster.started();
    for words in [vec!["plan", "pg"], vec!["verify", "pg"], agreed("pg", &[])] {
        let refused = cluster.events(&words).exits(2);
        let message = refused.summary()["error"]["message"].as_str().unwrap();
        assert!(
            message.contains("has the primary `db1`, but no replica"),
            "{message}"
        );
    }
    cluster.assert_untouched();
}
