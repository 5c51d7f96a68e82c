//! The demo's volumes: data like a real disk's, made quickly and the same every time.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// A stretch of one kind of data, in bytes.
const STRETCH: usize = 1 << 20;
const PAGE: u64 = 4096;
/// One page in this many has drifted.
const PAGES_PER_DRIFTED: u64 = 100;
const SEED: u64 = 0x9e37_79b9_7f4a_7c15;

/// How a secondary has drifted from the primary.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Drift {
    /// Single pages all over it have other bytes.
    ScatteredPages,
    /// There are only zeros from its middle on.
    LaterHalfMissing,
}

/// What a stretch is filled with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Text,
    Random,
    Zero,
}

/// Of ten stretches, in turn.
const KINDS: [Kind; 10] = [
    Kind::Text,
    Kind::Random,
    Kind::Text,
    Kind::Text,
    Kind::Zero,
    Kind::Text,
    Kind::Random,
    Kind::Text,
    Kind::Random,
    Kind::Zero,
];

const WORDS: [&str; 16] = [
    "insert ",
    "update ",
    "account ",
    "balance ",
    "branch ",
    "teller ",
    "history ",
    "2026-01-02 ",
    "10:20:30 ",
    "commit\n",
    "checkpoint ",
    "page ",
    "tuple ",
    "index ",
    "vacuum ",
    "ok\n",
];

/// Makes the primary: text that compresses, random bytes that do not, and holes.
pub(super) fn primary(path: &Path, size: u64) -> io::Result<()> {
    let file = File::create_new(path)?;
    file.set_len(size)?;
    let mut random = XorShift(SEED);
    let mut stretch = vec![0; STRETCH];
    for (number, offset) in (0..size).step_by(STRETCH).enumerate() {
        match KINDS[number % KINDS.len()] {
            Kind::Text => fill_text(&mut stretch, &mut random),
            Kind::Random => random.fill(&mut stretch),
            Kind::Zero => continue,
        }
        let length = usize::try_from(size - offset)
            .unwrap_or(STRETCH)
            .min(STRETCH);
        file.write_all_at(&stretch[..length], offset)?;
    }
    Ok(())
}

/// Makes a secondary that was once equal to the primary.
pub(super) fn secondary(primary: &Path, path: &Path, drift: Drift) -> io::Result<()> {
    let size = fs::copy(primary, path)?;
    let file = File::options().write(true).open(path)?;
    match drift {
        Drift::ScatteredPages => scatter(&file, size),
        Drift::LaterHalfMissing => {
            file.set_len(size / 2 / PAGE * PAGE)?;
            file.set_len(size)
        }
    }
}

fn scatter(file: &File, size: u64) -> io::Result<()> {
    let pages = size / PAGE;
    let mut random = XorShift(!SEED);
    let mut page = [0; PAGE as usize];
    for _ in 0..pages.div_ceil(PAGES_PER_DRIFTED) {
        random.fill(&mut page);
        file.write_all_at(&page, random.next() % pages * PAGE)?;
    }
    Ok(())
}

fn fill_text(stretch: &mut [u8], random: &mut XorShift) {
    let mut at = 0;
    while at < stretch.len() {
        let mut choice = random.next();
        // Sixteen words out of one number: four bits each.
        for _ in 0..16 {
            let word = WORDS[(choice & 15) as usize].as_bytes();
            let length = word.len().min(stretch.len() - at);
            stretch[at..at + length].copy_from_slice(&word[..length]);
            at += length;
            choice >>= 4;
        }
    }
}

/// Marsaglia's xorshift64 (2003): fast, and random enough not to compress.
struct XorShift(u64);

impl XorShift {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let number = self.next().to_le_bytes();
            chunk.copy_from_slice(&number[..chunk.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Drift, PAGE, primary, secondary};
    use std::fs;

    const SIZE: u64 = 12 << 20;

    #[test]
    fn secondaries_drift_as_they_are_said_to() {
        let folder = tempfile::tempdir().unwrap();
        let [a, b, c] = ["a", "b", "c"].map(|name| folder.path().join(name));
        primary(&a, SIZE).unwrap();
        secondary(&a, &b, Drift::ScatteredPages).unwrap();
        secondary(&a, &c, Drift::LaterHalfMissing).unwrap();
        let [a, b, c] = [a, b, c].map(|file| fs::read(file).unwrap());
        assert_eq!(a.len() as u64, SIZE);
        let pages = |bytes: &[u8]| {
            bytes
                .chunks(PAGE as usize)
                .map(<[u8]>::to_vec)
                .collect::<Vec<_>>()
        };
        let drifted = pages(&a)
            .iter()
            .zip(pages(&b))
            .filter(|(a, b)| *a != b)
            .count();
        assert!((20..=31).contains(&drifted), "{drifted} pages drifted");
        let half = a.len() / 2;
        assert_eq!(c[..half], a[..half]);
        assert!(c[half..].iter().all(|byte| *byte == 0) && c.len() == a.len());
    }

    #[test]
    fn the_primary_has_text_noise_and_holes() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a");
        primary(&file, SIZE).unwrap();
        let bytes = fs::read(file).unwrap();
        assert!(bytes[..100].iter().all(u8::is_ascii));
        assert!(!bytes[1 << 20..][..100].iter().all(u8::is_ascii));
        assert!(bytes[4 << 20..5 << 20].iter().all(|byte| *byte == 0));
    }
}
