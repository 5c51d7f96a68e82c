//! Random volumes, random writes, kills and power cuts at random points of runs and rollbacks: in
//! the end a rollback gives what was there before the first run.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use lockstep_merkle::{EXTENT_SIZE, PAGE_SIZE};
use lockstep_volume::faults::{Fault, FaultyVolume, MemoryVolume};
use lockstep_volume::{Operation, Volume};
use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::{prop_assert, prop_assert_eq, proptest, test_runner::TestCaseError};

use crate::error::UndoError;
use crate::keeping::Keeping;
use crate::restore::{check, restore};
use crate::store::{Begin, Resume, UndoStore};

const KEY: &str = "v";
const MAX_PAGES: u64 = 2 * (EXTENT_SIZE / PAGE_SIZE) as u64 + 9;

/// One part of the story; each is ended by a kill or a power cut unless it says otherwise.
#[derive(Clone, Debug)]
enum Part {
    Run {
        writes: Vec<Write>,
        stop: Stop,
        end: End,
    },
    /// A rollback whose write or zeroing of this number fails.
    Rollback { fails_at: u64, end: End },
}

#[derive(Clone, Debug)]
struct Write {
    page: u64,
    pages: u64,
    /// 0 is a hole.
    fill: u8,
    then_flush: bool,
}

/// How far the last write of a run comes.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Stop {
    Appended,
    Committed,
    Written,
    /// And the run ends well.
    Finished,
}

#[derive(Clone, Copy, Debug)]
enum End {
    Kill,
    /// What is not durable of the log is spoilt by this seed.
    PowerCut(u64),
}

fn some_end() -> impl Strategy<Value = End> {
    prop_oneof![Just(End::Kill), any::<u64>().prop_map(End::PowerCut)]
}

fn some_part() -> impl Strategy<Value = Part> {
    let write = (0..MAX_PAGES, 1..40_u64, 0..4_u8, any::<bool>());
    let write = write.prop_map(|(page, pages, fill, then_flush)| Write {
        page,
        pages,
        fill: fill * 80,
        then_flush,
    });
    let stop = prop_oneof![
        Just(Stop::Appended),
        Just(Stop::Committed),
        Just(Stop::Written),
        Just(Stop::Finished),
    ];
    let run = (vec(write, 1..8), stop, some_end());
    prop_oneof![
        3 => run.prop_map(|(writes, stop, end)| Part::Run { writes, stop, end }),
        1 => (1..9_u64, some_end()).prop_map(|(fails_at, end)| Part::Rollback { fails_at, end }),
    ]
}

/// Pages of zeros, of one byte and of several, by a seed.
fn some_content(size: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut content = vec![0; size];
    for page in content.chunks_mut(PAGE_SIZE) {
        match next(&mut state) % 4 {
            0 => {}
            1 => page.fill(next(&mut state) as u8),
            _ => page
                .iter_mut()
                .for_each(|byte| *byte = next(&mut state) as u8),
        }
    }
    content
}

/// xorshift64: plain and repeatable.
fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state >> 11
}

struct World {
    dir: PathBuf,
    store: UndoStore,
    volume: MemoryVolume,
    /// What a rollback has to give.
    base: Vec<u8>,
    /// The run or rollback that was interrupted last.
    interrupted: Option<String>,
    parts: usize,
}

impl World {
    fn new(dir: &Path, content: Vec<u8>) -> Self {
        Self {
            dir: dir.to_owned(),
            store: UndoStore::at(dir),
            volume: MemoryVolume::with_content(content.clone()),
            base: content,
            interrupted: None,
            parts: 0,
        }
    }

    fn play(&mut self, part: &Part) -> Result<(), TestCaseError> {
        self.parts += 1;
        let name = format!("part-{}", self.parts);
        match part {
            Part::Run { writes, stop, end } => self.run(name, writes, *stop, *end),
            Part::Rollback { fails_at, end } => self.rollback(name, Some((*fails_at, *end))),
        }
    }

    /// The undo of the interrupted part if there was one, else a new one.
    fn keep(&mut self, name: &str) -> Result<Keeping, UndoError> {
        if let Some(continues) = self.interrupted.take() {
            let resume = Resume {
                key: KEY,
                identity: "i",
                size: self.volume.size(),
                continues: &continues,
                run: name,
            };
            let resumed = self.store.resume(&resume)?;
            return Ok(resumed.expect("an interrupted run has an undo"));
        }
        self.base = self.volume.content();
        let begin = Begin {
            key: KEY,
            identity: "i",
            size: self.volume.size(),
            run: name,
            created_unix_ms: 1,
            expires_unix_ms: 2,
        };
        self.store.begin_log(&begin, 1 << 40)
    }

