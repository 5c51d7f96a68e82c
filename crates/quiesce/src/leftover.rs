//! Hooks at work, written down for the case that whoever runs them is killed: a hook must not go on
//! beside the one that is run in its place, or on a volume that is being overwritten.
//!
//! | file of the state directory | content |
//! | --- | --- |
//! | `hooks/TOKEN.json` | line 1: an [`Entry`]; line 2: the process; flock'd by who runs the hook for as long as it lives |
//! | `hooks/lock` | flock: held while entries are made or looked at; never removed |
//!
//! # Recipe
//!
//! 1. Under the folder's lock make the entry, and lock it. The hook gets its token in its environment.
//! 2. Start the hook; write down its number and when it began, which together are no other process's.
//! 3. When it has ended, remove the entry.
//!
//! Who is killed between start and 2 leaves an entry without a process: then the leader of a process
//! group, not of a session, that has the token in its environment is the hook. What the hook started
//! for good, a service say, is none of that, and is left alone.
//!
//! Nothing is flushed: no process outlives the machine, so an entry of an earlier boot is empty talk.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use serde::{Deserialize, Serialize};

use crate::error::QuiesceError;
use crate::journal::{MAX_ENTRIES, boot_id, failed, files, lock_folder};
use crate::socket::timespec;

/// The variable that tells a hook from every other process.
pub(crate) const TOKEN: &str = "LOCKSTEP_HOOK";

const FOLDER: &str = "hooks";
const FORMAT: u32 = 1;
const MAX_ENTRY_BYTES: u64 = 64 * 1024;
/// How much of a process's environment is searched.
const MAX_ENVIRONMENT: u64 = 4 << 20;
/// How long a killed process may take to be gone.
const GONE_WITHIN: Duration = Duration::from_secs(5);

/// Where it is written down which hooks run, and whose they are.
#[derive(Clone, Copy, Debug)]
pub struct HookLog<'a> {
    /// The state directory.
    pub state_dir: &'a Path,
    /// What the hook belongs to: a volume's name, say.
    pub of: &'a str,
}

/// A hook of somebody who is gone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Leftover {
    /// What it belongs to.
    pub of: String,
    /// Its name.
    pub name: String,
    /// Its process.
    pub process: u32,
    /// It was killed and is gone; else it is still there, and what it belongs to must be let alone.
    pub is_gone: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    v: u32,
    boot: String,
    token: String,
    of: String,
    name: String,
}

/// A process that cannot be taken for another one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Process {
    number: u32,
    /// Clock ticks since the boot.
    started: u64,
}

/// The entry of a hook that we run; removed when dropped.
pub(crate) struct Noted {
    path: PathBuf,
    /// Holds the lock.
    file: File,
    token: String,
}

impl Noted {
    pub(crate) fn begin(log: HookLog<'_>, name: &str) -> io::Result<Noted> {
        let folder = log.state_dir.join(FOLDER);
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder)?;
        let token = fs::read_to_string("/proc/sys/kernel/random/uuid")?;
        let token = token.trim().to_owned();
        let entry = Entry {
            v: FORMAT,
            boot: boot_id()?,
            token: token.clone(),
            of: log.of.to_owned(),
            name: name.to_owned(),
        };
        let _lock = lock_folder(&folder).map_err(io::Error::other)?;
        let path = folder.join(format!("{token}.json"));
        let mut options = OpenOptions::new();
        let mut file = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        file.try_lock()?;
        let noted = Noted {
            path,
            file: file.try_clone()?,
            token,
        };
        write_line(&mut file, &entry)?;
        Ok(noted)
    }

    /// What the hook is to have in its environment.
    pub(crate) fn token(&self) -> &str {
        &self.token
    }

    /// The hook is this process, which is not reaped yet.
    pub(crate) fn is(&mut self, number: u32) -> io::Result<()> {
        let gone = || io::Error::new(io::ErrorKind::NotFound, "its process is not there");
        let stat = Stat::of(number).ok_or_else(gone)?;
        let started = stat.started;
        write_line(&mut self.file, &Process { number, started })
    }
}

