//! The end of a run: everything is healed, and the store must settle by itself. And the departure of a region, which
//! waits for the same.

use std::rc::Rc;

use crate::checkers::Judge;
use crate::executor::{MS, SEC, Time};
use crate::world::World;

/// After everything was healed the store must settle within this time.
const SETTLE_LIMIT: Time = 180 * SEC;
/// Once all is settled, nothing is left of what was deleted after this time.
const FORGOTTEN_AFTER: Time = 6 * SEC;
/// Holes that only a rebuild can fill must be shown after this time.
const HOLES_SHOWN_AFTER: Time = 60 * SEC;

impl World {
    /// Everything works again: links, processes, clocks.
    pub(crate) fn heal(self: &Rc<Self>) {
        self.judge.note(|| "everything is healed".to_owned());
        self.network.heal_all();
        for region in self.regions() {
            let broker = self.broker(region);
            if !broker.node.is_up() {
                broker.start();
            }
            broker.heal();
            let controller = self.controller(region);
            controller.stale_until.set(0);
            if !controller.node.is_up() {
                controller.start(self);
            }
            for proxy in 0..self.schedule.setup.regions[usize::from(region) - 1].proxies {
                self.start_proxy(region, proxy);
            }
            for node in self.nodes_of(region) {
                node.process().pause(0);
            }
        }
        if self.schedule.setup.has_operations() {
            self.operator.node.process().pause(0);
            self.operator.heal();
            self.operator.start(self);
        }
        for engine in self.engines() {
            engine.lag.set(0);
            engine.node.process().pause(0);
            engine.clock.set(self.sim.now(), 0, 0);
            self.start_engine(&engine);
        }
    }

    /// Why the store has not settled; `None`: it has.
    fn unsettled(&self) -> Option<String> {
        if let Some((_, row)) = self.registry.borrow().first() {
            return Some(self.operator.words(row));
        }
        // Incarnations of which regions have different parts for good are not sealed.
        let rebuild = Judge::needs_rebuild(self) && Judge::unequal_covers(self).is_some();
        for region in self.regions() {
            for shard in 0..self.schedule.setup.shards {
                let place = format!("region {region} shard {shard}");
                let Some(master) = self.master(region, shard) else {
                    return Some(format!("{place} has no serving master"));
                };
                if !master.is_recovered() {
                    return Some(format!("{place} is not recovered"));
                }
                let ended = master.look(|s, _| s.ended());
                if !ended.is_empty() && !rebuild {
                    return Some(format!("{place} has not sealed {ended:?}"));
                }
                if !master.look(|s, _| s.outbox().is_empty()) {
                    return Some(format!("{place} has effects in its outbox: {}", master.describe()));
                }
                for member in 0..self.members(region) {
                    let engine = self.engine(region, shard, member);
                    if member != master.member && !engine.is_level_with(&master) {
                        return Some(format!(
                            "{} is not level with its master: {}",
                            engine.node.name,
                            engine.describe()
                        ));
                    }
                }
            }
            if let Some(proxy) = self.proxies(region).iter().find(|p| !p.is_idle()) {
                return Some(format!("{} has effects on their way", proxy.node.name));
            }
        }
        None
    }

    /// What links say, for the text of a violation.
    fn links_line(&self) -> String {
        let all = self.regions();
        let pairs = all.iter().flat_map(|region| all.iter().map(move |peer| (*region, *peer)));
        let states = pairs.map(|(region, peer)| {
            let states: Vec<_> = self.proxies(region).iter().filter_map(|p| p.link_state(0, peer)).collect();
            format!("; {region} from {peer}: {states:?}")
        });
        states.collect()
    }

    pub(crate) fn settle(self: &Rc<Self>) {
        let deadline = self.sim.now() + SETTLE_LIMIT;
        let shown_after = self.sim.now() + HOLES_SHOWN_AFTER;
        loop {
            self.sim.run(self.sim.now() + 500 * MS);
            if self.sim.is_stopped() {
                return;
            }
            let why = self.unsettled().or_else(|| self.judge.receiving(self)).or_else(|| {
                let hole = Judge::unequal_covers(self)? + &self.links_line();
                // State was refused: a region was rolled back behind what was forgotten since.
                let shown = Judge::needs_rebuild(self) && Judge::holes_are_shown(self);
                (!shown || self.sim.now() < shown_after).then_some(hole)
            });
            match why {
                None => {
                    // What is sealed now is told, and what it held is forgotten.
                    self.sim.run(self.sim.now() + FORGOTTEN_AFTER);
                    return;
                }
                Some(why) if self.sim.now() >= deadline => {
                    self.judge.violate("convergence", format!("the store does not settle: {why}"));
                    return;
                }
                Some(_) => {}
            }
        }
    }
}
