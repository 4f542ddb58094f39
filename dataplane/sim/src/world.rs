//! A whole store in one event loop: regions with engines, proxies, a broker and a controller each, the clients, and the
//! faults that the schedule names. Runs one schedule to its end and says what the checkers found.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use crate::broker::Broker;
use crate::checkers::{Judge, Violation};
use crate::client::Client;
use crate::clock::START_MS;
use crate::controller::Controller;
use crate::engine::{Engine, Phase};
use crate::executor::{MS, Process, SEC, Sim, Time};
use crate::faults::Place;
use crate::network::{Network, Node};
use crate::operator::Operator;
use crate::proxy::Proxy;
use crate::registry::{Config, Registry, Standing};
use crate::rng::Rng;
use crate::schedule::Schedule;
use crate::setup::Fsync;

/// What came of a run.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) violation: Option<Violation>,
    pub(crate) timeline: Vec<String>,
    pub(crate) simulated: Time,
    pub(crate) events: u64,
    pub(crate) commits: usize,
    pub(crate) faults: BTreeMap<&'static str, u64>,
    /// What the checkers looked at.
    pub(crate) checks: BTreeMap<&'static str, u64>,
}

/// Who is to be told when a process ends.
type Exit = (Rc<Process>, Box<dyn Fn()>);

/// See the module.
pub(crate) struct World {
    pub(crate) schedule: Schedule,
    pub(crate) sim: Sim,
    pub(crate) network: Network,
    pub(crate) judge: Rc<Judge>,
    engines: RefCell<BTreeMap<(u16, u16, usize), Rc<Engine>>>,
    brokers: RefCell<Vec<Rc<Broker>>>,
    controllers: RefCell<Vec<Rc<Controller>>>,
    pub(crate) proxies: RefCell<BTreeMap<(u16, u8), Rc<Proxy>>>,
    proxy_nodes: RefCell<BTreeMap<(u16, u8), Rc<Node>>>,
    pub(crate) open: RefCell<BTreeMap<u16, bool>>,
    pub(crate) registry: RefCell<Registry>,
    pub(crate) operator: Rc<Operator>,
    /// What lies at each proxy.
    configs: RefCell<BTreeMap<(u16, u8), Config>>,
    exits: RefCell<BTreeMap<u64, Exit>>,
    next_exit: Cell<u64>,
    clients: Cell<usize>,
    pub(crate) faults_done: RefCell<BTreeMap<&'static str, u64>>,
}

impl World {
    fn new(schedule: Schedule, trace: bool) -> Rc<Self> {
        let mut rng = Rng::new(schedule.seed ^ 0x5eed);
        let sim = Sim::new(rng.fork());
        let network = Network::new(sim.clone());
        let judge = Judge::new(&sim, &schedule.setup, trace);
        let regions = schedule.setup.regions.len() as u16;
        let founders = (1..).zip(&schedule.setup.regions).filter(|(_, its)| its.joins == 0).map(|(id, _)| id);
        let founders: Vec<u16> = founders.collect();
        let founders = founders.into_iter();
        let world = Rc::new(Self {
            sim,
            network,
            judge,
            engines: RefCell::default(),
            brokers: RefCell::default(),
            controllers: RefCell::default(),
            proxies: RefCell::default(),
            proxy_nodes: RefCell::default(),
            open: RefCell::default(),
            registry: RefCell::new(Registry::founded(founders)),
            operator: Operator::new(Node::new(0, "operator".into(), 1)),
            configs: RefCell::default(),
            exits: RefCell::default(),
            next_exit: Cell::new(0),
            clients: Cell::new(0),
            faults_done: RefCell::default(),
            schedule,
        });
        for a in 1..=regions {
            for b in a + 1..=regions {
                world.network.set_distance(a, b, rng.range(1, 60) * MS);
            }
        }
        world.build();
        world.judge.meets(&world.engines());
        world
    }

