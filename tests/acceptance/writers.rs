//! Sources that somebody writes to while they are read.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use super::judge::same;
use super::stand::{Stand, volume};

const SIZE: usize = 32 << 20;

/// A thread that has the file open and never stops changing it.
struct Writer {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    fn start(path: &Path) -> Writer {
        let file = OpenOptions::new().write(true).open(path).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut number = 0_u64;
            while !stopped.load(Ordering::Relaxed) {
                number += 1;
                let page = number * 7919 % (SIZE as u64 / 4096);
                file.write_all_at(&number.to_le_bytes(), page * 4096)
                    .unwrap();
                std::thread::yield_now();
            }
        });
        Writer {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[test]
fn a_source_being_written_is_refused() {
    let stand = Stand::new();
    let a = stand.file("a", &volume(SIZE, 1));
    let writer = Writer::start(&a);
    for snapshot in ["auto", "exclusive"] {
        let events = stand
            .events(&["sync", "a", "b", "--yes", "--snapshot", snapshot])
            .exits(3);
        assert_eq!(events.summary()["changed"], false);
    }
    drop(writer);
    assert!(!stand.path("b").exists());
    stand.run(&["gate", "b"]).exits(10);
}

#[test]
fn a_copy_of_a_source_being_written_is_fuzzy_and_never_consistent() {
    let stand = Stand::new();
    let a = stand.file("a", &volume(SIZE, 1));
    let writer = Writer::start(&a);
    let events = stand
        .events(&["sync", "a", "b", "--yes", "--snapshot", "none"])
        .exits(9);
    drop(writer);
    assert_eq!(events.summary()["consistency"], "fuzzy");
    assert_ne!(events.summary()["targets"][0]["state"], "consistent");
    stand.run(&["gate", "b"]).exits(10);
    // Left in peace, the same command makes it good.
    let command = ["sync", "a", "b", "--yes", "--snapshot", "none"];
    stand.events(&command).exits(0);
    assert!(same(&a, &stand.path("b")));
    stand.run(&["gate", "b"]).exits(0);
}

#[test]
fn without_a_snapshot_an_unchanged_source_is_proved() {
    let stand = Stand::new();
    let a = stand.file("a", &volume(SIZE, 1));
    let events = stand
        .events(&["sync", "a", "b", "--snapshot", "none"])
        .exits(0);
    assert_eq!(events.summary()["targets"][0]["state"], "consistent");
    assert!(same(&a, &stand.path("b")));
    stand.run(&["gate", "b"]).exits(0);
}
