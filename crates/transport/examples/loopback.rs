//! Bulk throughput of a QUIC link over the loopback, both ends in this process.
//!
//! `cargo run --release -p lockstep-transport --example loopback [GIB]` prints one line for each combination of data
//! connections and payload size: Gb/s, and CPU seconds of the whole process for each GB moved.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use lockstep_transport::quic::{self, MtuChoice, OneTimeKey, QuicOptions};
use lockstep_transport::{Bulk, Link, memory_pair, pipe_link};

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let gib: u64 = std::env::args().nth(1).map_or(Ok(2), |gib| gib.parse())?;
    println!("{:<34} {:>8} {:>12}", "link", "Gb/s", "CPU s / GB");
    for round in 1..=2 {
        for connections in [1, 2] {
            for payload in [1452, 8952] {
                let options = QuicOptions {
                    connections,
                    mtu: MtuChoice::Fixed(payload),
                    ..QuicOptions::default()
                };
                let (near, far) = quic_pair(&options)?;
                let name = format!("quic, {connections} data, payload {payload}, #{round}");
                measure(&name, near, far, gib << 10)?;
            }
        }
    }
    let (near_read, far_write) = std::io::pipe()?;
    let (far_read, near_write) = std::io::pipe()?;
    measure(
        "pipe",
        pipe_link(near_read, near_write),
        pipe_link(far_read, far_write),
        gib << 10,
    )?;
    let (near, far) = memory_pair();
    measure("memory", near, far, gib << 10)
}

fn measure(name: &str, near: Link, far: Link, frames: u64) -> Result<(), Failure> {
    let body = Bytes::from(vec![0x5a; 1 << 20]);
    let (cpu, started) = (cpu_seconds()?, Instant::now());
    let receiving = thread::spawn(move || {
        let mut bytes = 0_u64;
        while let Ok(frame) = far.bulk.recv() {
            bytes += frame.len() as u64;
        }
        bytes
    });
    for _ in 0..frames {
        near.sender.bulk(Bulk::new(Bytes::new(), body.clone()))?;
    }
    near.sender.finish();
    let bytes = receiving.join().map_err(|_| "the receiver panicked")?;
    let (seconds, cpu) = (started.elapsed().as_secs_f64(), cpu_seconds()? - cpu);
    if bytes != frames << 20 {
        return Err(format!("{bytes} bytes arrived of {}", frames << 20).into());
    }
    let gigabytes = bytes as f64 / 1e9;
    println!(
        "{name:<34} {:>8.2} {:>12.3}",
        gigabytes * 8.0 / seconds,
        cpu / gigabytes
    );
    Ok(())
}

fn quic_pair(options: &QuicOptions) -> Result<(Link, Link), Failure> {
    let localhost = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let (near_key, far_key) = (OneTimeKey::generate()?, OneTimeKey::generate()?);
    let (far_public, token, timeout) = (far_key.public_key(), [1; 32], Duration::from_secs(10));
    let listening = quic::listen(
        localhost,
        far_key,
        near_key.public_key(),
        token,
        options.clone(),
    )?;
    let (address, ports) = (SocketAddr::new(localhost, 0), listening.ports());
    let near = quic::dial(
        &[address],
        &ports,
        near_key,
        far_public,
        token,
        options.clone(),
        timeout,
    )?;
    Ok((near, listening.accept(Instant::now() + timeout)?))
}

/// User and system time of this process so far.
fn cpu_seconds() -> Result<f64, Failure> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let after_name = stat.rsplit_once(')').ok_or("no process name")?.1;
    let ticks: u64 = after_name
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|ticks| ticks.parse::<u64>().ok())
        .sum();
    Ok(ticks as f64 / 100.0)
}
