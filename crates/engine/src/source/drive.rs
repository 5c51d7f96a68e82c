//! One target of a run, from its connection to its end, on threads of its own.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, bounded};
use lockstep_merkle::{EXTENT_SIZE, GroupIndex, PageSeed};
use lockstep_protocol::limits::{MAX_DOUBTED_RUNS, MAX_WINDOW};
use lockstep_protocol::{
    Doubted, Failure, FailureKind, Hello, Hold, Plan, Purpose, Scope, Served, SourceFrame,
    SourceSession, Stats, TargetFrame, Terms, UndoNote, UndoStage, VolumeState, Want, Welcome,
};
use lockstep_transport::{Link, LinkError, LinkSender, Via};
use lockstep_volume::{BufferPool, Volume};

use super::feed::{Feed, Found};
use super::ship::{Digests, Lacking, Packer, Reader, Shipment};
use super::target::{End, News, Target};
use crate::failures::{link_broke, volume_failed};
use crate::guard::guarded;
use crate::limits::{LAST_WORD_TIMEOUT, LINK_POLL, POLL, WELCOME_TIMEOUT};
use crate::monitor::{Monitor, Notice, Phase};
use crate::pace::{ReadGate, Valve};
use crate::pages::PageTable;
use crate::priority::Lowering;
use crate::request::{Compression, Connect};

/// What every target of a run shares.
pub(crate) struct Common<'a> {
    pub(crate) volume: &'a dyn Volume,
    pub(crate) feed: &'a Feed,
    /// The values of the pages, where the scan keeps them.
    pub(crate) pages: Option<&'a PageTable>,
    pub(crate) terms: Terms,
    pub(crate) hello: &'a Hello,
    pub(crate) compression: Compression,
    pub(crate) lanes: usize,
    pub(crate) buffers: usize,
    /// What is sent passes this, for all targets together.
    pub(crate) link: &'a Valve,
    pub(crate) gate: ReadGate<'a>,
    pub(crate) lowering: &'a Lowering,
    pub(crate) monitor: &'a dyn Monitor,
    pub(crate) news: Sender<News>,
}

/// Drives one target to its end; never panics on what it does.
pub(crate) fn drive(common: &Common<'_>, target: &Target, connect: Box<dyn Connect>) {
    let end = guarded(|| reach(common, target, connect))
        .unwrap_or_else(|failure| End::Failed(failure, target.supposed_state()));
    if let End::Failed(failure, _) = &end {
        common.monitor.notice(Notice::Error {
            target: Some(target.index),
            failure: failure.clone(),
        });
    }
    let mut facts = target.facts();
    facts.phase = Some(Phase::Done);
    facts.elapsed = target.started.elapsed();
    facts.end = Some(end);
    drop(facts);
    tell(common, News::Ready(target.index));
    tell(common, News::Ended);
}

/// The run listens until its last target has ended, so that news always have
/// a listener; without one there is nobody to tell.
fn tell(common: &Common<'_>, news: News) {
    let _ = common.news.send(news);
}

fn reach(common: &Common<'_>, target: &Target, connect: Box<dyn Connect>) -> End {
    target.facts().phase = Some(Phase::Connecting);
    let connected = match connect.connect() {
        Ok(connected) => connected,
        Err(failure) => return End::Failed(failure, VolumeState::Unknown),
    };
    if let Some(message) = connected.warning {
        common.monitor.notice(Notice::Warning {
            target: Some(target.index),
            message,
        });
    }
    let link = connected.link;
    let mut facts = target.facts();
    facts.transport = Some(link.via.word());
    facts.meter = Some(link.meter.clone());
    drop(facts);
    let end = converse(common, target, &link);
    drop(connected.lifeline);
    end
}