impl Drop for Noted {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "an entry of a hook stays behind");
        }
    }
}

fn write_line<T: Serialize>(file: &mut File, what: &T) -> io::Result<()> {
    let mut line = serde_json::to_vec(what)?;
    line.push(b'\n');
    file.write_all(&line)
}

/// Kills the hooks of those who are gone, with their process groups, and waits until they are.
///
/// # Errors
/// [`QuiesceError::Journal`] if it cannot be known whether there are any.
pub fn end_leftovers(state_dir: &Path) -> Result<Vec<Leftover>, QuiesceError> {
    let mut ended = Vec::new();
    for (path, entry, process) in leftovers(state_dir)? {
        let Some(process) = process else {
            remove(&path)?;
            continue;
        };
        let is_gone = kill(process);
        if is_gone {
            remove(&path)?;
        }
        ended.push(Leftover {
            of: entry.of,
            name: entry.name,
            process: process.number,
            is_gone,
        });
    }
    Ok(ended)
}

/// A hook of somebody who is gone that could not be killed, and belongs to one of these.
///
/// # Errors
/// [`QuiesceError::Journal`] if that cannot be known.
pub fn leftover_of(state_dir: &Path, these: &[&str]) -> Result<Option<Leftover>, QuiesceError> {
    let all = leftovers(state_dir)?;
    let found = all.into_iter().find_map(|(_, entry, process)| {
        these.contains(&&*entry.of).then_some(())?;
        Some(Leftover {
            of: entry.of,
            name: entry.name,
            process: process?.number,
            is_gone: false,
        })
    });
    Ok(found)
}

/// The entries that nobody holds, and the processes that are there still.
fn leftovers(state_dir: &Path) -> Result<Vec<(PathBuf, Entry, Option<Process>)>, QuiesceError> {
    let folder = state_dir.join(FOLDER);
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let _lock = lock_folder(&folder)?;
    let boot = boot_id().map_err(failed("read the boot id for", state_dir))?;
    let mut found = Vec::new();
    for path in files(&folder, "json")?.into_iter().take(MAX_ENTRIES) {
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(failed("open", &path)(error)),
        };
        match file.try_lock() {
            Ok(()) if path.exists() => {}
            // Its hook has just ended.
            Ok(()) => continue,
            // Its runner lives.
            Err(TryLockError::WouldBlock) => continue,
            Err(TryLockError::Error(error)) => return Err(failed("lock", &path)(error)),
        }
        match read(&file, &boot).map_err(failed("read", &path))? {
            Some((entry, process)) => found.push((path, entry, process)),
            // Nothing was started by it, or by another boot.
            None => remove(&path)?,
        }
    }
    Ok(found)
}

/// Somebody else may have dealt with it at the same time.
fn remove(path: &Path) -> Result<(), QuiesceError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(error)),
        _ => Ok(()),
    }
}

/// What an entry says, and its process if that is there; none if it says nothing of this boot.
fn read(file: &File, boot: &str) -> io::Result<Option<(Entry, Option<Process>)>> {
    let mut text = String::new();
    if file
        .take(MAX_ENTRY_BYTES)
        .read_to_string(&mut text)
        .is_err()
    {
        return Ok(None);
    }
    let mut lines = text
        .split_inclusive('\n')
        .filter(|line| line.ends_with('\n'));
    let entry = lines
        .next()
        .and_then(|line| serde_json::from_str(line).ok());
    let Some(entry) = entry.filter(|entry: &Entry| entry.v == FORMAT && entry.boot == boot) else {
        return Ok(None);
    };
    let noted = lines
        .next()
        .and_then(|line| serde_json::from_str(line).ok());
    let process = match noted {
        Some(process) => Some(process).filter(is_alive),
        None => find(&entry.token)?,
    };
    Ok(Some((entry, process)))
}

fn is_alive(process: &Process) -> bool {
    Stat::of(process.number).is_some_and(|stat| stat.started == process.started && !stat.is_over)
}

