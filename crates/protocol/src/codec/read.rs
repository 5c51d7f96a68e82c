//! Bytes from a peer to fields and messages, each within its range.

use lockstep_merkle::{
    Cv, EXTENT_SIZE, ExtentIndex, GROUP_SIZE, GroupIndex, GroupSet, MAX_VOLUME_SIZE,
    PAGES_PER_EXTENT, PageDigest, Root,
};

use super::Malformed;
use crate::failure::{Failure, FailureKind};
use crate::limits::{
    MAX_CVS_PER_FRAME, MAX_DOUBTED_RUNS, MAX_IDENTITY, MAX_TEXT, MAX_WANTS_PER_EXTENT, MAX_WINDOW,
};
use crate::message::{
    Doubted, Hello, Plan, SourceFrame, Stats, Text, UndoKind, UndoNote, UndoStage, VolumeState,
    Want, Welcome,
};
use crate::terms::{
    DigestKind, Evidence, Hold, LastWord, Purpose, Scope, SourceLevel, VerifyScope,
};

/// Extents of the largest volume.
const MAX_EXTENTS: u64 = MAX_VOLUME_SIZE / EXTENT_SIZE as u64;
/// Groups of the largest volume.
const MAX_GROUPS: u64 = MAX_VOLUME_SIZE / GROUP_SIZE as u64;
/// Bytes that a target can have written: all of the largest volume, at every
/// want. Sums over many targets stay far from an overflow.
const MAX_BYTES: u64 = MAX_VOLUME_SIZE * MAX_WANTS_PER_EXTENT as u64;
/// A sample and a scan, then for each want the digests and what completes the
/// pages that came.
const MAX_BYTES_READ: u64 = 2 * MAX_VOLUME_SIZE + 2 * MAX_BYTES;

