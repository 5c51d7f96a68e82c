//! Links over QUIC: TLS 1.3 with raw public keys pinned both ways, one unidirectional stream for each bulk frame.
//!
//! ```text
//! dialer                                                      listener
//! port 0   connection ─ bidirectional stream ─ token ───────► compared; one byte back
//!                          └ then control frames both ways:   length: u32, little endian │ payload
//!                            0xffff_ffff  goodbye, then u64:  bulk frames sent in all
//!                            0xffff_fffe  received:           everything before the goodbye
//! ports…   connection ─ bidirectional stream ─ token ───────► compared; one byte back
//!                       one unidirectional stream for each bulk frame, both ways
//! ```
//!
//! With one data connection that connection carries control too, and there is one port. With more, the first port
//! carries control alone. Each connection has a socket, an endpoint, a thread and a runtime of its own.
//!
//! Until the token has been accepted, a connection admits one stream and a window of a few kilobytes.

mod admit;
mod batch;
pub(crate) mod carrier;
mod control;
mod dial;
pub(crate) mod key;
mod listen;
pub(crate) mod options;
mod rate;
pub(crate) mod route;
pub(crate) mod socket;
pub(crate) mod tls;

pub use self::dial::{DialError, dial};
pub use self::key::{KeyError, OneTimeKey, PublicKey};
pub use self::listen::{AcceptError, ListenError, Listening, listen};
pub use self::options::{MAX_CONNECTIONS, MtuChoice, QuicOptions};
pub use self::route::route_mtu;
pub use self::tls::{TlsError, Trust};

pub(crate) use self::dial::{Call, dial_counted};
pub(crate) use self::listen::listen_counted;
pub(crate) use self::tls::ALPN;

/// Length of the token that the dialer proves itself with, in bytes.
pub const TOKEN_LEN: usize = 32;

/// One thread's runtime for one connection: a connection is about one core's work, and sharing it costs a tenth.
fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
}

#[cfg(test)]
mod tests;
