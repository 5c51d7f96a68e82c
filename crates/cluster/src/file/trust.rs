//! Adding a key to a cluster file, with everything else in it left as it was written.

use std::path::Path;

use toml_edit::{Array, ArrayOfTables, DocumentMut, Item, Table, Value, value};

use super::{ClusterFile, Keys, Mistakes};
use crate::key::PublicKey;
use crate::value::{Address, NodeName, OperatorName};

/// Whose key it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Trusted {
    /// A node's; one that the file does not have yet needs an address.
    Node {
        /// Its name.
        name: NodeName,
        /// Where it is reached, if it is new.
        address: Option<Address>,
    },
    /// An operator's; one that the file does not have yet is added.
    Operator(OperatorName),
}

/// What becomes of the key that is there already.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Keeping {
    /// It stays: both are good until the rotation is over.
    Earlier,
    /// It goes: from now on the new one alone is good.
    Nothing,
}

/// Why a key was not added.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The file has mistakes, or would have.
    #[error(transparent)]
    Mistakes(#[from] Mistakes),
    /// There are two keys already.
    #[error("`{name}` has two keys already")]
    TwoKeys {
        /// Whose.
        name: String,
    },
    /// A new node has no address.
    #[error("there is no node `{name}` in the file, and no address to add it with")]
    NoAddress {
        /// The node.
        name: NodeName,
    },
    /// An address was given for a node that has another.
    #[error("the node `{name}` is in the file already, with the address {address}")]
    OtherAddress {
        /// The node.
        name: NodeName,
        /// Its address.
        address: Address,
    },
    /// The file is written in a way that cannot be added to.
    #[error("the file does not have its {section} as `[[{section}]]` sections")]
    Unusual {
        /// The kind of section.
        section: &'static str,
    },
}

/// The text of a cluster file with a key added, or nothing if it says so already.
///
/// # Errors
/// If the file has mistakes, or the key cannot be added without making one.
pub fn trust(
    text: &str,
    file: &Path,
    whom: &Trusted,
    key: PublicKey,
    keeping: Keeping,
) -> Result<Option<String>, TrustError> {
    let cluster = ClusterFile::parse(text.as_bytes(), file)?;
    let (section, name) = whom.section_and_name();
    let keys = whom.keys(&cluster)?;
    let wanted = match (keys, keeping) {
        (Some(keys), Keeping::Earlier) if keys.accept(&key) => return Ok(None),
        (Some(keys), Keeping::Nothing) if keys.iter().eq([&key]) => return Ok(None),
        (Some(keys), Keeping::Earlier) if keys.iter().count() > 1 => {
            return Err(TrustError::TwoKeys {
                name: name.to_owned(),
            });
        }
        (Some(keys), Keeping::Earlier) => keys.iter().copied().chain([key]).collect(),
        (_, Keeping::Nothing) | (None, _) => vec![key],
    };
    let mut document = document(text, section)?;
    let sections = document
        .entry(section)
        .or_insert(Item::ArrayOfTables(ArrayOfTables::new()));
    let sections = sections
        .as_array_of_tables_mut()
        .ok_or(TrustError::Unusual { section })?;
    let is_it = |table: &Table| table.get("name").and_then(Item::as_str) == Some(name);
    let at = sections.iter().position(is_it);
    match at.and_then(|at| sections.get_mut(at)) {
        Some(table) => replace(table, &wanted),
        None => sections.push(whom.new_section(&wanted)?),
    }
    let changed = document.to_string();
    ClusterFile::parse(changed.as_bytes(), file)?;
    Ok(Some(changed))
}

impl Trusted {
    fn section_and_name(&self) -> (&'static str, &str) {
        match self {
            Self::Node { name, .. } => ("node", name.as_str()),
            Self::Operator(name) => ("operator", name.as_str()),
        }
    }

    /// The keys that the file has of it, if it is there.
    fn keys<'a>(&self, cluster: &'a ClusterFile) -> Result<Option<&'a Keys>, TrustError> {
        let Self::Node { name, address } = self else {
            let is_it = |operator: &&super::Operator| matches!(self, Self::Operator(name) if operator.name == *name);
            return Ok(cluster
                .operators
                .iter()
                .find(is_it)
                .map(|operator| &operator.keys));
        };
        let Some(node) = cluster.node(name) else {
            return Ok(None);
        };
        match address {
            Some(address) if *address != node.address => Err(TrustError::OtherAddress {
                name: name.clone(),
                address: node.address.clone(),
            }),
            _ => Ok(Some(&node.keys)),
        }
    }

    fn new_section(&self, keys: &[PublicKey]) -> Result<Table, TrustError> {
        let mut table = Table::new();
        match self {
            Self::Operator(name) => {
                table.insert("name", value(name.as_str()));
            }
            Self::Node { name, address } => {
                let address = address.as_ref();
                let address =
                    address.ok_or_else(|| TrustError::NoAddress { name: name.clone() })?;
                table.insert("name", value(name.as_str()));
                table.insert("address", value(address.to_string()));
            }
        }
        table.insert("key", Item::Value(written(keys)));
        Ok(table)
    }
}

