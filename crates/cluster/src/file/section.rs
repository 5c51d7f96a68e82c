//! One table of a file: its keys are taken one by one, and what is left over is unknown.

use std::ops::Range;
use std::str::FromStr;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::mistake::Notes;
use crate::value::{Unfit, shown};

/// A value with its place in the file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Placed<T> {
    pub(super) value: T,
    pub(super) span: Range<usize>,
}

/// A table that is being read.
pub(super) struct Section<'a> {
    /// What it is, for messages: ``[[node]] `db1` ``.
    title: String,
    /// The place of its header.
    span: Range<usize>,
    table: &'a DeTable<'a>,
    known: Vec<&'static str>,
}

type Value<'a> = &'a Spanned<DeValue<'a>>;

impl<'a> Section<'a> {
    pub(super) fn new(
        title: impl Into<String>,
        span: Range<usize>,
        table: &'a DeTable<'a>,
    ) -> Self {
        Self {
            title: title.into(),
            span,
            table,
            known: Vec::new(),
        }
    }

    /// A value that has to be a table.
    pub(super) fn of(title: &str, value: Value<'a>, notes: &mut Notes<'_>) -> Option<Self> {
        let span = value.span();
        match value.get_ref() {
            DeValue::Table(table) => Some(Self::new(title, span, table)),
            other => {
                notes.wrong(
                    &span,
                    format!("{title} is {}, not a table", kind(other)),
                    format!("write it as a section: `[{title}]`"),
                );
                None
            }
        }
    }

    pub(super) fn title(&self) -> &str {
        &self.title
    }

    /// Adds the name by which messages tell it from others of its kind.
    pub(super) fn is_called(&mut self, name: &str) {
        self.title = format!("{} {}", self.title, shown(name));
    }

    pub(super) fn span(&self) -> &Range<usize> {
        &self.span
    }

    /// A key's value, if it is there.
    pub(super) fn take(&mut self, key: &'static str) -> Option<Value<'a>> {
        self.known.push(key);
        let value = self.table.get(key);
        #[cfg(test)]
        record::note(&self.title, key, value.is_some());
        value
    }

    /// A key's value; a mistake with this remedy if it is missing.
    pub(super) fn need(
        &mut self,
        key: &'static str,
        remedy: &str,
        notes: &mut Notes<'_>,
    ) -> Option<Value<'a>> {
        let value = self.take(key);
        if value.is_none() {
            notes.missing(&self.span, format!("{} has no `{key}`", self.title), remedy);
        }
        value
    }

    /// A key's text as what it stands for, if it is there.
    pub(super) fn word<T: FromStr<Err = Unfit>>(
        &mut self,
        key: &'static str,
        notes: &mut Notes<'_>,
    ) -> Option<Placed<T>> {
        let value = self.take(key)?;
        word(key, value, notes)
    }

    /// A key's text as what it stands for; a mistake if it is missing.
    pub(super) fn needed_word<T: FromStr<Err = Unfit>>(
        &mut self,
        key: &'static str,
        remedy: &str,
        notes: &mut Notes<'_>,
    ) -> Option<Placed<T>> {
        let value = self.need(key, remedy, notes)?;
        word(key, value, notes)
    }

    /// A key's list of texts, each as what it stands for; none of them twice.
    pub(super) fn words<T: FromStr<Err = Unfit> + PartialEq>(
        &mut self,
        key: &'static str,
        notes: &mut Notes<'_>,
    ) -> Option<Placed<Vec<Placed<T>>>> {
        let value = self.take(key)?;
        words(key, value, notes)
    }

    /// The place of a key's list that has nothing in it.
    pub(super) fn empty_list(&self, key: &str) -> Option<Range<usize>> {
        let value = self.table.get(key)?;
        match value.get_ref() {
            DeValue::Array(array) if array.is_empty() => Some(value.span()),
            _ => None,
        }
    }

