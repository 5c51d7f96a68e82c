//! What a cluster of the tests is made of: its file, its hooks, its volumes, its ports.

use std::net::UdpSocket;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

/// Bytes of every volume.
pub(crate) const SIZE: usize = 2 << 20;
/// So slow that a run of a whole volume is on for half a minute.
pub(crate) const SLOW: [&str; 4] = ["--limit-rate", "64K", "--compress", "off"];
/// Below the ports that the kernel gives away by itself.
const PORTS: std::ops::Range<u32> = 10_000..32_000;
pub(crate) const NODES: [&str; 3] = ["db1", "db2", "db3"];

/// Writes down what it is told. `fail-NODE-MOMENT` lets it fail, `hold-NODE-MOMENT` makes it wait, and a
/// service that starts on anything but an image in `allowed` is a violation.
pub(crate) const HOOK: &str = r#"#!/bin/sh
cd "$(dirname "$0")" || exit 1
it="$LOCKSTEP_NODE-$LOCKSTEP_MOMENT"
echo "$LOCKSTEP_NODE $LOCKSTEP_MOMENT $LOCKSTEP_STATE $LOCKSTEP_EPOCH $LOCKSTEP_VOLUME" >> hooks.log
while [ -e "hold-$it" ]; do sleep 0.05; done
if [ -e "fail-$it" ]; then echo "on purpose" >&2; exit 1; fi
case "$LOCKSTEP_MOMENT" in
configure | start)
  if [ -d allowed ]; then
    for image in allowed/*; do cmp -s "$image" "$LOCKSTEP_PATH" && exit 0; done
    echo "$it $LOCKSTEP_VOLUME $LOCKSTEP_STATE" >> violations
  fi ;;
probe)
  cat "role-$LOCKSTEP_NODE" ;;
esac
exit 0
"#;

/// A resync that was confirmed beforehand.
pub(crate) fn agreed<'a>(name: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["resync", name, "--yes", "--confirm", name], more].concat()
}

/// The role probe in place of a primary.
pub(crate) fn probed(text: String) -> String {
    let (hook, _) = text.split_once("\"]\nstop").unwrap();
    let (_, hook) = hook.rsplit_once("[\"").unwrap();
    text.replace(
        "primary = \"db1\"\nreplicas = [\"db2\", \"db3\"]",
        &format!("primary = {{ probe = [\"{hook}\"] }}\nreplicas = [\"db1\", \"db2\", \"db3\"]"),
    )
}

pub(crate) fn volume_section(folder: &Path, name: &str, number: u8) -> String {
    let folder = folder.display();
    let mut text = format!(
        "[[volume]]\nname = \"{name}\"\nid = \"0198f3b2-8c7e-7d11-9a51-2f6c0a1b9e{number:02x}\"\n\
         primary = \"db1\"\nreplicas = [\"db2\", \"db3\"]\n[volume.path]\n"
    );
    for node in NODES {
        text += &format!("{node} = \"{folder}/{node}/{name}.img\"\n");
    }
    text += "[volume.hooks]\n";
    for moment in ["health", "stop", "configure", "start", "check"] {
        text += &format!("{moment} = [\"{folder}/hook\"]\n");
    }
    text
}

/// Bytes that nothing makes smaller.
pub(crate) fn random(seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.take(SIZE / 8).flatten().collect()
}

pub(crate) fn number(node: &str) -> usize {
    NODES.iter().position(|it| *it == node).unwrap()
}

/// A port that is nobody's: tests in other processes begin to look at other places.
pub(crate) fn free_port() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let first = std::process::id().wrapping_mul(37);
    loop {
        let number = first.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = PORTS.start + number % (PORTS.end - PORTS.start);
        if UdpSocket::bind(("127.0.0.1", u16::try_from(port).unwrap())).is_ok() {
            return port;
        }
    }
}
