//! The zero test.

/// Words per look: with an exit after each 256 bytes, data costs one look and zeros run at memory
/// speed.
const WORDS: usize = 32;
const BLOCK: usize = WORDS * size_of::<u64>();

/// Whether every byte is zero; true of no bytes.
///
/// Looks at every byte. Cleverer tests (sampling, comparing a buffer with itself shifted) have cost
/// others their data, for a gain that the memory bus hides anyway.
pub fn is_zero(bytes: &[u8]) -> bool {
    let (blocks, tail) = bytes.as_chunks::<BLOCK>();
    blocks.iter().all(block_is_zero) && tail.iter().fold(0, |or, byte| or | byte) == 0
}

/// Safe and branch-free, so that the compiler makes vector instructions of it at any alignment.
fn block_is_zero(block: &[u8; BLOCK]) -> bool {
    let (words, []) = block.as_chunks::<8>() else {
        return false;
    };
    words
        .iter()
        .fold(0, |or, word| or | u64::from_ne_bytes(*word))
        == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTHS: [usize; 12] = [1, 7, 8, 9, 255, 256, 257, 511, 512, 4095, 4096, 4099];

    #[test]
    fn one_set_bit_at_any_position_of_any_length_is_seen() {
        for len in LENGTHS {
            let mut bytes = vec![0; len];
            assert!(is_zero(&bytes));
            for at in 0..len {
                for bit in [0x01, 0x80] {
                    bytes[at] = bit;
                    assert!(!is_zero(&bytes), "byte {at} of {len}");
                }
                bytes[at] = 0;
            }
        }
    }

    #[test]
    fn bytes_around_an_unaligned_slice_do_not_count() {
        for start in 1..16 {
            let mut bytes = vec![0xff; 4096 + 17];
            let zeros = start..start + 4096;
            bytes[zeros.clone()].fill(0);
            assert!(is_zero(&bytes[zeros]));
            assert!(!is_zero(&bytes[start..start + 4097]));
            assert!(!is_zero(&bytes[start - 1..start + 4096]));
        }
    }

    #[test]
    fn values_that_cancel_in_a_sum_do_not_cancel_here() {
        let mut bytes = vec![0; 512];
        (bytes[3], bytes[67]) = (0x80, 0x80);
        assert!(!is_zero(&bytes));
        assert!(is_zero(&[]));
    }
}
