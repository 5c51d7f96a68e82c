//! The example of the documentation, and one test for each kind of mistake.

use std::path::Path;

use proptest::prelude::{any, prop, proptest};

use super::*;
use crate::file::section::record;
use crate::key::PublicKey;

/// The cluster file of the documentation.
pub(crate) const EXAMPLE: &str = include_str!("../../../../docs/cluster.toml");
const AGENT_EXAMPLE: &str = include_str!("../../../../docs/agent.toml");

pub(crate) fn example() -> ClusterFile {
    ClusterFile::parse(EXAMPLE.as_bytes(), Path::new("docs/cluster.toml")).unwrap()
}

/// The keys of the example are these: nobody has the private ones.
pub(crate) fn key(number: u8) -> PublicKey {
    PublicKey::from_bytes([number; 32])
}

/// Every mistake of a text, as `line:column: what; remedy`.
fn mistakes(text: &str) -> Vec<String> {
    let mistakes = match ClusterFile::parse(text.as_bytes(), Path::new("f")) {
        Ok(_) => return Vec::new(),
        Err(mistakes) => mistakes.to_string(),
    };
    mistakes
        .lines()
        .map(|line| line.strip_prefix("f:").unwrap_or(line).to_owned())
        .collect()
}

/// The example with a text in place of another that is there once.
fn with(old: &str, new: &str) -> String {
    assert_eq!(
        EXAMPLE.matches(old).count(),
        1,
        "{old} is not once in the example"
    );
    EXAMPLE.replacen(old, new, 1)
}

/// The line of the example in which a text is.
fn line(text: &str) -> usize {
    1 + EXAMPLE
        .lines()
        .position(|line| line.contains(text))
        .unwrap()
}

/// Asserts that a change of the example makes exactly one mistake, there, with these words in it.
#[track_caller]
fn one_mistake(old: &str, new: &str, words: &[&str]) {
    let found = mistakes(&with(old, new));
    assert_eq!(found.len(), 1, "{found:#?}");
    let first = old.lines().next().unwrap();
    assert!(
        found[0].starts_with(&format!("{}:", line(first))),
        "line {}: {found:?}",
        line(first)
    );
    for word in words {
        assert!(found[0].contains(word), "{word}: {found:?}");
    }
    assert!(found[0].contains("; "), "there is a remedy: {found:?}");
}

#[test]
fn the_example_is_read() {
    let cluster = example();
    assert_eq!(cluster.name.as_str(), "prod");
    assert_eq!(cluster.nodes.len(), 3);
    assert_eq!(cluster.nodes[0].ssh.as_ref().unwrap().as_str(), "admin@db1");
    assert!(cluster.nodes[2].keys.accept(&key(3)) && cluster.nodes[2].keys.accept(&key(4)));
    assert!(!cluster.nodes[2].keys.accept(&key(1)));
    let [data, wal, queue] = &cluster.volumes[..] else {
        panic!("three volumes")
    };
    assert_eq!(
        data.hooks.at(Moment::Configure).unwrap().program(),
        "/etc/lockstep/make-standby"
    );
    assert_eq!(data.files[0].as_str(), "/etc/postgresql/15/main");
    assert_eq!(
        wal.hooks.at(Moment::Health).unwrap().program(),
        "pg_isready",
        "from [defaults]"
    );
    assert_eq!(wal.hooks.at(Moment::Stop), None);
    assert_eq!(wal.snapshot.as_str(), "auto");
    assert_eq!(queue.snapshot.as_str(), "reflink");
    assert!(matches!(queue.primary, Primary::Probe(_)));
    assert_eq!(queue.limits.probe.as_secs(), 2);
    assert_eq!(queue.limits.at(Moment::Stop).as_secs(), 120);
    assert_eq!(cluster.groups[0].volumes.len(), 2);
    let mail = cluster.notify.mail.unwrap();
    assert_eq!(mail.login.unwrap().user, "lockstep");
    assert_eq!(
        cluster.notify.webhooks[0].on,
        [Ending::Partial, Ending::Failed]
    );
}

