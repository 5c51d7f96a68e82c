use std::fs;
use std::path::{Path, PathBuf};

use super::{MAX_BYTES, MAX_DAMAGED, MAX_FILES, Queue, QueueError};
use crate::destination::Destination;
use crate::report::{Line, MAX_LINE_BYTES, MAX_NODES, NodeReport, NodeResult, Report, ReportId};

fn to(text: &str) -> Destination {
    Destination::try_from(text.to_owned()).unwrap()
}

fn report(id: &str) -> Report {
    Report::of_test(ReportId::new(id).unwrap(), "prod", "db1", "ops", 5)
}

fn files(dir: &Path, kind: &str) -> Vec<PathBuf> {
    let listed = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = listed
        .filter(|path| path.to_string_lossy().ends_with(kind))
        .collect();
    files.sort();
    files
}

#[test]
fn what_was_put_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state/notifications");
    let mut queue = Queue::open(&path).unwrap();
    let both = [to("mailto:a@b"), to("https://h/x")];
    queue.put(&report("one"), &both, 1000).unwrap();
    let first = queue.waiting().next().unwrap().0.clone();
    let next = queue.put_off(&first, 2000, 0, None).unwrap();
    assert_eq!((next.failed, next.next_unix_ms), (1, 4500));
    drop(queue);

    let mut queue = Queue::open(&path).unwrap();
    let waiting: Vec<_> = queue
        .waiting()
        .map(|(_, to, attempts)| (to.clone(), attempts.failed, attempts.next_unix_ms))
        .collect();
    assert_eq!(
        waiting,
        [(both[0].clone(), 1, 4500), (both[1].clone(), 0, 1000)]
    );
    assert_eq!(queue.report(&first), Some(&report("one")));
    queue.remove(&first);
    drop(queue);
    assert_eq!(Queue::open(&path).unwrap().len(), 1);
}

#[test]
fn one_process_has_it() {
    let dir = tempfile::tempdir().unwrap();
    let _queue = Queue::open(dir.path()).unwrap();
    let second = Queue::open(dir.path());
    assert!(matches!(second, Err(QueueError::Locked { .. })));
}

#[test]
fn half_written_files_go_and_damaged_ones_are_set_aside() {
    let dir = tempfile::tempdir().unwrap();
    let mut queue = Queue::open(dir.path()).unwrap();
    for id in ["a", "b", "c", "d"] {
        queue.put(&report(id), &[to("https://h/x")], 1000).unwrap();
    }
    drop(queue);
    let [a, b, c, d] = files(dir.path(), ".json").try_into().unwrap();
    let flip = |path: &Path| {
        let mut bytes = fs::read(path).unwrap();
        let last = bytes.len() - 9;
        bytes[last] ^= 1;
        fs::write(path, bytes).unwrap();
    };
    flip(&a);
    let cut = fs::read(&b).unwrap();
    fs::write(&b, &cut[..cut.len() / 2]).unwrap();
    fs::write(&c, b"").unwrap();
    fs::write(dir.path().join("x.json.new"), b"lockstep-notif").unwrap();

    let queue = Queue::open(dir.path()).unwrap();
    assert_eq!(queue.len(), 1);
    assert_eq!(files(dir.path(), ".json"), [d]);
    assert_eq!(files(dir.path(), ".damaged").len(), 3);
    assert!(files(dir.path(), ".new").is_empty());
}

#[test]
fn only_some_damaged_files_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    for number in 0..MAX_DAMAGED + 5 {
        fs::write(dir.path().join(format!("{number:03}.json")), b"x").unwrap();
    }
    drop(Queue::open(dir.path()).unwrap());
    let kept = files(dir.path(), ".damaged");
    assert_eq!(kept.len(), MAX_DAMAGED);
    assert!(kept[0].ends_with("005.damaged"), "{kept:?}");
}

#[test]
fn the_oldest_go_when_there_are_too_many() {
    let dir = tempfile::tempdir().unwrap();
    let mut queue = Queue::open(dir.path()).unwrap();
    let many: Vec<Destination> = (0..MAX_FILES)
        .map(|number| to(&format!("https://h/{number}")))
        .collect();
    queue.put(&report("old"), &many, 1000).unwrap();
    queue.put(&report("new"), &many[..3], 2000).unwrap();
    assert_eq!(queue.len(), MAX_FILES);
    assert_eq!(files(dir.path(), ".json").len(), MAX_FILES);
    let oldest = queue.waiting().next().unwrap();
    assert_eq!(oldest.1, &many[3]);
}

#[test]
fn the_oldest_go_when_they_are_too_long() {
    let dir = tempfile::tempdir().unwrap();
    let mut queue = Queue::open(dir.path()).unwrap();
    let long = Line::new(&"x".repeat(2 * MAX_LINE_BYTES));
    let node = NodeReport {
        node: long.clone(),
        result: NodeResult::Failed,
        state: long.clone(),
        bytes_differing: u64::MAX,
        bytes_written: u64::MAX,
        bytes_sent: u64::MAX,
        seconds: f64::INFINITY,
        downtime_seconds: Some(f64::NAN),
        error: Some(long.clone()),
        next: Some(long),
    };
    let largest = Report {
        nodes: vec![node; MAX_NODES + 10],
        ..report("largest")
    };
    for now in 0..40 {
        queue.put(&largest, &[to("https://h/")], now).unwrap();
    }
    let on_disk: u64 = files(dir.path(), ".json")
        .iter()
        .map(|path| path.metadata().unwrap().len())
        .sum();
    assert!(on_disk <= MAX_BYTES && on_disk > MAX_BYTES / 2, "{on_disk}");
    let kept = queue.len();
    drop(queue);
    let queue = Queue::open(dir.path()).unwrap();
    assert_eq!(queue.len(), kept, "even the largest can be read again");
}

#[test]
fn others_cannot_read_it() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("queue");
    let mut queue = Queue::open(&path).unwrap();
    queue.put(&report("a"), &[to("https://h/x")], 1).unwrap();
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o700);
    assert_eq!(mode(&files(&path, ".json")[0]), 0o600);
}

#[test]
fn what_cannot_be_written_is_an_error_and_leaves_nothing_half() {
    let dir = tempfile::tempdir().unwrap();
    let mut queue = Queue::open(dir.path()).unwrap();
    // Stands where the new file would be made.
    let name = format!("{:015}-a-000.json.new", 7);
    fs::create_dir(dir.path().join(name)).unwrap();
    let refused = queue.put(&report("a"), &[to("https://h/x")], 7);
    assert!(matches!(
        refused,
        Err(QueueError::Io {
            action: "write",
            ..
        })
    ));
    assert!(queue.is_empty() && files(dir.path(), ".json").is_empty());
}
