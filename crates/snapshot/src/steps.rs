//! The durable steps of making and removing an image, so that each can be interrupted.

/// A step of [`crate::Provider::create`] or [`crate::Provider::release`] that is done.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Step {
    /// The folder for images is there.
    FolderMade,
    /// An empty file is there, under a name that says that it is half made.
    Begun,
    /// It shares the volume's extents.
    Cloned,
    /// What it holds is durable.
    Flushed,
    /// It has its final name.
    Named,
    /// That name is durable.
    NameFlushed,
    /// It is immutable.
    Sealed,
    /// It is not immutable any more.
    Unsealed,
    /// Its name is that of something half made.
    SetAside,
    /// It has no name any more.
    Removed,
    /// That is durable.
    RemovalFlushed,
}

/// Told of every step; tests end the process in one.
#[derive(Clone, Copy, Debug)]
pub struct Observer(fn(Step));

impl Observer {
    /// Calls this after every step.
    #[must_use]
    pub const fn new(told: fn(Step)) -> Self {
        Self(told)
    }

    pub(crate) const fn nobody() -> Self {
        Self(|_| ())
    }

    pub(crate) fn done(self, step: Step) {
        (self.0)(step);
    }
}
