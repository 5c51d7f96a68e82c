//! Deltas that lie, and everybody who was proved on their word.

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::judge::same;
use super::lab::{Sshd, missing, root_lab, script};
use super::snapshots::Field;
use super::stand::{Events, LOCKSTEP, volume};

const MIB: usize = 1 << 20;
const SIZE: usize = 96 * MIB;

/// A program that freezes by copying and hides every change from the delta.
const LIAR: &str = r#"
real=$(dirname "$0")/honest
if [ "$1" = delta ]; then
  cat >/dev/null
  echo '{"ok":{"count":0}}'
  exit 0
fi
exec "$real" "$@"
"#;

/// The snapshots of a field by a program that lies; what `--snapshot` is.
pub(super) fn lying_provider(field: &Field) -> String {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/examples/snapshot-by-clone");
    std::os::unix::fs::symlink(example, field.stand.path("honest")).unwrap();
    let liar = script(&field.stand, "liar", LIAR);
    format!("exec:{}", liar.display())
}

/// Targets that are marked on the word of a lie, and that are not equal to their source.
struct Lied {
    field: Field,
    provider: String,
}

impl Lied {
    /// The lie hides one page of 24,576, so that the sample meets it in one of 24 runs: then another
    /// field is tried.
    fn to(targets: &[&str], more: &[&str]) -> Lied {
        for _ in 0..6 {
            let field = Field::new("xfs");
            let provider = lying_provider(&field);
            let lied = Lied { field, provider };
            lied.sync(targets, more).exits(0);
            lied.field.change(7000);
            let events = lied.sync(targets, more).exits(0);
            if events.summary()["proof"] == "delta" {
                return lied;
            }
        }
        panic!("a sample of 1024 pages meets a single one again and again");
    }

    fn sync(&self, targets: &[&str], more: &[&str]) -> Events {
        self.sync_unasked(targets, &[&["--yes"][..], more].concat())
    }

    /// Without the agreement to overwrite.
    fn sync_unasked(&self, targets: &[&str], more: &[&str]) -> Events {
        let source = self.field.source.to_str().unwrap();
        let mut arguments = vec!["sync", source, "--snapshot", &self.provider];
        arguments.extend(targets);
        arguments.extend(more);
        self.field.stand.events(&arguments)
    }

    fn is_equal(&self, name: &str) -> bool {
        same(&self.field.source, &self.field.stand.path(name))
    }

    /// What `gate` says: whether it lets pass, the state, and why not.
    #[track_caller]
    fn gate(&self, name: &str) -> (bool, String, String) {
        let events = self.field.stand.events(&["gate", name]);
        let target = &events.summary()["targets"][0];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let why = text(&target["error"]["message"]);
        (events.code == 0, text(&target["state"]), why)
    }

    #[track_caller]
    fn assert_taken_back(&self, name: &str) {
        let (passes, state, why) = self.gate(name);
        assert!(!passes && state == "inconsistent", "{name}: {state}");
        assert!(why.contains("delta that hid changes"), "{why}");
    }

    #[track_caller]
    fn assert_good(&self, name: &str) {
        assert!(self.is_equal(name), "{name}");
        let (passes, state, why) = self.gate(name);
        assert!(passes, "{name}: {state}: {why}");
    }
}

fn warnings(events: &Events) -> Vec<String> {
    let warnings = events.of_type("warning").into_iter();
    let text = |warning: &Value| {
        let target = warning["target"].as_str().unwrap_or("the run");
        format!("{target}: {}", warning["message"].as_str().unwrap())
    };
    warnings.map(text).collect()
}

#[track_caller]
fn has(events: &Events, begin: &str, part: &str) {
    let warnings = warnings(events);
    let is_there = |line: &&String| line.starts_with(begin) && line.contains(part);
    let found = warnings.iter().filter(is_there).count();
    assert_eq!(found, 1, "{begin}…{part} is not once in {warnings:#?}");
}

fn states(events: &Events, target: &str) -> Vec<String> {
    let states = events.of_type("state").into_iter();
    states
        .filter(|event| event["target"] == target)
        .map(|event| event["state"].as_str().unwrap().to_owned())
        .collect()
}

/// Every way in which a lie comes to light later: whoever takes part is taken back first and then
/// proved, whoever does not is taken back at once if its record is here.
#[test]
fn whoever_rests_on_a_lie_is_taken_back_as_soon_as_it_is_caught() {
    if !root_lab() {
        return;
    }
    let ways: [(&str, &[&str]); 3] = [
        ("everything is read once", &["--no-delta"]),
        ("the full scan is due", &["--full-scan-runs", "2"]),
        ("the sample", &[]),
    ];
    for (way, more) in ways {
        let lied = Lied::to(&["b", "c"], &[]);
        assert!(!lied.is_equal("b") && lied.gate("b").0, "the lie stands");
        if more.is_empty() {
            // So much that no sample misses it.
            let mut bytes = volume(SIZE, 9);
            bytes.truncate(SIZE);
            fs::write(&lied.field.source, bytes).unwrap();
        }
        let events = lied.sync(&["b"], more).exits(0);
        assert_eq!(events.summary()["proof"], "full", "{way}");
        has(&events, "the run: ALARM", "taken back");
        has(&events, "b: ", "until it is proved anew");
        has(&events, "the run: c is `inconsistent`", "Sync it");
        assert_eq!(
            states(&events, "b"),
            ["inconsistent", "consistent"],
            "{way}"
        );
        assert!(events.stderr.contains("c is `inconsistent`"), "{way}");
        lied.assert_good("b");
        lied.assert_taken_back("c");

        let events = lied.sync(&["c"], &[]).exits(0);
        lied.assert_good("c");
        let told = warnings(&events);
        let again = |line: &String| line.contains("hid changes") && !line.contains("distrusted");
        assert!(!told.iter().any(again), "{way}: {told:#?}");
    }
}

