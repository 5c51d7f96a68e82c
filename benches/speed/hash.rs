//! Hashing: groups, pages, whole extents.

use std::hint::black_box;

use criterion::{Criterion, Throughput};
use lockstep_merkle::{
    Cv, EXTENT_SIZE, ExtentIndex, GROUP_SIZE, Geometry, GroupIndex, PAGE_SIZE, PAGES_PER_GROUP,
    PageIndex, PageSeed, extent_cvs, group_cv, group_cv_of_pages, page_cvs, page_digest,
    par_extent_cvs,
};

use crate::content::noise;
use crate::tree::VOLUME;

pub(crate) fn benches(c: &mut Criterion) {
    let bytes = noise(EXTENT_SIZE);
    let geometry = Geometry::new(VOLUME);
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
    group.bench_function("page_digest of 16 pages", |b| {
        b.iter(|| {
            for page in black_box(&bytes[..GROUP_SIZE]).chunks(PAGE_SIZE) {
                black_box(page_digest(PageSeed(42), page));
            }
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
