//! Who may be master: one at an epoch, under an incarnation of its own, and nobody who is passed over has more.

use std::collections::BTreeMap;
use std::rc::Rc;

use mas_core::procedures::handover::Outcome;
use mas_core::procedures::shard::Seen;
use mas_core::stamp::Incarnation;

use super::Judge;
use crate::engine::{Engine, Phase};

impl Judge {
    /// At most one serving master an epoch.
    pub(crate) fn masters(&self, engines: &[Rc<Engine>]) {
        self.checked("masters");
        let mut serving: BTreeMap<(u16, u16, u64), &Engine> = BTreeMap::new();
        for engine in engines.iter().filter(|e| e.node.is_up() && e.phase() == Phase::Serving) {
            let epoch = engine.look(|shard, _| shard.identity().epoch);
            if let Some(other) = serving.insert((engine.region, engine.shard, epoch), engine) {
                self.violate(
                    "masters",
                    format!("{} and {} serve under epoch {epoch}", other.node.name, engine.node.name),
                );
            }
        }
    }

    /// Somebody is chosen among members that look like this: of those that answer it has most.
    pub(crate) fn chosen(&self, who: &str, members: &[Seen], chosen: usize) {
        self.checked("masters");
        let rank = |seen: &Seen| match seen {
            Seen::Answers { identity, .. } if !identity.empty => (identity.epoch, identity.seq),
            _ => (0, 0),
        };
        if let Some(better) = members.iter().position(|seen| rank(seen) > rank(&members[chosen])) {
            self.violate(
                "masters",
                format!("{who} promotes redis-{chosen}, although redis-{better} has more"),
            );
        }
    }

    /// A planned handover is decided while the old master lives: the new one has all of it, and nothing is added any more.
    pub(crate) fn handed_over(&self, old: &Engine, new: &Engine) {
        self.checked("handover");
        if old.phase() == Phase::Fenced || !old.node.is_up() {
            return; // it has failed since it was looked at; what is promoted then is a failover's business
        }
        let held = |engine: &Engine| engine.look(|shard, _| (shard.identity().incarnation, shard.seq()));
        if held(new) != held(old) {
            self.violate(
                "handover",
                format!(
                    "{} hands over after its number {}, {} has {}",
                    old.node.name,
                    held(old).1,
                    new.node.name,
                    held(new).1
                ),
            );
        } else if !old.hands_over() {
            self.violate("handover", format!("{} hands over and takes writes", old.node.name));
        }
    }

    /// Whoever asked for a handover is told what came of it.
    pub(crate) fn handover_ended(&self, outcome: &Outcome) {
        self.checked(match outcome {
            Outcome::Done { .. } => "handover done",
            Outcome::Abandoned { .. } => "handover given up",
        });
    }

    /// An engine was promoted; before, its data had seen `had`, and members were at the epochs in `others`.
    pub(crate) fn promoted(
        &self,
        engine: &Engine,
        epoch: u64,
        incarnation: Incarnation,
        had: u64,
        others: &[u64],
    ) {
        self.checked("masters");
        let mut state = self.state.borrow_mut();
        let at = (engine.region, engine.shard, epoch);
        let fresh_epoch = state.epochs.insert(at);
        let fresh = state.incarnations.insert(incarnation.0);
        let logged = state.logged.get(&(engine.region, engine.shard)).map_or(0, |l| l.order.len());
        state.logged_before.insert(incarnation.0, logged);
        drop(state);
        if !fresh_epoch {
            self.violate("masters", format!("epoch {epoch} was given twice in {}", engine.node.name));
        }
        if !fresh {
            self.violate("identity", format!("{} keeps incarnation {incarnation}", engine.node.name));
        }
        if let Some(more) = others.iter().find(|other| **other > had) {
            self.violate(
                "masters",
                format!(
                    "{} had seen epoch {had} when it was promoted, another member {more}",
                    engine.node.name
                ),
            );
        }
    }
}
