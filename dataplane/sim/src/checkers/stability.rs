//! Tombstones are forgotten only when nobody needs them any more, and then they are.

use std::rc::Rc;

use mas_core::meta::KeyMeta;
use mas_core::shard::Shard;
use mas_core::slot::SLOTS;
use mas_core::stamp::Hlc;

use super::Judge;
use super::ledger::{Commit, done_with};
use crate::engine::Engine;

impl Judge {
    /// The engines of all regions.
    pub(crate) fn meets(&self, engines: &[Rc<Engine>]) {
        *self.engines.borrow_mut() = engines.iter().map(Rc::downgrade).collect();
    }

    /// A copy calls this stable: every member of its shard in every region of the store has, or once had, every effect up to
    /// there. (What a whole shard loses with its power is beyond what was promised.)
    pub(crate) fn stable(&self, engine: &Engine, regions: &[u16], stable: Hlc) {
        self.checked("stability");
        let state = self.state.borrow();
        let caller = (engine.region, engine.shard);
        let known = state.stable.get(&caller).copied().unwrap_or(0);
        if stable.0 <= known {
            return;
        }
        let engines: Vec<Rc<Engine>> =
            self.engines.borrow().iter().filter_map(std::rc::Weak::upgrade).collect();
        // Its own replicas forget when they are where it is now.
        let members = engines.iter().filter(|e| e.shard == engine.shard && regions.contains(&e.region));
        let members = members.filter(|e| e.region != engine.region || e.member == engine.member);
        let mut late = None;
        for member in members {
            let has = member.look(|shard, _| shard.cover());
            let held = state.held.get(&(member.region, member.shard, member.member));
            let lacks = |commit: &&Commit| {
                commit.shard == engine.shard
                    && (known + 1..=stable.0).contains(&commit.hlc)
                    && !done_with(&has, commit.name)
                    && held.is_none_or(|held| !held.contains(&commit.name))
            };
            if let Some(commit) = state.ledger.commits.iter().find(lacks) {
                late = Some((commit.name, commit.hlc, member.node.name.clone()));
            }
        }
        drop(state);
        self.state.borrow_mut().stable.insert(caller, stable.0);
        if let Some((name, hlc, lacks)) = late.filter(|_| !self.lossy) {
            let who = &engine.node.name;
            self.violate(
                "stability",
                format!("{who} calls {} stable, and {lacks} never had {name:?} of clock {hlc}", stable.0),
            );
        }
    }

    /// An effect was issued: it is later than all that was ever called stable.
    pub(super) fn after_stable(&self, commit: &Commit) {
        let state = self.state.borrow();
        // What another region calls stable is durable here.
        let others = state
            .stable
            .iter()
            .filter(|((region, shard), _)| *shard == commit.shard && *region != commit.name.0);
        let stable = others.map(|(_, stable)| *stable).max().unwrap_or(0);
        drop(state);
        if commit.hlc <= stable {
            self.violate(
                "stability",
                format!(
                    "operation #{} got clock {}, although {stable} was called stable",
                    commit.number, commit.hlc
                ),
            );
        }
    }

    /// Once all is quiet there are no tombstones, except those that an ended incarnation holds.
    pub(super) fn tombstones(&self, masters: &[Rc<Engine>]) {
        for master in masters {
            self.checked("tombstones");
            let (held, stable) = master.look(|s, _| (tombstones_in(s), s.stable()));
            // (Of an incarnation that only a lost stream told of, nobody knows in its region.)
            if held > 0 && !self.lossy {
                self.violate(
                    "tombstones",
                    format!(
                        "{} still has {held} tombstones, stable is {}, held by {:?}",
                        master.node.name, stable.hlc.0, stable.held_by
                    ),
                );
            }
        }
    }
}

/// What only guards against late effects, a time-to-live that may still pass aside.
fn tombstones_in(shard: &Shard) -> u64 {
    let waits = |meta: &KeyMeta| meta.ttl.lives.iter().any(|life| life.kill.is_none());
    let keys = shard.table().rich_entries().filter(|(_, meta)| !waits(meta));
    let floors = (0..SLOTS).filter(|slot| !shard.table().slot_floor(*slot).is_zero()).count();
    keys.map(|(_, meta)| meta.tombstones()).sum::<u64>() + floors as u64
}
