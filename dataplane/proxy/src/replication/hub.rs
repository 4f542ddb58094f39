//! What the tasks of the replication thread share: configuration, engines, the shards' machines, and the way in for
//! effects from the front's threads.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use mas_core::config::{AckLevel, ProxyConfig};
use mas_core::cover::Cover;
use mas_core::record::Record;
use mas_core::replication::ack::Acks;
use mas_core::replication::batcher::{Batcher, Pace};
use mas_core::replication::health::{Health, Link};
use mas_core::replication::heartbeat::Word;
use mas_core::stamp::{Hlc, Incarnation, Origin, RegionId, ShardId};
use tokio::sync::{Notify, watch};

use super::engine::Engines;
use super::metrics::Metrics;
use crate::front::replication::{LinkStatus, Wiring};
use crate::link::{Shipment, Waiter};

/// Most bytes of effects that wait to be taken by the replication thread; beyond it they are left to the outbox.
const INBOX_BYTES_MAX: usize = 64 << 20;
/// Most dead letters that wait to be published.
const DEAD_LETTERS_MAX: usize = 64;

/// Where workers put shipments.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    queue: std::sync::Mutex<(Vec<Shipped>, usize)>,
    pub(crate) wake: Notify,
}

/// A shipment, and whether it has an effect (which may have been left to the outbox).
#[derive(Debug)]
pub(crate) struct Shipped {
    pub(crate) shipment: Shipment,
    pub(crate) effect: bool,
}

impl Inbox {
    /// Takes a batch; wakes the thread once for all that waits.
    pub(crate) fn put(&self, shipments: Vec<Shipment>) {
        let wake = {
            let mut queue = self.queue.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let was_empty = queue.0.is_empty();
            for mut shipment in shipments {
                let effect = !shipment.note.effect.is_empty();
                if !effect && shipment.wait.is_none() {
                    continue;
                }
                if queue.1 + shipment.note.effect.len() > INBOX_BYTES_MAX {
                    shipment.note.effect = Bytes::new();
                }
                queue.1 += shipment.note.effect.len();
                queue.0.push(Shipped { shipment, effect });
            }
            was_empty && !queue.0.is_empty()
        };
        if wake {
            self.wake.notify_one();
        }
    }

    pub(crate) fn take(&self) -> Vec<Shipped> {
        let mut queue = self.queue.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        queue.1 = 0;
        std::mem::take(&mut queue.0)
    }
}

/// What other threads may look at without asking.
#[derive(Debug, Default)]
pub(crate) struct Published {
    /// The broker is away for some shard, or a shard is not recovered.
    pub(crate) degraded: AtomicBool,
    pub(crate) links: std::sync::Mutex<Vec<LinkStatus>>,
    pub(crate) info: std::sync::Mutex<Vec<(String, String)>>,
}

/// The engine that is a shard's master now, serving or recovering.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seat {
    pub(crate) address: String,
    pub(crate) incarnation: Incarnation,
    pub(crate) epoch: u64,
    pub(crate) serving: bool,
    pub(crate) recovered: bool,
}

/// One link as this proxy sees it.
#[derive(Debug)]
pub(crate) struct LinkRow {
    pub(crate) name: String,
    pub(crate) health: Health,
    pub(crate) link: Link,
    pub(crate) backlog_bytes: u64,
    /// The state that the metrics show.
    pub(crate) shown: Option<&'static str>,
}

/// What the region's own stream told.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct OwnStream {
    /// The last nonce read of which everything before it is merged.
    pub(crate) merged_nonce: Option<u64>,
    /// The highest clock in a heartbeat.
    pub(crate) clock: Hlc,
}

/// One shard of this region.
pub(crate) struct Shard {
    pub(crate) id: ShardId,
    pub(crate) batcher: RefCell<Batcher>,
    pub(crate) acks: RefCell<Acks<Waiter>>,
    pub(crate) seat: watch::Sender<Option<Seat>>,
    /// The seat's own word, a few times a second.
    pub(crate) word: watch::Sender<Word>,
    pub(crate) links: RefCell<BTreeMap<RegionId, LinkRow>>,
    pub(crate) own: Cell<OwnStream>,
    /// Which streams this proxy reads, by region.
    pub(crate) duties: watch::Sender<Vec<RegionId>>,
    /// Grows whenever something moves; recovery watches it.
    pub(crate) progress: Cell<u64>,
    /// Regions that a piece of state is being made for.
    pub(crate) answering: RefCell<BTreeSet<RegionId>>,
    pub(crate) trim: Notify,
    /// Somebody waits for the engine's outbox to tell.
    pub(crate) outbox_wanted: Notify,
    /// A peer's cover has grown.
    pub(crate) peers_moved: Notify,
    /// The last answer to who awaits a token.
    pub(crate) recent: tokio::sync::Mutex<Option<(tokio::time::Instant, Seat, Word)>>,
}