#[test]
fn the_limits_shown_are_the_built_in_ones() {
    assert_eq!(example().volumes[0].limits, Limits::default());
}

#[test]
fn the_examples_show_every_key() {
    record::start();
    let cluster = example();
    AgentFile::parse(AGENT_EXAMPLE.as_bytes(), Path::new("f"), &cluster).unwrap();
    let (asked, present) = record::stop();
    assert!(asked.len() > 60, "{}", asked.len());
    // Two volumes of the second example have rules, each with some of the keys.
    let is_shown = |(section, key): &(String, &'static str)| {
        let twin = section.replace("volume.queue", "volume.pgdata");
        present.contains(&(section.clone(), *key))
            || present.contains(&(twin, *key))
            || present.contains(&(section.replace("volume.pgdata", "volume.queue"), *key))
    };
    let missing: Vec<_> = asked.iter().filter(|asked| !is_shown(asked)).collect();
    // The same hooks and limits can stand in both places.
    let shown_elsewhere = |(section, key): &&(String, &'static str)| {
        let twin = match section.split_once('.') {
            Some(("defaults", part)) => format!("volume.{part}"),
            Some(("volume", part)) => format!("defaults.{part}"),
            _ => return false,
        };
        present.contains(&(twin, *key))
    };
    let missing: Vec<_> = missing
        .into_iter()
        .filter(|key| !shown_elsewhere(key))
        .collect();
    assert!(missing.is_empty(), "not shown: {missing:?}");
}

#[test]
fn the_least_file_is_enough() {
    let text = format!(
        "format = 1\ncluster = \"c\"\n[[node]]\nname = \"a\"\naddress = \"127.0.0.1:1\"\nkey = \"{}\"\n",
        key(1)
    );
    assert_eq!(mistakes(&text), [""; 0]);
}

#[test]
fn an_empty_file_says_what_it_needs() {
    let found = mistakes("");
    assert_eq!(found.len(), 3, "{found:#?}");
    assert!(
        found[0].starts_with("1:1: the file has no `format`; add `format = 1`"),
        "{found:?}"
    );
    assert!(
        found[1].contains("`cluster`") && found[2].contains("[[node]]"),
        "{found:?}"
    );
}

#[test]
fn all_mistakes_are_told_at_once_in_order() {
    let text = EXAMPLE
        .replace(
            "address = \"10.0.0.12:7801\"",
            "adress = \"10.0.0.12:7801\"",
        )
        .replace(
            "primary  = \"db1\"\nreplicas = [\"db2\", \"db3\"]     #",
            "primary  = \"db7\"\nreplicas = [\"db2\", \"db8\"]     #",
        )
        .replace("\"smtp://mail.example.org:25\" ", "25 ");
    let found = mistakes(&text);
    let expected = [
        "has no `address`",
        "unknown key `adress`",
        "no node `db7`",
        "no path on `db7`",
        "no node `db8`",
        "no path on `db8`",
        "not the same primary",
        "`smtp` is a number",
    ];
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.contains(expected), "{expected}: {found}");
    }
    assert!(
        found[1].ends_with("write `address`, if that is meant"),
        "{found:?}"
    );
}

#[test]
fn wrong_syntax_is_told_with_what_else_is_wrong() {
    let found = mistakes(
        &with("cluster = \"prod\"", "cluster = \"prod")
            .replace("\"10.0.0.12:7801\"", "\"10.0.0.12\""),
    );
    assert_eq!(found.len(), 2, "{found:#?}");
    assert!(
        found[0].starts_with(&format!(
            "{}:16: this is not TOML",
            line("cluster = \"prod\"")
        )),
        "{found:?}"
    );
    assert!(found[1].contains("has no port"), "{found:?}");
    one_mistake("name = \"ops\"", "name = \"ops\"; name = 1", &["not TOML"]);
    let twice = mistakes(&with("name = \"ops\"", "name = \"ops\"\nname = \"dev\""));
    assert_eq!(twice.len(), 1, "{twice:?}");
    assert!(twice[0].contains("duplicate key"), "{twice:?}");
}

