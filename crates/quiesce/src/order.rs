//! In which order filesystems are frozen. Nothing here freezes anything.

use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::error::Refusal;
use crate::mounts::Mounts;
use crate::point::MountPoint;
use crate::stack::below_mount;

/// A filesystem's device number, and those of everything that it is stored on.
type Stack = (u64, BTreeSet<u64>);

/// The same filesystems, each once, by the first name that it was given; one that is stored on another
/// comes before that one, and apart from that the order stays.
///
/// # Errors
/// [`Refusal`] if one of the paths is no mount point.
pub fn freeze_order(paths: &[PathBuf]) -> Result<Vec<PathBuf>, Refusal> {
    let Some(first) = paths.first() else {
        return Ok(Vec::new());
    };
    let mounts = Mounts::read().map_err(|_| Refusal::UnknownMount {
        path: first.clone(),
    })?;
    let mut stacks: Vec<Stack> = Vec::new();
    let mut known: Vec<&PathBuf> = Vec::new();
    for path in paths {
        let mount = MountPoint::open(path, &mounts)?.mount;
        if stacks.iter().all(|(device, _)| *device != mount.device) {
            stacks.push((mount.device, below_mount(&mounts, &mount)));
            known.push(path);
        }
    }
    let order = inner_first(&stacks).into_iter();
    Ok(order.map(|at| known[at].clone()).collect())
}

/// Again and again the first on which none of those that are left is stored.
fn inner_first(stacks: &[Stack]) -> Vec<usize> {
    let mut left: Vec<usize> = (0..stacks.len()).collect();
    let mut order = Vec::with_capacity(left.len());
    while !left.is_empty() {
        let bears_none = |&at: &usize| {
            let device = stacks[at].0;
            left.iter().all(|&other| !stacks[other].1.contains(&device))
        };
        // There is always one; a table that changes while it is read is refused when it is frozen.
        let found = left.iter().position(bears_none);
        let next = found.unwrap_or(0);
        order.push(left.remove(next));
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_on_another_is_frozen_before_it_and_the_rest_stays_in_order() {
        let stack = |device, below: &[u64]| (device, below.iter().copied().collect());
        let apart = [stack(1, &[9]), stack(2, &[9]), stack(3, &[])];
        assert_eq!(inner_first(&apart), [0, 1, 2]);
        // 1 bears 2, which bears 3; 4 stands apart.
        let nested = [
            stack(1, &[]),
            stack(4, &[]),
            stack(2, &[1]),
            stack(3, &[1, 2]),
        ];
        assert_eq!(inner_first(&nested), [1, 3, 2, 0]);
        assert_eq!(inner_first(&[]), [0; 0]);
    }

    #[test]
    fn one_filesystem_is_named_once_and_what_is_none_is_refused() {
        let proc = PathBuf::from("/proc");
        let twice = [proc.clone(), PathBuf::from("/proc/."), proc.clone()];
        assert_eq!(freeze_order(&twice).unwrap(), [proc]);
        assert!(freeze_order(&[]).unwrap().is_empty());
        assert!(freeze_order(&[PathBuf::from("/proc/self")]).is_err());
    }
}
