//! Frames out of a stream of bytes: a length, u32, little endian, then that many bytes.

use bytes::{Bytes, BytesMut};

const HEAD: usize = 4;

/// What one end sent and must not send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    #[error("an empty frame")]
    Empty,
    #[error("a frame of {len} bytes, of {limit} allowed")]
    TooLarge { len: usize, limit: usize },
    #[error("the stream ended within a frame")]
    Cut,
}

/// A frame that is being received. An announced length costs nothing until its bytes arrive.
#[derive(Debug, Default)]
pub(super) struct Partial {
    head: [u8; HEAD],
    head_len: usize,
    body: BytesMut,
    body_len: usize,
}

impl Partial {
    /// How many bytes may come next; never more than belong to this frame.
    pub(super) fn wanted(&self) -> usize {
        match self.head_len {
            HEAD => self.body_len - self.body.len(),
            some => HEAD - some,
        }
    }

    /// Takes at most [`Partial::wanted`] bytes; the frame, once it is complete.
    pub(super) fn take(&mut self, bytes: &[u8], limit: usize) -> Result<Option<Bytes>, Fault> {
        if self.head_len < HEAD {
            let (_, room) = self.head.split_at_mut(self.head_len);
            for (place, byte) in room.iter_mut().zip(bytes) {
                *place = *byte;
                self.head_len += 1;
            }
            if self.head_len == HEAD {
                self.body_len = length(self.head, limit)?;
            }
            return Ok(None);
        }
        self.body.extend_from_slice(bytes);
        if self.body.len() < self.body_len {
            return Ok(None);
        }
        Ok(Some(std::mem::take(self).body.freeze()))
    }

    /// Whether the stream may end here.
    pub(super) fn end(&self) -> Result<(), Fault> {
        match self.head_len {
            0 => Ok(()),
            _ => Err(Fault::Cut),
        }
    }
}

fn length(head: [u8; HEAD], limit: usize) -> Result<usize, Fault> {
    match usize::try_from(u32::from_le_bytes(head)).unwrap_or(usize::MAX) {
        0 => Err(Fault::Empty),
        len if len > limit => Err(Fault::TooLarge { len, limit }),
        len => Ok(len),
    }
}

/// What goes before a frame of `len` bytes; `None` if no frame may be that long.
pub(super) fn head(len: usize, limit: usize) -> Option<Bytes> {
    if len == 0 || len > limit {
        return None;
    }
    let len = u32::try_from(len).ok()?;
    Some(Bytes::copy_from_slice(&len.to_le_bytes()))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::{Just, Strategy, any, prop};
    use proptest::{prop_assert_eq, proptest};

    use super::{Fault, Partial, head};

    fn written(frames: &[Vec<u8>]) -> Vec<u8> {
        let one =
            |frame: &Vec<u8>| [&head(frame.len(), 1 << 20).unwrap(), frame.as_slice()].concat();
        frames.iter().flat_map(one).collect()
    }

    fn read(mut stream: &[u8], step: usize, limit: usize) -> Result<Vec<Bytes>, Fault> {
        let (mut partial, mut frames) = (Partial::default(), Vec::new());
        while !stream.is_empty() {
            let taken = partial.wanted().min(step).min(stream.len());
            let (now, later) = stream.split_at(taken);
            frames.extend(partial.take(now, limit)?);
            stream = later;
        }
        partial.end().map(|()| frames)
    }

    proptest! {
        #[test]
        fn frames_survive_any_cutting(
            (frames, step) in (prop::collection::vec(prop::collection::vec(any::<u8>(), 1..300), 0..6), 1..400_usize)
        ) {
            let read = read(&written(&frames), step, 300).unwrap();
            prop_assert_eq!(read, frames);
        }

        #[test]
        fn a_cut_stream_is_never_taken_for_a_whole_one(
            (frame, cut) in prop::collection::vec(any::<u8>(), 1..50)
                .prop_flat_map(|frame| { let len = frame.len() + 4; (Just(frame), 1..len) })
        ) {
            let stream = written(&[frame]);
            prop_assert_eq!(read(&stream[..cut], 7, 300), Err(Fault::Cut));
        }
    }

    #[test]
    fn lengths_outside_the_limits_are_refused_before_anything_is_kept() {
        assert_eq!(read(&[0; 4], 4, 300), Err(Fault::Empty));
        let too_large = |len| Err(Fault::TooLarge { len, limit: 300 });
        assert_eq!(read(&301_u32.to_le_bytes(), 4, 300), too_large(301));
        assert_eq!(read(&[0xff; 4], 1, 300), too_large(u32::MAX as usize));
        let mut partial = Partial::default();
        partial.take(&300_u32.to_le_bytes(), 300).unwrap();
        assert_eq!((partial.wanted(), partial.body.capacity()), (300, 0));
        assert_eq!((head(0, 300), head(301, 300)), (None, None));
    }
}
