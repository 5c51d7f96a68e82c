//! Every frame that this build can send.

use lockstep_merkle::{
    Cv, ExtentIndex, GroupIndex, GroupSet, MAX_VOLUME_SIZE, PageDigest, PageSet, Root,
};
use lockstep_protocol::limits::{MAX_CVS_PER_FRAME, MAX_DOUBTED_RUNS, MAX_IDENTITY, MAX_WINDOW};
use lockstep_protocol::{
    DataHead, DigestKind, Doubted, Encoding, Evidence, Failure, FailureKind, Hello, Hold, LastWord,
    Plan, Purpose, Scope, SourceFrame, SourceLevel, Stats, TargetFrame, Text, UndoKind, UndoNote,
    UndoStage, VerifyScope, VolumeState, Want, Welcome,
};
use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, any};
use proptest::{prop_oneof, sample};

fn text() -> impl Strategy<Value = Text> {
    prop_oneof![".{0,40}", "\\PC{0,2000}"].prop_map(|text| Text::new(&text))
}

fn identity() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..=MAX_IDENTITY)
}

fn root() -> impl Strategy<Value = Root> {
    any::<[u8; 32]>().prop_map(Root::from_bytes)
}

fn last_word() -> impl Strategy<Value = LastWord> {
    let evidence = sample::select(vec![Evidence::None, Evidence::Full, Evidence::Delta]);
    let level = sample::select(vec![
        None,
        Some(SourceLevel::CrashConsistent),
        Some(SourceLevel::FilesystemConsistent),
        Some(SourceLevel::ApplicationConsistent),
    ]);
    (root(), evidence, level).prop_map(|(root, evidence, level)| LastWord {
        root,
        evidence,
        level,
    })
}

fn extent() -> impl Strategy<Value = ExtentIndex> {
    (0..MAX_VOLUME_SIZE >> 20).prop_map(ExtentIndex)
}

fn groups() -> impl Strategy<Value = GroupSet> {
    any::<u16>().prop_map(GroupSet::from_bits)
}

fn state() -> impl Strategy<Value = VolumeState> {
    sample::select(vec![
        VolumeState::Unknown,
        VolumeState::Consistent,
        VolumeState::Inconsistent,
        VolumeState::Failed,
    ])
}

fn stats() -> impl Strategy<Value = Stats> {
    (
        0..=MAX_VOLUME_SIZE >> 20,
        std::array::from_fn::<_, 4, _>(|_| 0..=MAX_VOLUME_SIZE),
    )
        .prop_map(|(extents_compared, bytes)| Stats {
            extents_compared,
            bytes_written: bytes[0],
            bytes_verified: bytes[1],
            bytes_read: bytes[2],
            bytes_inherited: bytes[3],
        })
}

fn failure() -> impl Strategy<Value = Failure> {
    let kinds = [
        FailureKind::Internal,
        FailureKind::Usage,
        FailureKind::Preflight,
        FailureKind::NotConfirmed,
        FailureKind::Auth,
        FailureKind::Fenced,
        FailureKind::Guard,
        FailureKind::Mismatch,
        FailureKind::Io,
        FailureKind::Temporary,
        FailureKind::Interrupted,
        FailureKind::Busy,
        FailureKind::Deadline,
    ];
    let kind = prop_oneof![
        sample::select(kinds.to_vec()),
        (1_u8..=127).prop_map(FailureKind::Signal)
    ];
    (kind, text(), text())
        .prop_map(|(kind, message, hint)| Failure::new(kind, message.as_str()).hint(hint.as_str()))
}

fn flags() -> impl Strategy<Value = (Purpose, Scope, VerifyScope, Hold, bool)> {
    (
        sample::select(vec![Purpose::Sync, Purpose::Compare]),
        sample::select(vec![Scope::Differences, Scope::Everything]),
        sample::select(vec![VerifyScope::Written, VerifyScope::Full]),
        sample::select(vec![Hold::None, Hold::UntilProceed]),
        any::<bool>(),
    )
}

fn hello() -> impl Strategy<Value = Hello> {
    let numbers = (
        any::<[u16; 2]>(),
        any::<[u8; 16]>(),
        0..=MAX_VOLUME_SIZE,
        0_u16..=0o777,
        (any::<u64>(), any::<[bool; 2]>()),
        1..=MAX_WINDOW,
    );
    (numbers, flags(), identity(), text(), text()).prop_map(
        |(numbers, flags, identity, source, who)| {
            let (versions, run, size, mode_bits, (seed, [is_chained, full_scan]), window) = numbers;
            let (purpose, scope, verify, hold, allow_larger) = flags;
            Hello {
                oldest: versions[0].min(versions[1]),
                newest: versions[0].max(versions[1]),
                run,
                size,
                purpose,
                scope,
                verify,
                hold,
                allow_larger,
                mode_bits,
                digests: match is_chained {
                    true => DigestKind::Chained,
                    false => DigestKind::Seeded,
                },
                full_scan,
                seed,
                window,
                identity,
                source,
                who,
            }
        },
    )
}

