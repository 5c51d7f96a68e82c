//! UDP sockets: large buffers, counted bytes, and batches that the kernel does not silently drop.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError, Weak};
use std::task::{Context, Poll, ready};

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, Runtime, TokioRuntime, UdpPoller};
use rustix::net::sockopt::{set_socket_recv_buffer_size_force, set_socket_send_buffer_size_force};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::Notify;

use super::batch::{Batch, Offered};
use super::route::MAX_PAYLOAD;
use crate::meter::Counters;

/// Wanted receive buffer, in bytes: 10 ms of 6 Gb/s, the longest a busy receiver was seen to be away.
const RECEIVE_BUFFER: usize = 8 << 20;
/// Wanted send buffer, in bytes.
const SEND_BUFFER: usize = 4 << 20;
/// Largest UDP payload over IPv4, in bytes: the bound on one batch of segments.
const MAX_BATCH: usize = 65_507;

/// Binds a UDP socket; `None` is every address, IPv6 and IPv4 where the system has both.
pub(super) fn bind(address: Option<IpAddr>) -> io::Result<UdpSocket> {
    let any_v6 = IpAddr::from(Ipv6Addr::UNSPECIFIED);
    match address {
        Some(address) if address != any_v6 => bind_at((address, 0).into()),
        _ => bind_at((any_v6, 0).into()).or_else(|_| bind_at((Ipv4Addr::UNSPECIFIED, 0).into())),
    }
}

/// Binds a socket that can reach `peer`.
pub(crate) fn bind_towards(peer: SocketAddr) -> io::Result<UdpSocket> {
    match peer {
        SocketAddr::V4(_) => bind_at((Ipv4Addr::UNSPECIFIED, 0).into()),
        SocketAddr::V6(_) => bind_at((Ipv6Addr::UNSPECIFIED, 0).into()),
    }
}

