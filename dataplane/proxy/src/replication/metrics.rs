//! Metrics of the replication side. Labels are bounded: peers and shards of the configuration.

use mas_core::config::ProxyConfig;
use mas_core::replication::health::LinkState;
use mas_core::stamp::ShardId;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use super::own_duty::OwnDuties;

/// A shard.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct OfShard {
    pub(crate) shard: u16,
}

/// A peer's stream of a shard.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct OfLink {
    pub(crate) peer: String,
    pub(crate) shard: u16,
}

/// What a link is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct OfState {
    pub(crate) peer: String,
    pub(crate) shard: u16,
    pub(crate) state: &'static str,
}

/// A broker that this proxy connects to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct OfBroker {
    pub(crate) region: String,
    pub(crate) purpose: &'static str,
}

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    pub(crate) published_records: Family<OfShard, Counter>,
    pub(crate) published_effects: Family<OfShard, Counter>,
    pub(crate) confirmed_effects: Family<OfShard, Counter>,
    pub(crate) refused_records: Family<OfShard, Counter>,
    pub(crate) swept_effects: Family<OfShard, Counter>,
    pub(crate) unconfirmed: Family<OfShard, Gauge>,
    pub(crate) kept: Family<OfShard, Gauge>,
    pub(crate) outbox: Family<OfShard, Gauge>,
    pub(crate) outbox_max: Family<OfShard, Gauge>,
    pub(crate) confirm_seconds: Histogram,
    pub(crate) batch_effects: Histogram,
    pub(crate) degraded_writes: Counter,
    pub(crate) failed_writes: Counter,
    pub(crate) degraded: Gauge,
    pub(crate) reconnects: Family<OfBroker, Counter>,
    pub(crate) merged: Family<OfLink, Counter>,
    pub(crate) duplicates: Family<OfLink, Counter>,
    pub(crate) overruled: Family<OfLink, Counter>,
    pub(crate) dead_letters: Family<OfLink, Counter>,
    pub(crate) held: Family<OfLink, Counter>,
    pub(crate) state_sent: Family<OfLink, Counter>,
    pub(crate) state_adopted: Family<OfLink, Counter>,
    pub(crate) state_refused: Family<OfLink, Counter>,
    pub(crate) link_state: Family<OfState, Gauge>,
    pub(crate) lag_ms: Family<OfLink, Gauge>,
    pub(crate) lag_effects: Family<OfLink, Gauge>,
    pub(crate) missing: Family<OfLink, Gauge>,
    pub(crate) merge_lag_seconds: Histogram,
    pub(crate) collected: Family<OfShard, Counter>,
    /// What one proxy of the region alone shows.
    pub(crate) own: OwnDuties,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            published_records: Family::default(),
            published_effects: Family::default(),
            confirmed_effects: Family::default(),
            refused_records: Family::default(),
            swept_effects: Family::default(),
            unconfirmed: Family::default(),
            kept: Family::default(),
            outbox: Family::default(),
            outbox_max: Family::default(),
            confirm_seconds: Histogram::new(exponential_buckets(0.000_25, 2.0, 16)),
            batch_effects: Histogram::new(exponential_buckets(1.0, 4.0, 8)),
            degraded_writes: Counter::default(),
            failed_writes: Counter::default(),
            degraded: Gauge::default(),
            reconnects: Family::default(),
            merged: Family::default(),
            duplicates: Family::default(),
            overruled: Family::default(),
            dead_letters: Family::default(),
            held: Family::default(),
            state_sent: Family::default(),
            state_adopted: Family::default(),
            state_refused: Family::default(),
            link_state: Family::default(),
            lag_ms: Family::default(),
            lag_effects: Family::default(),
            missing: Family::default(),
            merge_lag_seconds: Histogram::new(exponential_buckets(0.001, 2.0, 16)),
            collected: Family::default(),
            own: OwnDuties::default(),
        }
    }
}

impl Metrics {
    pub(crate) fn of(shard: ShardId) -> OfShard {
        OfShard { shard: shard.0 }
    }

