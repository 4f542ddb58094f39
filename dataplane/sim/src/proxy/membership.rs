//! What a proxy's configuration says of the store's regions, and what the proxy tells the operator.

use std::rc::Rc;

use mas_core::replication::health::{Health, Link, LinkState};
use mas_core::stamp::RegionId;

use super::{LinkRow, MAX_LAG_MS, Proxy};
use crate::executor::Notify;
use crate::registry::Config;

/// What a proxy says about one of its links.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LinkReport {
    pub(crate) shard: u16,
    pub(crate) peer: u16,
    pub(crate) state: LinkState,
    pub(crate) lag_ms: u64,
    pub(crate) lag_effects: u64,
}

/// What a proxy says about itself.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    pub(crate) generation: u64,
    /// Its requests go to other regions.
    pub(crate) away: bool,
    pub(crate) links: Vec<LinkReport>,
}

impl Proxy {
    /// It is given another configuration.
    pub(crate) fn configure(self: &Rc<Self>, config: &Config) {
        let before = self.config.replace(config.clone());
        for region in config.regions.difference(&before.regions) {
            self.meet_region(*region);
        }
        for region in before.regions.difference(&config.regions) {
            self.forget_region(*region);
        }
    }

    /// There is such a region: its streams are read.
    pub(super) fn meet_region(self: &Rc<Self>, region: u16) {
        let sim = &self.world.sim;
        self.feeds.borrow_mut().insert(region, None);
        for shard in &self.shards {
            let link = Link { max_lag_ms: MAX_LAG_MS, ..Link::default() };
            let row = LinkRow { health: Health::new(RegionId(region), RegionId(self.region)), link };
            shard.links.borrow_mut().insert(region, row);
            shard.readers.borrow_mut().insert(region, Notify::default());
            sim.spawn(&self.process, Rc::clone(self).read_stream(Rc::clone(shard), region));
        }
        sim.spawn(&self.process, Rc::clone(self).keep_feed(region));
    }

    /// A region is no member any more.
    fn forget_region(&self, region: u16) {
        for shard in &self.shards {
            shard.acks.borrow_mut().keep_peers(&|peer| peer.0 != region);
            shard.links.borrow_mut().remove(&region);
            let duties = shard.duties.borrow().iter().copied().filter(|r| *r != region).collect();
            shard.set_duties(duties);
        }
        self.feeds.borrow_mut().remove(&region);
    }

    /// The other regions of its configuration.
    pub(super) fn peers(&self) -> Vec<u16> {
        self.config.borrow().regions.iter().copied().filter(|region| *region != self.region).collect()
    }

    /// As its admin port says it.
    pub(crate) fn report(&self) -> Report {
        let now_ms = self.now_ms();
        let mut links = Vec::new();
        for shard in &self.shards {
            for (peer, row) in shard.links.borrow_mut().iter_mut().filter(|(peer, _)| **peer != self.region) {
                let (state, _) = row.health.state(row.link, now_ms);
                let (lag_ms, lag_effects) = (row.health.lag_ms(now_ms), row.health.lag_effects());
                links.push(LinkReport { shard: shard.id, peer: *peer, state, lag_ms, lag_effects });
            }
        }
        Report { generation: self.config.borrow().generation, away: self.is_away(), links }
    }

    /// Whether clients are sent elsewhere.
    pub(super) fn is_away(&self) -> bool {
        self.config.borrow().drained.contains(&self.region)
    }
}
