//! Subvolumes and extent items of btrfs, by its ioctls.
#![expect(
    unsafe_code,
    reason = "each call is one ioctl with a structure of the length that its number says"
)]

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

use rustix::io::Errno;
use rustix::ioctl::{Opcode, Setter, Updater, ioctl, opcode};

/// Inode of the folder at the top of every subvolume.
pub const BTRFS_SUBVOLUME_TOP: u64 = 256;
/// The subvolume that every btrfs begins with.
pub const BTRFS_FIRST_SUBVOLUME: u64 = 5;

const MAGIC: u8 = 0x94;
/// Bytes for items that one search brings back.
const SEARCH_BYTES: usize = 64 * 1024;
const NAME_BYTES: usize = 4040;
const OLD_NAME_BYTES: usize = 4088;

// From <linux/btrfs.h> and <linux/btrfs_tree.h>.
const SNAP_DESTROY: Opcode = opcode::write::<DestroyArgs>(MAGIC, 15);
/// Its number holds the size of the arguments without the buffer.
const TREE_SEARCH_V2: Opcode = opcode::read_write::<[u64; 14]>(MAGIC, 17);
const SNAP_CREATE_V2: Opcode = opcode::write::<CreateArgs>(MAGIC, 23);
const FS_INFO: Opcode = opcode::read::<FsInfo>(MAGIC, 31);
const GET_SUBVOL_INFO: Opcode = opcode::read::<RawSubvolume>(MAGIC, 60);
const SUBVOL_RDONLY: u64 = 1 << 1;
const ROOT_SUBVOL_RDONLY: u64 = 1 << 0;
const FS_INFO_GENERATION: u64 = 1 << 1;
const EXTENT_DATA_KEY: u32 = 108;
const TYPE_INLINE: u8 = 0;
const TYPE_REGULAR: u8 = 1;
const TYPE_PREALLOCATED: u8 = 2;
/// Bytes of an item's header, and of a `btrfs_file_extent_item` that is not inline.
const HEADER_BYTES: usize = 32;
const ITEM_BYTES: usize = 53;
const INLINE_AT: usize = 21;

#[repr(C)]
struct CreateArgs {
    source: i64,
    transid: u64,
    flags: u64,
    unused: [u64; 4],
    name: [u8; NAME_BYTES],
}

#[repr(C)]
struct DestroyArgs {
    unused: i64,
    name: [u8; OLD_NAME_BYTES],
}

#[repr(C)]
struct FsInfo {
    max_id: u64,
    devices: u64,
    fsid: [u8; 16],
    sizes: [u32; 3],
    checksum: [u16; 2],
    flags: u64,
    generation: u64,
    rest: [u8; 960],
}

#[repr(C)]
#[derive(Clone, Copy)]
struct RawSubvolume {
    id: u64,
    name: [u8; 256],
    parent: u64,
    folder: u64,
    generation: u64,
    flags: u64,
    uuid: [u8; 16],
    parent_uuid: [u8; 16],
    received_uuid: [u8; 16],
    changed_transid: u64,
    made_transid: u64,
    sent_transid: u64,
    received_transid: u64,
    times: [u64; 8],
    reserved: [u64; 8],
}

#[repr(C)]
struct Search {
    tree: u64,
    min_object: u64,
    max_object: u64,
    min_offset: u64,
    max_offset: u64,
    min_transid: u64,
    max_transid: u64,
    min_type: u32,
    max_type: u32,
    items: u32,
    unused: u32,
    unused_too: [u64; 4],
    bytes: u64,
    buffer: [u8; SEARCH_BYTES],
}

const _: () = assert!(size_of::<CreateArgs>() == 4096);
const _: () = assert!(size_of::<DestroyArgs>() == 4096);
const _: () = assert!(size_of::<FsInfo>() == 1024);
const _: () = assert!(size_of::<RawSubvolume>() == 504);
const _: () = assert!(size_of::<Search>() == 112 + SEARCH_BYTES);

