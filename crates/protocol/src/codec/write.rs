//! Fields and messages to bytes.

use lockstep_merkle::{Cv, GroupIndex, PAGES_PER_EXTENT};

use crate::failure::Failure;
use crate::limits::{MAX_CVS_PER_FRAME, MAX_DOUBTED_RUNS, MAX_IDENTITY};
use crate::message::{
    Hello, Plan, Stats, Text, UndoKind, UndoNote, UndoStage, VolumeState, Want, Welcome,
};
use crate::terms::{
    DigestKind, Evidence, Hold, LastWord, Purpose, Scope, SourceLevel, VerifyScope,
};

/// The frame being written.
pub(super) struct Writer(pub(super) Vec<u8>);

impl Writer {
    pub(super) fn u8(&mut self, value: u8) -> &mut Writer {
        self.0.push(value);
        self
    }

    pub(super) fn u16(&mut self, value: u16) -> &mut Writer {
        self.bytes(&value.to_le_bytes())
    }

    pub(super) fn u64(&mut self, value: u64) -> &mut Writer {
        self.bytes(&value.to_le_bytes())
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) -> &mut Writer {
        self.0.extend_from_slice(bytes);
        self
    }

    pub(super) fn flag(&mut self, value: bool) -> &mut Writer {
        self.u8(u8::from(value))
    }

    pub(super) fn last_word(&mut self, word: &LastWord) -> &mut Writer {
        self.bytes(word.root.as_bytes())
            .u8(match word.evidence {
                Evidence::None => 0,
                Evidence::Full => 1,
                Evidence::Delta => 2,
            })
            .u8(match word.level {
                None => 0,
                Some(SourceLevel::CrashConsistent) => 1,
                Some(SourceLevel::FilesystemConsistent) => 2,
                Some(SourceLevel::ApplicationConsistent) => 3,
            })
    }

    pub(super) fn end(&mut self) {}

    pub(super) fn text(&mut self, text: &str) -> &mut Writer {
        let text = Text::new(text);
        self.sized(text.as_str().as_bytes())
    }

    pub(super) fn identity(&mut self, identity: &[u8]) -> &mut Writer {
        self.sized(&identity[..identity.len().min(MAX_IDENTITY)])
    }

    /// `bytes` is at most [`MAX_TEXT`] long, by its callers.
    fn sized(&mut self, bytes: &[u8]) -> &mut Writer {
        let length = u16::try_from(bytes.len()).unwrap_or(0);
        self.u16(length).bytes(&bytes[..usize::from(length)])
    }

    pub(super) fn failure(&mut self, failure: &Failure) -> &mut Writer {
        self.u8(failure.kind.exit_code())
            .text(&failure.message)
            .text(&failure.hint)
    }

    pub(super) fn state(&mut self, state: VolumeState) -> &mut Writer {
        self.u8(match state {
            VolumeState::Unknown => 0,
            VolumeState::Consistent => 1,
            VolumeState::Inconsistent => 2,
            VolumeState::Failed => 3,
        })
    }

    pub(super) fn stats(&mut self, stats: &Stats) -> &mut Writer {
        self.u64(stats.extents_compared)
            .u64(stats.bytes_written)
            .u64(stats.bytes_verified)
            .u64(stats.bytes_read)
            .u64(stats.bytes_inherited)
    }

    pub(super) fn hello(&mut self, hello: &Hello) {
        self.u8(1).u16(hello.oldest).u16(hello.newest);
        self.bytes(&hello.run).u64(hello.size);
        self.flag(hello.purpose == Purpose::Compare)
            .flag(hello.scope == Scope::Everything)
            .flag(hello.verify == VerifyScope::Full)
            .flag(hello.hold == Hold::UntilProceed)
            .flag(hello.allow_larger);
        self.u16(hello.mode_bits)
            .flag(hello.digests == DigestKind::Chained)
            .flag(hello.full_scan);
        self.u64(hello.seed).u16(hello.window);
        self.identity(&hello.identity)
            .text(hello.source.as_str())
            .text(hello.who.as_str());
    }

    pub(super) fn digests(&mut self, first: GroupIndex, cvs: &[Cv]) {
        self.u8(2).u64(first.0);
        for cv in &cvs[..cvs.len().min(MAX_CVS_PER_FRAME)] {
            self.bytes(cv.as_bytes());
        }
    }

    pub(super) fn doubt(&mut self, runs: &[[u8; 16]]) {
        self.u8(7);
        for run in &runs[..runs.len().min(MAX_DOUBTED_RUNS)] {
            self.bytes(run);
        }
    }

    pub(super) fn welcome(&mut self, welcome: &Welcome) {
        self.u8(1).u16(welcome.version).u16(welcome.window);
        self.u8(match welcome.plan {
            Plan::Keep => 0,
            Plan::Create => 1,
            Plan::Resize => 2,
            Plan::Resume => 3,
        });
        self.flag(welcome.present_size.is_some())
            .u64(welcome.present_size.unwrap_or(0));
        self.state(welcome.standing)
            .flag(welcome.has_medium)
            .identity(&welcome.identity);
    }

    pub(super) fn undo(&mut self, note: &UndoNote) {
        self.u8(10).u8(match note.stage {
            UndoStage::Offered => 0,
            UndoStage::Begun => 1,
            UndoStage::Ended => 2,
        });
        self.u8(match note.kept {
            None => 0,
            Some(UndoKind::Reflink) => 1,
            Some(UndoKind::Log) => 2,
            Some(UndoKind::Thin) => 3,
        });
        self.u64(note.until_unix_ms)
            .u64(note.bytes)
            .text(note.why.as_str());
    }

    pub(super) fn want(&mut self, want: &Want) {
        self.u8(3).u64(want.extent.0);
        self.u16(want.whole.bits())
            .u16(want.blank.bits())
            .u16(want.paged.bits());
        for digest in &want.digests[..want.digests.len().min(PAGES_PER_EXTENT)] {
            self.bytes(&digest.0);
        }
    }
}
