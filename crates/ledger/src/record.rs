//! What the ledger keeps of one run on one volume, and its byte map.

use serde::{Deserialize, Serialize};

use crate::key::{Identity, VolumeKey};
use crate::proof::{ProofLevel, SourceLevel};

/// Newest format of a row, and the only one so far.
const FORMAT: u8 = 1;
const CHECKSUM_AT: usize = 1;
const JSON_AT: usize = CHECKSUM_AT + 32;
/// Longest row in bytes; all texts of a record together stay far below it.
const MAX_ROW_BYTES: usize = 64 * 1024;

/// How a run on a volume ended, or that it has not.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// The volume was proven equal to its source.
    Consistent,
    /// The volume is being overwritten, or that ended half way.
    Inconsistent,
    /// The volume cannot be trusted because its medium failed.
    Failed,
}

/// What one run did to one volume. Times are in milliseconds since the Unix epoch.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Record {
    /// How it ended.
    pub state: State,
    /// The file or device which it was about; none if that did not exist when the run began, or if
    /// the record is about whatever is there.
    pub identity: Option<Identity>,
    /// Bytes of the volume; 0 unless consistent.
    pub size: u64,
    /// Root of the volume; only if consistent.
    #[serde(with = "hex_root")]
    pub root: Option<[u8; 32]>,
    /// The run's name.
    pub run: String,
    /// Where the data came from.
    pub source: String,
    /// Who started the run.
    pub who: String,
    /// When the run started.
    pub started_unix_ms: u64,
    /// When it ended; none while it runs, and for ever if it was interrupted.
    pub ended_unix_ms: Option<u64>,
    /// Bytes made equal by the run; 0 unless consistent.
    pub bytes_written: u64,
    /// What the proof read; means something only if consistent.
    pub proof: ProofLevel,
    /// How still the source was; only if consistent, and none if it was read without a snapshot, or
    /// the record is of a release that did not write it down.
    #[serde(default)]
    pub level: Option<SourceLevel>,
    /// Why it failed, or why an earlier run's word is not believed any more; none if consistent.
    pub reason: Option<String>,
    /// The cluster's epoch; 0 for an ad hoc run.
    pub epoch: u64,
}

/// The bytes of a row:
///
/// ```text
/// 0       format, 1
/// 1..33   BLAKE3 of: format, length of the key (u64 LE), key, entry (u64 LE), JSON
/// 33..    the record as JSON
/// ```
///
/// The checksum covers where the row belongs, so a row that turns up elsewhere is not believed.
pub(crate) fn encode(
    key: &VolumeKey,
    entry: u64,
    record: &Record,
) -> Result<Vec<u8>, serde_json::Error> {
    let json = serde_json::to_vec(record)?;
    let mut row = Vec::with_capacity(JSON_AT + json.len());
    row.push(FORMAT);
    row.extend_from_slice(checksum(FORMAT, key, entry, &json).as_bytes());
    row.extend_from_slice(&json);
    Ok(row)
}

/// The record of a row, or why it cannot be believed.
pub(crate) fn decode(key: &VolumeKey, entry: u64, row: &[u8]) -> Result<Record, Unreadable> {
    if row.len() > MAX_ROW_BYTES {
        return Err(Unreadable::TooLong);
    }
    let format = *row.first().ok_or(Unreadable::TooShort)?;
    if format != FORMAT {
        return Err(Unreadable::Format(format));
    }
    let (head, json) = row.split_at_checked(JSON_AT).ok_or(Unreadable::TooShort)?;
    if checksum(format, key, entry, json).as_slice() != &head[CHECKSUM_AT..] {
        return Err(Unreadable::Checksum);
    }
    let record: Record = serde_json::from_slice(json)?;
    if (record.state == State::Consistent) != record.root.is_some() {
        return Err(Unreadable::Contradiction);
    }
    Ok(record)
}

/// Why a row is no record.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unreadable {
    #[error("its record is longer than any we write")]
    TooLong,
    #[error("its record is cut short")]
    TooShort,
    #[error("its record has format {0}, which this version does not know")]
    Format(u8),
    #[error("its record is damaged: the checksum does not match")]
    Checksum,
    #[error("its record is not what this version writes: {0}")]
    Json(#[from] serde_json::Error),
    #[error("its record contradicts itself")]
    Contradiction,
}

fn checksum(format: u8, key: &VolumeKey, entry: u64, json: &[u8]) -> blake3::Hash {
    let key = key.as_str().as_bytes();
    let mut hasher = blake3::Hasher::new();
    hasher
        .update(&[format])
        .update(&(key.len() as u64).to_le_bytes())
        .update(key)
        .update(&entry.to_le_bytes())
        .update(json);
    hasher.finalize()
}

