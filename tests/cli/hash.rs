//! `hash` prints what `b3sum` prints.

use std::process::Command;

use super::stand::{Stand, skip, volume};

#[test]
fn roots_are_those_of_b3sum() {
    let stand = Stand::new();
    let sizes = [
        0,
        1,
        1023,
        1024,
        1025,
        65_535,
        65_536,
        65_537,
        (1 << 20) - 1,
        1 << 20,
        (1 << 20) + 1,
        5_000_000,
    ];
    let names: Vec<String> = sizes.iter().map(|size| format!("v{size}")).collect();
    for (size, name) in sizes.iter().zip(&names) {
        stand.file(name, &volume(*size, 5));
    }
    let mut arguments = vec!["hash".to_owned()];
    arguments.extend(names.clone());
    let ours = stand.run(&arguments).exits(0).stdout;
    let mut command = Command::new("b3sum");
    let Ok(theirs) = command.args(&names).current_dir(stand.folder()).output() else {
        return skip("b3sum is not installed");
    };
    assert_eq!(ours, String::from_utf8(theirs.stdout).unwrap());
}

#[test]
fn names_that_would_break_the_line_are_escaped_as_by_b3sum() {
    let stand = Stand::new();
    let names = ["a b", "back\\slash", "new\nline", "größe"];
    for name in names {
        stand.file(name, b"x");
    }
    let mut arguments = vec!["hash"];
    arguments.extend(names);
    let ours = stand.run(&arguments).exits(0).stdout;
    let mut command = Command::new("b3sum");
    let Ok(theirs) = command.args(names).current_dir(stand.folder()).output() else {
        return skip("b3sum is not installed");
    };
    assert_eq!(ours, String::from_utf8(theirs.stdout).unwrap());
}

#[test]
fn bad_paths_are_told_and_the_rest_is_hashed() {
    let stand = Stand::new();
    stand.file("a", b"a");
    stand.file("b", b"b");
    std::fs::create_dir(stand.path("folder")).unwrap();
    let ran = stand
        .run(&["hash", "a", "missing", "folder", "/dev/null", "b"])
        .exits(2);
    let names: Vec<_> = ran.stdout.lines().map(|line| &line[66..]).collect();
    assert_eq!(names, ["a", "b"]);
    for bad in ["missing", "folder", "/dev/null"] {
        assert!(ran.stderr.contains(bad), "{}", ran.stderr);
    }
}

#[test]
fn events_have_a_line_a_path_and_a_summary() {
    let stand = Stand::new();
    stand.file("a", b"a");
    stand.file("b", b"bb");
    let events = stand.events(&["hash", "a", "b"]).exits(0);
    let hashed: Vec<_> = events
        .of_type("hashed")
        .iter()
        .map(|event| event["path"].clone())
        .collect();
    assert_eq!(hashed, ["a", "b"]);
    assert_eq!(events.summary()["size"], 3);
    let one = stand.events(&["hash", "a"]).exits(0);
    assert_eq!(one.summary()["root"], one.lines[0]["root"]);
    let none = stand.events(&["hash", "missing"]).exits(2);
    assert_eq!(none.of_type("error")[0]["target"], "missing");
    assert!(none.summary()["root"].is_null());
}
