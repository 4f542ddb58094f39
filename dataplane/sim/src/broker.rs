//! A region's broker: one stream a shard, confirms, consumers with credit, whole segments that go, streams that are lost.
//! What is confirmed stays (its nodes are mirrored); what is not may or may not.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use bytes::Bytes;
use mas_core::replication::reader::Attach;

use crate::checkers::Judge;
use crate::executor::{MS, Notify, Process, Sim, Time};
use crate::network::{DELIVER, Network, Node, PUBLISH};

/// Deliveries under way to a consumer, as the proxy's prefetch.
const CREDIT: u64 = 64;
/// Readers are given records from the beginning of a chunk of so many.
const CHUNK: u64 = 3;

/// A connection of a proxy. Once a message on it is lost nothing passes any more.
pub(crate) struct Connection {
    proxy: Rc<Node>,
    process: Rc<Process>,
    broken: Cell<bool>,
}

impl Connection {
    pub(crate) fn is_broken(&self) -> bool {
        self.broken.get() || !self.process.is_alive()
    }

    pub(crate) fn cut(&self) {
        self.broken.set(true);
    }
}

/// How a publication ended, told to the proxy.
pub(crate) type Settle = Rc<dyn Fn(bool)>;

struct Inflow {
    connection: Rc<Connection>,
    record: Bytes,
    settle: Settle,
}

/// Where deliveries of one consumer arrive.
#[derive(Default)]
pub(crate) struct Mailbox {
    pub(crate) deliveries: RefCell<VecDeque<(u64, Bytes, u64)>>,
    pub(crate) cancelled: Cell<bool>,
    pub(crate) notify: Notify,
}

struct Consumer {
    connection: Rc<Connection>,
    mailbox: Rc<Mailbox>,
    next: u64,
    tag: u64,
    acked: u64,
}

#[derive(Default)]
struct Stream {
    /// Which of the streams of this name.
    generation: u64,
    log: VecDeque<(u64, Bytes)>,
    /// Records dropped from the front.
    dropped: u64,
    next_offset: u64,
    inflow: VecDeque<Inflow>,
    writing: bool,
    consumers: BTreeMap<u64, Consumer>,
}

#[derive(Default)]
struct State {
    streams: BTreeMap<u16, Stream>,
    generations: u64,
    blocked_until: Time,
    nacks_until: Time,
    next_consumer: u64,
    listeners: Vec<Listener>,
}

/// Somebody who hears heartbeats without reading the stream.
struct Listener {
    connection: Rc<Connection>,
    hear: Rc<dyn Fn(&Bytes)>,
}

/// See the module.
pub(crate) struct Broker {
    pub(crate) node: Rc<Node>,
    pub(crate) region: u16,
    segment: usize,
    sim: Sim,
    network: Network,
    judge: Rc<Judge>,
    state: RefCell<State>,
}

impl Broker {
    pub(crate) fn new(
        node: Rc<Node>,
        region: u16,
        segment: usize,
        sim: &Sim,
        network: &Network,
        judge: &Rc<Judge>,
    ) -> Rc<Self> {
        let (sim, network, judge) = (sim.clone(), network.clone(), Rc::clone(judge));
        Rc::new(Self { node, region, segment, sim, network, judge, state: RefCell::default() })
    }

    pub(crate) fn start(&self) {
        self.node.start();
    }

    /// The process ends: connections break; of what was not confirmed some prefix is in the log all the same.
    pub(crate) fn stop(&self) {
        if !self.node.is_up() {
            return;
        }
        self.node.kill();
        let mut state = self.state.borrow_mut();
        for (shard, stream) in &mut state.streams {
            stream.consumers.clear();
            let survive = self.sim.random(|r| r.below(stream.inflow.len() as u64 + 1));
            for inflow in std::mem::take(&mut stream.inflow).into_iter().take(survive as usize) {
                self.append(*shard, stream, inflow.record);
            }
            stream.writing = false;
        }
    }

    /// A proxy connects; runs at the broker.
    pub(crate) fn connect(&self, proxy: &Rc<Node>) -> Rc<Connection> {
        Rc::new(Connection {
            proxy: Rc::clone(proxy),
            process: self.node.process(),
            broken: Cell::new(false),
        })
    }

    /// Declares the stream of a shard, if it is not there.
    pub(crate) fn declare(&self, shard: u16) {
        let mut state = self.state.borrow_mut();
        if !state.streams.contains_key(&shard) {
            state.generations += 1;
            let generation = state.generations;
            state.streams.insert(shard, Stream { generation, ..Stream::default() });
        }
    }

    pub(crate) fn is_blocked(&self) -> bool {
        self.state.borrow().blocked_until > self.sim.now()
    }