fn welcome() -> impl Strategy<Value = Welcome> {
    let plan = sample::select(vec![Plan::Keep, Plan::Create, Plan::Resize, Plan::Resume]);
    let size = proptest::option::of(0..=MAX_VOLUME_SIZE);
    (
        any::<u16>(),
        1..=MAX_WINDOW,
        plan,
        size,
        state(),
        any::<bool>(),
        identity(),
    )
        .prop_map(
            |(version, window, plan, present_size, standing, has_medium, identity)| Welcome {
                version,
                window,
                plan,
                present_size,
                standing,
                has_medium,
                identity,
            },
        )
}

fn want() -> impl Strategy<Value = Want> {
    let digests = vec(any::<[u8; 16]>().prop_map(PageDigest), 0..=256);
    (extent(), groups(), groups(), groups(), digests).prop_map(
        |(extent, whole, blank, paged, digests)| Want {
            extent,
            whole,
            blank,
            paged,
            digests,
        },
    )
}

fn digests() -> impl Strategy<Value = SourceFrame> {
    let counts = prop_oneof![9 => 1..40_usize, 1 => 1..=MAX_CVS_PER_FRAME];
    let cvs = counts.prop_flat_map(|count| vec(any::<[u8; 32]>().prop_map(Cv::from_bytes), count));
    (0..MAX_VOLUME_SIZE >> 16, cvs).prop_map(|(first, cvs)| SourceFrame::Digests {
        first: GroupIndex(first),
        cvs,
    })
}

pub(super) fn source_frame() -> impl Strategy<Value = SourceFrame> {
    prop_oneof![
        hello().prop_map(SourceFrame::Hello),
        digests(),
        extent().prop_map(|extent| SourceFrame::Counted { extent }),
        Just(SourceFrame::Proceed),
        last_word().prop_map(SourceFrame::Done),
        failure().prop_map(SourceFrame::Abort),
        vec(any::<[u8; 16]>(), 1..=MAX_DOUBTED_RUNS).prop_map(|runs| SourceFrame::Doubt { runs }),
    ]
}

pub(super) fn target_frame() -> impl Strategy<Value = TargetFrame> {
    prop_oneof![
        welcome().prop_map(TargetFrame::Welcome),
        (failure(), identity())
            .prop_map(|(failure, identity)| TargetFrame::Refused { failure, identity }),
        want().prop_map(TargetFrame::Want),
        state().prop_map(TargetFrame::State),
        stats().prop_map(TargetFrame::Compared),
        stats().prop_map(TargetFrame::Progress),
        undo().prop_map(TargetFrame::Undo),
        (root(), state(), stats()).prop_map(|(root, state, stats)| TargetFrame::Verified {
            root,
            state,
            stats
        }),
        (failure(), state(), stats()).prop_map(|(failure, state, stats)| TargetFrame::Failed {
            failure,
            state,
            stats
        }),
        text().prop_map(TargetFrame::Warning),
        sample::select(vec![Doubted::Downgraded, Doubted::Stands]).prop_map(TargetFrame::Doubted),
    ]
}

fn undo() -> impl Strategy<Value = UndoNote> {
    let stage = sample::select(vec![UndoStage::Offered, UndoStage::Begun, UndoStage::Ended]);
    let kept = sample::select(vec![
        None,
        Some(UndoKind::Reflink),
        Some(UndoKind::Log),
        Some(UndoKind::Thin),
    ]);
    let numbers = (any::<u64>(), any::<u64>());
    (stage, kept, numbers, text()).prop_map(|(stage, kept, (until_unix_ms, bytes), why)| UndoNote {
        stage,
        kept,
        until_unix_ms,
        bytes,
        why,
    })
}

pub(super) fn data_head() -> impl Strategy<Value = DataHead> {
    let encoding = sample::select(vec![Encoding::Raw, Encoding::Zstd]);
    (extent(), any::<[u8; 32]>(), any::<[u8; 32]>(), encoding).prop_map(
        |(extent, data, mask, encoding)| {
            let zero = std::array::from_fn(|byte| mask[byte] & !data[byte]);
            DataHead {
                extent,
                data: PageSet::from_bytes(data),
                zero: PageSet::from_bytes(zero),
                encoding,
            }
        },
    )
}
