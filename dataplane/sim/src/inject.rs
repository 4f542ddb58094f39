//! How each fault is done, and undone when its time is over.

use std::rc::Rc;

use mas_core::transfer::Cursor;

use crate::engine::{Engine, Phase};
use crate::executor::{MS, Time};
use crate::faults::{Fault, Kind, Moment, Place};
use crate::network::Node;
use crate::world::World;

/// How often a fault that waits for its moment looks.
const LOOK: Time = 20 * MS;

impl World {
    /// Makes a planned fault happen, when its moment has come.
    pub(crate) fn carry_out(self: &Rc<Self>, fault: Fault) {
        if self.is_moment(fault.moment) {
            self.inject(&fault.kind);
        } else if self.sim.now() < self.schedule.setup.duration {
            let world = Rc::clone(self);
            self.sim.at(self.sim.now() + LOOK, move || world.carry_out(fault));
        }
    }

    fn is_moment(&self, moment: Moment) -> bool {
        let under_way = |e: &Rc<Engine>| e.look(|s, _| s.transfer().is_some_and(|t| t.next != Cursor::Done));
        let mut serving = self.engines().into_iter().filter(|e| e.phase() == Phase::Serving);
        match moment {
            Moment::Any => true,
            Moment::HandingOver => serving.any(|e| e.hands_over()),
            Moment::Sending => serving.any(|e| e.sends.get()),
            Moment::Fetching => serving.any(|e| under_way(&e)),
            Moment::Step(step) => self.operator.step().is_some_and(|now| now == step),
        }
    }

    /// Makes one fault happen.
    fn inject(self: &Rc<Self>, kind: &Kind) {
        if !self.applies(kind) {
            return;
        }
        self.judge.note(|| format!("FAULT {}: {kind:?}", kind.name()));
        *self.faults_done.borrow_mut().entry(kind.name()).or_default() += 1;
        match *kind {
            Kind::Kill { place, down } => self.kill(place, down),
            Kind::PowerLoss { place: Place::Engine { region, shard, member }, down } => {
                self.restart_engine(&self.engine(region, shard, usize::from(member)), true, down);
            }
            Kind::MasterPowerLoss { region, shard, down } => {
                if let Some(master) = self.master(region, shard) {
                    self.restart_engine(&master, true, down);
                }
            }
            Kind::HostLoss { place: Place::Engine { region, shard, member }, down } => {
                self.restart_engine(&self.engine(region, shard, usize::from(member)), false, down);
                for proxy in 0..self.schedule.setup.regions[usize::from(region) - 1].proxies {
                    self.kill(Place::Proxy { region, proxy }, down);
                }
            }
            Kind::ShardPowerLoss { region, shard, down } => {
                for member in 0..self.members(region) {
                    self.restart_engine(&self.engine(region, shard, member), true, down);
                }
            }
            Kind::ShardLoss { region, shard, down } => {
                for member in 0..self.members(region) {
                    let engine = self.engine(region, shard, member);
                    self.restart_engine(&engine, true, down);
                    engine.lose_files();
                }
            }
            Kind::Pause { place, time } => {
                let process = self.node_of(place).process();
                process.pause(self.sim.now() + time);
            }
            Kind::CutRegions { from, to, both, time } => {
                for a in self.nodes_of(from) {
                    for b in self.nodes_of(to) {
                        self.cut(&a, &b, both, time);
                    }
                }
            }
            Kind::CutPlaces { from, to, both, time } => {
                self.cut(&self.node_of(from), &self.node_of(to), both, time);
            }
            Kind::Loss { from, to, per_mille, time } => {
                let (a, b) = (self.node_of(from).index, self.node_of(to).index);
                self.network.set_loss(a, b, per_mille);
                let network = self.network.clone();
                self.sim.at(self.sim.now() + time, move || network.set_loss(a, b, 0));
            }
            Kind::Slow { from, to, extra, time } => {
                let (a, b) = (self.node_of(from).index, self.node_of(to).index);
                self.network.set_slow(a, b, extra);
                let network = self.network.clone();
                self.sim.at(self.sim.now() + time, move || network.set_slow(a, b, 0));
            }
            Kind::ClockJump { place: Place::Engine { region, shard, member }, by_ms } => {
                let engine = self.engine(region, shard, usize::from(member));
                engine.clock.jump(self.sim.now(), by_ms * MS as i64);
            }
            Kind::ClockDrift { place: Place::Engine { region, shard, member }, ppm } => {
                let engine = self.engine(region, shard, usize::from(member));
                let now = self.sim.now();
                engine.clock.set(now, engine.clock.ahead_us(now), ppm);
            }
            Kind::ReplicaLag { region, shard, member, lag, time } => {
                let engine = self.engine(region, shard, usize::from(member));
                engine.lag.set(lag);
                self.sim.at(self.sim.now() + time, move || engine.lag.set(0));
            }
            Kind::StaleController { region, time } => {
                self.controller(region).stale_until.set(self.sim.now() + time);
            }
            Kind::Fence { region, shard } => {
                if let Some(master) = self.master(region, shard) {
                    master.fence();
                }
            }
            Kind::Handover { region, shard, to } => {
                self.controller(region).ask_for(shard, to.map(usize::from));
            }
            Kind::Nacks { region, time } => self.broker(region).refuse_some(time),
            Kind::Block { region, time } => self.broker(region).block(time),
            Kind::Rewrite { place: Place::Engine { region, shard, member } } => {
                self.engine(region, shard, usize::from(member)).rewrite();
            }
            // Of engines only.
            Kind::HostLoss { .. }
            | Kind::PowerLoss { .. }
            | Kind::ClockJump { .. }
            | Kind::ClockDrift { .. }
            | Kind::Rewrite { .. } => {}
            Kind::Crash { action, down } => self.operator.dies_before(action, down),
            Kind::Truncate { region, shard, keep } => self.broker(region).truncate(shard, keep),
            Kind::LoseStream { region, shard } => self.broker(region).lose(shard),
        }
    }