/// A btrfs, and how far it has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BtrfsState {
    /// Which filesystem it is.
    pub fsid: [u8; 16],
    /// Number of its last transaction.
    pub generation: u64,
}

/// A subvolume of btrfs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Subvolume {
    /// Its number, never used again.
    pub id: u64,
    /// Its own name among all subvolumes.
    pub uuid: [u8; 16],
    /// The subvolume that it is a snapshot of; zeros if it is none.
    pub parent_uuid: [u8; 16],
    /// Whether nothing in it can be written.
    pub is_read_only: bool,
    /// Transaction of the last change of something in it.
    pub changed_transid: u64,
    /// Transaction that made it.
    pub made_transid: u64,
}

/// What an extent item says that a stretch of a file holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BtrfsContent {
    /// Nothing: it reads as zeros, allocated or not.
    Zeros,
    /// Bytes of an extent on the disk, as they are.
    Plain {
        /// Address of the stretch's first byte.
        address: u64,
    },
    /// Bytes of a compressed extent.
    Compressed {
        /// Address of the whole extent.
        extent: u64,
        /// Where the stretch begins in what the extent decompresses to.
        within: u64,
    },
    /// Bytes beside the metadata, encrypted, or of a kind that is not known here.
    Opaque,
}

/// A stretch of a file, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BtrfsExtent {
    /// Where it begins in the file.
    pub logical: u64,
    /// Its length.
    pub length: u64,
    /// What is there.
    pub content: BtrfsContent,
}

/// The filesystem of an open file or folder.
///
/// # Errors
/// `ENOTTY` if it is no btrfs.
pub fn btrfs_state(of: &File) -> io::Result<BtrfsState> {
    let mut info = FsInfo {
        max_id: 0,
        devices: 0,
        fsid: [0; 16],
        sizes: [0; 3],
        checksum: [0; 2],
        flags: FS_INFO_GENERATION,
        generation: 0,
        rest: [0; 960],
    };
    // SAFETY: FS_INFO reads and writes one structure of 1024 bytes, which `FsInfo` is.
    unsafe { ioctl(of, Updater::<FS_INFO, _>::new(&mut info)) }?;
    if info.flags & FS_INFO_GENERATION == 0 {
        return Err(Errno::OPNOTSUPP.into());
    }
    Ok(BtrfsState {
        fsid: info.fsid,
        generation: info.generation,
    })
}

/// The subvolume that an open file or folder is in.
///
/// # Errors
/// `ENOTTY` if it is on no btrfs, or on one of a kernel before 4.18.
pub fn subvolume_of(of: &File) -> io::Result<Subvolume> {
    // SAFETY: the structure is integers only, for which all zeros is a value.
    let mut raw: RawSubvolume = unsafe { std::mem::zeroed() };
    // SAFETY: GET_SUBVOL_INFO writes one structure of 504 bytes, which `RawSubvolume` is.
    unsafe { ioctl(of, Updater::<GET_SUBVOL_INFO, _>::new(&mut raw)) }?;
    Ok(Subvolume {
        id: raw.id,
        uuid: raw.uuid,
        parent_uuid: raw.parent_uuid,
        is_read_only: raw.flags & ROOT_SUBVOL_RDONLY != 0,
        changed_transid: raw.changed_transid,
        made_transid: raw.made_transid,
    })
}

/// Makes a read-only snapshot of a subvolume, given its top folder, as `name` in `folder`. When it
/// returns, the transaction that made it is on the disk.
///
/// # Errors
/// What the ioctl says: `EEXIST`, `EPERM` (the subvolume is another user's), `EXDEV`, `ENOSPC`.
pub fn snapshot_subvolume(top: &File, folder: &File, name: &CStr) -> io::Result<()> {
    let args = CreateArgs {
        source: top.as_raw_fd().into(),
        transid: 0,
        flags: SUBVOL_RDONLY,
        unused: [0; 4],
        name: padded(name)?,
    };
    // SAFETY: SNAP_CREATE_V2 reads one structure of 4096 bytes, which `CreateArgs` is; the
    // descriptor in it is open while `top` is borrowed.
    Ok(unsafe { ioctl(folder.as_fd(), Setter::<SNAP_CREATE_V2, _>::new(args)) }?)
}

