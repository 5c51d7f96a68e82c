//! Authenticated calls between long-lived keys: who calls is known before a byte of the call is read, and a stranger
//! costs a bounded amount of memory and time.
//!
//! ```text
//! caller                                                     server
//! Connection ─ TLS 1.3, raw public keys both ways ─────────► stranger: at most 64 handshakes, 5 s each, no stream
//!              ◄──────────────────── streams are allowed ─── trusted: the key was checked, and its limits apply
//! Call ─────── bidirectional stream: first frame ≤ 64 KiB ─► within 10 s, then handed out by `accept`
//!              frames ≤ 1 MiB both ways                      length: u32, little endian │ payload
//! ```
//!
//! - A key is asked about in the handshake, for every new call, and when [`Server::recheck`] says so; a key that is no
//!   longer trusted loses its connection with all calls on it.
//! - An end that breaks the rules of framing loses its connection.
//! - Only [`Call::finish`] ends a call in order: a call that is dropped before is an error at the other end.
//! - Dropping the last handle to a connection, its calls included, closes it.

mod call;
mod connection;
mod error;
mod frame;
mod gate;
mod held;
mod key;
mod limits;
mod server;

pub use self::call::{Call, CallReceiver, CallSender};
pub use self::connection::Connection;
pub use self::error::CallError;
pub use self::key::NodeKey;
pub use self::limits::{
    CALLS_PER_CONNECTION, CONNECTIONS, CONNECTIONS_PER_KEY, FIRST_FRAME_LIMIT, HANDSHAKE_LIMIT,
    HANDSHAKES, IDLE_TIMEOUT, MAX_CALL_FRAME, MAX_FIRST_FRAME,
};
pub use self::server::{Incoming, Server};
pub use crate::quic::{KeyError, ListenError, PublicKey, TlsError, Trust};

#[cfg(test)]
mod tests;
