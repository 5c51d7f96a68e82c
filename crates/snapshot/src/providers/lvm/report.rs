//! What `lvs --reportformat json` says: pure.

use serde::Deserialize;

/// The columns that are asked for; each is a field of [`Lv`].
pub(super) const COLUMNS: &str = "vg_name,lv_name,lv_uuid,lv_size,lv_attr,lv_dm_path,\
lv_permissions,lv_snapshot_invalid,lv_health_status,lv_tags,origin,pool_lv,thin_id,data_percent,\
metadata_percent,vg_free";

/// A logical volume, as text; what does not apply is empty.
#[derive(Clone, PartialEq, Eq, Deserialize, Debug)]
pub(super) struct Lv {
    pub(super) vg_name: String,
    pub(super) lv_name: String,
    pub(super) lv_uuid: String,
    lv_size: String,
    lv_attr: String,
    pub(super) lv_dm_path: String,
    lv_permissions: String,
    lv_snapshot_invalid: String,
    lv_health_status: String,
    lv_tags: String,
    pub(super) origin: String,
    pub(super) pool_lv: String,
    thin_id: String,
    data_percent: String,
    // Only pools have it; a report without the column says nothing of it.
    #[serde(default)]
    metadata_percent: String,
    vg_free: String,
}

/// How a logical volume can be frozen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// In a thin pool: snapshots share blocks, and tell what changed.
    Thin,
    /// Plain: a snapshot has an area of fixed size for what was overwritten.
    Classic,
    /// Is itself such a snapshot, a pool, or part of something.
    Other,
}

#[derive(Deserialize)]
struct Report {
    report: Vec<Section>,
}

#[derive(Deserialize)]
struct Section {
    #[serde(default)]
    lv: Vec<Lv>,
}

/// All volumes of a report.
pub(super) fn read(output: &[u8]) -> Result<Vec<Lv>, String> {
    let report: Report = serde_json::from_slice(output)
        .map_err(|error| format!("its report is not understood: {error}"))?;
    let sections = report.report.into_iter();
    Ok(sections.flat_map(|section| section.lv).collect())
}

impl Lv {
    /// `VG/LV`, as the programs want it.
    pub(super) fn full_name(&self) -> String {
        format!("{}/{}", self.vg_name, self.lv_name)
    }

    pub(super) fn kind(&self) -> Kind {
        match self.lv_attr.as_bytes().first() {
            Some(b'V') => Kind::Thin,
            // Plain, an origin already, mirrored, striped over RAID, or cached.
            Some(b'-' | b'o' | b'm' | b'M' | b'r' | b'R' | b'C') => Kind::Classic,
            _ => Kind::Other,
        }
    }

    pub(super) fn is_classic_snapshot(&self) -> bool {
        matches!(self.lv_attr.as_bytes().first(), Some(b's' | b'S'))
    }

    pub(super) fn is_read_only(&self) -> bool {
        self.lv_permissions == "read-only"
    }

    pub(super) fn has_tag(&self, tag: &str) -> bool {
        self.lv_tags.split(',').any(|own| own == tag)
    }

    pub(super) fn size(&self) -> Result<u64, String> {
        number("size", &self.lv_size)
    }

    pub(super) fn vg_free(&self) -> Result<u64, String> {
        number("free space", &self.vg_free)
    }

    pub(super) fn thin_id(&self) -> Result<u64, String> {
        number("thin id", &self.thin_id)
    }

    /// How full it is, in hundredths of a percent: its area or pool, or what of it is allocated.
    pub(super) fn fill(&self) -> Result<u64, String> {
        hundredths("data", &self.data_percent)
    }

    /// The same of a pool's metadata.
    pub(super) fn metadata_fill(&self) -> Result<u64, String> {
        hundredths("metadata", &self.metadata_percent)
    }

    /// Bytes of it that are in use.
    pub(super) fn filled_bytes(&self) -> Result<u64, String> {
        let used = u128::from(self.size()?) * u128::from(self.fill()?.min(FULL));
        Ok((used / u128::from(FULL)) as u64)
    }

