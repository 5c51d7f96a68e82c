//! The private keys of a state directory.
//!
//! | file | content |
//! | --- | --- |
//! | `node.key` | the key that is used, mode 0600; made on first use |
//! | `node.key.next` | the key that will be used; only while rotating |
//! | `node.key.lock` | flock: held while any of these is made, renamed or removed |
//! | `*.new` | a key being made; whoever makes the next one replaces it |
//!
//! A key gets its name by a rename once it is whole and flushed, and the folder is flushed before
//! its public half is told to anybody. Rotation ends by one rename over `node.key`: at every moment
//! the file holds one of the two keys.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::OFlags;

use super::private::{KeyRefused, PrivateKey};

const CURRENT: &str = "node.key";
const NEXT: &str = "node.key.next";
const LOCK: &str = "node.key.lock";
/// Longest file that is read as a key.
const MAX_FILE_BYTES: u64 = 4096;
/// Bits of a mode that let others read or change a file.
const OTHERS: u32 = 0o077;
/// Longest wait for another process that makes a key.
const MAX_WAIT: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(5);

/// The keys of a state directory.
#[derive(Clone, Debug)]
pub struct KeyStore {
    dir: PathBuf,
}

/// The keys that a node or operator has now.
#[derive(Clone, Debug)]
pub struct NodeKeys {
    /// The one that is used.
    pub current: PrivateKey,
    /// The one that will be, while rotating.
    pub next: Option<PrivateKey>,
}

/// How a rotation was ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rotation {
    /// The next key is used from now on; the earlier one is gone.
    Finish,
    /// The next key is gone; the earlier one is used on.
    Cancel,
}

/// Why keys could not be read or made.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// A file could not be used.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Others than its owner can read or change the private key.
    #[error("the private key {} has mode {mode:04o}: others can read or change it", path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its mode's permissions.
        mode: u32,
    },
    /// The file holds no key.
    #[error("{} holds no private key of this format", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// Another process holds the lock.
    #[error("{} stays locked by another process", path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// No rotation was begun.
    #[error("no rotation was begun in {}", dir.display())]
    NotRotating {
        /// The state directory.
        dir: PathBuf,
    },
    /// The library refused.
    #[error(transparent)]
    Refused(#[from] KeyRefused),
}

impl KeyError {
    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            Self::Io { .. } => {
                "run it as the user who owns the state directory, or name another with --state-dir"
                    .to_owned()
            }
            Self::Exposed { path, .. } => format!(
                "`chmod 600 {}`; if somebody may have read it, rotate it with `lockstep node rotate-key`",
                path.display()
            ),
            Self::Damaged { path } => format!(
                "restore {} from a backup, or move it away: then `lockstep node show` makes a new key, which the cluster file has to name",
                path.display()
            ),
            Self::Locked { .. } => "wait for the other command to end".to_owned(),
            Self::NotRotating { .. } => "begin with `lockstep node rotate-key`".to_owned(),
            Self::Refused(_) => "see whether the system's source of randomness works".to_owned(),
        }
    }
}