    pub(crate) fn block(self: &Rc<Self>, time: Time) {
        let until = self.sim.now() + time;
        self.state.borrow_mut().blocked_until = until;
        let broker = Rc::clone(self);
        self.sim.at(until, move || {
            let shards: Vec<u16> = broker.state.borrow().streams.keys().copied().collect();
            for shard in shards {
                broker.write_soon(shard);
            }
        });
    }

    pub(crate) fn refuse_some(&self, time: Time) {
        self.state.borrow_mut().nacks_until = self.sim.now() + time;
    }

    /// Ends blocking and refusing.
    pub(crate) fn heal(self: &Rc<Self>) {
        self.refuse_some(0);
        self.block(0);
    }

    /// Drops the oldest segments; of the full ones `keep` stay.
    pub(crate) fn truncate(&self, shard: u16, keep: usize) {
        let mut state = self.state.borrow_mut();
        let Some(stream) = state.streams.get_mut(&shard) else { return };
        let size = self.segment as u64;
        let all = stream.dropped + stream.log.len() as u64;
        let first_kept = (all / size).saturating_sub(keep as u64) * size;
        while stream.dropped < first_kept && stream.log.pop_front().is_some() {
            stream.dropped += 1;
        }
    }

    /// The stream is gone, and everything in it.
    pub(crate) fn lose(&self, shard: u16) {
        let Some(stream) = self.state.borrow_mut().streams.remove(&shard) else { return };
        for consumer in stream.consumers.into_values() {
            consumer.mailbox.cancelled.set(true);
            consumer.mailbox.notify.notify();
        }
        for inflow in stream.inflow {
            self.answer(&inflow, false);
        }
    }

    /// A record arrives to be published.
    pub(crate) fn publish(
        self: &Rc<Self>,
        connection: &Rc<Connection>,
        shard: u16,
        record: Bytes,
        settle: Settle,
    ) {
        match self.network.transit(&connection.proxy, &self.node, PUBLISH) {
            Some(at) if !connection.is_broken() => {
                let (broker, connection) = (Rc::clone(self), Rc::clone(connection));
                self.sim.at(at, move || broker.arrived(shard, Inflow { connection, record, settle }));
            }
            Some(_) | None => connection.cut(),
        }
    }

    fn arrived(self: &Rc<Self>, shard: u16, inflow: Inflow) {
        if inflow.connection.is_broken() {
            return;
        }
        if self.network.is_cut(&inflow.connection.proxy, &self.node) {
            inflow.connection.cut();
            return;
        }
        let refuses = self.state.borrow().nacks_until > self.sim.now() && self.sim.random(|r| r.chance(300));
        let mut state = self.state.borrow_mut();
        // Without a stream the message comes back.
        let Some(stream) = state.streams.get_mut(&shard).filter(|_| !refuses) else {
            drop(state);
            self.answer(&inflow, false);
            return;
        };
        stream.inflow.push_back(inflow);
        drop(state);
        self.write_soon(shard);
    }

    /// Writes and mirrors the next record, after a while.
    fn write_soon(self: &Rc<Self>, shard: u16) {
        if self.is_blocked() || !self.node.is_up() {
            return;
        }
        let mut state = self.state.borrow_mut();
        let Some(stream) = state.streams.get_mut(&shard) else { return };
        if stream.inflow.is_empty() || std::mem::replace(&mut stream.writing, true) {
            return;
        }
        let generation = stream.generation;
        let took = self.sim.random(|r| if r.chance(20) { r.range(2, 60) * MS } else { r.range(100, 1500) });
        let process = self.node.process();
        let at = process.paused_until().max(self.sim.now() + took);
        let broker = Rc::clone(self);
        self.sim.at(at, move || {
            if process.is_alive() {
                broker.written(shard, generation);
            }
        });
    }

    fn written(self: &Rc<Self>, shard: u16, generation: u64) {
        let mut state = self.state.borrow_mut();
        let Some(stream) = state.streams.get_mut(&shard).filter(|s| s.generation == generation) else {
            return;
        };
        stream.writing = false;
        let Some(inflow) = stream.inflow.pop_front() else { return };
        self.append(shard, stream, inflow.record.clone());
        drop(state);
        self.answer(&inflow, true);
        self.deliver(shard);
        self.write_soon(shard);
    }

    fn append(&self, shard: u16, stream: &mut Stream, record: Bytes) {
        let offset = stream.next_offset;
        // Offsets have holes.
        stream.next_offset += 1 + self.sim.random(|r| if r.chance(50) { r.below(4) } else { 0 });
        self.judge.logged(self.region, shard, offset, &record);
        stream.log.push_back((offset, record));
    }

