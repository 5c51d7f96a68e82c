//! Whether an extent's pages are packed, and the packing itself.

use criterion::{BatchSize, Criterion, Throughput};
use lockstep_engine::MeasuredPacker;
use lockstep_merkle::EXTENT_SIZE;
use lockstep_volume::IoBuffer;

use crate::content::{noise, rows};

pub(crate) fn benches(c: &mut Criterion) {
    let (rows, noise) = (rows(EXTENT_SIZE), noise(EXTENT_SIZE));
    let mut group = c.benchmark_group("packing");
    group.throughput(Throughput::Bytes(EXTENT_SIZE as u64));
    // The link keeps up, or it is all that holds the run back.
    for (link, waits) in [("fast link", false), ("slow link", true)] {
        for (name, content) in [("rows", &rows), ("noise", &noise)] {
            let packer = || {
                let mut packer = MeasuredPacker::new().unwrap();
                if waits {
                    packer.waited_for_the_link();
                }
                packer
            };
            group.bench_function(format!("difference, {name}, {link}"), |b| {
                let mut packer = packer();
                b.iter_batched(
                    || filled(content),
                    |pages| packer.difference(pages),
                    BatchSize::LargeInput,
                );
            });
            group.bench_function(format!("full copy, {name}, {link}"), |b| {
                let mut packer = packer();
                b.iter_batched(
                    || filled(content),
                    |pages| packer.full_copy(pages),
                    BatchSize::LargeInput,
                );
            });
        }
    }
    group.finish();
}

fn filled(content: &[u8]) -> IoBuffer {
    let mut buffer = IoBuffer::unpooled(content.len());
    buffer.set_len(content.len());
    buffer.copy_from_slice(content);
    buffer
}