impl KeyStore {
    /// The keys of the state directory `dir`, which need not exist.
    #[must_use]
    pub fn at(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
        }
    }

    /// The keys there, if there is any; makes nothing.
    ///
    /// # Errors
    /// If a key is there and cannot be used.
    pub fn look(&self) -> Result<Option<NodeKeys>, KeyError> {
        let Some(current) = read(&self.dir.join(CURRENT))? else {
            return Ok(None);
        };
        let next = read(&self.dir.join(NEXT))?;
        Ok(Some(NodeKeys { current, next }))
    }

    /// The keys there; the first one is made if there is none.
    ///
    /// # Errors
    /// If a key is there and cannot be used, or none can be made.
    pub fn open(&self) -> Result<NodeKeys, KeyError> {
        if let Some(keys) = self.look()? {
            return Ok(keys);
        }
        make_folder(&self.dir)?;
        let _lock = self.lock()?;
        if let Some(keys) = self.look()? {
            return Ok(keys);
        }
        let current = make(&self.dir.join(CURRENT))?;
        Ok(NodeKeys {
            current,
            next: None,
        })
    }

    /// Makes the key that will follow the one in use; does nothing if there is one already.
    ///
    /// # Errors
    /// If a key is there and cannot be used, or none can be made.
    pub fn begin_rotation(&self) -> Result<NodeKeys, KeyError> {
        self.open()?;
        let _lock = self.lock()?;
        let mut keys = self.look()?.ok_or_else(|| self.not_rotating())?;
        if keys.next.is_none() {
            keys.next = Some(make(&self.dir.join(NEXT))?);
        }
        Ok(keys)
    }

    /// Ends a rotation one way or the other.
    ///
    /// # Errors
    /// [`KeyError::NotRotating`] if none was begun; otherwise if the files cannot be changed.
    pub fn end_rotation(&self, how: Rotation) -> Result<NodeKeys, KeyError> {
        let rotating = |keys: Option<NodeKeys>| match keys {
            Some(NodeKeys {
                current,
                next: Some(next),
            }) => Ok((current, next)),
            _ => Err(self.not_rotating()),
        };
        // A look first: a directory without keys is left as it is.
        rotating(self.look()?)?;
        let _lock = self.lock()?;
        let (current, next) = rotating(self.look()?)?;
        let (next_path, current_path) = (self.dir.join(NEXT), self.dir.join(CURRENT));
        let current = match how {
            Rotation::Finish => {
                fs::rename(&next_path, &current_path)
                    .map_err(KeyError::io("put in place", &current_path))?;
                next
            }
            Rotation::Cancel => {
                fs::remove_file(&next_path).map_err(KeyError::io("remove", &next_path))?;
                current
            }
        };
        sync(&self.dir)?;
        Ok(NodeKeys {
            current,
            next: None,
        })
    }

    fn not_rotating(&self) -> KeyError {
        KeyError::NotRotating {
            dir: self.dir.clone(),
        }
    }

    fn lock(&self) -> Result<File, KeyError> {
        let path = self.dir.join(LOCK);
        let mut options = OpenOptions::new();
        options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600);
        let file = options.open(&path).map_err(KeyError::io("open", &path))?;
        let deadline = Instant::now() + MAX_WAIT;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::Error(error)) => return Err(KeyError::io("lock", &path)(error)),
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                    std::thread::sleep(PAUSE)
                }
                Err(TryLockError::WouldBlock) => return Err(KeyError::Locked { path }),
            }
        }
    }
}

fn read(path: &Path) -> Result<Option<PrivateKey>, KeyError> {
    let mut options = OpenOptions::new();
    // A pipe in a key's place must not hold us up.
    let opened = options
        .read(true)
        .custom_flags(OFlags::NONBLOCK.bits() as i32)
        .open(path);
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(KeyError::io("read", path)(error)),
    };
    let metadata = file.metadata().map_err(KeyError::io("look at", path))?;
    if !metadata.is_file() {
        return Err(KeyError::Damaged {
            path: path.to_owned(),
        });
    }
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & OTHERS != 0 {
        return Err(KeyError::Exposed {
            path: path.to_owned(),
            mode,
        });
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(KeyError::io("read", path))?;
    let text = String::from_utf8(bytes)
        .ok()
        .filter(|text| text.len() as u64 <= MAX_FILE_BYTES);
    let key = text.as_deref().and_then(PrivateKey::from_file);
    key.map(Some).ok_or_else(|| KeyError::Damaged {
        path: path.to_owned(),
    })
}

/// Makes a new key at `path`, whole and durable, with the lock held.
fn make(path: &Path) -> Result<PrivateKey, KeyError> {
    let key = PrivateKey::generate()?;
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let new = PathBuf::from(name);
    write(&new, key.to_file().as_bytes()).map_err(KeyError::io("write", &new))?;
    fs::rename(&new, path).map_err(KeyError::io("put in place", path))?;
    path.parent().map_or(Ok(()), sync)?;
    Ok(key)
}

fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    // What an interrupted attempt left may have another mode: it goes first.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

fn make_folder(dir: &Path) -> Result<(), KeyError> {
    if dir.is_dir() {
        return Ok(());
    }
    let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(KeyError::io("make the state directory", dir))?;
    dir.parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .map_or(Ok(()), sync)
}

