//! The tables of the store and the verbs on them. Rows are bytes here; `record` reads them.
//!
//! | table | key | value |
//! | --- | --- | --- |
//! | `records` | volume, entry | one row for each run on the volume |
//! | `meta` | `sequence` | number of the last change |
//!
//! An entry is the number of the change that began it, so a higher entry is a later run.

use std::collections::BTreeMap;

use redb::{
    Database, Durability, ReadableDatabase, ReadableTable, Table, TableDefinition, TableError,
};

/// Records kept of one volume, the newest ones.
pub const MAX_RECORDS_PER_VOLUME: usize = 64;
/// Volumes kept; the one untouched for longest is forgotten first, and so reads as `unknown`.
pub const MAX_VOLUMES: usize = 256;

type Key = (&'static str, u64);
const RECORDS: TableDefinition<Key, &[u8]> = TableDefinition::new("records");
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
const SEQUENCE: &str = "sequence";

/// A row as it is stored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Row {
    pub(crate) entry: u64,
    pub(crate) bytes: Vec<u8>,
}

/// Number of the last change; every store has one.
pub(crate) fn sequence(database: &Database) -> Result<u64, redb::Error> {
    let meta = database.begin_read()?.open_table(META)?;
    let sequence = meta.get(SEQUENCE)?.map(|sequence| sequence.value());
    sequence.ok_or_else(|| TableError::TableDoesNotExist(SEQUENCE.to_owned()).into())
}

/// Rows of a volume, the newest first.
pub(crate) fn of_volume(
    database: &Database,
    volume: &str,
    limit: usize,
) -> Result<Vec<Row>, redb::Error> {
    let records = database.begin_read()?.open_table(RECORDS)?;
    let mut rows = Vec::new();
    for row in records.range(entries_of(volume))?.rev().take(limit) {
        let (key, bytes) = row?;
        rows.push(Row {
            entry: key.value().1,
            bytes: bytes.value().to_vec(),
        });
    }
    Ok(rows)
}

/// The newest row of each volume, by the volumes' texts.
pub(crate) fn newest_of_all(database: &Database) -> Result<BTreeMap<String, Row>, redb::Error> {
    let records = database.begin_read()?.open_table(RECORDS)?;
    let mut newest = BTreeMap::new();
    for row in records.iter()? {
        let (key, bytes) = row?;
        let (volume, entry) = key.value();
        let bytes = bytes.value().to_vec();
        // By ascending entries, so that the last one stays.
        newest.insert(volume.to_owned(), Row { entry, bytes });
    }
    Ok(newest)
}

/// Stores a row and the number of this change; durable when it returns.
pub(crate) fn put(
    database: &Database,
    sequence: u64,
    volume: &str,
    row: &Row,
) -> Result<(), redb::Error> {
    let mut change = database.begin_write()?;
    change.set_durability(Durability::Immediate)?;
    {
        change.open_table(META)?.insert(SEQUENCE, sequence)?;
        let mut records = change.open_table(RECORDS)?;
        records.insert((volume, row.entry), row.bytes.as_slice())?;
        drop_old_entries(&mut records, volume)?;
        drop_old_volumes(&mut records)?;
    }
    change.commit()?;
    Ok(())
}

fn drop_old_entries(
    records: &mut Table<'_, Key, &'static [u8]>,
    volume: &str,
) -> Result<(), redb::Error> {
    let surplus = records
        .range(entries_of(volume))?
        .rev()
        .skip(MAX_RECORDS_PER_VOLUME)
        .map(|row| Ok(row?.0.value().1))
        .collect::<Result<Vec<u64>, redb::Error>>()?;
    for entry in surplus {
        records.remove((volume, entry))?;
    }
    Ok(())
}

fn drop_old_volumes(records: &mut Table<'_, Key, &'static [u8]>) -> Result<(), redb::Error> {
    let mut newest = BTreeMap::new();
    for row in records.iter()? {
        let key = row?.0;
        let (volume, entry) = key.value();
        newest.insert(volume.to_owned(), entry);
    }
    let Some(surplus) = newest.len().checked_sub(MAX_VOLUMES) else {
        return Ok(());
    };
    let mut by_age: Vec<(u64, String)> = newest.into_iter().map(|(v, entry)| (entry, v)).collect();
    by_age.sort_unstable();
    for (_, volume) in by_age.into_iter().take(surplus) {
        records.retain_in(entries_of(&volume), |_, _| false)?;
    }
    Ok(())
}

fn entries_of(volume: &str) -> std::ops::RangeInclusive<(&str, u64)> {
    (volume, 0)..=(volume, u64::MAX)
}
