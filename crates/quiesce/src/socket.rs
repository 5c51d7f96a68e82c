//! A pair of sockets that keep records apart, carry open descriptors, and close when their owner dies.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recv, recvmsg, send, sendmsg,
    socketpair,
};

use crate::MAX_MOUNT_POINTS;
use crate::words::MAX_RECORD;

/// What came in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Received {
    Record(String),
    /// The other end is closed and everything that it said was received.
    Closed,
    /// Nothing within the time.
    Nothing,
}

/// Both ends; neither is inherited by a program that is started later, unless as its input.
pub(crate) fn pair() -> rustix::io::Result<(OwnedFd, OwnedFd)> {
    socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
}

/// Says one record, waiting for nobody: a reader that is so far behind is as good as gone.
pub(crate) fn say(socket: impl AsFd, record: &str) -> rustix::io::Result<()> {
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    retry_on_intr(|| send(&socket, record.as_bytes(), flags)).map(drop)
}

/// Says one record and gives copies of descriptors with it.
pub(crate) fn hand_over(
    socket: impl AsFd,
    record: &str,
    fds: &[BorrowedFd<'_>],
) -> rustix::io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_MOUNT_POINTS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(Errno::NOBUFS);
    }
    let text = [IoSlice::new(record.as_bytes())];
    sendmsg(socket, &text, &mut control, SendFlags::NOSIGNAL).map(drop)
}

/// Receives a record with descriptors.
pub(crate) fn take_over(socket: impl AsFd) -> rustix::io::Result<(String, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_MOUNT_POINTS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = [0; MAX_RECORD];
    let received = recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut bytes)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let fds = control.drain().flat_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => fds.collect(),
        _ => Vec::new(),
    });
    let fds = fds.collect();
    let text = String::from_utf8_lossy(&bytes[..received.bytes]);
    Ok((text.into_owned(), fds))
}

/// Waits for a record; without a limit for as long as it takes.
pub(crate) fn listen(socket: impl AsFd, limit: Option<Duration>) -> rustix::io::Result<Received> {
    if !is_readable(socket.as_fd(), limit)? {
        return Ok(Received::Nothing);
    }
    let mut bytes = [0; MAX_RECORD];
    match recv(&socket, &mut bytes[..], RecvFlags::DONTWAIT) {
        Ok((0, _)) => Ok(Received::Closed),
        Ok((length, _)) => {
            let text = String::from_utf8_lossy(&bytes[..length]);
            Ok(Received::Record(text.into_owned()))
        }
        // The other end closed before it read all that we said. That comes first, and once; what it
        // said itself is still to be read.
        Err(Errno::CONNRESET | Errno::AGAIN | Errno::INTR) => Ok(Received::Nothing),
        Err(error) => Err(error),
    }
}

fn is_readable(socket: BorrowedFd<'_>, limit: Option<Duration>) -> rustix::io::Result<bool> {
    let limit = limit.map(timespec);
    let mut fds = [PollFd::from_borrowed_fd(socket, PollFlags::IN)];
    match poll(&mut fds, limit.as_ref()) {
        // An interrupted wait is one that was too short: every caller waits in a loop.
        Err(Errno::INTR) => Ok(false),
        other => Ok(other? > 0),
    }
}

/// For poll; times beyond what it takes are as good as for ever.
pub(crate) fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(duration.subsec_nanos()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_before_the_end_is_heard_even_if_our_own_words_were_not() {
        let (ours, theirs) = pair().unwrap();
        say(&ours, "unread").unwrap();
        say(&theirs, "frozen 1").unwrap();
        drop(theirs);
        let mut heard = Vec::new();
        while heard.last() != Some(&Received::Closed) {
            heard.push(listen(&ours, None).unwrap());
        }
        heard.retain(|received| *received != Received::Nothing);
        let words = [Received::Record("frozen 1".to_owned()), Received::Closed];
        assert_eq!(heard, words);
    }

    #[test]
    fn descriptors_arrive_as_the_same_files() {
        let (ours, theirs) = pair().unwrap();
        let file = std::fs::File::open("/proc/self").unwrap();
        hand_over(&ours, "hold", &[file.as_fd(), ours.as_fd()]).unwrap();
        let (word, fds) = take_over(&theirs).unwrap();
        assert_eq!((word.as_str(), fds.len()), ("hold", 2));
        let inode = |fd: &dyn Fn() -> rustix::io::Result<rustix::fs::Stat>| fd().unwrap().st_ino;
        assert_eq!(
            inode(&|| rustix::fs::fstat(&file)),
            inode(&|| rustix::fs::fstat(&fds[0]))
        );
        assert_eq!(
            listen(&theirs, Some(Duration::ZERO)).unwrap(),
            Received::Nothing
        );
    }
}
