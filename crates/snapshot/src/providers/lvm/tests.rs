//! What LVM's programs are asked, and what is made of their answers.

use super::report::tests::{report, row};
use super::thin_delta::tests::{HELD, NOT_HELD, RECORDED};
use super::*;
use crate::program::script::Script;

fn lvm<const N: usize>(script: [(&str, Result<&str, &str>); N]) -> Lvm {
    Lvm {
        programs: Box::new(Script::new(script)),
    }
}

fn lv(changes: &[(&str, &str)]) -> Lv {
    report::read(report(&[row(changes)]).as_bytes())
        .unwrap()
        .remove(0)
}

const THIN: [(&str, &str); 5] = [
    ("lv_attr", "Vwi-aotz--"),
    ("pool_lv", "pool"),
    ("thin_id", "1"),
    ("data_percent", "50.00"),
    ("vg_free", "0"),
];

fn snapshot_row(run: &str, id: &str, permissions: &str) -> String {
    let name = format!("lockstep-data-{run}");
    row(&[
        ("lv_name", &name),
        ("lv_uuid", run),
        ("lv_attr", "Vri---tz-k"),
        ("lv_permissions", permissions),
        ("origin", "data"),
        ("pool_lv", "pool"),
        ("thin_id", id),
    ])
}

fn snapshot(run: &str) -> Snapshot {
    let detail = Detail {
        vg: "vg".to_owned(),
        origin: "data".to_owned(),
        uuid: run.to_owned(),
    };
    let name = format!("lockstep-data-{run}").parse().unwrap();
    Snapshot::made(NAME, &name, Path::new("/dev/vg/data"), 64 << 20, &detail).unwrap()
}

const ASKED_BASE: &str = r#"lvs … --select vg_name="vg" && lv_name="lockstep-data-base""#;
const ASKED_NOW: &str = r#"lvs … --select vg_name="vg" && lv_name="lockstep-data-now""#;
const ASKED_POOL: &str = r#"lvs … --select vg_name="vg" && lv_name="pool""#;
const STATUS: &str = "dmsetup status vg-pool-tpool";
const RESERVE: &str = "dmsetup message vg-pool-tpool 0 reserve_metadata_snap";
const RELEASE: &str = "dmsetup message vg-pool-tpool 0 release_metadata_snap";
const ADD_TAG: &str = "lvchange --addtag lockstep_metadata_snap vg/pool";
const DEL_TAG: &str = "lvchange --deltag lockstep_metadata_snap vg/pool";
const COMPARE: &str = "thin_delta --metadata-snap --snap1 2 --snap2 3 /dev/mapper/vg-pool_tmeta";

#[test]
fn a_thin_snapshot_is_read_only_and_not_activated_by_itself() {
    let made = report(&[snapshot_row("r1", "2", "read-only")]);
    let asked = r#"lvs … --select vg_name="vg" && lv_name="lockstep-data-r1""#;
    let lvm = lvm([
        (asked, Ok(&report(&[]))),
        (
            "lvcreate --snapshot --yes --permission r --name lockstep-data-r1 \
             --setactivationskip y vg/data",
            Ok(""),
        ),
        (asked, Ok(&made)),
    ]);
    let name = "lockstep-data-r1".parse().unwrap();
    let made = lvm.freeze(&lv(&THIN), &name).unwrap();
    assert_eq!(made.lv_uuid, "r1");
}

#[test]
fn a_classic_snapshot_gets_an_area_that_fits() {
    assert_eq!(area(&lv(&[])), Ok(13_422_080));
    let little = lv(&[("vg_free", "4194304")]);
    assert_eq!(area(&little), Ok(3_774_976));
    assert!(area(&lv(&[("vg_free", "0")])).is_err());
    let asked = r#"lvs … --select vg_name="vg" && lv_name="lockstep-data-r1""#;
    let made = report(&[row(&[("lv_name", "lockstep-data-r1")])]);
    let lvm = lvm([
        (asked, Ok(&report(&[]))),
        (
            "lvcreate --snapshot --yes --permission r --name lockstep-data-r1 \
             --size 13422080b vg/data",
            Ok(""),
        ),
        (asked, Ok(&made)),
    ]);
    let name = "lockstep-data-r1".parse().unwrap();
    lvm.freeze(&lv(&[]), &name).unwrap();
}

#[test]
fn a_name_that_is_taken_is_refused_before_anything_is_made() {
    let asked = r#"lvs … --select vg_name="vg" && lv_name="lockstep-data-r1""#;
    let taken = report(&[snapshot_row("r1", "2", "read-only")]);
    let lvm = lvm([(asked, Ok(&taken))]);
    let name = "lockstep-data-r1".parse().unwrap();
    let error = lvm.freeze(&lv(&THIN), &name).unwrap_err();
    assert!(matches!(error, SnapshotError::Exists { .. }), "{error}");
}

