//! The tree over a volume's chaining values: building it, and comparing two.

use std::hint::black_box;

use criterion::{Criterion, Throughput};
use lockstep_merkle::{
    Cv, CvTable, Geometry, GroupIndex, MemoryCvs, PAGES_PER_GROUP, compare, fold, fold_pages,
};

use crate::content::cvs;

/// 4 GiB: 65,536 chaining values of groups.
pub(crate) const VOLUME: u64 = 4 << 30;
/// For trees over pages: 1,048,576 of them would take long.
const SMALL_VOLUME: u64 = 256 << 20;

pub(crate) fn benches(c: &mut Criterion) {
    build(c);
    comparison(c);
}

fn build(c: &mut Criterion) {
    let geometry = Geometry::new(VOLUME);
    let groups = cvs(geometry.group_count() as usize);
    let mut group = c.benchmark_group("tree");
    group.throughput(Throughput::Elements(groups.len() as u64));
    group.bench_function("fold of groups", |b| {
        b.iter(|| fold(geometry, black_box(&groups).iter().copied()));
    });
    group.bench_function("table filled and folded", |b| {
        let table = MemoryCvs::new(geometry.group_count());
        b.iter(|| {
            for (index, cv) in black_box(&groups).iter().enumerate() {
                table.set(GroupIndex(index as u64), *cv);
            }
            fold(
                geometry,
                (0..table.len()).map(|index| table.cv(GroupIndex(index))),
            )
        });
    });
    let small = Geometry::new(SMALL_VOLUME);
    let pages = cvs(small.group_count() as usize * PAGES_PER_GROUP);
    group.throughput(Throughput::Elements(pages.len() as u64));
    group.bench_function("fold of pages", |b| {
        b.iter(|| fold_pages(small, black_box(&pages).iter().copied()));
    });
    group.finish();
}

/// Two replicas of 4 GiB: equal, one group in a hundred different, every second one.
fn comparison(c: &mut Criterion) {
    let left = cvs(Geometry::new(VOLUME).group_count() as usize);
    let mut group = c.benchmark_group("compare");
    group.throughput(Throughput::Elements(left.len() as u64));
    for (name, apart) in [
        ("equal", usize::MAX),
        ("1 % differs", 100),
        ("50 % differs", 2),
    ] {
        let mut right = left.clone();
        if apart < right.len() {
            right
                .iter_mut()
                .step_by(apart)
                .for_each(|cv| *cv = Cv::from_bytes([0; 32]));
        }
        group.bench_function(name, |b| {
            b.iter(|| compare(black_box(&left).iter().copied(), right.iter().copied()).count());
        });
    }
    group.finish();
}
