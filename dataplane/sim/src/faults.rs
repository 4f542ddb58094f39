//! What goes wrong: kinds of faults, and how many of them a run has.

use std::fmt;

use crate::executor::{MS, SEC, Time};
use crate::rng::Rng;
use crate::setup::Setup;
use crate::situation::{About, other_than};

/// A process's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Engine {
        region: u16,
        shard: u16,
        member: u8,
    },
    Proxy {
        region: u16,
        proxy: u8,
    },
    Broker {
        region: u16,
    },
    Controller {
        region: u16,
    },
    /// What carries out operations.
    Operator,
}

/// One fault.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Kind {
    /// The process is killed and started again; a Redis server keeps what it had handed to the system.
    Kill {
        place: Place,
        down: Time,
    },
    /// A host is gone, with a Redis server and all proxies of the region on it.
    HostLoss {
        place: Place,
        down: Time,
    },
    /// The machine loses power: what was not fsynced is gone.
    PowerLoss {
        place: Place,
        down: Time,
    },
    /// The same for whoever is the master of a shard then.
    MasterPowerLoss {
        region: u16,
        shard: u16,
        down: Time,
    },
    /// All members of a shard lose their disks.
    ShardLoss {
        region: u16,
        shard: u16,
        down: Time,
    },
    /// The same for all members of a shard at once, that lose power.
    ShardPowerLoss {
        region: u16,
        shard: u16,
        down: Time,
    },
    /// SIGSTOP, and SIGCONT later.
    Pause {
        place: Place,
        time: Time,
    },
    /// Nothing passes from one region to another, or both ways.
    CutRegions {
        from: u16,
        to: u16,
        both: bool,
        time: Time,
    },
    /// Nothing passes between two processes.
    CutPlaces {
        from: Place,
        to: Place,
        both: bool,
        time: Time,
    },
    /// Connections between two processes break now and then.
    Loss {
        from: Place,
        to: Place,
        per_mille: u64,
        time: Time,
    },
    /// Messages take longer.
    Slow {
        from: Place,
        to: Place,
        extra: Time,
        time: Time,
    },
    ClockJump {
        place: Place,
        by_ms: i64,
    },
    ClockDrift {
        place: Place,
        ppm: i64,
    },
    /// A replica applies what it gets so much later.
    ReplicaLag {
        region: u16,
        shard: u16,
        member: u8,
        lag: Time,
        time: Time,
    },
    /// The controller acts on what it saw before.
    StaleController {
        region: u16,
        time: Time,
    },
    /// The master is told to stop, as in a switchover.
    Fence {
        region: u16,
        shard: u16,
    },
    /// Another member is asked to be master.
    Handover {
        region: u16,
        shard: u16,
        to: Option<u8>,
    },
    /// The broker refuses some of the records.
    Nacks {
        region: u16,
        time: Time,
    },
    /// The broker blocks its publishers.
    Block {
        region: u16,
        time: Time,
    },
    /// The AOF is rewritten.
    Rewrite {
        place: Place,
    },
    /// The oldest segments of a stream are dropped.
    Truncate {
        region: u16,
        shard: u16,
        keep: usize,
    },
    /// The operator dies right before so many actions from now, and is started again.
    Crash {
        action: u64,
        down: Time,
    },
    /// A stream is lost; publishers declare a new one in its place.
    LoseStream {
        region: u16,
        shard: u16,
    },
}

