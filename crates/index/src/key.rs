//! Which index is meant: a volume, and the side of a run on which its values were measured.

use std::fmt;

/// Longest volume and longest snapshot name that are kept as they are, in bytes.
pub(crate) const MAX_VOLUME_BYTES: usize = 512;
pub(crate) const MAX_SNAPSHOT_BYTES: usize = 128;
/// Hex digits of a hash in a file name: 128 bits.
const NAME_DIGITS: usize = 32;

/// A volume and a side of it: what one index is about.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct IndexKey {
    volume: String,
    side: Side,
}

/// Whose bytes an index describes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Side {
    /// A snapshot that this node was the source of. A volume has one index for each snapshot that
    /// is kept, because an older one stays the base until every secondary acknowledged a newer one.
    Source {
        /// The snapshot's name.
        snapshot: String,
    },
    /// This node's own volume at the end of its last verified run as a target.
    Target,
}

impl IndexKey {
    /// The index of a snapshot of a volume, both by name. A volume of more than 512 bytes of text,
    /// or a snapshot of more than 128, is replaced by its BLAKE3 hash, which tells them apart as well.
    pub fn source(volume: &str, snapshot: &str) -> Self {
        Self {
            volume: bounded(volume, MAX_VOLUME_BYTES),
            side: Side::Source {
                snapshot: bounded(snapshot, MAX_SNAPSHOT_BYTES),
            },
        }
    }

    /// The index of this node's own volume as a target.
    pub fn target(volume: &str) -> Self {
        Self {
            volume: bounded(volume, MAX_VOLUME_BYTES),
            side: Side::Target,
        }
    }

    /// The volume's text.
    pub fn volume(&self) -> &str {
        &self.volume
    }

    /// The side.
    pub fn side(&self) -> &Side {
        &self.side
    }

    /// How every file of the volume's indexes begins.
    pub(crate) fn volume_prefix(&self) -> String {
        short_hash(&self.volume)
    }

    /// Name of the index's file.
    pub(crate) fn file_name(&self) -> String {
        let volume = self.volume_prefix();
        match &self.side {
            Side::Source { snapshot } => format!("{volume}.source-{}.index", short_hash(snapshot)),
            Side::Target => format!("{volume}.target.index"),
        }
    }
}

impl fmt::Display for IndexKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.side {
            Side::Source { snapshot } => write!(f, "snapshot {snapshot} of {}", self.volume),
            Side::Target => write!(f, "{} as a target", self.volume),
        }
    }
}

fn bounded(text: &str, limit: usize) -> String {
    if text.len() <= limit {
        return text.to_owned();
    }
    format!("blake3:{}", blake3::hash(text.as_bytes()))
}

fn short_hash(text: &str) -> String {
    blake3::hash(text.as_bytes()).to_hex()[..NAME_DIGITS].to_owned()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_two_keys_share_a_file_and_all_of_a_volume_share_its_prefix() {
        let keys = [
            IndexKey::target("v"),
            IndexKey::source("v", ""),
            IndexKey::source("v", "a"),
            IndexKey::source("v", "b"),
        ];
        let names: BTreeSet<String> = keys.iter().map(IndexKey::file_name).collect();
        assert_eq!(names.len(), keys.len());
        let prefix = keys[0].volume_prefix();
        assert!(names.iter().all(|name| name.starts_with(&prefix)));
        let other = IndexKey::target("w").file_name();
        assert!(!other.starts_with(&prefix));
    }

    #[test]
    fn long_texts_are_bounded_and_still_told_apart() {
        let key = |count| IndexKey::source(&"é".repeat(count), &"s".repeat(count));
        assert_eq!(key(64).volume(), "é".repeat(64));
        let (one, other) = (key(5000), key(5001));
        assert_ne!(one, other);
        assert!(one.volume().len() <= MAX_VOLUME_BYTES);
        let Side::Source { snapshot } = one.side() else {
            panic!("{one:?}");
        };
        assert!(snapshot.len() <= MAX_SNAPSHOT_BYTES);
    }
}
