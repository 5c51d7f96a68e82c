//! `lvm`: a snapshot of a logical volume, thin or classic, by LVM's own programs.
//!
//! A thin snapshot shares the blocks of its pool and is told apart from another by `thin_delta`. A
//! classic one copies what is overwritten into an area of fixed size; once that is full, the
//! snapshot is lost: reading it fails, and whoever takes such an error for zeros destroys a replica.
//! So [`Provider::health`] must be asked after the last byte was read.
//!
//! Snapshots are read-only, and thin ones are skipped by automatic activation, so that nothing finds
//! a filesystem on them and mounts it.
//!
//! # Recipe of a thin delta
//!
//! 1. Tag the pool, durably: whoever finds the tag knows that the metadata snapshot is ours.
//! 2. `reserve_metadata_snap`: without it the pool's metadata change while they are read.
//! 3. `thin_delta`.
//! 4. `release_metadata_snap`, whatever 3 said: there is only one for all users of the pool.
//! 5. Take the tag away. A crash between leaves the tag, and `recover` goes on with 4, if there is
//!    a metadata snapshot: between 1 and 2, and between 4 and 5, there is none.

mod report;
mod thin_delta;

use std::path::{Path, PathBuf};
use std::time::Duration;

use lockstep_volume::{VolumeKind, identify};
use rustix::fs::{major, minor};
use serde::{Deserialize, Serialize};

use crate::changed::Changed;
use crate::doubt::{Doubt, Which};
use crate::error::SnapshotError;
use crate::name::{SnapshotName, VolumeName};
use crate::program::{Call, Limits, Programs, System};
use crate::provider::{Atomicity, Cost, Fitness, Health, Provider, Space, Told, Verdict};
use crate::snapshot::{Image, Recovered, Snapshot};

use report::{COLUMNS, FULL, Kind, Lv, dm_name};

const NAME: &str = "lvm";
/// On a pool while its metadata snapshot is ours.
const TAG: &str = "lockstep_metadata_snap";
/// LVM waits for its locks, and for what is written to be flushed.
const LIMITS: Limits = Limits {
    time: Duration::from_secs(120),
    output_bytes: 64 << 20,
};
/// Writers wait while the volume is suspended and flushed.
const PAUSE: Duration = Duration::from_millis(200);
/// A classic snapshot's area: this part of its volume, in percent,
const AREA_PERCENT: u64 = 20;
/// but no more than this part of what the volume group has, in percent.
const AREA_FREE_PERCENT: u64 = 90;
/// A pool that a snapshot may come to fill further than this, in hundredths of a percent, has no room
/// for it: once it is full, the writers of all its volumes fail.
const MOST_FILL: u64 = 80_00;

/// The provider.
#[derive(Debug)]
pub struct Lvm {
    programs: Box<dyn Programs>,
}

/// What tells a snapshot from every other volume.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Detail {
    vg: String,
    origin: String,
    uuid: String,
}

impl Lvm {
    /// The provider.
    #[must_use]
    pub fn new() -> Self {
        Self {
            programs: Box::new(System),
        }
    }