#[test]
fn a_file_that_is_no_text_is_told_where() {
    let mut bytes = EXAMPLE.as_bytes().to_vec();
    let at = EXAMPLE.find("prod").unwrap();
    bytes[at] = 0xff;
    let mistakes = ClusterFile::parse(&bytes, Path::new("f")).unwrap_err();
    assert_eq!(mistakes.list.len(), 1);
    assert_eq!(mistakes.list[0].at.line, line("cluster = \"prod\""));
    assert_eq!(mistakes.list[0].at.column, 12);
    assert!(mistakes.list[0].what.contains("UTF-8"));
}

#[test]
fn another_format_is_the_only_thing_told() {
    let found = mistakes("format = 2\nnews = true\n");
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].contains("format 2, which this version does not know"),
        "{found:?}"
    );
    assert!(mistakes(&with("format  = 1", "format  = \"1\""))[0].contains("`format` is a text"));
}

#[test]
fn wrong_types_and_words_are_told() {
    one_mistake(
        "cluster = \"prod\"",
        "cluster = 1",
        &["`cluster` is a number, not a text", "quotes"],
    );
    one_mistake(
        "cluster = \"prod\"",
        "cluster = \"a/b\"",
        &["name of a cluster"],
    );
    one_mistake(
        "volumes = [\"pgdata\", \"pgwal\"] #",
        "volumes = \"pgdata\" #",
        &["not a list", "brackets"],
    );
    one_mistake(
        "db1 = \"/dev/vg0/pgdata\"",
        "db1 = 5",
        &["`db1` is a number"],
    );
    one_mistake(
        "snapshot  = \"auto\"",
        "snapshot  = \"lvm2\"",
        &["no way to make a snapshot", "reflink"],
    );
    one_mistake("[notify.mail]", "[notify.post]", &["unknown key `post`"]);
    one_mistake(
        "[defaults.limits]",
        "[[defaults.limits]]",
        &["is a list, not a table"],
    );
    one_mistake(
        "primary   = {",
        "primary   = [\"db1\", \"db2\"] # {",
        &["not a node", "one primary at a time"],
    );
}

#[test]
fn a_probe_is_a_command() {
    let found = mistakes(&with(
        "probe = [\"/usr/local/bin/queue-role\"]",
        "program = [\"x\"]",
    ));
    assert_eq!(found.len(), 2, "{found:#?}");
    assert!(
        found[0].contains("volume.primary has no `probe`"),
        "{found:?}"
    );
    assert!(found[1].contains("unknown key `program`"), "{found:?}");
    one_mistake(
        "[\"/usr/local/bin/queue-role\"]",
        "\"/usr/local/bin/queue-role\"",
        &["no shell reads it"],
    );
}

#[test]
fn names_ids_addresses_keys_and_places_are_unique() {
    let db1 = format!("{}", line("name    = \"db1\""));
    let found = mistakes(&with("name    = \"db2\"", "name    = \"db1\""));
    assert!(
        found[0].contains(&format!("already a node `db1`, in line {db1}")),
        "{found:?}"
    );
    one_mistake(
        "10.0.0.12:7801",
        "10.0.0.11:7801",
        &["already a node with the address", "wrong node"],
    );
    one_mistake("9e78\"", "9e77\"", &["already a volume with the id"]);
    let (second, first) = (key(2).to_string(), key(1).to_string());
    one_mistake(
        &second,
        &first,
        &["already a node or operator with the key"],
    );
    let (operator, third) = (key(5).to_string(), key(3).to_string());
    one_mistake(
        &operator,
        &third,
        &["already a node or operator with the key"],
    );
    let (fourth, third) = (key(4).to_string(), key(3).to_string());
    one_mistake(&fourth, &third, &["the two keys are the same"]);
    one_mistake(
        "db2 = \"/dev/vg0/pgwal\"",
        "db2 = \"/dev//vg0/pgdata\"",
        &["already the place of [[volume]] `pgdata`", "overwrite"],
    );
    one_mistake(
        "name    = \"pg\" ",
        "name    = \"queue\" ",
        &["a volume is called `queue` too"],
    );
}

