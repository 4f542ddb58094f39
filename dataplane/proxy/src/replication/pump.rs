//! The pump: moves effects from the front to the batchers, records to the broker, confirmations to who waits. One task
//! for all shards; it wakes for batches, never for single effects.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use lapin::options::BasicPublishOptions;
use lapin::{BasicProperties, Channel, Confirmation};
use mas_core::config::AckLevel;
use mas_core::record::Record;
use mas_core::replication::ack::{Level, Outcome, Write};
use mas_core::replication::batcher::Publish;
use mas_core::stamp::ShardId;
use tokio::sync::watch;
use tokio::time::Instant;

use super::hub::{Hub, Shard, new_id};
use super::metrics::Metrics;
use super::publisher::Outlet;
use crate::link::{AckEvent, Acknowledged, Waiter};

/// How long a write may wait for its level. Longer than any failover inside a region takes.
const WAIT_MS: u64 = 10_000;
/// Deadlines and the broker's state are looked at so often, while somebody waits and while nobody does.
const TICK: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(100));
/// Without a connection, or blocked by the broker, for so long: it counts as away.
const AWAY_MS: u64 = 500;
/// A record unconfirmed for so long: the broker counts as away.
const STUCK_US: u64 = 2_000_000;

/// How one publication ended.
struct Settled {
    shard: ShardId,
    ticket: u64,
    id: u64,
    generation: u64,
    /// The broker's word, and the id of a message that it returned with it.
    word: Result<(bool, Option<u64>), lapin::Error>,
}

type Confirming = Pin<Box<dyn Future<Output = Settled>>>;

/// See the module.
pub(crate) struct Pump {
    hub: Rc<Hub>,
    outlet: watch::Receiver<Option<Rc<Outlet>>>,
    current: Option<Rc<Outlet>>,
    confirming: FuturesUnordered<Confirming>,
    /// Since when there is no outlet, or it is blocked.
    away_since_ms: Option<u64>,
    outgoing: Vec<Vec<AckEvent>>,
    /// When all that waits was last looked at.
    thorough_ms: u64,
}

impl Pump {
    pub(crate) fn new(hub: Rc<Hub>, outlet: watch::Receiver<Option<Rc<Outlet>>>) -> Self {
        let workers = hub.wiring.acks.len();
        Self {
            hub,
            outlet,
            current: None,
            confirming: FuturesUnordered::new(),
            away_since_ms: Some(0),
            outgoing: vec![Vec::new(); workers],
            thorough_ms: 0,
        }
    }

