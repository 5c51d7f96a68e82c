//! Answers that cost something: looked for once at a time for each volume, and shared by all who wait.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use lockstep_cluster::value::VolumeName;

use crate::config::Config;

/// Looks for answers, one at a time for a volume. Whoever waits for a look takes the answer of one that
/// began after it had asked, or less than `keep` before.
pub(crate) struct Once<T> {
    keep: Duration,
    places: Mutex<BTreeMap<VolumeName, Place<T>>>,
}

type Place<T> = Arc<Mutex<Option<Found<T>>>>;

struct Found<T> {
    begun: Instant,
    /// By another file it may be another answer.
    config: Arc<Config>,
    answer: T,
}

impl<T: Clone> Once<T> {
    pub(crate) fn new(keep: Duration) -> Self {
        Self {
            keep,
            places: Mutex::default(),
        }
    }

    /// The answer for a volume of this file.
    pub(crate) fn of(
        &self,
        config: &Arc<Config>,
        volume: &VolumeName,
        look: impl FnOnce() -> T,
    ) -> T {
        let asked = Instant::now();
        let place = self.place(config, volume);
        let mut found = place.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = &*found
            && Arc::ptr_eq(&found.config, config)
            && found.begun + self.keep >= asked
        {
            return found.answer.clone();
        }
        let begun = Instant::now();
        let answer = look();
        *found = Some(Found {
            begun,
            config: Arc::clone(config),
            answer: answer.clone(),
        });
        answer
    }

    fn place(&self, config: &Config, volume: &VolumeName) -> Place<T> {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        places.retain(|name, _| config.cluster.volume(name).is_some());
        Arc::clone(places.entry(volume.clone()).or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::Once;
    use crate::config::Config;
    use lockstep_cluster::{AgentFile, ClusterFile};
    use std::path::Path;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;
    use std::time::Duration;

    fn config() -> Arc<Config> {
        let example = include_bytes!("../../../docs/cluster.toml");
        Arc::new(Config {
            node: "db1".parse().unwrap(),
            cluster: ClusterFile::parse(example, Path::new("x")).unwrap(),
            own: AgentFile::default(),
            fingerprint: String::new(),
            state_dir: "/x".into(),
        })
    }

    #[test]
    fn many_who_ask_at_once_start_one_look_and_share_it() {
        let config = config();
        let once = Once::new(Duration::from_secs(60));
        let looks = AtomicUsize::new(0);
        let look = || {
            thread::sleep(Duration::from_millis(50));
            looks.fetch_add(1, Ordering::Relaxed)
        };
        let volume = "queue".parse().unwrap();
        thread::scope(|scope| {
            for _ in 0..64 {
                scope.spawn(|| once.of(&config, &volume, look));
            }
        });
        assert_eq!(looks.load(Ordering::Relaxed), 1);
        once.of(&config, &"pgdata".parse().unwrap(), look);
        assert_eq!(looks.load(Ordering::Relaxed), 2, "another volume");
        once.of(&Arc::new(Config::clone(&config)), &volume, look);
        assert_eq!(looks.load(Ordering::Relaxed), 3, "another file");
    }

    #[test]
    fn what_is_not_kept_is_shared_only_by_those_who_asked_before_the_look() {
        let config = config();
        let once = Once::new(Duration::ZERO);
        let (at_work, most, looks) = (
            AtomicUsize::new(0),
            AtomicUsize::new(0),
            AtomicUsize::new(0),
        );
        let look = || {
            most.fetch_max(
                at_work.fetch_add(1, Ordering::Relaxed) + 1,
                Ordering::Relaxed,
            );
            thread::sleep(Duration::from_millis(200));
            at_work.fetch_sub(1, Ordering::Relaxed);
            looks.fetch_add(1, Ordering::Relaxed)
        };
        let volume = "queue".parse().unwrap();
        thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| once.of(&config, &volume, look));
            }
        });
        assert_eq!(most.load(Ordering::Relaxed), 1, "one at a time");
        assert!(looks.load(Ordering::Relaxed) < 16);
        let before = looks.load(Ordering::Relaxed);
        once.of(&config, &volume, look);
        assert_eq!(looks.load(Ordering::Relaxed), before + 1);
    }
}
