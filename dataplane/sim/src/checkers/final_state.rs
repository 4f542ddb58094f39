//! What must hold once everything was healed and has settled.

use std::rc::Rc;

use super::Judge;
use super::ledger::{covers, lacking};
use super::model::expected;
use super::steps::{may_be_missing, named, short};
use crate::engine::Engine;
use crate::proxy::front::Answered;
use crate::world::World;

impl Judge {
    fn masters_of(world: &World, shard: u16) -> Vec<Rc<Engine>> {
        world.regions().into_iter().filter_map(|region| world.master(region, shard)).collect()
    }

    /// An effect that one region has and another lacks.
    pub(crate) fn unequal_covers(world: &World) -> Option<String> {
        for shard in 0..world.schedule.setup.shards {
            let masters = Self::masters_of(world, shard);
            for a in &masters {
                for b in &masters {
                    let hole = a.look(|a, _| b.look(|b, _| lacking(&a.cover(), &b.cover()).next()));
                    if let Some(name) = hole {
                        return Some(format!("{} has {name:?}, {} lacks it", a.node.name, b.node.name));
                    }
                }
            }
        }
        None
    }

    /// Whether state was refused, in a run in which streams are lost: only a rebuild helps then.
    pub(crate) fn needs_rebuild(world: &World) -> bool {
        world.schedule.setup.situation.is_lossy()
            && world.engines().iter().any(|e| e.look(|s, _| s.stats.refused > 0))
    }

    /// A master that has got a part of another region's state, and for good: some region lost what it had called durable before the
    /// rest was sent, and nobody could give it back. Whose state it is.
    fn bereft_of(&self, world: &World, master: &Engine) -> Option<u16> {
        let source = master.look(|s, _| s.transfer().map(|transfer| transfer.source.0))?;
        let state = self.state.borrow();
        let lost = |engine: &Rc<Engine>| {
            let told = state.durable.get(&(engine.region, engine.shard));
            told.is_some_and(|told| engine.look(|s, _| lacking(told, &s.cover()).next().is_some()))
        };
        Self::masters_of(world, master.shard).iter().any(lost).then_some(source)
    }

    /// A master that has got a part of another region's state, and could still get the rest.
    pub(crate) fn receiving(&self, world: &World) -> Option<String> {
        let shards = 0..world.schedule.setup.shards;
        let mut masters = shards.flat_map(|shard| Self::masters_of(world, shard));
        let receives = |m: &Rc<Engine>| m.look(|s, _| s.transfer().is_some());
        let left = masters.find(|m| receives(m) && self.bereft_of(world, m).is_none())?;
        Some(format!("{} has got a part of another region's state", left.node.name))
    }

    /// Whether every region that lacks something says so on its link to the region that issued it; of what it issued itself and
    /// lost, on its link to one that has it. (Where the region that issued it has lost it too, it must get it back first.)
    pub(crate) fn holes_are_shown(world: &World) -> bool {
        (0..world.schedule.setup.shards).all(|shard| {
            let masters = Self::masters_of(world, shard);
            let lacks = |e: &Engine, name| !e.look(|s, _| covers(&s.cover(), name));
            masters.iter().all(|a| {
                masters.iter().all(|b| {
                    let hole = a.look(|a, _| b.look(|b, _| lacking(&a.cover(), &b.cover()).next()));
                    let Some(name) = hole else { return true };
                    let lost = masters.iter().any(|e| e.region == name.0 && lacks(e, name));
                    let peer = if name.0 == b.region { a.region } else { name.0 };
                    let tells = world
                        .proxies(b.region)
                        .iter()
                        .any(|p| p.link_state(shard, peer).is_some_and(|(_, missing)| missing > 0));
                    tells || !world.regions().contains(&name.0) || (lost && name.0 != b.region)
                })
            })
        })
    }