    pub(crate) async fn run(mut self) {
        let hub = Rc::clone(&self.hub);
        let mut ticked = Instant::now();
        loop {
            let wake = self.publish();
            self.tell();
            let now_us = hub.now_us();
            let pause = wake.map(|at| Duration::from_micros(at.saturating_sub(now_us)));
            let timer = async {
                match pause {
                    Some(pause) => tokio::time::sleep_until(Instant::now() + pause).await,
                    None => std::future::pending().await,
                }
            };
            let waiting = hub.shards.iter().any(|shard| shard.acks.borrow().waiting() > 0);
            let tick = ticked + if waiting { TICK.0 } else { TICK.1 };
            tokio::select! {
                biased;
                Some(settled) = self.confirming.next() => self.settle(settled),
                () = hub.inbox.wake.notified() => {}
                () = hub.pump.notified() => {}
                changed = self.outlet.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.change_outlet();
                }
                () = timer => {}
                () = tokio::time::sleep_until(tick) => {}
            }
            self.take_inbox();
            if Instant::now() >= tick {
                ticked = Instant::now();
                self.tick();
            }
        }
    }

    fn take_inbox(&mut self) {
        let deadline_ms = self.hub.now_ms() + WAIT_MS;
        for shipped in self.hub.inbox.take() {
            let shipment = shipped.shipment;
            let Some(shard) = self.hub.shard(shipment.shard) else {
                if let Some(wait) = shipment.wait {
                    self.outgoing(wait.waiter, Acknowledged::Failed);
                }
                continue;
            };
            let note = shipment.note;
            if let Some(wait) = shipment.wait {
                let level = match wait.level {
                    AckLevel::Remote => {
                        self.hub.want_beats.send_if_modified(|want| !std::mem::replace(want, true));
                        Level::Remote(wait.regions)
                    }
                    AckLevel::Queued | AckLevel::Local => Level::Queued,
                };
                let write =
                    Write { incarnation: note.incarnation, seq: note.seq, effect: shipped.effect, level };
                shard.acks.borrow_mut().wait(write, wait.waiter, deadline_ms);
            }
            if !note.effect.is_empty() {
                shard.batcher.borrow_mut().push(note.incarnation, note.seq, note.effect);
            }
        }
    }

    /// Publishes what is due; says when something is due next, microseconds.
    fn publish(&mut self) -> Option<u64> {
        let outlet = self.current.clone()?;
        let now_us = self.hub.now_us();
        let mut wake: Option<u64> = None;
        for shard in &self.hub.shards {
            let Some(channel) = outlet.channel(shard.id) else { continue };
            let mut batcher = shard.batcher.borrow_mut();
            while let Some(publish) = batcher.poll(now_us, &mut new_id) {
                let of = Metrics::of(shard.id);
                let metrics = &self.hub.metrics;
                metrics.published_records.get_or_create(&of).inc();
                if publish.effects > 0 {
                    metrics.published_effects.get_or_create(&of).inc_by(publish.effects as u64);
                    metrics.batch_effects.observe(publish.effects as f64);
                }
                let stream = outlet.stream(shard.id);
                self.confirming.push(publish_one(
                    channel.clone(),
                    stream,
                    shard.id,
                    outlet.generation,
                    publish,
                ));
            }
            wake = match (wake, batcher.wake_us()) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
        }
        outlet.publish_extras(&self.hub);
        wake
    }

    /// Takes the broker's words in groups: lapin hands a returned message to whichever confirmation comes next, so both
    /// that one and the one that the returned message names count as not confirmed. The bearer was resolved before the
    /// one that was returned, hence is in the same group at the latest.
    fn settle(&mut self, first: Settled) {
        let mut group = vec![first];
        while let Some(Some(next)) = self.confirming.next().now_or_never() {
            group.push(next);
        }
        let mut doubtful: Vec<u64> = Vec::new();
        for settled in &group {
            if let Ok((_, Some(returned))) = settled.word {
                doubtful.extend([settled.id, returned]);
            }
        }
        let generation = self.current.as_ref().map(|outlet| outlet.generation);
        let now_us = self.hub.now_us();
        let mut broken = None;
        for settled in group {
            if Some(settled.generation) != generation {
                continue;
            }
            let Some(shard) = self.hub.shard(settled.shard).cloned() else { continue };
            let confirmed = match &settled.word {
                Ok((acked, _)) => *acked && !doubtful.contains(&settled.id),
                Err(error) => {
                    broken = Some(error.to_string());
                    continue;
                }
            };
            let of = Metrics::of(shard.id);
            if !confirmed {
                self.hub.metrics.refused_records.get_or_create(&of).inc();
                if let Some(outlet) = &self.current {
                    outlet.refused(shard.id);
                }
            }
            let released = shard.batcher.borrow_mut().settle(settled.ticket, confirmed, now_us);
            if let Some(released) = released {
                let effects: u64 = released.ranges.iter().map(|(first, last)| last - first + 1).sum();
                self.hub.metrics.confirmed_effects.get_or_create(&of).inc_by(effects);
                self.hub.metrics.confirm_seconds.observe(released.took_us as f64 / 1e6);
                shard.acks.borrow_mut().confirmed(released.incarnation, &released.ranges, now_us / 1000);
                shard.moved();
                shard.trim.notify_one();
            }
        }
        if let (Some(why), Some(outlet)) = (broken, &self.current) {
            outlet.broke(&why);
        }
    }

    fn change_outlet(&mut self) {
        self.current.clone_from(&self.outlet.borrow_and_update());
        for shard in &self.hub.shards {
            let mut batcher = shard.batcher.borrow_mut();
            batcher.go_offline();
            if self.current.as_ref().is_some_and(|outlet| outlet.channel(shard.id).is_some()) {
                batcher.go_online();
            }
        }
        self.tick();
    }

    /// Deadlines, and whether the broker is away.
    fn tick(&mut self) {
        let micros = self.hub.now_us();
        let now_ms = micros / 1000;
        let reachable = self.current.as_ref().is_some_and(|outlet| !outlet.is_blocked());
        match (reachable, self.away_since_ms) {
            (true, _) => self.away_since_ms = None,
            (false, None) => self.away_since_ms = Some(now_ms),
            (false, Some(_)) => {}
        }
        let gone = self.away_since_ms.is_some_and(|since| now_ms >= since + AWAY_MS);
        let mut degraded = false;
        let thorough = now_ms >= self.thorough_ms + TICK.1.as_millis() as u64;
        if thorough {
            self.thorough_ms = now_ms;
        }
        for shard in &self.hub.shards {
            let batcher = shard.batcher.borrow();
            let stuck = batcher.oldest_us().is_some_and(|oldest| micros >= oldest + STUCK_US);
            // A recovering engine takes no writes; one that serves unrecovered promises `Local` at most.
            let unrecovered =
                shard.seat.borrow().as_ref().is_some_and(|seat| seat.serving && !seat.recovered);
            let mut acks = shard.acks.borrow_mut();
            acks.broker(gone || stuck || unrecovered);
            degraded |= gone || stuck || unrecovered;
            let mut wanted = acks.has_unchanged();
            if thorough {
                acks.tick(now_ms);
                wanted |= acks.has_unheld(&|incarnation, seq| batcher.holds(incarnation, seq));
            }
            if wanted {
                shard.outbox_wanted.notify_one();
            }
            let of = Metrics::of(shard.id);
            self.hub.metrics.unconfirmed.get_or_create(&of).set(batcher.unconfirmed() as i64);
            self.hub.metrics.kept.get_or_create(&of).set(batcher.kept_bytes() as i64);
        }
        self.hub.metrics.degraded.set(i64::from(degraded));
        self.hub.published.degraded.store(degraded, std::sync::atomic::Ordering::Relaxed);
    }

    fn outgoing(&mut self, waiter: Waiter, outcome: Acknowledged) {
        if let Some(events) = self.outgoing.get_mut(usize::from(waiter.worker)) {
            events.push(AckEvent { token: waiter.token, outcome });
        }
    }

    /// Sends what the workers are to be told, one message a worker.
    fn tell(&mut self) {
        let shards: Vec<Rc<Shard>> = self.hub.shards.clone();
        for shard in shards {
            if !shard.acks.borrow().has_done() {
                continue;
            }
            let done = shard.acks.borrow_mut().take();
            for (waiter, outcome) in done {
                let outcome = match outcome {
                    Outcome::Reached => Acknowledged::Yes,
                    Outcome::Degraded => {
                        self.hub.metrics.degraded_writes.inc();
                        Acknowledged::Degraded
                    }
                    Outcome::Unavailable => Acknowledged::Unavailable,
                    Outcome::Failed => {
                        self.hub.metrics.failed_writes.inc();
                        Acknowledged::Failed
                    }
                };
                self.outgoing(waiter, outcome);
            }
        }
        for (worker, events) in self.outgoing.iter_mut().enumerate() {
            if !events.is_empty() {
                // A worker that is gone has nobody left to tell.
                let _ = self.hub.wiring.acks[worker].send(std::mem::take(events));
            }
        }
    }
}

fn publish_one(
    channel: Channel,
    stream: String,
    shard: ShardId,
    generation: u64,
    publish: Publish,
) -> Confirming {
    let Publish { ticket, id, record, .. } = publish;
    Box::pin(async move {
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let confirm = async {
            let confirm = channel
                .basic_publish("".into(), stream.into(), options, &record, BasicProperties::default())
                .await?;
            confirm.await
        };
        let word = confirm.await.map(|confirmation| match confirmation {
            Confirmation::Ack(returned) => (true, returned.and_then(|m| Record::peek_id(&m.data))),
            Confirmation::Nack(returned) => (false, returned.and_then(|m| Record::peek_id(&m.data))),
            Confirmation::NotRequested => (false, None),
        });
        Settled { shard, ticket, id, generation, word }
    })
}
