//! Situations: what a run is about. Most runs are about nothing: everything happens at any time. But some rules guard against
//! a chain of events that hardly ever comes together by chance; a share of the runs sets the scene for one of them: a store
//! and a workload in which it can happen, and the faults that belong to it, with all details drawn.

mod operations;

use crate::executor::{MS, SEC, Time};
use crate::faults::{Fault, Kind, Moment, Place};
use crate::rng::Rng;
use crate::setup::{Fsync, Setup};

/// What a run is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum About {
    /// Nothing.
    Nothing,
    /// Streams are truncated and lost, what was unread in them too; servers die while it is fetched as state.
    Losses,
    /// All copies of a shard in a region are lost, and its stream; what others had deleted on its word may be in it again. Sometimes
    /// the same happens to another region then.
    Oblivion,
    /// While a region fetches state, another copy becomes the source: one that has less.
    Replacement,
    /// While a region fetches state, it does not hear of what its source hears from a third one.
    Overtaking,
    /// A proxy freezes with writes in its hands, whose master is lost for good meanwhile; it wakes up when everybody else has
    /// done with that incarnation.
    Freezing,
    /// The same, for so short a time that what the proxy knew is still fresh.
    Blinking,
    /// Two regions do not hear of each other for longer than it takes to seal what ended before.
    Estrangement,
    /// Who was master comes back when its successor is lost, of whom it knows nothing.
    Succession,
    /// While a region fetches state, its source gets another master: one that has the same, or what the disks of all kept.
    Handover,
    /// Masters are handed over again and again, and somebody dies in the middle of it.
    Switchover,
    /// A region joins, and whoever takes part in that dies, is cut off, or lags.
    Joining,
    /// All copies of a shard are lost, and it is made again from another region's; whoever takes part in that dies too.
    Rebuilding,
    /// A region leaves, and whoever takes part in that dies, is cut off, or lags.
    Leaving,
}

/// See the module.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Situation {
    pub(crate) about: About,
    /// The region that it is about.
    pub(crate) region: u16,
    /// Another one that has to do with it.
    pub(crate) other: u16,
    /// When it begins to go wrong.
    pub(crate) at: Time,
    /// When it begins to go wrong for the other region too.
    pub(crate) again: Option<Time>,
}

impl Situation {
    /// Draws one for so many regions.
    pub(crate) fn draw(rng: &mut Rng, regions: u64, given: Option<About>) -> Self {
        let drawn = match rng.below(1000) {
            0..140 => About::Losses,
            140..180 => About::Oblivion,
            180..260 => About::Replacement,
            260..320 if regions > 2 => About::Overtaking,
            320..380 => About::Freezing,
            380..440 => About::Estrangement,
            440..480 => About::Blinking,
            480..510 => About::Succession,
            510..550 => About::Handover,
            550..610 => About::Switchover,
            610..690 => About::Joining,
            690..740 => About::Rebuilding,
            740..800 => About::Leaving,
            _ => About::Nothing,
        };
        let about = given.filter(|about| *about != About::Overtaking || regions > 2).unwrap_or(drawn);
        let at = match about {
            About::Nothing | About::Losses | About::Switchover => 0,
            About::Oblivion => rng.range(8 * SEC, 12 * SEC),
            About::Replacement | About::Overtaking | About::Handover => rng.range(4 * SEC, 7 * SEC),
            About::Freezing => rng.range(2 * SEC, 9 * SEC),
            About::Estrangement => rng.range(4 * SEC, 12 * SEC),
            About::Blinking | About::Succession => rng.range(2 * SEC, 7 * SEC),
            About::Joining => rng.range(SEC, 5 * SEC),
            About::Rebuilding | About::Leaving => rng.range(3 * SEC, 7 * SEC),
        };
        let mut region = rng.below(regions) as u16 + 1;
        let mut other = other_than(rng, regions, region);
        if about == About::Joining {
            // Of healthy regions the first is copied.
            region = regions as u16;
            other = if rng.chance(700) { 1 } else { rng.range(1, regions - 1) as u16 };
        }
        let again = (about == About::Oblivion && rng.chance(500)).then(|| at + rng.range(0, 15 * SEC));
        Self { about, region, other, at, again }
    }

    /// Streams may be truncated and lost: then state is fetched, or a hole that only a rebuild fills is shown.
    pub(crate) fn is_lossy(self) -> bool {
        use About::{Handover, Losses, Oblivion, Overtaking, Replacement};
        matches!(self.about, Losses | Oblivion | Replacement | Overtaking | Handover)
    }

