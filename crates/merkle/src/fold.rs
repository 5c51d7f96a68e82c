//! From chaining values to the root: BLAKE3's left-balanced tree above the groups, or the pages.

use blake3::hazmat::{Mode, merge_subtrees_non_root, merge_subtrees_root};

use crate::cv::{Cv, Root};
use crate::geometry::Geometry;

/// Subtrees open at once: one for each bit of the number of groups taken so far.
const MAX_DEPTH: usize = 64;

/// The root of a volume from its groups' chaining values in order.
///
/// # Errors
/// [`FoldError`] if there are fewer or more values than the volume has groups; an endless iterator
/// is read one past the end and no further.
pub fn fold(geometry: Geometry, cvs: impl IntoIterator<Item = Cv>) -> Result<Root, FoldError> {
    Fold::new(geometry).all(cvs)
}

/// [`fold`] from the chaining values of the volume's pages.
///
/// # Errors
/// [`FoldError`] if there are fewer or more values than the volume has pages.
pub fn fold_pages(
    geometry: Geometry,
    cvs: impl IntoIterator<Item = Cv>,
) -> Result<Root, FoldError> {
    Fold::of_pages(geometry).all(cvs)
}

/// Another number of chaining values than the volume has groups, or pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the volume's root is made of {expected} chaining values, but {got} came")]
pub struct FoldError {
    /// Groups, or pages, of the volume.
    pub expected: u64,
    /// Values taken; counting stops at one too many.
    pub got: u64,
}

/// A root being folded while its chaining values arrive in order.
///
/// Neighbours of equal height are merged only once a later value proves that they are not the last
/// two of all, because the topmost merge is another function than all others:
///
/// ```text
/// taken      stack                        merges before the next push
/// 1          a                            –
/// 2          a b                          a b → ab
/// 3          ab c                         – (c stays alone: an odd last one moves up)
/// 4          ab c d                       c d → cd, ab cd → abcd
/// ```
#[derive(Clone, Debug)]
pub struct Fold {
    expected: u64,
    got: u64,
    stack: Vec<[u8; 32]>,
}

impl Fold {
    /// Starts the root of a volume of this geometry, from its groups.
    pub fn new(geometry: Geometry) -> Self {
        Self::of(geometry.group_count())
    }

    /// The same from its pages: the tree above them is the one above the groups, four levels deeper.
    pub fn of_pages(geometry: Geometry) -> Self {
        Self::of(geometry.page_count())
    }

    fn of(expected: u64) -> Self {
        Self {
            expected,
            got: 0,
            stack: Vec::with_capacity(MAX_DEPTH),
        }
    }

    /// Takes the chaining value of the next group, or page.
    ///
    /// # Errors
    /// [`FoldError`] if the volume has no more.
    pub fn push(&mut self, cv: Cv) -> Result<(), FoldError> {
        if self.got == self.expected {
            return Err(FoldError {
                expected: self.expected,
                got: self.got.saturating_add(1),
            });
        }
        // A set bit of the count is one complete subtree, which nothing to come can change.
        while self.stack.len() > self.got.count_ones() as usize {
            self.merge_last_two();
        }
        self.stack.push(*cv.as_bytes());
        self.got += 1;
        Ok(())
    }

    /// The root, once every value was taken.
    ///
    /// # Errors
    /// [`FoldError`] if some are missing.
    pub fn finish(mut self) -> Result<Root, FoldError> {
        if self.got != self.expected {
            return Err(FoldError {
                expected: self.expected,
                got: self.got,
            });
        }
        while self.stack.len() > 2 {
            self.merge_last_two();
        }
        let root = match self.stack.as_slice() {
            [] => *blake3::hash(b"").as_bytes(),
            [only] => *only,
            [left, right, ..] => *merge_subtrees_root(left, right, Mode::Hash).as_bytes(),
        };
        Ok(Root::from_bytes(root))
    }

    fn all(mut self, cvs: impl IntoIterator<Item = Cv>) -> Result<Root, FoldError> {
        for cv in cvs {
            self.push(cv)?;
        }
        self.finish()
    }

    fn merge_last_two(&mut self) {
        if let (Some(right), Some(left)) = (self.stack.pop(), self.stack.pop()) {
            let parent = merge_subtrees_non_root(&left, &right, Mode::Hash);
            self.stack.push(parent);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::GROUP_SIZE;

    fn volume_of(groups: u64) -> Geometry {
        Geometry::new(groups * GROUP_SIZE as u64)
    }

    fn some_cvs() -> impl Iterator<Item = Cv> {
        (0..=u8::MAX).cycle().map(|byte| Cv::from_bytes([byte; 32]))
    }

    #[test]
    fn too_few_and_too_many_values_are_counted() {
        for groups in [0_u64, 1, 2, 3, 17, 64] {
            let short = groups.checked_sub(1);
            if let Some(got) = short {
                let error = fold(volume_of(groups), some_cvs().take(got as usize));
                assert_eq!(
                    error,
                    Err(FoldError {
                        expected: groups,
                        got
                    })
                );
            }
            let endless = fold(volume_of(groups), some_cvs());
            let got = groups + 1;
            assert_eq!(
                endless,
                Err(FoldError {
                    expected: groups,
                    got
                })
            );
        }
    }

    #[test]
    fn the_stack_stays_as_deep_as_the_tree() {
        let mut fold = Fold::new(volume_of(1 << 12));
        for (taken, cv) in (1_u64..=1 << 12).zip(some_cvs()) {
            fold.push(cv).unwrap();
            assert!(fold.stack.len() <= taken.ilog2() as usize + 1, "{taken}");
        }
        assert_eq!(fold.stack.capacity(), MAX_DEPTH);
    }

    #[test]
    fn the_order_of_the_values_matters() {
        let cvs: Vec<Cv> = some_cvs().take(5).collect();
        let straight = fold(volume_of(5), cvs.iter().copied());
        let swapped = fold(volume_of(5), cvs.iter().rev().copied());
        assert_ne!(straight, swapped);
    }
}
