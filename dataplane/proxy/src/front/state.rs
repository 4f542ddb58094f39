//! Everything that one worker owns. Its tasks (clients, engine connections, control) borrow it in turns, never
//! across a wait, so that nothing needs a lock.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::task::Waker;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use mas_core::stamp::{Incarnation, ShardId};
use tokio::sync::Notify;

use super::clients::Clients;
use super::counters::{Counters, Totals};
use super::detour::Detour;
use super::limits::{self, OutputBounds};
use super::pipe::{Held, Pipe};
use super::replication::{Clocks, Replication};
use super::routing::{Master, Masters};
use super::settings::Settings;
use crate::link::Shipment;
use crate::resp::request::Span;

/// What all workers of a proxy share.
#[derive(Debug)]
pub struct Shared {
    /// Numbers for metrics and `INFO`.
    pub totals: Totals,
    /// The id of the next client connection.
    pub next_client: AtomicU64,
    /// SIGTERM came: finish what is under way.
    pub draining: AtomicBool,
    /// Told when a master may have changed.
    pub ask_again: Arc<Notify>,
    /// When the proxy started.
    pub started: Instant,
}

/// A worker's state behind its cell.
pub type Cell = Rc<RefCell<State>>;

/// Everything that one worker owns.
pub struct State {
    /// The worker's number.
    pub worker: u16,
    /// What all workers share.
    pub shared: Arc<Shared>,
    /// The other side of the proxy.
    pub replication: Arc<dyn Replication>,
    /// Highest clocks seen.
    pub clocks: Clocks,
    /// The configuration now.
    pub settings: Arc<Settings>,
    /// The masters now.
    pub masters: Arc<Masters>,
    /// Since when each shard has none.
    pub alone_since: Vec<Option<Instant>>,
    /// The clients.
    pub clients: Clients,
    /// Connections to engines: two a shard, RESP2 and RESP3.
    pub upstreams: Vec<Upstream>,
    /// Numbers not published yet.
    pub counters: Counters,
    /// Effects of the replies that are being looked at.
    pub shipments: Vec<Shipment>,
    /// Their bytes, one buffer a batch.
    pub effects: BytesMut,
    /// Clients with output that was not handed to their sockets yet.
    pub dirty: Vec<u32>,
    /// Engine connections with requests that were not handed to their sockets yet.
    pub filled: Vec<usize>,
    /// Scratch: words of the request that is being looked at.
    pub words: Vec<Span>,
    /// Scratch: what is read from a client.
    pub read_buf: Box<[u8]>,
    /// Bytes of partly arrived requests, all clients together.
    pub input_bytes: usize,
    /// Output that waits to be taken, all clients together.
    pub output_bytes: usize,
    /// How much of it there may be.
    pub output: OutputBounds,
    /// Clients that wait until some engine connection has room.
    pub crowded: Vec<u32>,
    /// The cell that this state is in, for answers that come later.
    pub cell: Weak<RefCell<State>>,
    /// The worker's clock.
    pub clock: Clock,
}

/// A worker's clock: microseconds, wrapping after 71 minutes; good for waits shorter than that.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant);

impl Clock {
    /// The time.
    pub fn now(self) -> u32 {
        self.0.elapsed().as_micros() as u32
    }
}

/// One connection to a shard's master, whichever that is.
#[derive(Debug)]
pub struct Upstream {
    /// The shard.
    pub shard: ShardId,
    /// Whether it speaks RESP3.
    pub resp3: bool,
    /// Whether some client wants it; RESP3 connections are opened when the first client asks for RESP3.
    pub wanted: bool,
    /// How it stands.
    pub link: Link,
    /// What is in flight.
    pub pipe: Pipe,
    /// What was refused or lost, to be sent first.
    pub retry: VecDeque<Held>,
    /// What came meanwhile.
    pub hold: VecDeque<Held>,
    /// Bytes of both.
    pub held_bytes: usize,
    /// The way to another region, which serves the shard meanwhile.
    pub detour: Option<Box<Detour>>,
    /// Before this, no other region is tried (again).
    pub detour_after: Option<Instant>,
    /// A master that refused a request: the round of words on masters that was known then.
    pub refused: Option<(Incarnation, u64)>,
    /// Wakes the task that owns the socket.
    pub waker: Option<Waker>,
    /// Whether it was woken already and has not run since.
    pub woken: bool,
    /// Whether it is in the list of those that got requests.
    pub listed: bool,
    /// When the engine last sent anything, or was idle.
    pub heard: u32,
}

/// How a connection to an engine stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Link {
    /// There is none; requests are held.
    Down,
    /// Requests are sent.
    Up(Master),
    /// Replies are awaited, new requests are held: the master has changed.
    Leaving {
        /// Since when.
        since: u32,
        /// Of the master that is left.
        incarnation: Incarnation,
    },
}

impl Link {
    /// The incarnation that requests on it mean or meant.
    pub fn incarnation(&self) -> Incarnation {
        match self {
            Self::Down => Incarnation::NONE,
            Self::Up(master) => master.incarnation,
            Self::Leaving { incarnation, .. } => *incarnation,
        }
    }
}

