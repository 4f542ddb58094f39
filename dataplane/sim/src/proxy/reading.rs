//! Reads one region's stream for one shard while this proxy has that duty.

use std::rc::Rc;

use mas_core::record::{Body, Record};
use mas_core::replication::reader::{Attach, Merge, Merged, Reader};
use mas_core::replication::repair::{Repair, Seen};
use mas_core::shard::Position;
use mas_core::stamp::{Origin, RegionId, ShardId};
use mas_core::transfer::{Cursor, State, Want};

use super::pulse::Failed;
use super::{OwnStream, Proxy, REPLY_LIMIT, Seat, Shard};
use crate::broker::{Connection, Mailbox};
use crate::checkers::Judge;
use crate::engine::Refusal;
use crate::executor::{MS, Notify, Promise, SEC, Time};
use crate::network::{CONTROL, Lost};

/// Records that need no merge are acknowledged in groups of this size.
const IDLE_ACK: u64 = 16;
/// Pause after a session that ended, before the next; the same, when the stream is not there.
const PAUSE: Time = 200 * MS;
const MISSING_PAUSE: Time = 500 * MS;
/// Pieces of state that travel together.
const CHUNKS: usize = 2;
/// How long attaching may take.
const ATTACH_LIMIT: Time = 5 * SEC;

/// Why a session ended.
enum Ended {
    /// Begin again at once.
    Again,
    /// The duty is another's now, or the master changed.
    Duty,
    /// The stream is not there.
    Missing,
    /// The broker or the engine does not answer.
    Broken,
}

impl From<Lost> for Ended {
    fn from(_: Lost) -> Self {
        Self::Broken
    }
}

impl From<Failed> for Ended {
    fn from(_: Failed) -> Self {
        Self::Broken
    }
}

impl From<Refusal> for Ended {
    fn from(_: Refusal) -> Self {
        Self::Broken
    }
}

type Merging = Promise<Result<Result<(), Refusal>, Lost>>;

struct Session {
    proxy: Rc<Proxy>,
    shard: Rc<Shard>,
    region: u16,
    own: bool,
    seat: Seat,
    machine: Reader,
    /// A nonce read, and the offset that must be merged before it counts.
    nonce: Option<(u64, u64)>,
    unacked: u64,
    repair: Repair,
    connection: Rc<Connection>,
    consumer: u64,
}

impl Proxy {
    pub(super) async fn read_stream(self: Rc<Self>, shard: Rc<Shard>, region: u16) {
        let sim = self.world.sim.clone();
        let changed = shard.readers.borrow().get(&region).cloned().unwrap_or_default();
        loop {
            let has_duty = shard.duties.borrow().contains(&region);
            let connection = self.feeds.borrow().get(&region).cloned().flatten();
            let seat = shard.seat();
            if let Some(row) = shard.links.borrow_mut().get_mut(&region) {
                row.link.reads = has_duty;
                row.link.attached = false;
            }
            if let (true, Some(connection), Some(seat)) = (has_duty, connection, seat) {
                let own = region == self.region;
                let live = own.then_some(seat.incarnation);
                let mut session = Session {
                    proxy: Rc::clone(&self),
                    shard: Rc::clone(&shard),
                    region,
                    own,
                    machine: Reader::new(RegionId(region), ShardId(shard.id), RegionId(self.region), live),
                    seat,
                    nonce: None,
                    unacked: 0,
                    repair: Repair::new(RegionId(region)),
                    connection,
                    consumer: 0,
                };
                let Err(ended) = session.run(&changed).await;
                let broker = self.world.broker(region);
                broker.cancel(shard.id, session.consumer);
                match ended {
                    Ended::Again | Ended::Duty => {}
                    Ended::Missing => sim.sleep(MISSING_PAUSE).await,
                    Ended::Broken => {
                        self.ask_again.notify();
                        sim.sleep(PAUSE).await;
                    }
                }
                continue;
            }
            changed.wait_until(&sim, u64::MAX / 2).await;
        }
    }
}