/// The leader of a process group, not of a session, that has a token in its environment.
fn find(token: &str) -> io::Result<Option<Process>> {
    let wanted = format!("{TOKEN}={token}");
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(number) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // Whoever ends meanwhile is not there.
        let Some(stat) = Stat::of(number).filter(|stat| !stat.is_over && stat.leads_group(number))
        else {
            continue;
        };
        let mut environment = Vec::new();
        let read = File::open(format!("/proc/{number}/environ"))
            .and_then(|file| file.take(MAX_ENVIRONMENT).read_to_end(&mut environment));
        let mut variables = environment.split(|byte| *byte == 0);
        if read.is_ok() && variables.any(|variable| variable == wanted.as_bytes()) {
            let started = stat.started;
            return Ok(Some(Process { number, started }));
        }
    }
    Ok(None)
}

/// Whether it is gone.
fn kill(process: Process) -> bool {
    let Some(group) = i32::try_from(process.number).ok().and_then(Pid::from_raw) else {
        return true;
    };
    let handle = match pidfd_open(group, PidfdFlags::empty()) {
        Ok(handle) => handle,
        Err(_) => return !is_alive(&process),
    };
    // What the handle stands for is it, or has its number by now.
    if !is_alive(&process) {
        return true;
    }
    if let Err(error) = kill_process_group(group, Signal::KILL) {
        tracing::warn!(process = process.number, %error, "a hook cannot be killed");
    }
    let deadline = Instant::now() + GONE_WITHIN;
    while is_alive(&process) {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        let mut fds = [PollFd::from_borrowed_fd(handle.as_fd(), PollFlags::IN)];
        // An interrupted wait is only a shorter one.
        let _ = poll(
            &mut fds,
            Some(&timespec(left.min(Duration::from_millis(20)))),
        );
    }
    true
}

/// What the kernel says of a process.
#[derive(PartialEq, Eq, Debug)]
struct Stat {
    /// It has ended, and nobody has asked how.
    is_over: bool,
    group: u32,
    session: u32,
    started: u64,
}

impl Stat {
    fn of(number: u32) -> Option<Stat> {
        Stat::parse(&fs::read(format!("/proc/{number}/stat")).ok()?)
    }

    /// The second field is a name in brackets, which may hold anything.
    fn parse(line: &[u8]) -> Option<Stat> {
        let end = line.iter().rposition(|byte| *byte == b')')?;
        let rest = std::str::from_utf8(line.get(end + 1..)?).ok()?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        // The third field of proc(5) is the first one here.
        let field = |number: usize| fields.get(number - 3).copied();
        Some(Stat {
            is_over: matches!(field(3)?, "Z" | "X" | "x"),
            group: field(5)?.parse().ok()?,
            session: field(6)?.parse().ok()?,
            started: field(22)?.parse().ok()?,
        })
    }

    fn leads_group(&self, number: u32) -> bool {
        self.group == number && self.session != number
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::CommandExt;
    use std::process::{Child, Command, Stdio};

    const OF: &str = "data";

    fn log(dir: &Path) -> HookLog<'_> {
        HookLog {
            state_dir: dir,
            of: OF,
        }
    }

    /// A hook that would run for a minute, and a process of its own in its group.
    fn hook(token: &str) -> Child {
        Command::new("sh")
            .args(["-c", "sleep 60 & echo $!; wait"])
            .env(TOKEN, token)
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap()
    }

    /// The number that a hook printed: it has started its own process by then.
    fn inner(hook: &mut Child) -> u32 {
        let mut text = String::new();
        let mut byte = [0];
        let out = hook.stdout.as_mut().unwrap();
        while out.read(&mut byte).unwrap() == 1 && byte[0] != b'\n' {
            text.push(char::from(byte[0]));
        }
        text.parse().unwrap()
    }

    /// As if the process that runs the hook were killed: the entry stays, and its lock goes.
    fn orphan(noted: Noted) {
        let noted = std::mem::ManuallyDrop::new(noted);
        noted.file.unlock().unwrap();
    }

