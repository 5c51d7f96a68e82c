//! Whether a fresh UDP port of a node is reached from another, as the data of a run needs it.
//!
//! ```text
//! primary                              secondary
//! Ask::Echo { word } ─────────────►    binds a port as for data
//!                    ◄─────────────    Answer::Echo { port }
//! datagram: the word ═════════════►    the same back, nothing larger, to nobody else
//! ```

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use lockstep_cluster::value::NodeName;
use lockstep_protocol::{Failure, FailureKind};

use crate::config::Config;
use crate::reach::Reach;
use crate::talk::{Talk, TalkError, hear, say};
use crate::wire::{Answer, Ask, Hex32};

/// Most ports that are open for this at once.
const MAX_PORTS: usize = 16;
/// How long a port is open.
const OPEN_LIMIT: Duration = Duration::from_secs(4);
/// Most datagrams that one port gives back.
const MAX_BACK: usize = 32;
/// How long a secondary may take to open its port.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// Datagrams that are sent before a port counts as closed, and the time after each.
const TRIES: usize = 12;
const PAUSE: Duration = Duration::from_millis(150);

/// The ports that are open now.
#[derive(Default)]
pub(crate) struct Echoes(Arc<AtomicUsize>);

struct Slot(Arc<AtomicUsize>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Echoes {
    /// Opens a port and gives back the word until the caller is gone, or the time is over.
    pub(crate) fn serve(
        &self,
        talk: &mut dyn Talk,
        config: &Config,
        word: Hex32,
    ) -> Result<(), Failure> {
        let _slot = self.slot()?;
        let unready = |error: io::Error| {
            Failure::new(FailureKind::Temporary, format!("no port to try: {error}"))
        };
        let socket = bind(config.data_address()).map_err(unready)?;
        socket.set_read_timeout(Some(PAUSE)).map_err(unready)?;
        let port = socket.local_addr().map_err(unready)?.port();
        if say(talk, &Answer::Echo { port }).is_err() {
            return Ok(());
        }
        let (deadline, mut given) = (Instant::now() + OPEN_LIMIT, 0);
        let mut buffer = [0; 64];
        while Instant::now() < deadline && given < MAX_BACK {
            if let Ok((length, from)) = socket.recv_from(&mut buffer)
                && buffer.get(..length) == Some(word.0.as_slice())
            {
                given += 1;
                // What is lost is sent again.
                let _ = socket.send_to(&word.0, from);
            }
            if !matches!(
                talk.recv(Duration::from_millis(1)),
                Err(TalkError::Silent(_))
            ) {
                break;
            }
        }
        Ok(())
    }

    fn slot(&self) -> Result<Slot, Failure> {
        let slot = Slot(Arc::clone(&self.0));
        match self.0.fetch_add(1, Ordering::SeqCst) < MAX_PORTS {
            true => Ok(slot),
            false => Err(Failure::new(
                FailureKind::Busy,
                format!("{MAX_PORTS} ports are being tried already"),
            )),
        }
    }
}

/// Whether a fresh port of a node is reached from here, and answers reach us.
///
/// # Errors
/// If it could not be tried.
pub(crate) fn is_reached(reach: &dyn Reach, node: &NodeName) -> Result<bool, Failure> {
    let untried =
        |what: String| Failure::new(FailureKind::Temporary, format!("{node}: no port: {what}"));
    let mut word = [0; 32];
    getrandom::fill(&mut word).map_err(|error| untried(error.to_string()))?;
    let mut reached = reach.call(node, &Ask::Echo { word: Hex32(word) })?;
    let port = match hear::<Answer>(&mut *reached.talk, ANSWER_LIMIT) {
        Ok(Answer::Echo { port }) => port,
        Ok(Answer::Failed(failure)) => return Err(failure.into()),
        Ok(_) => return Err(crate::reach::out_of_turn(node)),
        Err(error) => return Err(crate::reach::unheard(node, &error)),
    };
    try_port(reached.host, port, &word).map_err(|error| untried(error.to_string()))
}

fn try_port(host: IpAddr, port: u16, word: &[u8; 32]) -> io::Result<bool> {
    let any: IpAddr = match host {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect((host, port))?;
    socket.set_read_timeout(Some(PAUSE))?;
    let mut buffer = [0; 64];
    for _ in 0..TRIES {
        // A host that says no answers with an error here or there: that is a port not reached.
        let sent = socket.send(word);
        match sent.and_then(|_| socket.recv(&mut buffer)) {
            Ok(length) if buffer.get(..length) == Some(word.as_slice()) => return Ok(true),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                std::thread::sleep(PAUSE);
            }
            Err(_) => {}
        }
    }
    Ok(false)
}

fn bind(address: Option<IpAddr>) -> io::Result<UdpSocket> {
    match address {
        Some(address) => UdpSocket::bind((address, 0)),
        None => UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))
            .or_else(|_| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))),
    }
}

#[cfg(test)]
mod tests {
    use super::try_port;
    use std::net::{IpAddr, Ipv4Addr, UdpSocket};

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    #[test]
    fn a_port_counts_as_reached_only_if_it_gives_the_word_back() {
        let server = UdpSocket::bind((HERE, 0)).unwrap();
        let port = server.local_addr().unwrap().port();
        let back = std::thread::spawn(move || {
            let mut buffer = [0; 64];
            let (length, from) = server.recv_from(&mut buffer).unwrap();
            server.send_to(b"something else", from).unwrap();
            server.send_to(&buffer[..length], from).unwrap();
            server
        });
        assert!(try_port(HERE, port, &[7; 32]).unwrap());
        drop(back.join().unwrap());
        assert!(!try_port(HERE, port, &[7; 32]).unwrap(), "closed by now");
    }
}
