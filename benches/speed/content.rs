//! What the measured bytes are.

use std::fmt::Write;

use lockstep_merkle::Cv;

/// Bytes that nothing compresses, always the same ones.
pub(crate) fn noise(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    bytes
}

/// Lines as a log or a table has them: they shrink to about a fifth.
pub(crate) fn rows(len: usize) -> Vec<u8> {
    let mut text = String::with_capacity(len + 100);
    let numbers = noise(len / 8 + 16);
    for (row, number) in numbers.as_chunks::<8>().0.iter().enumerate() {
        if text.len() >= len {
            break;
        }
        let number = u64::from_le_bytes(*number);
        let (user, amount) = (number % 100_000, number >> 44);
        writeln!(
            text,
            "{row:010} account {user:06} balance {amount:08} open since 2024-05-17"
        )
        .unwrap();
    }
    text.truncate(len);
    text.into_bytes()
}

/// Chaining values that mean nothing.
pub(crate) fn cvs(count: usize) -> Vec<Cv> {
    let words = noise(count * 32);
    words
        .as_chunks()
        .0
        .iter()
        .copied()
        .map(Cv::from_bytes)
        .collect()
}
