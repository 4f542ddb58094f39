//! Reads one region's stream for one shard while this proxy has that duty: attaches where the engine's stored position
//! says, merges, stores the position with what was merged. The decisions are `mas_core::replication::reader`'s.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Consumer};
use mas_core::config::RegionRef;
use mas_core::replication::reader::{Attach, Merge, Merged, Reader};
use mas_core::replication::repair::Repair;
use mas_core::stamp::RegionId;

use super::broker::{self, BrokerConnection};
use super::engine::{EngineError, MergeCounts};
use super::feed::Feed;
use super::fetching;
use super::hub::{Hub, OwnStream, Seat, Shard, wall_ms};
use super::metrics::OfLink;

/// Messages that the broker sends ahead. With batches of up to 256 KiB: at most 16 MiB, 64 with parts.
const PREFETCH: u16 = 64;
/// Records that need no merge are acknowledged in groups of this size.
const IDLE_ACK: u64 = 16;
/// Pause after a session that ended, before the next.
const PAUSE: Duration = Duration::from_millis(200);
/// The same, when the stream is not there: its region declares it.
const MISSING_PAUSE: Duration = Duration::from_millis(500);
/// How long attaching may take.
const ATTACH_LIMIT: Duration = Duration::from_secs(5);

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    /// Another position, or another master: begin again at once.
    #[error("begin again")]
    Again,
    /// The duty is another proxy's now, or the master changed.
    #[error("the duty ended")]
    Duty,
    /// The broker or the stream is not there.
    #[error("the stream cannot be read: {0}")]
    Broker(#[from] lapin::Error),
    /// The consumer was cancelled: the stream was deleted or moved.
    #[error("the stream was taken away")]
    Cancelled,
    /// No answer to attaching.
    #[error("the broker does not answer")]
    Silent,
    /// The engine.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

type Merging = Pin<Box<dyn Future<Output = (Merge, Result<MergeCounts, EngineError>)>>>;

/// Reads whenever this proxy has the duty and the broker is there.
pub(crate) async fn run(hub: Rc<Hub>, shard: Rc<Shard>, region: RegionRef, mut feed: Feed) {
    let mut duties = shard.duties.subscribe();
    let id = RegionId(region.id);
    loop {
        let has_duty = duties.borrow_and_update().contains(&id);
        let connection = feed.borrow_and_update().clone();
        let seat = shard.seat();
        mark(&shard, id, |row| {
            row.link.reads = has_duty;
            row.link.attached = false;
        });
        if let (true, Some(connection), Some(seat)) = (has_duty, connection, seat) {
            let session = Session::new(&hub, &shard, &region, seat);
            match session.run(&connection, &mut feed).await {
                Ended::Again => continue,
                Ended::Duty => {}
                ended => {
                    tracing::debug!(peer = %region.name, shard = shard.id.0, why = %ended, "reading ended");
                    if matches!(ended, Ended::Engine(_)) {
                        hub.wiring.ask_again.notify_one();
                    }
                    let missing = matches!(&ended, Ended::Broker(error) if is_not_found(error));
                    tokio::time::sleep(if missing { MISSING_PAUSE } else { PAUSE }).await;
                }
            }
            continue;
        }
        tokio::select! {
            changed = duties.changed() => if changed.is_err() { return },
            changed = feed.changed() => if changed.is_err() { return },
        }
    }
}

fn mark(shard: &Shard, region: RegionId, change: impl FnOnce(&mut super::hub::LinkRow)) {
    if let Some(row) = shard.links.borrow_mut().get_mut(&region) {
        change(row);
    }
}

struct Session<'a> {
    hub: &'a Rc<Hub>,
    shard: &'a Rc<Shard>,
    region: RegionId,
    own: bool,
    of: OfLink,
    seat: Seat,
    machine: Reader,
    repair: Repair,
    /// A nonce read, and the offset that must be merged before it counts.
    nonce: Option<(u64, u64)>,
    unacked: u64,
    /// The highest tag acknowledged on this channel; twice would close it.
    acked: u64,
}

