//! A long, lossy wire between two packet devices, such as TUN devices of two network namespaces.
//!
//! ```text
//! slow-wire --delay-ms 50 --lost-of-1000 10 --seed 1  <>DEVICE-A  1<>DEVICE-B
//! ```
//! Its standard input and its standard output are the devices: each read is one packet, and so is
//! each write. What one sends reaches the other after the delay, in order, or never. The same seed
//! loses the same packets by their number, in each direction. Runs until a device is gone.

mod wire;

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use wire::Weather;

type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    match run(std::env::args().skip(1)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("slow-wire: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: impl Iterator<Item = String>) -> Result<(), Failure> {
    let weather = weather(arguments)?;
    let (input, output) = (std::io::stdin(), std::io::stdout());
    let (a, b) = (device(input.as_fd())?, device(output.as_fd())?);
    let (from_a, from_b) = (a.try_clone()?, b.try_clone()?);
    let back = thread::spawn(move || wire::carry(from_b, a, weather, 2));
    wire::carry(from_a, b, weather, 1)?;
    back.join().map_err(|_| "the way back panicked")??;
    Ok(())
}

fn device(fd: BorrowedFd<'_>) -> Result<File, Failure> {
    Ok(File::from(fd.try_clone_to_owned()?))
}

fn weather(mut arguments: impl Iterator<Item = String>) -> Result<Weather, Failure> {
    let mut weather = Weather {
        delay: Duration::ZERO,
        lost_of_1000: 0,
        seed: 0,
    };
    while let Some(name) = arguments.next() {
        let value = arguments
            .next()
            .ok_or_else(|| format!("{name}: no value"))?;
        let number: u64 = value
            .parse()
            .map_err(|_| format!("{name}: not a number: {value}"))?;
        match name.as_str() {
            "--delay-ms" => weather.delay = Duration::from_millis(number),
            "--lost-of-1000" => weather.lost_of_1000 = number,
            "--seed" => weather.seed = number,
            _ => return Err(format!("unknown: {name}").into()),
        }
    }
    Ok(weather)
}
