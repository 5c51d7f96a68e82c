//! What the names of a command mean now: volumes, roles, secondaries, the next epoch.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use lockstep_cluster::claim::{Epoch, RunName};
use lockstep_cluster::file::{Moment, Primary, Volume};
use lockstep_cluster::plan::{NodeState, Plan};
use lockstep_cluster::roles::{Probed, Role, Roles, RolesUnclear};
use lockstep_cluster::selection::{Selection, select};
use lockstep_cluster::value::NodeName;
use lockstep_protocol::{Failure, FailureKind};

use super::Caller;
use crate::config::Config;
use crate::hook::About;
use crate::reach::{Reach, ask_all};
use crate::wire::{Aim, Answer, Ask, RoleWord, RunAsk};

/// How long a node may take for a word about itself, beyond what a probe may take.
const WORD_LIMIT: Duration = Duration::from_secs(5);
/// How far the epoch of one node may be beyond those of all others.
const MAX_EPOCH_JUMP: u64 = 1 << 32;

/// A run that the caller may have, as the files and the probes say now.
#[derive(Clone, Debug)]
pub struct Job {
    /// What counts for this run, whatever is read again meanwhile.
    pub config: Arc<Config>,
    /// One volume, or those of a group.
    pub volumes: Vec<Volume>,
    /// Who is what; the same for all volumes.
    pub roles: Roles,
    /// The secondaries of this run.
    pub targets: Vec<NodeName>,
    /// What was asked.
    pub ask: RunAsk,
    /// The plans that are to be carried out exactly; none means whatever differs.
    pub plans: Vec<Plan>,
    /// Who asked, for ledgers: the key's owner and the name that they gave.
    pub who: String,
}

/// What names stand for.
///
/// # Errors
/// `Usage`, with every name that stands for nothing.
pub(super) fn selected<'a>(
    config: &'a Config,
    name: &str,
    nodes: &[NodeName],
) -> Result<Selection<'a>, Failure> {
    let nodes: Vec<String> = nodes.iter().map(ToString::to_string).collect();
    select(&config.cluster, name, &nodes).map_err(|unknown| {
        Failure::new(FailureKind::Usage, unknown.to_string()).hint(unknown.remedy())
    })
}

/// The roles of a volume, by the file or by what every node's probe says.
///
/// # Errors
/// `Preflight` if they are not clear, `Usage` if the file lacks something.
pub fn roles(
    volume: &Volume,
    reach: &dyn Reach,
    own: Option<(&NodeName, Probed)>,
) -> Result<Roles, Failure> {
    let others: Vec<NodeName> = Roles::to_probe(volume)
        .into_iter()
        .filter(|node| own.as_ref().is_none_or(|(own, _)| own != node))
        .cloned()
        .collect();
    let ask = Ask::Role {
        volume: volume.name.clone(),
    };
    let answers = ask_all(reach, &others, &ask, volume.limits.probe + WORD_LIMIT);
    let mut probed: BTreeMap<NodeName, Probed> = others
        .into_iter()
        .zip(answers.into_iter().map(role_of))
        .collect();
    if let Some((node, role)) = own {
        probed.insert(node.clone(), role);
    }
    Roles::of(volume, &probed).map_err(|unclear| {
        let kind = match unclear {
            RolesUnclear::NoReplica { .. } | RolesUnclear::NoPath { .. } => FailureKind::Usage,
            _ => FailureKind::Preflight,
        };
        Failure::new(kind, unclear.to_string()).hint(unclear.remedy())
    })
}

fn role_of(answer: Result<Answer, Failure>) -> Probed {
    match answer {
        Ok(Answer::Role {
            role: Ok(RoleWord::Primary),
        }) => Ok(Role::Primary),
        Ok(Answer::Role {
            role: Ok(RoleWord::Replica),
        }) => Ok(Role::Replica),
        Ok(Answer::Role { role: Err(why) }) => Err(why.to_string()),
        Ok(_) => Err("its agent answered something else".to_owned()),
        Err(failure) => Err(failure.message),
    }
}

/// Services would start on volumes of two instants.
fn refuse_part_of_group(
    config: &Config,
    selection: &Selection<'_>,
    name: &str,
) -> Result<(), Failure> {
    let [alone] = selection.volumes.as_slice() else {
        return Ok(());
    };
    let mut groups = config.cluster.groups.iter();
    let group = groups.find(|group| group.volumes.len() > 1 && group.volumes.contains(&alone.name));
    match group {
        Some(group) if group.name.as_str() != name => Err(Failure::new(
            FailureKind::Guard,
            format!(
                "`{name}` is one of the volumes of `{}`, which go together",
                group.name
            ),
        )
        .hint(format!("resync `{}`", group.name))),
        _ => Ok(()),
    }
}

