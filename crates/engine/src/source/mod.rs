//! The source's part of a run: one scan, any number of targets.

mod base;
mod caught;
mod consent;
mod drive;
mod feed;
mod frozen;
mod hold;
mod measured;
mod reliance;
mod room;
mod ship;
mod summary;
mod target;

pub use self::measured::MeasuredPacker;

use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, unbounded};
use lockstep_merkle::{EXTENT_SIZE, Geometry};
use lockstep_protocol::limits::{NEWEST_VERSION, OLDEST_VERSION};
use lockstep_protocol::{
    DigestKind, Failure, FailureKind, Hello, Hold, Purpose, Scope, Terms, Text,
};
use lockstep_snapshot::Health;
use lockstep_volume::{Identity, MappedCvs, Source, Volume};

use self::base::{Audit, Found};
use self::caught::Reliants;
use self::drive::Common;
use self::feed::Feed;
use self::frozen::Frozen;
use self::room::{Room, RoomWatch};
pub use self::ship::{FAST_LEVEL, SMALL_LEVEL};
use self::summary::{Ending, outcome, unopened};
use self::target::{News, Target};
use crate::base::Base;
use crate::cancel::{Cancel, Cause};
use crate::doubt::run_name;
use crate::failures::{sentence, volume_failed};
use crate::guard::guarded;
use crate::hash::hashing_pool;
use crate::limits::{
    BARRIER_TIMEOUT, MAX_LANE_THREADS, MAX_THREADS, MIN_MEMORY, MIN_TARGET_BUFFERS, POLL,
    PROGRESS_EVERY, WINDOW,
};
use crate::monitor::{Monitor, Notice, Phase, TargetProgress};
use crate::outcome::Outcome;
use crate::pace::{Pacer, ReadGate};
use crate::pages::PageTable;
use crate::priority::Lowering;
use crate::request::{Consent, Request};
use crate::undo::UndoMode;

/// Runs a request to its end.
///
/// Blocks; what happens meanwhile is told to `monitor`, and `cancel` ends it
/// early. Never panics on what a target, a link or a disk does.
pub fn run(mut request: Request, monitor: Arc<dyn Monitor>, cancel: Arc<Cancel>) -> Outcome {
    let started = Instant::now();
    let taken = request.taken.take();
    let name = match request.run.map_or_else(random, Ok) {
        Ok(name) => name,
        Err(failure) => return unopened(&request, String::new(), failure, started),
    };
    let opened = Frozen::open(&request, taken, &run_name(&name)).and_then(|frozen| {
        let feed = new_feed(&request, &frozen.source).inspect_err(|_| {
            // The failure to report is this one; the next run releases what stays.
            let _ = frozen.release();
        })?;
        Ok((frozen, feed))
    });
    match opened {
        Ok((frozen, feed)) => {
            Run::new(request, &frozen, &feed, &*monitor, &cancel, name, started).go()
        }
        Err(failure) => {
            monitor.notice(Notice::Error {
                target: None,
                failure: failure.clone(),
            });
            unopened(&request, run_name(&name), failure, started)
        }
    }
}

fn random<const N: usize>() -> Result<[u8; N], Failure> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| {
        Failure::new(FailureKind::Internal, format!("no random bytes: {error}"))
    })?;
    Ok(bytes)
}

fn new_feed(request: &Request, source: &Source) -> Result<Feed, Failure> {
    let geometry = Geometry::new(source.size());
    let tree = MappedCvs::new(geometry.group_count(), &request.scratch).map_err(|error| {
        Failure::new(FailureKind::Io, format!("tree: {}", sentence(&error)))
            .hint("give a folder with free space with --state-dir")
    })?;
    Ok(Feed::new(geometry, Box::new(tree)))
}

/// What becomes of an earlier run's values.
enum Used<'a> {
    /// There are none.
    Nothing,
    /// What did not change is taken over.
    Inherited(&'a Base),
    /// Everything is read, and they are compared with it.
    Judged(Box<Base>),
}

