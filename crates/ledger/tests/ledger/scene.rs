//! One volume and its state directory in a temporary folder, for every test here.

use std::path::PathBuf;

use lockstep_ledger::{Identity, Ledger, Proof, ProofLevel, RunFacts, Standing, VolumeKey, peek};

pub(crate) struct Scene {
    pub(crate) dir: PathBuf,
    pub(crate) key: VolumeKey,
    _folder: tempfile::TempDir,
}

impl Scene {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key = VolumeKey::from_path(&folder.path().join("volume.img")).unwrap();
        Self {
            dir: folder.path().join("state"),
            key,
            _folder: folder,
        }
    }

    pub(crate) fn open(&self) -> Ledger {
        Ledger::open(&self.dir).unwrap()
    }

    /// One whole run on the volume as `a`.
    pub(crate) fn sync(&self, name: &str) {
        let claim = self.open().claim(&self.key, run(name)).unwrap();
        let overwriting = claim.overwrite(Some(identity("a"))).unwrap();
        overwriting
            .consistent(identity("a"), proof(7), 4096, 2000)
            .unwrap();
    }

    /// What someone who only asks is told of the volume as `a`.
    pub(crate) fn standing(&self) -> Standing {
        peek(&self.dir, &self.key, &identity("a"))
    }

    pub(crate) fn word(&self) -> &'static str {
        self.standing().word()
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.dir.join("ledger.redb")
    }

    pub(crate) fn store_bytes(&self) -> Vec<u8> {
        std::fs::read(self.store()).unwrap()
    }
}

pub(crate) fn identity(text: &str) -> Identity {
    Identity::new(text)
}

pub(crate) fn proof(byte: u8) -> Proof {
    Proof::new([byte; 32], [byte; 32], 1 << 20, ProofLevel::Delta).unwrap()
}

pub(crate) fn run(name: &str) -> RunFacts {
    RunFacts {
        run: name.to_owned(),
        source: "/dev/vg0/pg".to_owned(),
        who: "ops".to_owned(),
        started_unix_ms: 1000,
        epoch: 0,
    }
}