impl Session {
    async fn run(&mut self, changed: &Notify) -> Result<std::convert::Infallible, Ended> {
        // The cover first: it may lack what the position says, never the other way round.
        let word = self.proxy.ask(self.shard.id, self.seat.member, REPLY_LIMIT, |e| e.word()).await?;
        if word.incarnation != self.seat.incarnation {
            return Err(Ended::Duty);
        }
        let (incarnation, region) = (self.seat.incarnation, self.region);
        let stored = self
            .proxy
            .ask(self.shard.id, self.seat.member, REPLY_LIMIT, move |e| e.position(incarnation, region))
            .await??;
        let mut attach = self.machine.begin(stored, word.cover, self.proxy.now_ms());
        loop {
            let mailbox = Rc::new(Mailbox { notify: changed.clone(), ..Mailbox::default() });
            self.attach(attach, &mailbox).await?;
            self.machine.attached(self.proxy.now_ms());
            if let Some(row) = self.shard.links.borrow_mut().get_mut(&self.region) {
                row.link.attached = true;
            }
            attach = self.read(&mailbox, changed).await?;
            self.unacked = 0;
            self.proxy.world.broker(self.region).cancel(self.shard.id, self.consumer);
        }
    }

    async fn attach(&mut self, from: Attach, mailbox: &Rc<Mailbox>) -> Result<(), Ended> {
        let broker = self.proxy.world.broker(self.region);
        let (connection, mailbox, shard) = (Rc::clone(&self.connection), Rc::clone(mailbox), self.shard.id);
        let node = Rc::clone(&broker.node);
        let attached =
            self.proxy.world.network.call(&self.proxy.node, &node, CONTROL, ATTACH_LIMIT, move || {
                if connection.is_broken() {
                    Err(())
                } else {
                    Ok(broker.consume(&connection, shard, from, &mailbox))
                }
            });
        match attached.await? {
            Ok(Some(consumer)) => {
                self.consumer = consumer;
                Ok(())
            }
            Ok(None) => Err(Ended::Missing),
            Err(()) => Err(Ended::Broken),
        }
    }

    /// Reads until it has to attach elsewhere.
    async fn read(&mut self, mailbox: &Rc<Mailbox>, changed: &Notify) -> Result<Attach, Ended> {
        let proxy = Rc::clone(&self.proxy);
        let sim = &proxy.world.sim;
        let mut merging: Option<(Merging, Rc<std::cell::Cell<bool>>)> = None;
        loop {
            let now_ms = proxy.now_ms();
            if let Some((promise, ready)) = merging.take() {
                if ready.get() {
                    self.merged(promise.await)?;
                } else {
                    merging = Some((promise, ready));
                }
            }
            if merging.is_none()
                && let Some(merge) = self.machine.next_merge(now_ms)
            {
                merging = Some(self.merge(merge, changed));
            }
            if !self.shard.duties.borrow().contains(&self.region) {
                return Err(Ended::Duty);
            }
            let seat = self.shard.seat();
            if seat.is_none_or(|s| (s.member, s.incarnation) != (self.seat.member, self.seat.incarnation)) {
                return Err(Ended::Duty);
            }
            if mailbox.cancelled.get() {
                return Err(Ended::Missing);
            }
            if self.connection.is_broken() {
                return Err(Ended::Broken);
            }
            let word = self.shard.word.borrow().clone();
            if word.incarnation == self.seat.incarnation {
                self.machine.covered(word.cover);
            }
            self.ask_for_state();
            while self.machine.has_room() {
                let Some((offset, record, tag)) = mailbox.deliveries.borrow_mut().pop_front() else { break };
                if let Some(attach) = self.delivered(offset, record, tag) {
                    return Ok(attach);
                }
            }
            proxy.world.judge.reader(&self.machine);
            if let Some(attach) = self.machine.silent(proxy.now_ms()) {
                return Ok(attach);
            }
            let more = merging.is_none() && self.machine.wake_ms().is_some_and(|at| at <= proxy.now_ms());
            if more && self.machine.stored() != self.machine.last_read() && merging.is_none() {
                // There may be a merge to ask for at once.
                if let Some(merge) = self.machine.next_merge(proxy.now_ms()) {
                    merging = Some(self.merge(merge, changed));
                }
            }
            let pause =
                self.machine.wake_ms().map_or(500, |at| at.saturating_sub(proxy.now_ms()).clamp(1, 500));
            changed.wait_until(sim, sim.now() + pause * MS).await;
        }
    }

