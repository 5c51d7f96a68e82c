//! Loops that turn a kernel's short transfers into whole ones.

use rustix::io::{Errno, Result};

/// Reads until the buffer is full or the end is reached; returns the bytes read.
///
/// `step(offset, buf)` reads some bytes, 0 at the end.
pub(crate) fn read_fully(
    offset: u64,
    buf: &mut [u8],
    mut step: impl FnMut(u64, &mut [u8]) -> Result<usize>,
) -> Result<usize> {
    let mut done = 0;
    while done < buf.len() {
        match step(offset + done as u64, &mut buf[done..]) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// Writes until nothing is left. `step(offset, buf)` writes some bytes.
///
/// A step that takes nothing is an error (`EIO`): repeating it would go on for ever.
pub(crate) fn write_fully(
    offset: u64,
    buf: &[u8],
    mut step: impl FnMut(u64, &[u8]) -> Result<usize>,
) -> Result<()> {
    let mut done = 0;
    while done < buf.len() {
        match step(offset + done as u64, &buf[done..]) {
            Ok(0) => return Err(Errno::IO),
            Ok(count) => done += count,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file that moves at most three bytes a call, and is interrupted before every other one.
    struct Reluctant {
        bytes: Vec<u8>,
        calls: usize,
    }

    impl Reluctant {
        fn interrupted(&mut self) -> bool {
            self.calls += 1;
            self.calls % 2 == 1
        }

        fn read(&mut self, offset: u64, buf: &mut [u8]) -> Result<usize> {
            if self.interrupted() {
                return Err(Errno::INTR);
            }
            let rest = &self.bytes[(offset as usize).min(self.bytes.len())..];
            let count = rest.len().min(buf.len()).min(3);
            buf[..count].copy_from_slice(&rest[..count]);
            Ok(count)
        }

        fn write(&mut self, offset: u64, buf: &[u8]) -> Result<usize> {
            if self.interrupted() {
                return Err(Errno::INTR);
            }
            let count = buf.len().min(3);
            let start = offset as usize;
            self.bytes[start..start + count].copy_from_slice(&buf[..count]);
            Ok(count)
        }
    }

    fn reluctant(bytes: &[u8]) -> Reluctant {
        Reluctant {
            bytes: bytes.to_vec(),
            calls: 0,
        }
    }

    #[test]
    fn short_reads_and_interruptions_still_fill_the_buffer() {
        let mut file = reluctant(b"0123456789");
        let mut buf = [0; 8];
        let read = read_fully(2, &mut buf, |offset, buf| file.read(offset, buf));
        assert_eq!(read.unwrap(), 8);
        assert_eq!(&buf, b"23456789");
        assert_eq!(file.calls, 6);
    }

    #[test]
    fn the_end_inside_the_buffer_is_told_by_the_count() {
        let mut file = reluctant(b"0123456789");
        let mut buf = [0; 8];
        let read = read_fully(6, &mut buf, |offset, buf| file.read(offset, buf));
        assert_eq!(read.unwrap(), 4);
    }

    #[test]
    fn short_writes_and_interruptions_still_write_everything() {
        let mut file = reluctant(&[0; 10]);
        write_fully(1, b"abcdefgh", |offset, buf| file.write(offset, buf)).unwrap();
        assert_eq!(file.bytes, b"\0abcdefgh\0");
    }

    #[test]
    fn errors_pass_through_and_a_write_of_nothing_is_one() {
        let broken = read_fully(0, &mut [0; 4], |_, _| Err(Errno::IO));
        assert_eq!(broken, Err(Errno::IO));
        assert_eq!(write_fully(0, b"x", |_, _| Ok(0)), Err(Errno::IO));
        assert_eq!(
            write_fully(0, b"x", |_, _| Err(Errno::NOSPC)),
            Err(Errno::NOSPC)
        );
    }
}
