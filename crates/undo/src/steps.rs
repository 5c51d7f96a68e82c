//! The places where the recipes can be interrupted; their numbers are those of the crate's documentation.

use std::fmt;
use std::io;
use std::sync::Arc;

/// The step that comes next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    /// Removing, 1
    RemoveLog,
    /// Removing, 2
    FlushLogGone,
    /// Removing, 3
    RemoveRecord,
    /// Removing, 4
    FlushRecordGone,
    /// Beginning, 3
    MakeLog,
    /// Beginning, 3
    FillLog,
    /// Beginning, 3
    FlushLog,
    /// Beginning, 4
    FlushLogName,
    /// Recording, 1
    MakeDraft,
    /// Recording, 2
    FillDraft,
    /// Recording, 3
    FlushDraft,
    /// Recording, 4
    RenameDraft,
    /// Recording, 5
    FlushRecordName,
    /// Resuming, 2
    TrimLog,
    /// Keeping, 1
    Append,
    /// Keeping, 2
    Commit,
}

type Hook = dyn Fn(Step) -> io::Result<()> + Send + Sync;

/// What a test does before a step; nothing otherwise.
#[derive(Clone, Default)]
pub(crate) struct Steps(Option<Arc<Hook>>);

impl Steps {
    #[cfg(test)]
    pub(crate) fn calling(hook: impl Fn(Step) -> io::Result<()> + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(hook)))
    }

    pub(crate) fn before(&self, step: Step) -> io::Result<()> {
        self.0.as_ref().map_or(Ok(()), |hook| hook(step))
    }
}

impl fmt::Debug for Steps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Steps")
    }
}