    /// The last look.
    pub(crate) fn end(&self, world: &World) {
        let missing = world.engines().iter().any(|e| e.look(|s, _| s.stats.missing > 0));
        let missing = missing || self.state.borrow().missing;
        if Self::needs_rebuild(world) {
            self.checked("rebuild needed");
        }
        let holes = Self::unequal_covers(world);
        if let Some(hole) = holes.clone().filter(|_| !Self::needs_rebuild(world)) {
            self.violate("convergence", hole);
            return;
        }
        for shard in 0..world.schedule.setup.shards {
            let masters = Self::masters_of(world, shard);
            for master in &masters {
                master.expire_now();
                self.check_state(world, master, missing, holes.is_none());
            }
            if holes.is_none() {
                self.check_equal(&masters, missing);
                self.check_acknowledged(&masters, shard);
                self.tombstones(&masters);
            }
            self.check_replicas(world, &masters, shard);
            let members = world.engines().into_iter().filter(|e| e.shard == shard && e.node.is_up());
            let members = members.filter(|e| world.regions().contains(&e.region) && !e.is_loading());
            self.all_digests(&members.collect::<Vec<_>>());
        }
        if holes.is_none() {
            self.check_links(world);
        }
    }

    /// What a region shows is what its effects make, or what is more than that shows on the link.
    fn check_state(&self, world: &World, master: &Rc<Engine>, missing: bool, whole: bool) {
        if let Some(source) = self.bereft_of(world, master) {
            self.checked("state in part");
            let proxies = world.proxies(master.region);
            let mut links = proxies.iter().filter_map(|p| p.link_state(master.shard, source));
            if !links.any(|(_, missing)| missing > 0) {
                let name = &master.node.name;
                self.violate(
                    "links",
                    format!("{name} has a part of region {source}'s state, and does not say it"),
                );
            }
            return;
        }
        let cover = master.look(|s, _| s.cover());
        let state = self.state.borrow();
        let wall_ms = master.wall_ms();
        let mut wrong = None;
        let mut looked = 0;
        for key in state.ledger.keys(master.shard) {
            let expires = may_be_missing(key);
            // Values of keys that expire are lost with what was not merged in time.
            if expires && (missing || !whole) {
                continue;
            }
            looked += 1;
            let known = state.ledger.of_key(master.shard, key);
            let mut right = expected(known.filter(|c| covers(&cover, c.name)));
            if right.at_ms.is_some_and(|at| at <= wall_ms) {
                right.data = None;
            }
            let shown = master.shows(key);
            if shown != right.data {
                wrong = Some(format!(
                    "{} ends with {} = {}, it should be {}",
                    master.node.name,
                    String::from_utf8_lossy(key),
                    short(shown.as_ref()),
                    short(right.data.as_ref())
                ));
                break;
            }
        }
        drop(state);
        *self.state.borrow_mut().checks.entry("state").or_default() += looked;
        if let Some(wrong) = wrong {
            self.violate("state", wrong);
        }
    }

    /// Keys that are shown end when their latest register says, in every region.
    pub(crate) fn times_to_live(&self, world: &World) {
        let masters = world.engines().into_iter().filter(|e| e.phase() == crate::engine::Phase::Serving);
        for master in masters {
            let wrong = master.look(|shard, keys| {
                if shard.transfer().is_some() {
                    return None;
                }
                let cover = shard.cover();
                let state = self.state.borrow();
                let mut looked =
                    keys.map.iter().filter(|(key, _)| key.starts_with(b"e") && !may_be_missing(key));
                looked.find_map(|(key, (_, at))| {
                    let known = state.ledger.of_key(master.shard, key);
                    let right = expected(known.filter(|c| covers(&cover, c.name)));
                    (right.at_ms != *at).then(|| (key.clone(), *at, right.at_ms))
                })
            });
            self.checked("expiry");
            if let Some((key, at, right)) = wrong {
                let key = String::from_utf8_lossy(&key);
                self.violate(
                    "expiry",
                    format!("{} ends {key} at {at:?}, it should at {right:?}", master.node.name),
                );
            }
        }
    }

