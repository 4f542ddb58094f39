//! What a store of a run looks like: drawn from the seed.

use mas_core::config::OnBrokerLoss;

use crate::executor::{SEC, Time};
use crate::rng::Rng;
use crate::situation::Situation;

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
    pub(crate) fn draw(rng: &mut Rng) -> Self {
        let count = *rng.pick(&[2, 2, 2, 3, 3, 3, 4, 5]);
        let situation = Situation::draw(rng, count as u64);
        let duration = situation.seconds(rng) * SEC;
        let mut regions: Vec<RegionSetup> = (0..count)
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
        if count > 2 {
            if rng.chance(150) {
                regions[count - 1].joins = rng.range(1, duration / 2);
            }
            if rng.chance(150) {
                regions[0].leaves = Some(duration / 2);
                // What only a region that has left could give again must not be lost afterwards.
                for region in regions.iter_mut().filter(|r| r.fsync == Fsync::Off) {
                    region.fsync = Fsync::EverySecond;
                }
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
        situation.shape(&mut setup);
        setup
    }
}
