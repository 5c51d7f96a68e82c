//! 32 bytes as text that survives being read aloud, with a check that finds mistyped ones.
//!
//! ```text
//! bytes  0..32  the key
//!       32..35  the first bytes of BLAKE3 of the key, under the tag as its context
//! text  56 letters of a-z and 2-7 (RFC 4648, lower case), 5 bits each; none are left over
//! ```

const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
const KEY_BYTES: usize = 32;
const CHECK_BYTES: usize = 3;
/// Letters of one key.
pub(super) const LETTERS: usize = (KEY_BYTES + CHECK_BYTES) * 8 / 5;

/// Why a text is no key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum NoKey {
    /// Letters that it has, in place of [`LETTERS`].
    Length(usize),
    /// A character that is not in the alphabet.
    Letter(char),
    /// The check does not fit.
    Check,
}

/// Any number of bytes whose bits are a multiple of 5.
pub(super) fn letters(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 8 / 5);
    let (mut pending, mut bits) = (0_u32, 0);
    for byte in bytes {
        pending = pending << 8 | u32::from(*byte);
        bits += 8;
        while bits >= 5 {
            bits -= 5;
            text.push(char::from(ALPHABET[(pending >> bits & 31) as usize]));
        }
    }
    text
}

/// The text of a key.
pub(super) fn encode(key: &[u8; KEY_BYTES], tag: &str) -> String {
    letters(&[key.as_slice(), &check(key, tag)].concat())
}

/// The key of a text.
pub(super) fn decode(text: &str, tag: &str) -> Result<[u8; KEY_BYTES], NoKey> {
    let mut bytes = Vec::with_capacity(KEY_BYTES + CHECK_BYTES);
    let (mut pending, mut bits) = (0_u32, 0);
    for letter in text.chars() {
        let value = ALPHABET
            .iter()
            .position(|known| char::from(*known) == letter);
        let value = value
            .and_then(|at| u32::try_from(at).ok())
            .ok_or(NoKey::Letter(letter))?;
        pending = pending << 5 | value;
        bits += 5;
        if bits >= 8 {
            bits -= 8;
            bytes.push((pending >> bits & 255) as u8);
        }
    }
    let length = NoKey::Length(text.len());
    if text.len() != LETTERS {
        return Err(length);
    }
    let (key, checked) = bytes.split_first_chunk::<KEY_BYTES>().ok_or(length)?;
    match check(key, tag) == checked {
        true => Ok(*key),
        false => Err(NoKey::Check),
    }
}

fn check(key: &[u8; KEY_BYTES], tag: &str) -> [u8; CHECK_BYTES] {
    let hash = blake3::derive_key(tag, key);
    [hash[0], hash[1], hash[2]]
}

#[cfg(test)]
mod tests {
    use super::{LETTERS, NoKey, decode, encode, letters};
    use proptest::prelude::{any, proptest};

    #[test]
    fn the_letters_are_those_of_rfc_4648() {
        assert_eq!(letters(b"fooba"), "mzxw6ytb");
    }

    #[test]
    fn other_lengths_and_letters_are_told_apart() {
        let text = encode(&[7; 32], "t");
        assert_eq!(decode(&text[1..], "t"), Err(NoKey::Length(LETTERS - 1)));
        assert_eq!(
            decode(&format!("{text}a"), "t"),
            Err(NoKey::Length(LETTERS + 1))
        );
        assert_eq!(decode("", "t"), Err(NoKey::Length(0)));
        assert_eq!(
            decode(&text.to_uppercase(), "t"),
            Err(NoKey::Letter(text.to_uppercase().chars().next().unwrap()))
        );
        assert_eq!(
            decode(&text, "u"),
            Err(NoKey::Check),
            "a key of one kind is none of another"
        );
    }

    proptest! {
        #[test]
        fn what_goes_out_comes_in(key: [u8; 32]) {
            assert_eq!(decode(&encode(&key, "t"), "t"), Ok(key));
        }

        #[test]
        fn one_mistyped_letter_is_found(key: [u8; 32], at in 0..LETTERS, letter in "[a-z2-7]") {
            let text = encode(&key, "t");
            let mut typed = text.clone();
            typed.replace_range(at..=at, &letter);
            // One in 2^24 would pass by chance.
            assert!(typed == text || decode(&typed, "t") == Err(NoKey::Check));
        }

        #[test]
        fn any_text_is_read_without_panic(text in any::<String>()) {
            assert!(decode(&text, "t").is_err());
        }
    }
}
