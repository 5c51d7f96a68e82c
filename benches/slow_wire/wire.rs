//! One direction of the wire.

use std::fs::File;
use std::io::{self, Read, Write};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

/// Packets under way; past these the sending device's own queue fills.
const UNDER_WAY: usize = 1 << 15;
/// The largest packet that a device hands out.
const LARGEST_PACKET: usize = 65_536;

/// What the wire does to packets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weather {
    /// How long each is under way.
    pub(crate) delay: Duration,
    /// How many of a thousand never arrive.
    pub(crate) lost_of_1000: u64,
    /// Which ones.
    pub(crate) seed: u64,
}

struct Packet {
    due: Instant,
    bytes: Box<[u8]>,
}

/// Carries packets until `from` is at its end or gone; `way` tells the two directions' luck apart.
pub(crate) fn carry(mut from: File, to: File, weather: Weather, way: u64) -> io::Result<()> {
    let (sender, receiver) = sync_channel(UNDER_WAY);
    let delivering = thread::spawn(move || deliver(&receiver, to));
    let mut luck = Luck::new(weather.seed.wrapping_mul(4).wrapping_add(way));
    let mut packet = vec![0; LARGEST_PACKET];
    let ended = loop {
        match from.read(&mut packet) {
            Ok(0) => break Ok(()),
            Ok(_) if luck.below(1000) < weather.lost_of_1000 => {}
            Ok(length) => {
                let due = Instant::now() + weather.delay;
                let bytes = packet[..length].into();
                if sender.send(Packet { due, bytes }).is_err() {
                    break Ok(());
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => break Err(error),
        }
    };
    drop(sender);
    // What is under way still arrives.
    let delivered = delivering
        .join()
        .map_err(|_| io::Error::other("the delivery panicked"));
    ended.and(delivered)
}

fn deliver(packets: &Receiver<Packet>, mut to: File) {
    for packet in packets {
        thread::sleep(packet.due.saturating_duration_since(Instant::now()));
        // A device that is down takes nothing, as a wire that is unplugged.
        let _ = to.write(&packet.bytes);
    }
}

/// Seeded numbers (xorshift64*).
struct Luck(u64);

impl Luck {
    fn new(seed: u64) -> Luck {
        Luck(seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) % limit
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use std::fs::File;
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixDatagram;
    use std::thread;
    use std::time::{Duration, Instant};

    use super::{Weather, carry};

    /// Sends numbered packets through a wire; returns the numbers that arrived, and when the first did.
    fn through(weather: Weather, count: u32) -> (Vec<u32>, Duration) {
        let (sender, from) = UnixDatagram::pair().unwrap();
        let (to, receiver) = UnixDatagram::pair().unwrap();
        let begun = Instant::now();
        let file = |socket| File::from(OwnedFd::from(socket));
        let wire = thread::spawn(move || {
            let closing = to.try_clone().unwrap();
            let carried = carry(file(from), file(to), weather, 1);
            closing.send(&[]).unwrap();
            carried
        });
        let sending = thread::spawn(move || {
            for number in 0..count {
                sender.send(&number.to_le_bytes()).unwrap();
            }
            // Datagrams have no end: an empty one stands for it.
            sender.send(&[]).unwrap();
        });
        receiver
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        let (mut arrived, mut first) = (Vec::new(), Duration::ZERO);
        let mut packet = [0; 4];
        while receiver.recv(&mut packet).is_ok_and(|length| length == 4) {
            if arrived.is_empty() {
                first = begun.elapsed();
            }
            arrived.push(u32::from_le_bytes(packet));
        }
        sending.join().unwrap();
        wire.join().unwrap().unwrap();
        (arrived, first)
    }

    fn weather(delay_ms: u64, lost_of_1000: u64, seed: u64) -> Weather {
        Weather {
            delay: Duration::from_millis(delay_ms),
            lost_of_1000,
            seed,
        }
    }

    #[test]
    fn a_fair_wire_delivers_everything_in_order_and_late() {
        let (arrived, first) = through(weather(40, 0, 1), 2000);
        assert_eq!(arrived, (0..2000).collect::<Vec<_>>());
        assert!(first >= Duration::from_millis(40), "{first:?}");
    }

    #[test]
    fn a_foul_wire_loses_about_what_it_should_and_the_same_for_a_seed() {
        let (arrived, _) = through(weather(0, 10, 7), 20_000);
        let lost = 20_000 - arrived.len();
        assert!((120..=280).contains(&lost), "{lost}");
        assert!(arrived.is_sorted());
        assert_eq!(through(weather(0, 10, 7), 20_000).0, arrived);
        assert_ne!(through(weather(0, 10, 8), 20_000).0, arrived);
    }
}
