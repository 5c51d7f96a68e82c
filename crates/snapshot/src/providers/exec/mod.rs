//! `exec`: the user's own program makes the images.
//!
//! It is started once for each request, with its verb as the last argument and the request as one
//! line of JSON on its standard input; it answers in lines of JSON. `docs/snapshot-program.md` is
//! the contract, `protocol` its types. Nothing that it says is believed further than that: sizes
//! must fit, answers must be complete, and a delta of it is a claim that the engine samples like any
//! other.

mod protocol;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;

use crate::changed::Changed;
use crate::doubt::{Doubt, Which};
use crate::error::SnapshotError;
use crate::name::{SnapshotName, VolumeName};
use crate::program::{Call, Limits, Programs, System, printable};
use crate::provider::{Fitness, Health, Provider, Verdict};
use crate::snapshot::{Image, Recovered, Snapshot, canonical};

use protocol::{Answer, Counted, Created, Described, End, Opened, Request, Room, read_answer};

const NAME: &str = "exec";

/// Time for a verb that only looks or opens.
const QUICK: Limits = Limits {
    time: Duration::from_secs(60),
    output_bytes: 1 << 20,
};
/// Time for a verb that makes or removes: clouds take minutes.
const SLOW: Limits = Limits {
    time: Duration::from_secs(15 * 60),
    ..QUICK
};
/// For a delta or a list, whose answer can be long: a million ranges.
const LONG: Limits = Limits {
    time: Duration::from_secs(15 * 60),
    output_bytes: 64 << 20,
};

/// The provider.
#[derive(Debug)]
pub struct Exec {
    program: PathBuf,
    arguments: Vec<OsString>,
    programs: Box<dyn Programs>,
}

impl Exec {
    /// A provider that starts this program, with these arguments before the verb.
    #[must_use]
    pub fn new(program: PathBuf, arguments: Vec<OsString>) -> Self {
        Self {
            program,
            arguments,
            programs: Box::new(System),
        }
    }

    fn ask(&self, request: &Request<'_>, limits: Limits) -> Result<Asked, SnapshotError> {
        let call = self.call(request, limits)?;
        let output = self.programs.run(&call)?;
        match read_answer(&output) {
            Ok(answer) => Ok(Asked { call, answer }),
            Err(why) => Err(call.failed(why, &output)),
        }
    }

    fn call(&self, request: &Request<'_>, limits: Limits) -> Result<Call, SnapshotError> {
        let verb = OsString::from(request.verb);
        let arguments = self.arguments.iter().chain([&verb]);
        let mut call = Call::new(&self.program, arguments, limits);
        match serde_json::to_vec(request) {
            Ok(line) => call.input = line,
            Err(error) => return Err(call.failed(error.to_string(), b"")),
        }
        call.input.push(b'\n');
        Ok(call)
    }
}

/// A request and its answer.
struct Asked {
    call: Call,
    answer: Answer,
}

impl Asked {
    /// What it ended with, if it ended well.
    fn ok<T: DeserializeOwned>(&self) -> Result<T, SnapshotError> {
        match &self.answer.end {
            End::Ok(value) => T::deserialize(value)
                .map_err(|error| self.failed(format!("its answer is not understood: {error}"))),
            other => Err(self.failed(other.why())),
        }
    }

    fn failed(&self, why: impl Into<String>) -> SnapshotError {
        self.call.failed(why, b"")
    }
}

