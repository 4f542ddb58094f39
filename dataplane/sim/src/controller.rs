//! The controller of a region's shards: looks at the engines, asks the production procedure what to do, and does it. What
//! it has persisted survives it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use mas_core::procedures::handover::Wish;
use mas_core::procedures::identity::{EngineState, Identity, Role};
use mas_core::procedures::shard::{Action, Basis, Control, Place, Record, Seen, members_to_compare, step};
use mas_core::stamp::Incarnation;

use crate::engine::{About, Engine, Phase, STORE, Spot};
use crate::executor::{MS, SEC, Time};
use crate::network::{CONTROL, Node};
use crate::world::World;

/// How often engines are asked, and decisions made.
const TICK: Time = 200 * MS;
/// A server that runs but has not answered for this long hangs, and is killed: its end is evidence, its silence was not.
/// (Thirty seconds in production.)
const HANGS_AFTER: Time = 8 * SEC;

/// A shard as it was looked at last.
#[derive(Clone, Debug, Default)]
pub(crate) struct View {
    pub(crate) members: Vec<Seen>,
    pub(crate) master: Option<usize>,
}

/// See the module.
pub(crate) struct Controller {
    pub(crate) node: Rc<Node>,
    region: u16,
    /// By shard: what is persisted.
    records: RefCell<Vec<Record>>,
    /// It acts on what it saw before, until then.
    pub(crate) stale_until: Cell<Time>,
    /// By shard: what somebody asked for, and it has not heard yet.
    wishes: RefCell<Vec<Option<Wish>>>,
    views: RefCell<Vec<View>>,
    /// By shard: it acts. Not before a shard that joins, or is rebuilt, is its region's own.
    gates: Vec<Cell<bool>>,
    /// Of shards of which no copy is left no empty member is promoted.
    rebuilds: bool,
    /// By shard: until it has a master it begins with what its stream holds, for no region has it.
    from_stream: Vec<Cell<bool>>,
}

/// As an engine says it.
pub(crate) fn identity(about: &About) -> Identity {
    Identity {
        store: about.store.clone(),
        region: about.region,
        shard: about.shard,
        role: if about.master { Role::Master } else { Role::Replica },
        state: match about.phase {
            Phase::Fenced => EngineState::Fenced,
            Phase::Recovering => EngineState::Recovering,
            Phase::Serving => EngineState::Serving,
        },
        recovered: about.recovered,
        epoch: about.epoch,
        incarnation: about.incarnation.to_string(),
        seq: about.seq,
        clock: about.clock.0,
        outbox_effects: about.outbox_effects,
        outbox_bytes: about.outbox_bytes,
        master_link_up: about.link_up,
        offset: about.offset,
        paused_ms: about.paused_ms,
        keys: about.keys,
        waiting: about.outbox_first.clone(),
        membership: about.membership,
        joining: about.joining.clone(),
        empty: about.empty,
    }
}

impl Controller {
    pub(crate) fn new(node: Rc<Node>, region: u16, shards: u16, rebuilds: bool) -> Rc<Self> {
        let records = RefCell::new(vec![Record::default(); usize::from(shards)]);
        let wishes = RefCell::new(vec![None; usize::from(shards)]);
        let views = RefCell::new(vec![View::default(); usize::from(shards)]);
        let gates = (0..shards).map(|_| Cell::new(true)).collect();
        let from_stream = (0..shards).map(|_| Cell::new(false)).collect();
        let stale_until = Cell::new(0);
        Rc::new(Self { node, region, records, stale_until, wishes, views, gates, rebuilds, from_stream })
    }

    pub(crate) fn start(self: &Rc<Self>, world: &Rc<World>) {
        let process = self.node.start();
        self.views.borrow_mut().fill(View::default());
        for shard in 0..world.schedule.setup.shards {
            world.sim.spawn(&process, Rc::clone(self).run(Rc::clone(world), shard));
        }
    }

