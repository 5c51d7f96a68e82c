//! The codec: what is written is read again, what is damaged is refused or is another frame, and
//! the bytes of version 1 stay what they are.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "codec/golden.rs"]
mod golden;
#[path = "codec/strategies.rs"]
mod strategies;

use golden::{sample_heads, sample_source_frames, sample_target_frames};
use lockstep_merkle::{Cv, ExtentIndex, GroupIndex, GroupSet, MAX_VOLUME_SIZE, PageDigest};
use lockstep_protocol::limits::{
    DATA_HEAD_LEN, MAX_CVS_PER_FRAME, MAX_DOUBTED_RUNS, MAX_IDENTITY, MAX_TEXT, MAX_WINDOW,
};
use lockstep_protocol::{
    DataHead, Failure, FailureKind, Malformed, SourceFrame, Stats, TargetFrame, Text, Want,
};
use proptest::collection::vec;
use proptest::prelude::any;
use proptest::{prop_assert, prop_assert_eq, proptest};
use strategies::{data_head, source_frame, target_frame};

/// A frame that decodes can be written and is then the same frame: nothing is half understood.
fn decoding_is_sound(bytes: &[u8]) {
    if let Ok(frame) = SourceFrame::decode(bytes) {
        assert_eq!(SourceFrame::decode(&frame.encode()), Ok(frame));
    }
    if let Ok(frame) = TargetFrame::decode(bytes) {
        assert_eq!(TargetFrame::decode(&frame.encode()), Ok(frame));
    }
    if let Some((head, _)) = bytes.split_first_chunk::<DATA_HEAD_LEN>()
        && let Ok(decoded) = DataHead::decode(head)
    {
        assert_eq!(decoded.encode(), head);
    }
}

/// The frames of both directions share type numbers, so one direction's bytes are also tried as
/// the other's.
fn every_change_of_one_byte_is_harmless(bytes: &[u8], values: &[u8]) {
    for at in 0..bytes.len() {
        for value in values {
            let mut changed = bytes.to_vec();
            changed[at] ^= value;
            decoding_is_sound(&changed);
        }
    }
}

const EVERY_BIT: [u8; 9] = [1, 2, 4, 8, 16, 32, 64, 128, 255];

proptest! {
    #[test]
    fn a_source_frame_is_read_as_it_was_written(frame in source_frame()) {
        prop_assert_eq!(SourceFrame::decode(&frame.encode()), Ok(frame));
    }

    #[test]
    fn a_target_frame_is_read_as_it_was_written(frame in target_frame()) {
        prop_assert_eq!(TargetFrame::decode(&frame.encode()), Ok(frame));
    }

    #[test]
    fn a_data_head_is_read_as_it_was_written(head in data_head()) {
        let bytes: [u8; DATA_HEAD_LEN] = head.encode().try_into().unwrap();
        prop_assert_eq!(DataHead::decode(&bytes), Ok(head));
    }

    #[test]
    fn a_byte_too_many_is_refused(frame in target_frame(), extra: u8) {
        let mut bytes = frame.encode();
        bytes.push(extra);
        prop_assert!(TargetFrame::decode(&bytes).is_err());
    }

    #[test]
    fn random_bytes_are_refused_or_are_a_frame(kind in 0_u8..14, mut bytes in vec(any::<u8>(), 1..600)) {
        decoding_is_sound(&bytes);
        bytes[0] = kind;
        decoding_is_sound(&bytes);
    }

    #[test]
    fn any_one_changed_byte_of_any_frame_is_harmless(
        source in source_frame(),
        target in target_frame(),
        at in any::<proptest::sample::Index>(),
        value in 1_u8..,
    ) {
        for mut bytes in [source.encode(), target.encode()] {
            let at = at.index(bytes.len());
            bytes[at] ^= value;
            decoding_is_sound(&bytes);
        }
    }

    #[test]
    fn no_text_makes_a_second_line_or_outgrows_its_limit(raw in vec(any::<u8>(), 0..2 * MAX_TEXT)) {
        let mut bytes = vec![6, 1];
        let length = raw.len().min(MAX_TEXT);
        bytes.extend((length as u16).to_le_bytes());
        bytes.extend(&raw[..length]);
        bytes.extend([0, 0]);
        let Ok(SourceFrame::Abort(failure)) = SourceFrame::decode(&bytes) else {
            panic!("an abort with any bytes as its message is an abort");
        };
        prop_assert!(failure.message.len() <= MAX_TEXT);
        prop_assert!(!failure.message.chars().any(char::is_control));
    }
}