    /// Why its data are gone, if they are.
    pub(super) fn loss(&self) -> Option<String> {
        let state = self.lv_attr.as_bytes().get(4);
        // "unknown" is said of volumes that are not snapshots or not active.
        if self.lv_snapshot_invalid == "snapshot invalid" || matches!(state, Some(b'I' | b'S')) {
            return Some("more was overwritten than its area holds".to_owned());
        }
        if self.is_classic_snapshot() && self.fill().is_ok_and(|fill| fill >= FULL) {
            return Some("its area is full".to_owned());
        }
        match self.lv_health_status.as_str() {
            "" | "unknown" => None,
            status => Some(format!("LVM says that it is {status}")),
        }
    }
}

/// All of it, in hundredths of a percent.
pub(super) const FULL: u64 = 10_000;

fn hundredths(what: &str, percent: &str) -> Result<u64, String> {
    let bad = || format!("its {what} percentage is {percent:?}");
    let (whole, rest) = percent.split_once('.').ok_or_else(bad)?;
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if rest.len() != 2 || !digits(whole) || !digits(rest) {
        return Err(bad());
    }
    format!("{whole}{rest}").parse().map_err(|_| bad())
}

fn number(what: &str, text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("its {what} is {text:?}"))
}

/// A name as device-mapper writes it: hyphens separate parts, so those within are doubled.
pub(super) fn dm_name(vg: &str, lv: &str, part: &str) -> String {
    let doubled = |name: &str| name.replace('-', "--");
    format!("{}-{}{part}", doubled(vg), doubled(lv))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A row as `lvs` writes it.
    pub(in super::super) fn row(changes: &[(&str, &str)]) -> String {
        let mut columns = vec![
            ("vg_name", "vg"),
            ("lv_name", "data"),
            ("lv_uuid", "eYxkAG-1"),
            ("lv_size", "67108864"),
            ("lv_attr", "-wi-a-----"),
            ("lv_dm_path", "/dev/mapper/vg-data"),
            ("lv_permissions", "writeable"),
            ("lv_snapshot_invalid", "unknown"),
            ("lv_health_status", ""),
            ("lv_tags", ""),
            ("origin", ""),
            ("pool_lv", ""),
            ("thin_id", ""),
            ("data_percent", ""),
            ("metadata_percent", ""),
            ("vg_free", "100663296"),
        ];
        for (name, value) in changes {
            columns
                .iter_mut()
                .find(|column| column.0 == *name)
                .unwrap()
                .1 = value;
        }
        let cells: Vec<String> = columns
            .iter()
            .map(|(name, value)| format!("\"{name}\":\"{value}\""))
            .collect();
        format!("{{{}}}", cells.join(", "))
    }

    pub(in super::super) fn report(rows: &[String]) -> String {
        let rows = rows.join(",\n                  ");
        format!(
            "  {{\n      \"report\": [\n          {{\n              \"lv\": [\n                  {rows}\n              ]\n          }}\n      ]\n  }}\n"
        )
    }

    fn one(changes: &[(&str, &str)]) -> Lv {
        let report = report(&[row(changes)]);
        read(report.as_bytes()).unwrap().remove(0)
    }

    /// Written by LVM 2.03.16 of a thin volume with a snapshot, and of a plain one with two, the
    /// area of one of them full.
    const RECORDED: &str = include_str!("../../../tests/vectors/lvs-2.03.16.json");

    #[test]
    fn what_lvm_really_writes_is_understood() {
        let all = read(RECORDED.as_bytes()).unwrap();
        let named = |name: &str| all.iter().find(|lv| lv.lv_name == name).unwrap();
        let thin = named("data");
        assert_eq!((thin.kind(), thin.size()), (Kind::Thin, Ok(32 << 20)));
        assert_eq!(thin.filled_bytes(), Ok(4 << 20));
        let frozen = named("lockstep-data-r1");
        assert_eq!((frozen.kind(), frozen.thin_id()), (Kind::Thin, Ok(2)));
        assert!(frozen.is_read_only() && frozen.loss().is_none());
        assert_eq!(
            (frozen.origin.as_str(), frozen.pool_lv.as_str()),
            ("data", "pool")
        );
        assert_eq!(named("plain").kind(), Kind::Classic);
        assert_eq!(named("plain").vg_free(), Ok(152 << 20));
        let half = named("lockstep-plain-r1");
        assert!(half.is_classic_snapshot() && half.loss().is_none());
        assert_eq!(half.fill(), Ok(7539));
        assert!(named("lockstep-plain-full").loss().is_some());
        assert_eq!(named("pool").kind(), Kind::Other);
        assert_eq!(named("pool").fill(), Ok(625));
    }

    #[test]
    fn every_column_is_asked_for_once() {
        let names: Vec<&str> = COLUMNS.split(',').collect();
        let row = row(&[]);
        assert!(
            names
                .iter()
                .all(|name| row.contains(&format!("\"{name}\"")))
        );
        assert_eq!(names.len(), 16);
    }

    #[test]
    fn no_volume_is_an_empty_list_and_nonsense_an_error() {
        assert_eq!(read(report(&[]).as_bytes()), Ok(Vec::new()));
        assert!(read(b"").is_err());
        assert!(read(b"{\"report\":[{\"lv\":[{\"vg_name\":\"vg\"}]}]}").is_err());
    }

    #[test]
    fn attributes_tell_what_it_is() {
        assert_eq!(one(&[]).kind(), Kind::Classic);
        assert_eq!(one(&[("lv_attr", "Vwi-aotz--")]).kind(), Kind::Thin);
        assert_eq!(one(&[("lv_attr", "owi-aos---")]).kind(), Kind::Classic);
        assert_eq!(one(&[("lv_attr", "twi-aotz--")]).kind(), Kind::Other);
        assert_eq!(one(&[("lv_attr", "swi-a-s---")]).kind(), Kind::Other);
        assert!(one(&[("lv_attr", "swi-a-s---")]).is_classic_snapshot());
        assert!(one(&[("lv_permissions", "read-only")]).is_read_only());
        assert!(one(&[("lv_tags", "a,b")]).has_tag("b"));
    }

    #[test]
    fn a_fill_level_is_exact_or_unknown() {
        let fill = |text| one(&[("data_percent", text)]).fill();
        assert_eq!(fill("0.00"), Ok(0));
        assert_eq!(fill("12.34"), Ok(1234));
        assert_eq!(fill("100.00"), Ok(10_000));
        for bad in ["", "12", "12.3", "-1.00", "1,00", "x.yz"] {
            assert!(fill(bad).is_err(), "{bad:?}");
        }
        let half = one(&[("data_percent", "50.00")]);
        assert_eq!(half.filled_bytes(), Ok(32 << 20));
    }

    #[test]
    fn a_snapshot_that_lost_its_data_is_told_every_way_that_lvm_says_so() {
        let good = [("lv_attr", "sri-a-s---"), ("data_percent", "99.99")];
        assert_eq!(one(&good).loss(), None);
        assert!(one(&[("lv_attr", "sri-I-s---")]).loss().is_some());
        assert!(
            one(&[("lv_snapshot_invalid", "snapshot invalid")])
                .loss()
                .is_some()
        );
        let full = [("lv_attr", "sri-a-s---"), ("data_percent", "100.00")];
        assert!(one(&full).loss().is_some());
        assert!(one(&[("lv_health_status", "failed")]).loss().is_some());
        // A thin volume that is allocated all over is not lost.
        let thin = [("lv_attr", "Vri-a-tz-k"), ("data_percent", "100.00")];
        assert_eq!(one(&thin).loss(), None);
    }

    #[test]
    fn hyphens_are_doubled_in_device_names() {
        assert_eq!(dm_name("vg", "pool", "-tpool"), "vg-pool-tpool");
        assert_eq!(dm_name("a-b", "c-d", "_tmeta"), "a--b-c--d_tmeta");
    }
}