    /// A key's yes or no.
    pub(super) fn flag(&mut self, key: &'static str, notes: &mut Notes<'_>) -> Option<bool> {
        let value = self.take(key)?;
        match value.get_ref() {
            DeValue::Boolean(flag) => Some(*flag),
            other => {
                notes.wrong(
                    &value.span(),
                    format!("`{key}` is {}", kind(other)),
                    "write `true` or `false`",
                );
                None
            }
        }
    }

    /// A key's whole number within bounds.
    pub(super) fn number(
        &mut self,
        key: &'static str,
        bounds: std::ops::RangeInclusive<u64>,
        notes: &mut Notes<'_>,
    ) -> Option<Placed<u64>> {
        let value = self.take(key)?;
        number(key, value, bounds, notes)
    }

    /// A key's table as a section of its own, whose title is `title`.
    pub(super) fn section(
        &mut self,
        key: &'static str,
        title: &str,
        notes: &mut Notes<'_>,
    ) -> Option<Section<'a>> {
        let value = self.take(key)?;
        Section::of(title, value, notes)
    }

    /// Every table of an array of them, such as `[[node]]`.
    pub(super) fn sections(
        &mut self,
        key: &'static str,
        title: &str,
        max: usize,
        notes: &mut Notes<'_>,
    ) -> Vec<Section<'a>> {
        let Some(value) = self.take(key) else {
            return Vec::new();
        };
        let DeValue::Array(array) = value.get_ref() else {
            notes.wrong(
                &value.span(),
                format!("`{key}` is {}, not a list of tables", kind(value.get_ref())),
                format!("write each as a section of its own: `[[{title}]]`"),
            );
            return Vec::new();
        };
        if let Some(extra) = array.get(max) {
            notes.wrong(
                &extra.span(),
                format!(
                    "there are {} [[{title}]], more than the {max} that are possible",
                    array.len()
                ),
                "split the cluster into several files",
            );
        }
        let each = array.iter().take(max);
        each.filter_map(|value| match value.get_ref() {
            DeValue::Table(table) => {
                Some(Section::new(format!("[[{title}]]"), value.span(), table))
            }
            other => {
                notes.wrong(
                    &value.span(),
                    format!("an entry of `{key}` is {}", kind(other)),
                    format!("write each as a section of its own: `[[{title}]]`"),
                );
                None
            }
        })
        .collect()
    }

    /// The keys that nobody takes by name: each is one that the file itself chose.
    pub(super) fn entries(&self) -> impl Iterator<Item = (Placed<&'a str>, Value<'a>)> + use<'a> {
        let placed = |(key, value): (&'a Spanned<_>, _)| {
            let key: &'a Spanned<std::borrow::Cow<'a, str>> = key;
            let name = Placed {
                value: key.get_ref().as_ref(),
                span: key.span(),
            };
            (name, value)
        };
        self.table.iter().map(placed)
    }

    /// Reports every key that was not asked for.
    pub(super) fn finish(self, notes: &mut Notes<'_>) {
        for (key, _) in self.entries() {
            if self.known.contains(&key.value) {
                continue;
            }
            let nearest = self
                .known
                .iter()
                .min_by_key(|known| distance(known, key.value));
            let remedy = match nearest {
                Some(known) if distance(known, key.value) <= 1 + known.len() / 4 => {
                    format!("write `{known}`, if that is meant")
                }
                _ => format!("remove it; known here: {}", self.known.join(", ")),
            };
            notes.wrong(
                &key.span,
                format!("unknown key {} in {}", shown(key.value), self.title),
                remedy,
            );
        }
    }
}

/// A text as what it stands for.
pub(super) fn word<T: FromStr<Err = Unfit>>(
    key: &str,
    value: Value<'_>,
    notes: &mut Notes<'_>,
) -> Option<Placed<T>> {
    let span = value.span();
    let DeValue::String(text) = value.get_ref() else {
        notes.wrong(
            &span,
            format!("`{key}` is {}, not a text", kind(value.get_ref())),
            "write it in quotes",
        );
        return None;
    };
    match text.parse() {
        Ok(value) => Some(Placed { value, span }),
        Err(unfit) => {
            notes.unfit(&span, unfit);
            None
        }
    }
}

