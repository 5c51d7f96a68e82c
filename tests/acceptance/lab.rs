//! Disks, mounts, wires and ssh servers of the tests' own, gone with their guards.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use super::stand::{Stand, is_root, skip, sparse};

/// Set where every lab is there, so that none is left out unnoticed.
const REQUIRE_LABS: &str = "LOCKSTEP_REQUIRE_LABS";

/// Whether this test can make disks, mounts and wires; says why not.
pub(crate) fn root_lab() -> bool {
    is_root() || missing("loop devices, mounts and network namespaces need root")
}

/// A lab that cannot be had: the test does nothing, or fails where labs are required.
#[track_caller]
pub(crate) fn missing(why: &str) -> bool {
    assert!(std::env::var_os(REQUIRE_LABS).is_none(), "{why}");
    skip(why);
    false
}

fn tool(path: &str) -> Command {
    Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join(path))
}

/// Runs to success; returns what was printed.
#[track_caller]
fn printed(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A script of this stand that can be run.
pub(crate) fn script(stand: &Stand, name: &str, lines: &str) -> PathBuf {
    let path = stand.file(name, format!("#!/bin/sh\n{lines}\n").as_bytes());
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// A loop device over a file of a stand.
pub(crate) struct Disk {
    device: PathBuf,
}

impl Disk {
    /// Over a file that is there.
    #[track_caller]
    pub(crate) fn over(file: &Path) -> Disk {
        let name = printed(Command::new("losetup").args(["--find", "--show"]).arg(file));
        Disk {
            device: PathBuf::from(name),
        }
    }

    /// A blank one of so many bytes.
    #[track_caller]
    pub(crate) fn blank(stand: &Stand, name: &str, size: u64) -> Disk {
        sparse(&stand.path(name), size);
        Disk::over(&stand.path(name))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.device
    }

    pub(crate) fn name(&self) -> &str {
        self.device.to_str().unwrap()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("-d").arg(&self.device).status();
    }
}

/// A mounted file system.
pub(crate) struct Mount {
    folder: PathBuf,
}

impl Mount {
    /// Nothing but memory, of so many bytes.
    #[track_caller]
    pub(crate) fn memory(stand: &Stand, name: &str, size: u64) -> Mount {
        let options = format!("size={size}");
        let arguments = ["-t", "tmpfs", "-o", &options, "tmpfs"];
        Mount::at(stand, name, Command::new("mount").args(arguments))
    }

    /// A new ext4 on a disk.
    #[track_caller]
    pub(crate) fn ext4(stand: &Stand, name: &str, disk: &Disk) -> Mount {
        printed(Command::new("mkfs.ext4").arg("-q").arg(disk.path()));
        Mount::at(stand, name, Command::new("mount").arg(disk.path()))
    }

    /// A new file system of this kind (`xfs`, `btrfs`), on a disk that goes with it.
    #[track_caller]
    pub(crate) fn with_reflinks(stand: &Stand, kind: &str, size: u64) -> (Disk, Mount) {
        let disk = Disk::blank(stand, &format!("{kind}.disk"), size);
        printed(
            Command::new(format!("mkfs.{kind}"))
                .arg("-q")
                .arg(disk.path()),
        );
        let mount = Mount::at(stand, kind, Command::new("mount").arg(disk.path()));
        (disk, mount)
    }

    /// What is on a disk already.
    #[track_caller]
    pub(crate) fn of(stand: &Stand, name: &str, disk: &Disk) -> Mount {
        Mount::at(stand, name, Command::new("mount").arg(disk.path()))
    }

    #[track_caller]
    fn at(stand: &Stand, name: &str, command: &mut Command) -> Mount {
        let folder = stand.path(name);
        fs::create_dir(&folder).unwrap();
        printed(command.arg(&folder));
        Mount { folder }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.folder).status();
    }
}

/// A private sshd, on this machine or at the far end of a wire.
pub(crate) struct Sshd {
    folder: PathBuf,
    /// What reaches it, for `-e`.
    pub(crate) command: String,
}

impl Sshd {
    /// On 127.0.0.1, with these further options of sshd_config(5).
    #[track_caller]
    pub(crate) fn start(stand: &Stand, options: &[&str]) -> Sshd {
        let folder = stand.path("sshd");
        let mut command = tool("tools/sshd");
        command.arg("start").arg(&folder);
        for option in options {
            command.args(["-o", option]);
        }
        let command = printed(&mut command);
        Sshd { folder, command }
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = tool("tools/sshd").arg("stop").arg(&self.folder).status();
    }
}

/// Two hosts with nothing but a wire between them: `tests/lab/netns`.
pub(crate) struct Wire {
    name: String,
}

/// The far host's address.
pub(crate) const FAR: &str = "10.77.0.2";

impl Wire {
    #[track_caller]
    pub(crate) fn up() -> Wire {
        static WIRES: AtomicU32 = AtomicU32::new(0);
        let number = WIRES.fetch_add(1, Ordering::Relaxed);
        let wire = Wire {
            name: format!("lockstep-{}-{number}", std::process::id()),
        };
        wire.lab("up", &[]);
        wire
    }

    /// A verb of `tests/lab/netns`.
    #[track_caller]
    pub(crate) fn lab(&self, verb: &str, arguments: &[&str]) -> String {
        let mut command = tool("tests/lab/netns");
        printed(command.args([verb, &self.name]).args(arguments))
    }

    /// An sshd at the far end.
    #[track_caller]
    pub(crate) fn sshd(&self, stand: &Stand) -> Sshd {
        let folder = stand.path("sshd");
        let command = self.lab("sshd", &[folder.to_str().unwrap()]);
        Sshd { folder, command }
    }

    /// The words that make a command run at the far end.
    pub(crate) fn far_prefix(&self) -> String {
        format!("nsenter --net=/run/netns/{}-b --", self.name)
    }

    /// The same command at the near end.
    pub(crate) fn near(&self, command: &Command) -> Command {
        let mut inside = Command::new("nsenter");
        inside
            .arg(format!("--net=/run/netns/{}-a", self.name))
            .arg("--")
            .arg(command.get_program())
            .args(command.get_args())
            .current_dir(command.get_current_dir().unwrap());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => inside.env(name, value),
                None => inside.env_remove(name),
            };
        }
        inside
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        let _ = tool("tests/lab/netns").args(["down", &self.name]).status();
    }
}
