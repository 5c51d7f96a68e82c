//! The only key to `consistent`.

use serde::{Deserialize, Serialize};

/// Evidence that a volume holds what was promised: two equal roots over one size.
///
/// It also carries how still the source was, which is the source's word and not measured here.
///
/// There is no other way to make one than [`Proof::new`], and no way to `consistent` without one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Proof {
    root: [u8; 32],
    size: u64,
    level: ProofLevel,
    source_level: Option<SourceLevel>,
}

impl Proof {
    /// Compares the root measured on this node's own medium with the root that the source promised
    /// for `size` bytes.
    ///
    /// # Errors
    /// [`RootsDiffer`] if they are not equal.
    pub fn new(
        measured_root: [u8; 32],
        promised_root: [u8; 32],
        size: u64,
        level: ProofLevel,
    ) -> Result<Self, RootsDiffer> {
        if measured_root != promised_root {
            return Err(RootsDiffer {
                measured: measured_root,
                promised: promised_root,
            });
        }
        Ok(Self {
            root: measured_root,
            size,
            level,
            source_level: None,
        })
    }

    /// The same proof, of a source that was so still; none if it was read without a snapshot.
    #[must_use]
    pub fn of_source(self, source_level: Option<SourceLevel>) -> Self {
        Self {
            source_level,
            ..self
        }
    }

    /// The root that both sides have.
    pub fn root(&self) -> [u8; 32] {
        self.root
    }

    /// Bytes of the volume.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// What was read to make the proof.
    pub fn level(&self) -> ProofLevel {
        self.level
    }

    /// How still the source was.
    pub fn source_level(&self) -> Option<SourceLevel> {
        self.source_level
    }
}

/// How still the source's users were when its snapshot was made; the later the better.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SourceLevel {
    /// Nothing was made still: the snapshot is what a power cut would have left.
    CrashConsistent,
    /// Its filesystem was frozen.
    FilesystemConsistent,
    /// The application was told, and got ready.
    ApplicationConsistent,
}

impl SourceLevel {
    /// The level's word, as in every summary.
    pub fn word(self) -> &'static str {
        match self {
            Self::CrashConsistent => "crash-consistent",
            Self::FilesystemConsistent => "filesystem-consistent",
            Self::ApplicationConsistent => "application-consistent",
        }
    }
}

/// How much of the volume was read in the run that made a proof.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProofLevel {
    /// All of it.
    Full,
    /// What may have changed since a volume with a known root; the rest was inherited.
    Delta,
}

/// The medium does not hold what the source promised.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the volume's root is {}, but {} was promised", blake3::Hash::from_bytes(*measured), blake3::Hash::from_bytes(*promised))]
pub struct RootsDiffer {
    /// Root read back from the medium.
    pub measured: [u8; 32],
    /// Root that the source promised.
    pub promised: [u8; 32],
}
