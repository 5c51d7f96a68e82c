//! An identity as bytes, for the other end of a run.
//!
//! | offset | bytes | field |
//! | --- | --- | --- |
//! | 0 | 1 | format, 1 |
//! | 1 | 1 | kind: 0 file, 1 block device |
//! | 2 | 1 | bit 0: birth is there, bit 1: backing is there |
//! | 3 | 40 | dev, ino, rdev, disk, size |
//! | 43 | 16 | birth in ns, signed; 0 if not there |
//! | 59 | 16 | dev and ino of the backing file; 0 if not there |
//! | 75 | 1 + m | length and bytes of the machine, m ≤ 64 |
//! | 76 + m | 1 + n | length and bytes of the device's name, n ≤ 96; 0 if not there |
//!
//! Integers are little-endian, texts printable ASCII. Nothing follows.

use super::{Identity, MAX_DEVICE_NAME, MAX_MACHINE, is_plain};
use crate::volume::VolumeKind;

/// Longest [`Identity::to_bytes`].
pub const MAX_IDENTITY_BYTES: usize = 256;

const FORMAT: u8 = 1;
const HAS_BIRTH: u8 = 1;
const HAS_BACKING: u8 = 2;

/// Bytes that are not an identity.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an identity: {0}")]
pub struct BadIdentity(&'static str);

impl Identity {
    /// The identity as at most [`MAX_IDENTITY_BYTES`] bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let kind = match self.kind {
            VolumeKind::File => 0,
            VolumeKind::BlockDevice => 1,
        };
        let flags = u8::from(self.birth_ns.is_some()) * HAS_BIRTH
            + u8::from(self.backing.is_some()) * HAS_BACKING;
        let (backing_dev, backing_ino) = self.backing.unwrap_or((0, 0));
        let mut bytes = vec![FORMAT, kind, flags];
        for number in [self.dev, self.ino, self.rdev, self.disk, self.size] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend(self.birth_ns.unwrap_or(0).to_le_bytes());
        bytes.extend(backing_dev.to_le_bytes());
        bytes.extend(backing_ino.to_le_bytes());
        push_text(&mut bytes, &self.machine, MAX_MACHINE);
        let name = self.device_name.as_deref().unwrap_or("");
        push_text(&mut bytes, name, MAX_DEVICE_NAME);
        bytes
    }

    /// The identity that [`Identity::to_bytes`] made the bytes of.
    ///
    /// # Errors
    /// [`BadIdentity`] names the first field that no identity can have.
    pub fn from_bytes(bytes: &[u8]) -> Result<Identity, BadIdentity> {
        let mut reader = Reader(bytes);
        let [format, kind, flags] = reader.array()?;
        if format != FORMAT {
            return Err(BadIdentity("unknown format"));
        }
        let kind = match kind {
            0 => VolumeKind::File,
            1 => VolumeKind::BlockDevice,
            _ => return Err(BadIdentity("unknown kind")),
        };
        if flags & !(HAS_BIRTH | HAS_BACKING) != 0 {
            return Err(BadIdentity("unknown flags"));
        }
        let identity = Identity {
            kind,
            dev: reader.number()?,
            ino: reader.number()?,
            rdev: reader.number()?,
            disk: reader.number()?,
            size: reader.number()?,
            birth_ns: optional(flags & HAS_BIRTH, i128::from_le_bytes(reader.array()?))?,
            backing: optional(flags & HAS_BACKING, (reader.number()?, reader.number()?))?,
            machine: reader.text(MAX_MACHINE)?,
            device_name: Some(reader.text(MAX_DEVICE_NAME)?).filter(|name| !name.is_empty()),
        };
        match reader.0 {
            [] => Ok(identity),
            _ => Err(BadIdentity("bytes after its end")),
        }
    }
}