/// Removes the subvolume `name` of `folder`.
///
/// # Errors
/// What the ioctl says: `ENOENT`, `EPERM` (without root, unless mounted `user_subvol_rm_allowed`),
/// `EBUSY` (something is mounted there).
pub fn remove_subvolume(folder: &File, name: &CStr) -> io::Result<()> {
    let args = DestroyArgs {
        unused: 0,
        name: padded(name)?,
    };
    // SAFETY: SNAP_DESTROY reads one structure of 4096 bytes, which `DestroyArgs` is.
    Ok(unsafe { ioctl(folder.as_fd(), Setter::<SNAP_DESTROY, _>::new(args)) }?)
}

fn padded<const N: usize>(name: &CStr) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    let name = name.to_bytes();
    // One byte stays zero: it ends the name.
    let room = bytes
        .get_mut(..name.len())
        .filter(|_| name.len() < N)
        .ok_or(Errno::NAMETOOLONG)?;
    room.copy_from_slice(name);
    Ok(bytes)
}

/// The next extent items of the file with this inode whose stretches begin at or after `from`;
/// empty once there are none. Stretches without an item are holes.
///
/// It tells what is in the tree: data that is only in memory is not. Needs `CAP_SYS_ADMIN`.
///
/// # Errors
/// `EPERM` without the capability, `EINVAL` if what came back is no list of items.
pub fn next_extent_items(file: &File, inode: u64, from: u64) -> io::Result<Vec<BtrfsExtent>> {
    let mut search = Box::new(Search {
        tree: 0,
        min_object: inode,
        max_object: inode,
        min_offset: from,
        max_offset: u64::MAX,
        min_transid: 0,
        max_transid: u64::MAX,
        min_type: EXTENT_DATA_KEY,
        max_type: EXTENT_DATA_KEY,
        items: u32::MAX,
        unused: 0,
        unused_too: [0; 4],
        bytes: SEARCH_BYTES as u64,
        buffer: [0; SEARCH_BYTES],
    });
    // SAFETY: TREE_SEARCH_V2 reads the 112 bytes before the buffer and writes them and at most
    // `bytes` bytes of the buffer behind them.
    unsafe { ioctl(file, Updater::<TREE_SEARCH_V2, Search>::new(&mut search)) }?;
    items(&search.buffer, search.items, inode).ok_or_else(|| Errno::INVAL.into())
}

/// ```text
/// header   0 transid u64 · 8 object u64 · 16 offset u64 · 24 type u32 · 28 length u32
/// item     0 generation u64 · 8 ram bytes u64 · 16 compression u8 · 17 encryption u8
///          18 other encoding u16 · 20 type u8 · then inline data, or
///          21 disk address u64 · 29 disk bytes u64 · 37 offset u64 · 45 bytes u64
/// ```
/// The header is in the machine's byte order, the item in little endian.
fn items(mut buffer: &[u8], count: u32, inode: u64) -> Option<Vec<BtrfsExtent>> {
    let mut extents = Vec::new();
    for _ in 0..count {
        let (header, rest) = buffer.split_at_checked(HEADER_BYTES)?;
        let length = u32::from_ne_bytes(header[28..32].try_into().ok()?);
        let (item, rest) = rest.split_at_checked(length as usize)?;
        let native = |at: usize| Some(u64::from_ne_bytes(header[at..at + 8].try_into().ok()?));
        let is_data = u32::from_ne_bytes(header[24..28].try_into().ok()?) == EXTENT_DATA_KEY;
        if native(8)? != inode || !is_data {
            return None;
        }
        extents.push(extent(native(16)?, item)?);
        buffer = rest;
    }
    Some(extents)
}

