//! Volumes that belong together: one run and one epoch, and services only on all of them.

use std::process::Command;

use super::cluster::{Cluster, SIZE, agreed};
use super::judge::same;
use super::lab::{Disk, Mount, root_lab};
use super::stand::{Running, Stand, sparse};

/// A cluster with the group `all` of the volumes `pg` and `wal`, whose primary can be snapshotted.
struct Grouped {
    cluster: Cluster,
    _mount: Mount,
    _disk: Disk,
}

impl Grouped {
    fn laid_out(edit: impl Fn(String) -> String) -> Grouped {
        Grouped::of(&["wal".to_owned()], edit)
    }

    /// The volumes of these names, too.
    fn of(names: &[String], edit: impl Fn(String) -> String) -> Grouped {
        let stand = Stand::new();
        let disk = Disk::blank(&stand, "xfs.disk", 320 << 20);
        let made = Command::new("mkfs.xfs").arg("-q").arg(disk.path()).status();
        assert!(made.unwrap().success());
        let mount = Mount::of(&stand, "db1", &disk);
        let folder = stand.folder().to_owned();
        let cluster = Cluster::on(stand, |text| {
            let numbers = 0x78..;
            let more: String = (names.iter().zip(numbers))
                .map(|(name, number)| super::cluster::volume_section(&folder, name, number))
                .collect();
            let names = names.join("\", \"");
            let group = format!("[[group]]\nname = \"all\"\nvolumes = [\"pg\", \"{names}\"]\n");
            let text = text + &more + &group;
            let hook = folder.join("hook");
            let still: String = ["freeze", "thaw"]
                .iter()
                .map(|moment| format!("{moment} = [\"{}\", \"{moment}\"]\n", hook.display()))
                .collect();
            edit(text.replace("[volume.hooks]\n", &format!("[volume.hooks]\n{still}")))
        });
        for (seed, node) in super::cluster::NODES.iter().enumerate() {
            for name in names {
                cluster.fill(node, name, seed as u64 + 11);
            }
        }
        Grouped {
            cluster,
            _mount: mount,
            _disk: disk,
        }
    }

    fn started(self) -> Grouped {
        Grouped {
            cluster: self.cluster.started(),
            ..self
        }
    }

    fn is_equal(&self, node: &str, volume: &str) -> bool {
        same(
            &self.cluster.image("db1", volume),
            &self.cluster.image(node, volume),
        )
    }

    /// State and epoch of each volume on a node.
    fn states(&self, node: &str) -> Vec<(String, u64)> {
        let status = self.cluster.status();
        let volumes = status["volumes"].as_array().unwrap().clone();
        let of_node = |volume: &serde_json::Value| {
            let nodes = volume["nodes"].as_array().unwrap().clone();
            nodes.into_iter().find(|it| it["node"] == node).unwrap()
        };
        volumes
            .iter()
            .map(of_node)
            .map(|it| {
                (
                    it["state"].as_str().unwrap().to_owned(),
                    it["epoch"].as_u64().unwrap_or(0),
                )
            })
            .collect()
    }
}

#[test]
fn the_volumes_of_a_group_are_frozen_and_served_together() {
    if !root_lab() {
        return;
    }
    let grouped = Grouped::laid_out(|text| text).started();
    let cluster = &grouped.cluster;
    let plan = cluster.events(&["plan", "all"]).exits(10);
    assert_eq!(plan.of_type("plan").len(), 2);
    let adopt = ["--adopt", "db2", "--adopt", "db3"];
    cluster
        .events(&["resync", "all", "--yes", "--confirm", "pg"])
        .exits(4);
    let done = cluster.events(&agreed("all", &adopt)).exits(0);
    assert_eq!(done.summary()["epoch"], 1);
    for node in ["db2", "db3"] {
        assert!(
            grouped.is_equal(node, "pg") && grouped.is_equal(node, "wal"),
            "{node}"
        );
        let good = ("consistent".to_owned(), 1);
        assert_eq!(grouped.states(node), [good.clone(), good]);
        // The same hooks of both volumes are called once.
        assert_eq!(
            cluster.moments(node),
            ["stop", "configure", "start", "check"]
        );
    }
    // On the primary once for both, too, and told what every hook is.
    let mut held = cluster.hooks();
    held.retain(|line| line.starts_with("db1 "));
    assert_eq!(held, ["db1 freeze unknown 1 pg", "db1 thaw unknown 1 pg"]);
    assert_eq!(
        cluster.run(&["status"]).exits(0).stdout.lines().next(),
        Some("OK")
    );
    cluster.run(&["verify", "all"]).exits(0);
    cluster.run(&["plan", "all"]).exits(0);
    // Services would start on volumes of two instants.
    let alone = cluster.events(&agreed("wal", &[])).exits(7);
    let error = &alone.summary()["error"];
    assert!(error["hint"].as_str().unwrap().contains("all"), "{error}");
}