#[test]
fn keys_addresses_ids_and_paths_are_checked() {
    let second = key(2).to_string();
    one_mistake(
        &second,
        "ssh-ed25519 AAAA",
        &["no key", "lockstep node show"],
    );
    one_mistake(&second, &second[..50], &["45 letters"]);
    one_mistake("10.0.0.12:7801", "0.0.0.0:7801", &["nobody reaches"]);
    one_mistake("10.0.0.12:7801", "10.0.0.12", &["has no port", "HOST:PORT"]);
    one_mistake("2f6c0a1b9e78", "2f6c0a1b9e7", &["not a UUID", "uuidgen"]);
    one_mistake(
        "db3 = \"/srv/pgwal.img\"",
        "db3 = \"srv/pgwal.img\"",
        &["relative", "from the root"],
    );
    one_mistake(
        "db3 = \"/srv/pgwal.img\"",
        "db3 = \"/srv/../pgwal.img\"",
        &["`..`"],
    );
    one_mistake("[\"/etc/postgresql/15/main\"]", "[\"main\"]", &["relative"]);
    one_mistake("\"admin@db1\"", "\"-oProxyCommand=x\"", &["ssh"]);
}

#[test]
fn roles_are_held_against_the_nodes() {
    let own = mistakes(&with(
        "[\"db2\", \"db3\"]     # only",
        "[\"db2\", \"db1\"]     # only",
    ));
    assert!(
        own[0].contains("db1 is the primary of [[volume]] `pgdata`, and cannot be its replica"),
        "{own:?}"
    );
    one_mistake(
        "replicas = [\"db2\", \"db3\"]     # only",
        "replicas = [\"db2\", \"db3\", \"db2\"]     # only",
        &["twice"],
    );
    one_mistake(
        "replicas  = [\"db1\", \"db2\"]",
        "replicas  = []",
        &["has no replica"],
    );
    let none = mistakes(&with("replicas  = [\"db1\", \"db2\"]", ""));
    assert_eq!(none.len(), 1, "{none:#?}");
    assert!(
        none[0].contains("[[volume]] `queue` has no `replicas`; add"),
        "{none:?}"
    );
    let moved = mistakes(&with(
        "db3 = \"/srv/pgwal.img\"",
        "db9 = \"/srv/pgwal.img\"",
    ));
    assert_eq!(moved.len(), 2, "{moved:#?}");
    assert!(
        moved[0].contains("`pgwal` has no path on `db3`; add `db3 = "),
        "{moved:?}"
    );
    assert!(
        moved[1].contains("no node `db9`; write one of `db1`, `db2`, `db3`"),
        "{moved:?}"
    );
    let alone = mistakes(&with("db2 = \"/srv/queue.img\"", ""));
    assert!(
        alone
            .iter()
            .any(|told| told.contains("fewer than two nodes")),
        "{alone:?}"
    );
}