#[test]
fn the_metadata_snapshot_is_released_whatever_thin_delta_says() {
    let base = report(&[snapshot_row("base", "2", "read-only")]);
    let now = report(&[snapshot_row("now", "3", "read-only")]);
    let good = lvm([
        (ASKED_BASE, Ok(&base)),
        (ASKED_NOW, Ok(&now)),
        (ADD_TAG, Ok("")),
        (RESERVE, Ok("")),
        (COMPARE, Ok(RECORDED)),
        (RELEASE, Ok("")),
        (DEL_TAG, Ok("")),
        (ASKED_BASE, Ok(&base)),
        (ASKED_NOW, Ok(&now)),
    ]);
    let changed = good.delta(&snapshot("base"), &snapshot("now")).unwrap();
    assert_eq!(changed.bytes(), 6 * 65_536);
    for bad in [Err("no such device"), Ok("<superblock"), Ok("")] {
        let failing = lvm([
            (ASKED_BASE, Ok(&base)),
            (ASKED_NOW, Ok(&now)),
            (ADD_TAG, Ok("")),
            (RESERVE, Ok("")),
            (COMPARE, bad),
            (RELEASE, Ok("")),
            (DEL_TAG, Ok("")),
        ]);
        let doubt = failing
            .delta(&snapshot("base"), &snapshot("now"))
            .unwrap_err();
        assert_eq!(doubt.word(), "program", "{doubt}");
    }
}

#[test]
fn a_metadata_snapshot_of_somebody_else_is_not_released() {
    let base = report(&[snapshot_row("base", "2", "read-only")]);
    let now = report(&[snapshot_row("now", "3", "read-only")]);
    let lvm = lvm([
        (ASKED_BASE, Ok(&base)),
        (ASKED_NOW, Ok(&now)),
        (ADD_TAG, Ok("")),
        (RESERVE, Err("Device or resource busy")),
        (DEL_TAG, Ok("")),
    ]);
    let doubt = lvm.delta(&snapshot("base"), &snapshot("now")).unwrap_err();
    assert!(doubt.to_string().contains("resource busy"), "{doubt}");
}

#[test]
fn a_base_that_is_gone_replaced_or_writeable_leaves_doubt() {
    let delta = |answer: &str| {
        let lvm = lvm([(ASKED_BASE, Ok(answer))]);
        lvm.delta(&snapshot("base"), &snapshot("now")).unwrap_err()
    };
    assert_eq!(delta(&report(&[])), Doubt::Gone { which: Which::Base });
    let other =
        snapshot_row("base", "2", "read-only").replace("\"lv_uuid\":\"base\"", "\"lv_uuid\":\"x\"");
    assert_eq!(delta(&report(&[other])).word(), "replaced");
    let writeable = report(&[snapshot_row("base", "2", "writeable")]);
    assert_eq!(delta(&writeable).word(), "not-immutable");
    let classic = snapshot_row("base", "", "read-only").replace("Vri---tz-k", "sri-a-s---");
    assert_eq!(delta(&report(&[classic])).word(), "not-told");
}

#[test]
fn a_full_area_is_a_lost_snapshot_and_a_full_pool_no_room() {
    let health = |row: String, pool: Option<&str>| {
        let answer = report(&[row]);
        let lvm = match pool {
            Some(pool) => lvm([(ASKED_NOW, Ok(&answer)), (ASKED_POOL, Ok(pool))]),
            None => lvm([(ASKED_NOW, Ok(&answer))]),
        };
        lvm.health(&snapshot("now")).unwrap()
    };
    let classic = |fill: &str| {
        row(&[
            ("lv_name", "lockstep-data-now"),
            ("lv_uuid", "now"),
            ("lv_attr", "sri-a-s---"),
            ("lv_size", "1000000"),
            ("data_percent", fill),
        ])
    };
    let quarter = health(classic("25.00"), None);
    assert_eq!(quarter, Health::Sound { room: 750_000 });
    assert!(matches!(
        health(classic("100.00"), None),
        Health::Lost { .. }
    ));
    // Not knowing is not being sound.
    assert!(matches!(health(classic(""), None), Health::Lost { .. }));
    let pool = report(&[row(&[
        ("lv_name", "pool"),
        ("lv_attr", "twi-aotz--"),
        ("lv_size", "1000"),
        ("data_percent", "99.90"),
    ])]);
    let thin = health(snapshot_row("now", "3", "read-only"), Some(&pool));
    assert_eq!(thin, Health::Sound { room: 1 });
}

