//! `[[group]]`: volumes that are snapshotted, resynced and marked together.

use super::mistake::Notes;
use super::section::{Placed, Section};
use crate::value::{GroupName, VolumeName};

/// Volumes that belong together.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Group {
    /// Its name, which stands where a volume's name can.
    pub name: GroupName,
    /// Its volumes.
    pub volumes: Vec<VolumeName>,
}

pub(super) struct FoundGroup {
    pub(super) title: String,
    pub(super) name: Option<Placed<GroupName>>,
    pub(super) volumes: Option<Placed<Vec<Placed<VolumeName>>>>,
}

pub(super) fn read(mut section: Section<'_>, notes: &mut Notes<'_>) -> FoundGroup {
    let name = section.needed_word::<GroupName>("name", "add `name = \"pg\"`", notes);
    if let Some(name) = &name {
        section.is_called(name.value.as_str());
    }
    section.need("volumes", "add `volumes = [\"pgdata\", \"pgwal\"]`", notes);
    let volumes = section.words::<VolumeName>("volumes", notes);
    if let Some(span) = section.empty_list("volumes") {
        notes.missing(
            &span,
            format!("{} has no volume", section.title()),
            "name its volumes, or remove the group",
        );
    }
    let title = section.title().to_owned();
    section.finish(notes);
    FoundGroup {
        title,
        name,
        volumes,
    }
}

impl FoundGroup {
    /// The group, if nothing of it was wrong.
    pub(super) fn whole(self) -> Option<Group> {
        Some(Group {
            name: self.name?.value,
            volumes: self
                .volumes?
                .value
                .into_iter()
                .map(|volume| volume.value)
                .collect(),
        })
    }
}
