//! Who writes A and then B is never seen to have written B without A.

use std::time::Duration;

use lockstep_engine::Level;

use crate::lab::{Lab, Writer, is_possible, number_in};

const ROUNDS: u32 = 15;

fn the_log_is_never_ahead_of_the_data(outers: usize) {
    let lab = Lab::new(outers);
    let writer = Writer::start(&lab);
    let mut seen = Vec::new();
    for round in 0..ROUNDS {
        let taken = lab.together(&format!("round{round}")).take().unwrap();
        assert_eq!(taken.level, Level::FilesystemConsistent);
        assert!(taken.pause > Duration::ZERO && taken.pause < Duration::from_secs(10));
        let [log, data] = &taken.snapshots[..] else {
            panic!("one for each volume: {:?}", taken.snapshots);
        };
        assert_eq!(log.snapshot.volume, lab.log_image());
        assert_eq!(data.snapshot.volume, lab.data_image());
        let (data_has, log_has) = (number_in(data), number_in(log));
        assert!(
            log_has == data_has || log_has + 1 == data_has,
            "round {round}: the data has {data_has}, the log {log_has}"
        );
        seen.push(data_has);
        assert_eq!(lab.images().len(), 2);
        log.release().unwrap();
        data.release().unwrap();
    }
    drop(writer);
    assert!(
        seen.is_sorted() && seen[0] < seen[seen.len() - 1],
        "{seen:?}"
    );
    assert_eq!(lab.images().len(), 0);
    lab.assert_thawed();
}

#[test]
fn two_volumes_on_one_filesystem_are_of_one_instant() {
    if is_possible() {
        the_log_is_never_ahead_of_the_data(1);
    }
}

#[test]
fn two_volumes_on_two_filesystems_are_of_one_instant() {
    if is_possible() {
        the_log_is_never_ahead_of_the_data(2);
    }
}
