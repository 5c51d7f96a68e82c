//! `ledger.seq`: number of the last change that was reported as durable, kept outside the store so
//! that a store which fell back to an older commit is found out.

use std::fs;
use std::path::Path;

use crate::directory;
use crate::error::LedgerError;

const PREFIX: &str = "lockstep-ledger-seq 1 ";
/// Longest whole file: the prefix, a `u64`, a space, 64 hex digits, a newline.
const MAX_BYTES: usize = 128;

/// Reads the number; `Ok(Ok(0))` if there is no file yet, `Ok(Err(why))` if it is damaged.
pub(crate) fn read(path: &Path) -> Result<Result<u64, String>, LedgerError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Ok(0)),
        Err(error) => return Err(LedgerError::io("read", path)(error)),
    };
    Ok(parse(&bytes).ok_or_else(|| format!("{} is damaged", path.display())))
}

/// Replaces the number, durably.
pub(crate) fn write(path: &Path, sequence: u64) -> Result<(), LedgerError> {
    directory::replace(path, line(sequence).as_bytes())
}

fn parse(bytes: &[u8]) -> Option<u64> {
    if bytes.len() > MAX_BYTES {
        return None;
    }
    let text = std::str::from_utf8(bytes).ok()?;
    let (number, _) = text.strip_prefix(PREFIX)?.split_once(' ')?;
    let sequence = number.parse().ok()?;
    (line(sequence) == text).then_some(sequence)
}

fn line(sequence: u64) -> String {
    let body = format!("{PREFIX}{sequence}");
    let checksum = blake3::hash(body.as_bytes());
    format!("{body} {checksum}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_number_with_its_checksum_is_read() {
        for sequence in [0, 1, 9, 10, u64::MAX] {
            let line = line(sequence).into_bytes();
            assert!(line.len() <= MAX_BYTES);
            assert_eq!(parse(&line), Some(sequence));
            for cut in 0..line.len() {
                assert_eq!(parse(&line[..cut]), None);
            }
            for bit in 0..line.len() * 8 {
                let mut flipped = line.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(parse(&flipped), None, "bit {bit}");
            }
        }
    }

    #[test]
    fn a_missing_file_is_zero_and_a_written_one_reads_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger.seq");
        assert_eq!(read(&path).unwrap(), Ok(0));
        write(&path, 41).unwrap();
        write(&path, 42).unwrap();
        assert_eq!(read(&path).unwrap(), Ok(42));
        fs::write(&path, b"").unwrap();
        assert!(read(&path).unwrap().is_err());
    }
}