#[test]
fn a_cancelled_run_that_still_thaws_keeps_the_next_one_out() {
    if !root_lab() {
        return;
    }
    let grouped = Grouped::laid_out(|text| text).started();
    let cluster = &grouped.cluster;
    let wanted = agreed("all", &["--adopt", "db2", "--adopt", "db3"]);
    cluster.sign("hold-db1-thaw", true);
    let running = Running::start(cluster.command(&wanted).arg("--json"));
    cluster.await_hook("db1", "thaw", 1);
    cluster.run(&["cancel", "all"]).exits(0);
    cluster.events(&wanted).exits(22);
    cluster.sign("hold-db1-thaw", false);
    let ended: super::stand::Events = running.end().into();
    assert_ne!(ended.code, 0, "{ended:?}");
    // Over is over: nothing of it is in the way.
    cluster.events(&wanted).exits(0);
}

#[test]
fn services_stay_down_where_one_volume_of_a_group_failed() {
    if !root_lab() {
        return;
    }
    let grouped = Grouped::laid_out(|text| text);
    // Blank, so that nobody has to agree to lose it; and too small.
    let small = grouped.cluster.stand.path("small.disk");
    sparse(&small, SIZE as u64 / 2);
    let small = Disk::over(&small);
    let image = grouped.cluster.image("db3", "wal");
    let file = std::fs::read_to_string(grouped.cluster.stand.path("cluster.toml")).unwrap();
    let file = file.replace(image.to_str().unwrap(), small.name());
    grouped.cluster.write_file("cluster.toml", file);
    grouped.cluster.hand_out("cluster.toml");
    let grouped = grouped.started();
    let cluster = &grouped.cluster;
    let done = cluster
        .events(&agreed("all", &["--adopt", "db2", "--adopt", "db3"]))
        .exits(8);
    let targets = done.summary()["targets"].as_array().unwrap();
    assert_eq!(
        (&targets[0]["result"], &targets[1]["result"]),
        (&"ok".into(), &"failed".into())
    );
    let message = targets[1]["error"]["message"].as_str().unwrap();
    assert!(message.contains("the source has"), "{message}");
    assert!(grouped.is_equal("db2", "pg") && grouped.is_equal("db2", "wal"));
    assert_eq!(
        cluster.moments("db2"),
        ["stop", "configure", "start", "check"]
    );
    assert_eq!(
        cluster.moments("db3"),
        ["stop"],
        "nothing runs on half a group"
    );
    assert_eq!(cluster.status_of("db3")["services"], "stopped");
}

#[test]
fn a_group_may_have_more_volumes_than_a_key_has_connections_and_calls() {
    if !root_lab() {
        return;
    }
    let names: Vec<String> = (0..39).map(|number| format!("v{number}")).collect();
    // Hooks of their own: none of them is run for another volume.
    let own_hooks = |text: String| {
        let sections: Vec<String> = (text.split("[[volume]]").enumerate())
            .map(|(number, section)| match number {
                2..8 => section.replace("/hook\"]", &format!("/hook\", \"{number}\"]")),
                _ => section.to_owned(),
            })
            .collect();
        sections.join("[[volume]]")
    };
    let grouped = Grouped::of(&names, own_hooks);
    for node in super::cluster::NODES {
        for (seed, name) in names.iter().enumerate() {
            let seed = seed as u64 + u64::from(node == "db1") * 100;
            let image = grouped.cluster.image(node, name);
            std::fs::write(image, &super::cluster::random(seed)[..64 << 10]).unwrap();
        }
    }
    let grouped = grouped.started();
    let cluster = &grouped.cluster;
    let plan = cluster.events(&["plan", "all"]).exits(10);
    assert_eq!(plan.of_type("plan").len(), 40);
    cluster
        .events(&agreed("all", &["--adopt", "db2", "--adopt", "db3"]))
        .exits(0);
    for node in ["db2", "db3"] {
        let unequal: Vec<_> = names
            .iter()
            .filter(|it| !grouped.is_equal(node, it))
            .collect();
        assert!(unequal.is_empty(), "{node}: {unequal:?}");
    }
    cluster.run(&["verify", "all"]).exits(0);
}