#[test]
fn a_crash_in_a_delta_is_recovered_and_snapshots_are_found() {
    let pool = row(&[
        ("lv_name", "pool"),
        ("lv_attr", "twi-aotz--"),
        ("lv_tags", "other,lockstep_metadata_snap"),
    ]);
    let other_origin =
        snapshot_row("r9", "9", "read-only").replace("\"origin\":\"data\"", "\"origin\":\"x\"");
    let rows = [
        row(&THIN),
        pool,
        snapshot_row("r2", "3", "read-only"),
        snapshot_row("r1", "2", "read-only"),
        other_origin,
    ];
    let lvm = lvm([
        (r#"lvs … --select vg_name="vg""#, Ok(&report(&rows))),
        (STATUS, Ok(HELD)),
        (RELEASE, Ok("")),
        (DEL_TAG, Ok("")),
        // Killed before the metadata snapshot was reserved, or once it was released.
        (r#"lvs … --select vg_name="vg""#, Ok(&report(&rows))),
        (STATUS, Ok(NOT_HELD)),
        (DEL_TAG, Ok("")),
    ]);
    let recover = || {
        lvm.recover_of(&lv(&THIN), &"data".parse().unwrap())
            .unwrap()
    };
    for removed in [&["vg/pool metadata snapshot"][..], &[]] {
        let found = recover();
        let runs: Vec<&str> = found.whole.iter().map(|one| one.name.run()).collect();
        assert_eq!(runs, ["r1", "r2"]);
        assert_eq!(found.removed, removed);
    }
}

#[test]
fn only_what_was_made_is_removed() {
    let made = report(&[snapshot_row("now", "3", "read-only")]);
    let lvm_with = lvm([
        (ASKED_NOW, Ok(&made)),
        ("lvremove --yes vg/lockstep-data-now", Ok("")),
        (ASKED_NOW, Ok(&report(&[]))),
    ]);
    lvm_with.release(&snapshot("now")).unwrap();
    lvm_with.release(&snapshot("now")).unwrap();
    let other = made.replace("\"lv_uuid\":\"now\"", "\"lv_uuid\":\"x\"");
    let with_other = lvm([(ASKED_NOW, Ok(&other))]);
    let error = with_other.release(&snapshot("now")).unwrap_err();
    assert!(matches!(error, SnapshotError::NotOurs { .. }), "{error}");
}

#[test]
fn what_a_snapshot_would_cost_is_told_by_kind() {
    let pool = report(&[row(&[
        ("lv_name", "pool"),
        ("lv_attr", "twi-aotz--"),
        ("lv_size", "1000000"),
        ("data_percent", "75.00"),
    ])]);
    let thin = lvm([(ASKED_POOL, Ok(&pool))]).fitness(&lv(&THIN)).unwrap();
    assert_eq!((thin.space.at_risk, thin.space.free), (32 << 20, 250_000));
    assert_eq!(thin.delta, Told::Changes);
    let classic = lvm([]).fitness(&lv(&[])).unwrap();
    assert_eq!(
        (classic.space.at_risk, classic.space.free),
        (64 << 20, 96 << 20)
    );
    assert_eq!(classic.delta, Told::Nothing);
    assert!(lvm([]).fitness(&lv(&[("lv_attr", "twi-aotz--")])).is_err());
    let missing = lvm([(
        "lvs … --select lv_kernel_major=7 && lv_kernel_minor=0",
        Ok(&report(&[])),
    )]);
    assert_eq!(
        missing.lv_numbered(7, 0),
        Err("it is no logical volume".to_owned())
    );
}

#[test]
fn a_pool_has_room_for_all_of_a_volume_or_none() {
    let pool = |data: &str, metadata: &str| {
        lv(&[
            ("lv_attr", "twi-aotz--"),
            ("lv_size", "1000000"),
            ("data_percent", data),
            ("metadata_percent", metadata),
        ])
    };
    assert_eq!(room_in(&pool("50.00", "10.00"), 300_000), Ok(300_000));
    assert_eq!(room_in(&pool("50.00", "80.00"), 1), Ok(300_000));
    let refused = [
        ("50.00", "10.00", 300_001, "could fill its pool"),
        ("80.00", "10.00", 1, "could fill its pool"),
        ("100.00", "10.00", 1, "could fill its pool"),
        (
            "10.00",
            "80.01",
            1,
            "metadata of its pool are filled by 80 %",
        ),
        // Nobody knows.
        ("10.00", "", 1, "metadata percentage"),
        ("", "10.00", 1, "data percentage"),
    ];
    for (data, metadata, bytes, why) in refused {
        let refusal = room_in(&pool(data, metadata), bytes).unwrap_err();
        assert!(refusal.contains(why), "{refusal}");
    }
}