#[test]
fn hooks_are_commands_with_limits() {
    let stop = "[\"systemctl\", \"stop\", \"postgresql@15-main\"]";
    one_mistake(
        stop,
        "\"systemctl stop postgresql@15-main\"",
        &["no shell reads it", stop],
    );
    one_mistake(stop, "\"systemctl stop x && sleep 1\"", &["script"]);
    one_mistake(
        stop,
        "[\"systemctl stop x\"]",
        &["not the name of a program"],
    );
    one_mistake(stop, "[]", &["the command is empty"]);
    one_mistake(
        stop,
        "[\"systemctl\", 5]",
        &["a word of `stop` is a number"],
    );
    one_mistake(
        "[\"/etc/lockstep/checkpoint\"]",
        "[\"./checkpoint\"]",
        &["relative"],
    );
    one_mistake("probe = \"2s\"", "probe = 2", &["has no unit"]);
    one_mistake("probe = \"2s\"", "probe = \"2\"", &["a unit is missing"]);
    one_mistake(
        "probe = \"2s\"",
        "probe = \"0s\"",
        &["too short or too long"],
    );
    one_mistake(
        "probe = \"2s\"",
        "reload = \"2s\"",
        &["unknown key `reload` in volume.limits"],
    );
    one_mistake("frozen    = \"30s\"", "frozen    = \"11m\"", &["600s"]);
    one_mistake(
        "thaw      = [",
        "unfreeze  = [",
        &["unknown key `unfreeze` in volume.hooks"],
    );
}

#[test]
fn groups_are_made_of_volumes_that_belong_together() {
    one_mistake(
        "volumes = [\"pgdata\", \"pgwal\"]",
        "volumes = [\"pgdata\", \"pgxyz\"]",
        &["no volume `pgxyz`", "`pgwal`"],
    );
    one_mistake(
        "volumes = [\"pgdata\", \"pgwal\"]",
        "volumes = [\"pgdata\", \"pgdata\"]",
        &["twice"],
    );
    one_mistake(
        "volumes = [\"pgdata\", \"pgwal\"]",
        "volumes = [\"pgdata\", \"queue\"]",
        &["not the same primary and replicas"],
    );
    one_mistake(
        "volumes = [\"pgdata\", \"pgwal\"]",
        "volumes = []",
        &["has no volume"],
    );
    let two = with(
        "[notify.mail]",
        "[[group]]\nname = \"again\"\nvolumes = [\"pgwal\"]\n[notify.mail]",
    );
    let found = mistakes(&two);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].contains("`pgwal` is already in [[group]] `pg`, in line"),
        "{found:?}"
    );
}

#[test]
fn notifications_are_checked() {
    one_mistake(
        "\"smtp://mail.example.org:25\"",
        "\"mail.example.org\"",
        &["smtp://"],
    );
    one_mistake(
        "[\"sre@example.org\"]",
        "[\"sre\"]",
        &["not an address of mail"],
    );
    one_mistake("[\"sre@example.org\"]", "[]", &["mail goes to nobody"]);
    let lone = mistakes(&with("password_file = \"/etc/lockstep/mail.password\"", ""));
    assert_eq!(lone.len(), 1, "{lone:?}");
    assert!(
        lone[0].contains("this `user` has no password; add `password_file"),
        "{lone:?}"
    );
    one_mistake(
        "on          = [\"partial\", \"failed\"]",
        "on          = [\"never\"]",
        &["no way in which a resync ends", "fenced"],
    );
    one_mistake(
        "https://hooks.example.org/lockstep",
        "hooks.example.org",
        &["https://"],
    );
}

#[test]
fn an_operator_that_does_not_exist_is_told() {
    one_mistake(
        "operators = [\"ops\"]           #",
        "operators = [\"dev\"]           #",
        &["no operator `dev`", "`ops`"],
    );
}

#[test]
fn sections_have_limits() {
    let node = |number: usize| {
        let key = key(u8::try_from(number).unwrap());
        format!("[[node]]\nname = \"n{number}\"\naddress = \"h{number}:1\"\nkey = \"{key}\"\n")
    };
    let nodes = |count: usize| (0..count).map(node).collect::<String>();
    let file = |count: usize| format!("format = 1\ncluster = \"c\"\n{}", nodes(count));
    assert_eq!(mistakes(&file(MAX_NODES)), [""; 0]);
    let found = mistakes(&file(MAX_NODES + 1));
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].contains("65 [[node]], more than the 64"),
        "{found:?}"
    );
}

