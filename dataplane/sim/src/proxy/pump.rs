//! The pump: effects from the front to the batchers, records to the broker, confirmations to who waits.

use std::rc::Rc;

use mas_core::record::{Body, Record};
use mas_core::replication::ack::{Level, Outcome, Write};
use mas_core::replication::batcher::Publish;

use super::{Outlet, Proxy, Shard};
use crate::engine::Note;
use crate::executor::{MS, Promise, SEC, Time};
use crate::network::CONTROL;

/// How long a write may wait for its level.
const WAIT_MS: u64 = 10_000;
/// Deadlines and the broker's state are looked at so often.
const TICK: (Time, Time) = (20 * MS, 100 * MS);
/// Without a connection, or blocked by the broker, for so long: it counts as away.
const AWAY_MS: u64 = 500;
/// A record unconfirmed for so long: the broker counts as away.
const STUCK_US: u64 = 2_000_000;
/// First and longest pause between attempts to connect.
const BACKOFF: (Time, Time) = (50 * MS, 3 * SEC);

impl Proxy {
    /// Keeps the publishing connection open.
    pub(super) async fn keep_outlet(self: Rc<Self>) {
        let sim = self.world.sim.clone();
        let broker = self.world.broker(self.region);
        let (mut generation, mut backoff) = (0, BACKOFF.0);
        loop {
            generation += 1;
            let (there, node) = (Rc::clone(&broker), Rc::clone(&self.node));
            let shards = self.shards.len() as u16;
            let opened = self.world.network.call(&self.node, &broker.node, CONTROL, 3 * SEC, move || {
                (0..shards).for_each(|shard| there.declare(shard));
                there.connect(&node)
            });
            if let Ok(connection) = opened.await {
                backoff = BACKOFF.0;
                *self.outlet.borrow_mut() =
                    Some(Rc::new(Outlet { generation, connection: Rc::clone(&connection) }));
                self.outlet_changed();
                self.hold(self.region, &connection).await;
                *self.outlet.borrow_mut() = None;
                self.outlet_changed();
            }
            sim.sleep(sim.random(|r| r.range(backoff / 2, backoff))).await;
            backoff = (backoff * 2).min(BACKOFF.1);
        }
    }

    /// Keeps a reading connection open.
    pub(super) async fn keep_feed(self: Rc<Self>, region: u16) {
        let sim = self.world.sim.clone();
        let broker = self.world.broker(region);
        let mut backoff = BACKOFF.0;
        while self.feeds.borrow().contains_key(&region) {
            let (there, node) = (Rc::clone(&broker), Rc::clone(&self.node));
            let proxy = Rc::downgrade(&self);
            let hear = move |beat: &bytes::Bytes| {
                if let Some(proxy) = proxy.upgrade() {
                    proxy.hear(region, beat);
                }
            };
            let is_peer = region != self.region;
            let opened = self.world.network.call(&self.node, &broker.node, CONTROL, 3 * SEC, move || {
                let connection = there.connect(&node);
                if is_peer {
                    there.listen(&connection, Rc::new(hear));
                }
                connection
            });
            if let Ok(connection) = opened.await {
                backoff = BACKOFF.0;
                self.set_feed(region, Some(Rc::clone(&connection)));
                self.hold(region, &connection).await;
                self.set_feed(region, None);
            }
            sim.sleep(sim.random(|r| r.range(backoff / 2, backoff))).await;
            backoff = (backoff * 2).min(BACKOFF.1);
        }
    }

    /// A heartbeat of a peer, heard without reading its stream.
    fn hear(&self, region: u16, beat: &bytes::Bytes) {
        let Ok(Record { shard, body: Body::Heartbeat(beat), .. }) = Record::decode(beat.clone()) else {
            return;
        };
        if let Some(shard) = self.shards.get(usize::from(shard.0)).filter(|_| self.process.is_alive()) {
            self.peer_beat(shard, region, beat.epoch, beat.cover);
        }
    }

    fn set_feed(&self, region: u16, connection: Option<Rc<crate::broker::Connection>>) {
        for shard in &self.shards {
            if let Some(row) = shard.links.borrow_mut().get_mut(&region) {
                row.link.connected = connection.is_some();
            }
            shard.poke_readers();
        }
        if let Some(feed) = self.feeds.borrow_mut().get_mut(&region) {
            *feed = connection;
        }
    }

    /// Returns when the connection is lost: AMQP heartbeats are missed, or the broker is gone.
    async fn hold(&self, region: u16, connection: &Rc<crate::broker::Connection>) {
        let sim = &self.world.sim;
        let broker = self.world.broker(region);
        loop {
            sim.sleep(500 * MS).await;
            let seen = Rc::clone(connection);
            let alive = self
                .world
                .network
                .call(&self.node, &broker.node, CONTROL, 2 * SEC, move || !seen.is_broken())
                .await;
            if alive != Ok(true) || connection.is_broken() {
                connection.cut();
                return;
            }
        }
    }

    fn outlet_changed(&self) {
        for shard in &self.shards {
            let mut batcher = shard.batcher.borrow_mut();
            batcher.go_offline();
            if self.outlet.borrow().is_some() {
                batcher.go_online();
            }
        }
        self.pump.notify();
    }

