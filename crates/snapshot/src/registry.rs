//! All providers: a new one is its file and a line here.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::provider::Provider;
use crate::providers::{Btrfs, Exec, Lvm, Reflink, Zfs};

/// The providers that a volume can be frozen with, the preferred ones first.
#[derive(Debug)]
pub struct Registry {
    providers: Vec<Box<dyn Provider>>,
}

impl Registry {
    /// Those that need nothing but what the system has.
    #[must_use]
    pub fn system() -> Self {
        Self {
            providers: vec![
                Box::new(Reflink::new()),
                Box::new(Btrfs::new()),
                Box::new(Lvm::new()),
                Box::new(Zfs::new()),
            ],
        }
    }

    /// The same, and before them the user's own program with its first arguments.
    #[must_use]
    pub fn with_program(program: PathBuf, arguments: Vec<OsString>) -> Self {
        let mut registry = Self::system();
        let exec = Box::new(Exec::new(program, arguments));
        registry.providers.insert(0, exec);
        registry
    }

    /// Only these, in this order.
    #[must_use]
    pub fn of(providers: Vec<Box<dyn Provider>>) -> Self {
        Self { providers }
    }

    /// All of them, the preferred ones first.
    pub fn iter(&self) -> impl Iterator<Item = &dyn Provider> {
        self.providers.iter().map(Box::as_ref)
    }

    /// The one with this name.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<&dyn Provider> {
        self.iter().find(|provider| provider.name() == name)
    }
}
