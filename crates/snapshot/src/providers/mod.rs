//! One file for each way of freezing a volume.

mod btrfs;
mod reflink;

pub use btrfs::Btrfs;
pub use reflink::Reflink;