    /// Shards of which no copy is left are rebuilt from another region; otherwise they begin with what their streams hold.
    pub(crate) fn rebuilds(self) -> bool {
        self.about == About::Rebuilding
    }

    /// Things last longer than it takes to seal an incarnation.
    pub(crate) fn is_long(self) -> bool {
        matches!(self.about, About::Freezing | About::Estrangement)
    }

    /// How long clients write, seconds. What is lost counts as missing after ten; there must be time to fetch it while more
    /// goes wrong. Incarnations are sealed after half a minute; something must be late for that.
    pub(crate) fn seconds(self, rng: &mut Rng) -> u64 {
        match self.about {
            About::Nothing | About::Switchover => rng.range(8, 20),
            About::Blinking | About::Succession => rng.range(14, 20),
            About::Freezing | About::Estrangement => rng.range(60, 75),
            About::Joining | About::Leaving => rng.range(16, 24),
            About::Rebuilding => rng.range(20, 28),
            _ => rng.range(25, 40),
        }
    }

    /// Makes the store one in which it can happen.
    pub(crate) fn shape(self, setup: &mut Setup) {
        if self.again.is_some() {
            let other = &mut setup.regions[usize::from(self.other) - 1];
            (other.members, other.fsync) = (other.members.max(2), Fsync::Off);
        }
        let region = &mut setup.regions[usize::from(self.region) - 1];
        match self.about {
            About::Nothing | About::Estrangement => return,
            About::Losses | About::Joining | About::Leaving | About::Overtaking => {}
            About::Rebuilding => {
                // What it had must be in its files before it serves again.
                if region.fsync == Fsync::Off {
                    region.fsync = Fsync::EverySecond;
                }
            }
            About::Blinking => {
                (region.members, region.fsync) = (region.members.max(2), Fsync::Off);
                region.proxies = region.proxies.max(2);
            }
            About::Succession | About::Handover => {
                region.members = region.members.max(2);
                if region.fsync == Fsync::Off {
                    region.fsync = Fsync::EverySecond;
                }
            }
            // Nothing but memory has what it has.
            About::Oblivion | About::Replacement => {
                (region.members, region.fsync) = (region.members.max(2), Fsync::Off);
                setup.segment = setup.segment.min(16);
            }
            About::Switchover => region.members = region.members.max(2),
            About::Freezing => {
                (region.members, region.proxies) = (region.members.max(2), region.proxies.max(2));
                if region.fsync == Fsync::Always {
                    region.fsync = Fsync::EverySecond;
                }
            }
        }
        for region in &mut setup.regions {
            (region.joins, region.leaves) = (0, None);
        }
        if self.about == About::Joining {
            setup.join(self.region, self.at);
        }
        if self.about == About::Leaving {
            setup.leave(self.region, self.at);
        }
    }

    /// What goes wrong.
    pub(crate) fn faults(self, rng: &mut Rng, setup: &Setup) -> Vec<Fault> {
        match self.about {
            About::Nothing => Vec::new(),
            About::Losses => {
                let mut faults: Vec<Fault> =
                    (0..rng.range(1, 3)).flat_map(|_| lose_unread(rng, setup)).collect();
                if rng.chance(300) {
                    faults.extend(lose_a_shard(rng, setup));
                }
                faults
            }
            About::Oblivion => self.oblivion(rng, setup),
            About::Replacement if setup.regions.len() > 2 && rng.chance(400) => self.bereavement(rng, setup),
            About::Replacement => self.replacement(rng, setup),
            About::Overtaking => self.overtaking(rng, setup),
            About::Freezing | About::Blinking => self.freezing(rng, setup),
            About::Estrangement => self.estrangement(rng, setup),
            About::Succession => self.succession(rng, setup),
            About::Handover => self.handover(rng, setup),
            About::Switchover => self.switchover(rng, setup),
            About::Joining => self.joining(rng, setup),
            About::Rebuilding => self.rebuilding(rng, setup),
            About::Leaving => self.leaving(rng, setup),
        }
    }

