//! What a node knows of its volumes, from memory.

use std::collections::BTreeMap;
use std::sync::{MutexGuard, PoisonError};

use lockstep_cluster::claim::{Epoch, RunName};
use lockstep_cluster::plan::{NodeState, Root};
use lockstep_cluster::roles::Role;
use lockstep_cluster::value::VolumeName;

use super::note::{Found, Notes};
use super::permit::static_role;
use super::{Host, ground_of};
use crate::config::Config;

/// A volume of this node, as it was looked at last.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VolumeView {
    /// This node's role where the cluster file says it; none where a probe does.
    pub role: Option<Role>,
    /// What the ledger says.
    pub state: NodeState,
    /// The newest epoch that was promised.
    pub epoch: Option<Epoch>,
    /// The epoch of the run that the state is of; none if it was an ad hoc run, or there was none.
    pub data_epoch: Option<Epoch>,
    /// The root that was proved; of consistent data alone.
    pub root: Option<Root>,
    /// When that was, in milliseconds since the Unix epoch.
    pub verified_at: Option<u64>,
    /// The run that may write it now.
    pub run: Option<RunName>,
    /// Its services were stopped, and not started again yet.
    pub stopped: bool,
    /// The file or device, in words that change when it is replaced.
    pub device: String,
}

impl Host {
    /// What was known of a volume when it was last looked at; none if it has no place here.
    #[must_use]
    pub fn view(&self, volume: &VolumeName) -> Option<VolumeView> {
        let mut view = self.known().get(volume).cloned()?;
        let config = self.current.get();
        let id = config.cluster.volume(volume)?.id;
        let seats = self.seats.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(seat) = seats.get(&id) {
            view.run = seat.holder().map(|claim| claim.run);
            view.epoch = seat.newest_epoch();
        }
        Some(view)
    }

    /// Looks at every volume anew; what is no longer in the cluster file is forgotten.
    pub fn refresh(&self) {
        let config = self.current.get();
        for volume in &config.cluster.volumes {
            self.see(&config, &volume.name);
        }
        self.known().retain(|name, _| config.here(name).is_some());
    }

    /// Looks at one volume anew.
    pub(super) fn see(&self, config: &Config, name: &VolumeName) {
        let Some((volume, path)) = config.here(name) else {
            return;
        };
        let ground = ground_of(config, volume, path);
        let role = static_role(config, volume);
        let epoch = match self.seat(config, volume, &ground) {
            Ok(seat) => {
                if let Some(role) = role {
                    seat.set_role(role, &ground);
                }
                seat.newest_epoch()
            }
            Err(failure) => {
                tracing::error!(volume = %name, "{}", failure.message);
                None
            }
        };
        let stopped = Notes::at(&config.state_dir).read(volume.id) != Found::Nothing;
        let (state, record, device) = match ground.look() {
            Ok(look) => (look.state, look.record, look.device),
            Err(failure) => {
                tracing::warn!(volume = %name, "{}", failure.message);
                (NodeState::Unknown, None, String::new())
            }
        };
        let proved = record.as_ref().filter(|_| state == NodeState::Consistent);
        let view = VolumeView {
            role,
            state,
            epoch,
            data_epoch: record.as_ref().and_then(|it| Epoch::new(it.epoch)),
            root: proved.and_then(|it| it.root).map(Root::from_bytes),
            verified_at: proved.and_then(|it| it.ended_unix_ms),
            run: None,
            stopped,
            device,
        };
        self.known().insert(name.clone(), view);
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<VolumeName, VolumeView>> {
        self.views.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
