//! The search for pages of zeros.

use std::hint::black_box;

use criterion::{Criterion, Throughput};
use lockstep_merkle::{PAGE_SIZE, is_zero};

use crate::content::noise;

/// More than the caches hold, to see the memory bus as well.
const LARGE: usize = 128 << 20;

pub(crate) fn benches(c: &mut Criterion) {
    let mut group = c.benchmark_group("zero");
    group.throughput(Throughput::Bytes(PAGE_SIZE as u64));
    group.bench_function("page of zeros, cached", |b| {
        let page = vec![0; PAGE_SIZE];
        b.iter(|| is_zero(black_box(&page)));
    });
    group.bench_function("page with a late byte", |b| {
        let mut page = vec![0; PAGE_SIZE];
        page[PAGE_SIZE - 1] = 1;
        b.iter(|| is_zero(black_box(&page)));
    });
    group.throughput(Throughput::Bytes(LARGE as u64));
    group.sample_size(20);
    group.bench_function("scan of zeros in memory", |b| {
        // Written once, or every page of it would be the kernel's one zero page.
        let mut zeros = vec![1; LARGE];
        zeros.fill(0);
        b.iter(|| zero_pages(&zeros));
    });
    group.bench_function("scan of data in memory", |b| {
        let data = noise(LARGE);
        b.iter(|| zero_pages(&data));
    });
    group.finish();
}

fn zero_pages(bytes: &[u8]) -> usize {
    black_box(bytes)
        .chunks(PAGE_SIZE)
        .filter(|page| is_zero(page))
        .count()
}