    fn oblivion(self, rng: &mut Rng, setup: &Setup) -> Vec<Fault> {
        let Self { region, other, at, .. } = self;
        let time = rng.range(3, 7) * SEC;
        let mut faults = Vec::new();
        for shard in 0..setup.shards {
            for (region, at) in [(region, at)].into_iter().chain(self.again.map(|at| (other, at))) {
                let down = rng.range(50, 1500) * MS;
                faults.push(Fault::new(at, Kind::ShardPowerLoss { region, shard, down }));
                faults.push(Fault::new(at + MS, Kind::Truncate { region, shard, keep: 0 }));
            }
            // What it issues from then on is lost for another one.
            if rng.chance(500) {
                faults.push(Fault::new(at + time - 50 * MS, lose_records(rng, region, shard)));
            }
        }
        let both = rng.chance(500);
        faults.push(Fault::new(at + MS, Kind::CutRegions { from: region, to: other, both, time }));
        faults
    }

    fn replacement(self, rng: &mut Rng, setup: &Setup) -> Vec<Fault> {
        let Self { region, at, .. } = self;
        let mut faults = self.slow_fetch(rng, setup, true);
        let peers = (1..=setup.regions.len() as u16).filter(|peer| *peer != region);
        let ask_on = rng.chance(800);
        for shard in 0..setup.shards {
            for member in 0..setup.regions[usize::from(region) - 1].members {
                // Its replicas hear of nothing before it happens.
                let (lag, time) = (rng.range(22, 30) * SEC, 40 * SEC);
                let begins = rng.range(SEC, at);
                faults.push(Fault::new(begins, Kind::ReplicaLag { region, shard, member, lag, time }));
            }
            let down = rng.range(50, 1500) * MS;
            let lost = Kind::MasterPowerLoss { region, shard, down };
            faults.push(Fault::in_the_moment(Moment::Sending, at + 5 * SEC, lost));
            // Questions for first pieces are not read again.
            for peer in peers.clone().filter(|_| ask_on) {
                let lost = Kind::LoseStream { region: peer, shard };
                faults.push(Fault::in_the_moment(Moment::Sending, at + 5 * SEC + 1, lost));
            }
        }
        faults
    }

    /// The source loses everything, also what was durable and is merged elsewhere in part. A third region has it.
    fn bereavement(self, rng: &mut Rng, setup: &Setup) -> Vec<Fault> {
        let Self { region, at, .. } = self;
        let mut faults = self.slow_fetch(rng, setup, false);
        for shard in 0..setup.shards {
            let down = rng.range(50, 1500) * MS;
            for lost in [Kind::ShardPowerLoss { region, shard, down }, Kind::LoseStream { region, shard }] {
                faults.push(Fault::in_the_moment(Moment::Fetching, at + 5 * SEC, lost));
            }
        }
        faults
    }

    fn handover(self, rng: &mut Rng, setup: &Setup) -> Vec<Fault> {
        let Self { region, at, .. } = self;
        let nobody = rng.chance(500);
        let mut faults = self.slow_fetch(rng, setup, nobody);
        for shard in 0..setup.shards {
            let down = rng.range(50, 1500) * MS;
            let ends = match rng.below(4) {
                0 => vec![Kind::Fence { region, shard }],
                1 => vec![Kind::MasterPowerLoss { region, shard, down }],
                _ => vec![Kind::ShardPowerLoss { region, shard, down }, Kind::LoseStream { region, shard }],
            };
            let fetching = |end| Fault::in_the_moment(Moment::Fetching, at + 5 * SEC, end);
            faults.extend(ends.into_iter().map(fetching));
        }
        faults
    }

    fn switchover(self, rng: &mut Rng, setup: &Setup) -> Vec<Fault> {
        let region = self.region;
        let members = setup.regions[usize::from(region) - 1].members;
        let mut faults = Vec::new();
        let mut at = SEC;
        while at < setup.duration {
            let shard = rng.below(u64::from(setup.shards)) as u16;
            let to = rng.chance(300).then(|| rng.below(u64::from(members)) as u8);
            faults.push(Fault::new(at, Kind::Handover { region, shard, to }));
            let lagging = rng.below(u64::from(members)) as u8;
            if rng.chance(500) {
                let (lag, time) = (rng.range(1, 1500) * MS, rng.range(1, 4) * SEC);
                faults.push(Fault::new(at, Kind::ReplicaLag { region, shard, member: lagging, lag, time }));
            }
            if rng.chance(600) {
                let down = rng.range(1, 3000) * MS;
                let member = rng.below(u64::from(members)) as u8;
                let place = Place::Engine { region, shard, member };
                let kind = match rng.below(8) {
                    0 => Kind::Kill { place, down },
                    1 => Kind::MasterPowerLoss { region, shard, down },
                    2 => Kind::Kill { place: proxy(rng, setup, region), down },
                    3 => Kind::Kill { place: Place::Broker { region }, down },
                    4 => Kind::Kill { place: Place::Controller { region }, down },
                    5 => Kind::StaleController { region, time: down },
                    6 => Kind::Pause { place, time: down },
                    _ => Kind::CutPlaces {
                        from: Place::Controller { region },
                        to: place,
                        both: rng.chance(500),
                        time: down,
                    },
                };
                faults.push(Fault::in_the_moment(Moment::HandingOver, at, kind));
            }
            at += rng.range(500, 5000) * MS;
        }
        faults
    }

