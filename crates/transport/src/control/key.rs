//! The long-lived key of a node or an operator.

use std::fmt;

use crate::quic::key::Identity;
use crate::quic::{KeyError, PublicKey};

/// A long-lived Ed25519 private key. It can sign and can not be shown.
#[derive(Clone)]
pub struct NodeKey(pub(super) Identity);

impl NodeKey {
    /// The key of a PKCS #8 document (RFC 8410), with or without its public half.
    ///
    /// # Errors
    /// If `der` is anything else.
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, KeyError> {
        Identity::from_pkcs8(der).map(Self)
    }

    /// The public half.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        self.0.public()
    }
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("NodeKey")
            .field("public", &self.public())
            .finish_non_exhaustive()
    }
}
