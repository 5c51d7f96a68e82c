//! Text that may have come from another machine.

use std::fmt;

use lockstep_protocol::disturbs;
use serde::{Deserialize, Serialize};

/// Longest line, in bytes.
pub const MAX_LINE_BYTES: usize = 512;

/// One line of text: cut, and without anything that ends a line, steers a terminal or turns the
/// order of characters around. So no text of a peer can add a header to a mail.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct Line(String);

impl Line {
    /// Makes any text fit.
    #[must_use]
    pub fn new(text: &str) -> Self {
        const CUT: &str = "...";
        let mut kept = String::new();
        for character in text.chars() {
            let safe = if disturbs(character) { '?' } else { character };
            if kept.len() + safe.len_utf8() > MAX_LINE_BYTES - CUT.len() {
                kept.push_str(CUT);
                break;
            }
            kept.push(safe);
        }
        Self(kept)
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<String> for Line {
    fn from(text: String) -> Self {
        // What was cut once stays as it is.
        match text.len() <= MAX_LINE_BYTES && !text.contains(disturbs) {
            true => Self(text),
            false => Self::new(&text),
        }
    }
}

impl From<&str> for Line {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

impl From<Line> for String {
    fn from(line: Line) -> Self {
        line.0
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::{Line, MAX_LINE_BYTES};
    use proptest::prelude::{any, proptest};

    #[test]
    fn what_could_end_a_line_does_not() {
        let line = Line::new("full\r\nBcc: x@y\u{1b}[2J\u{202e}txt\u{2028}.");
        assert_eq!(line.as_str(), "full??Bcc: x@y?[2J?txt?.");
    }

    proptest! {
        #[test]
        fn any_text_becomes_one_short_line_and_stays_it(text in any::<String>(), times in 1_usize..40) {
            let line = Line::new(&text.repeat(times));
            assert!(line.as_str().len() <= MAX_LINE_BYTES);
            assert!(!line.as_str().contains(lockstep_protocol::disturbs));
            assert_eq!(Line::from(String::from(line.clone())), line);
        }
    }
}
