//! One file for each way of freezing a volume.

mod btrfs;
mod exec;
mod lvm;
mod reflink;
mod zfs;

pub use btrfs::Btrfs;
pub use exec::Exec;
pub use lvm::Lvm;
pub use reflink::Reflink;
pub use zfs::Zfs;