fn converse(common: &Common<'_>, target: &Target, link: &Link) -> End {
    let hello = SourceFrame::Hello(common.hello.clone());
    if let Err(error) = link.sender.control(Bytes::from(hello.encode())) {
        return broken(target, &error);
    }
    let session = Mutex::new(SourceSession::new(common.terms));
    // Wants wait here; the session lets no more be unanswered than its window.
    let (wants, orders) = bounded(usize::from(MAX_WINDOW));
    let pool = BufferPool::new(EXTENT_SIZE, common.buffers);
    let lane = Lane {
        common,
        target,
        session: &session,
        sender: &link.sender,
        pool: &pool,
        via: link.via,
        quit: AtomicBool::new(false),
        failure: Mutex::new(None),
    };
    std::thread::scope(|scope| {
        scope.spawn(|| lane.guard(|| lane.feed()));
        for _ in 0..common.lanes {
            let orders = orders.clone();
            let lane = &lane;
            scope.spawn(move || lane.guard(|| lane.ship(&orders)));
        }
        let end = lane.listen(link, &wants);
        lane.quit.store(true, Ordering::SeqCst);
        drop(wants);
        // Nothing is left to be said; senders blocked on a target that reads
        // no more are woken by this.
        link.sender.close("the run is over");
        end
    })
}

fn broken(target: &Target, error: &LinkError) -> End {
    let state = target.supposed_state();
    End::Failed(link_broke(error, target.may_be_written()), state)
}

fn violated(target: &Target, error: &dyn std::error::Error) -> End {
    let failure = Failure::new(
        FailureKind::Internal,
        format!("the target broke the protocol: {error}"),
    );
    End::Failed(failure, target.supposed_state())
}

/// The threads of one target share this.
struct Lane<'a> {
    common: &'a Common<'a>,
    target: &'a Target,
    session: &'a Mutex<SourceSession>,
    sender: &'a LinkSender,
    pool: &'a BufferPool,
    via: Via,
    quit: AtomicBool,
    failure: Mutex<Option<Failure>>,
}