/// Binds a socket to exactly `address`; port 0 is any free one.
pub(crate) fn bind_at(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::DGRAM,
        Some(Protocol::UDP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    enlarge_buffers(&socket)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// Asks for large buffers, past the system's limit where this process may (socket(7), `SO_RCVBUFFORCE`).
fn enlarge_buffers(socket: &Socket) -> io::Result<()> {
    if set_socket_recv_buffer_size_force(socket, RECEIVE_BUFFER).is_err() {
        socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
    }
    if set_socket_send_buffer_size_force(socket, SEND_BUFFER).is_err() {
        socket.set_send_buffer_size(SEND_BUFFER)?;
    }
    let (receive, send) = (socket.recv_buffer_size()?, socket.send_buffer_size()?);
    if receive < RECEIVE_BUFFER || send < SEND_BUFFER {
        warn_once(receive, send);
    }
    Ok(())
}

fn warn_once(receive: usize, send: usize) {
    static WARNED: Once = Once::new();
    WARNED.call_once(|| {
        tracing::warn!(
            "UDP buffers are {} KiB for receiving and {} KiB for sending; packets may be lost at high rates: \
             raise the sysctls net.core.rmem_max to {RECEIVE_BUFFER} and net.core.wmem_max to {SEND_BUFFER}",
            receive / 1024,
            send / 1024,
        );
    });
}

/// A socket that counts its bytes and makes batches what one send can take, no more and no less.
///
/// quinn builds batches of up to ten segments without looking at their total, and above 64 KiB the kernel's
/// `EMSGSIZE` is taken for a success: without the clamp every full batch vanishes at a payload above 6550 bytes. With
/// smaller payloads ten are few, so that what follows at once goes along ([`Batch`]).
#[derive(Debug)]
pub(crate) struct MeteredSocket {
    inner: Arc<dyn AsyncUdpSocket>,
    counters: Arc<Counters>,
    max_segments: AtomicUsize,
    batch: Mutex<Batch>,
    /// Somebody has to send the batch if nothing follows.
    held: Arc<Notify>,
}

impl MeteredSocket {
    /// Wraps `socket` for the current tokio runtime, with the clamp for the largest payload.
    pub(crate) fn new(socket: UdpSocket, counters: Arc<Counters>) -> io::Result<Arc<Self>> {
        let inner = TokioRuntime.wrap_udp_socket(socket)?;
        let held = Arc::new(Notify::new());
        let socket = Arc::new(Self {
            inner,
            counters,
            max_segments: AtomicUsize::new(1),
            batch: Mutex::default(),
            held: Arc::clone(&held),
        });
        socket.clamp_to(MAX_PAYLOAD);
        tokio::spawn(send_what_is_held(Arc::downgrade(&socket), held));
        Ok(socket)
    }

    /// Clamps batches for packets of at most `payload` bytes.
    pub(crate) fn clamp_to(&self, payload: u16) {
        let fitting = (MAX_BATCH / usize::from(payload.max(1))).max(1);
        self.max_segments.store(fitting, Ordering::Relaxed);
    }

    fn batch(&self) -> MutexGuard<'_, Batch> {
        self.batch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.inner.try_send(transmit)?;
        self.counters.add_sent(transmit.contents.len());
        Ok(())
    }

    /// Sends what is held; it stays held if the socket is full.
    fn flush(&self, batch: &mut Batch) -> io::Result<()> {
        let sent = batch.held().map_or(Ok(()), |held| self.send(&held));
        if !matches!(&sent, Err(error) if error.kind() == io::ErrorKind::WouldBlock) {
            batch.clear();
        }
        sent
    }
}

/// Sends what nothing followed. Whoever filled the batch gets one more turn before.
async fn send_what_is_held(socket: Weak<MeteredSocket>, held: Arc<Notify>) {
    loop {
        held.notified().await;
        let mut is_second = false;
        std::future::poll_fn(|context| match std::mem::replace(&mut is_second, true) {
            true => Poll::Ready(()),
            false => {
                context.waker().wake_by_ref();
                Poll::Pending
            }
        })
        .await;
        let Some(socket) = socket.upgrade() else {
            return;
        };
        let mut writable = Arc::clone(&socket.inner).create_io_poller();
        loop {
            let sent = socket.flush(&mut socket.batch());
            if !matches!(&sent, Err(error) if error.kind() == io::ErrorKind::WouldBlock) {
                // A socket that fails for good says so to the next one who sends.
                break;
            }
            if std::future::poll_fn(|context| writable.as_mut().poll_writable(context))
                .await
                .is_err()
            {
                return;
            }
        }
    }
}

impl Drop for MeteredSocket {
    fn drop(&mut self) {
        // The last word of a connection, perhaps. What finds no room is lost, as packets are.
        let _ = self.flush(&mut self.batch());
        self.held.notify_one();
    }
}

impl AsyncUdpSocket for MeteredSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.inner).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let batch = &mut self.batch();
        let max_segments = self.max_transmit_segments();
        let mut offered = batch.offer(transmit, max_segments);
        if offered == Offered::Unlike {
            self.flush(batch)?;
            offered = batch.offer(transmit, max_segments);
        }
        match offered {
            Offered::Alone | Offered::Unlike => self.send(transmit),
            Offered::Held { is_first } => {
                if is_first {
                    self.held.notify_one();
                }
                Ok(())
            }
            // It was taken; a socket that is full gets it later.
            Offered::Full => match self.flush(batch) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.held.notify_one();
                    Ok(())
                }
                sent => sent,
            },
        }
    }

    fn poll_recv(
        &self,
        context: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let received = ready!(self.inner.poll_recv(context, buffers, meta))?;
        let bytes = meta[..received].iter().map(|meta| meta.len).sum();
        self.counters.add_received(bytes);
        Poll::Ready(Ok(received))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.inner
            .max_transmit_segments()
            .min(self.max_segments.load(Ordering::Relaxed))
    }

    fn max_receive_segments(&self) -> usize {
        self.inner.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}