    /// How much of a thin volume can be overwritten while a snapshot of it holds what that was: all
    /// of it, or there is no room for a snapshot.
    ///
    /// # Errors
    /// Why there is none, as a clause; also that it is no thin volume.
    pub fn thin_room(&self, volume: &Path) -> Result<u64, String> {
        let lv = self.lv_of(volume)?;
        if lv.kind() != Kind::Thin {
            return Err("it is no thin volume".to_owned());
        }
        let pool = self.pool_of(&lv).map_err(|error| error.to_string())?;
        room_in(&pool, lv.filled_bytes()?)
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Result<Vec<u8>, SnapshotError> {
        self.programs.run(&Call::new(program, arguments, LIMITS))
    }

    fn lvs(&self, rest: &[&str]) -> Result<Vec<Lv>, SnapshotError> {
        let fixed = [
            "--reportformat",
            "json",
            "--units",
            "b",
            "--nosuffix",
            "--options",
            COLUMNS,
        ];
        let call = Call::new("lvs", fixed.iter().chain(rest), LIMITS);
        let output = self.programs.run(&call)?;
        report::read(&output).map_err(|why| call.failed(why, b""))
    }

    /// The logical volume that a device is.
    fn lv_of(&self, volume: &Path) -> Result<Lv, String> {
        let identity = identify(volume).map_err(|error| error.to_string())?;
        if identity.kind != VolumeKind::BlockDevice {
            return Err("it is no block device".to_owned());
        }
        self.lv_numbered(major(identity.rdev), minor(identity.rdev))
    }

    fn lv_numbered(&self, major: u32, minor: u32) -> Result<Lv, String> {
        let wanted = format!("lv_kernel_major={major} && lv_kernel_minor={minor}");
        let found = self
            .lvs(&["--select", &wanted])
            .map_err(|error| error.to_string())?;
        let lv = found.into_iter().next();
        lv.ok_or_else(|| "it is no logical volume".to_owned())
    }

    /// A volume by its name; none if there is none.
    fn lv_named(&self, vg: &str, lv: &str) -> Result<Option<Lv>, SnapshotError> {
        // Selected, not named: a name that is missing would be a failure like any other.
        let wanted = format!("vg_name=\"{vg}\" && lv_name=\"{lv}\"");
        Ok(self.lvs(&["--select", &wanted])?.into_iter().next())
    }

    /// The snapshot's volume, if that is still the one that was made.
    fn found(&self, snapshot: &Snapshot) -> Result<Lv, SnapshotError> {
        let detail: Detail = snapshot.detail_for(NAME)?;
        let name = snapshot.name.to_string();
        match self.lv_named(&detail.vg, &name)? {
            None => Err(SnapshotError::Gone { name }),
            Some(lv) if lv.lv_uuid != detail.uuid => Err(SnapshotError::NotOurs {
                path: PathBuf::from(lv.lv_dm_path),
                why: "it is another volume than the one that was made".to_owned(),
            }),
            Some(lv) => Ok(lv),
        }
    }

    fn fitness(&self, lv: &Lv) -> Result<Fitness, String> {
        let (space, delta) = match lv.kind() {
            Kind::Thin => {
                let pool = self.pool_of(lv).map_err(|error| error.to_string())?;
                let space = Space {
                    at_risk: lv.filled_bytes()?,
                    free: pool.size()?.saturating_sub(pool.filled_bytes()?),
                };
                (space, Told::Changes)
            }
            Kind::Classic => {
                let space = Space {
                    at_risk: lv.size()?,
                    free: lv.vg_free()?,
                };
                (space, Told::Nothing)
            }
            Kind::Other => return Err("it is a snapshot or part of something".to_owned()),
        };
        Ok(Fitness {
            atomicity: Atomicity::PowerCut,
            cost: Cost {
                extents: None,
                pause: PAUSE,
            },
            space,
            delta,
        })
    }

    fn pool_of(&self, lv: &Lv) -> Result<Lv, SnapshotError> {
        let pool = self.lv_named(&lv.vg_name, &lv.pool_lv)?;
        pool.ok_or_else(|| SnapshotError::Gone {
            name: format!("{}/{}", lv.vg_name, lv.pool_lv),
        })
    }

    fn freeze(&self, lv: &Lv, name: &SnapshotName) -> Result<Lv, SnapshotError> {
        let unfit = |why: String| SnapshotError::Unfit {
            provider: NAME,
            volume: device(lv),
            why,
        };
        let name = name.to_string();
        if self.lv_named(&lv.vg_name, &name)?.is_some() {
            let path = PathBuf::from(format!("/dev/{}/{name}", lv.vg_name));
            return Err(SnapshotError::Exists { path });
        }
        let size;
        let mut arguments = vec!["--snapshot", "--yes", "--permission", "r", "--name", &name];
        match lv.kind() {
            Kind::Thin => arguments.extend(["--setactivationskip", "y"]),
            Kind::Classic => {
                size = format!("{}b", area(lv).map_err(unfit)?);
                arguments.extend(["--size", &size]);
            }
            Kind::Other => return Err(unfit("it is a snapshot or part of something".to_owned())),
        }
        let origin = lv.full_name();
        arguments.push(&origin);
        self.run("lvcreate", &arguments)?;
        let made = self.lv_named(&lv.vg_name, &name)?;
        made.ok_or(SnapshotError::Gone { name })
    }

    fn describe(
        &self,
        lv: &Lv,
        origin: &Lv,
        name: &SnapshotName,
    ) -> Result<Snapshot, SnapshotError> {
        let detail = Detail {
            vg: lv.vg_name.clone(),
            origin: origin.lv_name.clone(),
            uuid: lv.lv_uuid.clone(),
        };
        // The size of a classic snapshot is told as that of its area.
        let sized = if lv.is_classic_snapshot() { origin } else { lv };
        let size = sized.size().map_err(|why| SnapshotError::Lost {
            name: name.to_string(),
            why,
        })?;
        Snapshot::made(NAME, name, &device(origin), size, &detail)
    }

    fn thin_delta(&self, base: &Lv, now: &Lv, size: u64) -> Result<Changed, Doubt> {
        let doubt = |why: String| Doubt::Program { why };
        let (left, right) = (
            base.thin_id().map_err(doubt)?,
            now.thin_id().map_err(doubt)?,
        );
        let reserved = Reserved::take(self, &now.vg_name, &now.pool_lv);
        let reserved = reserved.map_err(|error| doubt(error.to_string()))?;
        let metadata = dm_name(&now.vg_name, &now.pool_lv, "_tmeta");
        let output = self.run(
            "thin_delta",
            &[
                "--metadata-snap",
                "--snap1",
                &left.to_string(),
                "--snap2",
                &right.to_string(),
                &format!("/dev/mapper/{metadata}"),
            ],
        );
        // Before what was said is looked at: it must happen in any case.
        let released = reserved.release();
        let output = output.map_err(|error| doubt(error.to_string()))?;
        released.map_err(|error| doubt(error.to_string()))?;
        let text = String::from_utf8_lossy(&output);
        let ranges = thin_delta::differing(&text, left, right)
            .map_err(|why| doubt(format!("thin_delta is not understood: {why}")))?;
        Ok(Changed::new(ranges, size))
    }
}

impl Default for Lvm {
    fn default() -> Self {
        Self::new()
    }
}

impl Provider for Lvm {
    fn name(&self) -> &'static str {
        NAME
    }