    fn overtaking(self, rng: &mut Rng, setup: &Setup) -> Vec<Fault> {
        let Self { region, other, at, .. } = self;
        let mut faults = self.slow_fetch(rng, setup, false);
        for third in (1..=setup.regions.len() as u16).filter(|r| ![region, other].contains(r)) {
            let (both, time) = (rng.chance(500), rng.range(3, 9) * SEC);
            let cut = Kind::CutRegions { from: third, to: other, both, time };
            faults.push(Fault::in_the_moment(Moment::Fetching, at + 5 * SEC, cut));
        }
        faults
    }

    /// What `other` has not read (or nobody has) of `region`'s stream is lost, and fetched by `other` over a slow link.
    fn slow_fetch(self, rng: &mut Rng, setup: &Setup, nobody: bool) -> Vec<Fault> {
        let Self { region, other, at, .. } = self;
        let mut faults = Vec::new();
        let time = rng.range(2000, 3000) * MS;
        for peer in (1..=setup.regions.len() as u16).filter(|peer| *peer != region) {
            // What is to be missing at another copy must not be had from a third region.
            if peer == other || nobody {
                let both = rng.chance(500);
                faults.push(Fault::new(at, Kind::CutRegions { from: region, to: peer, both, time }));
            }
        }
        for shard in 0..setup.shards {
            faults.push(Fault::new(at + time - 50 * MS, Kind::LoseStream { region, shard }));
        }
        for proxy in 0..setup.regions[usize::from(other) - 1].proxies {
            let (from, to) = (Place::Broker { region }, Place::Proxy { region: other, proxy });
            let (extra, time) = (rng.range(200, 800) * MS, 16 * SEC);
            faults.push(Fault::new(at + 9 * SEC, Kind::Slow { from, to, extra, time }));
        }
        faults
    }

    fn freezing(self, rng: &mut Rng, setup: &Setup) -> Vec<Fault> {
        let Self { region, at, .. } = self;
        let frozen = proxy(rng, setup, region);
        // A server that comes back at once, and empty, is followed at once by all others.
        let (time, down) = match self.about {
            About::Blinking => (rng.range(1500, 4500) * MS, (20, 300)),
            _ => (rng.range(46, 58) * SEC, (3500, 6000)),
        };
        let mut faults = vec![Fault::new(at, Kind::Pause { place: frozen, time })];
        for shard in 0..setup.shards {
            for member in 0..setup.regions[usize::from(region) - 1].members {
                let (lag, time) = (rng.range(500, 2000) * MS, 4 * SEC);
                faults.push(Fault::new(at - SEC, Kind::ReplicaLag { region, shard, member, lag, time }));
                // Answers that are under way when it freezes.
                let (from, extra) = (Place::Engine { region, shard, member }, rng.range(50, 350) * MS);
                faults.push(Fault::new(at - SEC, Kind::Slow { from, to: frozen, extra, time: 2 * SEC }));
            }
            let (later, down) = (rng.range(1, 100) * MS, rng.range(down.0, down.1) * MS);
            faults.push(Fault::new(at + later, Kind::MasterPowerLoss { region, shard, down }));
        }
        // Who takes over reads slowly what its stream holds of before.
        let readers =
            if self.about == About::Freezing { setup.regions[usize::from(region) - 1].proxies } else { 0 };
        for proxy in 0..readers {
            let (from, to) = (Place::Broker { region }, Place::Proxy { region, proxy });
            let (extra, time) = (rng.range(50, 400) * MS, 8 * SEC);
            faults.push(Fault::new(at + 2 * SEC, Kind::Slow { from, to, extra, time }));
        }
        faults
    }

