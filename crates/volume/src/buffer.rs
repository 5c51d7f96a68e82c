//! Page-aligned memory for direct I/O, and the pool that bounds how much of it there is.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use memmap2::MmapMut;

/// Every buffer begins at a multiple of this many bytes, which suits `O_DIRECT` everywhere.
pub const BUFFER_ALIGNMENT: usize = 4096;

/// Anonymous memory, page-aligned, zero, and not resident before it is touched.
///
/// Ends the process when the kernel has no address space left, as every other allocation does.
pub(crate) fn map_zeroed(length: usize) -> MmapMut {
    MmapMut::map_anon(length.max(1)).unwrap_or_else(|_| out_of_memory(length))
}

fn out_of_memory(length: usize) -> ! {
    match std::alloc::Layout::from_size_align(length, BUFFER_ALIGNMENT) {
        Ok(layout) => std::alloc::handle_alloc_error(layout),
        Err(_) => std::process::abort(),
    }
}

/// Memory of a fixed capacity, aligned to [`BUFFER_ALIGNMENT`], that goes back to its pool when it
/// is dropped.
///
/// It derefs to the first [`IoBuffer::set_len`] bytes; a new one has its whole capacity. What is in
/// it at first is unspecified, as buffers are used again.
pub struct IoBuffer {
    memory: Option<MmapMut>,
    length: usize,
    pool: Option<Arc<Shared>>,
}

impl IoBuffer {
    /// A buffer of its own, zeroed, outside every pool and its bound.
    #[must_use]
    pub fn unpooled(capacity: usize) -> IoBuffer {
        IoBuffer {
            memory: Some(map_zeroed(capacity)),
            length: capacity,
            pool: None,
        }
    }

    /// Bytes it can hold.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.memory.as_ref().map_or(0, |memory| memory.len())
    }

    /// Sets how many bytes it derefs to; bytes that become visible are what was there before.
    ///
    /// # Panics
    /// If `length` is more than [`IoBuffer::capacity`].
    pub fn set_len(&mut self, length: usize) {
        assert!(
            length <= self.capacity(),
            "{length} bytes in a buffer of {}",
            self.capacity()
        );
        self.length = length;
    }
}

impl Deref for IoBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.memory
            .as_ref()
            .map_or(&[], |memory| &memory[..self.length])
    }
}

impl DerefMut for IoBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        match &mut self.memory {
            Some(memory) => &mut memory[..self.length],
            None => &mut [],
        }
    }
}

impl AsRef<[u8]> for IoBuffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for IoBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IoBuffer({} of {})", self.length, self.capacity())
    }
}

impl Drop for IoBuffer {
    fn drop(&mut self) {
        if let (Some(memory), Some(pool)) = (self.memory.take(), &self.pool) {
            pool.put_back(memory);
        }
    }
}

/// A fixed number of equal buffers: the bound of a run's memory, and its flow control.
///
/// Clones share the buffers. Memory is allocated when a buffer is first taken and kept until the
/// pool and all its buffers are gone.
#[derive(Clone)]
pub struct BufferPool {
    shared: Arc<Shared>,
}

struct Shared {
    buffer_size: usize,
    count: usize,
    state: Mutex<State>,
    returned: Condvar,
}

#[derive(Default)]
struct State {
    free: Vec<MmapMut>,
    in_use: usize,
}

impl BufferPool {
    /// A pool of `count` buffers of `buffer_size` bytes each, at least one of one byte.
    #[must_use]
    pub fn new(buffer_size: usize, count: usize) -> BufferPool {
        BufferPool {
            shared: Arc::new(Shared {
                buffer_size: buffer_size.max(1),
                count: count.max(1),
                state: Mutex::default(),
                returned: Condvar::new(),
            }),
        }
    }