impl<'a> Session<'a> {
    fn new(hub: &'a Rc<Hub>, shard: &'a Rc<Shard>, region: &RegionRef, seat: Seat) -> Self {
        let id = RegionId(region.id);
        let own = id == hub.region();
        let live = own.then_some(seat.incarnation);
        let of = OfLink { peer: region.name.clone(), shard: shard.id.0 };
        let machine = Reader::new(id, shard.id, hub.region(), live);
        Self {
            hub,
            shard,
            region: id,
            own,
            of,
            seat,
            machine,
            repair: Repair::new(id),
            nonce: None,
            unacked: 0,
            acked: 0,
        }
    }

    async fn run(mut self, connection: &BrokerConnection, feed: &mut Feed) -> Ended {
        match self.try_run(connection, feed).await {
            Ok(never) => match never {},
            Err(ended) => ended,
        }
    }

    async fn try_run(
        &mut self,
        connection: &BrokerConnection,
        feed: &mut Feed,
    ) -> Result<std::convert::Infallible, Ended> {
        let engines = &self.hub.engines;
        // The cover first: it may lack what the position says, never the other way round.
        let word = engines.cover(&self.seat.address).await?;
        if word.incarnation != self.seat.incarnation {
            return Err(Ended::Duty);
        }
        let stored = engines.position(&self.seat.address, self.region).await?;
        let mut attach = self.machine.begin(stored, word.cover, self.hub.now_ms());
        loop {
            let channel = connection.connection.create_channel().await?;
            let consumer = match tokio::time::timeout(ATTACH_LIMIT, self.attach(&channel, attach)).await {
                Ok(Ok(consumer)) => consumer,
                // 404: the stream is not there (yet); otherwise the broker does not know the offset.
                Ok(Err(error))
                    if attach != Attach::First
                        && !is_not_found(&error)
                        && connection.connection.status().connected() =>
                {
                    attach = self.machine.not_there();
                    continue;
                }
                Ok(Err(error)) => return Err(error.into()),
                Err(_) => return Err(Ended::Silent),
            };
            tracing::debug!(peer = %self.of.peer, shard = self.of.shard, ?attach, "attached");
            self.machine.attached(self.hub.now_ms());
            mark(self.shard, self.region, |row| row.link.attached = true);
            attach = self.read(consumer, &channel, feed).await?;
            (self.unacked, self.acked) = (0, 0);
            let _ = channel.close(200, "again".into()).await;
        }
    }

    async fn attach(&self, channel: &Channel, attach: Attach) -> lapin::Result<Consumer> {
        channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
        let mut arguments = FieldTable::default();
        let from = match attach {
            Attach::At(offset) => AMQPValue::LongLongInt(offset as i64),
            Attach::First => AMQPValue::LongString("first".into()),
        };
        arguments.insert("x-stream-offset".into(), from);
        let stream = broker::stream_name(&self.hub.config().store, self.shard.id.0);
        channel.basic_consume(stream.into(), "".into(), BasicConsumeOptions::default(), arguments).await
    }