/// A root as 64 hex digits, so that a person can read the JSON.
mod hex_root {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[expect(clippy::ref_option, reason = "the signature is serde's")]
    pub(super) fn serialize<S: Serializer>(
        root: &Option<[u8; 32]>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let hex = root.map(|root| blake3::Hash::from_bytes(root).to_hex().to_string());
        hex.serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<[u8; 32]>, D::Error> {
        let hex = Option::<String>::deserialize(deserializer)?;
        hex.map(|hex| blake3::Hash::from_hex(hex).map(|hash| *hash.as_bytes()))
            .transpose()
            .map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> VolumeKey {
        VolumeKey::from_path(&std::env::temp_dir().join(name)).unwrap()
    }

    fn record() -> Record {
        Record {
            state: State::Consistent,
            identity: Some(Identity::new("file ino=12")),
            size: 7,
            root: Some([0xab; 32]),
            run: "r".into(),
            source: "s".into(),
            who: "w".into(),
            started_unix_ms: 1,
            ended_unix_ms: Some(2),
            bytes_written: 3,
            proof: ProofLevel::Delta,
            level: Some(SourceLevel::FilesystemConsistent),
            reason: None,
            epoch: 0,
        }
    }

    #[test]
    fn a_row_reads_back_only_where_it_belongs() {
        let row = encode(&key("a"), 5, &record()).unwrap();
        assert_eq!(decode(&key("a"), 5, &row).unwrap(), record());
        assert!(matches!(
            decode(&key("b"), 5, &row),
            Err(Unreadable::Checksum)
        ));
        assert!(matches!(
            decode(&key("a"), 6, &row),
            Err(Unreadable::Checksum)
        ));
    }

    #[test]
    fn no_flipped_bit_and_no_cut_row_is_believed() {
        let row = encode(&key("a"), 5, &record()).unwrap();
        for bit in 0..row.len() * 8 {
            let mut flipped = row.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&key("a"), 5, &flipped).is_err(), "bit {bit}");
        }
        for len in 0..row.len() {
            assert!(decode(&key("a"), 5, &row[..len]).is_err(), "{len} bytes");
        }
    }

    #[test]
    fn another_format_is_named_and_not_believed() {
        let json = serde_json::to_vec(&record()).unwrap();
        let mut row = vec![2];
        row.extend_from_slice(checksum(2, &key("a"), 5, &json).as_bytes());
        row.extend_from_slice(&json);
        let error = decode(&key("a"), 5, &row).unwrap_err();
        assert!(matches!(error, Unreadable::Format(2)), "{error}");
    }

    #[test]
    fn a_consistent_record_without_a_root_is_not_believed() {
        for (state, root) in [(State::Consistent, None), (State::Failed, Some([1; 32]))] {
            let odd = Record {
                state,
                root,
                ..record()
            };
            let row = encode(&key("a"), 5, &odd).unwrap();
            let read = decode(&key("a"), 5, &row);
            assert!(matches!(read, Err(Unreadable::Contradiction)), "{read:?}");
        }
    }

    /// The rows of releases that knew no level stay readable; no row ever gets another format for it.
    #[test]
    fn a_record_without_a_level_reads_as_not_recorded() {
        let mut json = serde_json::to_value(record()).unwrap();
        assert_eq!(json["level"], "filesystem-consistent");
        json.as_object_mut().unwrap().remove("level");
        let json = serde_json::to_vec(&json).unwrap();
        let mut row = vec![FORMAT];
        row.extend_from_slice(checksum(FORMAT, &key("a"), 5, &json).as_bytes());
        row.extend_from_slice(&json);
        let read = decode(&key("a"), 5, &row).unwrap();
        let expected = Record {
            level: None,
            ..record()
        };
        assert_eq!(read, expected);
    }

    #[test]
    fn a_level_has_one_word_everywhere() {
        use SourceLevel::{ApplicationConsistent, CrashConsistent, FilesystemConsistent};
        for level in [CrashConsistent, FilesystemConsistent, ApplicationConsistent] {
            assert_eq!(serde_json::to_value(level).unwrap(), level.word());
        }
    }

    #[test]
    fn the_json_has_its_root_in_hex() {
        let json = serde_json::to_value(record()).unwrap();
        assert_eq!(json["root"], "ab".repeat(32));
        assert_eq!(json["state"], "consistent");
        assert_eq!(json["proof"], "delta");
    }
}