    fn build(self: &Rc<Self>) {
        let (setup, network) = (&self.schedule.setup, &self.network);
        let mut index = 0;
        let mut node = |name: String, region: u16| {
            index += 1;
            Node::new(index, name, region)
        };
        for (region, its) in (1..).zip(&setup.regions) {
            let broker = node(format!("r{region}/broker"), region);
            self.brokers.borrow_mut().push(Broker::new(
                broker,
                region,
                setup.segment,
                &self.sim,
                network,
                &self.judge,
            ));
            let controller = node(format!("r{region}/controller"), region);
            self.controllers.borrow_mut().push(Controller::new(
                controller,
                region,
                setup.shards,
                setup.situation.rebuilds(),
            ));
            for shard in 0..setup.shards {
                let members: Vec<Rc<Engine>> = (0..usize::from(its.members))
                    .map(|member| {
                        let node = node(format!("r{region}/shard-{shard}/redis-{member}"), region);
                        Engine::new(node, (region, shard, member), setup, &self.sim, network, &self.judge)
                    })
                    .collect();
                for engine in &members {
                    self.engines.borrow_mut().insert((region, shard, engine.member), Rc::clone(engine));
                }
            }
            for proxy in 0..its.proxies {
                let node = node(format!("r{region}/proxy-{proxy}"), region);
                self.proxy_nodes.borrow_mut().insert((region, proxy), node);
            }
        }
        let engines = self.engines();
        for engine in &engines {
            engine.set_kin(engines.iter().filter(|other| other.shard == engine.shard));
        }
    }

    // ---- who is there ----

    /// Regions that belong to the store, or are about to.
    pub(crate) fn regions(&self) -> Vec<u16> {
        self.registry.borrow().regions.keys().copied().collect()
    }

    fn is_there(&self, region: u16) -> bool {
        self.registry.borrow().regions.contains_key(&region)
    }

    pub(crate) fn members(&self, region: u16) -> usize {
        usize::from(self.schedule.setup.regions[usize::from(region) - 1].members)
    }

    pub(crate) fn fsync_always(&self, region: u16) -> bool {
        self.schedule.setup.regions[usize::from(region) - 1].fsync == Fsync::Always
    }

    pub(crate) fn engine(&self, region: u16, shard: u16, member: usize) -> Rc<Engine> {
        Rc::clone(&self.engines.borrow()[&(region, shard, member)])
    }

    pub(crate) fn engines(&self) -> Vec<Rc<Engine>> {
        self.engines.borrow().values().cloned().collect()
    }

    pub(crate) fn broker(&self, region: u16) -> Rc<Broker> {
        Rc::clone(&self.brokers.borrow()[usize::from(region) - 1])
    }

    pub(crate) fn controller(&self, region: u16) -> Rc<Controller> {
        Rc::clone(&self.controllers.borrow()[usize::from(region) - 1])
    }

    /// The proxies that run in a region.
    pub(crate) fn proxies(&self, region: u16) -> Vec<Rc<Proxy>> {
        let all = self.proxies.borrow();
        all.range((region, 0)..=(region, u8::MAX))
            .map(|(_, p)| Rc::clone(p))
            .filter(|p| p.process.is_alive())
            .collect()
    }

    pub(crate) fn some_proxy(&self, region: u16) -> Option<Rc<Proxy>> {
        let proxies = self.proxies(region);
        (!proxies.is_empty()).then(|| self.sim.random(|r| Rc::clone(r.pick(&proxies))))
    }

    /// Whether clients are served there.
    pub(crate) fn is_open(&self, region: u16) -> bool {
        self.open.borrow().get(&region).copied().unwrap_or(false)
    }

    pub(crate) fn node_of(&self, place: Place) -> Rc<Node> {
        match place {
            Place::Engine { region, shard, member } => {
                Rc::clone(&self.engine(region, shard, usize::from(member)).node)
            }
            Place::Proxy { region, proxy } => Rc::clone(&self.proxy_nodes.borrow()[&(region, proxy)]),
            Place::Broker { region } => Rc::clone(&self.broker(region).node),
            Place::Controller { region } => Rc::clone(&self.controller(region).node),
            Place::Operator => Rc::clone(&self.operator.node),
        }
    }