impl Provider for Exec {
    fn name(&self) -> &'static str {
        NAME
    }

    fn probe(&self, volume: &Path) -> Verdict {
        let asked = canonical(volume).and_then(|volume| {
            let text = utf8(&volume)?;
            self.ask(&Request::about("probe", text), QUICK)
        });
        match asked.and_then(|asked| asked.ok::<protocol::Fit>()) {
            Ok(fit) => Verdict::Fit(Fitness::from(fit)),
            Err(error) => Verdict::unfit(error.to_string()),
        }
    }

    fn create(&self, volume: &Path, name: &SnapshotName) -> Result<Snapshot, SnapshotError> {
        let volume = canonical(volume)?;
        let request = Request {
            name: Some(name),
            ..Request::about("create", utf8(&volume)?)
        };
        let created: Created = self.ask(&request, SLOW)?.ok()?;
        Snapshot::made(NAME, name, &volume, created.size, &created.handle)
    }

    fn open(&self, snapshot: &Snapshot) -> Result<Image, SnapshotError> {
        let described = described(snapshot)?;
        let request = Request {
            snapshot: Some(&described),
            ..Request::about("open", utf8(&snapshot.volume)?)
        };
        let asked = self.ask(&request, SLOW)?;
        let opened: Opened = asked.ok()?;
        if !opened.path.is_absolute() {
            return Err(asked.failed("the path of the image is not absolute"));
        }
        Image::open(opened.path, snapshot.size)
    }

    fn delta(&self, base: &Snapshot, now: &Snapshot) -> Result<Changed, Doubt> {
        Doubt::unless_comparable(base, now, NAME)?;
        let (of_base, of_now) = (
            described(base).map_err(Doubt::unreadable(Which::Base))?,
            described(now).map_err(Doubt::unreadable(Which::Now))?,
        );
        let program = |why: String| Doubt::Program { why };
        let volume = utf8(&now.volume).map_err(|error| program(error.to_string()))?;
        let request = Request {
            base: Some(&of_base),
            now: Some(&of_now),
            ..Request::about("delta", volume)
        };
        let asked = self
            .ask(&request, LONG)
            .map_err(|error| program(error.to_string()))?;
        if let End::Unsupported(why) = &asked.answer.end {
            return Err(Doubt::NotTold {
                provider: NAME.to_owned(),
                why: printable(why.as_bytes()),
            });
        }
        let counted: Counted = asked.ok().map_err(|error| program(error.to_string()))?;
        let ranges = &asked.answer.changed;
        counted.check(ranges.len()).map_err(program)?;
        protocol::changed(ranges, base.size, now.size).map_err(program)
    }

    fn release(&self, snapshot: &Snapshot) -> Result<(), SnapshotError> {
        let described = described(snapshot)?;
        let request = Request {
            snapshot: Some(&described),
            ..Request::about("release", utf8(&snapshot.volume)?)
        };
        self.ask(&request, SLOW)?.ok::<protocol::Done>().map(drop)
    }

    fn recover(&self, volume: &Path, name: &VolumeName) -> Result<Recovered, SnapshotError> {
        let volume = canonical(volume)?;
        let request = Request {
            of_volume: Some(name),
            ..Request::about("recover", utf8(&volume)?)
        };
        let asked = self.ask(&request, LONG)?;
        let counted: Counted = asked.ok()?;
        let checked = counted.check(asked.answer.found.len());
        checked.map_err(|why| asked.failed(why))?;
        let answer = asked.answer;
        let mut found = Recovered {
            removed: answer.removed,
            ..Recovered::default()
        };
        for Described {
            name: whole,
            size,
            handle,
        } in answer.found
        {
            if whole.volume() == name {
                found
                    .whole
                    .push(Snapshot::made(NAME, &whole, &volume, size, &handle)?);
            }
        }
        Ok(found.sorted())
    }

    fn health(&self, snapshot: &Snapshot) -> Result<Health, SnapshotError> {
        let described = described(snapshot)?;
        let request = Request {
            snapshot: Some(&described),
            ..Request::about("health", utf8(&snapshot.volume)?)
        };
        let asked = self.ask(&request, QUICK)?;
        match &asked.answer.end {
            // A program that cannot tell has images that do not fill up.
            End::Unsupported(_) => Ok(Health::Sound { room: u64::MAX }),
            End::Lost(why) => Ok(Health::Lost {
                why: printable(why.as_bytes()),
            }),
            _ => Ok(Health::Sound {
                room: asked.ok::<Room>()?.room,
            }),
        }
    }
}

/// What the program is told of a snapshot.
fn described(snapshot: &Snapshot) -> Result<Described, SnapshotError> {
    Ok(Described {
        name: snapshot.name.clone(),
        size: snapshot.size,
        handle: snapshot.detail_for(NAME)?,
    })
}

fn utf8(volume: &Path) -> Result<&str, SnapshotError> {
    volume.to_str().ok_or_else(|| SnapshotError::Unfit {
        provider: NAME,
        volume: volume.to_path_buf(),
        why: "its path is not UTF-8, which JSON is".to_owned(),
    })
}

#[cfg(test)]
mod tests;