fn sync(dir: &Path) -> Result<(), KeyError> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(KeyError::io("flush the directory", dir))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stand() -> (tempfile::TempDir, KeyStore) {
        let folder = tempfile::tempdir().unwrap();
        let store = KeyStore::at(&folder.path().join("a/state"));
        (folder, store)
    }

    fn names(store: &KeyStore) -> Vec<String> {
        let entries = fs::read_dir(&store.dir).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn the_first_use_makes_a_key_for_its_owner_alone() {
        let (_folder, store) = stand();
        assert!(store.look().unwrap().is_none());
        assert!(!store.dir.exists(), "a look makes nothing");
        let made = store.open().unwrap().current.public();
        assert_eq!(store.open().unwrap().current.public(), made);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&store.dir), 0o700);
        assert_eq!(mode(&store.dir.join(CURRENT)), 0o600);
        assert_eq!(names(&store), [CURRENT, LOCK]);
    }

    #[test]
    fn first_uses_at_once_make_one_key() {
        let (_folder, store) = stand();
        let open = || store.open().unwrap().current.public();
        let keys: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(open)).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        });
        assert!(keys.iter().all(|key| *key == keys[0]));
    }

    #[test]
    fn a_rotation_has_two_keys_until_it_is_finished() {
        let (_folder, store) = stand();
        let begun = store.begin_rotation().unwrap();
        let next = begun.next.unwrap().public();
        let again = store.begin_rotation().unwrap();
        assert_eq!(
            again.next.unwrap().public(),
            next,
            "beginning twice is beginning once"
        );
        assert_eq!(
            store.open().unwrap().current.public(),
            begun.current.public()
        );
        assert_eq!(
            store
                .end_rotation(Rotation::Finish)
                .unwrap()
                .current
                .public(),
            next
        );
        let after = store.open().unwrap();
        assert_eq!(after.current.public(), next);
        assert!(after.next.is_none());
        assert!(matches!(
            store.end_rotation(Rotation::Finish),
            Err(KeyError::NotRotating { .. })
        ));
    }

    #[test]
    fn a_cancelled_rotation_leaves_the_key_in_use() {
        let (_folder, store) = stand();
        assert!(matches!(
            store.end_rotation(Rotation::Cancel),
            Err(KeyError::NotRotating { .. })
        ));
        assert!(!store.dir.exists(), "nothing was made to be cancelled");
        let used = store.begin_rotation().unwrap().current.public();
        store.end_rotation(Rotation::Cancel).unwrap();
        assert_eq!(store.open().unwrap().current.public(), used);
        assert_eq!(names(&store), [CURRENT, LOCK]);
    }

    #[test]
    fn a_key_that_others_can_read_is_not_used() {
        let (_folder, store) = stand();
        store.open().unwrap();
        let path = store.dir.join(CURRENT);
        for mode in [0o640, 0o604, 0o620] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let error = store.open().unwrap_err();
            assert!(matches!(error, KeyError::Exposed { mode: told, .. } if told == mode));
            assert!(error.remedy().contains("chmod 600"));
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
        store.open().unwrap();
    }

    #[test]
    fn a_damaged_key_is_never_replaced() {
        let (_folder, store) = stand();
        store.open().unwrap();
        let path = store.dir.join(CURRENT);
        let good = fs::read(&path).unwrap();
        for bad in [
            b"".as_slice(),
            b"\xff\xfe",
            &good[..good.len() - 4],
            &[b'#'; 5000],
        ] {
            fs::write(&path, bad).unwrap();
            assert!(matches!(store.open(), Err(KeyError::Damaged { .. })));
            assert_eq!(fs::read(&path).unwrap(), bad);
        }
    }

    #[test]
    fn a_pipe_or_folder_in_a_keys_place_is_refused_at_once() {
        let (_folder, store) = stand();
        fs::create_dir_all(&store.dir).unwrap();
        let path = store.dir.join(CURRENT);
        rustix::fs::mkfifoat(
            rustix::fs::CWD,
            &path,
            rustix::fs::Mode::from_raw_mode(0o600),
        )
        .unwrap();
        assert!(matches!(store.open(), Err(KeyError::Damaged { .. })));
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(matches!(store.open(), Err(KeyError::Damaged { .. })));
    }

    /// Killed at each step of making a key: the next use makes one, or finds it whole.
    #[test]
    fn interrupted_while_a_key_is_made() {
        for left in [b"".as_slice(), b"lockstep-private-key-1:half"] {
            let (_folder, store) = stand();
            fs::create_dir_all(&store.dir).unwrap();
            fs::write(store.dir.join("node.key.new"), left).unwrap();
            assert!(store.look().unwrap().is_none());
            let made = store.open().unwrap().current.public();
            fs::write(store.dir.join("node.key.next.new"), left).unwrap();
            assert_eq!(store.open().unwrap().current.public(), made);
            assert!(store.begin_rotation().unwrap().next.is_some());
            assert_eq!(names(&store), [CURRENT, LOCK, NEXT]);
        }
    }
}
