//! The source's side of claims: every target has let the run in before any of them is written.

use std::collections::BTreeMap;

use super::{Claim, Refusal};
use crate::value::NodeName;

/// What a target said to a claim.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// The run may write there.
    Granted,
    /// It may not.
    Refused(Refusal),
    /// Nothing was heard from it in time.
    Unreachable,
}

/// How far the claims of a run are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Progress {
    /// Some targets have not answered yet: nothing may be written anywhere.
    Waiting,
    /// Every target has let the run in: it may write.
    MayWrite,
    /// Some target did not: nothing may be written anywhere, by this run and for ever.
    Refused(Vec<(NodeName, Answer)>),
}

/// The claims of one run on all its targets.
#[derive(Clone, Debug)]
pub struct Round {
    claim: Claim,
    answers: BTreeMap<NodeName, Option<Answer>>,
}

impl Round {
    /// A round that has claimed nothing yet.
    #[must_use]
    pub fn new(claim: Claim, targets: impl IntoIterator<Item = NodeName>) -> Self {
        Self {
            claim,
            answers: targets.into_iter().map(|target| (target, None)).collect(),
        }
    }

    /// What is claimed.
    #[must_use]
    pub fn claim(&self) -> &Claim {
        &self.claim
    }

    /// A target has answered. The first answer counts: a grant that comes after a refusal, or after
    /// the target was given up, changes nothing.
    pub fn heard(&mut self, target: &NodeName, answer: Answer) {
        if let Some(slot) = self.answers.get_mut(target)
            && slot.is_none()
        {
            *slot = Some(answer);
        }
    }

    /// How far it is.
    #[must_use]
    pub fn progress(&self) -> Progress {
        let refused = |(target, answer): (&NodeName, &Option<Answer>)| match answer {
            None | Some(Answer::Granted) => None,
            Some(other) => Some((target.clone(), other.clone())),
        };
        let refusals: Vec<_> = self.answers.iter().filter_map(refused).collect();
        if !refusals.is_empty() {
            return Progress::Refused(refusals);
        }
        let all = !self.answers.is_empty() && self.answers.values().all(Option::is_some);
        match all {
            true => Progress::MayWrite,
            false => Progress::Waiting,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claim::tests::claim;

    #[test]
    fn nothing_is_written_before_every_target_has_answered() {
        let [db2, db3]: [NodeName; 2] = ["db2", "db3"].map(|name| name.parse().unwrap());
        let mut round = Round::new(claim(1, "a"), [db2.clone(), db3.clone()]);
        assert_eq!(round.progress(), Progress::Waiting);
        round.heard(&db2, Answer::Granted);
        round.heard(&"db9".parse().unwrap(), Answer::Granted);
        assert_eq!(round.progress(), Progress::Waiting);
        let mut other = round.clone();
        round.heard(&db3, Answer::Granted);
        assert_eq!(round.progress(), Progress::MayWrite);
        other.heard(&db3, Answer::Unreachable);
        other.heard(&db3, Answer::Granted);
        assert_eq!(
            other.progress(),
            Progress::Refused(vec![(db3, Answer::Unreachable)])
        );
        assert_eq!(
            Round::new(claim(1, "a"), []).progress(),
            Progress::Waiting,
            "no targets, nothing to write"
        );
    }
}