/// The text was read without mistakes before, so that this can hardly fail.
fn document(text: &str, section: &'static str) -> Result<DocumentMut, TrustError> {
    text.parse().map_err(|_| TrustError::Unusual { section })
}

fn replace(table: &mut Table, keys: &[PublicKey]) {
    let mut new = written(keys);
    if let Some(old) = table.get("key").and_then(Item::as_value) {
        // The comment behind it stays.
        *new.decor_mut() = old.decor().clone();
    }
    table["key"] = Item::Value(new);
}

fn written(keys: &[PublicKey]) -> Value {
    match keys {
        [one] => Value::from(one.to_string()),
        several => Value::Array(several.iter().map(PublicKey::to_string).collect::<Array>()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::tests::{EXAMPLE, key};

    fn node(name: &str, address: Option<&str>) -> Trusted {
        Trusted::Node {
            name: name.parse().unwrap(),
            address: address.map(|address| address.parse().unwrap()),
        }
    }

    fn add(
        text: &str,
        whom: &Trusted,
        number: u8,
        keeping: Keeping,
    ) -> Result<Option<String>, TrustError> {
        trust(text, Path::new("f"), whom, key(number), keeping)
    }

    fn keys(text: &str, name: &str) -> Vec<PublicKey> {
        let cluster = ClusterFile::parse(text.as_bytes(), Path::new("f")).unwrap();
        cluster
            .node(&name.parse().unwrap())
            .unwrap()
            .keys
            .iter()
            .copied()
            .collect()
    }

    #[test]
    fn a_rotation_adds_a_key_and_then_drops_the_earlier_one() {
        let db1 = node("db1", None);
        let both = add(EXAMPLE, &db1, 99, Keeping::Earlier).unwrap().unwrap();
        assert_eq!(keys(&both, "db1"), [key(1), key(99)]);
        assert_eq!(
            add(&both, &db1, 99, Keeping::Earlier).unwrap(),
            None,
            "it is there already"
        );
        assert!(matches!(
            add(&both, &db1, 98, Keeping::Earlier),
            Err(TrustError::TwoKeys { .. })
        ));
        let one = add(&both, &db1, 99, Keeping::Nothing).unwrap().unwrap();
        assert_eq!(keys(&one, "db1"), [key(99)]);
        assert_eq!(add(&one, &db1, 99, Keeping::Nothing).unwrap(), None);
        let back = add(&one, &db1, 1, Keeping::Nothing).unwrap().unwrap();
        assert_eq!(back, EXAMPLE, "nothing else was changed on the way");
    }

    #[test]
    fn whoever_is_new_gets_a_section() {
        let db9 = node("db9", Some("10.0.0.99:7801"));
        let added = add(EXAMPLE, &db9, 99, Keeping::Earlier).unwrap().unwrap();
        assert_eq!(keys(&added, "db9"), [key(99)]);
        let refused = add(EXAMPLE, &node("db9", None), 99, Keeping::Earlier);
        assert!(matches!(refused, Err(TrustError::NoAddress { .. })));
        let moved = add(
            EXAMPLE,
            &node("db1", Some("10.0.0.99:1")),
            99,
            Keeping::Earlier,
        );
        assert!(matches!(moved, Err(TrustError::OtherAddress { .. })));
        let eve = Trusted::Operator("eve".parse().unwrap());
        let added = add(EXAMPLE, &eve, 99, Keeping::Earlier).unwrap().unwrap();
        let cluster = ClusterFile::parse(added.as_bytes(), Path::new("f")).unwrap();
        assert!(
            cluster
                .operators
                .iter()
                .any(|one| one.name.as_str() == "eve" && one.keys.accept(&key(99)))
        );
    }

    #[test]
    fn a_key_of_another_and_a_wrong_file_are_refused() {
        let taken = add(EXAMPLE, &node("db1", None), 2, Keeping::Earlier);
        assert!(
            matches!(taken, Err(TrustError::Mistakes(_))),
            "db2 has this key"
        );
        let broken = add("format = 1", &node("db1", None), 99, Keeping::Earlier);
        assert!(matches!(broken, Err(TrustError::Mistakes(_))));
    }
}
