//! A Redis server with the engine: the production shard, keys in a map, an AOF, replicas. The counterpart of
//! `dataplane/engine`; what it may do in which state follows `engine/src/node.rs`.

pub(crate) mod commands;
pub(crate) mod copying;
pub(crate) mod disk;
mod replication;
mod steps;

pub(crate) use self::steps::STORE;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::{Rc, Weak};

use bytes::Bytes;
use mas_core::joining::Joining;
use mas_core::shard::Shard;
use mas_core::stamp::{Hlc, Incarnation};

use self::disk::{Disk, Entry};
use crate::checkers::Judge;
use crate::clock::WallClock;
use crate::executor::{MS, Notify, SEC, Sim, Time};
use crate::keyspace::Keys;
use crate::network::{Network, Node};
use crate::setup::{Fsync, Setup};

/// Most steps that a replica may be behind and still go on without a full sync.
const BACKLOG_MAX: usize = 400;
/// The AOF is rewritten at so many steps.
const REWRITE_AT: u64 = 300;

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Not the master that was meant: ask the others.
    NotMaster,
    /// The stored position is another one.
    Position,
    Decode(usize),
    Gaps,
    /// A clock is too far ahead.
    Skew,
    /// A later list of members is known.
    Membership,
    OutboxFull,
    Other,
}

/// Where a copy of a shard is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Spot {
    pub(crate) region: u16,
    pub(crate) member: usize,
}

/// Whether a master serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Fenced,
    Recovering,
    Serving,
}

/// What an engine says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct About {
    pub(crate) store: String,
    pub(crate) region: u16,
    pub(crate) shard: u16,
    pub(crate) master: bool,
    pub(crate) phase: Phase,
    pub(crate) recovered: bool,
    pub(crate) epoch: u64,
    pub(crate) incarnation: Incarnation,
    pub(crate) seq: u64,
    pub(crate) clock: Hlc,
    pub(crate) outbox_effects: u64,
    pub(crate) outbox_bytes: u64,
    pub(crate) outbox_first: Vec<(Incarnation, u64)>,
    pub(crate) link_up: bool,
    /// Steps of its master's stream that it has, or of its own.
    pub(crate) offset: u64,
    pub(crate) paused_ms: u64,
    pub(crate) keys: u64,
    pub(crate) empty: bool,
    pub(crate) follows: Option<Spot>,
    pub(crate) loading: bool,
    pub(crate) membership: u64,
    pub(crate) joining: Option<Joining>,
    /// A restart would find what it has.
    pub(crate) saved: bool,
}

/// Whom a replica follows, and how far it got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Following {
    spot: Spot,
    /// Grows with every order to follow; words about an earlier one are void.
    order: u64,
    link_up: bool,
    history: u64,
    offset: u64,
}

struct State {
    shard: Shard,
    keys: Keys,
    phase: Phase,
    recovered: bool,
    /// It takes no writes until then.
    paused_until: Time,
    following: Option<Following>,
    damaged: bool,
    claims: BTreeMap<String, (u64, u64)>,
    disk: Disk,
    /// Names this life of the replication stream.
    history: u64,
    backlog: VecDeque<Entry>,
    /// Offset behind the last entry.
    end: u64,
    orders: u64,
    since_rewrite: u64,
}

/// See the module.
pub(crate) struct Engine {
    pub(crate) node: Rc<Node>,
    pub(crate) clock: WallClock,
    pub(crate) region: u16,
    pub(crate) shard: u16,
    pub(crate) member: usize,
    pub(crate) fsync: Fsync,
    shards: u16,
    outbox_max: u64,
    hard_skew_ms: u64,
    sim: Sim,
    network: Network,
    judge: Rc<Judge>,
    /// All copies of its shard, itself included.
    kin: RefCell<BTreeMap<Spot, Weak<Engine>>>,
    /// What it gets from its master comes so much later.
    pub(crate) lag: Cell<Time>,
    /// It has sent a part of its state to another region, and not the last one.
    pub(crate) sends: Cell<bool>,
    pushing: Cell<bool>,
    loading_until: Cell<Time>,
    follow_moved: Notify,
    state: RefCell<State>,
}