    /// Hands a write over: its effect to the batcher, who waits to the acknowledgements.
    pub(super) fn ship(&self, shard: &Shard, note: Note, level: Option<Level>) -> Option<Promise<Outcome>> {
        let waiting = level.map(|level| {
            let who = self.next_waiter.get();
            self.next_waiter.set(who + 1);
            let promise = Promise::new();
            shard.waiters.borrow_mut().insert(who, promise.clone());
            let effect = !note.effect.is_empty();
            let write = Write { incarnation: note.incarnation, seq: note.seq, effect, level };
            shard.acks.borrow_mut().wait(write, who, self.now_ms() + WAIT_MS);
            promise
        });
        if !note.effect.is_empty() {
            shard.batcher.borrow_mut().push(note.incarnation, note.seq, note.effect);
        }
        self.pump.notify();
        waiting
    }

    pub(super) async fn run_pump(self: Rc<Self>) {
        let sim = self.world.sim.clone();
        let mut away_since_ms = Some(0);
        let (mut ticked, mut thorough_ms) = (0, 0);
        loop {
            let wake = self.publish();
            self.tell();
            let waiting = self.shards.iter().any(|s| s.acks.borrow().waiting() > 0);
            let tick = ticked + if waiting { TICK.0 } else { TICK.1 };
            self.pump.wait_until(&sim, wake.unwrap_or(u64::MAX).min(tick)).await;
            if sim.now() >= tick {
                ticked = sim.now();
                self.tick(&mut away_since_ms, &mut thorough_ms);
            }
        }
    }

    /// Publishes what is due; says when something is due next.
    fn publish(self: &Rc<Self>) -> Option<Time> {
        let outlet = self.outlet.borrow().clone()?;
        let sim = &self.world.sim;
        let mut wake: Option<Time> = None;
        for shard in &self.shards {
            loop {
                let publish = shard.batcher.borrow_mut().poll(sim.now(), &mut || sim.new_id());
                let Some(publish) = publish else { break };
                self.publish_one(shard, &outlet, publish);
            }
            let due = shard.batcher.borrow().wake_us();
            wake = wake.into_iter().chain(due).min();
        }
        wake
    }

    fn publish_one(self: &Rc<Self>, shard: &Rc<Shard>, outlet: &Rc<Outlet>, publish: Publish) {
        let Publish { ticket, record, .. } = publish;
        let (proxy, to, generation) = (Rc::downgrade(self), Rc::clone(shard), outlet.generation);
        let settle = move |confirmed: bool| {
            if let Some(proxy) = proxy.upgrade() {
                proxy.settled(&to, generation, ticket, confirmed);
            }
        };
        self.world.broker(self.region).publish(&outlet.connection, shard.id, record, Rc::new(settle));
    }

    fn settled(self: &Rc<Self>, shard: &Rc<Shard>, generation: u64, ticket: u64, confirmed: bool) {
        if !self.process.is_alive()
            || self.outlet.borrow().as_ref().is_none_or(|o| o.generation != generation)
        {
            return;
        }
        if !confirmed {
            // The stream may be gone: it is declared again.
            let (broker, id) = (self.world.broker(self.region), shard.id);
            let node = Rc::clone(&broker.node);
            drop(self.world.network.call(&self.node, &node, CONTROL, SEC, move || broker.declare(id)));
        }
        let released = shard.batcher.borrow_mut().settle(ticket, confirmed, self.world.sim.now());
        if let Some(released) = released {
            shard.acks.borrow_mut().confirmed(released.incarnation, &released.ranges, self.now_ms());
            shard.moved();
            shard.trim.notify();
        }
        self.pump.notify();
    }

    /// Deadlines, and whether the broker is away.
    fn tick(&self, away_since_ms: &mut Option<u64>, thorough_ms: &mut u64) {
        let (micros, now_ms) = (self.world.sim.now(), self.now_ms());
        let reachable = self.outlet.borrow().is_some() && !self.world.broker(self.region).is_blocked();
        match (reachable, &away_since_ms) {
            (true, _) => *away_since_ms = None,
            (false, None) => *away_since_ms = Some(now_ms),
            (false, Some(_)) => {}
        }
        let gone = away_since_ms.is_some_and(|since| now_ms >= since + AWAY_MS);
        let thorough = now_ms >= *thorough_ms + 100;
        if thorough {
            *thorough_ms = now_ms;
        }
        let mut degraded = false;
        for shard in &self.shards {
            let batcher = shard.batcher.borrow();
            let stuck = batcher.oldest_us().is_some_and(|oldest| micros >= oldest + STUCK_US);
            let unrecovered = shard.seat().is_some_and(|seat| seat.serving && !seat.recovered);
            let away = gone || stuck || unrecovered;
            degraded |= away;
            let mut acks = shard.acks.borrow_mut();
            acks.broker(away);
            let mut wanted = acks.has_unchanged();
            if thorough {
                acks.tick(now_ms);
                wanted |= acks.has_unheld(&|incarnation, seq| batcher.holds(incarnation, seq));
            }
            if wanted {
                shard.outbox_wanted.set(true);
                shard.pulse.notify();
            }
        }
        self.degraded.set(degraded);
    }

    /// Tells those whose waiting is over.
    fn tell(&self) {
        for shard in &self.shards {
            if !shard.acks.borrow().has_done() {
                continue;
            }
            for (who, outcome) in shard.acks.borrow_mut().take() {
                if let Some(promise) = shard.waiters.borrow_mut().remove(&who) {
                    promise.give(outcome);
                }
            }
        }
    }
}