fn extent(logical: u64, item: &[u8]) -> Option<BtrfsExtent> {
    let number = |at: usize| Some(u64::from_le_bytes(item.get(at..at + 8)?.try_into().ok()?));
    let (compression, kind) = (*item.get(16)?, *item.get(20)?);
    let is_encoded = item[17] != 0 || item[18] != 0 || item[19] != 0;
    if kind == TYPE_INLINE || item.len() < ITEM_BYTES {
        return Some(BtrfsExtent {
            logical,
            length: number(8)?.max((item.len() - INLINE_AT) as u64),
            content: BtrfsContent::Opaque,
        });
    }
    let (address, offset) = (number(21)?, number(37)?);
    let content = match (kind, compression) {
        _ if is_encoded => BtrfsContent::Opaque,
        (TYPE_REGULAR, _) if address == 0 => BtrfsContent::Zeros,
        (TYPE_PREALLOCATED, _) => BtrfsContent::Zeros,
        (TYPE_REGULAR, 0) => BtrfsContent::Plain {
            address: address.checked_add(offset)?,
        },
        (TYPE_REGULAR, _) => BtrfsContent::Compressed {
            extent: address,
            within: offset,
        },
        _ => BtrfsContent::Opaque,
    };
    Some(BtrfsExtent {
        logical,
        length: number(45)?,
        content,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(kind: u8, compression: u8, numbers: [u64; 4]) -> Vec<u8> {
        let mut bytes = vec![0; 16];
        bytes.extend([compression, 0, 0, 0, kind]);
        bytes.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
        bytes
    }

    fn with_header(inode: u64, offset: u64, item: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for number in [9, inode, offset] {
            bytes.extend(number.to_ne_bytes());
        }
        bytes.extend(EXTENT_DATA_KEY.to_ne_bytes());
        bytes.extend((item.len() as u32).to_ne_bytes());
        bytes.extend(item);
        bytes
    }

    #[test]
    fn items_say_what_a_stretch_holds() {
        let content = |kind, compression, numbers| {
            let extent = extent(0, &item(kind, compression, numbers)).unwrap();
            (extent.length, extent.content)
        };
        let plain = content(1, 0, [1 << 20, 8192, 4096, 4096]);
        let address = (1 << 20) + 4096;
        assert_eq!(plain, (4096, BtrfsContent::Plain { address }));
        let packed = content(1, 3, [1 << 20, 4096, 65536, 8192]);
        let compressed = BtrfsContent::Compressed {
            extent: 1 << 20,
            within: 65536,
        };
        assert_eq!(packed, (8192, compressed));
        assert_eq!(content(1, 0, [0, 0, 0, 4096]).1, BtrfsContent::Zeros);
        assert_eq!(content(2, 0, [7, 7, 0, 4096]).1, BtrfsContent::Zeros);
        assert_eq!(content(9, 0, [7, 7, 0, 4096]).1, BtrfsContent::Opaque);
        assert_eq!(content(0, 0, [0, 0, 0, 0]).1, BtrfsContent::Opaque);
        let mut encrypted = item(1, 0, [7, 7, 0, 4096]);
        encrypted[17] = 1;
        assert_eq!(extent(0, &encrypted).unwrap().content, BtrfsContent::Opaque);
    }

    #[test]
    fn a_list_that_is_cut_or_of_another_file_is_none() {
        let one = with_header(257, 4096, &item(1, 0, [1 << 20, 4096, 0, 4096]));
        let two = [one.clone(), one.clone()].concat();
        assert_eq!(items(&two, 2, 257).unwrap().len(), 2);
        assert_eq!(items(&two, 2, 257).unwrap()[0].logical, 4096);
        assert_eq!(items(&two, 2, 258), None);
        for cut in 0..one.len() {
            assert_eq!(items(&one[..cut], 1, 257), None, "{cut}");
        }
        assert_eq!(items(&[], 0, 257), Some(Vec::new()));
    }
}
