//! Programs that say what they should not.

use serde_json::json;

use super::*;
use crate::program::script::Script;

/// A provider whose program answers this to the only request that it gets.
fn answering(verb: &str, answer: Result<&str, &str>) -> Exec {
    Exec {
        program: "prog".into(),
        arguments: vec!["--fast".into()],
        programs: Box::new(Script::new([(&format!("prog --fast {verb}"), answer)])),
    }
}

fn snapshot(run: &str) -> Snapshot {
    let name = format!("lockstep-disk-{run}").parse().unwrap();
    let handle = json!({"id": run});
    Snapshot::made(NAME, &name, Path::new("/dev/disk"), 1000, &handle).unwrap()
}

fn delta(answer: Result<&str, &str>) -> Result<Changed, Doubt> {
    let exec = answering("delta", answer);
    exec.delta(&snapshot("base"), &snapshot("now"))
}

#[test]
fn a_delta_is_whole_or_in_doubt() {
    let whole = "{\"changed\":[10,20]}\n{\"changed\":[990,50]}\n{\"ok\":{\"count\":2}}\n";
    assert_eq!(delta(Ok(whole)).unwrap().ranges(), [10..30, 990..1000]);
    for (answer, word) in [
        ("{\"changed\":[10,20]}\n", "program"),
        ("{\"changed\":[10,20]}\n{\"ok\":{\"count\":2}}\n", "program"),
        ("{\"ok\":{\"count\":0}}", "program"),
        ("{\"ok\":{}}\n", "program"),
        ("{\"doubt\":\"a snapshot is gone\"}\n", "program"),
        ("{\"unsupported\":\"no list\"}\n", "not-told"),
        ("", "program"),
    ] {
        let doubt = delta(Ok(answer)).unwrap_err();
        assert_eq!(doubt.word(), word, "{answer}: {doubt}");
    }
    let failed = delta(Err("no network")).unwrap_err().to_string();
    assert!(failed.contains("no network"), "{failed}");
}

#[test]
fn an_image_must_be_what_was_made() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    std::fs::write(&path, [1; 1000]).unwrap();
    let open = |answer: &str| answering("open", Ok(answer)).open(&snapshot("r"));
    let at = |path: &Path| format!("{{\"ok\":{{\"path\":{path:?}}}}}\n");
    assert_eq!(open(&at(&path)).unwrap().size, 1000);
    std::fs::write(&path, [1; 999]).unwrap();
    let short = open(&at(&path)).unwrap_err().to_string();
    assert!(short.contains("999 bytes instead of 1000"), "{short}");
    let relative = open(&at(Path::new("image"))).unwrap_err().to_string();
    assert!(relative.contains("not absolute"), "{relative}");
    assert!(open(&at(dir.path())).is_err());
    assert!(open("{\"ok\":{\"path\":\"/x\",\"more\":1}}\n").is_err());
}

#[test]
fn only_snapshots_of_the_volume_are_found() {
    let dir = tempfile::tempdir().unwrap();
    let volume = dir.path().join("disk");
    std::fs::write(&volume, b"").unwrap();
    let name: VolumeName = "disk".parse().unwrap();
    let recover = |answer| answering("recover", Ok(answer)).recover(&volume, &name);
    let answer = concat!(
        "{\"found\":{\"name\":\"lockstep-disk-b\",\"size\":5,\"handle\":1}}\n",
        "{\"found\":{\"name\":\"lockstep-other-a\",\"size\":5}}\n",
        "{\"removed\":\"half\"}\n",
        "{\"ok\":{\"count\":2}}\n",
    );
    let found = recover(answer).unwrap();
    assert_eq!(found.whole.len(), 1);
    assert_eq!(found.whole[0].detail, json!(1));
    assert_eq!(found.removed, ["half"]);
    assert!(recover("{\"ok\":{\"count\":1}}\n").is_err());
    // A name that is none of ours is nonsense, not something to be passed on.
    let strange = "{\"found\":{\"name\":\"../x\",\"size\":5}}\n{\"ok\":{\"count\":1}}\n";
    assert!(recover(strange).is_err());
}

#[test]
fn what_it_cannot_freeze_and_what_it_lost_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let probe = |answer| answering("probe", Ok(answer)).probe(dir.path());
    let unfit = probe("{\"unfit\":\"not mine\"}\n");
    assert!(matches!(&unfit, Verdict::Unfit { why } if why.contains("not mine")));
    let fit = concat!(
        "{\"ok\":{\"atomicity\":\"power-cut\",\"delta\":false,\"pause_ms\":3,",
        "\"space_at_risk\":1,\"space_free\":2}}\n",
    );
    assert!(matches!(probe(fit), Verdict::Fit(_)));
    let health = |answer| answering("health", Ok(answer)).health(&snapshot("r"));
    let lost = health("{\"lost\":\"the array was reset\"}\n").unwrap();
    assert!(matches!(&lost, Health::Lost { why } if why == "the array was reset"));
    let unknown = health("{\"unsupported\":\"\"}\n").unwrap();
    assert_eq!(unknown, Health::Sound { room: u64::MAX });
    let room = health("{\"ok\":{\"room\":7}}\n").unwrap();
    assert_eq!(room, Health::Sound { room: 7 });
    assert!(health("{\"doubt\":\"?\"}\n").is_err());
}
