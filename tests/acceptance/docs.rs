//! Every command that the documentation shows with a prompt works as it is shown.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::stand::Stand;

/// Where a block of commands for a terminal begins.
const FENCE: &str = "```console";
/// The demo's least size: it is shown here, not measured.
const DEMO_SIZE: &str = "32M";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Documents with commands in them.
fn documents() -> Vec<PathBuf> {
    let in_docs = fs::read_dir(root().join("docs"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"));
    std::iter::once(root().join("README.md"))
        .chain(in_docs)
        .collect()
}

/// The commands of a document's console blocks, without their prompts and without what they print.
#[track_caller]
fn commands(document: &Path) -> Vec<String> {
    let text = fs::read_to_string(document).unwrap();
    let mut lines = text.lines();
    let mut found = Vec::new();
    while lines.any(|line| line == FENCE) {
        let block: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
        let shown = block.iter().filter_map(|line| line.strip_prefix("$ "));
        let first = block.first().copied().unwrap_or_default();
        assert!(
            first.starts_with("$ "),
            "{}: `{first}` has no prompt",
            document.display()
        );
        found.extend(shown.map(str::to_owned));
    }
    found
}

/// Commands that are known, and what proves each.
fn proof(command: &str) -> Option<fn()> {
    match command {
        "cargo run --release --locked -- demo" => Some(the_demo_runs),
        "tools/test" => Some(ci_runs_tools_test),
        _ => None,
    }
}

#[test]
fn every_command_shown_works() {
    let mut shown: Vec<(PathBuf, String)> = documents()
        .into_iter()
        .flat_map(|path| commands(&path).into_iter().map(move |c| (path.clone(), c)))
        .collect();
    assert!(
        shown.iter().any(|(path, _)| path.ends_with("README.md")),
        "the README shows how to begin"
    );
    shown.sort_by(|a, b| a.1.cmp(&b.1));
    shown.dedup_by(|a, b| a.1 == b.1);
    for (document, command) in shown {
        let Some(proof) = proof(&command) else {
            panic!(
                "{} shows `{command}`, which no test runs",
                document.display()
            );
        };
        proof();
    }
}

/// The program is the one that `cargo run --release` would start.
fn the_demo_runs() {
    let stand = Stand::new();
    let ran = stand.run(&["demo", "--size", DEMO_SIZE]).exits(0);
    assert!(
        ran.stdout.contains("root ") || ran.stderr.contains("lockstep"),
        "{}{}",
        ran.stdout,
        ran.stderr
    );
    assert!(root().join("Cargo.lock").exists(), "--locked needs one");
}

/// It would run this test again.
fn ci_runs_tools_test() {
    let mode = root().join("tools/test").metadata().unwrap().permissions();
    assert_ne!(mode.mode() & 0o111, 0, "tools/test cannot be executed");
    let ci = fs::read_to_string(root().join(".ci/run")).unwrap();
    assert!(
        ci.lines().any(|line| line.trim() == "tools/test"),
        ".ci/run does not call tools/test"
    );
}
