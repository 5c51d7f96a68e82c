//! Digests of 4 KiB pages, which find the differing pages of a differing group.

use twox_hash::XxHash3_128;

use crate::cv::Cv;

/// Digest of one page: under the seed of one run, or from its chaining value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageDigest(pub [u8; 16]);

/// The first half of a page's chaining value: a digest for a side that knows the values of its pages,
/// and need not read them.
///
/// No seed is needed: BLAKE3 is collision resistant, and as with [`page_digest`] a collision would be
/// found by the group's value.
impl From<Cv> for PageDigest {
    fn from(cv: Cv) -> Self {
        Self(std::array::from_fn(|byte| cv.as_bytes()[byte]))
    }
}

/// Random for every run, so that nobody can have stored two pages built to collide in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageSeed(pub u64);

/// XXH3-128 of a page under the run's seed, big-endian as its specification prints it.
///
/// It is a hint about what to ship, never the authority about what is equal: after a group was put
/// together its chaining value is checked, so a collision costs the repair of one group and cannot
/// leave a wrong byte behind. That makes a fast hash without proven collision resistance enough.
/// `page` may have any length; the last page of a volume has its true one.
///
/// Source: <https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md>
pub fn page_digest(seed: PageSeed, page: &[u8]) -> PageDigest {
    PageDigest(XxHash3_128::oneshot_with_seed(seed.0, page).to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::PAGE_SIZE;

    #[test]
    fn every_byte_and_the_length_and_the_seed_count() {
        let seed = PageSeed(7);
        let zero = page_digest(seed, &[0; PAGE_SIZE]);
        assert_ne!(zero, page_digest(PageSeed(8), &[0; PAGE_SIZE]));
        assert_ne!(zero, page_digest(seed, &[0; PAGE_SIZE - 1]));
        for at in 0..PAGE_SIZE {
            let mut page = [0; PAGE_SIZE];
            page[at] = 1;
            assert_ne!(zero, page_digest(seed, &page), "byte {at}");
        }
    }
}
