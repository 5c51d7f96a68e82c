//! Speed of what a run does to every byte, one topic a file.
//!
//! ```text
//! cargo bench -p lockstep-benches                    all, some minutes
//! cargo bench -p lockstep-benches -- packing         only names with that in them
//! cargo bench -p lockstep-benches -- --quick         a fast look
//! cargo test  -p lockstep-benches --benches          each once: do they run at all?
//! ```
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed benchmark")]

use criterion::{criterion_group, criterion_main};

mod codec;
mod content;
mod hash;
mod packing;
mod quic;
mod tree;
mod zero;

criterion_group!(
    benches,
    hash::benches,
    tree::benches,
    zero::benches,
    codec::benches,
    packing::benches,
    quic::benches
);
criterion_main!(benches);
