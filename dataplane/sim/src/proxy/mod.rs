//! A proxy: the production state machines of `mas_core::replication`, and shells around them that follow
//! `dataplane/proxy/src/replication` task by task.

pub(crate) mod front;
pub(crate) mod membership;
mod pulse;
mod pump;
mod reading;
pub(crate) mod tokens;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use mas_core::replication::ack::{Acks, Outcome};
use mas_core::replication::batcher::{Batcher, Pace};
use mas_core::replication::health::{Health, Link, LinkState};
use mas_core::replication::heartbeat::Word;
use mas_core::stamp::{Hlc, Incarnation, Origin, RegionId, ShardId};

use crate::broker::Connection;
use crate::executor::{Notify, Process, Promise, SEC, Time};
use crate::network::Node;
use crate::registry::Config;
use crate::world::World;

/// How long a reply of an engine may take.
pub(crate) const REPLY_LIMIT: Time = 5 * SEC;

/// Above it a link is catching up, milliseconds.
const MAX_LAG_MS: u64 = 1000;

/// The engine that is a shard's master now, serving or recovering.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seat {
    pub(crate) member: usize,
    pub(crate) incarnation: Incarnation,
    pub(crate) epoch: u64,
    pub(crate) serving: bool,
    pub(crate) recovered: bool,
}

/// One link as this proxy sees it.
pub(crate) struct LinkRow {
    health: Health,
    link: Link,
}

/// What the region's own stream told.
#[derive(Clone, Copy, Debug, Default)]
struct OwnStream {
    merged_nonce: Option<u64>,
    clock: Hlc,
}

/// One shard of the region, in this proxy.
pub(crate) struct Shard {
    pub(crate) id: u16,
    batcher: RefCell<Batcher>,
    acks: RefCell<Acks<u64>>,
    /// Who waits, by the number given to [`Acks`].
    waiters: RefCell<BTreeMap<u64, Promise<Outcome>>>,
    seat: RefCell<Option<Seat>>,
    word: RefCell<Word>,
    links: RefCell<BTreeMap<u16, LinkRow>>,
    own: Cell<OwnStream>,
    duties: RefCell<Vec<u16>>,
    progress: Cell<u64>,
    trim: Notify,
    pulse: Notify,
    outbox_wanted: Cell<bool>,
    /// Wakes the readers, by region.
    readers: RefCell<BTreeMap<u16, Notify>>,
    /// The highest epoch heard of each peer: for the judge.
    epochs: RefCell<BTreeMap<u16, u64>>,
    /// Regions that a piece of state is being made for.
    serving: RefCell<std::collections::BTreeSet<u16>>,
}

impl Shard {
    fn new(world: &World, region: u16, id: u16) -> Self {
        let setup = &world.schedule.setup;
        let pace =
            Pace { unconfirmed_max: setup.unconfirmed_max, bytes_max: setup.batcher_max, ..Pace::default() };
        Self {
            id,
            batcher: RefCell::new(Batcher::new(RegionId(region), ShardId(id), pace)),
            acks: RefCell::new(Acks::new(RegionId(region), setup.on_loss)),
            waiters: RefCell::default(),
            seat: RefCell::default(),
            word: RefCell::default(),
            links: RefCell::default(),
            own: Cell::default(),
            duties: RefCell::default(),
            progress: Cell::new(0),
            trim: Notify::default(),
            pulse: Notify::default(),
            outbox_wanted: Cell::new(false),
            readers: RefCell::default(),
            epochs: RefCell::default(),
            serving: RefCell::default(),
        }
    }

    fn moved(&self) {
        self.progress.set(self.progress.get() + 1);
    }

    pub(crate) fn seat(&self) -> Option<Seat> {
        self.seat.borrow().clone()
    }

    /// Readers look at what has changed.
    fn poke_readers(&self) {
        self.readers.borrow().values().for_each(Notify::notify);
    }

    fn set_seat(&self, seat: Option<Seat>) {
        let changed = *self.seat.borrow() != seat;
        if changed {
            *self.seat.borrow_mut() = seat;
            self.poke_readers();
        }
    }

    fn set_duties(&self, duties: Vec<u16>) {
        let changed = *self.duties.borrow() != duties;
        if changed {
            *self.duties.borrow_mut() = duties;
            self.poke_readers();
        }
    }
}

/// The publishing connection.
struct Outlet {
    generation: u64,
    connection: Rc<Connection>,
}

/// Where the front finds a shard's master.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Master {
    member: usize,
    incarnation: Incarnation,
}