    fn answer(&self, inflow: &Inflow, confirmed: bool) {
        let connection = &inflow.connection;
        if connection.is_broken() {
            return;
        }
        match self.network.transit(&self.node, &connection.proxy, PUBLISH) {
            Some(at) => {
                let (connection, settle) = (Rc::clone(connection), Rc::clone(&inflow.settle));
                self.sim.at(at, move || {
                    if !connection.broken.get() {
                        settle(confirmed);
                    }
                });
            }
            None => connection.cut(),
        }
    }

    /// Hears heartbeats from now on; runs at the broker.
    pub(crate) fn listen(&self, connection: &Rc<Connection>, hear: Rc<dyn Fn(&Bytes)>) {
        let connection = Rc::clone(connection);
        self.state.borrow_mut().listeners.push(Listener { connection, hear });
    }

    /// A heartbeat for those who listen: at most once, kept nowhere.
    pub(crate) fn fan_out(self: &Rc<Self>, connection: &Rc<Connection>, beat: Bytes) {
        let Some(at) = self.network.transit(&connection.proxy, &self.node, PUBLISH) else { return };
        let (broker, connection) = (Rc::clone(self), Rc::clone(connection));
        self.sim.at(at, move || {
            if connection.is_broken() || broker.is_blocked() || !broker.node.is_up() {
                return;
            }
            let mut state = broker.state.borrow_mut();
            state.listeners.retain(|l| !l.connection.is_broken());
            for Listener { connection, hear } in &state.listeners {
                let Some(at) = broker.network.transit(&broker.node, &connection.proxy, DELIVER) else {
                    connection.cut();
                    continue;
                };
                let (connection, hear, beat) = (Rc::clone(connection), Rc::clone(hear), beat.clone());
                broker.sim.at(at, move || {
                    if !connection.broken.get() {
                        hear(&beat);
                    }
                });
            }
        });
    }

    /// A consumer attaches; runs at the broker. `None`: there is no such stream.
    pub(crate) fn consume(
        self: &Rc<Self>,
        connection: &Rc<Connection>,
        shard: u16,
        from: Attach,
        mailbox: &Rc<Mailbox>,
    ) -> Option<u64> {
        let mut state = self.state.borrow_mut();
        state.next_consumer += 1;
        let id = state.next_consumer;
        let stream = state.streams.get_mut(&shard)?;
        let first = stream.log.front().map_or(stream.next_offset, |(offset, _)| *offset);
        let next = match from {
            Attach::First => first,
            Attach::At(offset) => first.max(offset - offset % CHUNK),
        };
        let consumer = Consumer {
            connection: Rc::clone(connection),
            mailbox: Rc::clone(mailbox),
            next,
            tag: 0,
            acked: 0,
        };
        stream.consumers.insert(id, consumer);
        drop(state);
        let broker = Rc::clone(self);
        // After the answer to the attaching.
        self.sim.at(self.sim.now() + MS, move || broker.deliver(shard));
        Some(id)
    }

    /// A consumer leaves.
    pub(crate) fn cancel(&self, shard: u16, consumer: u64) {
        if let Some(stream) = self.state.borrow_mut().streams.get_mut(&shard) {
            stream.consumers.remove(&consumer);
        }
    }

    /// A consumer acknowledges everything up to `tag`: credit, nothing else.
    pub(crate) fn credit(self: &Rc<Self>, shard: u16, consumer: u64, tag: u64) {
        if let Some(stream) = self.state.borrow_mut().streams.get_mut(&shard)
            && let Some(consumer) = stream.consumers.get_mut(&consumer)
        {
            consumer.acked = consumer.acked.max(tag);
        }
        self.deliver(shard);
    }

    fn deliver(&self, shard: u16) {
        let mut state = self.state.borrow_mut();
        let Some(stream) = state.streams.get_mut(&shard) else { return };
        if !self.node.is_up() {
            return;
        }
        stream.consumers.retain(|_, c| !c.connection.is_broken());
        for consumer in stream.consumers.values_mut() {
            let from = stream.log.partition_point(|(offset, _)| *offset < consumer.next);
            for (offset, record) in stream.log.iter().skip(from) {
                if consumer.tag - consumer.acked >= CREDIT {
                    break;
                }
                let Some(at) = self.network.transit(&self.node, &consumer.connection.proxy, DELIVER) else {
                    consumer.connection.cut();
                    break;
                };
                consumer.next = offset + 1;
                consumer.tag += 1;
                let (connection, mailbox) = (Rc::clone(&consumer.connection), Rc::clone(&consumer.mailbox));
                let delivery = (*offset, record.clone(), consumer.tag);
                self.sim.at(at, move || {
                    if !connection.broken.get() {
                        mailbox.deliveries.borrow_mut().push_back(delivery);
                        mailbox.notify.notify();
                    }
                });
            }
        }
    }
}