    fn merge(&self, merge: Merge, changed: &Notify) -> (Merging, Rc<std::cell::Cell<bool>>) {
        let proxy = Rc::clone(&self.proxy);
        let (seat, region, shard) = (self.seat.clone(), self.region, self.shard.id);
        let (promise, ready) = (Promise::new(), Rc::new(std::cell::Cell::new(false)));
        let (done, flag, changed) = (promise.clone(), Rc::clone(&ready), changed.clone());
        let process = Rc::clone(&proxy.process);
        proxy.world.sim.clone().spawn(&process, async move {
            let hlc = merge.hlc;
            let incarnation = seat.incarnation;
            let result = proxy
                .ask(shard, seat.member, REPLY_LIMIT, move |e| e.merge(incarnation, region, &merge))
                .await;
            if result == Ok(Ok(())) {
                proxy.observe(shard, hlc);
            }
            done.give(result);
            flag.set(true);
            changed.notify();
        });
        (promise, ready)
    }

    fn delivered(&mut self, offset: u64, record: bytes::Bytes, tag: u64) -> Option<Attach> {
        let known = self.machine.stored().filter(|at| at.offset == offset && *at != Position::default());
        let other = known.is_some_and(|at| Record::peek_id(&record) != Some(at.record));
        let other = other && !self.machine.is_truncated();
        let seen = self.machine.delivered(offset, record, tag);
        if other && seen.reattach.is_none() {
            let text = format!("{} goes on in a log that is not the one it knew", self.proxy.node.name);
            self.proxy.world.judge.violate("reader", text);
        }
        self.unacked += 1;
        if let Some(why) = seen.dead {
            self.dead(&why);
        }
        if let Some((origin, beat)) = seen.beat {
            if self.own {
                let own = self.shard.own.get();
                self.shard.own.set(OwnStream { clock: own.clock.max(beat.clock), ..own });
            }
            if let Some(row) = self.shard.links.borrow_mut().get_mut(&self.region) {
                row.health.beat(origin, &beat, self.proxy.now_ms());
                row.link.truncated = self.machine.is_truncated();
            }
            if !self.own {
                self.proxy.peer_beat(&self.shard, self.region, beat.epoch, beat.cover);
            }
        }
        if let Some(want) = seen.want {
            self.serve_state(want);
        }
        if let Some(nonce) = seen.nonce {
            self.nonce = Some((nonce, offset));
        }
        if self.own {
            self.shard.moved();
        }
        self.check_nonce();
        if self.machine.looks_ahead() {
            self.ack(tag);
        } else if self.unacked >= IDLE_ACK
            && let Some(tag) = self.machine.idle_tag()
        {
            self.ack(tag);
        }
        seen.reattach
    }

    /// Asks for state that is missing here, if it is time to.
    fn ask_for_state(&mut self) {
        let word = self.shard.word.borrow().clone();
        let recovered = self.shard.seat().is_some_and(|seat| seat.recovered);
        if self.own || word.incarnation != self.seat.incarnation || !recovered {
            return;
        }
        let missing = self
            .shard
            .links
            .borrow()
            .get(&self.region)
            .is_some_and(|row| row.health.missing() > 0 && !row.link.held);
        let seen = Seen { missing, since: word.merged_through, transfer: word.transfer.as_ref() };
        let new_id = self.proxy.world.sim.new_id();
        if let Some(want) = self.repair.step(seen, self.proxy.now_ms(), new_id) {
            self.proxy.world.judge.note(|| format!("{} asks: {want:?}", self.proxy.node.name));
            let record = self.record(Body::Want(want));
            self.shard.batcher.borrow_mut().push_want(&record);
            self.proxy.pump.notify();
        }
    }

