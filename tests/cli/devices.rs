//! Block devices as sources and targets, on loop devices. Root only.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::stand::{Mounted, Stand, is_root, skip, sparse, volume};

/// A loop device over a file, gone with its guard.
struct Loop(PathBuf);

impl Loop {
    fn over(file: &Path) -> Option<Loop> {
        let output = Command::new("losetup")
            .args(["--find", "--show"])
            .arg(file)
            .output()
            .ok()?;
        let name = String::from_utf8(output.stdout).ok()?;
        output
            .status
            .success()
            .then(|| Loop(PathBuf::from(name.trim())))
    }

    fn name(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("-d").arg(&self.0).status();
    }
}

fn device(stand: &Stand, name: &str, size: u64) -> Option<Loop> {
    if !is_root() {
        return None;
    }
    sparse(&stand.path(name), size);
    Loop::over(&stand.path(name))
}

const SIZE: u64 = (1 << 20) + 512;

#[test]
fn a_device_is_made_equal_and_read_back() {
    let stand = Stand::new();
    let bytes = volume(SIZE as usize, 1);
    stand.file("a", &bytes);
    let Some(target) = device(&stand, "disk", SIZE) else {
        return skip("loop devices need root");
    };
    stand
        .events(&["sync", "a", target.name(), "--yes"])
        .exits(0);
    stand.run(&["gate", target.name()]).exits(0);
    let hash = stand.run(&["hash", "a", target.name()]).exits(0).stdout;
    let roots: Vec<_> = hash.lines().map(|line| &line[..64]).collect();
    assert_eq!(roots[0], roots[1]);
    stand.events(&["sync", target.name(), "copy"]).exits(0);
    assert_eq!(stand.read("copy"), bytes);
}

#[test]
fn a_device_of_another_size_is_refused() {
    let stand = Stand::new();
    stand.file("a", &volume(SIZE as usize, 1));
    let (Some(small), Some(large)) = (
        device(&stand, "small", SIZE - 512),
        device(&stand, "large", SIZE + 4096),
    ) else {
        return skip("loop devices need root");
    };
    stand.events(&["sync", "a", small.name(), "--yes"]).exits(7);
    let events = stand.events(&["sync", "a", large.name(), "--yes"]).exits(7);
    let hint = events.summary()["targets"][0]["error"]["hint"].to_string();
    assert!(hint.contains("--allow-larger-target"), "{hint}");
    assert!(stand.read("large").iter().all(|byte| *byte == 0));
    let arguments = ["sync", "a", large.name(), "--yes", "--allow-larger-target"];
    stand.events(&arguments).exits(0);
}

#[test]
fn the_file_behind_a_loop_device_is_in_use() {
    let stand = Stand::new();
    stand.file("a", &volume(SIZE as usize, 1));
    let Some(held) = device(&stand, "disk", SIZE) else {
        return skip("loop devices need root");
    };
    let events = stand.events(&["sync", "a", "disk", "--yes"]).exits(7);
    let message = events.summary()["targets"][0]["error"]["message"].to_string();
    assert!(message.contains(held.name()), "{message}");
    assert!(stand.read("disk").iter().all(|byte| *byte == 0));
    stand
        .events(&["sync", "disk", held.name(), "--yes", "--snapshot", "none"])
        .exits(7);
}

#[test]
fn a_mounted_device_is_in_use() {
    let stand = Stand::new();
    stand.file("a", &volume(8 << 20, 1));
    let Some(disk) = device(&stand, "disk", 8 << 20) else {
        return skip("loop devices need root");
    };
    std::fs::create_dir(stand.path("mnt")).unwrap();
    let done = |command: &mut Command| command.output().is_ok_and(|output| output.status.success());
    let made = done(Command::new("mkfs.ext4").arg("-q").arg(&disk.0));
    let mounted = Mounted::at(&stand.path("mnt"), &[disk.name()]);
    if !made || mounted.is_none() {
        return skip("no file system can be made and mounted here");
    }
    let events = stand.events(&["sync", "a", disk.name(), "--yes"]).exits(7);
    let message = events.summary()["targets"][0]["error"]["message"].to_string();
    assert!(message.contains("mnt"), "it says where: {message}");
}