    /// Makes the rows of all shards and regions of the configuration, so that they are shown from the start and not only once
    /// something happens.
    pub(crate) fn prepare(&self, config: &ProxyConfig) {
        for shard in config.shards.iter().map(|shard| shard.shard) {
            let of = OfShard { shard };
            for counters in [
                &self.published_records,
                &self.published_effects,
                &self.confirmed_effects,
                &self.refused_records,
                &self.swept_effects,
                &self.collected,
            ] {
                drop(counters.get_or_create(&of));
            }
            for gauges in [&self.unconfirmed, &self.kept, &self.outbox, &self.outbox_max] {
                drop(gauges.get_or_create(&of));
            }
            for peer in &config.peers {
                let (peer, state) = (peer.region.name.clone(), LinkState::Disconnected.as_str());
                drop(self.link_state.get_or_create(&OfState { peer, shard, state }));
            }
            let peers = config.peers.iter().map(|peer| (&peer.region.name, true));
            for (peer, is_other) in peers.chain([(&config.region.name, false)]) {
                let of = OfLink { peer: peer.clone(), shard };
                for counters in
                    [&self.merged, &self.duplicates, &self.overruled, &self.dead_letters, &self.held]
                {
                    drop(counters.get_or_create(&of));
                }
                for counters in [&self.state_sent, &self.state_adopted, &self.state_refused] {
                    drop(counters.get_or_create(&of));
                }
                for gauges in
                    [&self.lag_ms, &self.lag_effects, &self.missing].into_iter().filter(|_| is_other)
                {
                    drop(gauges.get_or_create(&of));
                }
            }
        }
        let publishes = OfBroker { region: config.region.name.clone(), purpose: "publish" };
        drop(self.reconnects.get_or_create(&publishes));
        for region in config.peers.iter().map(|peer| &peer.region).chain([&config.region]) {
            let reads = OfBroker { region: region.name.clone(), purpose: "read" };
            drop(self.reconnects.get_or_create(&reads));
        }
    }

    /// Adds all of them.
    pub(crate) fn register(&self, registry: &mut Registry) {
        self.own.register(registry);
        let r = registry.sub_registry_with_prefix("mas_replication");
        let seconds = || Unit::Seconds;
        r.register(
            "published_records",
            "Records published to the region's stream",
            self.published_records.clone(),
        );
        r.register("published_effects", "Effects in records published", self.published_effects.clone());
        r.register("confirmed_effects", "Effects that the broker confirmed", self.confirmed_effects.clone());
        r.register(
            "refused_records",
            "Records returned or refused by the broker",
            self.refused_records.clone(),
        );
        r.register(
            "swept_effects",
            "Effects taken from an outbox where they were left",
            self.swept_effects.clone(),
        );
        r.register(
            "unconfirmed_records",
            "Records published and not confirmed yet",
            self.unconfirmed.clone(),
        );
        r.register_with_unit(
            "kept",
            "Memory of effects that are not confirmed yet",
            Unit::Bytes,
            self.kept.clone(),
        );
        r.register_with_unit(
            "outbox",
            "Fill of the outbox of the shard's master",
            Unit::Bytes,
            self.outbox.clone(),
        );
        r.register_with_unit(
            "outbox_max",
            "Bound of that outbox: writes are refused there",
            Unit::Bytes,
            self.outbox_max.clone(),
        );
        r.register_with_unit(
            "confirm",
            "Time from publishing a record to its confirmation",
            seconds(),
            self.confirm_seconds.clone(),
        );
        r.register("batch_effects", "Effects in a record", self.batch_effects.clone());
        r.register(
            "degraded_writes",
            "Writes answered at Local for want of a broker",
            self.degraded_writes.clone(),
        );
        r.register("failed_writes", "Writes that did not reach their level", self.failed_writes.clone());
        r.register("degraded", "1 while the level in effect is lower than asked for", self.degraded.clone());
        r.register("reconnects", "Connections made to a broker", self.reconnects.clone());
        r.register(
            "collected_keys",
            "Keys of which tombstones were forgotten, for they were stable in all regions",
            self.collected.clone(),
        );
        r.register("merged_effects", "Effects merged from a peer", self.merged.clone());
        r.register("duplicate_effects", "Effects that the cover refused", self.duplicates.clone());
        r.register(
            "overruled_operations",
            "Operations that a later stamp had overruled",
            self.overruled.clone(),
        );
        r.register("dead_letters", "Records that could not be decoded", self.dead_letters.clone());
        r.register("held_merges", "Merges held back (clock, memory, gaps)", self.held.clone());
        r.register("state_sent", "Answers to a peer that asked for state it lacks", self.state_sent.clone());
        r.register(
            "state_adopted",
            "Pieces of a peer's state taken over, for effects that were missing here",
            self.state_adopted.clone(),
        );
        r.register(
            "state_refused",
            "Pieces of a peer's state refused: they could bring back what was deleted",
            self.state_refused.clone(),
        );
        r.register("link_state", "1 for the state that the link is in", self.link_state.clone());
        r.register(
            "lag_milliseconds",
            "How old the state is against the peer's; 0 where another proxy of the region reads its stream",
            self.lag_ms.clone(),
        );
        r.register("lag_effects", "Effects issued by the peer and not here", self.lag_effects.clone());
        r.register("missing_effects", "Effects that will not come by themselves", self.missing.clone());
        r.register_with_unit(
            "merge_lag",
            "Time from a write in the peer to its merge here, by the two regions' clocks",
            seconds(),
            self.merge_lag_seconds.clone(),
        );
    }
}