/// What is left to read of a frame.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl Reader<'_> {
    pub(super) fn array<const N: usize>(
        &mut self,
        field: &'static str,
    ) -> Result<[u8; N], Malformed> {
        let (head, rest) = self
            .0
            .split_first_chunk::<N>()
            .ok_or(Malformed::Short(field))?;
        self.0 = rest;
        Ok(*head)
    }

    pub(super) fn u8(&mut self, field: &'static str) -> Result<u8, Malformed> {
        Ok(self.array::<1>(field)?[0])
    }

    pub(super) fn u16(&mut self, field: &'static str) -> Result<u16, Malformed> {
        Ok(u16::from_le_bytes(self.array(field)?))
    }

    fn u64(&mut self, field: &'static str) -> Result<u64, Malformed> {
        Ok(u64::from_le_bytes(self.array(field)?))
    }

    fn at_most(&mut self, limit: u64, field: &'static str) -> Result<u64, Malformed> {
        let value = self.u64(field)?;
        if value > limit {
            return Err(Malformed::OutOfRange(field));
        }
        Ok(value)
    }

    pub(super) fn flag(&mut self, field: &'static str) -> Result<bool, Malformed> {
        match self.u8(field)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed::OutOfRange(field)),
        }
    }

    pub(super) fn last_word(&mut self) -> Result<LastWord, Malformed> {
        Ok(LastWord {
            root: Root::from_bytes(self.array("root")?),
            evidence: self.evidence()?,
            level: self.level()?,
        })
    }

    fn level(&mut self) -> Result<Option<SourceLevel>, Malformed> {
        match self.u8("level")? {
            0 => Ok(None),
            1 => Ok(Some(SourceLevel::CrashConsistent)),
            2 => Ok(Some(SourceLevel::FilesystemConsistent)),
            3 => Ok(Some(SourceLevel::ApplicationConsistent)),
            _ => Err(Malformed::OutOfRange("level")),
        }
    }

    fn evidence(&mut self) -> Result<Evidence, Malformed> {
        match self.u8("evidence")? {
            0 => Ok(Evidence::None),
            1 => Ok(Evidence::Full),
            2 => Ok(Evidence::Delta),
            _ => Err(Malformed::OutOfRange("evidence")),
        }
    }

    fn size(&mut self) -> Result<u64, Malformed> {
        self.at_most(MAX_VOLUME_SIZE, "size")
    }

    pub(super) fn extent(&mut self) -> Result<ExtentIndex, Malformed> {
        self.at_most(MAX_EXTENTS - 1, "extent").map(ExtentIndex)
    }

    fn sized(&mut self, limit: usize, field: &'static str) -> Result<&[u8], Malformed> {
        let length = usize::from(self.u16(field)?);
        if length > limit {
            return Err(Malformed::OutOfRange(field));
        }
        let (head, rest) = self
            .0
            .split_at_checked(length)
            .ok_or(Malformed::Short(field))?;
        self.0 = rest;
        Ok(head)
    }

    pub(super) fn text(&mut self) -> Result<Text, Malformed> {
        let bytes = self.sized(MAX_TEXT, "text")?;
        Ok(Text::new(&String::from_utf8_lossy(bytes)))
    }

    pub(super) fn identity(&mut self) -> Result<Vec<u8>, Malformed> {
        Ok(self.sized(MAX_IDENTITY, "identity")?.to_vec())
    }

    pub(super) fn failure(&mut self) -> Result<Failure, Malformed> {
        let kind = FailureKind::from_exit_code(self.u8("failure")?)
            .ok_or(Malformed::OutOfRange("failure"))?;
        let message = self.text()?;
        let hint = self.text()?;
        Ok(Failure::new(kind, message.as_str()).hint(hint.as_str()))
    }

    pub(super) fn state(&mut self) -> Result<VolumeState, Malformed> {
        match self.u8("state")? {
            0 => Ok(VolumeState::Unknown),
            1 => Ok(VolumeState::Consistent),
            2 => Ok(VolumeState::Inconsistent),
            3 => Ok(VolumeState::Failed),
            _ => Err(Malformed::OutOfRange("state")),
        }
    }

    pub(super) fn stats(&mut self) -> Result<Stats, Malformed> {
        Ok(Stats {
            extents_compared: self.at_most(MAX_EXTENTS, "number of extents compared")?,
            bytes_written: self.at_most(MAX_BYTES, "number of bytes written")?,
            bytes_verified: self.at_most(MAX_BYTES, "number of bytes verified")?,
            bytes_read: self.at_most(MAX_BYTES_READ, "number of bytes read")?,
            bytes_inherited: self.at_most(MAX_VOLUME_SIZE, "number of bytes inherited")?,
        })
    }

    pub(super) fn undo(&mut self) -> Result<UndoNote, Malformed> {
        Ok(UndoNote {
            stage: match self.u8("stage of an undo")? {
                0 => UndoStage::Offered,
                1 => UndoStage::Begun,
                2 => UndoStage::Ended,
                _ => return Err(Malformed::OutOfRange("stage of an undo")),
            },
            kept: match self.u8("kind of an undo")? {
                0 => None,
                1 => Some(UndoKind::Reflink),
                2 => Some(UndoKind::Log),
                3 => Some(UndoKind::Thin),
                _ => return Err(Malformed::OutOfRange("kind of an undo")),
            },
            until_unix_ms: self.u64("end of an undo")?,
            bytes: self.u64("number of bytes kept")?,
            why: self.text()?,
        })
    }

    fn window(&mut self) -> Result<u16, Malformed> {
        let window = self.u16("window")?;
        if window == 0 || window > MAX_WINDOW {
            return Err(Malformed::OutOfRange("window"));
        }
        Ok(window)
    }

    pub(super) fn hello(&mut self) -> Result<Hello, Malformed> {
        let (oldest, newest) = self.versions()?;
        let run = self.array("run")?;
        let size = self.size()?;
        let purpose = self.either("purpose", Purpose::Sync, Purpose::Compare)?;
        let scope = self.either("scope", Scope::Differences, Scope::Everything)?;
        let verify = self.either("verify scope", VerifyScope::Written, VerifyScope::Full)?;
        let hold = self.either("hold", Hold::None, Hold::UntilProceed)?;
        let allow_larger = self.flag("size rule")?;
        let mode_bits = self.mode()?;
        Ok(Hello {
            oldest,
            newest,
            run,
            size,
            purpose,
            scope,
            verify,
            hold,
            allow_larger,
            mode_bits,
            digests: self.either("digests", DigestKind::Seeded, DigestKind::Chained)?,
            full_scan: self.flag("full scan")?,
            seed: self.u64("seed")?,
            window: self.window()?,
            identity: self.identity()?,
            source: self.text()?,
            who: self.text()?,
        })
    }

    fn either<T>(&mut self, field: &'static str, off: T, on: T) -> Result<T, Malformed> {
        Ok(if self.flag(field)? { on } else { off })
    }

    fn versions(&mut self) -> Result<(u16, u16), Malformed> {
        let oldest = self.u16("version")?;
        let newest = self.u16("version")?;
        if oldest > newest {
            return Err(Malformed::OutOfRange("range of versions"));
        }
        Ok((oldest, newest))
    }

    fn mode(&mut self) -> Result<u16, Malformed> {
        let bits = self.u16("mode")?;
        if bits > 0o777 {
            return Err(Malformed::OutOfRange("mode"));
        }
        Ok(bits)
    }

    pub(super) fn digests(&mut self) -> Result<SourceFrame, Malformed> {
        let first = GroupIndex(self.at_most(MAX_GROUPS - 1, "group")?);
        let (cvs, rest) = self.0.as_chunks::<32>();
        if !rest.is_empty() {
            return Err(Malformed::Short("digests"));
        }
        if cvs.is_empty() || cvs.len() > MAX_CVS_PER_FRAME {
            return Err(Malformed::OutOfRange("number of digests"));
        }
        let cvs = cvs.iter().map(|bytes| Cv::from_bytes(*bytes)).collect();
        self.0 = &[];
        Ok(SourceFrame::Digests { first, cvs })
    }

    pub(super) fn doubt(&mut self) -> Result<SourceFrame, Malformed> {
        let (runs, rest) = self.0.as_chunks::<16>();
        if !rest.is_empty() {
            return Err(Malformed::Short("runs"));
        }
        if runs.is_empty() || runs.len() > MAX_DOUBTED_RUNS {
            return Err(Malformed::OutOfRange("number of runs"));
        }
        let runs = runs.to_vec();
        self.0 = &[];
        Ok(SourceFrame::Doubt { runs })
    }

    pub(super) fn doubted(&mut self) -> Result<Doubted, Malformed> {
        self.either("downgrade", Doubted::Stands, Doubted::Downgraded)
    }

    pub(super) fn welcome(&mut self) -> Result<Welcome, Malformed> {
        let version = self.u16("version")?;
        let window = self.window()?;
        Ok(Welcome {
            version,
            window,
            plan: self.plan()?,
            present_size: self.present_size()?,
            standing: self.state()?,
            has_medium: self.flag("medium")?,
            identity: self.identity()?,
        })
    }

    fn plan(&mut self) -> Result<Plan, Malformed> {
        match self.u8("plan")? {
            0 => Ok(Plan::Keep),
            1 => Ok(Plan::Create),
            2 => Ok(Plan::Resize),
            3 => Ok(Plan::Resume),
            _ => Err(Malformed::OutOfRange("plan")),
        }
    }

    fn present_size(&mut self) -> Result<Option<u64>, Malformed> {
        let exists = self.flag("size")?;
        let size = self.size()?;
        if !exists && size != 0 {
            return Err(Malformed::OutOfRange("size of a missing file"));
        }
        Ok(exists.then_some(size))
    }

    pub(super) fn want(&mut self) -> Result<Want, Malformed> {
        let extent = self.extent()?;
        let whole = GroupSet::from_bits(self.u16("groups")?);
        let blank = GroupSet::from_bits(self.u16("groups")?);
        let paged = GroupSet::from_bits(self.u16("groups")?);
        let (digests, rest) = self.0.as_chunks::<16>();
        if !rest.is_empty() {
            return Err(Malformed::Short("page digests"));
        }
        if digests.len() > PAGES_PER_EXTENT {
            return Err(Malformed::OutOfRange("number of page digests"));
        }
        let digests = digests.iter().map(|bytes| PageDigest(*bytes)).collect();
        self.0 = &[];
        Ok(Want {
            extent,
            whole,
            blank,
            paged,
            digests,
        })
    }

    pub(super) fn end(&self) -> Result<(), Malformed> {
        match self.0.len() {
            0 => Ok(()),
            extra => Err(Malformed::Long(extra)),
        }
    }
}