    fn succession(self, rng: &mut Rng, setup: &Setup) -> Vec<Fault> {
        let Self { region, at, .. } = self;
        let mut faults = Vec::new();
        for shard in 0..setup.shards {
            let (later, down) = (rng.range(4500, 5000) * MS, rng.range(5100, 6000) * MS);
            faults.push(Fault::new(at, Kind::MasterPowerLoss { region, shard, down }));
            let down = rng.range(4, 7) * SEC;
            faults.push(Fault::new(at + later, Kind::MasterPowerLoss { region, shard, down }));
        }
        faults
    }

    fn estrangement(self, rng: &mut Rng, setup: &Setup) -> Vec<Fault> {
        let Self { region, other, at, .. } = self;
        let shard = rng.below(u64::from(setup.shards)) as u16;
        let member = rng.below(u64::from(setup.regions[usize::from(region) - 1].members)) as u8;
        let place = Place::Engine { region, shard, member };
        let end = if rng.chance(500) {
            Kind::Fence { region, shard }
        } else {
            Kind::Kill { place, down: rng.range(50, 2500) * MS }
        };
        let (both, time) = (rng.chance(500), rng.range(36, 48) * SEC);
        vec![
            Fault::new(at - rng.range(500, 3000) * MS, end),
            Fault::new(at, Kind::CutRegions { from: region, to: other, both, time }),
        ]
    }
}

/// Another region.
pub(crate) fn other_than(rng: &mut Rng, regions: u64, region: u16) -> u16 {
    (u64::from(region) + rng.range(1, regions - 1) - 1) as u16 % regions as u16 + 1
}

fn proxy(rng: &mut Rng, setup: &Setup, region: u16) -> Place {
    let proxies = setup.regions[usize::from(region) - 1].proxies;
    Place::Proxy { region, proxy: rng.below(u64::from(proxies)) as u8 }
}

fn lose_records(rng: &mut Rng, region: u16, shard: u16) -> Kind {
    if rng.chance(500) {
        Kind::Truncate { region, shard, keep: rng.below(3) as usize }
    } else {
        Kind::LoseStream { region, shard }
    }
}

/// What another region had not read of a stream is lost; later, while it is fetched, servers die.
fn lose_unread(rng: &mut Rng, setup: &Setup) -> Vec<Fault> {
    let regions = setup.regions.len() as u64;
    let region = rng.below(regions) as u16 + 1;
    let other = other_than(rng, regions, region);
    let shard = rng.below(u64::from(setup.shards)) as u16;
    let (at, time) = (rng.below(setup.duration / 3), rng.range(1, 5) * SEC);
    let cut = Kind::CutRegions { from: region, to: other, both: rng.chance(500), time };
    let lost = Fault::new(at + time - 50 * MS, lose_records(rng, region, shard));
    let mut faults = vec![Fault::new(at, cut), lost];
    for _ in 0..rng.below(4) {
        let at = rng.range(at + 9 * SEC, setup.duration);
        let region = *rng.pick(&[region, other]);
        let members = u64::from(setup.regions[usize::from(region) - 1].members);
        let shard = rng.below(u64::from(setup.shards)) as u16;
        let place = Place::Engine { region, shard, member: rng.below(members) as u8 };
        let down = rng.range(50, 2500) * MS;
        let kind = match rng.below(3) {
            0 => Kind::Kill { place, down },
            1 => Kind::PowerLoss { place, down },
            _ => Kind::HostLoss { place, down },
        };
        faults.push(Fault::new(at, kind));
    }
    faults
}

/// All copies of a shard lose what was not fsynced, and every stream what could give it back.
fn lose_a_shard(rng: &mut Rng, setup: &Setup) -> Vec<Fault> {
    let region = rng.below(setup.regions.len() as u64) as u16 + 1;
    let shard = rng.below(u64::from(setup.shards)) as u16;
    let at = rng.range(setup.duration / 4, setup.duration * 3 / 4);
    let power = Kind::ShardPowerLoss { region, shard, down: rng.range(50, 2500) * MS };
    let streams = 1..=setup.regions.len() as u16;
    let lost = streams.map(|region| Fault::new(at + MS, Kind::Truncate { region, shard, keep: 0 }));
    std::iter::once(Fault::new(at, power)).chain(lost).collect()
}