#[test]
fn files_that_cannot_be_read_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cluster.toml");
    assert!(matches!(
        ClusterFile::read(&path),
        Err(FileError::Io { .. })
    ));
    assert!(matches!(
        ClusterFile::read(folder.path()),
        Err(FileError::Io { .. })
    ));
    std::fs::write(&path, vec![b'#'; 1 + MAX_FILE_BYTES as usize]).unwrap();
    assert!(matches!(
        ClusterFile::read(&path),
        Err(FileError::Io { .. })
    ));
    std::fs::write(&path, EXAMPLE).unwrap();
    assert_eq!(ClusterFile::read(&path).unwrap(), example());
}

mod agent {
    use super::*;

    fn read(text: &str) -> Result<AgentFile, Mistakes> {
        AgentFile::parse(text.as_bytes(), Path::new("agent.toml"), &example())
    }

    #[test]
    fn the_example_is_read() {
        let agent = read(AGENT_EXAMPLE).unwrap();
        let lets = |volume: &str, source: &str| {
            agent.lets_overwrite(&volume.parse().unwrap(), &source.parse().unwrap())
        };
        assert!(lets("pgdata", "db1") && !lets("pgdata", "db3"));
        assert!(!lets("queue", "db1"));
        assert!(lets("pgwal", "db3"), "no rule, any primary");
        let defaults = AgentFile::default();
        assert_eq!(
            (agent.runs, agent.memory),
            (defaults.runs, defaults.memory),
            "the values shown are the built-in ones"
        );
        let bytes = |rate: Option<crate::value::ByteRate>| rate.map(|rate| rate.0);
        assert_eq!(bytes(agent.rate), Some(200_000_000));
        assert_eq!(bytes(agent.read), Some(500_000_000));
    }

    #[test]
    fn a_node_that_is_never_overwritten_beats_everything() {
        let agent =
            read("format = 1\nallow_overwrite = false\n[volume.pgdata]\nallow_overwrite = true\n")
                .unwrap();
        assert!(!agent.lets_overwrite(&"pgdata".parse().unwrap(), &"db1".parse().unwrap()));
        assert!(!agent.lets_overwrite(&"pgwal".parse().unwrap(), &"db1".parse().unwrap()));
    }

    #[test]
    fn rules_for_what_does_not_exist_are_mistakes() {
        let text = "format = 1\nnode = \"db9\"\n[volume.pgdate]\nallow_overwrite = \"no\"\nsources = [\"db8\"]\n[limits]\nruns = 0\nmemory = \"1MiB\"\nspeed = 1\n";
        let mistakes = read(text).unwrap_err();
        let told = mistakes.to_string();
        for expected in [
            "no node `db9`",
            "no volume `pgdate`",
            "`allow_overwrite` is a text",
            "no node `db8`",
            "`runs` is out of bounds",
            "so little memory",
            "unknown key `speed`",
        ] {
            assert!(told.contains(expected), "{expected}: {told}");
        }
        assert_eq!(mistakes.list.len(), 7, "{told}");
    }
}

proptest! {
    /// Whatever is in a file, reading it ends, and a mistake lies in it.
    #[test]
    fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = ClusterFile::parse(&bytes, Path::new("f"));
    }

    /// The example with a piece replaced or cut out: never a panic, and no more lines than there are.
    #[test]
    fn a_damaged_example_is_read_without_panic(at in 0..EXAMPLE.len(), length in 0..40_usize, new in "[\\[\\]{}=\"',#a-z0-9\n .]{0,6}") {
        let mut bytes = EXAMPLE.as_bytes().to_vec();
        let end = (at + length).min(bytes.len());
        bytes.splice(at..end, new.bytes());
        let lines = 1 + bytes.iter().filter(|byte| **byte == b'\n').count();
        if let Err(mistakes) = ClusterFile::parse(&bytes, Path::new("f")) {
            for mistake in mistakes.list {
                assert!(mistake.at.line <= lines && !mistake.what.is_empty() && !mistake.remedy.is_empty());
            }
        }
    }
}