impl Shard {
    fn new(config: &ProxyConfig, id: u16) -> Self {
        let region = RegionId(config.region.id);
        Self {
            id: ShardId(id),
            batcher: RefCell::new(Batcher::new(region, ShardId(id), Pace::default())),
            acks: RefCell::new(Acks::new(region, config.on_broker_loss)),
            seat: watch::Sender::new(None),
            word: watch::Sender::new(Word::default()),
            links: RefCell::default(),
            own: Cell::default(),
            duties: watch::Sender::new(Vec::new()),
            progress: Cell::new(0),
            answering: RefCell::default(),
            trim: Notify::new(),
            outbox_wanted: Notify::new(),
            peers_moved: Notify::new(),
            recent: tokio::sync::Mutex::default(),
        }
    }

    pub(crate) fn moved(&self) {
        self.progress.set(self.progress.get() + 1);
    }

    /// The seat, if there is one.
    pub(crate) fn seat(&self) -> Option<Seat> {
        self.seat.borrow().clone()
    }
}

/// See the module.
pub(crate) struct Hub {
    pub(crate) config: watch::Receiver<Arc<ProxyConfig>>,
    pub(crate) wiring: Wiring,
    pub(crate) engines: Engines,
    pub(crate) shards: Vec<Rc<Shard>>,
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) published: Arc<Published>,
    pub(crate) metrics: Metrics,
    /// Names this proxy in claims.
    pub(crate) proxy: u64,
    /// Something besides effects is to be published.
    pub(crate) pump: Notify,
    pub(crate) dead_letters: RefCell<Vec<Bytes>>,
    /// Heartbeats for those who do not read the stream, to be published.
    pub(crate) beats: RefCell<Vec<Bytes>>,
    /// Somebody asks for peers' covers; every proxy listens to heartbeats from then on.
    pub(crate) want_beats: watch::Sender<bool>,
    start: Instant,
}

impl Hub {
    pub(crate) fn new(
        wiring: Wiring,
        inbox: Arc<Inbox>,
        published: Arc<Published>,
        metrics: Metrics,
    ) -> Self {
        let config = wiring.config.clone();
        let shards =
            config.borrow().shards.iter().map(|s| Rc::new(Shard::new(&config.borrow(), s.shard))).collect();
        let want_beats = watch::Sender::new(config.borrow().ack == AckLevel::Remote);
        Self {
            config,
            wiring,
            engines: Engines::default(),
            shards,
            inbox,
            published,
            metrics,
            proxy: rand::random(),
            pump: Notify::new(),
            dead_letters: RefCell::default(),
            beats: RefCell::default(),
            want_beats,
            start: Instant::now(),
        }
    }

    pub(crate) fn config(&self) -> Arc<ProxyConfig> {
        Arc::clone(&self.config.borrow())
    }

    pub(crate) fn region(&self) -> RegionId {
        RegionId(self.config.borrow().region.id)
    }

    pub(crate) fn shard(&self, id: ShardId) -> Option<&Rc<Shard>> {
        self.shards.iter().find(|s| s.id == id)
    }

    /// Since the start, microseconds.
    pub(crate) fn now_us(&self) -> u64 {
        self.start.elapsed().as_micros() as u64
    }

    /// Since the start, milliseconds.
    pub(crate) fn now_ms(&self) -> u64 {
        self.start.elapsed().as_millis() as u64
    }

    /// Keeps a record that cannot be used until it is published to the dead letters.
    pub(crate) fn dead_letter(&self, record: Bytes) {
        let mut letters = self.dead_letters.borrow_mut();
        if letters.len() < DEAD_LETTERS_MAX {
            letters.push(record);
            self.pump.notify_one();
        }
    }

    /// A heartbeat of a peer was read or heard.
    pub(crate) fn peer_beat(&self, shard: &Shard, origin: Origin, epoch: u64, cover: Cover) {
        shard.acks.borrow_mut().peer(origin.region, epoch, cover);
        shard.peers_moved.notify_waiters();
        if shard.acks.borrow().has_done() {
            self.pump.notify_one();
        }
    }

    /// Publishes a heartbeat: in the stream, and to those who only listen.
    pub(crate) fn publish_heartbeat(&self, shard: &Shard, record: &Record) {
        shard.batcher.borrow_mut().push_heartbeat(record);
        let mut beats = self.beats.borrow_mut();
        if beats.len() < self.shards.len() {
            beats.push(record.encode());
        }
        self.pump.notify_one();
    }
}

/// Unix milliseconds.
pub(crate) fn wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

/// A random record id; never 0, which names no record.
pub(crate) fn new_id() -> u64 {
    rand::random::<u64>().max(1)
}

impl Published {
    pub(crate) fn is_degraded(&self) -> bool {
        self.degraded.load(Ordering::Relaxed)
    }
}