#[test]
fn every_truncation_is_refused_unless_a_row_is_left_out_whole() {
    for frame in sample_source_frames() {
        let bytes = frame.encode();
        for end in 0..bytes.len() {
            match SourceFrame::decode(&bytes[..end]) {
                Err(_) => {}
                Ok(SourceFrame::Digests { cvs, .. }) => assert_eq!(end, 9 + 32 * cvs.len()),
                Ok(SourceFrame::Doubt { runs }) => assert_eq!(end, 1 + 16 * runs.len()),
                Ok(shorter) => panic!("{} cut at {end} became {shorter:?}", frame.name()),
            }
        }
    }
    for frame in sample_target_frames() {
        let bytes = frame.encode();
        for end in 0..bytes.len() {
            match TargetFrame::decode(&bytes[..end]) {
                Err(_) => {}
                Ok(TargetFrame::Want(want)) => assert_eq!(end, 15 + 16 * want.digests.len()),
                Ok(shorter) => panic!("{} cut at {end} became {shorter:?}", frame.name()),
            }
        }
    }
}

#[test]
fn every_changed_bit_of_the_samples_is_harmless() {
    for frame in sample_source_frames() {
        every_change_of_one_byte_is_harmless(&frame.encode(), &EVERY_BIT);
    }
    for frame in sample_target_frames() {
        every_change_of_one_byte_is_harmless(&frame.encode(), &EVERY_BIT);
    }
    for head in sample_heads() {
        every_change_of_one_byte_is_harmless(&head.encode(), &EVERY_BIT);
    }
}

#[test]
fn types_that_no_side_sends_are_refused() {
    for kind in [0].into_iter().chain(8..=255) {
        assert_eq!(
            SourceFrame::decode(&[kind]),
            Err(Malformed::UnknownType(kind))
        );
    }
    for kind in [0].into_iter().chain(12..=255) {
        assert_eq!(
            TargetFrame::decode(&[kind]),
            Err(Malformed::UnknownType(kind))
        );
    }
    assert_eq!(SourceFrame::decode(&[]), Err(Malformed::Short("type")));
    assert_eq!(SourceFrame::decode(&[4, 0]), Err(Malformed::Long(1)));
}

/// Writes `value` over the sample's bytes from `at` on.
fn source_with(sample: usize, at: usize, value: &[u8]) -> Result<SourceFrame, Malformed> {
    let mut bytes = sample_source_frames()[sample].encode();
    bytes[at..at + value.len()].copy_from_slice(value);
    SourceFrame::decode(&bytes)
}

fn target_with(sample: usize, at: usize, value: &[u8]) -> Result<TargetFrame, Malformed> {
    let mut bytes = sample_target_frames()[sample].encode();
    bytes[at..at + value.len()].copy_from_slice(value);
    TargetFrame::decode(&bytes)
}

fn out_of_range<T>(field: &'static str) -> Result<T, Malformed> {
    Err(Malformed::OutOfRange(field))
}

#[test]
fn every_field_of_a_hello_has_its_range() {
    let too_large = (MAX_VOLUME_SIZE + 1).to_le_bytes();
    let window = (MAX_WINDOW + 1).to_le_bytes();
    let identity = (MAX_IDENTITY as u16 + 1).to_le_bytes();
    let rows: [(usize, &[u8], &str); 13] = [
        (1, &[9, 0, 8, 0], "range of versions"),
        (21, &too_large, "size"),
        (29, &[2], "purpose"),
        (30, &[2], "scope"),
        (31, &[2], "verify scope"),
        (32, &[2], "hold"),
        (33, &[2], "size rule"),
        (34, &[0, 2], "mode"),
        (36, &[2], "digests"),
        (37, &[2], "full scan"),
        (46, &[0, 0], "window"),
        (46, &window, "window"),
        (48, &identity, "identity"),
    ];
    for (at, value, field) in rows {
        assert_eq!(source_with(0, at, value), out_of_range(field), "{field}");
    }
    assert!(source_with(0, 21, &MAX_VOLUME_SIZE.to_le_bytes()).is_ok());
}

#[test]
fn every_field_of_a_welcome_has_its_range() {
    let too_large = (MAX_VOLUME_SIZE + 1).to_le_bytes();
    let rows: [(usize, &[u8], &str); 6] = [
        (3, &[0, 0], "window"),
        (5, &[4], "plan"),
        (6, &[2], "size"),
        (7, &too_large, "size"),
        (15, &[4], "state"),
        (16, &[2], "medium"),
    ];
    for (at, value, field) in rows {
        assert_eq!(target_with(0, at, value), out_of_range(field), "{field}");
    }
    let missing_but_sized = target_with(0, 6, &[0]);
    assert_eq!(missing_but_sized, out_of_range("size of a missing file"));
}

#[test]
fn every_field_of_the_last_word_has_its_range() {
    assert_eq!(source_with(4, 33, &[3]), out_of_range("evidence"));
    assert_eq!(source_with(4, 34, &[4]), out_of_range("level"));
    assert!(source_with(4, 34, &[0]).is_ok());
}

