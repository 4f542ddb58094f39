//! Forgetting tombstones that are causally stable, step by step, as part of the shard's pulse.

use std::rc::Rc;
use std::time::Duration;

use mas_core::stamp::RegionId;

use super::engine::{Collected, EngineError};
use super::hub::{Hub, Seat, Shard, wall_ms};
use super::metrics::{Metrics, OfRegion};

/// Time between two walks through all slots.
const PAUSE: Duration = Duration::from_secs(1);

/// Where a walk through the slots is.
#[derive(Debug, Default)]
pub(crate) struct Collector {
    slot: u16,
    /// Tombstones left in the slots of this walk.
    held: u64,
    next_ms: u64,
}

impl Collector {
    /// The next step, if one is due. Only for the proxy that has the shard's own duty.
    pub(crate) async fn step(
        &mut self,
        hub: &Rc<Hub>,
        shard: &Rc<Shard>,
        seat: &Seat,
    ) -> Result<(), EngineError> {
        let now_ms = hub.now_ms();
        if now_ms < self.next_ms {
            return Ok(());
        }
        let config = hub.config();
        let members = config.peers.iter().map(|peer| peer.region.id).chain([config.region.id]).map(RegionId);
        let (engines, membership) = (&hub.engines, config.membership);
        let asked = engines.collect(&seat.address, seat.incarnation, self.slot, membership, members).await;
        let done = match asked {
            // This proxy will be told of the new list, too; until then it has nothing forgotten.
            Err(EngineError::OldMembers) => {
                self.next_ms = now_ms + PAUSE.as_millis() as u64;
                return Ok(());
            }
            asked => asked?,
        };
        hub.metrics.collected.get_or_create(&Metrics::of(shard.id)).inc_by(done.dropped);
        self.held += done.held;
        self.slot = done.next_slot;
        if self.slot == 0 {
            self.next_ms = now_ms + PAUSE.as_millis() as u64;
            self.report(hub, shard, done);
            self.held = 0;
        }
        Ok(())
    }

    /// After a whole walk.
    fn report(&self, hub: &Hub, shard: &Shard, done: Collected) {
        let of = Metrics::of(shard.id);
        hub.metrics.tombstones.get_or_create(&of).set(self.held as i64);
        let age_ms = wall_ms().saturating_sub(done.stable.millis());
        hub.metrics.stable_age_seconds.get_or_create(&of).set(age_ms as f64 / 1000.0);
        for peer in &hub.config().peers {
            let of = OfRegion { region: peer.region.name.clone(), shard: shard.id.0 };
            let holds = self.held > 0 && RegionId(peer.region.id) == done.held_by;
            hub.metrics.tombstones_held_by.get_or_create(&of).set(if holds { self.held as i64 } else { 0 });
        }
    }
}