    fn record(&self, body: Body) -> Record {
        let origin = Origin { region: RegionId(self.proxy.region), incarnation: self.seat.incarnation };
        Record { id: self.proxy.world.sim.new_id(), shard: ShardId(self.shard.id), origin, body }
    }

    /// Answers a region that asked for state, one piece at a time.
    fn serve_state(&self, want: Want) {
        let mut serving = self.shard.serving.borrow_mut();
        if !serving.insert(self.region) {
            return;
        }
        let (proxy, shard, seat, to) =
            (Rc::clone(&self.proxy), Rc::clone(&self.shard), self.seat.clone(), self.region);
        let record = self.record(Body::Nonce(0));
        let process = Rc::clone(&proxy.process);
        proxy.world.sim.clone().spawn(&process, async move {
            let mut chunks = Vec::new();
            let mut want = want;
            while chunks.len() < CHUNKS {
                let (incarnation, asked) = (seat.incarnation, want.clone());
                let answer = proxy
                    .ask(shard.id, seat.member, REPLY_LIMIT, move |e| e.state(incarnation, &asked))
                    .await;
                let Ok(Ok((next, chunk))) = answer else { break };
                chunks.push(chunk);
                want.cursor = next;
                if want.cursor == Cursor::Done {
                    break;
                }
            }
            let records: Vec<Record> = State::parts(RegionId(to), &chunks)
                .into_iter()
                .map(|part| Record {
                    id: proxy.world.sim.new_id(),
                    body: Body::State(part),
                    ..record.clone()
                })
                .collect();
            if !chunks.is_empty() {
                shard.batcher.borrow_mut().push_state(&records);
                proxy.pump.notify();
            }
            shard.serving.borrow_mut().remove(&to);
        });
    }

    fn check_nonce(&mut self) {
        if let Some((nonce, offset)) = self.nonce
            && self.own
            && self.machine.is_merged_up_to(offset)
        {
            self.nonce = None;
            let own = self.shard.own.get();
            self.shard.own.set(OwnStream { merged_nonce: Some(nonce), ..own });
            self.shard.moved();
            self.shard.pulse.notify();
        }
    }

    fn ack(&mut self, tag: u64) {
        self.unacked = 0;
        let broker = self.proxy.world.broker(self.region);
        let (node, shard, consumer) = (Rc::clone(&broker.node), self.shard.id, self.consumer);
        let call = move || broker.credit(shard, consumer, tag);
        drop(self.proxy.world.network.call(&self.proxy.node, &node, CONTROL, SEC, call));
    }

    fn merged(&mut self, result: Result<Result<(), Refusal>, Lost>) -> Result<(), Ended> {
        let outcome = match result? {
            Ok(()) => Merged::Done,
            Err(Refusal::Decode(index)) => Merged::Undecodable(index),
            Err(Refusal::Gaps) => Merged::Gaps,
            Err(Refusal::Skew | Refusal::Other | Refusal::OutboxFull | Refusal::Membership) => Merged::Held,
            Err(Refusal::Position) => return Err(Ended::Again),
            Err(Refusal::NotMaster) => return Err(Ended::Broken),
        };
        let held = matches!(outcome, Merged::Held | Merged::Gaps);
        let (tag, dead) = self.machine.merged(outcome, self.proxy.now_ms());
        if let Some(row) = self.shard.links.borrow_mut().get_mut(&self.region) {
            row.link.held = held;
            row.link.skewed = outcome == Merged::Held;
        }
        if dead.is_some() {
            self.dead("the engine cannot decode it");
        }
        if let Some(tag) = tag {
            self.ack(tag);
        }
        self.check_nonce();
        Ok(())
    }

    fn dead(&self, why: &str) {
        let judge: &Judge = &self.proxy.world.judge;
        judge.violate(
            "dead letters",
            format!("{} cannot use a record of region {}: {why}", self.proxy.node.name, self.region),
        );
    }
}