/// See the module. One object a process.
pub(crate) struct Proxy {
    pub(crate) node: Rc<Node>,
    pub(crate) process: Rc<Process>,
    pub(crate) region: u16,
    /// Names it in claims.
    name: u64,
    world: Rc<World>,
    config: RefCell<Config>,
    shards: Vec<Rc<Shard>>,
    masters: RefCell<Vec<Option<Master>>>,
    ask_again: Notify,
    clocks: Vec<Cell<Hlc>>,
    outlet: RefCell<Option<Rc<Outlet>>>,
    feeds: RefCell<BTreeMap<u16, Option<Rc<Connection>>>>,
    pump: Notify,
    degraded: Cell<bool>,
    next_waiter: Cell<u64>,
}

impl Proxy {
    /// A new process begins on this node, with the configuration that lies there.
    pub(crate) fn start(world: &Rc<World>, node: &Rc<Node>, config: &Config) -> Rc<Self> {
        let process = node.start();
        let shards = world.schedule.setup.shards;
        let proxy = Rc::new(Self {
            node: Rc::clone(node),
            process: Rc::clone(&process),
            region: node.region,
            name: world.sim.new_id(),
            world: Rc::clone(world),
            config: RefCell::new(config.clone()),
            shards: (0..shards).map(|id| Rc::new(Shard::new(world, node.region, id))).collect(),
            masters: RefCell::new(vec![None; usize::from(shards)]),
            ask_again: Notify::default(),
            clocks: (0..shards).map(|_| Cell::default()).collect(),
            outlet: RefCell::default(),
            feeds: RefCell::default(),
            pump: Notify::default(),
            degraded: Cell::new(true),
            next_waiter: Cell::new(1),
        });
        let sim = &world.sim;
        for region in &config.regions {
            proxy.meet_region(*region);
        }
        sim.spawn(&process, Rc::clone(&proxy).keep_outlet());
        sim.spawn(&process, Rc::clone(&proxy).run_pump());
        for shard in &proxy.shards {
            sim.spawn(&process, Rc::clone(&proxy).run_pulse(Rc::clone(shard)));
            sim.spawn(&process, Rc::clone(&proxy).run_trim(Rc::clone(shard)));
            sim.spawn(&process, Rc::clone(&proxy).discover(shard.id));
        }
        proxy
    }

    fn now_ms(&self) -> u64 {
        self.world.sim.now() / 1000
    }

    fn observe(&self, shard: u16, hlc: Hlc) {
        let clock = &self.clocks[usize::from(shard)];
        clock.set(clock.get().max(hlc));
    }

    /// A heartbeat of another region was heard.
    fn peer_beat(&self, shard: &Shard, region: u16, epoch: u64, cover: mas_core::cover::Cover) {
        let word = shard.word.borrow().clone();
        let own = Origin { region: RegionId(self.region), incarnation: word.incarnation };
        let count = |acks: &Acks<u64>| acks.regions_with(own, word.issued);
        let before = count(&shard.acks.borrow());
        shard.acks.borrow_mut().peer(RegionId(region), epoch, cover);
        let mut epochs = shard.epochs.borrow_mut();
        let newest = epochs.entry(region).or_default();
        self.world.judge.heard(epoch < *newest, before, count(&shard.acks.borrow()));
        *newest = epoch.max(*newest);
        if shard.acks.borrow().has_done() {
            self.pump.notify();
        }
    }

    /// Whether nothing is on its way through it.
    pub(crate) fn is_idle(&self) -> bool {
        self.shards.iter().all(|s| {
            s.batcher.borrow().is_idle() && !s.batcher.borrow().has_trims() && s.acks.borrow().waiting() == 0
        })
    }

    /// What this proxy's link to a region's stream says, if it is the one that reads it.
    pub(crate) fn link_state(&self, shard: u16, region: u16) -> Option<(LinkState, u64)> {
        let shard = self.shards.get(usize::from(shard))?;
        let now_ms = self.now_ms();
        let mut links = shard.links.borrow_mut();
        let row = links.get_mut(&region).filter(|row| row.link.reads)?;
        Some((row.health.state(row.link, now_ms).0, row.health.missing()))
    }

    /// What it holds, against the bounds that were promised.
    pub(crate) fn check_bounds(&self) {
        let bound = self.world.schedule.setup.batcher_max as u64;
        for shard in &self.shards {
            // A lone effect larger than the bound must still get through.
            let kept = shard.batcher.borrow().kept_bytes() as u64;
            self.world.judge.bound("batcher", kept, bound.max(4 << 20) + 4096);
            let waiting = shard.acks.borrow().waiting() as u64;
            self.world.judge.bound("acks", waiting, self.waiting_now() + 1);
            let unconfirmed = shard.batcher.borrow().unconfirmed() as u64;
            self.world.judge.bound(
                "unconfirmed",
                unconfirmed,
                self.world.schedule.setup.unconfirmed_max as u64,
            );
        }
    }

    fn waiting_now(&self) -> u64 {
        self.shards.iter().map(|s| s.waiters.borrow().len() as u64).sum()
    }
}
