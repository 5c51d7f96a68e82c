//! How a primary's volume is frozen, in the words of `--snapshot`.

use std::str::FromStr;

use super::{AbsolutePath, Unfit, shown};

const WORDS: [&str; 7] = [
    "auto",
    "reflink",
    "btrfs",
    "lvm",
    "zfs",
    "exclusive",
    "none",
];

/// A word of `--snapshot`: a provider, a way to do without one, or `exec:PROGRAM`.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct SnapshotWord(String);

impl SnapshotWord {
    /// The word, as `--snapshot` takes it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for SnapshotWord {
    fn default() -> Self {
        Self("auto".to_owned())
    }
}

impl FromStr for SnapshotWord {
    type Err = Unfit;

    fn from_str(text: &str) -> Result<Self, Unfit> {
        if let Some(program) = text.strip_prefix("exec:") {
            let program: AbsolutePath = program.parse()?;
            return Ok(Self(format!("exec:{program}")));
        }
        if WORDS.contains(&text) {
            return Ok(Self(text.to_owned()));
        }
        let what = format!("{} is no way to make a snapshot", shown(text));
        Err(Unfit::new(
            what,
            format!("write {} or `exec:/PATH/OF/PROGRAM`", WORDS.join(", ")),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::SnapshotWord;

    #[test]
    fn the_words_are_those_of_the_command_line() {
        for good in ["auto", "lvm", "none", "exec:/usr/bin/snap"] {
            assert_eq!(good.parse::<SnapshotWord>().unwrap().as_str(), good);
        }
        for bad in ["", "Auto", "exec:", "exec:snap", "thin"] {
            assert!(bad.parse::<SnapshotWord>().is_err(), "{bad}");
        }
        assert_eq!(SnapshotWord::default().as_str(), "auto");
    }
}
