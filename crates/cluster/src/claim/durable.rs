//! Promises as the ledger keeps them.

use lockstep_ledger::Identity;

use super::{Claim, Epoch, Promise};
use crate::value::{NodeName, VolumeId};

impl Promise {
    /// What the ledger of `node` keeps of it.
    #[must_use]
    pub fn to_durable(&self, node: &NodeName) -> lockstep_ledger::Promise {
        lockstep_ledger::Promise {
            epoch: self.claim.epoch.get(),
            run: self.claim.run.to_string(),
            source: self.claim.source.to_string(),
            node: node.to_string(),
            volume: *self.claim.volume.as_bytes(),
            identity: Identity::new(self.device.clone()),
        }
    }

    /// The promise that a ledger kept, if it is one that this version makes. One that is not must
    /// let nobody in: it is not the same as none.
    #[must_use]
    pub fn from_durable(kept: &lockstep_ledger::Promise) -> Option<Self> {
        Some(Self {
            claim: Claim {
                epoch: Epoch::new(kept.epoch)?,
                run: kept.run.parse().ok()?,
                source: kept.source.parse().ok()?,
                volume: VolumeId::from_bytes(kept.volume)?,
            },
            device: kept.identity.as_str().to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claim::tests::claim;
    use crate::claim::{Effect, Gatekeeper, Outcome, Refusal};
    use crate::roles::Role;
    use lockstep_ledger::Ledger;

    /// A gatekeeper over a real ledger, before and after a restart.
    #[test]
    fn an_older_run_stays_out_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let node: NodeName = "db2".parse().unwrap();
        let volume = claim(1, "a").volume;
        let start = || {
            let ledger = Ledger::open(folder.path()).unwrap();
            let kept = ledger.promised(*volume.as_bytes()).unwrap();
            let promised = kept.map(|kept| Promise::from_durable(&kept).unwrap());
            (
                ledger,
                Gatekeeper::restore(volume, Role::Replica, promised).0,
            )
        };
        let (ledger, mut keeper) = start();
        let effects = keeper.claim(claim(5, "a"), "file inode 12");
        let [Effect::Persist(promise)] = &effects[..] else {
            panic!("{effects:?}");
        };
        ledger.promise(&promise.to_durable(&node)).unwrap();
        keeper.report(Outcome::Persisted);
        assert!(keeper.permits(&claim(5, "a")));

        let (ledger, mut keeper) = start();
        let promised = Epoch::new(5).unwrap();
        let older = keeper.claim(claim(4, "z"), "file inode 12");
        assert_eq!(
            older,
            [Effect::Refuse(claim(4, "z"), Refusal::Fenced { promised })]
        );
        let older = Promise {
            claim: claim(4, "z"),
            ..promise.clone()
        };
        assert!(
            ledger.promise(&older.to_durable(&node)).is_err(),
            "the ledger refuses it too"
        );
    }

    #[test]
    fn what_no_version_writes_is_no_promise() {
        let good = Promise {
            claim: claim(5, "a"),
            device: "d".to_owned(),
        };
        let kept = good.to_durable(&"db2".parse().unwrap());
        assert_eq!(Promise::from_durable(&kept), Some(good));
        let epoch = lockstep_ledger::Promise {
            epoch: 0,
            ..kept.clone()
        };
        let run = lockstep_ledger::Promise {
            run: "a b".to_owned(),
            ..kept.clone()
        };
        let volume = lockstep_ledger::Promise {
            volume: [0; 16],
            ..kept
        };
        for bad in [epoch, run, volume] {
            assert_eq!(Promise::from_durable(&bad), None);
        }
    }
}
