//! What a store of a run looks like: drawn from the seed.

use mas_core::config::OnBrokerLoss;

use crate::executor::{SEC, Time};
use crate::rng::Rng;
use crate::situation::{About, Situation};

/// When a Redis server's AOF reaches the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fsync {
    /// Before every reply.
    Always,
    /// Once a second.
    EverySecond,
    /// There is no AOF: a restart begins empty.
    Off,
}

/// One region.
#[derive(Clone, Debug)]
pub(crate) struct RegionSetup {
    /// Redis servers a shard.
    pub(crate) members: u8,
    pub(crate) fsync: Fsync,
    pub(crate) proxies: u8,
    /// It joins at this time.
    pub(crate) joins: Time,
    /// It leaves at this time.
    pub(crate) leaves: Option<Time>,
}

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) regions: Vec<RegionSetup>,
    pub(crate) shards: u16,
    pub(crate) on_loss: OnBrokerLoss,
    /// Bound of an outbox, bytes.
    pub(crate) outbox_max: u64,
    /// Bound of a batcher, bytes.
    pub(crate) batcher_max: usize,
    pub(crate) unconfirmed_max: usize,
    /// A clock further ahead than this is held back, milliseconds. (An hour in production.)
    pub(crate) hard_skew_ms: u64,
    /// Records of a segment of a stream.
    pub(crate) segment: usize,
    /// How long clients write.
    pub(crate) duration: Time,
    /// What the run is about.
    pub(crate) situation: Situation,
}

impl Setup {
    /// A region joins at this time.
    pub(crate) fn join(&mut self, region: u16, at: Time) {
        let region = &mut self.regions[usize::from(region) - 1];
        region.joins = at;
        // What was copied must be in files of its own before it serves.
        if region.fsync == Fsync::Off {
            region.fsync = Fsync::EverySecond;
        }
    }

    /// A region leaves at this time.
    pub(crate) fn leave(&mut self, region: u16, at: Time) {
        self.regions[usize::from(region) - 1].leaves = Some(at);
        // What only a region that has left could give again must not be lost afterwards.
        for region in self.regions.iter_mut().filter(|r| r.fsync == Fsync::Off) {
            region.fsync = Fsync::EverySecond;
        }
    }

    /// Something is left to the operator.
    pub(crate) fn has_operations(&self) -> bool {
        self.situation.rebuilds() || self.regions.iter().any(|its| its.joins > 0 || its.leaves.is_some())
    }

    pub(crate) fn draw(rng: &mut Rng, about: Option<About>) -> Self {
        let count = *rng.pick(&[2, 2, 2, 3, 3, 3, 4, 5]);
        let situation = Situation::draw(rng, count as u64, about);
        let duration = situation.seconds(rng) * SEC;
        let regions: Vec<RegionSetup> = (0..count)
            .map(|_| {
                let members = *rng.pick(&[1, 2, 2, 3]);
                let fsync = match rng.below(4) {
                    // Without replicas `Always` is required.
                    _ if members == 1 => Fsync::Always,
                    0 => Fsync::Always,
                    1 => Fsync::Off,
                    _ => Fsync::EverySecond,
                };
                RegionSetup { members, fsync, proxies: rng.range(1, 3) as u8, joins: 0, leaves: None }
            })
            .collect();
        let (mut joiner, mut leaver) = (None, None);
        if count > 2 {
            if rng.chance(150) {
                joiner = Some((count as u16, rng.range(1, duration / 2)));
            }
            if rng.chance(150) {
                leaver = Some((1, duration / 2));
            }
        }
        let small = rng.chance(150);
        let mut setup = Self {
            shards: *rng.pick(&[1, 1, 1, 2]),
            on_loss: *rng.pick(&[OnBrokerLoss::Degrade, OnBrokerLoss::Degrade, OnBrokerLoss::Reject]),
            outbox_max: if small { 4 << 10 } else { 64 << 20 },
            batcher_max: if rng.chance(200) { 2 << 10 } else { 32 << 20 },
            unconfirmed_max: *rng.pick(&[1, 4, 16]),
            hard_skew_ms: 20_000,
            segment: *rng.pick(&[4, 16, 64]),
            duration,
            situation,
            regions,
        };
        if let Some((region, at)) = joiner {
            setup.join(region, at);
        }
        if let Some((region, at)) = leaver {
            setup.leave(region, at);
        }
        situation.shape(&mut setup);
        setup
    }
}
