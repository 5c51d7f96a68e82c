//! What a killed agent of a primary left still: its applications go on at the next start.

use lockstep_cluster::file::Moment;
use lockstep_cluster::plan::NodeState;
use lockstep_cluster::value::VolumeName;
use lockstep_quiesce::recover;

use crate::config::Config;
use crate::hook::About;

/// How the hooks of a volume are called where it is written down what is still.
const NAME: &str = "freeze of ";

/// The name of a volume's pair of hooks.
pub(super) fn hook_name(volume: &VolumeName) -> String {
    format!("{NAME}{volume}")
}

/// Thaws filesystems, and runs the `thaw` of every volume whose `freeze` a killed agent had begun.
pub(crate) fn thaw_owed(config: &Config) {
    let recovery = match recover(&config.state_dir) {
        Ok(recovery) => recovery,
        Err(error) => {
            tracing::error!("whether something is still frozen is not known: {error}");
            return;
        }
    };
    for recovered in &recovery.mount_points {
        tracing::warn!("{recovered}");
    }
    for hook in &recovery.hooks {
        let volume = hook.strip_prefix(NAME).and_then(|name| name.parse().ok());
        let here = volume.as_ref().and_then(|name| config.here(name));
        let Some((volume, path)) = here else {
            tracing::error!("a run was killed before it ended `{hook}`: do it by hand");
            continue;
        };
        let about = About {
            volume,
            path,
            node: &config.node,
            primary: Some(&config.node),
            run: None,
            state: NodeState::Unknown,
            state_dir: &config.state_dir,
        };
        tracing::warn!(volume = %volume.name, "a run was killed while it held the volume's users still");
        // How it ended is in the log.
        let _ = about.run(Moment::Thaw, &|| false);
    }
}

#[cfg(test)]
mod tests {
    use super::{NAME, hook_name};

    #[test]
    fn a_volume_is_found_again_by_the_name_of_its_hooks() {
        let name = hook_name(&"pg-data.1".parse().unwrap());
        assert_eq!(name.strip_prefix(NAME), Some("pg-data.1"));
    }
}
