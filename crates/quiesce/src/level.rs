//! What a snapshot can be trusted with.

use std::fmt;

/// What was done to an application and its filesystem before a snapshot; the later the better.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Level {
    /// Nothing: the snapshot is what a power cut would have left.
    CrashConsistent,
    /// Its filesystem was frozen: everything written before is in the snapshot, journals are empty.
    FilesystemConsistent,
    /// The hooks that tell the application to get ready all succeeded.
    ApplicationConsistent,
}

impl Level {
    /// Every level, the weakest first.
    pub const ALL: [Level; 3] = [
        Level::CrashConsistent,
        Level::FilesystemConsistent,
        Level::ApplicationConsistent,
    ];

    /// The level's word in JSON and in the ledger.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Level::CrashConsistent => "crash-consistent",
            Level::FilesystemConsistent => "filesystem-consistent",
            Level::ApplicationConsistent => "application-consistent",
        }
    }

    /// The level of a word; `None` if no level has it.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Level> {
        Level::ALL.into_iter().find(|level| level.word() == word)
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

#[cfg(test)]
mod tests {
    use super::Level;

    #[test]
    fn each_level_has_a_word_and_is_better_than_the_one_before() {
        for level in Level::ALL {
            assert_eq!(Level::from_word(level.word()), Some(level));
        }
        assert_eq!(Level::from_word("consistent"), None);
        assert!(Level::ALL.is_sorted_by(|weaker, better| weaker < better));
    }
}