    fn run(
        &mut self,
        name: String,
        writes: &[Write],
        stop: Stop,
        end: End,
    ) -> Result<(), TestCaseError> {
        let keeping = self.keep(&name).unwrap();
        let (last, others) = writes.split_last().unwrap();
        for write in others {
            self.write(&keeping, write, Stop::Finished);
        }
        self.write(&keeping, last, stop);
        if stop == Stop::Finished {
            self.volume.flush().unwrap();
            keeping.finish(9).unwrap();
            return Ok(());
        }
        let durable = keeping.log().unwrap().durable_bytes();
        drop(keeping);
        self.interrupted = Some(name);
        self.end(end, durable)
    }

    fn write(&self, keeping: &Keeping, write: &Write, stop: Stop) {
        let size = self.volume.size();
        let byte = |page: u64| (page * PAGE_SIZE as u64).min(size);
        let range = byte(write.page)..byte(write.page + write.pages);
        let log = keeping.log().unwrap();
        let mut last = None;
        for part in log.missing(range.clone()) {
            let mut bytes = vec![0; (part.end - part.start) as usize];
            self.volume.read_at(part.start, &mut bytes).unwrap();
            last = Some(log.append(part.start, &bytes).unwrap());
        }
        if stop == Stop::Appended {
            return;
        }
        if let Some(ticket) = last {
            log.commit(ticket).unwrap();
        }
        if stop == Stop::Committed {
            return;
        }
        let bytes = vec![write.fill; (range.end - range.start) as usize];
        match write.fill {
            0 => self.volume.zero(range).unwrap(),
            _ => self.volume.write_at(range.start, &bytes).unwrap(),
        }
        if write.then_flush {
            self.volume.flush().unwrap();
        }
    }

    /// A whole rollback, or one that is interrupted.
    fn rollback(
        &mut self,
        name: String,
        interruption: Option<(u64, End)>,
    ) -> Result<(), TestCaseError> {
        let Ok(restoring) = self.store.restore(KEY, "i", &name) else {
            prop_assert!(self.store.look(KEY).is_err(), "an undo is there");
            return Ok(());
        };
        let log = restoring.log().unwrap();
        let plan = interruption.map_or(Vec::new(), |(n, _)| {
            let fail = |op| Fault::FailNth { op, n, errno: 5 };
            vec![fail(Operation::Write), fail(Operation::Zero)]
        });
        let volume = std::mem::replace(&mut self.volume, MemoryVolume::new(0));
        let faulty = FaultyVolume::new(volume, plan);
        let restored = restore(log, &faulty);
        self.volume = faulty.into_inner();
        match (restored, interruption) {
            (Ok(_), _) => {
                check(log, &self.volume).unwrap();
                prop_assert_eq!(&self.volume.medium_content(), &self.base);
                restoring.finish().unwrap();
                self.interrupted = None;
                Ok(())
            }
            (Err(_), Some((_, end))) => {
                self.interrupted = Some(name);
                self.end(end, u64::MAX)
            }
            (Err(error), None) => panic!("{error}"),
        }
    }

    fn end(&mut self, end: End, durable: u64) -> Result<(), TestCaseError> {
        if let End::PowerCut(seed) = end {
            self.volume.crash();
            self.spoil_log(durable, seed);
        }
        Ok(())
    }

    /// What a power cut may leave behind the durable part: nothing, all, blocks of zeros, of older
    /// files.
    fn spoil_log(&self, durable: u64, seed: u64) {
        let names = fs::read_dir(self.dir.join("undo")).unwrap();
        let mut paths = names.map(|name| name.unwrap().path());
        let path = paths.find(|path| path.extension().unwrap() == "log");
        let file = fs::OpenOptions::new().write(true).open(path.unwrap());
        let file = file.unwrap();
        let end = file.metadata().unwrap().len();
        if end <= durable {
            return;
        }
        let mut state = seed | 1;
        let cut = durable + next(&mut state) % (end - durable + 1);
        if next(&mut state).is_multiple_of(3) {
            file.set_len(cut).unwrap();
            return;
        }
        for at in (durable..end).step_by(512) {
            if next(&mut state).is_multiple_of(4) {
                let length = (end - at).min(512) as usize;
                file.write_all_at(&vec![next(&mut state) as u8 & 1; length], at)
                    .unwrap();
            }
        }
    }
}

proptest! {
    #![proptest_config(proptest::test_runner::Config::with_cases(96))]
    #[test]
    fn a_rollback_gives_what_was_there_before_the_first_interrupted_run(
        size in 1..=MAX_PAGES as usize * PAGE_SIZE,
        seed: u64,
        parts in vec(some_part(), 1..6),
    ) {
        let folder = crate::interruptions::folder();
        let mut world = World::new(folder.path(), some_content(size, seed));
        for part in &parts {
            world.play(part)?;
        }
        world.rollback("the last".to_owned(), None)?;
        prop_assert!(world.store.look(KEY).is_err(), "restored undos are gone");
    }
}
