//! Geometry, chaining values, folding and comparison of chunked BLAKE3 trees.
//!
//! Promise: the root folded here is exactly what `b3sum` prints for the volume's bytes, for every
//! length, and nothing in this crate touches a file, a socket or a clock.
//!
//! ```text
//!                       root                    BLAKE3 hash of the whole volume
//!                   ┌────┴─────┐
//!                parent      parent             fold.rs: left-balanced, an odd last one moves up
//!               ┌──┴──┐     ┌──┴──┐
//!              cv0   cv1   cv2   cv3 …          cv.rs: one chaining value per 64 KiB group
//!              │
//!   group 0 = │page 0│page 1│ … │page 15│       page_cv.rs: 4 KiB subtrees, which make a group's value
//!                                               page.rs: digests, which find differing pages
//!   extent 0 = groups 0..16 = 1 MiB             geometry.rs: the unit of I/O and of transfer
//! ```
//!
//! The tree is that of section 2.1 of the [BLAKE3 paper]; a group is an aligned subtree of 64
//! chunks, so its chaining value is an inner node of the volume's own tree and not a hash of our
//! making.
//!
//! [BLAKE3 paper]: https://github.com/BLAKE3-team/BLAKE3-specs/blob/master/blake3.pdf
#![cfg_attr(
    test,
    expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")
)]

mod compare;
mod cv;
mod fold;
mod geometry;
mod hash;
mod page;
mod page_cv;
mod set;
mod table;
mod zero;

pub use compare::{Run, RunKind, compare};
pub use cv::{Cv, ParseRootError, Root};
pub use fold::{Fold, FoldError, fold, fold_pages};
pub use geometry::{
    EXTENT_SIZE, ExtentIndex, GROUP_SIZE, GROUPS_PER_EXTENT, Geometry, GroupIndex, MAX_VOLUME_SIZE,
    PAGE_SIZE, PAGES_PER_EXTENT, PAGES_PER_GROUP, PageIndex,
};
pub use hash::{ExtentCvs, extent_cvs, group_cv, par_extent_cvs, zero_extent_cvs, zero_group_cv};
pub use page::{PageDigest, PageSeed, page_digest};
pub use page_cv::{group_cv_of_pages, page_cvs, page_cvs_in_extent, zero_page_cvs};
pub use set::{GroupSet, PageSet};
pub use table::{CvTable, MemoryCvs};
pub use zero::is_zero;
