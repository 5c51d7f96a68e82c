//! Two volumes that differ in one of the ways in which volumes differ.

use std::sync::OnceLock;

use lockstep_merkle::{GROUP_SIZE, PAGE_SIZE};

use crate::random::Random;

const MIB: usize = 1 << 20;
const MAX_SIZE: usize = 5 * MIB;

/// Sizes around every edge of the geometry.
const EDGES: [usize; 13] = [
    0,
    1,
    PAGE_SIZE - 1,
    PAGE_SIZE,
    PAGE_SIZE + 1,
    GROUP_SIZE - 1,
    GROUP_SIZE,
    GROUP_SIZE + 1,
    MIB - 1,
    MIB,
    MIB + 1,
    2 * MIB - 512,
    2 * MIB + GROUP_SIZE,
];

/// How the target differs from the source.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Difference {
    Identical,
    ScatteredBytes,
    ScatteredPages,
    Stretch,
    BlankTarget,
    BlankSource,
    Everywhere,
}

pub(crate) const DIFFERENCES: [Difference; 7] = [
    Difference::Identical,
    Difference::ScatteredBytes,
    Difference::ScatteredPages,
    Difference::Stretch,
    Difference::BlankTarget,
    Difference::BlankSource,
    Difference::Everywhere,
];

pub(crate) struct Volumes {
    pub(crate) source: Vec<u8>,
    pub(crate) target: Vec<u8>,
}

/// Mostly small, because most of what can go wrong does not need many bytes.
pub(crate) fn some_size(random: &mut Random) -> usize {
    match random.below(8) {
        0..=2 => random.of(&EDGES),
        3..=5 => random.below(GROUP_SIZE * 6),
        6 => random.below(2 * MIB),
        _ => random.below(MAX_SIZE),
    }
}

pub(crate) fn volumes(random: &mut Random, size: usize, difference: Difference) -> Volumes {
    let source = match difference {
        Difference::BlankSource => vec![0; size],
        _ => pages(random, size),
    };
    let target = match difference {
        Difference::Everywhere | Difference::BlankSource => pages(random, size),
        Difference::BlankTarget => vec![0; size],
        _ => {
            let mut target = source.clone();
            drift(random, &mut target, difference);
            target
        }
    };
    Volumes { source, target }
}

fn drift(random: &mut Random, target: &mut [u8], difference: Difference) {
    if target.is_empty() {
        return;
    }
    match difference {
        Difference::ScatteredBytes => {
            for _ in 0..=random.below(20) {
                let at = random.below(target.len());
                target[at] ^= 1 << random.below(8);
            }
        }
        Difference::ScatteredPages => {
            for _ in 0..=random.below(40) {
                let at = random.below(target.len()) / PAGE_SIZE * PAGE_SIZE;
                let end = (at + PAGE_SIZE).min(target.len());
                fill(random, &mut target[at..end]);
            }
        }
        Difference::Stretch => {
            let (one, other) = (random.below(target.len()), random.below(target.len()));
            let stretch = &mut target[one.min(other)..one.max(other)];
            stretch
                .chunks_mut(PAGE_SIZE)
                .for_each(|page| fill(random, page));
        }
        _ => {}
    }
}

fn pages(random: &mut Random, size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    // Whole groups of zeros are as common as single pages of them.
    for group in bytes.chunks_mut(GROUP_SIZE) {
        if !random.percent(20) {
            group
                .chunks_mut(PAGE_SIZE)
                .for_each(|page| fill(random, page));
        }
    }
    bytes
}

/// A page of zeros now and then, otherwise noise.
fn fill(random: &mut Random, page: &mut [u8]) {
    if random.percent(15) {
        page.fill(0);
        return;
    }
    let noise = noise();
    let at = random.below(noise.len() - page.len());
    page.copy_from_slice(&noise[at..at + page.len()]);
}

fn noise() -> &'static [u8] {
    static NOISE: OnceLock<Vec<u8>> = OnceLock::new();
    NOISE.get_or_init(|| {
        let mut random = Random::new(1);
        (0..MIB / 8)
            .flat_map(|_| random.next().to_le_bytes())
            .collect()
    })
}

/// Bytes of the pages in which two volumes of one size differ, the last page at its true length.
pub(crate) fn differing(one: &[u8], other: &[u8]) -> u64 {
    assert_eq!(one.len(), other.len());
    let pages = one.chunks(PAGE_SIZE).zip(other.chunks(PAGE_SIZE));
    pages
        .filter(|(one, other)| one != other)
        .map(|(one, _)| one.len() as u64)
        .sum()
}

/// Bytes of the groups in which two volumes of one size differ.
pub(crate) fn differing_groups(one: &[u8], other: &[u8]) -> u64 {
    let groups = one.chunks(GROUP_SIZE).zip(other.chunks(GROUP_SIZE));
    groups
        .filter(|(one, other)| one != other)
        .map(|(one, _)| one.len() as u64)
        .sum()
}

/// Extents in which two volumes of one size differ.
pub(crate) fn differing_extents(one: &[u8], other: &[u8]) -> u64 {
    let extents = one.chunks(MIB).zip(other.chunks(MIB));
    extents.filter(|(one, other)| one != other).count() as u64
}
