//! Two rows of chaining values as maximal runs of equal and different groups.

use std::iter::{Fuse, Peekable};
use std::ops::Range;

use crate::cv::Cv;

/// Compares two volumes group by group, from the first group on.
///
/// The runs are maximal and tile the longer of the two; `LeftOnly` or `RightOnly` can only be the
/// last. Two volumes of different sizes differ at the end of the shorter one, if that is not a
/// multiple of the group, and everywhere if only one of them fits in a single group (whose value is
/// a root, see [`group_cv`](crate::group_cv)).
pub fn compare(
    left: impl IntoIterator<Item = Cv>,
    right: impl IntoIterator<Item = Cv>,
) -> impl Iterator<Item = Run> {
    Runs {
        kinds: Kinds {
            left: left.into_iter().fuse(),
            right: right.into_iter().fuse(),
        }
        .peekable(),
        at: 0,
    }
}

/// A maximal stretch of groups of one kind.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Run {
    /// What holds for every group of the run.
    pub kind: RunKind,
    /// Numbers of its groups.
    pub groups: Range<u64>,
}

/// What a comparison found for a group.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum RunKind {
    /// Both sides have it and it is equal.
    Same,
    /// Both sides have it and it is different.
    Differ,
    /// The right side ended before it.
    LeftOnly,
    /// The left side ended before it.
    RightOnly,
}

struct Runs<L: Iterator<Item = Cv>, R: Iterator<Item = Cv>> {
    kinds: Peekable<Kinds<L, R>>,
    at: u64,
}

impl<L: Iterator<Item = Cv>, R: Iterator<Item = Cv>> Iterator for Runs<L, R> {
    type Item = Run;

    fn next(&mut self) -> Option<Run> {
        let start = self.at;
        let kind = self.kinds.next()?;
        self.at += 1;
        while self.kinds.next_if_eq(&kind).is_some() {
            self.at += 1;
        }
        Some(Run {
            kind,
            groups: start..self.at,
        })
    }
}

struct Kinds<L, R> {
    left: Fuse<L>,
    right: Fuse<R>,
}

impl<L: Iterator<Item = Cv>, R: Iterator<Item = Cv>> Iterator for Kinds<L, R> {
    type Item = RunKind;

    fn next(&mut self) -> Option<RunKind> {
        match (self.left.next(), self.right.next()) {
            (Some(left), Some(right)) if left == right => Some(RunKind::Same),
            (Some(_), Some(_)) => Some(RunKind::Differ),
            (Some(_), None) => Some(RunKind::LeftOnly),
            (None, Some(_)) => Some(RunKind::RightOnly),
            (None, None) => None,
        }
    }
}
