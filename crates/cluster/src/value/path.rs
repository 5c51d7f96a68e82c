//! Paths that mean one place, whatever folder a program was started in.

use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Unfit, shown};

/// Longest path, in bytes: Linux's `PATH_MAX` without its end.
pub const MAX_PATH_BYTES: usize = 4095;

/// An absolute path without `.`, `..` and doubled slashes, that is not `/`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AbsolutePath(String);

impl AbsolutePath {
    /// The path.
    #[must_use]
    pub fn as_path(&self) -> &Path {
        Path::new(&self.0)
    }

    /// The path's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for AbsolutePath {
    type Err = Unfit;

    fn from_str(text: &str) -> Result<Self, Unfit> {
        let unfit = |why: &str, remedy: &str| {
            Err(Unfit::new(
                format!("the path {} {why}", shown(text)),
                remedy,
            ))
        };
        if text.contains(lockstep_protocol::disturbs) {
            return unfit(
                "holds control characters, or others that turn a line around",
                "write the path without them",
            );
        }
        if text.len() > MAX_PATH_BYTES {
            return unfit("is longer than 4095 bytes", "use a shorter path");
        }
        if !text.starts_with('/') {
            return unfit(
                "is relative",
                "write it from the root, as `/…`: agents run in no known folder",
            );
        }
        let path = Path::new(text);
        if path.components().any(|part| part == Component::ParentDir) {
            return unfit("holds `..`", "write the place that is meant");
        }
        // The components are what the kernel would follow.
        let plain: PathBuf = path.components().collect();
        match plain.to_str() {
            Some("/") | None => unfit("is the root of the filesystem", "name what is meant in it"),
            Some(plain) => Ok(Self(plain.to_owned())),
        }
    }
}

impl std::fmt::Display for AbsolutePath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for AbsolutePath {
    type Error = Unfit;

    fn try_from(text: String) -> Result<Self, Unfit> {
        text.parse()
    }
}

impl From<AbsolutePath> for String {
    fn from(path: AbsolutePath) -> Self {
        path.0
    }
}

#[cfg(test)]
mod tests {
    use super::AbsolutePath;

    #[test]
    fn one_place_has_one_text() {
        let plain = |text: &str| text.parse::<AbsolutePath>().map(|path| path.to_string());
        assert_eq!(plain("/dev/vg0/pg"), Ok("/dev/vg0/pg".to_owned()));
        assert_eq!(plain("/srv//./pg.img/"), Ok("/srv/pg.img".to_owned()));
    }

    #[test]
    fn a_path_that_depends_on_something_is_refused() {
        let long = format!("/{}", "x".repeat(4095));
        for bad in [
            "",
            "pg.img",
            "./pg",
            "~/pg",
            "/",
            "//",
            "/a/../b",
            "/a\0",
            "/a\n",
            "/a\u{202e}b",
            "/a\u{200f}",
            &long,
        ] {
            assert!(bad.parse::<AbsolutePath>().is_err(), "{bad:?}");
        }
    }
}
