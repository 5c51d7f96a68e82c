//! The keys of a node or operator: one, or two while it rotates.

use toml::Spanned;
use toml::de::DeValue;

use super::mistake::Notes;
use super::section::{Placed, Section, kind, word};
use crate::key::PublicKey;

/// One key, or two of which either is good.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Keys {
    first: PublicKey,
    second: Option<PublicKey>,
}

impl Keys {
    /// Whether this is one of them.
    #[must_use]
    pub fn accept(&self, key: &PublicKey) -> bool {
        self.iter().any(|known| known == key)
    }

    /// The keys, as they stand in the file.
    pub fn iter(&self) -> impl Iterator<Item = &PublicKey> {
        std::iter::once(&self.first).chain(&self.second)
    }
}

/// The keys of a section, with their places.
pub(super) struct PlacedKeys {
    pub(super) keys: Keys,
    pub(super) each: Vec<Placed<PublicKey>>,
}

pub(super) fn read(section: &mut Section<'_>, notes: &mut Notes<'_>) -> Option<PlacedKeys> {
    let value = section.need(
        "key",
        "add `key = \"lsk1:…\"`, with what `lockstep node show` prints there",
        notes,
    )?;
    let each = match value.get_ref() {
        DeValue::String(_) => vec![word::<PublicKey>("key", value, notes)?],
        DeValue::Array(array) => several(value, array, notes)?,
        other => {
            notes.wrong(
                &value.span(),
                format!("`key` is {}, not a text", kind(other)),
                "write `\"lsk1:…\"`, or a list of two while rotating",
            );
            return None;
        }
    };
    let keys = match each.as_slice() {
        [one] => Keys {
            first: one.value,
            second: None,
        },
        [one, two] => Keys {
            first: one.value,
            second: Some(two.value),
        },
        _ => return None,
    };
    Some(PlacedKeys { keys, each })
}

fn several(
    value: &Spanned<DeValue<'_>>,
    array: &[Spanned<DeValue<'_>>],
    notes: &mut Notes<'_>,
) -> Option<Vec<Placed<PublicKey>>> {
    if !matches!(array.len(), 1 | 2) {
        notes.wrong(
            &value.span(),
            format!("`key` is a list of {}", array.len()),
            "one key is used, or two while rotating: the one in use and the next",
        );
    }
    let mut each: Vec<Placed<PublicKey>> = Vec::new();
    for value in array {
        let Some(key) = word::<PublicKey>("key", value, notes) else {
            continue;
        };
        if each.iter().any(|earlier| earlier.value == key.value) {
            notes.wrong(
                &key.span,
                "the two keys are the same",
                "leave one, or name the next key too",
            );
        }
        each.push(key);
    }
    matches!(each.len(), 1 | 2).then_some(each)
}
