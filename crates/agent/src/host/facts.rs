//! What a plan has to know of a volume here.

use lockstep_cluster::value::VolumeName;
use lockstep_protocol::Failure;

use super::permit::guard;
use super::{Host, ground_of};
use crate::wire::{Hex32, VolumeFacts, Words};

impl Host {
    /// Looks at a volume; takes time where it has to be read to know whether it is blank.
    ///
    /// # Errors
    /// If it has no place here, or cannot be looked at.
    pub fn facts(&self, name: &VolumeName) -> Result<VolumeFacts, Failure> {
        let config = self.current().get();
        let (volume, path) = config.here(name).ok_or_else(|| {
            let why = format!("`{}` has no volume `{name}`", config.node);
            guard(why, "lay the same cluster file on every node")
        })?;
        let ground = ground_of(&config, volume, path);
        let look = ground.look()?;
        let is_blank = !look.exists || (look.record.is_none() && ground.is_blank()?);
        let seat = self.seat(&config, volume, &ground)?;
        Ok(VolumeFacts {
            state: look.state,
            epoch: seat.newest_epoch(),
            device: Words::new(&look.device),
            last_root: (look.record.as_ref()).and_then(|record| record.root.map(Hex32)),
            is_foreign: look.record.is_none() && !is_blank,
            is_blank,
        })
    }
}
