//! A QUIC link over the loopback, both ends in this process.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::{Criterion, Throughput};
use lockstep_transport::quic::{self, MtuChoice, OneTimeKey, QuicOptions};
use lockstep_transport::{Bulk, Link};

const FRAME: usize = 1 << 20;
/// Frames of one measurement: enough that its ends weigh little.
const FRAMES: usize = 64;
const PATIENCE: Duration = Duration::from_secs(10);
/// Payload of an Ethernet packet.
const ETHERNET: u16 = 1452;

pub(crate) fn benches(c: &mut Criterion) {
    let mut group = c.benchmark_group("quic");
    group
        .sample_size(10)
        .throughput(Throughput::Bytes((FRAMES * FRAME) as u64));
    let paths = [
        ("loopback", MtuChoice::FromInterface),
        ("ethernet", MtuChoice::Fixed(ETHERNET)),
    ];
    for (path, mtu) in paths {
        for connections in [1, 2] {
            let options = QuicOptions {
                connections,
                mtu,
                ..QuicOptions::default()
            };
            group.bench_function(
                format!("bulk, {path} packets, {connections} connections"),
                |b| {
                    let (near, far) = pair(&options);
                    b.iter(|| bulk(&near, &far));
                },
            );
        }
    }
    group.throughput(Throughput::Elements(1));
    group.bench_function("control there and back", |b| {
        let (near, far) = pair(&QuicOptions::default());
        let word = Bytes::from_static(b"are you there?");
        b.iter(|| {
            near.sender.control(word.clone()).unwrap();
            far.sender.control(far.control.recv().unwrap()).unwrap();
            near.control.recv().unwrap()
        });
    });
    group.finish();
}

fn bulk(near: &Link, far: &Link) {
    let body = Bytes::from_static(&[0x5a; FRAME]);
    thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..FRAMES {
                near.sender
                    .bulk(Bulk::new(Bytes::new(), body.clone()))
                    .unwrap();
            }
        });
        for _ in 0..FRAMES {
            assert_eq!(far.bulk.recv().unwrap().len(), FRAME);
        }
    });
}

fn pair(options: &QuicOptions) -> (Link, Link) {
    let localhost = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let (near_key, far_key) = (
        OneTimeKey::generate().unwrap(),
        OneTimeKey::generate().unwrap(),
    );
    let (far_public, token) = (far_key.public_key(), [1; 32]);
    let listening = quic::listen(
        localhost,
        far_key,
        near_key.public_key(),
        token,
        options.clone(),
    )
    .unwrap();
    let (address, ports) = (SocketAddr::new(localhost, 0), listening.ports());
    let near = quic::dial(
        &[address],
        &ports,
        near_key,
        far_public,
        token,
        options.clone(),
        PATIENCE,
    )
    .unwrap();
    (near, listening.accept(Instant::now() + PATIENCE).unwrap())
}