    /// Reads until it has to attach elsewhere.
    async fn read(
        &mut self,
        mut consumer: Consumer,
        channel: &Channel,
        feed: &mut Feed,
    ) -> Result<Attach, Ended> {
        let mut merging: Option<Merging> = None;
        let mut duties = self.shard.duties.subscribe();
        let mut seats = self.shard.seat.subscribe();
        let mut words = self.shard.word.subscribe();
        loop {
            let now_ms = self.hub.now_ms();
            if merging.is_none()
                && let Some(merge) = self.machine.next_merge(now_ms)
            {
                merging = Some(self.merge(merge));
            }
            let pause = self.machine.wake_ms().map_or(500, |at| at.saturating_sub(now_ms).clamp(1, 500));
            tokio::select! {
                (merge, result) = async { match merging.as_mut() {
                    Some(merging) => merging.await,
                    None => std::future::pending().await,
                } } => {
                    merging = None;
                    self.merged(&merge, result, channel)?;
                }
                delivery = consumer.next(), if self.machine.has_room() => {
                    let delivery = delivery.ok_or(Ended::Cancelled)??;
                    if let Some(attach) = self.delivered(delivery, channel) {
                        return Ok(attach);
                    }
                }
                changed = words.changed() => {
                    if changed.is_err() {
                        return Err(Ended::Duty);
                    }
                    self.heard(&words.borrow_and_update().clone());
                }
                changed = duties.changed() => {
                    if changed.is_err() || !duties.borrow_and_update().contains(&self.region) {
                        return Err(Ended::Duty);
                    }
                }
                changed = seats.changed() => {
                    let same = seats.borrow_and_update().as_ref().is_some_and(|seat| {
                        (&seat.address, seat.incarnation) == (&self.seat.address, self.seat.incarnation)
                    });
                    if changed.is_err() || !same {
                        return Err(Ended::Duty);
                    }
                }
                changed = feed.changed() => {
                    if changed.is_err() || feed.borrow().is_none() {
                        return Err(Ended::Silent);
                    }
                }
                () = tokio::time::sleep(Duration::from_millis(pause)) => {}
            }
            if let Some(attach) = self.machine.silent(self.hub.now_ms()) {
                return Ok(attach);
            }
        }
    }

