//! What may run on a node after a run, however that ended.
//!
//! | the volume | alone | in a group |
//! | --- | --- | --- |
//! | consistent by this run | configure, start, check | the same, if this run proved each other volume of it too |
//! | as it was, and neither inconsistent nor failed | start, check, if the services had been up | the same, if that holds for every volume of the group |
//! | anything else | the services stay down | the services stay down |
//!
//! Pure, and the same whether a call ended well, was lost, or the agent was killed: what was written
//! down and what the ledger says now are all that it looks at.

use lockstep_cluster::plan::NodeState;

use super::note::{Before, Mark, Note};

/// What may run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fate {
    /// The data is new and whole: files, `configure`, `start`, `check`.
    Resume,
    /// Nothing happened to the data: `start`, `check`.
    Restart,
    /// Nothing.
    Down(&'static str),
}

/// What the ledger says of a volume now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Now {
    pub(super) state: NodeState,
    pub(super) newest: Option<Mark>,
    /// The epoch of the newest record.
    pub(super) epoch: u64,
    /// The ledger was found damaged: it has forgotten what it said.
    pub(super) forgot: bool,
}

/// What happened to a volume since the services were stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Since {
    /// Nothing; whether services could run on it.
    Untouched { fit: bool },
    /// A run proved it.
    Proved { by_this: bool },
    /// It is half written, or its medium failed.
    Broken,
    /// Nobody can tell.
    Unclear,
}

/// What may run. `now` has what `note.before` has, in its order; `witnessed` if the agent has not
/// been started since the note was written.
pub(super) fn fate(note: &Note, now: &[Now], witnessed: bool) -> Fate {
    if now.len() != note.before.len() {
        return Fate::Down("the volumes of its group are not those of then");
    }
    let doubtful = note.serving && !witnessed;
    let mut since = note.before.iter().zip(now).map(|(before, now)| {
        let by_this = now.epoch == note.epoch.get();
        since(before, now, by_this, doubtful || note.group && !witnessed)
    });
    let Some(own) = since.next() else {
        return Fate::Down("nothing is known of the volume");
    };
    let others: Vec<Since> = since.collect();
    judge(own, &others, note)
}

fn judge(own: Since, others: &[Since], note: &Note) -> Fate {
    match own {
        Since::Proved { by_this: true } if !note.group => Fate::Resume,
        Since::Proved { by_this: true } => {
            // The primary's word is not needed where the ledger has all of it.
            let all = others
                .iter()
                .all(|other| *other == Since::Proved { by_this: true });
            match all {
                true => Fate::Resume,
                false => Fate::Down("not every volume of its group was made consistent"),
            }
        }
        Since::Proved { by_this: false } => Fate::Down("another run wrote the volume since"),
        Since::Untouched { fit: true } if note.was_down => {
            Fate::Down("they were down already before this run, which wrote nothing")
        }
        Since::Untouched { fit: true } => {
            let all = others
                .iter()
                .all(|other| *other == Since::Untouched { fit: true });
            match all {
                true => Fate::Restart,
                false => Fate::Down("another volume of its group was written"),
            }
        }
        Since::Untouched { fit: false } => Fate::Down("the volume was not consistent before"),
        Since::Broken => Fate::Down("the volume is not consistent"),
        Since::Unclear => Fate::Down("nobody can tell what the volume holds"),
    }
}

