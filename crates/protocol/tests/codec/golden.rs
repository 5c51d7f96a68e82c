//! One sample of each frame, and the bytes it has had since version 1.
//!
//! A line of the file is a name and the frame in hex. A new version adds a file; a line of an old
//! one never changes, because peers in the field send these bytes.

use lockstep_merkle::{Cv, ExtentIndex, GroupIndex, GroupSet, PageDigest, PageSet, Root};
use lockstep_protocol::{
    DataHead, DigestKind, Doubted, Encoding, Evidence, Failure, FailureKind, Hello, Hold, LastWord,
    Plan, Purpose, Scope, SourceFrame, SourceLevel, Stats, TargetFrame, Text, UndoKind, UndoNote,
    UndoStage, VerifyScope, VolumeState, Want, Welcome,
};

const VERSION_1: &str = include_str!("../vectors/frames-v1.txt");

pub(super) fn sample_source_frames() -> Vec<SourceFrame> {
    vec![
        SourceFrame::Hello(Hello {
            oldest: 1,
            newest: 2,
            run: *b"a run of 16 byte",
            size: 0x0102_0304_0506,
            purpose: Purpose::Compare,
            scope: Scope::Differences,
            verify: VerifyScope::Full,
            hold: Hold::None,
            allow_larger: true,
            mode_bits: 0o640,
            digests: DigestKind::Chained,
            full_scan: true,
            seed: 0x1112_1314_1516_1718,
            window: 32,
            identity: vec![0xaa, 0xbb],
            source: Text::new("/dev/sdß"),
            who: Text::new("me"),
        }),
        SourceFrame::Digests {
            first: GroupIndex(0x1000),
            cvs: vec![Cv::from_bytes([0xc0; 32]), Cv::from_bytes([0xc1; 32])],
        },
        SourceFrame::Counted {
            extent: ExtentIndex(0x0203),
        },
        SourceFrame::Proceed,
        SourceFrame::Done(LastWord {
            root: Root::from_bytes([0xd0; 32]),
            evidence: Evidence::Full,
            level: Some(SourceLevel::FilesystemConsistent),
        }),
        SourceFrame::Abort(failure()),
        SourceFrame::Doubt {
            runs: vec![*b"a run of 16 byte", [0xe0; 16]],
        },
    ]
}

pub(super) fn sample_target_frames() -> Vec<TargetFrame> {
    vec![
        TargetFrame::Welcome(Welcome {
            version: 1,
            window: 16,
            plan: Plan::Resize,
            present_size: Some(0x0102_0304_0506),
            standing: VolumeState::Consistent,
            has_medium: true,
            identity: vec![0xcc],
        }),
        TargetFrame::Refused {
            failure: failure(),
            identity: Vec::new(),
        },
        TargetFrame::Want(Want {
            extent: ExtentIndex(0x0203),
            whole: GroupSet::from_bits(0x0001),
            blank: GroupSet::from_bits(0x0200),
            paged: GroupSet::from_bits(0x8000),
            digests: (0..16).map(|page| PageDigest([page; 16])).collect(),
        }),
        TargetFrame::State(VolumeState::Inconsistent),
        TargetFrame::Compared(stats()),
        TargetFrame::Progress(stats()),
        TargetFrame::Verified {
            root: Root::from_bytes([0xd0; 32]),
            state: VolumeState::Consistent,
            stats: stats(),
        },
        TargetFrame::Failed {
            failure: failure(),
            state: VolumeState::Failed,
            stats: stats(),
        },
        TargetFrame::Warning(Text::new("look")),
        TargetFrame::Undo(UndoNote {
            stage: UndoStage::Begun,
            kept: Some(UndoKind::Log),
            until_unix_ms: 0x0102_0304_0506,
            bytes: 0x0708,
            why: Text::new("w"),
        }),
        TargetFrame::Doubted(Doubted::Downgraded),
    ]
}

pub(super) fn sample_heads() -> Vec<DataHead> {
    let mut data = PageSet::EMPTY;
    data.insert_range(0..3);
    let mut zero = PageSet::EMPTY;
    zero.insert(255);
    [Encoding::Raw, Encoding::Zstd]
        .map(|encoding| DataHead {
            extent: ExtentIndex(0x0203),
            data,
            zero,
            encoding,
        })
        .to_vec()
}

fn failure() -> Failure {
    Failure::new(FailureKind::Signal(15), "cut off").hint("again")
}

fn stats() -> Stats {
    Stats {
        extents_compared: 0x0a,
        bytes_written: 0x0b0c,
        bytes_verified: 0x0d0e_0f00,
        bytes_read: 0x1011,
        bytes_inherited: 0x1213_1415,
    }
}

fn lines() -> Vec<(&'static str, Vec<u8>)> {
    VERSION_1
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let (name, hex) = line.split_once(' ').unwrap();
            (name, bytes_of(hex))
        })
        .collect()
}

fn bytes_of(hex: &str) -> Vec<u8> {
    (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
        .collect()
}

#[test]
fn the_bytes_of_version_1_stay_what_they_are() {
    let source = sample_source_frames();
    let target = sample_target_frames();
    let heads = sample_heads();
    let written: Vec<(&str, Vec<u8>)> = source
        .iter()
        .map(|frame| (frame.name(), frame.encode()))
        .chain(target.iter().map(|frame| (frame.name(), frame.encode())))
        .chain(
            ["raw-data", "zstd-data"]
                .into_iter()
                .zip(heads.iter().map(DataHead::encode)),
        )
        .collect();
    assert_eq!(written, lines());
}

#[test]
fn the_bytes_of_version_1_are_still_understood() {
    let lines = lines();
    let (source, rest) = lines.split_at(7);
    let (target, heads) = rest.split_at(11);
    for ((_, bytes), frame) in source.iter().zip(sample_source_frames()) {
        assert_eq!(SourceFrame::decode(bytes), Ok(frame));
    }
    for ((_, bytes), frame) in target.iter().zip(sample_target_frames()) {
        assert_eq!(TargetFrame::decode(bytes), Ok(frame));
    }
    for ((_, bytes), head) in heads.iter().zip(sample_heads()) {
        assert_eq!(
            DataHead::decode(bytes.as_slice().try_into().unwrap()),
            Ok(head)
        );
    }
}
