//! Text of a peer: bounded, and without anything that a terminal or a log would act on.

use std::fmt;

use lockstep_protocol::disturbs;
use serde::{Deserialize, Deserializer, Serialize};

/// Most bytes that are kept; the rest is cut.
const MAX_BYTES: usize = 2048;

/// A sentence of a peer, cut, control characters and marks of direction replaced.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize)]
#[serde(transparent)]
pub struct Words(String);

impl Words {
    /// Words with this text.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(begin(text, MAX_BYTES).chars().map(plain).collect())
    }

    /// Their first bytes.
    pub(crate) fn cut(&self, bytes: usize) -> Self {
        Self(begin(&self.0, bytes).to_owned())
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// No more than so many bytes, to the end of a character.
fn begin(text: &str, bytes: usize) -> &str {
    let mut end = text.len().min(bytes);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Newlines of a program's output become spaces: a message is one line.
fn plain(c: char) -> char {
    match c {
        '\n' | '\t' | '\r' => ' ',
        c if disturbs(c) => '\u{fffd}',
        c => c,
    }
}

impl fmt::Display for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Words {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self::new(&String::deserialize(deserializer)?))
    }
}

#[cfg(test)]
mod tests {
    use super::{MAX_BYTES, Words};

    #[test]
    fn a_peers_text_is_cut_and_plain() {
        assert_eq!(Words::new("a\nb\u{1b}[31mc").as_str(), "a b\u{fffd}[31mc");
        for turns in [
            '\u{61c}', '\u{200e}', '\u{200f}', '\u{2028}', '\u{2029}', '\u{202e}',
        ] {
            assert_eq!(Words::new(&format!("x{turns}y")).as_str(), "x\u{fffd}y");
        }
        let long = "ä".repeat(MAX_BYTES);
        assert_eq!(Words::new(&long).as_str().len(), MAX_BYTES);
        let read: Words = serde_json::from_str(&format!("\"{long}\"")).unwrap();
        assert_eq!(read.as_str().len(), MAX_BYTES);
    }
}
