//! All snapshots or none, and nothing left behind.

use std::fs;
use std::path::Path;
use std::time::Duration;

use lockstep_engine::{Level, SnapshotChoice, StillHook, Stillness, Together};

use crate::lab::{Lab, is_possible, text};

/// A provider for which one volume is fit, and whose snapshot of it fails or takes its time.
fn provider(lab: &Lab, create: &str) -> SnapshotChoice {
    let example =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/examples/snapshot-by-clone");
    let script = format!(
        "if [ \"$1\" = create ]; then {create}; fi\nexec {} \"$@\"",
        text(&example)
    );
    SnapshotChoice::Program(lab.script("provider", &script))
}

fn notes(lab: &Lab) -> String {
    fs::read_to_string(lab.folder.path().join("notes")).unwrap_or_default()
}

/// A hook that notes what it is called with.
fn with_hook(lab: &Lab, together: Together) -> Together {
    let note = "echo \"$1: $(echo \"$LOCKSTEP_VOLUME\" | wc -l)\" >> \"$(dirname \"$0\")/notes\"";
    Together {
        stillness: Stillness {
            hooks: vec![StillHook::program(&lab.script("hook", note))],
            ..together.stillness
        },
        ..together
    }
}

#[test]
fn one_that_fails_takes_the_others_with_it_and_everything_goes_on() {
    if !is_possible() {
        return;
    }
    let lab = Lab::new(2);
    let mut together = with_hook(&lab, lab.together("r"));
    together.volumes[1].1 = provider(
        &lab,
        "cat > /dev/null; echo '{\"error\":\"the array is full\"}'; exit 0",
    );
    let failure = together.take().unwrap_err();
    assert!(failure.message.contains("the array is full"), "{failure:?}");
    assert_eq!(lab.images().len(), 0, "the first one was released");
    assert_eq!(notes(&lab), "before: 2\nafter: 2\n");
    lab.assert_thawed();

    together.volumes[1].1 = SnapshotChoice::Auto;
    let taken = together.take().unwrap();
    assert_eq!(taken.level, Level::ApplicationConsistent);
    assert_eq!(lab.images().len(), 2);
    for snapshot in &taken.snapshots {
        snapshot.release().unwrap();
    }
}

#[test]
fn what_was_not_still_until_the_last_one_was_made_is_released() {
    if !is_possible() {
        return;
    }
    let lab = Lab::new(1);
    let mut together = lab.together("r");
    together.stillness.limit = Duration::from_millis(300);
    together.volumes[1].1 = provider(&lab, "sleep 1");
    let failure = together.take().unwrap_err();
    assert!(
        failure.message.contains("thawed after 0.3 s"),
        "{failure:?}"
    );
    assert_eq!(lab.images().len(), 0);
    let by_the_program = lab.data_image().with_file_name(".snapshots-by-clone");
    assert!(!by_the_program.exists());
    lab.assert_thawed();
}

#[test]
fn one_that_does_not_suit_is_refused_before_anything_is_touched() {
    if !is_possible() {
        return;
    }
    let lab = Lab::new(1);
    let mut together = with_hook(&lab, lab.together("r"));
    let elsewhere = lab.data.point.join("file");
    fs::write(&elsewhere, b"on an ext4, which does not clone").unwrap();
    together
        .volumes
        .push((elsewhere.clone(), SnapshotChoice::Auto));
    let failure = together.take().unwrap_err();
    assert!(failure.message.contains(text(&elsewhere)), "{failure:?}");
    together.volumes[2].1 = SnapshotChoice::Exclusive;
    assert!(together.take().is_err(), "an instant needs a snapshot");
    together.volumes.pop();
    together.stillness = Stillness::default();
    let failure = together.take().unwrap_err();
    assert!(
        failure.message.contains("of one instant only if"),
        "{failure:?}"
    );
    assert_eq!((notes(&lab), lab.images().len()), (String::new(), 0));
}
