//! Mistakes in a file: all of them, each with its place, what is wrong, and what to do.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::value::Unfit;

/// Most mistakes that are listed of one file.
pub const MAX_MISTAKES: usize = 100;

/// A place in a file, both counted from 1, columns in characters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Position {
    /// The line.
    pub line: usize,
    /// The column.
    pub column: usize,
}

impl Position {
    /// The position of a byte.
    fn of(source: &[u8], offset: usize) -> Self {
        let before = &source[..offset.min(source.len())];
        let line_start = before
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |at| at + 1);
        let is_start = |byte: &&u8| **byte & 0xc0 != 0x80;
        Self {
            line: 1 + before.iter().filter(|byte| **byte == b'\n').count(),
            column: 1 + before[line_start..].iter().filter(is_start).count(),
        }
    }
}

/// One mistake.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mistake {
    /// Where it is.
    pub at: Position,
    /// What is wrong, as a lowercase fragment.
    pub what: String,
    /// What to do about it.
    pub remedy: String,
}

/// All mistakes of one file, in the order of their places; at least one.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub struct Mistakes {
    /// The file, as it was named.
    pub file: PathBuf,
    /// The first [`MAX_MISTAKES`] of them.
    pub list: Vec<Mistake>,
    /// How many more there are.
    pub left_out: usize,
}

impl Mistakes {
    /// How many there are, listed or not.
    #[must_use]
    pub fn count(&self) -> usize {
        self.list.len() + self.left_out
    }
}

/// `FILE:LINE:COLUMN: what is wrong; remedy`, one a line.
impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, Mistake { at, what, remedy }) in self.list.iter().enumerate() {
            let end = if number == 0 { "" } else { "\n" };
            let file = self.file.display();
            write!(f, "{end}{file}:{}:{}: {what}; {remedy}", at.line, at.column)?;
        }
        match self.left_out {
            0 => Ok(()),
            more => write!(f, "\nand {more} more"),
        }
    }
}

/// How a mistake stands to others of the same file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Sort {
    /// The text is not TOML there.
    Syntax,
    /// What is written there is wrong.
    Wrong,
    /// Something is not there; it may be, if the syntax is wrong.
    Missing,
}

#[derive(Debug)]
struct Note {
    sort: Sort,
    span: Range<usize>,
    unfit: Unfit,
}

/// Collects mistakes while a file is read.
#[derive(Debug)]
pub(super) struct Notes<'s> {
    source: &'s [u8],
    list: Vec<Note>,
}

impl<'s> Notes<'s> {
    pub(super) fn new(source: &'s [u8]) -> Self {
        Self {
            source,
            list: Vec::new(),
        }
    }

    /// The text is not TOML.
    pub(super) fn syntax(&mut self, span: Range<usize>, unfit: Unfit) {
        self.add(Sort::Syntax, span, unfit);
    }

    /// What is written there is wrong.
    pub(super) fn wrong(
        &mut self,
        span: &Range<usize>,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.unfit(span, Unfit::new(what, remedy));
    }

    /// What is written there does not fit.
    pub(super) fn unfit(&mut self, span: &Range<usize>, unfit: Unfit) {
        self.add(Sort::Wrong, span.clone(), unfit);
    }

    /// Something is not there, or is not what something else names.
    pub(super) fn missing(
        &mut self,
        span: &Range<usize>,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.add(Sort::Missing, span.clone(), Unfit::new(what, remedy));
    }

    fn add(&mut self, sort: Sort, span: Range<usize>, unfit: Unfit) {
        self.list.push(Note { sort, span, unfit });
    }

    /// Where something is, in words for another mistake.
    pub(super) fn line_of(&self, span: &Range<usize>) -> usize {
        Position::of(self.source, span.start).line
    }

    /// The mistakes of the file, if there is any.
    ///
    /// Wrong syntax hides what the rest of its line says, and what is missing may stand there: of
    /// such mistakes only those are told that the syntax cannot have caused.
    pub(super) fn into_mistakes(self, file: &Path) -> Option<Mistakes> {
        let line = |note: &Note| Position::of(self.source, note.span.start).line;
        let is_syntax = |note: &&Note| note.sort == Sort::Syntax;
        let broken: Vec<usize> = self.list.iter().filter(is_syntax).map(line).collect();
        let is_told = |note: &&Note| match note.sort {
            Sort::Syntax => true,
            Sort::Wrong => !broken.contains(&line(note)),
            Sort::Missing => broken.is_empty(),
        };
        let mut told: Vec<&Note> = self.list.iter().filter(is_told).collect();
        told.sort_by_key(|note| note.span.start);
        let mut list: Vec<Mistake> = Vec::new();
        for note in told {
            let mistake = Mistake {
                at: Position::of(self.source, note.span.start),
                what: note.unfit.what.clone(),
                remedy: note.unfit.remedy.clone(),
            };
            if !list.contains(&mistake) {
                list.push(mistake);
            }
        }
        let left_out = list.len().saturating_sub(MAX_MISTAKES);
        list.truncate(MAX_MISTAKES);
        (!list.is_empty()).then(|| Mistakes {
            file: file.to_owned(),
            list,
            left_out,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position(offset: usize) -> (usize, usize) {
        let at = Position::of("a\nbé = 1\n".as_bytes(), offset);
        (at.line, at.column)
    }

    #[test]
    fn columns_count_characters() {
        assert_eq!(position(0), (1, 1));
        assert_eq!(position(2), (2, 1));
        assert_eq!(position(5), (2, 3), "é is two bytes and one column");
        assert_eq!(position(99), (3, 1));
    }

    #[test]
    fn wrong_syntax_hides_what_it_may_have_caused() {
        let mut notes = Notes::new(b"one\ntwo\nthree\n");
        let unfit = |what: &str| Unfit::new(what, "r");
        notes.missing(&(8..9), "a", "r");
        notes.unfit(&(9..10), unfit("b"));
        notes.unfit(&(1..2), unfit("c"));
        notes.syntax(0..1, unfit("d"));
        let told = notes.into_mistakes(Path::new("f")).unwrap();
        assert_eq!(told.to_string(), "f:1:1: d; r\nf:3:2: b; r");
    }

    #[test]
    fn the_same_is_said_once_and_too_much_is_counted() {
        let source = "x\n".repeat(200);
        let mut notes = Notes::new(source.as_bytes());
        for line in 0..150 {
            notes.wrong(&(2 * line..2 * line + 1), "w", "r");
            notes.wrong(&(2 * line..2 * line + 1), "w", "r");
        }
        let told = notes.into_mistakes(Path::new("f")).unwrap();
        assert_eq!(
            (told.list.len(), told.left_out, told.count()),
            (MAX_MISTAKES, 50, 150)
        );
        assert!(told.to_string().ends_with("\nand 50 more"));
        assert!(Notes::new(b"").into_mistakes(Path::new("f")).is_none());
    }
}