impl Upstream {
    /// Not connected.
    pub fn new(shard: ShardId, resp3: bool) -> Self {
        Self {
            shard,
            resp3,
            wanted: !resp3,
            link: Link::Down,
            pipe: Pipe::default(),
            retry: VecDeque::new(),
            hold: VecDeque::new(),
            held_bytes: 0,
            detour: None,
            detour_after: None,
            refused: None,
            waker: None,
            woken: false,
            listed: false,
            heard: 0,
        }
    }

    /// Wakes its task once.
    pub fn wake(&mut self) {
        if !std::mem::replace(&mut self.woken, true)
            && let Some(waker) = &self.waker
        {
            waker.wake_by_ref();
        }
    }

    /// Takes out what has waited too long for a master. What may go to another region may wait for that a little longer.
    pub fn take_overdue(&mut self, now: u32) -> Vec<Held> {
        let more = if self.detour.is_some() { limits::DETOUR_FOR } else { Duration::ZERO };
        let mut overdue = Vec::new();
        for queue in [&mut self.retry, &mut self.hold] {
            for _ in 0..queue.len() {
                let Some(held) = queue.pop_front() else { break };
                let more = if held.ticket.mark.is_set() { Duration::ZERO } else { more };
                if now.wrapping_sub(held.since) >= limits::micros(limits::HELD_FOR + more) {
                    self.held_bytes -= held.frame.len();
                    overdue.push(held);
                } else {
                    queue.push_back(held);
                }
            }
        }
        overdue
    }

    /// How many requests wait for a master.
    pub fn held(&self) -> usize {
        self.retry.len() + self.hold.len()
    }
}

/// What a worker is made of.
pub struct Parts {
    /// Its number.
    pub worker: u16,
    /// What all workers share.
    pub shared: Arc<Shared>,
    /// The other side of the proxy.
    pub replication: Arc<dyn Replication>,
    /// Highest clocks seen.
    pub clocks: Clocks,
    /// The configuration.
    pub settings: Arc<Settings>,
    /// How much output may wait for clients.
    pub output: OutputBounds,
}

impl State {
    /// A worker without clients and connections.
    pub fn new(parts: Parts) -> Self {
        let Parts { worker, shared, replication, clocks, settings, output } = parts;
        let shards = settings.shards();
        let upstreams = (0..shards * 2).map(|n| Upstream::new(ShardId(n / 2), n % 2 == 1)).collect();
        Self {
            worker,
            shared,
            replication,
            clocks,
            masters: Arc::default(),
            alone_since: vec![Some(Instant::now()); usize::from(shards)],
            clients: Clients::default(),
            upstreams,
            counters: Counters::default(),
            shipments: Vec::new(),
            effects: BytesMut::new(),
            dirty: Vec::new(),
            filled: Vec::new(),
            words: Vec::new(),
            read_buf: vec![0; limits::READ_BYTES].into(),
            input_bytes: 0,
            output_bytes: 0,
            output,
            crowded: Vec::new(),
            cell: Weak::new(),
            clock: Clock(Instant::now()),
            settings,
        }
    }

    /// The time on the worker's clock.
    pub fn now(&self) -> u32 {
        self.clock.now()
    }

    /// Which connection serves a shard in a version of RESP.
    pub fn upstream_of(shard: ShardId, resp3: bool) -> usize {
        usize::from(shard.0) * 2 + usize::from(resp3)
    }

    /// Whether a shard was without a serving master for so long that another region, if there is one, serves it.
    pub fn has_no_master(&self, shard: ShardId) -> bool {
        let config = &self.settings.config;
        let patience = Duration::from_millis(config.evacuate_after_ms);
        let since = self.alone_since.get(usize::from(shard.0)).copied().flatten();
        since.is_some_and(|since| since.elapsed() >= patience)
            && config.peers.iter().any(|peer| peer.endpoint.is_some())
    }

    /// Whether the region is drained, and there is another one.
    pub fn is_drained(&self) -> bool {
        let config = &self.settings.config;
        config.drained && config.peers.iter().any(|peer| peer.endpoint.is_some())
    }

    /// Whether the requests of a connection that is down may go to another region. The two connections of a shard go there
    /// together: a client that changes the version of RESP must not be back here before what it wrote there.
    pub fn may_leave(&self, up: usize) -> bool {
        let upstream = &self.upstreams[up];
        let now = Instant::now();
        let away = self.upstreams[up ^ 1].detour.is_some()
            || self.has_no_master(upstream.shard)
            || self.is_drained();
        away && upstream.wanted && upstream.detour_after.is_none_or(|after| now >= after)
    }

    /// Wakes the engine connections that got requests, once each.
    pub fn wake_filled(&mut self) {
        for n in self.filled.drain(..) {
            self.upstreams[n].listed = false;
            self.upstreams[n].wake();
        }
    }
}
