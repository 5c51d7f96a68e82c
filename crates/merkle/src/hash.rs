//! From bytes to chaining values: the only place that hashes a volume's data.

use std::ops::Deref;

use blake3::Hasher;
use blake3::hazmat::HasherExt;
use rayon::iter::{IndexedParallelIterator, IntoParallelRefMutIterator, ParallelIterator};

use crate::cv::Cv;
use crate::geometry::{
    EXTENT_SIZE, ExtentIndex, GROUP_SIZE, GROUPS_PER_EXTENT, Geometry, GroupIndex,
};

static ZEROS: [u8; EXTENT_SIZE] = [0; EXTENT_SIZE];

/// Chaining value of one group of the volume.
///
/// A volume of at most one group has no inner node: its only "chaining value" is the root hash
/// itself, which [`fold`](crate::fold) passes through. The tail of a volume is hashed at its true
/// length, never padded.
///
/// # Panics
/// If the group lies outside the volume or `bytes` is not exactly the group: a caller's mistake,
/// which would otherwise yield the hash of some other volume.
pub fn group_cv(geometry: Geometry, index: GroupIndex, bytes: &[u8]) -> Cv {
    let range = geometry.group_range(index);
    assert!(!range.is_empty(), "group {index} lies outside the volume");
    assert_eq!(
        bytes.len(),
        geometry.group_len(index),
        "bytes of group {index}"
    );
    if geometry.group_count() == 1 {
        return Cv::from_bytes(*blake3::hash(bytes).as_bytes());
    }
    let mut hasher = Hasher::new();
    hasher.set_input_offset(range.start).update(bytes);
    Cv::from_bytes(hasher.finalize_non_root())
}

/// Chaining value of a group which is all zeros, without reading it.
///
/// Hashed from a static buffer and never cached: a chaining value depends on its position.
///
/// # Panics
/// If the group lies outside the volume.
pub fn zero_group_cv(geometry: Geometry, index: GroupIndex) -> Cv {
    group_cv(geometry, index, &ZEROS[..geometry.group_len(index)])
}

/// Chaining values of the groups of one extent, in order; `bytes` is exactly that extent.
///
/// # Panics
/// If the extent lies outside the volume or `bytes` has another length than the extent.
pub fn extent_cvs(geometry: Geometry, extent: ExtentIndex, bytes: &[u8]) -> ExtentCvs {
    let mut cvs = ExtentCvs::blank(geometry, extent, bytes);
    for ((cv, group), bytes) in cvs
        .filled_mut()
        .iter_mut()
        .zip(0..)
        .zip(bytes.chunks(GROUP_SIZE))
    {
        *cv = nth_group_cv(geometry, extent, group, bytes);
    }
    cvs
}

/// [`extent_cvs`] spread over rayon's current pool, for a caller with one extent at a time.
///
/// The split is by group: below 128 KiB a call BLAKE3's own `update_rayon` costs more than it
/// gives.
///
/// # Panics
/// As [`extent_cvs`].
pub fn par_extent_cvs(geometry: Geometry, extent: ExtentIndex, bytes: &[u8]) -> ExtentCvs {
    let mut cvs = ExtentCvs::blank(geometry, extent, bytes);
    cvs.filled_mut()
        .par_iter_mut()
        .enumerate()
        .for_each(|(group, cv)| {
            let start = group * GROUP_SIZE;
            let end = bytes.len().min(start + GROUP_SIZE);
            *cv = nth_group_cv(geometry, extent, group as u64, &bytes[start..end]);
        });
    cvs
}

/// [`extent_cvs`] of an extent which is all zeros, without reading it.
///
/// # Panics
/// If the extent lies outside the volume.
pub fn zero_extent_cvs(geometry: Geometry, extent: ExtentIndex) -> ExtentCvs {
    extent_cvs(geometry, extent, &ZEROS[..geometry.extent_len(extent)])
}

/// Chaining values of one extent, in order of its groups: 1 to 16, on the stack.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ExtentCvs {
    cvs: [Cv; GROUPS_PER_EXTENT],
    len: usize,
}

impl ExtentCvs {
    fn blank(geometry: Geometry, extent: ExtentIndex, bytes: &[u8]) -> Self {
        let len = geometry.groups_in(extent);
        assert!(len > 0, "extent {extent} lies outside the volume");
        assert_eq!(
            bytes.len(),
            geometry.extent_len(extent),
            "bytes of extent {extent}"
        );
        let cvs = [Cv::from_bytes([0; 32]); GROUPS_PER_EXTENT];
        Self { cvs, len }
    }

    fn filled_mut(&mut self) -> &mut [Cv] {
        &mut self.cvs[..self.len]
    }
}

impl Deref for ExtentCvs {
    type Target = [Cv];

    fn deref(&self) -> &[Cv] {
        &self.cvs[..self.len]
    }
}

/// `group` counts from the start of the extent.
fn nth_group_cv(geometry: Geometry, extent: ExtentIndex, group: u64, bytes: &[u8]) -> Cv {
    let first = geometry.groups_of(extent).start;
    group_cv(geometry, GroupIndex(first + group), bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_bytes_at_two_places_have_two_chaining_values() {
        let geometry = Geometry::new(2 * GROUP_SIZE as u64);
        assert_ne!(
            zero_group_cv(geometry, GroupIndex(0)),
            zero_group_cv(geometry, GroupIndex(1))
        );
    }

    #[test]
    fn the_one_group_of_a_small_volume_carries_the_root() {
        let geometry = Geometry::new(5);
        let cv = group_cv(geometry, GroupIndex(0), b"bytes");
        assert_eq!(cv.as_bytes(), blake3::hash(b"bytes").as_bytes());
    }

    #[test]
    #[should_panic(expected = "bytes of group 1")]
    fn a_padded_tail_is_refused() {
        let geometry = Geometry::new(GROUP_SIZE as u64 + 1);
        group_cv(geometry, GroupIndex(1), &ZEROS[..GROUP_SIZE]);
    }

    #[test]
    #[should_panic(expected = "group 2 lies outside the volume")]
    fn a_group_past_the_end_is_refused() {
        zero_group_cv(Geometry::new(2 * GROUP_SIZE as u64), GroupIndex(2));
    }

    #[test]
    #[should_panic(expected = "bytes of extent 0")]
    fn a_short_extent_is_refused() {
        extent_cvs(
            Geometry::new(EXTENT_SIZE as u64),
            ExtentIndex(0),
            &ZEROS[1..],
        );
    }

    #[test]
    #[should_panic(expected = "extent 0 lies outside the volume")]
    fn an_empty_volume_has_no_extent() {
        par_extent_cvs(Geometry::new(0), ExtentIndex(0), &[]);
    }
}
