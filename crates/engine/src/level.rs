//! How still a source was, in the words of the crates that it passes: made, told, recorded.

use lockstep_ledger::SourceLevel as Recorded;
use lockstep_protocol::SourceLevel as Told;
use lockstep_quiesce::Level;

/// What the targets are told.
pub(crate) fn told(level: Level) -> Told {
    match level {
        Level::CrashConsistent => Told::CrashConsistent,
        Level::FilesystemConsistent => Told::FilesystemConsistent,
        Level::ApplicationConsistent => Told::ApplicationConsistent,
    }
}

/// What a target's ledger keeps.
pub(crate) fn recorded(level: Told) -> Recorded {
    match level {
        Told::CrashConsistent => Recorded::CrashConsistent,
        Told::FilesystemConsistent => Recorded::FilesystemConsistent,
        Told::ApplicationConsistent => Recorded::ApplicationConsistent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_keeps_its_word_on_its_way_into_the_record() {
        for level in Level::ALL {
            assert_eq!(recorded(told(level)).word(), level.word());
        }
    }
}