    pub(crate) fn nodes_of(&self, region: u16) -> Vec<Rc<Node>> {
        let mut nodes = vec![Rc::clone(&self.broker(region).node)];
        nodes.extend(self.proxy_nodes.borrow().values().filter(|n| n.region == region).cloned());
        // Only while something is copied do engines talk to other regions, and the operator to engines.
        if self.schedule.setup.has_operations() {
            let engines = self.engines.borrow();
            nodes.extend(engines.values().filter(|e| e.region == region).map(|e| Rc::clone(&e.node)));
            nodes.extend(Some(&self.operator.node).filter(|n| n.region == region).cloned());
        }
        nodes
    }

    // ---- life and death ----

    /// Calls `f` when the process ends, unless that is forgotten before.
    pub(crate) fn on_exit(&self, process: &Rc<Process>, f: impl Fn() + 'static) -> u64 {
        let id = self.next_exit.get();
        self.next_exit.set(id + 1);
        if process.is_alive() {
            self.exits.borrow_mut().insert(id, (Rc::clone(process), Box::new(f)));
        } else {
            f();
        }
        id
    }

    pub(crate) fn forget_exit(&self, id: u64) {
        self.exits.borrow_mut().remove(&id);
    }

    fn tell_exits(&self) {
        let all = std::mem::take(&mut *self.exits.borrow_mut());
        let (ended, rest): (BTreeMap<_, _>, BTreeMap<_, _>) =
            all.into_iter().partition(|(_, (process, _))| !process.is_alive());
        *self.exits.borrow_mut() = rest;
        for (_, tell) in ended.values() {
            tell();
        }
    }

    pub(crate) fn start_region(self: &Rc<Self>, region: u16) {
        self.broker(region).start();
        self.engines().into_iter().filter(|e| e.region == region).for_each(|e| e.start());
        self.controller(region).start(self);
        for proxy in 0..self.schedule.setup.regions[usize::from(region) - 1].proxies {
            self.start_proxy(region, proxy);
        }
    }

    /// Clients are served there, or not.
    pub(crate) fn set_open(&self, region: u16, open: bool) {
        self.open.borrow_mut().insert(region, open);
    }

    /// Somebody writes another region into the manifest.
    fn add_region(self: &Rc<Self>, region: u16) {
        self.judge.note(|| format!("region {region} is to join"));
        self.registry.borrow_mut().add(region);
        for shard in 0..self.schedule.setup.shards {
            self.controller(region).set_gate(shard, false);
        }
        self.start_region(region);
        self.tell_proxies();
    }

    /// Somebody takes a region out of the manifest.
    fn remove_region(self: &Rc<Self>, region: u16) {
        self.judge.note(|| format!("region {region} is to leave"));
        self.registry.borrow_mut().leave(region);
        self.set_open(region, false);
        self.tell_proxies();
    }

    /// Its servers are not started, whoever wants to.
    fn is_held(&self, region: u16) -> bool {
        let settled = self.registry.borrow().regions.get(&region) == Some(&Standing::Settled);
        settled || !self.is_there(region) || self.operator.holds(region)
    }

    /// The nodes of a region's servers and proxies.
    pub(crate) fn servers(&self, region: u16) -> Vec<Rc<Node>> {
        let engines = self.engines.borrow();
        let mut nodes: Vec<_> =
            engines.values().filter(|e| e.region == region).map(|e| Rc::clone(&e.node)).collect();
        nodes.extend(self.proxy_nodes.borrow().values().filter(|n| n.region == region).cloned());
        nodes
    }