    async fn run(self: Rc<Self>, world: Rc<World>, shard: u16) {
        let mut control = Control::default();
        let place = Place { store: STORE.into(), region: self.region, shard };
        let count = world.members(self.region);
        let mut answered: Vec<Time> = vec![world.sim.now(); count];
        let mut members = Vec::new();
        loop {
            world.sim.sleep(world.sim.random(|r| r.range(TICK / 2, TICK))).await;
            let stale = self.stale_until.get() > world.sim.now() && !members.is_empty();
            if !stale {
                members = self.look(&world, shard, &mut answered).await;
            }
            if !self.gates[usize::from(shard)].get() {
                self.show(shard, &members, None);
                continue;
            }
            let record = self.record(shard);
            if !stale {
                self.compare(&world, shard, &record, &mut members).await;
            }
            if let Some(wish) = self.wishes.borrow_mut()[usize::from(shard)].take() {
                // One that comes while another is under way is forgotten: whoever asked asks again.
                let _ = control.wish(wish, world.sim.now() / MS);
            }
            let plan = step(&mut control, &place, &record, &members, world.sim.now() / MS);
            self.show(shard, &members, plan.master);
            self.records.borrow_mut()[usize::from(shard)].served |= plan.master.is_some();
            if let Some(ended) = &plan.handover {
                world.judge.note(|| format!("{} shard {shard}: {ended:?}", self.node.name));
                world.judge.handover_ended(ended);
            }
            for action in plan.actions {
                if let Action::Promote { member, .. } = &action {
                    let engine = |member: usize| world.engine(self.region, shard, member);
                    match plan.master {
                        Some(master) => world.judge.handed_over(&engine(master), &engine(*member)),
                        None => world.judge.chosen(&self.node.name, &members, *member),
                    }
                }
                if !self.act(&world, shard, &action).await {
                    break;
                }
            }
        }
    }

    async fn look(&self, world: &Rc<World>, shard: u16, answered: &mut [Time]) -> Vec<Seen> {
        let mut seen = Vec::new();
        for (member, answered) in answered.iter_mut().enumerate() {
            let engine = world.engine(self.region, shard, member);
            // Whoever owns the process knows whether it runs.
            if !engine.node.is_up() {
                *answered = world.sim.now();
                seen.push(Seen::Absent);
                continue;
            }
            let process = engine.node.process();
            let about = self.ask(world, &engine, SEC, |e| e.about()).await;
            // An answer counts only for the process that gave it.
            if !process.is_alive() {
                seen.push(Seen::Absent);
                continue;
            }
            seen.push(match about {
                Some(about) => {
                    *answered = world.sim.now();
                    if about.loading {
                        Seen::Loading
                    } else {
                        let identity = Box::new(identity(&about));
                        let follows = about.follows.filter(|spot| spot.region == self.region);
                        let follows = follows.map(|spot| spot.member);
                        Seen::Answers { identity, follows, subsumed: false }
                    }
                }
                None => Seen::Silent,
            });
            if world.sim.now() > *answered + HANGS_AFTER {
                *answered = world.sim.now();
                world.judge.note(|| format!("{} hangs and is killed", engine.node.name));
                world.restart_engine(&engine, false, 100 * MS);
            }
        }
        seen
    }