impl Engine {
    pub(crate) fn new(
        node: Rc<Node>,
        (region, shard, member): (u16, u16, usize),
        setup: &Setup,
        sim: &Sim,
        network: &Network,
        judge: &Rc<Judge>,
    ) -> Rc<Self> {
        let fsync = setup.regions[usize::from(region) - 1].fsync;
        Rc::new(Self {
            node,
            clock: WallClock::default(),
            region,
            shard,
            member,
            fsync,
            shards: setup.shards,
            outbox_max: setup.outbox_max,
            hard_skew_ms: setup.hard_skew_ms,
            sim: sim.clone(),
            network: network.clone(),
            judge: Rc::clone(judge),
            kin: RefCell::default(),
            lag: Cell::new(0),
            sends: Cell::new(false),
            pushing: Cell::new(false),
            loading_until: Cell::new(0),
            follow_moved: Notify::default(),
            state: RefCell::new(State {
                shard: Shard::new((1, 2)),
                keys: Keys::default(),
                phase: Phase::Fenced,
                recovered: false,
                paused_until: 0,
                following: None,
                damaged: false,
                claims: BTreeMap::new(),
                disk: Disk::new(fsync),
                history: 0,
                backlog: VecDeque::new(),
                end: 0,
                orders: 0,
                since_rewrite: 0,
            }),
        })
    }

