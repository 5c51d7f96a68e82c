//! Threads that ask for less than others.

use std::sync::atomic::{AtomicBool, Ordering};

use lockstep_volume::Priority;

use crate::failures::sentence;

/// Lowers the threads of one run at one end.
pub(crate) struct Lowering {
    priority: Priority,
    refused: AtomicBool,
}

impl Lowering {
    pub(crate) fn new(priority: Priority) -> Lowering {
        Lowering {
            priority,
            refused: AtomicBool::new(false),
        }
    }

    /// Lowers the calling thread, which must be the run's own. If the kernel refuses, the first to
    /// be refused gets the sentence that the user is to read.
    pub(crate) fn here(&self) -> Option<String> {
        let error = self.priority.lower_this_thread().err()?;
        let is_first = !self.refused.swap(true, Ordering::Relaxed);
        is_first.then(|| {
            format!(
                "--priority {} is not had: {}",
                self.priority,
                sentence(&error)
            )
        })
    }

    /// Lowers all threads of a pool.
    pub(crate) fn pool(&self, pool: &rayon::ThreadPool) -> Option<String> {
        let refusals = pool.broadcast(|_| self.here());
        refusals.into_iter().flatten().next()
    }
}

#[cfg(test)]
mod tests {
    use super::Lowering;
    use lockstep_volume::Priority;

    #[test]
    fn all_threads_of_a_pool_are_lowered() {
        let pool = crate::hash::hashing_pool(3).unwrap();
        let lowering = Lowering::new(Priority::Idle);
        assert_eq!(lowering.pool(&pool), None);
        let nices = pool.broadcast(|_| rustix::process::getpriority_process(None).unwrap());
        assert_eq!(nices, [19; 3]);
    }
}
