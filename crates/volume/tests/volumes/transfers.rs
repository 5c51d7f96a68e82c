//! Many threads, the buffer pool, io_uring: the calls as a run makes them.

use std::sync::atomic::{AtomicU64, Ordering};

use lockstep_volume::{
    BufferPool, Hold, IoEngine, TargetRequest, Volume, open_source_with, open_target,
};

use crate::lab::{begun, file_with, folder, pattern, read, read_back, request};

const EXTENT: u64 = 1 << 20;

#[test]
fn bulk_and_scattered_pages_from_two_threads_end_up_where_they_belong() {
    let folder = folder();
    let path = folder.path().join("volume");
    let size = 32 * EXTENT + 777;
    let content = pattern(size as usize);
    let target = begun(&path, size);
    let pool = BufferPool::new(EXTENT as usize, 4);
    let next = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let extent = next.fetch_add(1, Ordering::Relaxed);
                    let start = extent * EXTENT;
                    if start >= size {
                        break;
                    }
                    let end = size.min(start + EXTENT);
                    let mut buffer = pool.take();
                    buffer.set_len((end - start) as usize);
                    buffer.copy_from_slice(&content[start as usize..end as usize]);
                    if extent.is_multiple_of(3) {
                        // Neighbouring pages as they come out of a comparison, last one first.
                        let count = (end - start).div_ceil(4096);
                        let pages = (0..count).rev().map(|page| start + page * 4096);
                        for page in pages {
                            let part = page.min(end) as usize..end.min(page + 4096) as usize;
                            target.write_at(page, &content[part]).unwrap();
                        }
                    } else {
                        target.write_at(start, &buffer).unwrap();
                    }
                    assert_eq!(read(&target, start, buffer.len()), &buffer[..]);
                    target.start_writeback(start..end);
                }
            });
        }
    });
    assert_eq!(pool.in_use(), 0);
    target.flush().unwrap();
    assert_eq!(read_back(&target, 0, size as usize), content);
    target.seal().unwrap();
    drop(target);
    assert_eq!(std::fs::read(&path).unwrap(), content);
}

#[test]
fn both_engines_read_back_the_same_bytes() {
    let folder = folder();
    let content = pattern(2_000_123);
    let path = file_with(folder.path(), "volume", &content);
    for engine in [IoEngine::Threads, IoEngine::Uring] {
        let source = open_source_with(&path, Hold::Exclusive, engine).unwrap();
        let pool = BufferPool::new(65_536, 40);
        let mut buffers: Vec<_> = (0..30).map(|_| pool.take()).collect();
        let mut reads: Vec<(u64, &mut [u8])> = buffers
            .iter_mut()
            .enumerate()
            .map(|(index, buffer)| (index as u64 * 65_536, &mut buffer[..]))
            .collect();
        source.read_back_many(&mut reads).unwrap();
        for (index, buffer) in buffers.iter().enumerate() {
            assert_eq!(&buffer[..], &content[index * 65_536..][..65_536]);
        }
        // A ragged end among them makes all of them go the plain way.
        let (mut start, mut end) = (vec![0; 4096], vec![0; 123]);
        let mut reads = [(0, &mut start[..]), (2_000_000, &mut end[..])];
        source.read_back_many(&mut reads).unwrap();
        assert_eq!(
            (&start[..], &end[..]),
            (&content[..4096], &content[2_000_000..])
        );
        let past_the_end = source.read_back_many(&mut [(2_000_000, &mut start[..])]);
        assert!(past_the_end.is_err());
    }
}

#[test]
fn an_empty_volume_is_no_special_case() {
    let folder = folder();
    let path = folder.path().join("volume");
    let target = open_target(&TargetRequest {
        engine: IoEngine::Uring,
        ..request(&path, 0)
    });
    let target = target.unwrap();
    target.begin_overwrite().unwrap();
    target.read_at(0, &mut []).unwrap();
    target.read_back(0, &mut []).unwrap();
    target.write_at(0, &[]).unwrap();
    target.zero(0..0).unwrap();
    assert_eq!(target.next_data(0).unwrap(), None);
    assert!(target.read_at(1, &mut []).is_err());
    target.flush().unwrap();
    target.seal().unwrap();
    assert_eq!(path.metadata().unwrap().len(), 0);
}
