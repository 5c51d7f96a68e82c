//! Ed25519 keys of nodes and operators: their written form, and the private ones' place.

mod base32;
mod private;
mod public;
mod store;
#[cfg(test)]
mod tls;

pub use private::{KeyRefused, PrivateKey};
pub use public::{Fingerprint, PublicKey};
pub use store::{KeyError, KeyStore, NodeKeys, Rotation};