    async fn ask<T: 'static>(
        &self,
        world: &World,
        engine: &Rc<Engine>,
        limit: Time,
        f: impl FnOnce(&Rc<Engine>) -> T + 'static,
    ) -> Option<T> {
        let (engine, node) = (Rc::clone(engine), Rc::clone(&engine.node));
        world.network.call(&self.node, &node, CONTROL, limit, move || f(&engine)).await.ok()
    }

    /// Theirs is asked for first: being fenced they get nothing new, and the master's only grows.
    async fn compare(&self, world: &World, shard: u16, record: &Record, members: &mut [Seen]) {
        let Some((master, doubtful)) = members_to_compare(record, members) else { return };
        for member in doubtful {
            let theirs = world.engine(self.region, shard, member);
            let Some(theirs) = self.ask(world, &theirs, SEC, |e| e.word().cover).await else { continue };
            let masters = world.engine(self.region, shard, master);
            let Some(masters) = self.ask(world, &masters, SEC, |e| e.word().cover).await else { return };
            if let Seen::Answers { subsumed, .. } = &mut members[member] {
                *subsumed = masters.includes(&theirs);
            }
        }
    }

    async fn act(&self, world: &Rc<World>, shard: u16, action: &Action) -> bool {
        world.judge.note(|| format!("{} shard {shard}: {action:?}", self.node.name));
        let engine = |member: usize| world.engine(self.region, shard, member);
        match action {
            Action::Promote { member, epoch, was_replica, basis } => {
                self.issue(shard, *epoch, *member, basis, false);
                let (epoch, was_replica) = (*epoch, *was_replica);
                let promoted =
                    self.ask(world, &engine(*member), 2 * SEC, move |e| e.promote(epoch, was_replica)).await;
                promoted.is_some_and(|p| p.is_ok())
            }
            Action::Follow { member, master } | Action::SetAside { member, master } => {
                let spot = Spot { region: self.region, member: *master };
                if matches!(action, Action::SetAside { .. }) {
                    world.judge.note(|| format!("{} is set aside", engine(*member).node.name));
                }
                self.ask(world, &engine(*member), SEC, move |e| e.follow(spot)).await.is_some()
            }
            Action::Pause { member, incarnation, ms } => {
                let Some(incarnation) = Incarnation::parse(incarnation) else { return false };
                let ms = *ms;
                let paused = self.ask(world, &engine(*member), SEC, move |e| e.pause(incarnation, ms)).await;
                paused.is_some_and(|p| p.is_ok())
            }
            Action::Fence { member } => self.ask(world, &engine(*member), SEC, |e| e.fence()).await.is_some(),
        }
    }

    fn issue(&self, shard: u16, epoch: u64, member: usize, basis: &Basis, copied: bool) {
        self.from_stream[usize::from(shard)].set(false);
        let record = &mut self.records.borrow_mut()[usize::from(shard)];
        let served = record.served || copied;
        *record = Record { epoch, master: Some(member), basis: Some(basis.clone()), served, rebuilt: false };
    }

    fn show(&self, shard: u16, members: &[Seen], master: Option<usize>) {
        self.views.borrow_mut()[usize::from(shard)] = View { members: members.to_vec(), master };
    }

    /// How it saw the shard last.
    pub(crate) fn view(&self, shard: u16) -> View {
        self.views.borrow()[usize::from(shard)].clone()
    }

    pub(crate) fn record(&self, shard: u16) -> Record {
        let rebuilt = self.rebuilds && !self.from_stream[usize::from(shard)].get();
        Record { rebuilt, ..self.records.borrow()[usize::from(shard)].clone() }
    }

    /// No region has the shard any more.
    pub(crate) fn begin_from_stream(&self, shard: u16) {
        self.from_stream[usize::from(shard)].set(true);
    }

    /// Whether it acts on the shard.
    pub(crate) fn set_gate(&self, shard: u16, open: bool) {
        self.gates[usize::from(shard)].set(open);
    }

    /// An epoch is given to the first member, if no other one was given since.
    pub(crate) fn issue_to_copy(&self, shard: u16, epoch: u64, basis: &Basis) -> bool {
        let fresh = self.record(shard).epoch < epoch;
        if fresh {
            self.issue(shard, epoch, 0, basis, true);
        }
        fresh
    }

    /// Somebody wants another master than the one there is.
    pub(crate) fn ask_for(&self, shard: u16, to: Option<usize>) {
        let Some((from, _)) = self.recorded(shard) else { return };
        let reason = "somebody asked for it".to_owned();
        self.wishes.borrow_mut()[usize::from(shard)] = Some(Wish { to, from, reason });
    }

    /// The recorded master.
    pub(crate) fn recorded(&self, shard: u16) -> Option<(usize, u64)> {
        let records = self.records.borrow();
        let record = &records[usize::from(shard)];
        record.master.map(|member| (member, record.epoch))
    }
}
