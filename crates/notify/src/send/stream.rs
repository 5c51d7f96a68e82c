//! The way to a mail server, which cannot make us keep more than a conversation needs.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use lettre::transport::smtp::client::AsyncTokioStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use super::CONNECT;

/// Most bytes that a mail server may say in all, TLS included. A line is kept until it ends, so without
/// this one that never ends would fill the memory.
const MAX_HEARD: u64 = 1 << 20;

/// A stream with an end to what is read from it.
#[derive(Debug)]
pub(super) struct Bounded<S> {
    stream: S,
    server: SocketAddr,
    left: u64,
}

impl Bounded<TcpStream> {
    /// Connects to the first address that answers.
    pub(super) async fn connect(host: &str, port: u16) -> io::Result<Self> {
        let mut failure = io::Error::other("the name has no address");
        for server in lookup_host((host, port)).await? {
            let connected = timeout(CONNECT, TcpStream::connect(server)).await;
            match connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                Ok(stream) => return Ok(Self::new(stream, server)),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }
}

impl<S> Bounded<S> {
    fn new(stream: S, server: SocketAddr) -> Self {
        Self {
            stream,
            server,
            left: MAX_HEARD,
        }
    }

    pub(super) fn server(&self) -> SocketAddr {
        self.server
    }

    /// What goes through another stream, within the same bound.
    pub(super) fn over<T>(stream: T, server: SocketAddr) -> Bounded<T> {
        Bounded::new(stream, server)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Bounded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.left == 0 {
            let why = "the mail server says more than 1 MiB";
            return Poll::Ready(Err(io::Error::other(why)));
        }
        let before = into.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, into);
        let heard = into.filled().len() - before;
        self.left = self.left.saturating_sub(heard as u64);
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Bounded<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl<S> AsyncTokioStream for Bounded<S>
where
    S: AsyncRead + AsyncWrite + Send + Sync + Unpin + std::fmt::Debug,
{
    fn peer_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.server)
    }
}

#[cfg(test)]
mod tests {
    use super::{Bounded, MAX_HEARD};
    use tokio::io::AsyncReadExt;

    #[test]
    fn there_is_an_end_to_what_a_server_says() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let server = "192.0.2.1:25".parse().unwrap();
        let mut endless = Bounded::<()>::over(tokio::io::repeat(b'x'), server);
        let mut heard = Vec::new();
        let error = runtime
            .block_on(endless.read_to_end(&mut heard))
            .unwrap_err();
        assert!(error.to_string().contains("1 MiB"), "{error}");
        let most = MAX_HEARD as usize;
        assert!((most..2 * most).contains(&heard.len()), "{}", heard.len());
    }
}
