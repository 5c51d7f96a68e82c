//! The far end: does what it is asked, within limits of its own.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use lockstep_protocol::Failure;
use lockstep_transport::Link;
use lockstep_transport::remote::boot_id;
use lockstep_volume::{IoEngine, probe_uring};

use super::flow::{LONGEST, give, take};
use super::word::{Found, Scan, Word, hear, say};
use crate::disk::{Subject, Way};
use crate::failures::out_of_turn;
use crate::hash::{HashKind, measure_hashing};
use crate::write::{folder_for_writing, measure_writing};

/// Most things that are asked, and the longest that all of it takes.
const MAX_ASKS: usize = 128;
const MAX_SESSION: Duration = Duration::from_secs(30 * 60);
/// How long nothing may be asked: the near end measures its own machine meanwhile.
const SILENCE: Duration = Duration::from_secs(10 * 60);

/// Serves one near end until it leaves.
///
/// # Errors
/// The link breaks, the near end asks for what there is not, or for more than there is of it.
pub fn serve(link: Link) -> Result<(), Failure> {
    let deadline = Instant::now() + MAX_SESSION;
    for _ in 0..MAX_ASKS {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(out_of_turn());
        }
        let word = hear(&link.control, left.min(SILENCE))?;
        match answer(&link, word)? {
            Next::Say(answer) => say(&link.sender, &answer)?,
            Next::Listen => {}
            Next::Leave => return Ok(()),
        }
    }
    Err(out_of_turn())
}

/// What follows a word.
enum Next {
    Say(Word),
    Listen,
    Leave,
}

/// Does what is asked; that can fail without ending the link.
fn answer(link: &Link, word: Word) -> Result<Next, Failure> {
    let answered = match word {
        Word::Echo { number } => Ok(Word::Echo { number }),
        Word::Take { limit } => {
            // Its last word is the answer.
            take(link, limit)?;
            return Ok(Next::Listen);
        }
        Word::Give { limit } => {
            let gave = give(link, limit)?;
            let paths = gave.paths.into_iter().map(Into::into).collect();
            let cpu = gave.cpu;
            Ok(Word::Done { cpu, paths })
        }
        Word::Hash { kind, limit } => Ok(hash(kind, limit)),
        Word::Read {
            path,
            way,
            uring,
            limit,
        } => read(&path, way, uring, limit),
        Word::Write { path, uring, limit } => write(&path, uring, limit),
        Word::Bye => return Ok(Next::Leave),
        _ => return Err(out_of_turn()),
    };
    Ok(Next::Say(answered.unwrap_or_else(Word::from)))
}

fn hash(kind: Scan, limit: Duration) -> Word {
    let kind = match kind {
        Scan::Groups => HashKind::Groups,
        Scan::Pages => HashKind::Pages,
    };
    let cores = cores();
    Word::Hashed {
        boot: boot_id(),
        cores: u32::try_from(cores).unwrap_or(u32::MAX),
        measured: measure_hashing(kind, cores, limit.min(LONGEST)),
    }
}

fn read(path: &[u8], way: Way, uring: bool, limit: Duration) -> Result<Word, Failure> {
    let engine = engine(uring);
    let subject = Subject::open(Path::new(OsStr::from_bytes(path)), engine)?;
    let read = subject.read(way, cores(), limit.min(LONGEST))?;
    Ok(Word::Found(Found {
        size: subject.size(),
        data: subject.data_bytes(),
        has_medium: subject.has_medium(),
        uring: engine == IoEngine::Uring,
        read,
    }))
}

fn write(path: &[u8], uring: bool, limit: Duration) -> Result<Word, Failure> {
    let path = Path::new(OsStr::from_bytes(path));
    // What is not there yet is where its name says.
    let folder = match (path.exists(), path.parent()) {
        (true, _) => folder_for_writing(path)?,
        (false, Some(folder)) if !folder.as_os_str().is_empty() => folder.to_owned(),
        (false, _) => PathBuf::from("."),
    };
    measure_writing(&folder, engine(uring), limit.min(LONGEST)).map(Word::Wrote)
}

fn engine(uring: bool) -> IoEngine {
    match uring && probe_uring().is_ok() {
        true => IoEngine::Uring,
        false => IoEngine::Threads,
    }
}

fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}