    /// Regions show the same, times to live included.
    fn check_equal(&self, masters: &[Rc<Engine>], missing: bool) {
        self.checked("convergence");
        let Some((first, rest)) = masters.split_first() else { return };
        for other in rest {
            let wrong = first.look(|_, a| {
                other.look(|_, b| {
                    let keys = a.map.keys().chain(b.map.keys());
                    let mut keys = keys.filter(|key| !(missing && may_be_missing(key)));
                    keys.find(|key| a.map.get(*key) != b.map.get(*key)).cloned()
                })
            });
            if let Some(key) = wrong {
                let at = |e: &Engine| e.look(|_, keys| keys.expiry(&key));
                self.violate(
                    "convergence",
                    format!(
                        "{}: {} until {:?} in {}, {} until {:?} in {}",
                        String::from_utf8_lossy(&key),
                        short(first.shows(&key).as_ref()),
                        at(first),
                        first.node.name,
                        short(other.shows(&key).as_ref()),
                        at(other),
                        other.node.name
                    ),
                );
            }
        }
    }

    /// Replicas have what their master has.
    fn check_replicas(&self, world: &World, masters: &[Rc<Engine>], shard: u16) {
        for master in masters {
            for member in (0..world.members(master.region)).filter(|m| *m != master.member) {
                self.checked("replica");
                let replica = world.engine(master.region, shard, member);
                if !replica.is_level_with(master) {
                    continue;
                }
                let same = master.look(|a, x| {
                    replica.look(|b, y| {
                        let outboxes = a.outbox().iter().eq(b.outbox().iter());
                        let known = a.cover() == b.cover() && a.positions() == b.positions();
                        x == y && known && outboxes && named(a) == named(b)
                    })
                });
                if !same {
                    self.violate(
                        "replica",
                        format!("{} differs from its master {}", replica.node.name, master.node.name),
                    );
                }
            }
        }
    }

    /// Nothing acknowledged is lost. (What is overruled is in the cover all the same.)
    fn check_acknowledged(&self, masters: &[Rc<Engine>], shard: u16) {
        let state = self.state.borrow();
        let mut looked = 0;
        let mut lost = None;
        for write in state.acknowledged.iter().filter(|w| w.shard == shard && w.level != Answered::Local) {
            looked += 1;
            let lacks = masters.iter().find(|m| !m.look(|s, _| covers(&s.cover(), write.name)));
            if let Some(lacks) = lacks.filter(|_| !self.lossy) {
                lost = Some(format!(
                    "operation #{} ({:?}) was acknowledged at {:?}, {} lacks it",
                    write.number, write.name, write.level, lacks.node.name
                ));
                break;
            }
        }
        drop(state);
        *self.state.borrow_mut().checks.entry("durability").or_default() += looked;
        if let Some(lost) = lost {
            self.violate("durability", lost);
        }
    }

    /// Every stream is read by somebody, and nothing is said to be missing.
    fn check_links(&self, world: &World) {
        use mas_core::replication::health::LinkState;
        for region in world.regions() {
            for peer in world.regions().into_iter().filter(|p| *p != region) {
                for shard in 0..world.schedule.setup.shards {
                    let master = world.master(region, shard);
                    if master.is_some_and(|master| self.bereft_of(world, &master) == Some(peer)) {
                        continue;
                    }
                    self.checked("links");
                    let proxies = world.proxies(region);
                    let states: Vec<_> = proxies.iter().filter_map(|p| p.link_state(shard, peer)).collect();
                    if !states.iter().any(|(state, _)| *state == LinkState::Connected) {
                        self.violate(
                            "links",
                            format!("region {region} shard {shard} from {peer}: {states:?}"),
                        );
                    }
                }
            }
        }
    }
}