impl Job {
    /// # Errors
    /// Whatever speaks against it, before anything was touched.
    pub(super) fn resolve(
        config: &Arc<Config>,
        reach: &dyn Reach,
        caller: &Caller,
        ask: RunAsk,
        plans: Vec<Plan>,
    ) -> Result<Self, Failure> {
        let selection = selected(config, ask.name.as_str(), &ask.nodes)?;
        let unknown = selected(config, ask.name.as_str(), &ask.adopt);
        unknown.map_err(|failure| Failure {
            message: format!("--adopt: {}", failure.message),
            ..failure
        })?;
        let mut all: Option<Roles> = None;
        for volume in &selection.volumes {
            let own = own_role(config, volume).map(|role| (&config.node, role));
            let roles = roles(volume, reach, own)?;
            match &all {
                Some(others) if *others != roles => {
                    let message = format!(
                        "the volumes of `{}` have not the same primary and secondaries now",
                        ask.name
                    );
                    return Err(Failure::new(FailureKind::Preflight, message)
                        .hint("let the same node be the primary of all volumes of the group"));
                }
                _ => all = Some(roles),
            }
        }
        let (Some(roles), Some(first)) = (all, selection.volumes.first()) else {
            return Err(Failure::new(FailureKind::Usage, "there is no volume"));
        };
        if roles.primary != config.node {
            let message = format!(
                "`{}` is not the primary of `{}`: `{}` is",
                config.node, ask.name, roles.primary
            );
            return Err(Failure::new(FailureKind::Usage, message)
                .hint("ask the primary's agent; the command line does so by itself"));
        }
        let targets = selection
            .targets(first, &roles)
            .map_err(|error| Failure::new(FailureKind::Usage, error.to_string()))?;
        if ask.aim == Aim::Resync {
            refuse_part_of_group(config, &selection, ask.name.as_str())?;
        }
        let who = match ask.who.as_str() {
            "" => caller.to_string(),
            given => format!("{caller} ({given})"),
        };
        Ok(Self {
            config: Arc::clone(config),
            volumes: selection.volumes.into_iter().cloned().collect(),
            roles,
            targets,
            ask,
            plans,
            who,
        })
    }

    /// Whether this node is the primary still; others' probes were asked when the run began.
    pub(super) fn is_still_primary(&self) -> Result<(), Failure> {
        for volume in &self.volumes {
            if let Some(role) = own_role(&self.config, volume)
                && role != Ok(Role::Primary)
            {
                let message = format!(
                    "`{}` is not the primary of `{}` any more",
                    self.config.node, volume.name
                );
                return Err(Failure::new(FailureKind::Fenced, message)
                    .hint("run the command again: the primary's agent is found by itself"));
            }
        }
        Ok(())
    }

    /// Runs the primary's health hooks, each once.
    ///
    /// # Errors
    /// `Preflight` with what the first one that failed printed.
    pub(super) fn check_health(&self, run: &RunName) -> Result<(), Failure> {
        let mut asked = Vec::new();
        for volume in &self.volumes {
            let Some(argv) = volume.hooks.at(Moment::Health) else {
                continue;
            };
            if asked.contains(&argv) {
                continue;
            }
            asked.push(argv);
            let Some(path) = volume.paths.get(&self.config.node) else {
                continue;
            };
            let about = About {
                volume,
                path,
                node: &self.config.node,
                primary: Some(&self.config.node),
                run: None,
                state: NodeState::Unknown,
                state_dir: &self.config.state_dir,
            };
            let report = about.run(Moment::Health, &|| false);
            if let Some(error) = report.and_then(|report| report.error) {
                let message = format!("the primary `{}` is not healthy: {error}", self.config.node);
                // Why was logged when the hook ended.
                tracing::info!(%run, "ended before it began: the primary is not healthy");
                return Err(Failure::new(FailureKind::Preflight, message)
                    .hint("a sick primary is copied nowhere: repair it first"));
            }
        }
        Ok(())
    }