    /// Ends one of a region's servers or proxies.
    pub(crate) fn stop_server(&self, node: &Rc<Node>) {
        let engine = self.engines().into_iter().find(|e| Rc::ptr_eq(&e.node, node));
        if let Some(engine) = engine {
            engine.stop(false);
            return;
        }
        node.kill();
        self.proxies.borrow_mut().retain(|_, proxy| proxy.process.is_alive());
        self.tell_exits();
    }

    /// Starts what of a region does not run.
    pub(crate) fn resume_servers(self: &Rc<Self>, region: u16) {
        self.engines().into_iter().filter(|e| e.region == region).for_each(|e| self.start_engine(&e));
        for proxy in 0..self.schedule.setup.regions[usize::from(region) - 1].proxies {
            self.start_proxy(region, proxy);
        }
        for shard in 0..self.schedule.setup.shards {
            self.controller(region).set_gate(shard, true);
        }
    }

    /// All that is left of a region ends.
    pub(crate) fn end_region(&self, region: u16) {
        self.servers(region).iter().for_each(|node| self.stop_server(node));
        self.broker(region).stop();
        self.controller(region).node.kill();
    }

    /// Proxies are given what has changed, each when it gets there.
    pub(crate) fn tell_proxies(self: &Rc<Self>) {
        let config = self.registry.borrow().config();
        let places: Vec<(u16, u8)> = self.proxy_nodes.borrow().keys().copied().collect();
        for place in places.into_iter().filter(|(region, _)| self.is_there(*region)) {
            let takes =
                self.sim.random(|r| if r.chance(100) { r.range(1, 8000) } else { r.range(20, 1200) }) * MS;
            let (world, config) = (Rc::clone(self), config.clone());
            self.sim.at(self.sim.now() + takes, move || world.tell_proxy(place, &config));
        }
    }

    fn tell_proxy(&self, place: (u16, u8), config: &Config) {
        let mut configs = self.configs.borrow_mut();
        if configs.get(&place).is_some_and(|known| known.generation >= config.generation) {
            return;
        }
        configs.insert(place, config.clone());
        drop(configs);
        let proxy = self.proxies.borrow().get(&place).cloned();
        if let Some(proxy) = proxy.filter(|p| p.process.is_alive()) {
            proxy.configure(config);
        }
    }

    pub(crate) fn start_proxy(self: &Rc<Self>, region: u16, proxy: u8) {
        let node = Rc::clone(&self.proxy_nodes.borrow()[&(region, proxy)]);
        if !node.is_up() && !self.is_held(region) {
            let news = self.registry.borrow().config();
            let config = self.configs.borrow_mut().entry((region, proxy)).or_insert(news).clone();
            let started = Proxy::start(self, &node, &config);
            self.proxies.borrow_mut().insert((region, proxy), started);
        }
    }

    pub(crate) fn stop_proxy(&self, region: u16, proxy: u8) {
        self.proxy_nodes.borrow()[&(region, proxy)].kill();
        self.proxies.borrow_mut().remove(&(region, proxy));
        self.tell_exits();
    }

    /// Ends an engine's process and starts it again later.
    pub(crate) fn restart_engine(self: &Rc<Self>, engine: &Rc<Engine>, power: bool, down: Time) {
        if !engine.node.is_up() {
            return;
        }
        engine.stop(power);
        let (world, engine) = (Rc::clone(self), Rc::clone(engine));
        self.sim.at(self.sim.now() + down, move || world.start_engine(&engine));
    }

    pub(crate) fn start_engine(&self, engine: &Rc<Engine>) {
        if !engine.node.is_up() && !self.is_held(engine.region) {
            engine.start();
        }
    }

    pub(crate) fn client_ended(&self) {
        self.clients.set(self.clients.get() - 1);
    }

    // ---- one run ----

