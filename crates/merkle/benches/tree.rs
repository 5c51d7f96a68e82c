//! Throughput of everything that a scan does to every byte.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use lockstep_merkle::{
    Cv, EXTENT_SIZE, ExtentIndex, GROUP_SIZE, Geometry, GroupIndex, PAGE_SIZE, PAGES_PER_GROUP,
    PageIndex, PageSeed, compare, extent_cvs, fold, group_cv, group_cv_of_pages, is_zero, page_cvs,
    page_digest, par_extent_cvs,
};

/// 4 GiB of volume: 65,536 chaining values.
const TREE_SIZE: u64 = 4 << 30;
/// More than the caches hold, to see the memory bus as well.
const LARGE: usize = 256 << 20;

fn noise(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    bytes
}

fn hash(c: &mut Criterion) {
    let bytes = noise(EXTENT_SIZE);
    let geometry = Geometry::new(TREE_SIZE);
    let mut group = c.benchmark_group("hash");
    group.throughput(Throughput::Bytes(GROUP_SIZE as u64));
    group.bench_function("group_cv", |b| {
        b.iter(|| group_cv(geometry, GroupIndex(5), black_box(&bytes[..GROUP_SIZE])));
    });
    group.bench_function("page_cvs and group_cv_of_pages", |b| {
        let mut cvs = [Cv::from_bytes([0; 32]); PAGES_PER_GROUP];
        let first = PageIndex(5 * PAGES_PER_GROUP as u64);
        b.iter(|| {
            page_cvs(geometry, first, black_box(&bytes[..GROUP_SIZE]), &mut cvs);
            group_cv_of_pages(geometry, GroupIndex(5), &cvs)
        });
    });
    group.throughput(Throughput::Bytes(EXTENT_SIZE as u64));
    group.bench_function("extent_cvs", |b| {
        b.iter(|| extent_cvs(geometry, ExtentIndex(5), black_box(&bytes)));
    });
    group.bench_function("par_extent_cvs", |b| {
        b.iter(|| par_extent_cvs(geometry, ExtentIndex(5), black_box(&bytes)));
    });
    group.finish();
}

fn tree(c: &mut Criterion) {
    let geometry = Geometry::new(TREE_SIZE);
    let count = geometry.group_count() as usize;
    let words = noise(count * 32);
    let cvs: Vec<Cv> = words
        .as_chunks()
        .0
        .iter()
        .copied()
        .map(Cv::from_bytes)
        .collect();
    let mut other = cvs.clone();
    other
        .iter_mut()
        .step_by(100)
        .for_each(|cv| *cv = Cv::from_bytes([0; 32]));
    let mut group = c.benchmark_group("tree");
    group.throughput(Throughput::Elements(count as u64));
    group.bench_function("fold", |b| {
        b.iter(|| fold(geometry, black_box(&cvs).iter().copied()));
    });
    group.bench_function("compare", |b| {
        b.iter(|| compare(black_box(&cvs).iter().copied(), other.iter().copied()).count());
    });
    group.finish();
}

fn zero(c: &mut Criterion) {
    // Written once, or every page of it would be the kernel's one zero page.
    let mut zeros = vec![1; LARGE];
    zeros.fill(0);
    let data = noise(LARGE);
    let mut late = vec![0; PAGE_SIZE];
    late[PAGE_SIZE - 1] = 1;
    let mut group = c.benchmark_group("is_zero");
    group.throughput(Throughput::Bytes(PAGE_SIZE as u64));
    group.bench_function("zero page in cache", |b| {
        b.iter(|| is_zero(black_box(&zeros[..PAGE_SIZE])));
    });
    group.bench_function("page with a late byte", |b| {
        b.iter(|| is_zero(black_box(&late)))
    });
    group.throughput(Throughput::Bytes(LARGE as u64));
    group.sample_size(20);
    for (name, bytes) in [
        ("zero pages in memory", &zeros),
        ("data pages in memory", &data),
    ] {
        group.bench_function(name, |b| {
            b.iter(|| {
                black_box(bytes)
                    .chunks(PAGE_SIZE)
                    .filter(|page| is_zero(page))
                    .count()
            });
        });
    }
    group.finish();
}

fn pages(c: &mut Criterion) {
    let bytes = noise(GROUP_SIZE);
    let mut group = c.benchmark_group("page_digest");
    group.throughput(Throughput::Bytes(GROUP_SIZE as u64));
    group.bench_function("16 pages of a group", |b| {
        b.iter(|| {
            for page in black_box(&bytes).chunks(PAGE_SIZE) {
                black_box(page_digest(PageSeed(42), page));
            }
        });
    });
    group.finish();
}

criterion_group!(benches, hash, tree, zero, pages);
criterion_main!(benches);
