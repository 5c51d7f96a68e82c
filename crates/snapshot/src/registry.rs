//! All providers: a new one is its file and a line here.

use crate::provider::Provider;
use crate::providers::{Btrfs, Reflink};

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
            providers: vec![Box::new(Reflink::new()), Box::new(Btrfs::new())],
        }
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
