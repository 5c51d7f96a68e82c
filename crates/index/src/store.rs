//! All indexes of a node: reading, writing, removing, listing.

use std::path::{Path, PathBuf};

use lockstep_merkle::Cv;

use crate::error::{IndexError, Unusable};
use crate::facts::Facts;
use crate::folder;
use crate::header::Header;
use crate::index::{Index, open_header};
use crate::key::IndexKey;
use crate::lock::{MAX_WAIT, VolumeLock};
use crate::writer::{self, Before, Step};

/// Most indexes that are listed.
pub const MAX_LISTED: usize = 4096;

const FOLDER: &str = "indexes";

/// The indexes in a state directory, which need not exist before the first one is saved.
///
/// Nothing is held open: any number of threads and processes use one folder at once.
#[derive(Clone, Debug)]
pub struct IndexStore {
    folder: PathBuf,
}

/// An index file as a list shows it: its header was checked, its values were not.
#[derive(Debug)]
pub struct Listed {
    /// The file.
    pub path: PathBuf,
    /// What its header says, or why it cannot be believed.
    pub header: Result<(IndexKey, Facts), Unusable>,
}

impl IndexStore {
    /// The indexes in the state directory `state_dir`.
    pub fn at(state_dir: &Path) -> Self {
        Self {
            folder: state_dir.join(FOLDER),
        }
    }

    /// The index of `key`, every byte of it checked, if it was written for the file or device that
    /// is `identity` now.
    ///
    /// Takes no lock and changes nothing: a writer at work is not noticed until it is done. Reads
    /// the whole index once, 32 bytes a page.
    ///
    /// # Errors
    /// [`Unusable`] says what is in doubt; whatever it is, the volume has to be scanned.
    pub fn load(&self, key: &IndexKey, identity: &str) -> Result<Index, Unusable> {
        Index::open(&self.path(key), key, identity)
    }

    /// Writes the index of `key`, in place of an older one; durable when it returns.
    ///
    /// `cvs` are the values of all pages in order; they are streamed, a megabyte at a time. They are
    /// folded on the way: what would not load again is not written.
    ///
    /// # Errors
    /// [`IndexError`]; then the older index, or none, is there as before. Only if flushing the
    /// folder was what failed may the new one be there already, and then it is whole.
    pub fn save(
        &self,
        key: &IndexKey,
        facts: &Facts,
        cvs: impl IntoIterator<Item = Cv>,
    ) -> Result<(), IndexError> {
        self.save_in_steps(key, facts, cvs, &mut |_| Ok(()))
    }

    pub(crate) fn save_in_steps(
        &self,
        key: &IndexKey,
        facts: &Facts,
        cvs: impl IntoIterator<Item = Cv>,
        before: Before<'_>,
    ) -> Result<(), IndexError> {
        Header::check(facts)?;
        let header = Header {
            key: key.clone(),
            facts: facts.clone(),
            cv_checksum: [0; 32],
        };
        folder::make(&self.folder)?;
        let _lock = self.lock(key)?;
        before(Step::Sweep).map_err(IndexError::io("read the folder", &self.folder))?;
        folder::sweep(&self.folder, &key.volume_prefix())?;
        writer::write(&self.path(key), header, cvs, before)
    }

    /// Removes the index of `key`, if there is one; durable when it returns.
    ///
    /// This has to happen before the first byte of a target is overwritten: from then on its index
    /// would lie, and its identity would not tell.
    ///
    /// # Errors
    /// [`IndexError`] if it may still be there after a crash; then the volume must not be written.
    pub fn remove(&self, key: &IndexKey) -> Result<(), IndexError> {
        let path = self.path(key);
        if !self
            .folder
            .try_exists()
            .map_err(IndexError::io("find", &self.folder))?
        {
            return Ok(());
        }
        let _lock = self.lock(key)?;
        folder::remove(&folder::new_name(&path))?;
        folder::remove(&path)?;
        folder::flush_parent(&path).map_err(IndexError::io("flush the folder of", &path))
    }

    /// The indexes that are there, at most [`MAX_LISTED`], by the names of their files.
    ///
    /// # Errors
    /// [`IndexError::Io`] if the folder cannot be read.
    pub fn list(&self) -> Result<Vec<Listed>, IndexError> {
        let paths = folder::indexes(&self.folder, MAX_LISTED)?;
        let look = |path: PathBuf| {
            let header = open_header(&path).map(|(_, header)| (header.key, header.facts));
            Listed { path, header }
        };
        Ok(paths.into_iter().map(look).collect())
    }

    fn path(&self, key: &IndexKey) -> PathBuf {
        self.folder.join(key.file_name())
    }

    fn lock(&self, key: &IndexKey) -> Result<VolumeLock, IndexError> {
        let name = format!("{}.lock", key.volume_prefix());
        VolumeLock::take(&self.folder.join(name), MAX_WAIT)
    }
}