    /// The run's epoch: what was asked for, or one more than any node that answers knows of.
    ///
    /// # Errors
    /// If there is no higher number.
    pub(super) fn next_epoch(&self, reach: &dyn Reach) -> Result<Epoch, Failure> {
        if let Some(epoch) = self.ask.epoch {
            return Ok(epoch);
        }
        let answers = ask_all(reach, &self.targets, &Ask::Status, WORD_LIMIT);
        let mut told = Vec::new();
        for (node, answer) in self.targets.iter().zip(answers) {
            if let Ok(Answer::Status(status)) = answer {
                let theirs = (self.volumes.iter())
                    .filter_map(|volume| status.volumes.get(&volume.name)?.epoch);
                told.extend(theirs.max().map(|epoch| (node.clone(), epoch)));
            }
        }
        let newest = newest_epoch(self.own_epoch(), &told)?;
        let next = match newest {
            None => Epoch::new(1),
            Some(newest) => newest.next(),
        };
        next.ok_or_else(|| {
            Failure::new(
                FailureKind::Fenced,
                "no epoch is left above the promised one",
            )
            .hint("a promise of the last epoch can only be removed by hand, on each node")
        })
    }

    /// What this node promised while it was a secondary, and what it reached as a primary.
    fn own_epoch(&self) -> Option<Epoch> {
        let ledger = lockstep_ledger::Ledger::open(&self.config.state_dir).ok()?;
        let promised = |volume: &Volume| {
            let promise = ledger.promised(*volume.id.as_bytes()).ok()??;
            Epoch::new(promise.epoch)
        };
        self.volumes.iter().filter_map(promised).max()
    }
}

/// The newest epoch that was told, unless one node is far beyond all others: with a lie it could use
/// up all the epochs that there are.
fn newest_epoch(own: Option<Epoch>, told: &[(NodeName, Epoch)]) -> Result<Option<Epoch>, Failure> {
    let newest = told.iter().max_by_key(|(_, epoch)| *epoch);
    let Some((node, newest)) = newest else {
        return Ok(own);
    };
    let others = told.iter().filter(|(other, _)| other != node);
    let known = others.map(|(_, epoch)| *epoch).chain(own).max();
    let most = known.map_or(0, Epoch::get).saturating_add(MAX_EPOCH_JUMP);
    match newest.get() > most {
        true => Err(Failure::new(
            FailureKind::Guard,
            format!("`{node}` says that it promised epoch {newest}, which no other node is near"),
        )
        .hint("if that is right, give the next one with --epoch")),
        false => Ok(own.max(Some(*newest))),
    }
}

/// This node's role by its probe; none where the file names the primary.
pub fn own_role(config: &Config, volume: &Volume) -> Option<Probed> {
    let Primary::Probe(argv) = &volume.primary else {
        return None;
    };
    let Some(path) = volume.paths.get(&config.node) else {
        return Some(Err("the volume has no place there".to_owned()));
    };
    let about = About {
        volume,
        path,
        node: &config.node,
        primary: None,
        run: None,
        state: NodeState::Unknown,
        state_dir: &config.state_dir,
    };
    Some(about.probe(argv))
}

#[cfg(test)]
mod tests {
    use super::{MAX_EPOCH_JUMP, newest_epoch};
    use lockstep_cluster::claim::Epoch;
    use lockstep_cluster::value::NodeName;
    use lockstep_protocol::FailureKind;

    fn told(epochs: &[u64]) -> Vec<(NodeName, Epoch)> {
        let node = |(number, epoch): (usize, &u64)| {
            let name = format!("db{number}").parse().unwrap();
            (name, Epoch::new(*epoch).unwrap())
        };
        epochs.iter().enumerate().map(node).collect()
    }

    #[test]
    fn the_newest_counts_and_one_alone_far_ahead_does_not() {
        let newest = |own, epochs: &[u64]| newest_epoch(Epoch::new(own), &told(epochs));
        assert_eq!(newest(0, &[]).unwrap(), None);
        assert_eq!(newest(7, &[3, 5]).unwrap(), Epoch::new(7));
        assert_eq!(newest(0, &[3, 9]).unwrap(), Epoch::new(9));
        let stamp = 1_700_000_000_000;
        assert_eq!(
            newest(0, &[stamp, stamp + 1]).unwrap(),
            Epoch::new(stamp + 1)
        );
        assert_eq!(newest(stamp, &[stamp + 1]).unwrap(), Epoch::new(stamp + 1));
        for far in [u64::MAX, u64::MAX - 1, 9 + MAX_EPOCH_JUMP + 1] {
            let refused = newest(4, &[9, far]).unwrap_err();
            assert_eq!(refused.kind, FailureKind::Guard);
            assert!(refused.message.contains("db1"), "{refused}");
        }
    }
}