/// One run, from the opened source to its outcome.
struct Run<'a> {
    request: Request,
    frozen: &'a Frozen,
    feed: &'a Feed,
    monitor: &'a dyn Monitor,
    cancel: &'a Cancel,
    name: [u8; 16],
    started: Instant,
    targets: Vec<Target>,
    /// The values of the pages, or why they cannot be kept.
    pages: Result<Option<PageTable>, String>,
    base: OnceLock<Box<Base>>,
    /// Who rests on earlier deltas of this source.
    reliants: Reliants,
    pacer: Pacer,
    lowering: Lowering,
}

impl<'a> Run<'a> {
    fn new(
        request: Request,
        frozen: &'a Frozen,
        feed: &'a Feed,
        monitor: &'a dyn Monitor,
        cancel: &'a Cancel,
        name: [u8; 16],
        started: Instant,
    ) -> Run<'a> {
        let targets = (0..request.targets.len()).map(Target::new).collect();
        let pages = base::page_table(&request, frozen, feed.geometry());
        let reliants = Reliants::of(&request, frozen.volume());
        let lowering = Lowering::new(request.priority);
        Run {
            request,
            frozen,
            feed,
            monitor,
            cancel,
            name,
            started,
            targets,
            pages,
            base: OnceLock::new(),
            reliants,
            pacer: Pacer::new(),
            lowering,
        }
    }

    fn go(mut self) -> Outcome {
        self.monitor.notice(Notice::Started {
            run: run_name(&self.name),
            size: self.frozen.source.size(),
        });
        (self.frozen).announce(&self.request.snapshot, self.monitor);
        let hello = match self.hello() {
            Ok(hello) => hello,
            Err(failure) => {
                self.settle(false);
                return unopened(&self.request, run_name(&self.name), failure, self.started);
            }
        };
        self.tell_of_earlier_doubts();
        let specs = std::mem::take(&mut self.request.targets);
        let names: Vec<String> = specs.iter().map(|spec| spec.name.clone()).collect();
        self.keep_pace();
        let (news, heard) = unbounded();
        let common = self.common(&hello, news);
        let this = &self;
        std::thread::scope(|scope| {
            for (spec, target) in specs.into_iter().zip(&this.targets) {
                let common = &common;
                scope.spawn(move || drive::drive(common, target, spec.connect));
            }
            scope.spawn(|| {
                if let Err(failure) = guarded(|| this.scan()) {
                    this.abort(failure);
                }
            });
            this.attend(&heard, &names);
        });
        drop(common);
        let verified = self.targets.iter().any(Target::is_verified);
        self.settle(verified);
        self.ending(&names)
    }

    fn common<'b>(&'b self, hello: &'b Hello, news: Sender<News>) -> Common<'b> {
        let lanes = self.threads().min(MAX_LANE_THREADS);
        let extents = usize::try_from(self.request.memory.max(MIN_MEMORY)).unwrap_or(usize::MAX)
            / EXTENT_SIZE;
        let shared = extents.saturating_sub(self.threads()) / self.targets.len().max(1);
        Common {
            volume: &self.frozen.source,
            feed: self.feed,
            pages: self.pages(),
            terms: self.terms(),
            hello,
            compression: self.request.compression,
            lanes,
            buffers: shared.max(MIN_TARGET_BUFFERS),
            link: &self.request.limits.link,
            gate: self.gate(),
            lowering: &self.lowering,
            monitor: self.monitor,
            news,
        }
    }

    /// What whoever reads the source has to pass.
    fn gate(&self) -> ReadGate<'_> {
        ReadGate {
            limit: &self.request.limits.read,
            pace: &self.pacer.valve,
        }
    }

    fn pages(&self) -> Option<&PageTable> {
        self.pages.as_ref().ok().and_then(Option::as_ref)
    }

    fn threads(&self) -> usize {
        self.request.threads.clamp(1, MAX_THREADS)
    }

    fn terms(&self) -> Terms {
        let request = &self.request;
        Terms {
            geometry: self.feed.geometry(),
            purpose: request.purpose,
            // A comparison that compares nothing would tell nothing.
            scope: match request.purpose {
                Purpose::Sync => request.scope,
                Purpose::Compare => Scope::Differences,
            },
            verify: request.verify,
            hold: match request.consent {
                // Whether there is room for the undo is known once all is compared.
                Consent::Given if request.undo.mode != UndoMode::Require => Hold::None,
                _ => Hold::UntilProceed,
            },
            window: WINDOW,
        }
    }

    fn hello(&self) -> Result<Hello, Failure> {
        let terms = self.terms();
        let seed = random()?;
        Ok(Hello {
            oldest: OLDEST_VERSION,
            newest: NEWEST_VERSION,
            run: self.name,
            size: terms.geometry.size(),
            purpose: terms.purpose,
            scope: terms.scope,
            verify: terms.verify,
            hold: terms.hold,
            allow_larger: self.request.allow_larger_target,
            mode_bits: u16::try_from(self.frozen.mode_bits() & 0o777).unwrap_or(0o600),
            digests: match self.pages() {
                Some(_) => DigestKind::Chained,
                None => DigestKind::Seeded,
            },
            full_scan: base::is_full_scan_due(self.frozen, &self.request),
            seed: u64::from_le_bytes(seed),
            window: terms.window,
            identity: self.frozen.identity().to_bytes(),
            source: Text::new(&self.request.source.display().to_string()),
            who: Text::new(&self.request.who),
        })
    }

    /// Hashes the source and says the last word on it.
    fn scan(&self) {
        let pool = match hashing_pool(self.threads()) {
            Ok(pool) => pool,
            Err(failure) => return self.abort(failure),
        };
        if let Some(refusal) = self.lowering.pool(&pool) {
            self.warn(refusal);
        }
        let (base, judged) = match self.base(&pool) {
            Ok(Used::Nothing) => (None, None),
            Ok(Used::Inherited(base)) => (Some(base), None),
            Ok(Used::Judged(base)) => (None, Some(base)),
            Err(failure) => return self.abort(failure),
        };
        let caught = || self.caught();
        let audit = (judged.as_deref().zip(self.pages())).map(|(base, pages)| Audit {
            base,
            pages,
            caught: &caught,
        });
        let earlier = hold::Earlier {
            base,
            audit: audit.as_ref(),
        };
        match hold::scan(
            &self.request,
            self.frozen,
            self.feed,
            self.pages(),
            earlier,
            self.gate(),
            &pool,
        ) {
            Ok(Some(_)) if self.is_doubted_meanwhile() => self.abort(caught::doubted_meanwhile()),
            Ok(Some(finish)) => {
                self.monitor.notice(Notice::Hashed {
                    root: finish.root,
                    size: self.frozen.source.size(),
                    elapsed: self.started.elapsed(),
                });
                self.feed.finish(finish);
            }
            Ok(None) => {}
            Err(failure) => self.abort(failure),
        }
    }

    /// What an earlier run left, once its word was tested.
    fn base(&self, pool: &rayon::ThreadPool) -> Result<Used<'_>, Failure> {
        let base = match base::find(self.frozen, &self.request) {
            Found::Nothing => return Ok(Used::Nothing),
            Found::Doubt(doubt) => {
                self.warn(format!("everything is read: {doubt}"));
                return Ok(Used::Nothing);
            }
            Found::Audit(base) => return Ok(Used::Judged(base)),
            Found::Base(base) => base,
        };
        let (volume, geometry) = (&self.frozen.source, self.feed.geometry());
        let holds = base
            .holds(volume, geometry, pool, &self.feed.bytes_read, &|bytes| {
                self.gate().pass(bytes, &|| self.feed.is_over())
            })
            .map_err(|error| volume_failed(&error))?;
        if !holds {
            self.caught();
            return Ok(Used::Nothing);
        }
        // Before any target can be marked by it.
        if let Err(why) = self.write_down_who_rests() {
            self.warn(format!("everything is read: {why}"));
            return Ok(Used::Judged(base));
        }
        Ok(Used::Inherited(self.base.get_or_init(|| base)))
    }

    /// Leaves the snapshot as the next run's base, or releases it.
    fn settle(&self, verified: bool) {
        let base = self.base.get().map(Box::as_ref);
        let known = base::Measured {
            feed: self.feed,
            pages: &self.pages,
            base,
        };
        let troubles = base::settle(self.frozen, &self.request, &known, verified);
        for trouble in troubles {
            self.warn(trouble);
        }
        self.settle_doubts();
    }

    fn warn(&self, message: String) {
        self.monitor.notice(Notice::Warning {
            target: None,
            message,
        });
    }

    fn abort(&self, failure: Failure) {
        if self.feed.aborted().is_none() {
            self.monitor.notice(Notice::Error {
                target: None,
                failure: failure.clone(),
            });
        }
        self.feed.abort(failure);
    }

    /// The run's own thread: consent, progress, signals, and the end.
    fn attend(&self, heard: &Receiver<News>, names: &[String]) {
        let mut ready = vec![false; self.targets.len()];
        let mut ended = 0;
        let mut asked = false;
        let mut told = Instant::now();
        let mut first_ready: Option<Instant> = None;
        let mut room = RoomWatch::new(Instant::now());
        while ended < self.targets.len() {
            match heard.recv_timeout(POLL) {
                Ok(News::Ready(index)) => {
                    ready[index] = true;
                    first_ready.get_or_insert_with(Instant::now);
                }
                Ok(News::Ended) => ended += 1,
                Ok(News::Held) | Err(_) => {}
            }
            let late = first_ready.is_some_and(|at| at.elapsed() > BARRIER_TIMEOUT);
            if late || ready.iter().all(|ready| *ready) {
                self.release_targets(names);
            }
            if !asked && consent::all_held_or_over(&self.targets) {
                asked = consent::settle(self, names);
            }
            self.look_after_source();
            self.keep_pace();
            if told.elapsed() >= PROGRESS_EVERY {
                told = Instant::now();
                self.tell_progress();
            }
            if !self.feed.is_over() {
                self.look_after_room(&mut room);
            }
        }
        self.feed.stop();
    }

    /// Every target has said which place it is, or was waited for.
    fn release_targets(&self, names: &[String]) {
        if let Some((one, other)) = self.same_place() {
            self.abort(
                Failure::new(
                    FailureKind::Usage,
                    format!("{} and {} are the same place", names[one], names[other]),
                )
                .hint("name each target once"),
            );
        }
        self.feed.release();
    }

    fn same_place(&self) -> Option<(usize, usize)> {
        let places: Vec<Option<Identity>> = self
            .targets
            .iter()
            .map(|target| {
                let facts = target.facts();
                let bytes = match &facts.welcome {
                    Some(welcome) => welcome.identity.clone(),
                    None => facts.refused_identity.clone(),
                };
                Identity::from_bytes(&bytes).ok()
            })
            .collect();
        for (one, first) in places.iter().enumerate() {
            for (other, second) in places.iter().enumerate().skip(one + 1) {
                if let (Some(first), Some(second)) = (first, second)
                    && first.same_place(second)
                {
                    return Some((one, other));
                }
            }
        }
        None
    }

    /// Ends the run for a signal, for lack of time, or for a lost hold.
    fn look_after_source(&self) {
        if self.feed.is_over() {
            return;
        }
        let overdue = self
            .request
            .max_duration
            .is_some_and(|limit| self.started.elapsed() > limit);
        if overdue {
            self.cancel.request(Cause::Deadline);
        }
        match self.cancel.cause() {
            Some(Cause::Signal(number)) => self.abort(Failure::new(
                FailureKind::Signal(number),
                format!("ended by signal {number}"),
            )),
            Some(Cause::Deadline) => self.abort(
                Failure::new(FailureKind::Deadline, "the time allowed is over")
                    .hint("run the same command again: it ships only what is missing"),
            ),
            Some(Cause::Fenced) => self.abort(Failure::new(
                FailureKind::Fenced,
                "a newer run took the volume over",
            )),
            Some(Cause::Abandoned) => self.abort(
                Failure::new(self.cut_short(), "the run was cancelled")
                    .hint("run the same command again: it ships only what is missing"),
            ),
            None => {}
        }
        if let Err(failure) = hold::check(self.frozen, &self.request) {
            self.frozen.source.release_hold();
            self.abort(hold::lost(failure, self.is_writing()));
        }
    }

    fn is_writing(&self) -> bool {
        let inconsistent = Some(lockstep_protocol::VolumeState::Inconsistent);
        (self.targets.iter()).any(|target| target.facts().state == inconsistent)
    }

    /// What a run is that ends before its time.
    fn cut_short(&self) -> FailureKind {
        match self.is_writing() {
            true => FailureKind::Interrupted,
            false => FailureKind::Temporary,
        }
    }

    /// An image that takes its volume's writers the last space is given up in time.
    fn look_after_room(&self, watch: &mut RoomWatch) {
        let begun = Instant::now();
        let Some(image) = self.frozen.image().filter(|_| watch.is_due(begun)) else {
            return;
        };
        let room = match self.frozen.health() {
            Some(Health::Sound { room }) => watch.judge(begun, room, image.space.at_risk),
            Some(Health::Lost { why }) => Room::Lost(why),
            None => Room::Enough,
        };
        watch.looked(begun, Instant::now());
        match room {
            Room::Enough => {}
            Room::Little(room) => {
                if watch.tells_first() {
                    self.warn(format!(
                        "only {room} bytes are left beside the source's snapshot: it will be given up before they run out"
                    ));
                }
            }
            Room::TooLittle(room) => {
                self.abort(hold::image_in_the_way(room));
                // Now, and not when the last target has ended: writers are about to fail.
                let _ = self.frozen.release();
            }
            Room::Lost(why) => self.abort(hold::image_lost(&why)),
        }
    }

    fn keep_pace(&self) {
        let read = self.feed.bytes_read.load(Ordering::Relaxed);
        let volume = self.frozen.volume();
        if let Some(warning) = self.pacer.tick(&self.request.limits, volume, read) {
            self.warn(warning);
        }
    }

    fn tell_progress(&self) {
        let size = self.frozen.source.size();
        let targets = self.targets.iter().map(|target| progress(target, size));
        self.monitor.notice(Notice::Progress {
            bytes_scanned: self.feed.bytes_scanned.load(Ordering::Relaxed),
            size,
            elapsed: self.started.elapsed(),
            targets: targets.collect(),
        });
    }

    fn ending(self, names: &[String]) -> Outcome {
        outcome(&Ending {
            run: run_name(&self.name),
            names,
            targets: &self.targets,
            feed: self.feed,
            frozen: self.frozen,
            purpose: self.request.purpose,
            choice: &self.request.snapshot,
            elapsed: self.started.elapsed().max(Duration::from_micros(1)),
            paced: self.pacer.paced(),
        })
    }
}

fn progress(target: &Target, size: u64) -> TargetProgress {
    let facts = target.facts();
    let compared = facts
        .stats
        .extents_compared
        .saturating_mul(EXTENT_SIZE as u64);
    let all = compared >= size;
    let differing = target.differing.load(Ordering::Relaxed);
    let phase = match facts.phase.unwrap_or(Phase::Connecting) {
        Phase::Shipping if all && facts.stats.bytes_written >= differing => Phase::Verifying,
        phase => phase,
    };
    TargetProgress {
        target: target.index,
        phase,
        bytes_compared: compared.min(size),
        bytes_differing: differing,
        bytes_written: facts.stats.bytes_written,
        bytes_verified: facts.stats.bytes_verified,
        bytes_sent: facts.meter.as_ref().map_or(0, |meter| meter.bytes_sent()),
        bytes_received: facts
            .meter
            .as_ref()
            .map_or(0, |meter| meter.bytes_received()),
    }
}
