//! A bulk frame as it came off the wire: a list of chunks that nobody has joined.

use bytes::Bytes;

/// One bulk frame: a short list of [`Bytes`] that together are its content.
///
/// A received frame keeps the chunks in which it arrived, so that its bytes are copied once, to where they belong.
#[derive(Clone, Debug, Default)]
pub struct Bulk {
    chunks: Vec<Bytes>,
    /// `ends[i]` is the offset just past `chunks[i]`; makes [`Bulk::copy_to`] a binary search.
    ends: Vec<usize>,
}

impl Bulk {
    /// A frame of `head` followed by `body`; either may be empty.
    pub fn new(head: Bytes, body: Bytes) -> Self {
        Self::from_chunks(vec![head, body])
    }

    /// A frame of `chunks` in order; empty chunks are dropped.
    pub fn from_chunks(mut chunks: Vec<Bytes>) -> Self {
        chunks.retain(|chunk| !chunk.is_empty());
        let mut end = 0;
        let ends = chunks.iter().map(|chunk| {
            end += chunk.len();
            end
        });
        let ends = ends.collect();
        Self { chunks, ends }
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.ends.last().copied().unwrap_or(0)
    }

    /// Whether the frame has no bytes.
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// The content as non-empty chunks, in order.
    pub fn chunks(&self) -> &[Bytes] {
        &self.chunks
    }

    /// Copies the bytes from offset `at` into `into`; returns how many there were, less than `into.len()` only where
    /// the frame ends.
    pub fn copy_to(&self, at: usize, into: &mut [u8]) -> usize {
        let first = self.ends.partition_point(|end| *end <= at);
        let mut skip = match first.checked_sub(1) {
            Some(before) => at - self.ends[before],
            None => at,
        };
        let mut filled = 0;
        for chunk in &self.chunks[first..] {
            let rest = &chunk[skip..];
            let len = rest.len().min(into.len() - filled);
            into[filled..filled + len].copy_from_slice(&rest[..len]);
            filled += len;
            skip = 0;
            if filled == into.len() {
                break;
            }
        }
        filled
    }

    pub(crate) fn into_chunks(self) -> Vec<Bytes> {
        self.chunks
    }
}

#[cfg(test)]
mod tests {
    use super::Bulk;
    use bytes::Bytes;
    use proptest::prelude::{ProptestConfig, any, prop_assert_eq, proptest};
    use std::collections::VecDeque;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]
        #[test]
        fn copying_any_window_out_of_any_chunking_equals_copying_from_the_joined_bytes(
            content in proptest::collection::vec(any::<u8>(), 0..200),
            cuts in proptest::collection::vec(0_usize..200, 0..12),
            at in 0_usize..220,
            len in 0_usize..220,
        ) {
            let mut cuts: VecDeque<usize> = {
                let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(content.len())).collect();
                cuts.push(content.len());
                cuts.sort_unstable();
                cuts.into()
            };
            let mut start = 0;
            let mut chunks = Vec::new();
            while let Some(end) = cuts.pop_front() {
                chunks.push(Bytes::copy_from_slice(&content[start..end]));
                start = end;
            }
            let bulk = Bulk::from_chunks(chunks);
            let mut copied = vec![0; len];
            let filled = bulk.copy_to(at, &mut copied);
            let expected = content.get(at..).unwrap_or(&[]);
            let expected = &expected[..expected.len().min(len)];
            prop_assert_eq!(bulk.len(), content.len());
            prop_assert_eq!(&copied[..filled], expected);
        }
    }
}