impl Lane<'_> {
    fn session(&self) -> MutexGuard<'_, SourceSession> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn quits(&self) -> bool {
        self.quit.load(Ordering::SeqCst) || self.common.feed.is_over()
    }

    /// A thread of this target failed: the listener ends the session.
    fn fail(&self, failure: Failure) {
        let mut slot = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        slot.get_or_insert(failure);
    }

    /// Does the part of one thread; a panic ends the session.
    fn guard(&self, part: impl FnOnce()) {
        if let Err(failure) = guarded(part) {
            self.fail(failure);
        }
    }

    fn failed(&self) -> Option<Failure> {
        self.failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn send(&self, frame: &SourceFrame) -> Result<(), LinkError> {
        self.sender.control(Bytes::from(frame.encode()))
    }

    /// Follows the scan: digests as they come, then the last word. A broken
    /// link ends this thread; the listener hears of it too.
    fn feed(&self) {
        let mut seen = 0;
        while !self.quits() {
            let found = self.common.feed.wait_beyond(seen, LINK_POLL);
            let sent = match self.next_frame(&mut seen, &found) {
                Some(frame) => self.send(&frame).is_ok(),
                // The target has not welcomed us, or waits for agreement.
                None => {
                    std::thread::sleep(LINK_POLL);
                    true
                }
            };
            if !sent || self.session().has_finished() {
                return;
            }
        }
    }

    /// What follows what the target has been told until now.
    fn next_frame(&self, seen: &mut u64, found: &Found) -> Option<SourceFrame> {
        let mut session = self.session();
        if let Some(doubt) = self.next_doubt(&mut session) {
            return Some(doubt);
        }
        if let Some(range) = session.next_digests(found.groups) {
            *seen = range.end;
            let cvs = range
                .clone()
                .map(|group| self.common.feed.cv(GroupIndex(group)));
            return Some(SourceFrame::Digests {
                first: GroupIndex(range.start),
                cvs: cvs.collect(),
            });
        }
        let finish = found.finish.filter(|_| session.may_finish())?;
        session.finished(finish.root);
        if !session.is_held() {
            self.target.may_settle.store(true, Ordering::SeqCst);
        }
        Some(SourceFrame::Done(finish))
    }

    /// Before everything else, the runs whose word does not count any more.
    fn next_doubt(&self, session: &mut SourceSession) -> Option<SourceFrame> {
        if !session.may_doubt() {
            return None;
        }
        let told = self.target.doubts_told.load(Ordering::SeqCst);
        let mut runs = self.common.feed.doubts_beyond(told);
        runs.truncate(MAX_DOUBTED_RUNS);
        if runs.is_empty() {
            return None;
        }
        session.doubted();
        self.target.facts().doubts_unanswered += 1;
        (self.target.doubts_told).store(told + runs.len(), Ordering::SeqCst);
        Some(SourceFrame::Doubt { runs })
    }

    fn ship(&self, orders: &Receiver<Order>) {
        if let Some(message) = self.common.lowering.here() {
            let target = None;
            (self.common.monitor).notice(Notice::Warning { target, message });
        }
        let mut packer = match Packer::new(self.common.compression, self.via) {
            Ok(packer) => packer,
            Err(error) => {
                return self.fail(Failure::new(FailureKind::Internal, error.to_string()));
            }
        };
        while let Ok(order) = orders.recv() {
            if self.quits() {
                return;
            }
            if let Err(failure) = self.answer(&mut packer, &order) {
                return self.fail(failure);
            }
        }
    }

    fn answer(&self, packer: &mut Packer, order: &Order) -> Result<(), Failure> {
        let begun = Instant::now();
        let common = self.common;
        let reader = Reader {
            volume: common.volume,
            geometry: common.terms.geometry,
            digests: match common.pages {
                Some(table) => Digests::Kept(table),
                None => Digests::Seeded(PageSeed(common.hello.seed)),
            },
            bytes_read: &common.feed.bytes_read,
            gate: common.gate,
            stop: &|| self.quits(),
        };
        let Some(buffer) = self.buffer() else {
            return Ok(());
        };
        let (buffer, lacking) = reader
            .lacking(&order.want, buffer)
            .map_err(|error| volume_failed(&error))?;
        if order.first {
            self.count(&order.want, lacking);
        }
        let extent = order.want.extent;
        // Answered before it is sent: the target may ask again at once.
        self.session().answered(extent);
        let sent = if order.count {
            self.send(&SourceFrame::Counted { extent })
        } else {
            let shipment = self.shipment();
            let bulk = packer.pack(&order.want, buffer, lacking, shipment);
            let packed = Instant::now();
            common.link.pass(bulk.len(), &|| self.quits());
            if self.quits() {
                // What waited for its turn is not sent all at once when a run is ended.
                return Ok(());
            }
            self.target.shipped.store(true, Ordering::SeqCst);
            let sent = self.sender.bulk(bulk);
            packer.waited(packed.elapsed(), begun.elapsed());
            sent
        };
        // The listener hears of a broken link and says so.
        let _ = sent;
        Ok(())
    }

    fn shipment(&self) -> Shipment {
        let facts = self.target.facts();
        let creates = facts
            .welcome
            .as_ref()
            .is_some_and(|welcome| welcome.plan == Plan::Create);
        if creates || self.common.terms.scope == Scope::Everything {
            Shipment::FullCopy
        } else {
            Shipment::Difference
        }
    }

    fn buffer(&self) -> Option<lockstep_volume::IoBuffer> {
        while !self.quits() {
            if let Some(buffer) = self.pool.take_timeout(POLL) {
                return Some(buffer);
            }
        }
        None
    }

    fn count(&self, want: &Want, lacking: Lacking) {
        let bytes = lacking.bytes(self.common.terms.geometry, want);
        self.target.differing.fetch_add(bytes, Ordering::Relaxed);
        if self.common.terms.purpose == Purpose::Compare {
            let pages = lacking.data.union(lacking.zero);
            self.target.facts().lacking.insert(want.extent.0, pages);
        }
    }

    /// Hears the target until its session is over.
    fn listen(&self, link: &Link, wants: &Sender<Order>) -> End {
        let deadline = Instant::now() + WELCOME_TIMEOUT;
        loop {
            if let Some(failure) = self.common.feed.aborted().or_else(|| self.failed()) {
                return self.give_up(link, failure);
            }
            if self.target.proceed.swap(false, Ordering::SeqCst)
                && let Err(end) = self.go_on()
            {
                return end;
            }
            match link.control.recv_timeout(POLL) {
                Ok(Some(bytes)) => {
                    if let Some(end) = self.hear(&bytes, wants) {
                        return end;
                    }
                }
                Ok(None) if self.target.facts().welcome.is_none() && Instant::now() > deadline => {
                    let failure = Failure::new(
                        FailureKind::Temporary,
                        "the target did not open its volume in time",
                    );
                    return End::Failed(failure, VolumeState::Unknown);
                }
                Ok(None) => {}
                Err(error) => return broken(self.target, &error),
            }
        }
    }

    fn go_on(&self) -> Result<(), End> {
        let proceeded = self.session().proceed();
        if let Err(violation) = proceeded {
            return Err(violated(self.target, &violation));
        }
        self.target.facts().phase = Some(Phase::Shipping);
        self.target.may_settle.store(true, Ordering::SeqCst);
        self.send(&SourceFrame::Proceed)
            .map_err(|error| broken(self.target, &error))
    }

    /// Tells the target why, and waits for its last word.
    fn give_up(&self, link: &Link, failure: Failure) -> End {
        self.quit.store(true, Ordering::SeqCst);
        let frame = SourceFrame::Abort(failure.clone());
        let sender = link.sender.clone();
        // A target that reads nothing would hold this back; nobody waits for it.
        std::thread::spawn(move || {
            // A link that is already broken needs no word.
            let _ = sender.control(Bytes::from(frame.encode()));
        });
        let deadline = Instant::now() + LAST_WORD_TIMEOUT;
        while Instant::now() < deadline {
            match link.control.recv_timeout(POLL) {
                Ok(Some(bytes)) => {
                    if let Some(end) = self.last_word(&bytes, &failure) {
                        return end;
                    }
                }
                Ok(None) => {}
                Err(_) => break,
            }
        }
        End::Failed(failure, self.target.supposed_state())
    }

    /// A target may have been proved while it was given up: its ledger says so.
    fn last_word(&self, bytes: &[u8], failure: &Failure) -> Option<End> {
        let frame = TargetFrame::decode(bytes).ok()?;
        let served = self.session().handle(frame).ok()?;
        match served {
            Served::Verified { state, stats } => {
                self.target.facts().stats = stats;
                self.changed(state);
                Some(End::Verified(state))
            }
            Served::Failed { state, stats, .. } => {
                self.target.facts().stats = stats;
                Some(End::Failed(failure.clone(), state))
            }
            Served::Refused { .. } => Some(End::Failed(failure.clone(), VolumeState::Unknown)),
            Served::Undo(note) => {
                self.noted(note);
                None
            }
            Served::Doubted(doubted) => {
                self.doubted(doubted);
                None
            }
            _ => None,
        }
    }

    fn hear(&self, bytes: &[u8], wants: &Sender<Order>) -> Option<End> {
        let frame = match TargetFrame::decode(bytes) {
            Ok(frame) => frame,
            Err(malformed) => return Some(violated(self.target, &malformed)),
        };
        let served = match self.session().handle(frame) {
            Ok(served) => served,
            Err(violation) => return Some(violated(self.target, &violation)),
        };
        match served {
            Served::Welcomed(welcome) => self.welcomed(welcome),
            Served::Refused { failure, identity } => {
                self.target.facts().refused_identity = identity;
                return Some(End::Failed(failure, VolumeState::Unknown));
            }
            Served::Count(want) => self.queue(wants, Order::counting(want)),
            Served::Ship { want, first } => self.queue(wants, Order::shipping(want, first)),
            Served::State(state) => self.changed(state),
            Served::Doubted(doubted) => self.doubted(doubted),
            Served::Progress(stats) => self.target.facts().stats = stats,
            Served::Warning(message) => self.common.monitor.notice(Notice::Warning {
                target: Some(self.target.index),
                message: message.as_str().to_owned(),
            }),
            Served::Undo(note) => self.noted(note),
            Served::Compared(stats) => return self.compared(stats),
            Served::Verified { state, stats } => {
                self.target.facts().stats = stats;
                if self.common.terms.hold == Hold::None {
                    self.tell_difference();
                }
                self.changed(state);
                return Some(End::Verified(state));
            }
            Served::Failed {
                failure,
                state,
                stats,
            } => {
                self.target.facts().stats = stats;
                self.changed(state);
                return Some(End::Failed(failure, state));
            }
        }
        None
    }

    /// There is room: the session counts unanswered wants.
    fn queue(&self, wants: &Sender<Order>, order: Order) {
        if wants.try_send(order).is_err() {
            self.fail(Failure::new(
                FailureKind::Internal,
                "more wants than the session allows",
            ));
        }
    }

    fn welcomed(&self, welcome: Welcome) {
        let mut facts = self.target.facts();
        facts.phase = Some(Phase::Comparing);
        facts.welcome = Some(welcome.clone());
        let transport = facts.transport.unwrap_or("memory");
        drop(facts);
        self.common.monitor.notice(Notice::Preflight {
            target: self.target.index,
            transport,
            plan: welcome.plan.word(),
            present_size: welcome.present_size,
        });
        if !welcome.has_medium {
            self.common.monitor.notice(Notice::Warning {
                target: Some(self.target.index),
                message: "the target is in memory: there is no medium to read back from".to_owned(),
            });
        }
        tell(self.common, News::Ready(self.target.index));
    }

    fn changed(&self, state: VolumeState) {
        let before = self.target.facts().state.replace(state);
        if before != Some(state) {
            self.common.monitor.notice(Notice::State {
                target: self.target.index,
                state,
            });
        }
    }

    /// The target has taken back what a doubted run said of it, or never had it.
    fn doubted(&self, doubted: Doubted) {
        self.target.facts().doubts_unanswered -= 1;
        if doubted == Doubted::Downgraded {
            self.changed(VolumeState::Inconsistent);
            self.common.monitor.notice(Notice::Warning {
                target: Some(self.target.index),
                message: "its record said `consistent` on the word of a delta that hid changes: it is `inconsistent` until it is proved anew".to_owned(),
            });
        }
    }

    fn compared(&self, stats: Stats) -> Option<End> {
        let common = self.common;
        let compares = common.terms.purpose == Purpose::Compare;
        let mut facts = self.target.facts();
        facts.stats = stats;
        facts.phase = Some(Phase::Shipping);
        drop(facts);
        if compares || self.session().is_held() {
            self.tell_difference();
        }
        if compares {
            return Some(End::Compared);
        }
        if self.session().is_held() {
            self.target.facts().phase = Some(Phase::Waiting);
            tell(common, News::Held);
        }
        None
    }

    /// What the target keeps; that it keeps nothing any more is said once.
    fn noted(&self, note: UndoNote) {
        if note.stage == UndoStage::Begun && note.kept.is_none() && !note.why.as_str().is_empty() {
            self.common.monitor.notice(Notice::Warning {
                target: Some(self.target.index),
                message: format!("what is overwritten is not kept: {}", note.why.as_str()),
            });
        }
        self.target.facts().undo = Some(note);
    }

    fn tell_difference(&self) {
        self.common.monitor.notice(Notice::Diff {
            target: self.target.index,
            bytes_differing: self.target.differing.load(Ordering::Relaxed),
            ranges: self.target.ranges(self.common.terms.geometry),
        });
    }
}

/// A want on its way to a shipping thread.
struct Order {
    want: Want,
    first: bool,
    count: bool,
}

impl Order {
    fn counting(want: Want) -> Order {
        Order {
            want,
            first: true,
            count: true,
        }
    }

    fn shipping(want: Want, first: bool) -> Order {
        Order {
            want,
            first,
            count: false,
        }
    }
}
