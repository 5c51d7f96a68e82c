//! Laying an image's bytes over a target that cannot share them: what is equal stays as it is, so that
//! a thin volume goes on to share it with its snapshot.

use std::ops::Range;

use lockstep_merkle::{EXTENT_SIZE, PAGE_SIZE, is_zero};
use lockstep_volume::{IoFailure, Volume};

/// Writes what differs from the image, and flushes. The image may be longer than the target.
/// Returns how many bytes differed.
pub(super) fn copy(image: &dyn Volume, target: &dyn Volume) -> Result<u64, IoFailure> {
    let mut copied = 0;
    extents(target.size(), |range, wanted, own| {
        image.read_at(range.start, wanted)?;
        target.read_at(range.start, own)?;
        for run in differing(wanted, own) {
            let bytes = &wanted[run.clone()];
            let place = range.start + run.start as u64..range.start + run.end as u64;
            match is_zero(bytes) {
                true => target.zero(place.clone())?,
                false => target.write_at(place.start, bytes)?,
            }
            target.start_writeback(place);
            copied += bytes.len() as u64;
        }
        Ok(true)
    })?;
    target.flush()?;
    Ok(copied)
}

/// Whether the medium holds the same bytes as the image.
pub(super) fn is_equal(image: &dyn Volume, target: &dyn Volume) -> Result<bool, IoFailure> {
    extents(target.size(), |range, wanted, own| {
        image.read_at(range.start, wanted)?;
        target.read_back(range.start, own)?;
        Ok(wanted == own)
    })
}

/// Each extent in turn, with two buffers of its length, until one is told to be the last.
fn extents(
    size: u64,
    mut each: impl FnMut(Range<u64>, &mut [u8], &mut [u8]) -> Result<bool, IoFailure>,
) -> Result<bool, IoFailure> {
    let (mut one, mut other) = (vec![0; EXTENT_SIZE], vec![0; EXTENT_SIZE]);
    for start in (0..size).step_by(EXTENT_SIZE) {
        let range = start..size.min(start + EXTENT_SIZE as u64);
        let length = (range.end - range.start) as usize;
        if !each(range, &mut one[..length], &mut other[..length])? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Runs of whole pages in which the two differ; zeros and data are never in one run.
fn differing(wanted: &[u8], own: &[u8]) -> Vec<Range<usize>> {
    let mut runs: Vec<(Range<usize>, bool)> = Vec::new();
    let pages = wanted.chunks(PAGE_SIZE).zip(own.chunks(PAGE_SIZE));
    for (number, (wanted, own)) in pages.enumerate() {
        if wanted == own {
            continue;
        }
        let start = number * PAGE_SIZE;
        let (end, zero) = (start + wanted.len(), is_zero(wanted));
        match runs.last_mut() {
            Some((run, was_zero)) if run.end == start && *was_zero == zero => run.end = end,
            _ => runs.push((start..end, zero)),
        }
    }
    runs.into_iter().map(|(run, _)| run).collect()
}

#[cfg(test)]
mod tests {
    use super::{copy, differing, is_equal};
    use lockstep_merkle::{EXTENT_SIZE, PAGE_SIZE};
    use lockstep_volume::Volume;
    use lockstep_volume::faults::MemoryVolume;

    fn contents(seed: usize, size: usize) -> Vec<u8> {
        (0..size).map(|at| ((at / 7 + seed) % 251) as u8).collect()
    }

    fn read(volume: &MemoryVolume) -> Vec<u8> {
        let mut bytes = vec![0; volume.size() as usize];
        volume.read_back(0, &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn a_target_of_any_size_gets_the_bytes_of_its_image() {
        let page = PAGE_SIZE;
        for size in [
            0,
            1,
            page,
            page + 1,
            EXTENT_SIZE,
            2 * EXTENT_SIZE + 3 * page + 17,
        ] {
            let mut old = contents(1, size);
            let mut new = old.clone();
            for at in (0..size).step_by(5 * page) {
                new[at] ^= 0xff;
            }
            // Zeros where there are none, and none where there are.
            let third = size / 3;
            old[..third].fill(0);
            new[2 * third..].fill(0);
            // The image of a volume of which a run may touch only the beginning.
            let longer = [&old[..], &[7; 999]].concat();
            let (image, target) = (
                MemoryVolume::with_content(longer),
                MemoryVolume::with_content(new.clone()),
            );
            assert_eq!(is_equal(&image, &target).unwrap(), old == new, "{size}");
            let copied = copy(&image, &target).unwrap();
            assert!(read(&target) == old, "{size}");
            assert!(is_equal(&image, &target).unwrap(), "{size}");
            let differed = old.chunks(page).zip(new.chunks(page));
            let differed = differed.filter(|(old, new)| old != new);
            let bytes: usize = differed.map(|(old, _)| old.len()).sum();
            assert_eq!(copied, bytes as u64, "{size}");
            assert_eq!(
                copy(&image, &target).unwrap(),
                0,
                "what is equal is not written"
            );
        }
    }

    #[test]
    fn what_is_written_is_no_longer_than_it_must_be() {
        let page = PAGE_SIZE;
        let own = vec![1; 8 * page];
        let mut wanted = own.clone();
        wanted[page..3 * page].fill(2);
        wanted[3 * page..4 * page].fill(0);
        wanted[7 * page + 5] = 9;
        assert_eq!(
            differing(&wanted, &own),
            [page..3 * page, 3 * page..4 * page, 7 * page..8 * page]
        );
    }
}
