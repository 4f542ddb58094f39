//! The comparison of a region with the members before it serves: by digests of slots, of the masters that they have now. Two
//! engines are never looked at in the same moment, so a slot counts as equal when it was so once; and as different only if it is, while both have
//! the same. (`operator/src/verify` looks at the keys of slots that differ instead.)

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use mas_core::cover::Cover;
use mas_core::procedures::scale_out::Verification;
use mas_core::slot::SLOTS;

use super::Operator;
use super::ground::Ground;
use crate::engine::Engine;
use crate::executor::{MS, Time};
use crate::world::World;

/// Time between two looks, and how many there are.
const PAUSE: Time = 40 * MS;
const LOOKS: usize = 60;

/// One engine's digests of the slots that have any, of all that expires after some time.
struct Digests {
    cover: Cover,
    slots: BTreeMap<u16, u64>,
}

fn digests(engine: &Engine, beyond_ms: u64) -> Digests {
    engine.look(|shard, _| {
        let all = (0..SLOTS).map(|slot| (slot, shard.table().digest(slot, beyond_ms)));
        Digests { cover: shard.cover(), slots: all.filter(|(_, digest)| *digest != 0).collect() }
    })
}

impl Operator {
    /// Begins to compare.
    pub(super) fn verify(self: &Rc<Self>, world: &Rc<World>, ground: &Ground) {
        let ticket = ground.ticket;
        *self.verifying.borrow_mut() = (ticket, Verification::Running);
        let spot = |region, shard| Ground::spot(world, region, shard);
        let mut pairs = Vec::new();
        for shard in &ground.shards {
            for member in &ground.members {
                pairs.push((spot(ground.region, *shard), spot(*member, *shard), *shard));
            }
        }
        let (operator, world) = (Rc::clone(self), Rc::clone(world));
        let process = self.node.process();
        world.sim.clone().spawn(&process, async move {
            let mut verdict = Verification::Equal;
            for (one, other, shard) in pairs {
                // A master moved, or is away: again.
                let (Some(one), Some(other)) = (one, other) else {
                    verdict = Verification::None;
                    break;
                };
                let one = world.engine(one.region, shard, one.member);
                let other = world.engine(other.region, shard, other.member);
                verdict = operator.compare(&world, &one, &other).await;
                if verdict != Verification::Equal {
                    break;
                }
            }
            world.judge.note(|| format!("operator: compared: {verdict:?}"));
            let mut verifying = operator.verifying.borrow_mut();
            if verifying.0 == ticket {
                verifying.1 = verdict;
            }
        });
    }

    async fn compare(&self, world: &World, one: &Rc<Engine>, other: &Rc<Engine>) -> Verification {
        let mut equal: BTreeSet<u16> = BTreeSet::new();
        for _ in 0..LOOKS {
            // What had expired by then may be forgotten by some.
            let expired = |e: &Rc<Engine>| e.look(|shard, _| shard.table().expired().millis());
            let asked = (self.asked(world, one, expired), self.asked(world, other, expired));
            let (Ok(a), Ok(b)) = (asked.0.await, asked.1.await) else { return Verification::None };
            let beyond_ms = a.max(b);
            let look = move |e: &Rc<Engine>| digests(e, beyond_ms);
            let asked = (self.asked(world, one, look), self.asked(world, other, look));
            let (Ok(a), Ok(b)) = (asked.0.await, asked.1.await) else { return Verification::None };
            let all: BTreeSet<u16> = a.slots.keys().chain(b.slots.keys()).copied().collect();
            equal.extend(all.iter().filter(|slot| a.slots.get(slot) == b.slots.get(slot)));
            let Some(slot) = all.difference(&equal).next() else { return Verification::Equal };
            if a.cover == b.cover {
                return Verification::Differs(format!("slot {slot}"));
            }
            world.sim.sleep(PAUSE).await;
        }
        Verification::None
    }
}
