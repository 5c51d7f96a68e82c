//! The only key to `consistent`.

use serde::{Deserialize, Serialize};

/// Evidence that a volume holds what was promised: two equal roots over one size.
///
/// There is no other way to make one than [`Proof::new`], and no way to `consistent` without one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Proof {
    root: [u8; 32],
    size: u64,
    level: ProofLevel,
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
        })
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
