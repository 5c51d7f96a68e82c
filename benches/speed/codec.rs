//! The frames that a run has many of: digests, wants, heads of data.

use std::hint::black_box;

use criterion::{Criterion, Throughput};
use lockstep_merkle::{
    ExtentIndex, GROUPS_PER_EXTENT, GroupIndex, GroupSet, PAGES_PER_EXTENT, PageDigest, PageSet,
};
use lockstep_protocol::limits::{DATA_HEAD_LEN, MAX_CVS_PER_FRAME};
use lockstep_protocol::{DataHead, Encoding, SourceFrame, TargetFrame, Want};

use crate::content::{cvs, noise};

pub(crate) fn benches(c: &mut Criterion) {
    let mut group = c.benchmark_group("codec");

    let digests = SourceFrame::Digests {
        first: GroupIndex(7),
        cvs: cvs(MAX_CVS_PER_FRAME),
    };
    let bytes = digests.encode();
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    group.bench_function("encode digests of 64 MiB", |b| {
        b.iter(|| black_box(&digests).encode())
    });
    group.bench_function("decode digests of 64 MiB", |b| {
        b.iter(|| SourceFrame::decode(black_box(&bytes)).unwrap());
    });

    let want = TargetFrame::Want(largest_want());
    let bytes = want.encode();
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    group.bench_function("encode want of an extent", |b| {
        b.iter(|| black_box(&want).encode())
    });
    group.bench_function("decode want of an extent", |b| {
        b.iter(|| TargetFrame::decode(black_box(&bytes)).unwrap());
    });

    let head = DataHead {
        extent: ExtentIndex(3),
        data: PageSet::all(PAGES_PER_EXTENT),
        zero: PageSet::EMPTY,
        encoding: Encoding::Zstd,
    };
    let bytes: [u8; DATA_HEAD_LEN] = head.encode()[..].try_into().unwrap();
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    group.bench_function("encode head of data", |b| {
        b.iter(|| black_box(&head).encode())
    });
    group.bench_function("decode head of data", |b| {
        b.iter(|| DataHead::decode(black_box(&bytes)).unwrap());
    });
    group.finish();
}

/// Every page of an extent, by its digest.
fn largest_want() -> Want {
    let digests = noise(PAGES_PER_EXTENT * 16);
    Want {
        extent: ExtentIndex(3),
        whole: GroupSet::EMPTY,
        blank: GroupSet::EMPTY,
        paged: GroupSet::all(GROUPS_PER_EXTENT),
        digests: digests
            .as_chunks()
            .0
            .iter()
            .copied()
            .map(PageDigest)
            .collect(),
    }
}