/// `doubtful`: the ledger's having no record is no proof that nothing was written.
fn since(before: &Before, now: &Now, by_this: bool, doubtful: bool) -> Since {
    if now.forgot {
        return Since::Unclear;
    }
    match (&before.newest, &now.newest) {
        (None, None) if doubtful => Since::Unclear,
        (then, newest) if then == newest => match before.state == now.state {
            true => Since::Untouched {
                fit: !matches!(now.state, NodeState::Inconsistent | NodeState::Failed),
            },
            // The file or device was replaced.
            false => Since::Unclear,
        },
        (_, None) => Since::Unclear,
        _ => match now.state {
            NodeState::Consistent => Since::Proved { by_this },
            NodeState::Inconsistent | NodeState::Failed => Since::Broken,
            NodeState::Unknown => Since::Unclear,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::super::note::tests::note;
    use super::*;

    const STATES: [NodeState; 4] = [
        NodeState::Unknown,
        NodeState::Consistent,
        NodeState::Inconsistent,
        NodeState::Failed,
    ];

    fn mark(run: &str) -> Option<Mark> {
        Some(Mark {
            run: run.to_owned(),
            started_unix_ms: 1,
            ended_unix_ms: None,
            state: "x".to_owned(),
        })
    }

    fn befores() -> Vec<Before> {
        let newest = [None, mark("then")];
        let each = |newest: &Option<Mark>| {
            STATES.map(|state| Before {
                volume: "data".parse().unwrap(),
                state,
                newest: newest.clone(),
            })
        };
        newest.iter().flat_map(each).collect()
    }

    fn nows() -> Vec<Now> {
        let mut all = Vec::new();
        for newest in [None, mark("then"), mark("since")] {
            for state in STATES {
                for epoch in [0, 5, 6] {
                    for forgot in [false, true] {
                        all.push(Now {
                            state,
                            newest: newest.clone(),
                            epoch,
                            forgot,
                        });
                    }
                }
            }
        }
        all
    }

    fn is_untouched(before: &Before, now: &Now) -> bool {
        !now.forgot && before.newest == now.newest && before.state == now.state
    }

    /// Every note with every ledger, one volume alone.
    #[test]
    fn alone_only_consistent_or_untouched_data_is_ever_run_on() {
        let mut counts = [0; 3];
        for before in befores() {
            for now in nows() {
                for bits in 0..8_u8 {
                    let flag = |bit: u8| bits & (1 << bit) != 0;
                    let note = Note {
                        was_down: flag(0),
                        serving: flag(1),
                        before: vec![before.clone()],
                        ..note()
                    };
                    let what = format!("{note:?} {now:?} {}", flag(2));
                    match fate(&note, std::slice::from_ref(&now), flag(2)) {
                        Fate::Resume => {
                            counts[0] += 1;
                            assert_eq!(now.state, NodeState::Consistent, "{what}");
                            assert_eq!(now.epoch, 5, "{what}");
                            assert!(now.newest.is_some() && !now.forgot, "{what}");
                            assert_ne!(now.newest, before.newest, "{what}");
                        }
                        Fate::Restart => {
                            counts[1] += 1;
                            assert!(is_untouched(&before, &now) && !note.was_down, "{what}");
                            assert_ne!(now.state, NodeState::Inconsistent, "{what}");
                            assert_ne!(now.state, NodeState::Failed, "{what}");
                            let told = now.newest.is_some() || !note.serving || flag(2);
                            assert!(told, "{what}");
                        }
                        Fate::Down(_) => counts[2] += 1,
                    }
                }
            }
        }
        // By hand: after four befores without a record either mark is new, after the four with one
        // only the other.
        assert_eq!(counts[0], (4 * 2 + 4) * 8, "consistent by this run");
        assert!(counts[1] > 0 && counts[2] > 0);
        assert_eq!(counts.iter().sum::<usize>(), 8 * 72 * 8);
    }

    /// What brings services back is not lost either.
    #[test]
    fn what_may_run_does_run() {
        let consistent = Now {
            state: NodeState::Consistent,
            newest: mark("since"),
            epoch: 5,
            forgot: false,
        };
        for witnessed in [false, true] {
            let good = Note {
                serving: true,
                was_down: true,
                ..note()
            };
            let now = std::slice::from_ref(&consistent);
            assert_eq!(fate(&good, now, witnessed), Fate::Resume);
        }
        let untouched = Now {
            state: NodeState::Consistent,
            newest: None,
            epoch: 0,
            forgot: false,
        };
        let now = std::slice::from_ref(&untouched);
        assert_eq!(fate(&note(), now, false), Fate::Restart);
        let serving = Note {
            serving: true,
            ..note()
        };
        assert_eq!(fate(&serving, now, true), Fate::Restart);
        assert!(matches!(fate(&serving, now, false), Fate::Down(_)));
    }

    /// Two volumes: nothing runs on a mixture.
    #[test]
    fn a_group_runs_only_on_volumes_that_belong_together() {
        for own in befores() {
            for other in befores() {
                for own_now in nows() {
                    for other_now in nows() {
                        for witnessed in [false, true] {
                            let note = Note {
                                group: true,
                                serving: true,
                                before: vec![own.clone(), other.clone()],
                                ..note()
                            };
                            let now = [own_now.clone(), other_now.clone()];
                            match fate(&note, &now, witnessed) {
                                Fate::Resume => {
                                    for now in &now {
                                        assert_eq!(now.state, NodeState::Consistent);
                                        assert_eq!(now.epoch, note.epoch.get());
                                    }
                                    assert_ne!(other.newest, other_now.newest);
                                }
                                Fate::Restart => {
                                    assert!(is_untouched(&own, &own_now));
                                    assert!(is_untouched(&other, &other_now));
                                }
                                Fate::Down(_) => {}
                            }
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_group_that_is_another_one_now_stays_down() {
        assert!(matches!(fate(&note(), &[], true), Fate::Down(_)));
    }
}