#[test]
fn indexes_stop_where_the_largest_volume_ends() {
    let extents = MAX_VOLUME_SIZE >> 20;
    for (extent, fits) in [(extents - 1, true), (extents, false), (u64::MAX, false)] {
        let extent = ExtentIndex(extent);
        let counted = SourceFrame::Counted { extent }.encode();
        assert_eq!(SourceFrame::decode(&counted).is_ok(), fits, "{extent}");
        let want = TargetFrame::Want(want_of(extent, 0)).encode();
        assert_eq!(TargetFrame::decode(&want).is_ok(), fits, "{extent}");
    }
    let groups = MAX_VOLUME_SIZE >> 16;
    for (first, fits) in [(groups - 1, true), (groups, false), (u64::MAX, false)] {
        let first = GroupIndex(first);
        let cvs = vec![Cv::from_bytes([7; 32])];
        let digests = SourceFrame::Digests { first, cvs }.encode();
        assert_eq!(SourceFrame::decode(&digests).is_ok(), fits, "{first}");
    }
}

fn want_of(extent: ExtentIndex, digests: usize) -> Want {
    Want {
        extent,
        whole: GroupSet::EMPTY,
        blank: GroupSet::EMPTY,
        paged: GroupSet::all(16),
        digests: vec![PageDigest([3; 16]); digests],
    }
}

#[test]
fn rows_stop_at_their_limit() {
    let head = SourceFrame::Digests {
        first: GroupIndex(0),
        cvs: Vec::new(),
    }
    .encode();
    for (count, fits) in [
        (0, false),
        (1, true),
        (MAX_CVS_PER_FRAME, true),
        (MAX_CVS_PER_FRAME + 1, false),
    ] {
        let bytes = [head.clone(), vec![7; 32 * count]].concat();
        assert_eq!(SourceFrame::decode(&bytes).is_ok(), fits, "{count} digests");
    }
    let head = TargetFrame::Want(want_of(ExtentIndex(0), 0)).encode();
    for (count, fits) in [(0, true), (256, true), (257, false)] {
        let bytes = [head.clone(), vec![7; 16 * count]].concat();
        assert_eq!(
            TargetFrame::decode(&bytes).is_ok(),
            fits,
            "{count} page digests"
        );
    }
    for (count, fits) in [
        (0, false),
        (1, true),
        (MAX_DOUBTED_RUNS, true),
        (MAX_DOUBTED_RUNS + 1, false),
    ] {
        let bytes = [vec![7], vec![9; 16 * count]].concat();
        assert_eq!(SourceFrame::decode(&bytes).is_ok(), fits, "{count} runs");
    }
}

#[test]
fn totals_stay_far_from_an_overflow() {
    let all = |value| Stats {
        extents_compared: 0,
        bytes_written: value,
        bytes_verified: value,
        bytes_read: value,
        bytes_inherited: value,
    };
    assert!(TargetFrame::decode(&TargetFrame::Progress(all(MAX_VOLUME_SIZE)).encode()).is_ok());
    assert_eq!(
        TargetFrame::decode(&TargetFrame::Progress(all(u64::MAX / 16)).encode()),
        out_of_range("number of bytes written")
    );
}

#[test]
fn exit_codes_that_mean_nothing_are_refused() {
    for code in [0, 8, 10, 11, 13, 24, 127, 128] {
        assert_eq!(
            SourceFrame::decode(&[6, code, 0, 0, 0, 0]),
            out_of_range("failure")
        );
    }
    for signal in [1, 127] {
        let failure = Failure::new(FailureKind::Signal(signal), "");
        let bytes = [6, 128 + signal, 0, 0, 0, 0];
        assert_eq!(SourceFrame::decode(&bytes), Ok(SourceFrame::Abort(failure)));
    }
}

#[test]
fn a_head_cannot_ask_for_a_page_to_be_data_and_zero() {
    let mut bytes: [u8; DATA_HEAD_LEN] = sample_heads()[0].encode().try_into().unwrap();
    bytes[41] = bytes[9];
    assert_eq!(DataHead::decode(&bytes), out_of_range("pair of page sets"));
    bytes[0] = 2;
    assert_eq!(DataHead::decode(&bytes), out_of_range("encoding"));
    let mut bytes: [u8; DATA_HEAD_LEN] = sample_heads()[0].encode().try_into().unwrap();
    bytes[73] = 1;
    assert_eq!(DataHead::decode(&bytes), out_of_range("reserved field"));
}

#[test]
fn text_is_one_line_in_one_direction_cut_at_a_character() {
    assert_eq!(
        Text::new("a\nb\u{1b}c\u{2028}d\u{202e}e").as_str(),
        "a?b?c?d?e"
    );
    let long = "é".repeat(MAX_TEXT);
    assert_eq!(Text::new(&long).as_str(), "é".repeat(MAX_TEXT / 2));
    let odd = format!("a{long}");
    assert_eq!(Text::new(&odd).as_str().len(), MAX_TEXT - 1);
}

#[test]
fn too_long_a_message_is_cut_by_its_writer() {
    let failure = Failure::new(FailureKind::Io, "x".repeat(9 * MAX_TEXT)).hint("y\nz");
    let cut = Failure::new(FailureKind::Io, "x".repeat(MAX_TEXT)).hint("y?z");
    let bytes = SourceFrame::Abort(failure).encode();
    assert_eq!(SourceFrame::decode(&bytes), Ok(SourceFrame::Abort(cut)));
}