    /// A buffer; waits until one is free.
    #[must_use]
    pub fn take(&self) -> IoBuffer {
        let mut state = self.shared.state();
        loop {
            if let Some(buffer) = self.take_free(&mut state) {
                return buffer;
            }
            state = self
                .shared
                .returned
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// A buffer, or `None` if none became free in that time.
    #[must_use]
    pub fn take_timeout(&self, patience: Duration) -> Option<IoBuffer> {
        let deadline = Instant::now() + patience;
        let mut state = self.shared.state();
        loop {
            if let Some(buffer) = self.take_free(&mut state) {
                return Some(buffer);
            }
            let left = deadline.checked_duration_since(Instant::now())?;
            (state, _) = self
                .shared
                .returned
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// A buffer, or `None` if none is free now.
    #[must_use]
    pub fn try_take(&self) -> Option<IoBuffer> {
        self.take_free(&mut self.shared.state())
    }

    /// Buffers that are taken now.
    #[must_use]
    pub fn in_use(&self) -> usize {
        self.shared.state().in_use
    }

    /// Buffers in all, taken or not.
    #[must_use]
    pub fn count(&self) -> usize {
        self.shared.count
    }

    /// Bytes that each buffer can hold.
    #[must_use]
    pub fn buffer_size(&self) -> usize {
        self.shared.buffer_size
    }

    fn take_free(&self, state: &mut State) -> Option<IoBuffer> {
        if state.in_use == self.shared.count {
            return None;
        }
        state.in_use += 1;
        let size = self.shared.buffer_size;
        let memory = state.free.pop().unwrap_or_else(|| map_zeroed(size));
        Some(IoBuffer {
            memory: Some(memory),
            length: size,
            pool: Some(Arc::clone(&self.shared)),
        })
    }
}

impl Shared {
    /// A thread that panicked while it held the lock left plain counts behind: they are still right.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put_back(&self, memory: MmapMut) {
        let mut state = self.state();
        state.in_use -= 1;
        state.free.push(memory);
        drop(state);
        self.returned.notify_one();
    }
}

impl fmt::Debug for BufferPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BufferPool")
            .field("buffer_size", &self.shared.buffer_size)
            .field("count", &self.shared.count)
            .field("in_use", &self.in_use())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_as_long_as_set() {
        let pool = BufferPool::new(10_000, 3);
        let mut buffers: Vec<IoBuffer> = (0..3).map(|_| pool.take()).collect();
        for buffer in &mut buffers {
            assert!(buffer.as_ptr().addr().is_multiple_of(BUFFER_ALIGNMENT));
            assert_eq!((buffer.len(), buffer.capacity()), (10_000, 10_000));
            buffer.set_len(77);
            buffer.fill(7);
            assert_eq!(buffer.as_ref(), &[7; 77]);
        }
    }

    #[test]
    #[should_panic(expected = "11 bytes in a buffer of 10")]
    fn a_length_past_the_capacity_is_refused() {
        IoBuffer::unpooled(10).set_len(11);
    }

    #[test]
    fn the_pool_gives_its_count_and_no_more_and_uses_memory_again() {
        let pool = BufferPool::new(4096, 2);
        assert_eq!(
            pool.shared.state().free.len(),
            0,
            "nothing is allocated early"
        );
        let first = pool.take();
        let second = pool.try_take().unwrap();
        assert_eq!(pool.in_use(), 2);
        assert!(pool.try_take().is_none());
        assert!(pool.take_timeout(Duration::from_millis(5)).is_none());
        let address = first.as_ptr().addr();
        drop(first);
        assert_eq!(pool.in_use(), 1);
        assert_eq!(pool.take().as_ptr().addr(), address);
        drop(second);
        assert_eq!(pool.in_use(), 0);
    }

    #[test]
    fn whoever_waits_gets_the_buffer_that_comes_back() {
        let pool = BufferPool::new(64, 1);
        let mut held = pool.take();
        held[0] = 42;
        let waiter = std::thread::spawn({
            let pool = pool.clone();
            move || pool.take()[0]
        });
        std::thread::sleep(Duration::from_millis(20));
        drop(held);
        assert_eq!(waiter.join().unwrap(), 42);
    }

    #[test]
    fn a_buffer_outlives_its_pool() {
        let mut buffer = BufferPool::new(64, 1).take();
        buffer.fill(1);
        assert_eq!(buffer.iter().map(|byte| u64::from(*byte)).sum::<u64>(), 64);
    }
}