/// A field that must be zero where it is not there, so that each identity has one form.
fn optional<T: Default + PartialEq>(flag: u8, value: T) -> Result<Option<T>, BadIdentity> {
    match flag {
        0 if value == T::default() => Ok(None),
        0 => Err(BadIdentity("a value that is said not to be there")),
        _ => Ok(Some(value)),
    }
}

/// Characters that the other end would refuse are replaced rather than sent.
fn push_text(bytes: &mut Vec<u8>, text: &str, limit: usize) {
    let text = super::cut_to_ascii(text, limit);
    bytes.push(u8::try_from(text.len()).unwrap_or(u8::MAX));
    bytes.extend(text.as_bytes());
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], BadIdentity> {
        let (array, rest) = self
            .0
            .split_first_chunk()
            .ok_or(BadIdentity("it ends too early"))?;
        self.0 = rest;
        Ok(*array)
    }

    fn number(&mut self) -> Result<u64, BadIdentity> {
        self.array().map(u64::from_le_bytes)
    }

    fn text(&mut self, limit: usize) -> Result<String, BadIdentity> {
        let [length] = self.array()?;
        let length = usize::from(length);
        if length > limit {
            return Err(BadIdentity("a text that is too long"));
        }
        let (text, rest) = self
            .0
            .split_at_checked(length)
            .ok_or(BadIdentity("it ends too early"))?;
        self.0 = rest;
        let text = std::str::from_utf8(text).ok();
        text.filter(|text| text.chars().all(is_plain))
            .map(str::to_owned)
            .ok_or(BadIdentity("a text that is not printable"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop, proptest};

    use super::super::tests::{device, file};
    use super::*;

    fn loop_device() -> Identity {
        Identity {
            backing: Some((u64::MAX, 3)),
            device_name: Some("loop inode 3".to_owned()),
            ..device(100, 100)
        }
    }

    #[test]
    fn what_goes_out_comes_in() {
        for identity in [file(1), device(8, 9), loop_device()] {
            let bytes = identity.to_bytes();
            assert!(bytes.len() <= MAX_IDENTITY_BYTES);
            assert_eq!(Identity::from_bytes(&bytes), Ok(identity));
        }
    }

    #[test]
    fn the_longest_identity_fits_and_odd_texts_are_tamed() {
        let longest = Identity {
            machine: "m".repeat(1000),
            device_name: Some("é\n".repeat(1000)),
            ..loop_device()
        };
        let bytes = longest.to_bytes();
        assert!(bytes.len() <= MAX_IDENTITY_BYTES, "{}", bytes.len());
        let read = Identity::from_bytes(&bytes).unwrap();
        assert_eq!(read.machine.len(), MAX_MACHINE);
        assert_eq!(read.device_name, Some("_".repeat(MAX_DEVICE_NAME)));
        assert!(read.durable_text().len() <= super::super::MAX_DURABLE_TEXT);
    }

    #[test]
    fn every_cut_and_every_extension_is_refused() {
        let bytes = loop_device().to_bytes();
        for end in 0..bytes.len() {
            assert!(Identity::from_bytes(&bytes[..end]).is_err(), "cut at {end}");
        }
        let longer = [bytes, vec![0]].concat();
        assert!(Identity::from_bytes(&longer).is_err());
    }

    #[test]
    fn the_format_is_the_one_drawn_above() {
        let bytes = loop_device().to_bytes();
        assert_eq!(bytes[..3], [1, 1, 2]);
        assert_eq!(bytes[19..27], 100_u64.to_le_bytes(), "rdev");
        assert_eq!(bytes[59..67], u64::MAX.to_le_bytes(), "backing dev");
        assert_eq!(&bytes[75..80], b"\x04boot");
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic_and_have_one_form(
            bytes in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let tagged = [&[1, 0, 0], &bytes[..]].concat();
            for bytes in [bytes, tagged] {
                if let Ok(identity) = Identity::from_bytes(&bytes) {
                    assert_eq!(identity.to_bytes(), bytes);
                }
            }
        }
    }
}
