//! Shards of which nothing is left: noticing them, and beginning to rebuild them. The counterpart of
//! `operator/src/platform/local/rebuild.rs`.

use std::rc::Rc;

use mas_core::procedures::operation::Phase;
use mas_core::procedures::shard::{PATIENCE_MS, Seen};

use super::Operator;
use crate::executor::MS;
use crate::registry::{Row, Work};
use crate::world::World;

impl Operator {
    /// Looks at all shards, and begins to rebuild those of which nothing is left.
    pub(super) fn watch(&self, world: &Rc<World>) {
        if !world.schedule.setup.situation.rebuilds() {
            return;
        }
        let members = world.registry.borrow().members();
        for shard in 0..world.schedule.setup.shards {
            let mut lost = members.clone();
            lost.retain(|region| self.is_lost(world, *region, shard));
            for region in &members {
                // A controller acts again when the rebuild is over, however it ended.
                if !world.registry.borrow().is_rebuilt(*region, shard) {
                    world.controller(*region).set_gate(shard, true);
                }
            }
            if lost.len() == members.len() {
                begin_from_streams(world, &lost, shard);
                continue;
            }
            for region in lost {
                let epoch = world.controller(region).record(shard).epoch;
                if world.registry.borrow_mut().rebuild(region, shard, epoch) {
                    world.judge.note(|| format!("operator: region {region} shard {shard} is to be rebuilt"));
                }
            }
        }
    }

    /// Nothing was there for so long that it is not for a moment.
    fn is_lost(&self, world: &World, region: u16, shard: u16) -> bool {
        let controller = world.controller(region);
        let now = world.sim.now();
        let mut lost = self.lost.borrow_mut();
        if !controller.record(shard).is_lost(&controller.view(shard).members) {
            lost.remove(&(region, shard));
            return false;
        }
        now >= *lost.entry((region, shard)).or_insert(now) + PATIENCE_MS * MS
    }
}

/// No region has the shard: each begins with what its own stream holds.
fn begin_from_streams(world: &World, regions: &[u16], shard: u16) {
    world.judge.checked("begun from streams");
    for region in regions {
        world.controller(*region).begin_from_stream(shard);
    }
    let mut registry = world.registry.borrow_mut();
    let of = |row: &&mut Row| row.lost.is_some_and(|(lost, _)| lost == shard);
    for row in registry.operations.iter_mut().filter(of) {
        if !row.operation.phase.is_final() {
            row.operation.end(Phase::RolledBack, "no region has the shard any more".to_owned());
        }
    }
}

/// Members that hold what was there before the rebuild began.
pub(super) fn in_the_way(world: &World, row: &Row, shard: u16) -> Vec<usize> {
    let Some((_, lost)) = row.lost.filter(|(of, _)| row.work == Work::Rebuild && *of == shard) else {
        return Vec::new();
    };
    let stands = |seen: &Seen| match seen {
        Seen::Answers { identity, .. } => {
            !identity.empty && identity.region == row.region && identity.epoch <= lost
        }
        Seen::Absent | Seen::Paused | Seen::Silent | Seen::Loading => false,
    };
    let members = world.controller(row.region).view(shard).members;
    members.iter().enumerate().filter(|(_, seen)| stands(seen)).map(|(member, _)| member).collect()
}
