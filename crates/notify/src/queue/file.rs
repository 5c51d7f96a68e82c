//! One delivery as a file.
//!
//! ```text
//! lockstep-notification 1 <SHA-256 of the rest, 64 hex>\n
//! {"destination":…,"attempts":{…},"report":{…}}
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use aws_lc_rs::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use super::QueueError;
use crate::backoff::Attempts;
use crate::destination::Destination;
use crate::report::{Report, hex};

const HEAD: &str = "lockstep-notification 1 ";
/// Longest file that is read; a report within its bounds is shorter.
const MAX_FILE_BYTES: u64 = 2 << 20;

/// A report on its way to one destination.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct Item {
    pub(super) destination: Destination,
    pub(super) attempts: Attempts,
    pub(super) report: Report,
}

impl Item {
    /// Puts it in a file's place, whole or not at all; returns its length. The folder is not
    /// flushed yet.
    pub(super) fn write(&self, path: &Path) -> Result<u64, QueueError> {
        let body = serde_json::to_string(self)
            .map_err(|error| QueueError::io("encode", path)(error.into()))?;
        let text = format!("{HEAD}{}\n{body}", sum(body.as_bytes()));
        let new = path.with_extension("json.new");
        let written = write_new(&new, text.as_bytes()).map_err(QueueError::io("write", &new));
        let renamed =
            written.and_then(|()| fs::rename(&new, path).map_err(QueueError::io("rename", &new)));
        if renamed.is_err() {
            // Best effort: the next start removes it as well.
            let _ = fs::remove_file(&new);
        }
        renamed.map(|()| text.len() as u64)
    }

    /// Reads one with its length, or says what is wrong with it.
    pub(super) fn read(path: &Path) -> Result<(Self, u64), String> {
        let mut bytes = Vec::new();
        File::open(path)
            .and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes))
            .map_err(|error| format!("cannot be read ({error})"))?;
        if bytes.len() as u64 > MAX_FILE_BYTES {
            return Err("is too long".to_owned());
        }
        let text = std::str::from_utf8(&bytes).map_err(|_| "is damaged".to_owned())?;
        let (expected, body) = text
            .strip_prefix(HEAD)
            .and_then(|rest| rest.split_once('\n'))
            .ok_or_else(|| "is no notification of this format".to_owned())?;
        if expected != sum(body.as_bytes()) {
            return Err("is damaged".to_owned());
        }
        let item = serde_json::from_str(body).map_err(|error| format!("is unknown: {error}"))?;
        Ok((item, bytes.len() as u64))
    }
}

/// Files that only this user can read: reports name hosts and URLs.
pub(super) fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).mode(0o600);
    options
}

fn write_new(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = private().create(true).truncate(true).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

pub(super) fn flush_folder(dir: &Path) -> Result<(), QueueError> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(QueueError::io("flush", dir))
}

fn sum(bytes: &[u8]) -> String {
    hex(digest(&SHA256, bytes).as_ref())
}
