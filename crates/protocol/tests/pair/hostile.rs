//! A peer that speaks the language and breaks the rules: frames that decode, at the wrong time or
//! about the wrong thing.

use lockstep_merkle::{
    Cv, ExtentIndex, GroupIndex, GroupSet, MAX_VOLUME_SIZE, PageDigest, PageSet, Root,
};
use lockstep_protocol::limits::{DATA_HEAD_LEN, MAX_WINDOW};
use lockstep_protocol::{
    DataHead, Encoding, Evidence, Failure, FailureKind, LastWord, Plan, SourceFrame, Stats,
    TargetFrame, Text, VolumeState, Want, Welcome,
};

use crate::random::Random;

/// Chance in percent that a message is tampered with.
const RATE: usize = 12;

/// What becomes of one honest message.
fn tamper(
    random: &mut Random,
    honest: Vec<u8>,
    invent: impl Fn(&mut Random) -> Vec<u8>,
) -> Vec<Vec<u8>> {
    if !random.percent(RATE) {
        return vec![honest];
    }
    match random.below(4) {
        0 => vec![invent(random)],
        1 => vec![invent(random), honest],
        2 => vec![honest.clone(), honest],
        _ => vec![honest, invent(random)],
    }
}

pub(crate) fn source_frames(random: &mut Random, extents: u64, honest: Vec<u8>) -> Vec<Vec<u8>> {
    let known = SourceFrame::decode(&honest).unwrap();
    tamper(random, honest, |random| {
        source_frame(random, extents, &known).encode()
    })
}

pub(crate) fn target_frames(
    random: &mut Random,
    extents: u64,
    done: Option<Root>,
    honest: Vec<u8>,
) -> Vec<Vec<u8>> {
    tamper(random, honest, |random| {
        target_frame(random, extents, done).encode()
    })
}

pub(crate) fn bulks(random: &mut Random, extents: u64, honest: Vec<u8>) -> Vec<Vec<u8>> {
    let known = honest.clone();
    tamper(random, honest, |random| bulk(random, extents, &known))
}

fn source_frame(random: &mut Random, extents: u64, known: &SourceFrame) -> SourceFrame {
    match random.below(6) {
        0 => SourceFrame::Proceed,
        1 => SourceFrame::Counted {
            extent: extent(random, extents),
        },
        2 => SourceFrame::Done(LastWord {
            root: Root::from_bytes([random.below(256) as u8; 32]),
            evidence: Evidence::Full,
            level: None,
        }),
        3 => SourceFrame::Abort(Failure::new(FailureKind::Io, "gone")),
        4 => SourceFrame::Digests {
            first: GroupIndex(extent(random, extents).0.min(MAX_VOLUME_SIZE >> 20) * 16),
            cvs: vec![Cv::from_bytes([6; 32]); 1 + random.below(40)],
        },
        _ => altered(random, known),
    }
}

/// The honest frame with one lie in it.
fn altered(random: &mut Random, known: &SourceFrame) -> SourceFrame {
    let mut frame = known.clone();
    match &mut frame {
        SourceFrame::Digests { cvs, .. } => {
            let at = random.below(cvs.len());
            cvs[at] = Cv::from_bytes([random.below(256) as u8; 32]);
        }
        SourceFrame::Hello(hello) => hello.size ^= 1 << random.below(20),
        SourceFrame::Counted { extent } => extent.0 ^= 1,
        SourceFrame::Done(word) => {
            word.evidence = match word.evidence {
                Evidence::None => Evidence::Full,
                Evidence::Full | Evidence::Delta => Evidence::None,
            }
        }
        SourceFrame::Doubt { runs } => runs.push([random.below(256) as u8; 16]),
        SourceFrame::Proceed | SourceFrame::Abort(_) => {}
    }
    frame
}

fn target_frame(random: &mut Random, extents: u64, done: Option<Root>) -> TargetFrame {
    let stats = Stats::default();
    match random.below(9) {
        0 => TargetFrame::Welcome(Welcome {
            version: random.below(3) as u16,
            window: 1 + random.below(usize::from(MAX_WINDOW)) as u16,
            plan: random.of(&[Plan::Keep, Plan::Create]),
            present_size: None,
            standing: VolumeState::Consistent,
            has_medium: false,
            identity: vec![1],
        }),
        1 => TargetFrame::Refused {
            failure: Failure::new(FailureKind::Busy, "busy"),
            identity: Vec::new(),
        },
        2 => TargetFrame::Compared(stats),
        3 => TargetFrame::State(VolumeState::Consistent),
        4 => TargetFrame::Verified {
            root: done
                .filter(|_| random.percent(50))
                .unwrap_or(Root::from_bytes([3; 32])),
            state: VolumeState::Consistent,
            stats,
        },
        5 => TargetFrame::Warning(Text::new("look")),
        _ => TargetFrame::Want(want(random, extents)),
    }
}

fn want(random: &mut Random, extents: u64) -> Want {
    let bits = |random: &mut Random| GroupSet::from_bits(random.next() as u16);
    let paged = if random.percent(30) {
        bits(random)
    } else {
        GroupSet::EMPTY
    };
    Want {
        extent: extent(random, extents),
        whole: if random.percent(30) {
            GroupSet::all(16)
        } else {
            GroupSet::all(1)
        },
        blank: if random.percent(10) {
            bits(random)
        } else {
            GroupSet::EMPTY
        },
        paged,
        digests: vec![PageDigest([0; 16]); random.below(2) * 16 * paged.count()],
    }
}

fn bulk(random: &mut Random, extents: u64, known: &[u8]) -> Vec<u8> {
    let mut bulk = known.to_vec();
    match random.below(4) {
        0 if bulk.len() > DATA_HEAD_LEN => {
            let at = DATA_HEAD_LEN + random.below(bulk.len() - DATA_HEAD_LEN);
            bulk[at] ^= 1;
        }
        1 => bulk.push(0),
        2 => {
            let mut head = DataHead::decode(bulk[..DATA_HEAD_LEN].try_into().unwrap()).unwrap();
            head.extent = extent(random, extents);
            bulk[..DATA_HEAD_LEN].copy_from_slice(&head.encode());
        }
        _ => return invented_bulk(random, extents),
    }
    bulk
}

/// Zeros for any pages.
fn invented_bulk(random: &mut Random, extents: u64) -> Vec<u8> {
    let words: [u64; 4] = std::array::from_fn(|_| random.next() & random.next());
    let mut zero = [0; 32];
    for (bytes, word) in zero.chunks_mut(8).zip(words) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    DataHead {
        extent: extent(random, extents),
        data: PageSet::EMPTY,
        zero: PageSet::from_bytes(zero),
        encoding: Encoding::Raw,
    }
    .encode()
}

/// Mostly one that exists.
fn extent(random: &mut Random, extents: u64) -> ExtentIndex {
    let last = (MAX_VOLUME_SIZE >> 20) - 1;
    match random.below(10) {
        0 => ExtentIndex(extents.min(last)),
        1 => ExtentIndex(last),
        _ => ExtentIndex(random.next() % extents.max(1)),
    }
}