impl Kind {
    /// As counted.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Kill { place: Place::Engine { .. }, .. } => "engine killed",
            Self::Kill { place: Place::Proxy { .. }, .. } => "proxy killed",
            Self::Kill { place: Place::Broker { .. }, .. } => "broker killed",
            Self::Kill { place: Place::Controller { .. }, .. } => "controller killed",
            Self::Kill { place: Place::Operator, .. } => "operator killed",
            Self::Crash { .. } => "operator killed before an action",
            Self::HostLoss { .. } => "host lost",
            Self::PowerLoss { .. } => "power loss of an engine",
            Self::MasterPowerLoss { .. } => "power loss of a master",
            Self::ShardPowerLoss { .. } => "power loss of a whole shard",
            Self::ShardLoss { .. } => "all copies of a shard lost",
            Self::Pause { .. } => "process paused",
            Self::CutRegions { both: true, .. } => "regions cut off",
            Self::CutRegions { both: false, .. } => "regions cut off one way",
            Self::CutPlaces { both: true, .. } => "link cut inside a region",
            Self::CutPlaces { both: false, .. } => "link cut one way inside a region",
            Self::Loss { .. } => "connections that break",
            Self::Slow { .. } => "slow link",
            Self::ClockJump { by_ms, .. } if *by_ms < 0 => "clock set back",
            Self::ClockJump { .. } => "clock set ahead",
            Self::ClockDrift { .. } => "clock drifts",
            Self::ReplicaLag { .. } => "replica lags",
            Self::StaleController { .. } => "controller sees old news",
            Self::Fence { .. } => "master fenced",
            Self::Handover { .. } => "planned handover",
            Self::Nacks { .. } => "broker refuses records",
            Self::Block { .. } => "broker blocks publishers",
            Self::Rewrite { .. } => "AOF rewritten",
            Self::Truncate { .. } => "stream truncated",
            Self::LoseStream { .. } => "stream lost",
        }
    }
}

/// What a fault waits for, when its time has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    Any,
    /// Some region sends state, piece by piece.
    Sending,
    /// A master is paused for a handover.
    HandingOver,
    /// Some region has merged a part of the state that it asked for.
    Fetching,
    /// An operation is at this step.
    Step(&'static str),
}

/// A planned fault.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    pub(crate) at: Time,
    pub(crate) kind: Kind,
    pub(crate) moment: Moment,
}

impl Fault {
    /// One that happens at a time.
    pub(crate) fn new(at: Time, kind: Kind) -> Self {
        Self { at, kind, moment: Moment::Any }
    }

    /// One that waits for its moment from a time on.
    pub(crate) fn in_the_moment(moment: Moment, at: Time, kind: Kind) -> Self {
        Self { at, kind, moment }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Engine { region, shard, member } => write!(f, "r{region}/shard-{shard}/redis-{member}"),
            Self::Proxy { region, proxy } => write!(f, "r{region}/proxy-{proxy}"),
            Self::Broker { region } => write!(f, "r{region}/broker"),
            Self::Controller { region } => write!(f, "r{region}/controller"),
            Self::Operator => f.write_str("operator"),
        }
    }
}

fn engine(rng: &mut Rng, setup: &Setup, region: u16) -> Place {
    let members = setup.regions[usize::from(region) - 1].members;
    Place::Engine {
        region,
        shard: rng.below(u64::from(setup.shards)) as u16,
        member: rng.below(u64::from(members)) as u8,
    }
}

fn proxy(rng: &mut Rng, setup: &Setup, region: u16) -> Place {
    let proxies = setup.regions[usize::from(region) - 1].proxies;
    Place::Proxy { region, proxy: rng.below(u64::from(proxies)) as u8 }
}

fn any(rng: &mut Rng, setup: &Setup, region: u16) -> Place {
    match rng.below(4) {
        0 => proxy(rng, setup, region),
        1 => Place::Broker { region },
        _ => engine(rng, setup, region),
    }
}

/// Two places of a region that talk to each other, or a proxy and another region's broker.
fn link(rng: &mut Rng, setup: &Setup, region: u16, other: u16) -> (Place, Place) {
    match rng.below(5) {
        0 => (proxy(rng, setup, region), engine(rng, setup, region)),
        1 => (proxy(rng, setup, region), Place::Broker { region }),
        2 => (proxy(rng, setup, region), Place::Broker { region: other }),
        3 => (Place::Controller { region }, engine(rng, setup, region)),
        _ => (engine(rng, setup, region), engine(rng, setup, region)),
    }
}

/// How long a fault lasts: mostly short, sometimes longer than every patience.
fn lasting(rng: &mut Rng) -> Time {
    match rng.below(4) {
        0 => rng.range(1, 50) * MS,
        1 | 2 => rng.range(50, 2500) * MS,
        _ => rng.range(2, 12) * SEC,
    }
}

