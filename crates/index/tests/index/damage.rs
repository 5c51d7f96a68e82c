//! Every kind of damage is found, named, never trusted, and gone with the next index.

use std::fs;
use std::os::unix::fs::{FileExt, symlink};

use lockstep_index::{IndexKey, Unusable};

use crate::scene::{IDENTITY, Scene, cvs, facts};

const HEADER: usize = 4096;
const PAGES: u64 = 300;

struct Victim {
    scene: Scene,
    whole: Vec<u8>,
}

impl Victim {
    fn new() -> Self {
        let scene = Scene::new();
        scene.save(PAGES, 1);
        let whole = fs::read(scene.file()).unwrap();
        assert_eq!(whole.len(), HEADER + 32 * PAGES as usize);
        Self { scene, whole }
    }

    /// What is said of these bytes in place of the index.
    fn doubt(&self, bytes: &[u8]) -> Unusable {
        fs::write(self.path(), bytes).unwrap();
        self.scene.load().unwrap_err()
    }

    fn path(&self) -> std::path::PathBuf {
        let names = fs::read_dir(self.scene.folder()).unwrap();
        let mut paths = names.map(|name| name.unwrap().path());
        let is_index = |path: &std::path::PathBuf| path.extension().unwrap() == "index";
        paths.find(is_index).unwrap()
    }
}

#[test]
fn no_flipped_bit_is_believed() {
    let victim = Victim::new();
    let file = fs::OpenOptions::new().write(true).open(victim.path());
    let file = file.unwrap();
    // Every byte of the fixed fields, and every 13th of the rest.
    for at in (0..128).chain((128..victim.whole.len()).step_by(13)) {
        let byte = victim.whole[at];
        file.write_all_at(&[byte ^ 1 << (at % 8)], at as u64)
            .unwrap();
        let doubt = victim.scene.load().unwrap_err();
        let right = match at {
            0..8 => matches!(doubt, Unusable::Magic),
            8..12 => matches!(doubt, Unusable::Version(_)),
            12..HEADER => matches!(doubt, Unusable::HeaderChecksum),
            _ => matches!(doubt, Unusable::CvChecksum),
        };
        assert!(right, "byte {at}: {doubt}");
        file.write_all_at(&[byte], at as u64).unwrap();
    }
    victim.scene.load().unwrap();
}

#[test]
fn no_cut_and_no_longer_file_is_believed() {
    let victim = Victim::new();
    let whole = &victim.whole;
    for length in (0..whole.len())
        .step_by(31)
        .chain([HEADER - 1, HEADER, whole.len() - 1])
    {
        let doubt = victim.doubt(&whole[..length]);
        let right = match doubt {
            Unusable::NoHeader { bytes } => length < HEADER && bytes == length as u64,
            Unusable::Length { bytes, expected } => {
                bytes == length as u64 && expected == whole.len() as u64
            }
            _ => false,
        };
        assert!(right, "{length} bytes: {doubt}");
    }
    let longer = victim.doubt(&[whole.as_slice(), &[0]].concat());
    assert!(matches!(longer, Unusable::Length { .. }), "{longer}");
}

/// After a power cut a filesystem may leave zeros where data was not yet written.
#[test]
fn no_zeroed_block_is_believed() {
    let victim = Victim::new();
    for start in (0..victim.whole.len()).step_by(4096) {
        let mut torn = victim.whole.clone();
        let end = torn.len().min(start + 4096);
        torn[start..end].fill(0);
        assert!(victim.doubt(&torn).is_damage(), "block at {start}");
    }
}

#[test]
fn a_header_over_the_values_of_another_index_is_not_believed() {
    let victim = Victim::new();
    victim.scene.save(PAGES, 2);
    let mut mixed = fs::read(victim.path()).unwrap();
    mixed[..HEADER].copy_from_slice(&victim.whole[..HEADER]);
    let doubt = victim.doubt(&mixed);
    assert!(matches!(doubt, Unusable::CvChecksum), "{doubt}");
}

/// Right checksums over values that do not fold to the root: nobody writes that, and nobody is
/// believed who did.
#[test]
fn values_that_do_not_fold_to_the_root_are_not_believed() {
    let victim = Victim::new();
    let mut forged = victim.whole.clone();
    forged[HEADER] ^= 1;
    let cvs = *blake3::hash(&forged[HEADER..]).as_bytes();
    forged[88..120].copy_from_slice(&cvs);
    let header = *blake3::hash(&forged[..HEADER - 32]).as_bytes();
    forged[HEADER - 32..HEADER].copy_from_slice(&header);
    let doubt = victim.doubt(&forged);
    assert!(matches!(doubt, Unusable::RootDiffers { .. }), "{doubt}");
}