    /// The copies of its shard, itself included.
    pub(crate) fn set_kin<'a>(&self, kin: impl Iterator<Item = &'a Rc<Self>>) {
        *self.kin.borrow_mut() = kin.map(|e| (e.spot(), Rc::downgrade(e))).collect();
    }

    fn at(&self, spot: Spot) -> Option<Rc<Self>> {
        self.kin.borrow().get(&spot)?.upgrade()
    }

    /// Where it is.
    pub(crate) fn spot(&self) -> Spot {
        Spot { region: self.region, member: self.member }
    }

    pub(crate) fn wall_ms(&self) -> u64 {
        self.clock.wall_ms(self.sim.now())
    }

    /// The process begins: it loads its data and is fenced.
    pub(crate) fn start(self: &Rc<Self>) {
        let process = self.node.start();
        let (hash, history, loading) =
            self.sim.random(|r| ((r.next(), r.next()), r.next(), r.range(2, 200) * MS));
        {
            let mut state = self.state.borrow_mut();
            let loaded = state.disk.load(hash, self.wall_ms());
            if loaded.is_none() {
                self.judge.violate("persistence", format!("{} cannot load its own data", self.node.name));
            }
            (state.shard, state.keys) = loaded.unwrap_or_else(|| (Shard::new(hash), Keys::default()));
            state.phase = Phase::Fenced;
            state.recovered = false;
            state.paused_until = 0;
            state.following = None;
            state.damaged = false;
            state.claims.clear();
            state.disk.reopened();
            state.history = history;
            state.backlog.clear();
            state.end = 0;
        }
        self.loading_until.set(self.sim.now() + loading);
        self.sends.set(false);
        self.judge.note(|| format!("{} starts: {}", self.node.name, self.describe()));
        if self.fsync == Fsync::EverySecond {
            let (engine, sim) = (Rc::downgrade(self), self.sim.clone());
            self.sim.spawn(&process, async move {
                loop {
                    sim.sleep(SEC).await;
                    let Some(engine) = engine.upgrade() else { return };
                    engine.state.borrow_mut().disk.sync();
                }
            });
        }
        self.spawn_follower(&process);
    }

    /// The process ends.
    pub(crate) fn stop(&self, power: bool) {
        if !self.node.is_up() {
            return;
        }
        self.node.kill();
        let (cover, missing) = self.look(|shard, _| (shard.cover(), shard.stats.missing));
        self.judge.loses(self, &cover);
        self.judge.missing(missing);
        let mut state = self.state.borrow_mut();
        state.phase = Phase::Fenced;
        state.following = None;
        let lost = if power { self.sim.random(|r| state.disk.lose_power(r)) } else { 0 };
        drop(state);
        for replica in self.kin.borrow().values().filter_map(Weak::upgrade) {
            if replica.follows() == Some(self.spot()) {
                replica.lose_link();
            }
        }
        self.judge.note(|| format!("{} ends, {lost} steps lost", self.node.name));
    }

    /// A short description, for timelines.
    pub(crate) fn describe(&self) -> String {
        let state = self.state.borrow();
        let id = state.shard.identity();
        let role =
            if state.following.is_some() { "replica".to_owned() } else { format!("{:?}", state.phase) };
        format!(
            "{role}, epoch {}, incarnation {}, seq {}, {} keys, outbox {}",
            id.epoch,
            id.incarnation,
            state.shard.seq(),
            state.keys.map.len(),
            state.shard.outbox().len()
        )
    }

    pub(crate) fn is_loading(&self) -> bool {
        self.loading_until.get() > self.sim.now()
    }

    /// Hands a step to the AOF and to replicas.
    fn log(self: &Rc<Self>, state: &mut State, entry: Entry) {
        state.disk.append(entry.clone());
        state.backlog.push_back(entry);
        state.end += 1;
        if state.backlog.len() > BACKLOG_MAX {
            state.backlog.pop_front();
        }
        state.since_rewrite += 1;
        if state.since_rewrite >= REWRITE_AT {
            let snapshot = self.snapshot(state);
            state.disk.rewrite(snapshot);
            state.since_rewrite = 0;
        }
        self.push_soon();
    }

    fn snapshot(&self, state: &State) -> disk::Snapshot {
        let snapshot = disk::Snapshot::take(&state.shard, &state.keys);
        self.judge.saved(self, &state.shard, snapshot.load().as_ref().map(|(shard, _)| shard));
        snapshot
    }

    /// `BGREWRITEAOF`.
    pub(crate) fn rewrite(&self) {
        if self.node.is_up() && !self.is_loading() {
            let mut state = self.state.borrow_mut();
            let snapshot = self.snapshot(&state);
            state.disk.rewrite(snapshot);
        }
    }

    /// Keys whose time has come go; a replica waits for its master's word.
    fn expire(self: &Rc<Self>, state: &mut State) {
        if state.following.is_some() {
            return;
        }
        for key in state.keys.expire(self.wall_ms()) {
            self.log(state, Entry::Del(key));
        }
    }

    /// Looks at the state: for checkers, which are everywhere at once.
    pub(crate) fn look<R>(&self, f: impl FnOnce(&Shard, &Keys) -> R) -> R {
        let state = self.state.borrow();
        f(&state.shard, &state.keys)
    }

    /// Expires what is due, as somebody who looks at every key would.
    pub(crate) fn expire_now(self: &Rc<Self>) {
        let mut state = self.state.borrow_mut();
        self.expire(&mut state);
    }

    pub(crate) fn phase(&self) -> Phase {
        self.state.borrow().phase
    }

    /// Whether it is the master of this incarnation.
    pub(crate) fn is_incarnation(&self, incarnation: Incarnation) -> bool {
        let state = self.state.borrow();
        let live = state.following.is_none() && state.phase != Phase::Fenced && self.node.is_up();
        live && state.shard.identity().incarnation == incarnation
    }

    pub(crate) fn is_recovered(&self) -> bool {
        self.state.borrow().recovered
    }

    pub(crate) fn follows(&self) -> Option<Spot> {
        self.state.borrow().following.map(|f| f.spot)
    }

    /// Whether it is a replica that has all its master has.
    pub(crate) fn is_level_with(&self, master: &Self) -> bool {
        let (mine, theirs) = (self.state.borrow(), master.state.borrow());
        mine.following.is_some_and(|f| {
            f.link_up && f.spot == master.spot() && f.history == theirs.history && f.offset == theirs.end
        })
    }

    /// What it shows of a key.
    pub(crate) fn shows(&self, key: &[u8]) -> Option<crate::keyspace::Data> {
        self.state.borrow().keys.get(key).cloned()
    }
}

/// An encoded effect and its clock, as the note of `MAS.EXEC` has them.
#[derive(Clone, Debug)]
pub(crate) struct Note {
    pub(crate) incarnation: Incarnation,
    pub(crate) seq: u64,
    pub(crate) hlc: Hlc,
    pub(crate) effect: Bytes,
}
