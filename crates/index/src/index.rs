//! An index that was found whole, and the checks that say so.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use lockstep_merkle::{Cv, Fold, Geometry, PageIndex, Root};
use lockstep_volume::FileMapping;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::error::Unusable;
use crate::facts::Facts;
use crate::header::{CV_BYTES, HEADER_BYTES, Header, file_bytes};
use crate::key::IndexKey;

/// Bytes of chaining values that are checked, or written, at once.
pub(crate) const CHUNK_BYTES: usize = 1 << 20;

/// The chaining values of a volume as they were measured once, and what is known of them.
///
/// Having one means that every byte of its file was checked when it was opened. It keeps its file
/// even if another index takes the file's name.
#[derive(Debug)]
pub struct Index {
    key: IndexKey,
    facts: Facts,
    mapping: FileMapping,
}

impl Index {
    /// What it is about.
    pub fn key(&self) -> &IndexKey {
        &self.key
    }

    /// What is known of its values.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Size of the volume.
    pub fn geometry(&self) -> Geometry {
        self.facts.geometry
    }

    /// Root of the volume: what its values fold to.
    pub fn root(&self) -> Root {
        self.facts.root
    }

    /// Pages of the volume, so values of the index.
    pub fn page_count(&self) -> u64 {
        self.geometry().page_count()
    }

    /// The value of a page.
    ///
    /// # Panics
    /// If the volume has no such page.
    pub fn cv(&self, page: PageIndex) -> Cv {
        assert!(page.0 < self.page_count(), "the index has no page {page}");
        Cv::from_bytes(self.mapping.block(HEADER_BYTES as u64 + page.0 * CV_BYTES))
    }

    /// All values in order.
    pub fn cvs(&self) -> impl Iterator<Item = Cv> + '_ {
        (0..self.page_count()).map(|page| self.cv(PageIndex(page)))
    }

    /// Opens the index at `path` and checks every byte of it.
    ///
    /// The values are read and not looked at through the mapping, so that a disk that cannot read
    /// them is an error here and not a signal.
    pub(crate) fn open(path: &Path, key: &IndexKey, identity: &str) -> Result<Self, Unusable> {
        let (file, header) = open_header(path)?;
        check_subject(&header, key, identity)?;
        check_cvs(&file, &header)?;
        let length = file_bytes(header.facts.geometry.page_count());
        let mapping = FileMapping::new(&file, path, length).map_err(Unusable::Unmappable)?;
        Ok(Self {
            key: header.key,
            facts: header.facts,
            mapping,
        })
    }
}

/// The header of the file at `path`, and the file, which is as long as the header says.
pub(crate) fn open_header(path: &Path) -> Result<(File, Header), Unusable> {
    let file = open_file(path)?;
    let metadata = file.metadata().map_err(Unusable::Unreadable)?;
    if !metadata.is_file() {
        return Err(Unusable::NotAFile);
    }
    let bytes = metadata.len();
    if bytes < HEADER_BYTES as u64 {
        return Err(Unusable::NoHeader { bytes });
    }
    let mut block = [0; HEADER_BYTES];
    read_exact_at(&file, &mut block, 0)?;
    let header = Header::decode(&block)?;
    let expected = file_bytes(header.facts.geometry.page_count());
    if bytes != expected {
        return Err(Unusable::Length { bytes, expected });
    }
    Ok((file, header))
}

/// Neither follows a link nor waits for the other end of a pipe.
fn open_file(path: &Path) -> Result<File, Unusable> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(file) => Ok(File::from(file)),
        Err(Errno::NOENT) => Err(Unusable::Missing),
        Err(Errno::LOOP | Errno::NXIO) => Err(Unusable::NotAFile),
        Err(error) => Err(Unusable::Unreadable(error.into())),
    }
}

fn check_subject(header: &Header, key: &IndexKey, identity: &str) -> Result<(), Unusable> {
    if header.key != *key {
        let found = header.key.to_string();
        return Err(Unusable::OtherKey { found });
    }
    if header.facts.identity != identity {
        return Err(Unusable::OtherIdentity {
            then: header.facts.identity.clone(),
            now: identity.to_owned(),
        });
    }
    Ok(())
}

fn check_cvs(file: &File, header: &Header) -> Result<(), Unusable> {
    let (checksum, folded) = measure_cvs(file, header.facts.geometry)?;
    if checksum != header.cv_checksum {
        return Err(Unusable::CvChecksum);
    }
    let recorded = header.facts.root;
    if folded != recorded {
        return Err(Unusable::RootDiffers { recorded, folded });
    }
    Ok(())
}

fn measure_cvs(file: &File, geometry: Geometry) -> Result<([u8; 32], Root), Unusable> {
    let (mut hasher, mut fold) = (blake3::Hasher::new(), Fold::of_pages(geometry));
    let end = file_bytes(geometry.page_count());
    let mut buffer = vec![0; CHUNK_BYTES.min(end as usize)];
    let mut at = HEADER_BYTES as u64;
    let miscounted = |_| Unusable::Contradiction("its values are not those of its pages");
    while at < end {
        let count = (end - at).min(buffer.len() as u64) as usize;
        let part = &mut buffer[..count];
        read_exact_at(file, part, at)?;
        hasher.update(part);
        for cv in part.as_chunks::<{ CV_BYTES as usize }>().0 {
            fold.push(Cv::from_bytes(*cv)).map_err(miscounted)?;
        }
        at += count as u64;
    }
    let root = fold.finish().map_err(miscounted)?;
    Ok((*hasher.finalize().as_bytes(), root))
}

fn read_exact_at(file: &File, buffer: &mut [u8], at: u64) -> Result<(), Unusable> {
    file.read_exact_at(buffer, at).map_err(|error| {
        let is_short = error.kind() == io::ErrorKind::UnexpectedEof;
        if is_short {
            return Unusable::Contradiction("it became shorter while it was read");
        }
        Unusable::Unreadable(error)
    })
}