    fn probe(&self, volume: &Path) -> Verdict {
        match self.lv_of(volume).and_then(|lv| self.fitness(&lv)) {
            Ok(fitness) => Verdict::Fit(fitness),
            Err(why) => Verdict::unfit(why),
        }
    }

    fn create(&self, volume: &Path, name: &SnapshotName) -> Result<Snapshot, SnapshotError> {
        let origin = self.lv_of(volume).map_err(|why| SnapshotError::Unfit {
            provider: NAME,
            volume: volume.to_path_buf(),
            why,
        })?;
        let made = self.freeze(&origin, name)?;
        self.describe(&made, &origin, name)
    }

    fn open(&self, snapshot: &Snapshot) -> Result<Image, SnapshotError> {
        let lv = self.found(snapshot)?;
        if let Some(why) = lv.loss() {
            let name = snapshot.name.to_string();
            return Err(SnapshotError::Lost { name, why });
        }
        if !lv.is_classic_snapshot() {
            let name = lv.full_name();
            self.run(
                "lvchange",
                &["--activate", "y", "--ignoreactivationskip", &name],
            )?;
        }
        Image::open(PathBuf::from(lv.lv_dm_path), snapshot.size)
    }

    fn delta(&self, base: &Snapshot, now: &Snapshot) -> Result<Changed, Doubt> {
        Doubt::unless_comparable(base, now, NAME)?;
        let of_base = self.trusted(base, Which::Base)?;
        let of_now = self.trusted(now, Which::Now)?;
        if (&of_base.vg_name, &of_base.pool_lv) != (&of_now.vg_name, &of_now.pool_lv) {
            return Err(Doubt::OtherFilesystem);
        }
        let changed = self.thin_delta(&of_base, &of_now, now.size)?;
        // Alive to the end, or its blocks may have been given to others.
        self.trusted(base, Which::Base)?;
        self.trusted(now, Which::Now)?;
        // What is beyond the base was never compared with anything.
        let beyond = base.size..now.size.max(base.size);
        let ranges = changed.ranges().iter().cloned().chain([beyond]);
        Ok(Changed::new(ranges, now.size))
    }