/// A comparison finds out as well, and writes nothing but what it found out.
#[test]
fn a_comparison_that_catches_a_lie_takes_back_what_is_recorded_here() {
    if !root_lab() {
        return;
    }
    let lied = Lied::to(&["b"], &[]);
    let before = fs::read(lied.field.stand.path("b")).unwrap();
    let source = lied.field.source.to_str().unwrap();
    let diff = ["diff", source, "b", "--snapshot", &lied.provider];
    let events = lied.field.stand.events(&diff).exits(10);
    has(&events, "the run: ALARM", "taken back");
    assert_eq!(events.count("bytes_differing"), 4096);
    assert!(fs::read(lied.field.stand.path("b")).unwrap() == before);
    lied.assert_taken_back("b");
    lied.sync(&["b"], &[]).exits(0);
    lied.assert_good("b");
}

/// A target whose record is elsewhere is named until a run reaches it, and that run takes its record
/// back before it asks whether it may write.
#[test]
fn a_target_out_of_reach_is_named_and_taken_back_by_the_next_run_that_reaches_it() {
    let there = Path::new("/usr/sbin/sshd").exists() || missing("sshd is not installed");
    if !root_lab() || !there {
        return;
    }
    // The sshd outlives a field that is tried in vain.
    let stand = super::stand::Stand::new();
    let sshd = Sshd::start(&stand, &[]);
    let shell = ["-e", sshd.command.as_str(), "--remote-path", LOCKSTEP];
    let folder = super::stand::Stand::new();
    let far = |name: &str| format!("127.0.0.1:{}", folder.path(name).display());
    let (b, c) = (far("b"), far("c"));
    let lied = Lied::to(&[&b, &c], &shell);
    let (near_b, near_c) = (folder.path("b"), folder.path("c"));
    let (near_b, near_c) = (near_b.to_str().unwrap(), near_c.to_str().unwrap());

    let events = lied
        .sync(&[&b], &[&shell[..], &["--no-delta"]].concat())
        .exits(0);
    has(&events, "the run: ALARM", "taken back");
    has(&events, &format!("{b}: "), "until it is proved anew");
    has(
        &events,
        &format!("the run: {c} may differ"),
        "does not reach it",
    );
    assert!(same(&lied.field.source, Path::new(near_b)));
    assert!(lied.gate(near_b).0);
    assert!(lied.gate(near_c).0, "nobody has reached it");

    let events = lied.sync(&[&b], &shell).exits(0);
    has(
        &events,
        &format!("the run: {c} may differ"),
        "does not reach it",
    );

    // Refused, and taken back all the same.
    let events = lied.sync_unasked(&[&c], &shell).exits(4);
    has(&events, &format!("{c}: "), "until it is proved anew");
    assert_eq!(states(&events, &c), ["inconsistent"]);
    assert_eq!(events.summary()["targets"][0]["state"], "inconsistent");
    lied.assert_taken_back(near_c);
    assert!(!same(&lied.field.source, Path::new(near_c)), "not written");

    let events = lied.sync(&[&c], &shell).exits(0);
    assert!(same(&lied.field.source, Path::new(near_c)));
    assert!(lied.gate(near_c).0);
    let told = warnings(&events);
    assert!(
        !told.iter().any(|line| line.contains("may differ")),
        "{told:#?}"
    );
}

/// What a run owes is written down before anybody is told: a run that is killed as soon as it has
/// caught the lie leaves it to the next one.
#[test]
fn a_run_that_is_killed_when_it_has_caught_a_lie_leaves_the_rest_to_the_next_one() {
    if !root_lab() {
        return;
    }
    let lied = Lied::to(&["b", "c"], &[]);
    let reliance = lied.field.stand.path("state/reliance");
    let owed: Vec<_> = fs::read_dir(&reliance)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|found| found == "json"))
        .collect();
    let before = fs::read(&owed[0]).unwrap();
    lied.sync(&["b"], &["--no-delta"]).exits(0);
    // As if it had been killed after its first step, which is that deltas are not believed any more.
    fs::write(&owed[0], before).unwrap();
    let ledger = lied.field.stand.path("state");
    assert!(ledger.join("distrusted").exists());
    lied.assert_taken_back("c");
    lied.sync(&["b"], &[]).exits(0);
    lied.assert_good("b");
    lied.assert_taken_back("c");
    let left = fs::read_to_string(&owed[0]).unwrap();
    assert!(left.contains("\"rests\":[],\"doubted\":[]"), "{left}");
}