/// A list of texts as what they stand for.
pub(super) fn words<T: FromStr<Err = Unfit> + PartialEq>(
    key: &str,
    value: Value<'_>,
    notes: &mut Notes<'_>,
) -> Option<Placed<Vec<Placed<T>>>> {
    let span = value.span();
    let DeValue::Array(array) = value.get_ref() else {
        notes.wrong(
            &span,
            format!("`{key}` is {}, not a list", kind(value.get_ref())),
            format!("write it in brackets: `{key} = [\"…\"]`"),
        );
        return None;
    };
    let mut list: Vec<Placed<T>> = Vec::new();
    for value in array.iter() {
        let Some(word) = word::<T>(key, value, notes) else {
            continue;
        };
        if list.iter().any(|earlier| earlier.value == word.value) {
            notes.wrong(
                &word.span,
                format!("this stands in `{key}` twice"),
                "remove one of them",
            );
        } else {
            list.push(word);
        }
    }
    Some(Placed { value: list, span })
}

pub(super) fn number(
    key: &str,
    value: Value<'_>,
    bounds: std::ops::RangeInclusive<u64>,
    notes: &mut Notes<'_>,
) -> Option<Placed<u64>> {
    let span = value.span();
    let remedy = format!(
        "write a whole number from {} to {}",
        bounds.start(),
        bounds.end()
    );
    let DeValue::Integer(integer) = value.get_ref() else {
        notes.wrong(
            &span,
            format!("`{key}` is {}, not a number", kind(value.get_ref())),
            remedy,
        );
        return None;
    };
    let parsed = u64::from_str_radix(integer.as_str(), integer.radix());
    match parsed.ok().filter(|number| bounds.contains(number)) {
        Some(value) => Some(Placed { value, span }),
        None => {
            notes.wrong(&span, format!("`{key}` is out of bounds"), remedy);
            None
        }
    }
}

/// What a value is, in words.
pub(super) fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// How many letters have to be changed, added or removed (Levenshtein).
fn distance(left: &str, right: &str) -> usize {
    const MAX_LETTERS: usize = 64;
    let right: Vec<char> = right.chars().take(MAX_LETTERS).collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (at, letter) in left.chars().take(MAX_LETTERS).enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], at + 1);
        for (other, found) in right.iter().enumerate() {
            let changed = diagonal + usize::from(letter != *found);
            diagonal = row[other + 1];
            row[other + 1] = changed.min(diagonal + 1).min(row[other] + 1);
        }
    }
    row[right.len()]
}

/// Which keys are asked for, and which are there: the examples have to show them all.
#[cfg(test)]
pub(super) mod record {
    use std::cell::RefCell;
    use std::collections::BTreeSet;

    type Keys = BTreeSet<(String, &'static str)>;

    thread_local! {
        static SEEN: RefCell<Option<(Keys, Keys)>> = const { RefCell::new(None) };
    }

    pub(in crate::file) fn start() {
        SEEN.set(Some(Default::default()));
    }

    /// The keys that were asked for since, and those of them that were there once.
    pub(in crate::file) fn stop() -> (Keys, Keys) {
        SEEN.take().unwrap()
    }

    pub(super) fn note(title: &str, key: &'static str, is_there: bool) {
        // Without the name that tells one section from its likes.
        let kind = title.split(" `").next().unwrap().to_owned();
        SEEN.with_borrow_mut(|seen| {
            if let Some((asked, present)) = seen {
                if is_there {
                    present.insert((kind.clone(), key));
                }
                asked.insert((kind, key));
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::distance;

    #[test]
    fn the_nearest_key_is_found() {
        assert_eq!(distance("address", "address"), 0);
        assert_eq!(distance("address", "adress"), 1);
        assert_eq!(distance("stop", ""), 4);
        assert_eq!(distance("", "ab"), 2);
        assert_eq!(distance("replicas", "replicsa"), 2);
    }
}
