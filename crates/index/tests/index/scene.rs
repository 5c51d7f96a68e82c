//! One volume and its state directory in a temporary folder, for every test here.

use std::num::NonZeroU32;
use std::path::PathBuf;

use lockstep_index::{Facts, Index, IndexKey, IndexStore, Lineage, Unusable};
use lockstep_merkle::{Cv, Geometry, PAGE_SIZE, fold_pages};

pub(crate) const IDENTITY: &str = "file inode 12 born 1700000000000000000 size 4096";

pub(crate) struct Scene {
    pub(crate) dir: PathBuf,
    pub(crate) store: IndexStore,
    pub(crate) key: IndexKey,
    _folder: tempfile::TempDir,
}

impl Scene {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("state");
        Self {
            store: IndexStore::at(&dir),
            dir,
            key: IndexKey::target("pgdata"),
            _folder: folder,
        }
    }

    pub(crate) fn save(&self, pages: u64, version: u64) {
        let cvs = cvs(pages, version);
        let saved = self.store.save(&self.key, &facts(pages, version), cvs);
        saved.unwrap();
    }

    pub(crate) fn load(&self) -> Result<Index, Unusable> {
        self.store.load(&self.key, IDENTITY)
    }

    pub(crate) fn folder(&self) -> PathBuf {
        self.dir.join("indexes")
    }

    /// The one index file that is there.
    pub(crate) fn file(&self) -> PathBuf {
        self.store.list().unwrap()[0].path.clone()
    }

    /// Names in the folder that end so.
    pub(crate) fn count(&self, end: &str) -> usize {
        let names = std::fs::read_dir(self.folder()).unwrap();
        let ends = |name: &std::fs::DirEntry| name.file_name().to_str().unwrap().ends_with(end);
        names.map(Result::unwrap).filter(ends).count()
    }
}

/// Values that differ by page and version; how they came about is of no account here.
pub(crate) fn cvs(pages: u64, version: u64) -> impl Iterator<Item = Cv> {
    (0..pages).map(move |page| {
        let mut bytes = [0xa5; 32];
        bytes[..8].copy_from_slice(&page.to_le_bytes());
        bytes[8..16].copy_from_slice(&version.to_le_bytes());
        Cv::from_bytes(bytes)
    })
}

pub(crate) fn geometry(pages: u64) -> Geometry {
    Geometry::new((pages * PAGE_SIZE as u64).saturating_sub(1))
}

pub(crate) fn facts(pages: u64, version: u64) -> Facts {
    Facts {
        identity: IDENTITY.to_owned(),
        snapshot: version.to_string().into_bytes(),
        geometry: geometry(pages),
        root: fold_pages(geometry(pages), cvs(pages, version)).unwrap(),
        lineage: Lineage::Delta {
            runs: NonZeroU32::new(3).unwrap(),
        },
        last_full_scan_unix_ms: 1_700_000_000_000,
        created_unix_ms: 1_700_000_002_100,
    }
}