    /// Whether there is anything that it could happen to.
    fn applies(&self, kind: &Kind) -> bool {
        let regions = self.regions();
        let there = |region: u16| regions.contains(&region);
        let place = |place: &Place| match *place {
            Place::Engine { region, .. }
            | Place::Proxy { region, .. }
            | Place::Broker { region }
            | Place::Controller { region } => there(region),
            Place::Operator => true,
        };
        match kind {
            Kind::Kill { place: p, .. }
            | Kind::HostLoss { place: p, .. }
            | Kind::PowerLoss { place: p, .. }
            | Kind::Pause { place: p, .. } => place(p) && self.node_of(*p).is_up(),
            Kind::Rewrite { place: p } => place(p),
            Kind::ClockJump { .. } | Kind::ClockDrift { .. } | Kind::Crash { .. } => true,
            Kind::CutPlaces { from, to, .. } | Kind::Loss { from, to, .. } | Kind::Slow { from, to, .. } => {
                place(from) && place(to) && from != to
            }
            Kind::CutRegions { from, to, .. } => there(*from) && there(*to),
            Kind::MasterPowerLoss { region, .. }
            | Kind::ShardPowerLoss { region, .. }
            | Kind::ShardLoss { region, .. }
            | Kind::ReplicaLag { region, .. }
            | Kind::StaleController { region, .. }
            | Kind::Fence { region, .. }
            | Kind::Handover { region, .. }
            | Kind::Nacks { region, .. }
            | Kind::Block { region, .. }
            | Kind::Truncate { region, .. }
            | Kind::LoseStream { region, .. } => there(*region),
        }
    }

    fn kill(self: &Rc<Self>, place: Place, down: Time) {
        let (world, back) = (Rc::clone(self), self.sim.now() + down);
        match place {
            Place::Engine { region, shard, member } => {
                self.restart_engine(&self.engine(region, shard, usize::from(member)), false, down);
            }
            Place::Proxy { region, proxy } => {
                self.stop_proxy(region, proxy);
                self.sim.at(back, move || world.start_proxy(region, proxy));
            }
            Place::Broker { region } => {
                let broker = self.broker(region);
                broker.stop();
                self.sim.at(back, move || {
                    if !broker.node.is_up() && world.regions().contains(&region) {
                        broker.start();
                    }
                });
            }
            Place::Operator => {
                self.operator.node.kill();
                self.sim.at(back, move || world.operator.start(&world));
            }
            Place::Controller { region } => {
                let controller = self.controller(region);
                controller.node.kill();
                self.sim.at(back, move || {
                    if !controller.node.is_up() && world.regions().contains(&region) {
                        controller.start(&world);
                    }
                });
            }
        }
    }

    fn cut(&self, a: &Rc<Node>, b: &Rc<Node>, both: bool, time: Time) {
        let mut pairs = vec![(a.index, b.index)];
        if both {
            pairs.push((b.index, a.index));
        }
        for (from, to) in pairs {
            self.network.cut(from, to);
            let network = self.network.clone();
            self.sim.at(self.sim.now() + time, move || network.heal(from, to));
        }
    }
}