#[test]
fn a_file_under_another_name_is_not_believed() {
    let scene = Scene::new();
    scene.save(5, 1);
    let target = scene.file();
    let source = IndexKey::source("pgdata", "a");
    scene.store.save(&source, &facts(5, 2), cvs(5, 2)).unwrap();
    let listed = scene.store.list().unwrap();
    let other = listed.into_iter().find(|listed| listed.path != target);
    fs::rename(other.unwrap().path, &target).unwrap();
    let doubt = scene.load().unwrap_err();
    assert!(matches!(doubt, Unusable::OtherKey { .. }), "{doubt}");
    assert!(doubt.to_string().contains("snapshot a of pgdata"));
}

#[test]
fn a_link_a_folder_and_a_pipe_are_no_indexes_and_nobody_waits_for_them() {
    let victim = Victim::new();
    let path = victim.path();
    let elsewhere = victim.scene.dir.join("elsewhere");
    fs::rename(&path, &elsewhere).unwrap();
    symlink(&elsewhere, &path).unwrap();
    assert!(matches!(victim.scene.load(), Err(Unusable::NotAFile)));
    fs::remove_file(&path).unwrap();
    let pipe = rustix::fs::mknodat(
        rustix::fs::CWD,
        &path,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    );
    pipe.unwrap();
    assert!(matches!(victim.scene.load(), Err(Unusable::NotAFile)));
    victim.scene.save(PAGES, 2);
    victim.scene.load().unwrap();
    victim.scene.store.remove(&victim.scene.key).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(matches!(victim.scene.load(), Err(Unusable::NotAFile)));
    assert!(
        victim
            .scene
            .store
            .save(&victim.scene.key, &facts(5, 1), cvs(5, 1))
            .is_err()
    );
    assert_eq!(victim.scene.count(".new"), 0);
}

#[test]
fn damage_is_gone_with_the_next_index_and_a_newer_format_stays() {
    let victim = Victim::new();
    let source = |name| IndexKey::source("pgdata", name);
    let scene = &victim.scene;
    for (version, name) in [(2, "newer"), (3, "damaged")] {
        let cvs = cvs(PAGES, version);
        scene
            .store
            .save(&source(name), &facts(PAGES, version), cvs)
            .unwrap();
        let is_it = |listed: &lockstep_index::Listed| matches!(&listed.header, Ok((key, _)) if *key == source(name));
        let path = scene
            .store
            .list()
            .unwrap()
            .into_iter()
            .find(is_it)
            .unwrap()
            .path;
        let mut bytes = fs::read(&path).unwrap();
        bytes[if name == "newer" { 8 } else { 500 }] ^= 2;
        fs::write(path, bytes).unwrap();
    }
    let doubt = |name| scene.store.load(&source(name), IDENTITY).unwrap_err();
    assert!(matches!(doubt("damaged"), Unusable::HeaderChecksum));
    assert!(matches!(doubt("newer"), Unusable::Version(3)));
    let refused = scene.store.list().unwrap();
    assert_eq!(
        refused
            .iter()
            .filter(|listed| listed.header.is_err())
            .count(),
        2
    );
    scene.save(PAGES, 4);
    assert!(matches!(doubt("damaged"), Unusable::Missing));
    assert!(matches!(doubt("newer"), Unusable::Version(3)));
}

/// A header that promises a huge volume costs nothing: the length of the file decides.
#[test]
fn nothing_is_allocated_by_what_a_file_says() {
    let victim = Victim::new();
    let mut huge = victim.whole.clone();
    let size = lockstep_merkle::MAX_VOLUME_SIZE;
    huge[16..24].copy_from_slice(&size.to_le_bytes());
    huge[24..32].copy_from_slice(&(size / 4096).to_le_bytes());
    let header = *blake3::hash(&huge[..HEADER - 32]).as_bytes();
    huge[HEADER - 32..HEADER].copy_from_slice(&header);
    let doubt = victim.doubt(&huge);
    assert!(matches!(doubt, Unusable::Length { .. }), "{doubt}");
}
