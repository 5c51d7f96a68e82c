//! Why a link no longer carries frames.

/// Longest text taken over from the other end, in characters.
pub(crate) const MAX_QUOTE: usize = 300;

/// Why a link no longer carries frames. Texts from the other end are escaped and cut to 300 characters.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// One of the two ends closed the link on purpose.
    #[error("link closed: {reason}")]
    Closed {
        /// What that end gave as its reason.
        reason: String,
    },
    /// The other end can no longer be reached, or vanished without a word.
    #[error("link lost: {what}")]
    Lost {
        /// What was observed: an idle timeout, a reset, the end of a pipe.
        what: String,
    },
    /// The other end sent what it must not send; this end closed the link.
    #[error("the other end broke the rules of the link: {what}")]
    Violation {
        /// The rule and the offending value.
        what: String,
    },
    /// The caller's frame is larger than its lane carries; nothing was sent and the link is unharmed.
    #[error("{lane} frame of {len} bytes is larger than the limit of {limit}")]
    TooLarge {
        /// `control` or `bulk`.
        lane: &'static str,
        /// Length of the frame in bytes.
        len: usize,
        /// [`MAX_CONTROL_FRAME`](crate::MAX_CONTROL_FRAME) or [`MAX_BULK_FRAME`](crate::MAX_BULK_FRAME).
        limit: usize,
    },
}

impl LinkError {
    pub(crate) fn closed(reason: impl AsRef<str>) -> Self {
        Self::Closed {
            reason: quoted(reason.as_ref()),
        }
    }

    pub(crate) fn lost(what: impl Into<String>) -> Self {
        Self::Lost { what: what.into() }
    }

    pub(crate) fn violation(what: impl Into<String>) -> Self {
        Self::Violation { what: what.into() }
    }

    /// What the other end is told when this end stops for this reason.
    pub(crate) fn last_word(&self) -> String {
        let word = match self {
            Self::Closed { reason } => reason.clone(),
            Self::Violation { what } => format!("refused: {what}"),
            other => other.to_string(),
        };
        word.chars().take(MAX_QUOTE).collect()
    }
}

/// `text` fit for one line of a log or a terminal: control characters escaped, cut to [`MAX_QUOTE`] characters.
pub(crate) fn quoted(text: &str) -> String {
    let mut out = String::new();
    for (count, character) in text.chars().enumerate() {
        if count == MAX_QUOTE {
            out.push('…');
            break;
        }
        if character.is_control() || is_text_direction(character) {
            out.extend(character.escape_default());
        } else {
            out.push(character);
        }
    }
    out
}

/// Characters that reorder or hide the text around them on a terminal (Unicode TR 9, and zero-width ones).
fn is_text_direction(character: char) -> bool {
    matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::{LinkError, quoted};

    #[test]
    fn what_the_other_end_says_cannot_move_the_cursor_or_flood_the_log() {
        assert_eq!(quoted("\u{1b}[2Jgone\r\n"), "\\u{1b}[2Jgone\\r\\n");
        assert_eq!(quoted("a\u{202e}b"), "a\\u{202e}b");
        assert_eq!(quoted("Zürich: voll"), "Zürich: voll");
        assert_eq!(quoted(&"x".repeat(10_000)).chars().count(), 301);
        let LinkError::Closed { reason } = LinkError::closed("tab\there") else {
            panic!("not closed")
        };
        assert_eq!(reason, "tab\\there");
    }
}