fn draw_kind(rng: &mut Rng, setup: &Setup) -> Kind {
    let regions = setup.regions.len() as u64;
    let region = rng.below(regions) as u16 + 1;
    let other = other_than(rng, regions, region);
    let shard = rng.below(u64::from(setup.shards)) as u16;
    let time = lasting(rng);
    let down = lasting(rng).min(6 * SEC);
    let (from, to) = link(rng, setup, region, other);
    let (from, to) = if rng.chance(500) { (from, to) } else { (to, from) };
    match rng.below(100) {
        0..8 => Kind::Kill { place: engine(rng, setup, region), down },
        8..12 => Kind::HostLoss { place: engine(rng, setup, region), down },
        12..22 => Kind::PowerLoss { place: engine(rng, setup, region), down },
        22..25 => Kind::ShardPowerLoss { region, shard, down },
        25..33 => Kind::Kill { place: proxy(rng, setup, region), down },
        33..38 => Kind::Kill { place: Place::Broker { region }, down },
        38..40 => Kind::Kill { place: Place::Controller { region }, down },
        40..46 => Kind::Pause { place: any(rng, setup, region), time },
        46..54 => Kind::CutRegions { from: region, to: other, both: rng.chance(600), time },
        54..64 => Kind::CutPlaces { from, to, both: rng.chance(500), time },
        64..68 => Kind::Loss { from, to, per_mille: rng.range(20, 300), time },
        68..72 => Kind::Slow { from, to, extra: rng.range(1, 800) * MS, time },
        72..77 => {
            let ms = *rng.pick(&[300, 900, 3000, 9000, 40_000]);
            let ms = rng.range(1, ms) as i64;
            Kind::ClockJump {
                place: engine(rng, setup, region),
                by_ms: if rng.chance(500) { ms } else { -ms },
            }
        }
        77..80 => {
            let ppm = rng.range(0, 100_000) as i64 - 50_000;
            Kind::ClockDrift { place: engine(rng, setup, region), ppm }
        }
        80..85 => {
            let Place::Engine { region, shard, member } = engine(rng, setup, region) else { unreachable!() };
            Kind::ReplicaLag { region, shard, member, lag: rng.range(1, 2000) * MS, time }
        }
        85..88 => Kind::StaleController { region, time: time.min(5 * SEC) },
        88..90 => Kind::Fence { region, shard },
        90 => Kind::Handover { region, shard, to: None },
        91..93 => Kind::Nacks { region, time },
        93..95 => Kind::Block { region, time },
        95..97 => Kind::Rewrite { place: engine(rng, setup, region) },
        _ if !setup.situation.is_lossy() => Kind::Kill { place: engine(rng, setup, region), down },
        97 | 98 => Kind::Truncate { region, shard, keep: rng.below(3) as usize },
        _ => Kind::LoseStream { region, shard },
    }
}

/// Draws the faults of a run.
pub(crate) fn draw(rng: &mut Rng, setup: &Setup) -> Vec<Fault> {
    let count = match (setup.situation.about, rng.below(10)) {
        (About::Nothing | About::Losses, 0) => 0,
        (About::Nothing | About::Losses, 1..4) => rng.range(1, 4),
        (About::Nothing | About::Losses, 4..8) => rng.range(4, 15),
        (About::Nothing | About::Losses, _) => rng.range(15, 40),
        // What belongs to a situation comes together mostly when little else happens.
        (_, 0..7) => 0,
        _ => rng.range(1, 4),
    };
    let mut faults: Vec<Fault> =
        (0..count).map(|_| Fault::new(rng.below(setup.duration), draw_kind(rng, setup))).collect();
    faults.extend(setup.situation.faults(rng, setup));
    // Servers whose clocks differ, within the tolerated skew, from the start.
    for region in 1..=setup.regions.len() as u16 {
        for shard in 0..setup.shards {
            for member in 0..setup.regions[usize::from(region) - 1].members {
                if rng.chance(500) {
                    let by_ms = rng.range(0, 400) as i64 - 200;
                    let place = Place::Engine { region, shard, member };
                    faults.push(Fault::new(0, Kind::ClockJump { place, by_ms }));
                }
            }
        }
    }
    faults.sort_by_key(|f| f.at);
    faults
}
