//! One volume and its state directory in a temporary folder, for every test here.

use std::path::PathBuf;

use lockstep_merkle::PAGE_SIZE;
use lockstep_undo::{Begin, Keeping, Resume, UndoStore};
use lockstep_volume::Volume;
use lockstep_volume::faults::MemoryVolume;

pub(crate) const KEY: &str = "/srv/pgdata.img";
pub(crate) const IDENTITY: &str = "file inode 12 born 1700000000000000000";
pub(crate) const PAGE: u64 = PAGE_SIZE as u64;
pub(crate) const PAGES: u64 = 300;

pub(crate) struct Scene {
    pub(crate) dir: PathBuf,
    pub(crate) store: UndoStore,
    pub(crate) volume: MemoryVolume,
    pub(crate) before: Vec<u8>,
    _folder: tempfile::TempDir,
}

impl Scene {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("state");
        // A short last page, and every seventh one of zeros.
        let byte = |at: usize| match at / PAGE_SIZE {
            page if page % 7 == 2 => 0,
            page => page as u8 | 1,
        };
        let before: Vec<u8> = (0..PAGES as usize * PAGE_SIZE - 96).map(byte).collect();
        Self {
            store: UndoStore::at(&dir),
            dir,
            volume: MemoryVolume::with_content(before.clone()),
            before,
            _folder: folder,
        }
    }

    pub(crate) fn facts(&self) -> Begin<'static> {
        Begin {
            key: KEY,
            identity: IDENTITY,
            size: self.volume.size(),
            run: "run-1",
            created_unix_ms: 1_000,
            expires_unix_ms: 5_000,
        }
    }

    pub(crate) fn begin(&self) -> Keeping {
        self.store.begin_log(&self.facts(), 1 << 30).unwrap()
    }

    pub(crate) fn resume(&self, continues: &'static str) -> Option<Keeping> {
        let resume = Resume {
            key: KEY,
            identity: IDENTITY,
            size: self.volume.size(),
            continues,
            run: "run-2",
        };
        self.store.resume(&resume).unwrap()
    }

    /// Overwrites pages as a run does.
    pub(crate) fn overwrite(&self, keeping: &Keeping, page: u64, pages: u64) {
        let size = self.volume.size();
        let range = page * PAGE..((page + pages) * PAGE).min(size);
        let log = keeping.log().unwrap();
        for part in log.missing(range.clone()) {
            let mut bytes = vec![0; (part.end - part.start) as usize];
            self.volume.read_at(part.start, &mut bytes).unwrap();
            let ticket = log.append(part.start, &bytes).unwrap();
            log.commit(ticket).unwrap();
        }
        let bytes = vec![0xee; (range.end - range.start) as usize];
        self.volume.write_at(range.start, &bytes).unwrap();
        self.volume.flush().unwrap();
    }

    /// A run that overwrote pages 3 and 4, 200 to 249, and the last two.
    pub(crate) fn finished(&self) {
        let keeping = self.begin();
        for (page, pages) in [(3, 2), (200, 50), (PAGES - 2, 2)] {
            self.overwrite(&keeping, page, pages);
        }
        keeping.finish(5_000).unwrap();
    }

    pub(crate) fn folder(&self) -> PathBuf {
        self.dir.join("undo")
    }

    /// The one file with that ending.
    pub(crate) fn file(&self, end: &str) -> PathBuf {
        let names = std::fs::read_dir(self.folder()).unwrap();
        let mut paths = names.map(|name| name.unwrap().path());
        let path = paths.find(|path| path.extension().unwrap() == end);
        path.unwrap()
    }
}
