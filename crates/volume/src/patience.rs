//! Trying again for a moment where the kernel says that somebody is there.
//!
//! Who is there may be gone at once: a child process of ours between fork and exec still has our
//! closed descriptors, and file indexers open everything for an instant.

use std::time::{Duration, Instant};

use rustix::io::{Errno, Result};

/// Long enough for an exec, short enough to go unnoticed before a refusal.
pub(crate) const MOMENT: Duration = Duration::from_millis(200);
const PAUSE: Duration = Duration::from_millis(10);

/// Calls again while the answer is `transient`, until the time is up; then that is the answer.
pub(crate) fn patiently<T>(
    limit: Duration,
    transient: Errno,
    mut call: impl FnMut() -> Result<T>,
) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        match call() {
            Err(error) if error == transient && Instant::now() < deadline => {
                std::thread::sleep(PAUSE);
            }
            Err(Errno::INTR) => {}
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_is_waited_for_and_what_stays_is_told() {
        let mut tries = 0;
        let passing = patiently(Duration::from_secs(5), Errno::AGAIN, || {
            tries += 1;
            if tries < 3 {
                Err(Errno::AGAIN)
            } else {
                Ok(tries)
            }
        });
        assert_eq!(passing, Ok(3));
        let mut tries = 0;
        let staying: Result<()> = patiently(Duration::from_millis(30), Errno::AGAIN, || {
            tries += 1;
            Err(Errno::AGAIN)
        });
        assert_eq!(staying, Err(Errno::AGAIN));
        assert!((2..=8).contains(&tries), "{tries}");
        let other: Result<()> = patiently(MOMENT, Errno::AGAIN, || Err(Errno::IO));
        assert_eq!(other, Err(Errno::IO));
    }
}