    fn release(&self, snapshot: &Snapshot) -> Result<(), SnapshotError> {
        match self.found(snapshot) {
            Ok(lv) => self.run("lvremove", &["--yes", &lv.full_name()]).map(drop),
            Err(SnapshotError::Gone { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn recover(&self, volume: &Path, name: &VolumeName) -> Result<Recovered, SnapshotError> {
        let origin = self.lv_of(volume).map_err(|why| SnapshotError::Unfit {
            provider: NAME,
            volume: volume.to_path_buf(),
            why,
        })?;
        self.recover_of(&origin, name)
    }

    fn health(&self, snapshot: &Snapshot) -> Result<Health, SnapshotError> {
        let lv = self.found(snapshot)?;
        if let Some(why) = lv.loss() {
            return Ok(Health::Lost { why });
        }
        let area = match lv.is_classic_snapshot() {
            true => lv,
            false => self.pool_of(&lv)?,
        };
        let room = area
            .size()
            .and_then(|size| Ok(size.saturating_sub(area.filled_bytes()?)));
        match room {
            Ok(room) => Ok(Health::Sound { room }),
            // A fill level that nobody knows may be any.
            Err(why) => Ok(Health::Lost { why }),
        }
    }
}

impl Lvm {
    /// A thin snapshot that is alive, read-only and what was made.
    fn trusted(&self, snapshot: &Snapshot, which: Which) -> Result<Lv, Doubt> {
        let lv = self.found(snapshot).map_err(|error| match error {
            SnapshotError::Gone { .. } => Doubt::Gone { which },
            SnapshotError::NotOurs { why, .. } => Doubt::Replaced { which, what: why },
            error => Doubt::unreadable(which)(error),
        })?;
        if lv.kind() != Kind::Thin {
            return Err(Doubt::NotTold {
                provider: NAME.to_owned(),
                why: "only thin snapshots can be compared".to_owned(),
            });
        }
        if !lv.is_read_only() {
            return Err(Doubt::NotImmutable { which });
        }
        Ok(lv)
    }

    fn recover_of(&self, origin: &Lv, name: &VolumeName) -> Result<Recovered, SnapshotError> {
        let mut found = Recovered::default();
        let wanted = format!("vg_name=\"{}\"", origin.vg_name);
        for lv in self.lvs(&["--select", &wanted])? {
            if lv.origin == origin.lv_name
                && let Some(whole) = SnapshotName::of_volume(&lv.lv_name, name)
            {
                found.whole.push(self.describe(&lv, origin, &whole)?);
            }
            if lv.lv_name == origin.pool_lv && lv.has_tag(TAG) {
                let left = Reserved {
                    lvm: self,
                    pool: lv.full_name(),
                    device: dm_name(&lv.vg_name, &lv.lv_name, "-tpool"),
                };
                if left.is_held()? {
                    left.release()?;
                    found
                        .removed
                        .push(format!("{} metadata snapshot", left.pool));
                } else {
                    left.untag()?;
                }
            }
        }
        Ok(found.sorted())
    }
}

/// The pool's metadata snapshot, reserved by us.
struct Reserved<'a> {
    lvm: &'a Lvm,
    pool: String,
    device: String,
}

impl<'a> Reserved<'a> {
    fn take(lvm: &'a Lvm, vg: &str, pool: &str) -> Result<Self, SnapshotError> {
        let reserved = Self {
            lvm,
            pool: format!("{vg}/{pool}"),
            device: dm_name(vg, pool, "-tpool"),
        };
        lvm.run("lvchange", &["--addtag", TAG, &reserved.pool])?;
        match reserved.message("reserve_metadata_snap") {
            Ok(()) => Ok(reserved),
            Err(error) => {
                // Somebody else has it, and it is his to release.
                reserved.untag()?;
                Err(error)
            }
        }
    }

    fn release(&self) -> Result<(), SnapshotError> {
        self.message("release_metadata_snap")?;
        self.untag()
    }

    fn is_held(&self) -> Result<bool, SnapshotError> {
        let call = Call::new("dmsetup", ["status", &self.device], LIMITS);
        let output = self.lvm.programs.run(&call)?;
        let text = String::from_utf8_lossy(&output);
        thin_delta::metadata_snap_is_held(&text).map_err(|why| call.failed(why, b""))
    }

    fn untag(&self) -> Result<(), SnapshotError> {
        self.lvm
            .run("lvchange", &["--deltag", TAG, &self.pool])
            .map(drop)
    }

    fn message(&self, message: &str) -> Result<(), SnapshotError> {
        let arguments = ["message", &self.device, "0", message];
        self.lvm.run("dmsetup", &arguments).map(drop)
    }
}

/// The name of its device that lasts.
fn device(lv: &Lv) -> PathBuf {
    PathBuf::from(format!("/dev/{}/{}", lv.vg_name, lv.lv_name))
}

/// Room in a pool for a second copy of so many bytes.
fn room_in(pool: &Lv, bytes: u64) -> Result<u64, String> {
    let metadata = pool.metadata_fill()?;
    if metadata > MOST_FILL {
        let percent = metadata / 100;
        return Err(format!(
            "the metadata of its pool are filled by {percent} %"
        ));
    }
    let most = u128::from(pool.size()?) * u128::from(MOST_FILL) / u128::from(FULL);
    let room = u64::try_from(most)
        .unwrap_or(u64::MAX)
        .saturating_sub(pool.filled_bytes()?);
    if room < bytes {
        let percent = MOST_FILL / 100;
        return Err(format!(
            "a snapshot of its {bytes} bytes could fill its pool by more than {percent} %"
        ));
    }
    Ok(room)
}

/// Bytes for a classic snapshot's area.
fn area(lv: &Lv) -> Result<u64, String> {
    let wanted = lv.size()? / 100 * AREA_PERCENT;
    let most = lv.vg_free()? / 100 * AREA_FREE_PERCENT;
    match wanted.min(most) {
        0 => Err("its volume group has no free space".to_owned()),
        // LVM wants whole sectors.
        bytes => Ok(bytes.next_multiple_of(512)),
    }
}

#[cfg(test)]
mod tests;