    fn reaped(mut hook: Child) -> bool {
        let deadline = Instant::now() + GONE_WITHIN;
        while Instant::now() < deadline {
            if hook.try_wait().unwrap().is_some() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        false
    }

    #[test]
    fn a_hook_belongs_to_its_runner_until_that_is_gone_and_is_killed_with_its_group_then() {
        for knows_process in [true, false] {
            let dir = tempfile::tempdir().unwrap();
            let mut noted = Noted::begin(log(dir.path()), "stop").unwrap();
            let mut child = hook(noted.token());
            let inner = inner(&mut child);
            if knows_process {
                noted.is(child.id()).unwrap();
            }
            assert_eq!(end_leftovers(dir.path()).unwrap(), [], "its runner lives");
            assert_eq!(leftover_of(dir.path(), &[OF]).unwrap(), None);
            orphan(noted);
            let found = leftover_of(dir.path(), &[OF]).unwrap().unwrap();
            assert_eq!((found.process, found.name.as_str()), (child.id(), "stop"));
            assert_eq!(leftover_of(dir.path(), &["other"]).unwrap(), None);
            let ended = end_leftovers(dir.path()).unwrap();
            assert_eq!(ended.len(), 1);
            assert!(ended[0].is_gone && ended[0].process == child.id());
            assert!(reaped(child));
            let is_there = || Stat::of(inner).is_some_and(|stat| !stat.is_over);
            let deadline = Instant::now() + GONE_WITHIN;
            while is_there() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(5));
            }
            assert!(!is_there(), "what it had started goes with it");
            assert_eq!(end_leftovers(dir.path()).unwrap(), []);
        }
    }

    #[test]
    fn another_process_with_its_number_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let mut noted = Noted::begin(log(dir.path()), "stop").unwrap();
        let mut other = hook("another token");
        inner(&mut other);
        let started = Stat::of(other.id()).unwrap().started - 1;
        let number = other.id();
        write_line(&mut noted.file, &Process { number, started }).unwrap();
        orphan(noted);
        assert_eq!(end_leftovers(dir.path()).unwrap(), []);
        assert_eq!(other.try_wait().unwrap(), None, "it goes on");
        let group = Pid::from_child(&other);
        kill_process_group(group, Signal::KILL).unwrap();
        assert!(reaped(other));
    }

    #[test]
    fn a_service_that_a_hook_started_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let noted = Noted::begin(log(dir.path()), "start").unwrap();
        // It leads a session, as what daemonises does.
        let mut service = Command::new("setsid")
            .args(["sleep", "60"])
            .env(TOKEN, noted.token())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + GONE_WITHIN;
        let leads = |number| Stat::of(number).is_some_and(|stat| stat.session == number);
        while !leads(service.id()) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        orphan(noted);
        assert_eq!(end_leftovers(dir.path()).unwrap(), []);
        assert_eq!(service.try_wait().unwrap(), None);
        service.kill().unwrap();
        service.wait().unwrap();
    }

    #[test]
    fn an_entry_that_was_not_written_to_its_end_or_is_of_another_boot_stands_for_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join(FOLDER);
        fs::create_dir(&folder).unwrap();
        let foreign = r#"{"v":1,"boot":"x","token":"t","of":"data","name":"stop"}"#;
        for text in [
            "",
            "{",
            &format!("{foreign}\n{{\"number\":1,\"started\":1}}\n"),
        ] {
            fs::write(folder.join("t.json"), text).unwrap();
            assert_eq!(end_leftovers(dir.path()).unwrap(), []);
            assert!(!folder.join("t.json").exists());
        }
    }

    #[test]
    fn a_name_with_brackets_and_spaces_is_no_field() {
        let line = b"77 (a) b) 1 2) S 1 77 5 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4242 1 1\n";
        let stat = Stat::parse(line).unwrap();
        assert_eq!((stat.group, stat.session, stat.started), (77, 5, 4242));
        assert!(stat.leads_group(77) && !stat.is_over);
        assert_eq!(Stat::parse(b"77 (a"), None);
        assert_eq!(Stat::parse(b"77 (a) S 1"), None);
    }
}
