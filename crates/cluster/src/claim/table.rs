//! The transitions, as the code runs them and as the documentation shows them.

/// What happens on the volume.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// Nobody writes.
    Quiet,
    /// One run may write.
    Writing,
    /// That run was told to stop; some of its writes may be in flight.
    Draining,
    /// No write is in flight; what was written is being flushed.
    Flushing,
    /// The next run's promise is being made durable.
    Persisting,
}

/// What makes it change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trigger {
    /// A claim was found to be the newest; its run waits.
    Admitted,
    /// The node became primary; nobody waits any more.
    Withdrawn,
    /// The run that could write has ended.
    Drained,
    /// The flush succeeded.
    Flushed,
    /// The flush failed.
    FlushFailed,
    /// The promise is durable.
    Persisted,
    /// The promise may not be durable.
    PersistFailed,
}

/// What has to hold besides.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum When {
    /// Nothing.
    Always,
    /// No run waits.
    NobodyWaits,
    /// A run waits.
    SomebodyWaits,
    /// The run waits whose promise is the durable one.
    ThePersistedWaits,
    /// A run waits that came while another's promise was being made durable.
    AnotherWaits,
}

/// What is done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Nothing.
    Nothing,
    /// The run is told to stop.
    Stop,
    /// The volume is flushed.
    Flush,
    /// The promise to the run that waits is made durable.
    Persist,
    /// The run that waits may write.
    Grant,
    /// The run that waits is refused, if there is one.
    Refuse,
}

/// One transition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Row {
    /// In this phase
    pub phase: Phase,
    /// on this trigger,
    pub trigger: Trigger,
    /// if this holds,
    pub when: When,
    /// this phase follows,
    pub next: Phase,
    /// and this is done.
    pub action: Action,
}

const fn row(phase: Phase, trigger: Trigger, when: When, next: Phase, action: Action) -> Row {
    Row {
        phase,
        trigger,
        when,
        next,
        action,
    }
}

/// Every transition. What is not here changes nothing: the run that was admitted waits.
#[rustfmt::skip]
pub const TABLE: [Row; 12] = [
    row(Phase::Quiet,      Trigger::Admitted,      When::Always,            Phase::Persisting, Action::Persist),
    row(Phase::Writing,    Trigger::Admitted,      When::Always,            Phase::Draining,   Action::Stop),
    row(Phase::Writing,    Trigger::Withdrawn,     When::Always,            Phase::Draining,   Action::Stop),
    row(Phase::Writing,    Trigger::Drained,       When::Always,            Phase::Flushing,   Action::Flush),
    row(Phase::Draining,   Trigger::Drained,       When::Always,            Phase::Flushing,   Action::Flush),
    row(Phase::Flushing,   Trigger::Flushed,       When::SomebodyWaits,     Phase::Persisting, Action::Persist),
    row(Phase::Flushing,   Trigger::Flushed,       When::NobodyWaits,       Phase::Quiet,      Action::Nothing),
    row(Phase::Flushing,   Trigger::FlushFailed,   When::Always,            Phase::Quiet,      Action::Refuse),
    row(Phase::Persisting, Trigger::Persisted,     When::ThePersistedWaits, Phase::Writing,    Action::Grant),
    row(Phase::Persisting, Trigger::Persisted,     When::AnotherWaits,      Phase::Persisting, Action::Persist),
    row(Phase::Persisting, Trigger::Persisted,     When::NobodyWaits,       Phase::Quiet,      Action::Nothing),
    row(Phase::Persisting, Trigger::PersistFailed, When::Always,            Phase::Quiet,      Action::Refuse),
];

#[cfg(test)]
mod tests {
    use super::*;

    impl Row {
        /// A line of the documentation's table.
        fn shown(&self) -> String {
            let when = match self.when {
                When::Always => "",
                When::NobodyWaits => ", nobody waits",
                When::SomebodyWaits => ", somebody waits",
                When::ThePersistedWaits => ", that run waits",
                When::AnotherWaits => ", another waits",
            };
            let trigger = match self.trigger {
                Trigger::Admitted => "newest claim",
                Trigger::Withdrawn => "became primary",
                Trigger::Drained => "run drained",
                Trigger::Flushed => "flushed",
                Trigger::FlushFailed => "flush failed",
                Trigger::Persisted => "promise durable",
                Trigger::PersistFailed => "promise failed",
            };
            let action = match self.action {
                Action::Nothing => "",
                Action::Stop => "stop the run",
                Action::Flush => "flush",
                Action::Persist => "make the promise durable",
                Action::Grant => "grant",
                Action::Refuse => "refuse who waits",
            };
            format!(
                "| {:?} | {trigger}{when} | {:?} | {action} |",
                self.phase, self.next
            )
        }
    }

    /// The drawing in the documentation is this table.
    #[test]
    fn the_documentation_shows_the_table_that_runs() {
        let text = include_str!("../../../../ARCHITECTURE.md");
        let head = "| on a target | when | then | do |\n| --- | --- | --- | --- |\n";
        let (_, after) = text.split_once(head).unwrap();
        let shown: Vec<&str> = after
            .lines()
            .take_while(|line| line.starts_with('|'))
            .collect();
        let expected: Vec<String> = TABLE.iter().map(Row::shown).collect();
        assert_eq!(shown, expected, "write these lines into ARCHITECTURE.md");
    }

    #[test]
    fn no_two_rows_hold_at_once() {
        let exclusive = [
            (When::SomebodyWaits, When::NobodyWaits),
            (When::ThePersistedWaits, When::AnotherWaits),
            (When::ThePersistedWaits, When::NobodyWaits),
            (When::AnotherWaits, When::NobodyWaits),
        ];
        for (at, left) in TABLE.iter().enumerate() {
            for right in &TABLE[at + 1..] {
                let same = left.phase == right.phase && left.trigger == right.trigger;
                assert!(
                    !same || exclusive.contains(&(left.when, right.when)),
                    "{left:?} {right:?}"
                );
            }
        }
    }

    #[test]
    fn a_run_writes_only_after_a_durable_promise_and_leaves_only_through_a_flush() {
        for row in TABLE {
            if row.next == Phase::Writing {
                assert_eq!(
                    (row.phase, row.trigger),
                    (Phase::Persisting, Trigger::Persisted)
                );
            }
            let was_written = matches!(row.phase, Phase::Writing | Phase::Draining);
            if was_written {
                assert!(
                    matches!(row.next, Phase::Draining | Phase::Flushing),
                    "{row:?}"
                );
            }
        }
    }
}