    fn delivered(&mut self, delivery: Delivery, channel: &Channel) -> Option<Attach> {
        let offset =
            match delivery.properties.headers().as_ref().and_then(|h| h.inner().get("x-stream-offset")) {
                Some(AMQPValue::LongLongInt(offset)) => *offset as u64,
                // A broker that does not number records is no stream.
                _ => return None,
            };
        let tag = delivery.delivery_tag;
        let bytes = Bytes::from(delivery.data);
        let seen = self.machine.delivered(offset, bytes.clone(), tag);
        self.unacked += 1;
        if let Some(why) = seen.dead {
            self.dead(bytes, &why);
        }
        if let Some((origin, beat)) = seen.beat {
            if self.own {
                let own = self.shard.own.get();
                self.shard.own.set(OwnStream { clock: own.clock.max(beat.clock), ..own });
            }
            mark(self.shard, self.region, |row| {
                row.health.beat(origin, &beat, wall_ms());
                row.link.truncated = self.machine.is_truncated();
                row.backlog_bytes = self.machine.backlog_bytes();
            });
            if !self.own {
                self.hub.peer_beat(self.shard, origin, beat.epoch, beat.cover);
            }
        }
        if let Some(want) = seen.want {
            fetching::serve(self.hub, self.shard, &self.seat, self.region, &self.of, want);
        }
        if let Some(nonce) = seen.nonce {
            self.nonce = Some((nonce, offset));
        }
        if self.own {
            self.shard.moved();
        }
        self.check_nonce();
        if self.machine.looks_ahead() {
            self.ack(tag, channel);
        } else if self.unacked >= IDLE_ACK
            && let Some(tag) = self.machine.idle_tag()
        {
            self.ack(tag, channel);
        }
        seen.reattach
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
        }
    }

    fn ack(&mut self, tag: u64, channel: &Channel) {
        self.unacked = 0;
        if tag <= self.acked {
            return;
        }
        self.acked = tag;
        let channel = channel.clone();
        tokio::task::spawn_local(async move {
            // Only flow control: where reading goes on is stored with the data.
            let _ = channel.basic_ack(tag, BasicAckOptions { multiple: true }).await;
        });
    }

    fn merge(&self, merge: Merge) -> Merging {
        let (hub, shard) = (Rc::clone(self.hub), Rc::clone(self.shard));
        let (seat, region) = (self.seat.clone(), self.region);
        Box::pin(async move {
            let engines = &hub.engines;
            let result = engines.merge(&seat.address, seat.incarnation, region, &merge).await;
            if result.as_ref().is_ok_and(|counts| counts.adopted > 0)
                && let Ok(word) = engines.cover(&seat.address).await
                && word.incarnation == seat.incarnation
            {
                // The next piece is asked for at once.
                shard.word.send_replace(word);
            }
            (merge, result)
        })
    }

    fn merged(
        &mut self,
        merge: &Merge,
        result: Result<MergeCounts, EngineError>,
        channel: &Channel,
    ) -> Result<(), Ended> {
        let now_ms = self.hub.now_ms();
        let metrics = &self.hub.metrics;
        let mut skewed = false;
        let outcome = match result {
            Ok(counts) => {
                if counts.adopted + counts.refused > 0 {
                    metrics.state_adopted.get_or_create(&self.of).inc_by(counts.adopted);
                    metrics.state_refused.get_or_create(&self.of).inc_by(counts.refused);
                    mark(self.shard, self.region, |row| row.link.refused = counts.adopted == 0);
                }
                metrics.merged.get_or_create(&self.of).inc_by(counts.merged);
                metrics.duplicates.get_or_create(&self.of).inc_by(counts.duplicates);
                metrics.overruled.get_or_create(&self.of).inc_by(counts.overruled);
                if counts.merged > 0 {
                    self.hub.wiring.clocks.observe(self.shard.id, merge.hlc);
                    let lag_ms = wall_ms().saturating_sub(merge.hlc.millis());
                    metrics.merge_lag_seconds.observe(lag_ms as f64 / 1000.0);
                }
                Merged::Done
            }
            Err(EngineError::Decode(index)) => Merged::Undecodable(index),
            Err(EngineError::Skew(why)) => {
                tracing::warn!(peer = %self.of.peer, shard = self.of.shard, %why, "a merge is held back");
                skewed = true;
                Merged::Held
            }
            Err(EngineError::Gaps) => Merged::Gaps,
            Err(EngineError::Busy(why)) => {
                tracing::warn!(peer = %self.of.peer, shard = self.of.shard, %why, "a merge is held back");
                Merged::Held
            }
            Err(EngineError::Position) => return Err(Ended::Again),
            Err(error) => return Err(error.into()),
        };
        let held = matches!(outcome, Merged::Held | Merged::Gaps);
        if held {
            metrics.held.get_or_create(&self.of).inc();
        }
        let (tag, dead) = self.machine.merged(outcome, now_ms);
        mark(self.shard, self.region, |row| {
            row.link.held = held;
            row.link.skewed = skewed;
            row.backlog_bytes = self.machine.backlog_bytes();
        });
        if let Some(record) = dead {
            self.dead(record, "the engine cannot decode it");
        }
        if let Some(tag) = tag {
            self.ack(tag, channel);
        }
        self.check_nonce();
        Ok(())
    }

    fn dead(&self, record: Bytes, why: &str) {
        tracing::error!(peer = %self.of.peer, shard = self.of.shard, %why, "a record goes to the dead letters");
        self.hub.metrics.dead_letters.get_or_create(&self.of).inc();
        self.hub.dead_letter(record);
    }

    /// The engine told its cover.
    fn heard(&mut self, word: &mas_core::replication::heartbeat::Word) {
        if word.incarnation == self.seat.incarnation {
            self.machine.covered(word.cover.clone());
        }
        if !self.own {
            let links = self.shard.links.borrow();
            // What is held back comes once its clock, memory or gaps allow it.
            let missing =
                links.get(&self.region).is_some_and(|row| row.health.missing() > 0 && !row.link.held);
            drop(links);
            fetching::ask(self.hub, self.shard, &self.seat, &mut self.repair, &self.of, word, missing);
        }
    }
}

fn is_not_found(error: &lapin::Error) -> bool {
    matches!(error.kind(), lapin::ErrorKind::ProtocolError(e) if e.get_id() == 404)
}