    fn start(self: &Rc<Self>) {
        let director = Process::new();
        self.judge.note(|| format!("{:?}", self.schedule.setup.situation));
        for (region, its) in (1..).zip(&self.schedule.setup.regions) {
            let (world, joins) = (Rc::clone(self), its.joins);
            // Everything that was planned is a second later: the store is up before.
            self.sim.at(if joins > 0 { joins + SEC } else { 0 }, move || {
                if joins > 0 {
                    world.add_region(region);
                } else {
                    world.start_region(region);
                    world.set_open(region, true);
                }
            });
            if let Some(at) = its.leaves {
                let world = Rc::clone(self);
                self.sim.at(at + SEC, move || world.remove_region(region));
            }
        }
        if self.schedule.setup.has_operations() {
            self.operator.start(self);
        }
        for fault in self.schedule.faults.clone() {
            let world = Rc::clone(self);
            // The store is up before anything goes wrong; clocks may be wrong from the start.
            let at = if fault.at == 0 { 0 } else { fault.at + SEC };
            self.sim.at(at, move || world.carry_out(fault));
        }
        let mut steps: BTreeMap<usize, Vec<crate::workload::Operation>> = BTreeMap::new();
        for operation in &self.schedule.operations {
            let mut operation = operation.clone();
            operation.at += SEC;
            steps.entry(operation.session).or_default().push(operation);
        }
        for (session, steps) in steps {
            self.clients.set(self.clients.get() + 1);
            self.sim.spawn(&director, Client::run(Rc::clone(self), session, steps));
        }
        let world = Rc::clone(self);
        self.sim.spawn(&director, async move {
            loop {
                world.sim.sleep(200 * MS).await;
                world.check_now();
            }
        });
    }

    /// What must hold at any time.
    fn check_now(&self) {
        self.judge.masters(&self.engines());
        for region in self.regions() {
            self.proxies(region).iter().for_each(|p| p.check_bounds());
        }
    }

    /// The serving master of a shard, if there is exactly one and it is the recorded one.
    pub(crate) fn master(&self, region: u16, shard: u16) -> Option<Rc<Engine>> {
        let (member, epoch) = self.controller(region).recorded(shard)?;
        let engine = self.engine(region, shard, member);
        let right = engine.node.is_up()
            && engine.follows().is_none()
            && engine.phase() == Phase::Serving
            && engine.look(|s, _| s.identity().epoch == epoch && s.identity().region.0 == region);
        right.then_some(engine)
    }

    fn run(self: &Rc<Self>) -> Outcome {
        self.start();
        self.sim.run(self.schedule.setup.duration + 2 * SEC);
        if !self.sim.is_stopped() {
            self.heal();
            self.settle();
        }
        if !self.sim.is_stopped() {
            self.judge.times_to_live(self);
        }
        // Clients that wait give up by then, and times to live end: until then a region whose clock was ahead shows less.
        if !self.sim.is_stopped() {
            let last_ms = self.judge.last_expiry_ms().saturating_sub(START_MS) + 1000;
            self.sim.run((self.sim.now() + 12 * SEC).max(last_ms * MS).min(self.sim.now() + 300 * SEC));
        }
        if !self.sim.is_stopped() {
            self.settle();
        }
        if !self.sim.is_stopped() {
            if self.clients.get() > 0 {
                self.judge.violate("availability", format!("{} clients got no answer", self.clients.get()));
            }
            self.judge.end(self);
        }
        Outcome {
            violation: self.judge.violation(),
            timeline: self.judge.timeline(),
            simulated: self.sim.now(),
            events: self.sim.events(),
            commits: self.judge.commits(),
            faults: self.faults_done.borrow().clone(),
            checks: self.judge.checks(),
        }
    }

    /// Breaks the circles of references.
    fn dismantle(&self) {
        self.sim.dismantle();
        self.exits.borrow_mut().clear();
        self.proxies.borrow_mut().clear();
        self.engines.borrow_mut().clear();
        self.brokers.borrow_mut().clear();
        self.controllers.borrow_mut().clear();
    }
}

/// Runs a schedule.
pub(crate) fn run(schedule: &Schedule, trace: bool) -> Outcome {
    let world = World::new(schedule.clone(), trace);
    let outcome = world.run();
    world.dismantle();
    outcome
}
